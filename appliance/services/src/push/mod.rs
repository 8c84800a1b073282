//! Push: telling the gateways that people's devices named what rings ([spec]).
//!
//! * [`pushers`]: where to ring. * [`follow`] walks the log of all events and finds for whom one
//!   rings; nothing of it happens while somebody sends. * [`deliver`] tells the gateways, each in
//!   its own time. * [`notifications`]: what rang, as a list. * [`farewell`]: the last ring of a session
//!   that was ended.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#push-notifications

mod deliver;
mod farewell;
mod follow;
mod notifications;
mod notify;
mod pushers;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use appliance_ledger::Digest;
use appliance_model::{RoomNid, UserNid};
pub(crate) use farewell::owe_farewell;
pub use notifications::NotificationsPage;
pub(crate) use pushers::forget_of_device;
pub use pushers::{NewPusher, Pusher};
use quick_cache::sync::Cache;

use crate::doors::Doors;
use crate::house::House;
use crate::personal::Personal;
use crate::reading::Reading;
use crate::rooms::Rooms;
use crate::stir::Stir;

/// Rooms whose members are kept in memory while people talk there; 8 bytes for each member.
const MEMBERS_CACHED_MAX: usize = 200;

/// The pushers of the house.
pub struct Push {
    house: Arc<House>,
    rooms: Arc<Rooms>,
    reading: Arc<Reading>,
    personal: Arc<Personal>,
    stir: Arc<Stir>,
    doors: Doors,
    /// Those who have a pusher, or had one since the start.
    owners: Mutex<HashSet<UserNid>>,
    members: Cache<RoomNid, Arc<Vec<UserNid>>>,
    badges: Mutex<HashMap<UserNid, HashMap<RoomNid, u64>>>,
    queues: Mutex<deliver::Queues>,
    farewell: farewell::Farewell,
}

/// A pusher, by owner and digest of app and key.
type PusherKey = (UserNid, Digest);

/// Whom push asks.
pub(crate) struct Parts {
    pub rooms: Arc<Rooms>,
    pub reading: Arc<Reading>,
    pub personal: Arc<Personal>,
    pub stir: Arc<Stir>,
}

impl Push {
    pub(crate) fn new(house: Arc<House>, parts: Parts) -> Self {
        let Parts { rooms, reading, personal, stir } = parts;
        Self {
            house,
            rooms,
            reading,
            personal,
            stir,
            doors: Doors::default(),
            owners: Mutex::default(),
            members: Cache::new(MEMBERS_CACHED_MAX),
            badges: Mutex::default(),
            queues: Mutex::default(),
            farewell: farewell::Farewell::default(),
        }
    }
}
