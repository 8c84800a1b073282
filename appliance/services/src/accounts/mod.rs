//! Accounts, sessions and devices.

mod administer;
mod authenticate;
mod password;
mod register;
mod session;

use std::sync::Arc;

pub use administer::AccountSummary;
pub use register::NewAccount;
pub use session::{NewSession, Session};

use crate::doors::Doors;
use crate::house::House;

/// The accounts of the house.
pub struct Accounts {
    pub(crate) house: Arc<House>,
    pub(crate) doors: Doors,
    hashing: Arc<tokio::sync::Semaphore>,
    callers: quick_cache::sync::Cache<appliance_ledger::Digest, appliance_model::Caller>,
}

/// Hashing a password takes 19 MiB and a core for tens of milliseconds: more at once would let
/// strangers fill the memory.
const HASHES_AT_ONCE_MAX: usize = 2;
/// Signed-in devices kept in memory, about 200 bytes each.
const CALLERS_CACHED_MAX: usize = 8_000;

impl Accounts {
    pub(crate) fn new(house: Arc<House>) -> Self {
        Self {
            house,
            doors: Doors::default(),
            hashing: Arc::new(tokio::sync::Semaphore::new(HASHES_AT_ONCE_MAX)),
            callers: quick_cache::sync::Cache::new(CALLERS_CACHED_MAX),
        }
    }
}
