//! The other servers that this one talks with: the hospitals on the list, and nobody else.

mod authenticate;
mod canonical;
mod company;
mod destinations;
mod drain;
mod keys;
mod notary;
mod outbox;
mod own_keys;
mod records;
mod remote;
mod roll;

use std::sync::Arc;

use appliance_model::ruma::ServerName;

pub use authenticate::Claim;
#[cfg(test)]
pub(crate) use canonical::canonical as canonical_json;
pub(crate) use canonical::canonical;
pub use keys::base64;
pub use outbox::{Outbox, QueueState};
pub use records::{BACKLOG_COUNTED_MAX, PeerChange, PeerCheck, PeerReport};
pub use remote::{ASK, JOIN, NoRemote, Remote, RemoteError};
pub use roll::Roll;

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
}

impl Peers {
    /// Of a house.
    pub fn new(house: Arc<House>) -> Self {
        Self {
            house,
            doors: Doors::default(),
            turns: Doors::default(),
            asked: keys::Asked::new(ASKED_MAX),
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
