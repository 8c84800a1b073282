//! How much of what other servers send is in memory at once.
//!
//! Before a request has been read to its end nobody knows whether it is from the server whose name it bears.
//! So what is read is counted by name and by address: whoever borrows a peer's name takes none of the peer's
//! room, and all together take no more than the machine can spare.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_model::{Error, Kind};

use super::Peers;

/// Of one name at one address: two of the largest transactions. A server sends one at a time.
const OF_ONE_BYTES_MAX: usize = 24 * 1024 * 1024;

/// Of all together: ten of the largest transactions. Most are a thousand times smaller.
const OF_ALL_BYTES_MAX: usize = 128 * 1024 * 1024;

/// After this, in milliseconds, the other server may try again; it does so by itself.
const AGAIN_MS: u64 = 1_000;

type Sender = (OwnedServerName, Option<IpAddr>);

/// What is in memory now.
#[derive(Default)]
pub(super) struct Loads(Mutex<Held>);

#[derive(Default)]
struct Held {
    all: usize,
    of: HashMap<Sender, usize>,
}

/// The bytes of one request, counted until this is dropped.
pub struct Load {
    loads: Arc<Loads>,
    sender: Sender,
    bytes: usize,
}

impl Load {
    /// Counts more of them.
    ///
    /// # Errors
    ///
    /// [`Kind::Limited`] if there is no room for them now.
    pub fn add(&mut self, bytes: usize) -> Result<(), Error> {
        let mut held = self.loads.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_sender = held.of.get(&self.sender).copied().unwrap_or_default() + bytes;
        if of_sender > OF_ONE_BYTES_MAX || held.all + bytes > OF_ALL_BYTES_MAX {
            let full = "This server is still busy with what was sent before. Wait a little.";
            return Err(Error::new(Kind::Limited { retry_after_ms: AGAIN_MS }, full));
        }
        held.all += bytes;
        held.of.insert(self.sender.clone(), of_sender);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut held = self.loads.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.all = held.all.saturating_sub(self.bytes);
        if let Some(of_sender) = held.of.get_mut(&self.sender) {
            *of_sender = of_sender.saturating_sub(self.bytes);
            if *of_sender == 0 {
                held.of.remove(&self.sender);
            }
        }
    }
}

impl Peers {
    /// Nothing yet, of a request that bears this name and comes from this address.
    pub fn weigh(&self, server: &ServerName, address: Option<IpAddr>) -> Load {
        Load { loads: self.loads.clone(), sender: (server.to_owned(), address), bytes: 0 }
    }

    /// There was no room for a request: said once for each name, whoever bears it.
    pub fn overloaded(&self, server: &ServerName) {
        let kind = "peers.overload";
        if let Some(times) = self.alarms.count(kind, server.as_str(), self.house.clock.now_ms()) {
            tracing::warn!(kind, %server, times,
                "more comes in the name of a server than this one takes at once");
        }
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::server_name;

    use super::*;
    use crate::scenario::Ward;

    const PIECE: usize = 1024 * 1024;

    /// Takes as much as it is given.
    fn greedy(peers: &Peers, name: &str, address: u8) -> Load {
        let name = ServerName::parse(name).unwrap();
        let mut load = peers.weigh(&name, Some(IpAddr::from([192, 0, 2, address])));
        while load.add(PIECE).is_ok() {}
        load
    }

    #[tokio::test]
    async fn whoever_borrows_a_name_takes_no_room_of_its_owner() {
        let ward = Ward::new().await;
        let peers = &ward.services.peers;
        let thief = greedy(peers, "b.example", 66);
        assert_eq!(thief.bytes, OF_ONE_BYTES_MAX);
        let more = greedy(peers, "b.example", 66);
        assert_eq!(more.bytes, 0, "one name at one address, however many requests");
        let owner = greedy(peers, "b.example", 1);
        assert_eq!(owner.bytes, OF_ONE_BYTES_MAX);
        drop((thief, more));
        assert_eq!(greedy(peers, "b.example", 66).bytes, OF_ONE_BYTES_MAX, "room again");
    }

    #[tokio::test]
    async fn all_together_take_no_more_than_there_is() {
        let ward = Ward::new().await;
        let peers = &ward.services.peers;
        let all: Vec<_> = (0..200).map(|number| greedy(peers, "b.example", number)).collect();
        assert_eq!(all.iter().map(|load| load.bytes).sum::<usize>(), OF_ALL_BYTES_MAX);
        let refused = peers.weigh(server_name!("c.example"), None).add(1).unwrap_err();
        assert!(matches!(refused.kind, Kind::Limited { .. }));
        drop(all);
        assert!(peers.weigh(server_name!("c.example"), None).add(1).is_ok());
        assert!(peers.loads.0.lock().unwrap().of.is_empty(), "nothing is remembered of them");
    }
}
