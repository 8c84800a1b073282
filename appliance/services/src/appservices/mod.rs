//! Application services ([spec]): programs that speak as many users and are told of what concerns
//! them.
//!
//! * [`registration`]: what a registration says; [`registry`]: who is registered now.
//! * Who shows an `as_token` is let in by [`crate::accounts`].
//! * [`deliver`] tells each in transactions what [`transaction`] finds in the log of all events that
//!   concerns it ([`interest`]).
//! * [`ask`]: questions to a service.
//!
//! [spec]: https://spec.matrix.org/v1.19/application-service-api/

pub(crate) mod ask;
mod deliver;
mod directory;
mod interest;
mod manage;
mod registration;
mod registry;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use appliance_model::{Position, RoomNid};
pub use manage::AppserviceSummary;
use quick_cache::sync::Cache;
pub use registration::Registration;
pub(crate) use registry::exclusive;
pub use registry::{Registered, Registry, Source};
use tokio::sync::Notify;

use crate::accounts::Accounts;
use crate::house::House;
use crate::keys::Keys;
use crate::limits::Limits;
use crate::reading::Reading;
use crate::rooms::Rooms;
use crate::stir::{Stir, Stirred};

/// Rooms of which it is known whether they concern a service; about 60 bytes each.
const INTERESTS_MAX: usize = 20_000;

/// The application services of the house.
pub struct Appservices {
    house: Arc<House>,
    limits: Arc<Limits>,
    accounts: Arc<Accounts>,
    rooms: Arc<Rooms>,
    reading: Arc<Reading>,
    keys: Arc<Keys>,
    stir: Arc<Stir>,
    told: Mutex<HashMap<String, Told>>,
    interests: Cache<(String, RoomNid), bool>,
}

/// Whom the application services ask.
pub(crate) struct Parts {
    pub limits: Arc<Limits>,
    pub accounts: Arc<Accounts>,
    pub rooms: Arc<Rooms>,
    pub reading: Arc<Reading>,
    pub keys: Arc<Keys>,
    pub stir: Arc<Stir>,
}

/// How far a service was told, as far as it is not written down.
#[derive(Default)]
struct Told {
    /// It was looked after since the start.
    begun: bool,
    /// The log was looked at up to here.
    position: Position,
    /// Receipts and device lists were told up to here.
    lists: Position,
    /// Everything was looked at up to here.
    seen: Position,
    /// Typing and presence notices were told up to here.
    serial: u64,
    /// What stirred and was not told yet.
    stirred: Stirred,
    /// What stirred is known up to here: later receipts are not looked for yet.
    known: Position,
    /// Rung when the service says that it is there.
    rung: Arc<Notify>,
}

impl Appservices {
    pub(crate) fn new(house: Arc<House>, parts: Parts) -> Self {
        let Parts { limits, accounts, rooms, reading, keys, stir } = parts;
        Self {
            house,
            limits,
            accounts,
            rooms,
            reading,
            keys,
            stir,
            told: Mutex::default(),
            interests: Cache::new(INTERESTS_MAX),
        }
    }
}

/// The name of a network of an application service, as clients see it.
fn instance_id(service: &str, network: &str) -> String {
    format!("{service}|{network}")
}
