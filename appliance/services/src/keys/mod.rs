//! End-to-end encryption: the public keys of people and devices, the messages between devices, and
//! the encrypted backups of room keys. The server passes them on and can read none of what they
//! protect.
//!
//! Three locks keep order, always taken from left to right: *staying* (no device is removed while
//! something is written for it), the door of a user, the doors of devices in the order of their
//! numbers. Each travels inside the commit, so that a caller who hangs up opens nothing early.

pub mod backup;
mod claim;
mod device_lists;
mod forget;
mod part;
mod peers;
mod query;
mod receive;
#[cfg(test)]
pub(crate) mod scene;
mod send_to_device;
mod signatures;
mod signed;
mod signing_keys;
mod stock;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use appliance_ledger::keyspaces::DEVICES;
use appliance_model::{Caller, Error, Kind, Position, UserNid};
pub use claim::{ClaimedKeys, Claims};
pub use peers::KeyNews;
pub(crate) use peers::write_out;
pub use query::{QueriedKeys, Queries};
pub use send_to_device::FromAfar;
use serde_json::value::RawValue;
pub use signatures::{Failures, SignedKeys};
pub use signing_keys::NewSigningKeys;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::doors::Doors;
use crate::house::House;

/// JSON that is passed on as it is.
pub type RawJson = Box<RawValue>;

/// The keys and deliveries of the house.
pub struct Keys {
    pub(crate) house: Arc<House>,
    doors: Doors,
    staying: Arc<RwLock<()>>,
    leaving: tokio::sync::Mutex<Weak<OwnedRwLockWriteGuard<()>>>,
    changed: Arc<Mutex<HashMap<UserNid, Position>>>,
}

impl Keys {
    pub(crate) fn new(house: Arc<House>) -> Self {
        Self {
            house,
            doors: Doors::default(),
            staying: Arc::default(),
            leaving: tokio::sync::Mutex::default(),
            changed: Arc::default(),
        }
    }

    /// While this is held, no device is removed: what is written for one that exists is not left
    /// behind when it goes.
    async fn stay(&self) -> OwnedRwLockReadGuard<()> {
        self.staying.clone().read_owned().await
    }

    /// While this is held, nothing is written for any device. Those who remove devices share it, so
    /// that removing several in one commit does not wait for itself.
    async fn leave(&self) -> Arc<OwnedRwLockWriteGuard<()>> {
        let mut leaving = self.leaving.lock().await;
        if let Some(guard) = leaving.upgrade() {
            return guard;
        }
        let guard = Arc::new(self.staying.clone().write_owned().await);
        *leaving = Arc::downgrade(&guard);
        guard
    }

    /// A device may have been removed since its token was looked at.
    async fn check_still_signed_in(&self, caller: &Caller) -> Result<(), Error> {
        let key = (caller.user, caller.device_id.to_string());
        match self.house.ledger.get(&DEVICES, &key).await? {
            Some(row) if row.device == caller.device.0 => Ok(()),
            _ => Err(Error::new(
                Kind::UnknownToken { soft_logout: false },
                "This device has been signed out.",
            )),
        }
    }
}

/// JSON from the store. It was JSON when it was put there.
fn raw(json: String) -> Result<RawJson, Error> {
    RawValue::from_string(json).map_err(Error::internal)
}
