//! The other servers that this one talks with: the hospitals on the list, and nobody else.

mod attempts;
mod authenticate;
mod canonical;
mod certificate;
mod change;
mod check;
mod company;
mod destinations;
mod drain;
mod handshake;
mod keys;
mod list;
mod load;
mod notary;
mod outbox;
mod own_keys;
mod promise;
mod records;
mod remote;
mod roll;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use appliance_model::ruma::{OwnedServerName, ServerName};

pub(crate) use attempts::{Attempts, DAY_MS, wait_ms};
pub use authenticate::Claim;
#[cfg(test)]
pub(crate) use canonical::canonical as canonical_json;
pub(crate) use canonical::canonical;
pub use certificate::{ClientPins, PeerCertificate, ShownCertificate};
pub use change::{MediaMode, PeerChange, day, spell_pin};
pub use check::{Finding, PeerCheck};
pub use handshake::{Accepted, Offer, Terms};
pub use keys::base64;
pub use list::{ListAlgorithm, ListReport, ListSource, ListTerms};
pub use load::Load;
pub use outbox::{Outbox, QueueState};
pub use promise::{ERASED_WITHIN_MS, PATH as PROMISE_PATH, Promise};
pub use records::{BACKLOG_COUNTED_MAX, Described, PeerReport};
pub use remote::{ASK, JOIN, Located, NoRemote, Remote, RemoteError};
pub use roll::{Pins, Roll, Standing, Uncounted};

use crate::alarms::Alarms;
use crate::doors::Doors;
use crate::house::House;

/// Servers that were asked for keys a moment ago; 24 bytes each.
const ASKED_MAX: usize = 4_096;

/// What there is to do with other servers.
pub struct Peers {
    house: Arc<House>,
    doors: Doors,
    /// One transaction at a time to each server.
    turns: Doors,
    asked: keys::Asked,
    promises: promise::Promises,
    /// One at a time asks a server what it promises.
    promising: Doors,
    alarms: Alarms,
    loads: Arc<load::Loads>,
    dated: Mutex<BTreeMap<OwnedServerName, Standing>>,
    look: Mutex<list::Look>,
}

impl Peers {
    /// Of a house.
    pub fn new(house: Arc<House>) -> Self {
        house.roll.keep_time(&house.clock);
        Self {
            house,
            doors: Doors::default(),
            turns: Doors::default(),
            asked: keys::Asked::new(ASKED_MAX),
            promises: promise::Promises::new(promise::PROMISES_MAX),
            promising: Doors::default(),
            alarms: Alarms::default(),
            loads: Arc::default(),
            dated: Mutex::default(),
            look: Mutex::default(),
        }
    }

    /// The house that it is done for.
    pub(crate) fn house(&self) -> &House {
        &self.house
    }

    /// A request of this server was authentic: it is up.
    fn heard_from(&self, server: &ServerName) {
        self.house.remote.look_again(server);
        self.house.outbox.heard_from(server);
    }
}
