//! What is new for whom, and waiting for it.

#[cfg(test)]
mod agreement;
mod devices;
mod events;
mod initial;
mod key_changes;
mod look;
mod poll;
mod room;
mod sent_members;
pub mod sliding;
#[cfg(test)]
pub(crate) mod tests;
pub mod token;
mod v3;
mod wait;
#[cfg(test)]
mod wake_ups;
pub(crate) mod write;

use std::sync::Arc;

pub use events::EventsRequest;
pub use initial::InitialRequest;
pub use token::{Token, known_upto};
pub use v3::SyncRequest;
pub use wait::{News, Subscription, Waiters};
pub use write::{StateForm, Unread};

use self::sent_members::SentMembers;
use crate::accounts::Accounts;
use crate::house::House;
use crate::keys::Keys;
use crate::personal::Personal;
use crate::reading::Reading;
use crate::rooms::Rooms;

/// What is new, for whom.
pub struct Sync {
    house: Arc<House>,
    waiters: Arc<Waiters>,
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    personal: Arc<Personal>,
    reading: Arc<Reading>,
    keys: Arc<Keys>,
    sent_members: SentMembers,
    connections: sliding::Connections,
    facts: sliding::KnownFacts,
    list_memory: sliding::ListMemory,
    plain_states: sliding::PlainStates,
}

/// Those whom sync asks.
pub(crate) struct Parts {
    pub waiters: Arc<Waiters>,
    pub rooms: Arc<Rooms>,
    pub accounts: Arc<Accounts>,
    pub personal: Arc<Personal>,
    pub reading: Arc<Reading>,
    pub keys: Arc<Keys>,
}

impl Sync {
    pub(crate) fn new(house: Arc<House>, parts: Parts) -> Self {
        let Parts { waiters, rooms, accounts, personal, reading, keys } = parts;
        Self {
            house,
            waiters,
            rooms,
            accounts,
            personal,
            reading,
            keys,
            sent_members: SentMembers::default(),
            connections: sliding::Connections::default(),
            facts: sliding::KnownFacts::default(),
            list_memory: sliding::ListMemory::default(),
            plain_states: sliding::PlainStates::default(),
        }
    }
}
