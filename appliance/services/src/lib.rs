//! The use cases: one file per thing a person or a server can do.
//!
//! A service reads through the [`Ledger`], asks `rules` for a permit, and commits. It never speaks
//! HTTP and never names an errcode; those are `api`'s. What it needs from outside (time, chance,
//! other servers) comes in through [`House`].

pub mod accounts;
pub mod administration;
mod alarms;
#[cfg(test)]
mod answering;
pub mod appservices;
mod calls;
pub mod client_event;
mod doors;
mod edus;
pub mod egress;
pub mod event_filter;
pub mod federation;
#[cfg(test)]
mod fuzz;
mod house;
pub mod keys;
pub mod limits;
pub mod media;
pub mod peers;
pub mod personal;
pub mod policy;
pub mod push;
pub mod reading;
mod recent;
mod rest;
pub mod rooms;
#[cfg(test)]
mod scenario;
pub mod search;
mod secret;
mod stir;
pub mod sync;

use std::sync::Arc;

pub use appliance_ledger::{Direction, Ledger};
pub use calls::{Turn, TurnCredentials};
pub use doors::Doors;
pub use house::{
    Contact, DirectoryOptions, ForSuites, House, Options, Registration, Support, WhoIsFound,
};
pub use limits::{Limit, Limits, Rate, RateLimits, Whose};
pub use secret::Secret;

/// Everything the outside may ask for.
pub struct Services {
    /// What all share.
    pub house: Arc<House>,
    /// How often things may be done.
    pub limits: Arc<Limits>,
    /// What administrators do.
    pub administration: administration::Administration,
    /// Accounts, sessions, devices.
    pub accounts: Arc<accounts::Accounts>,
    /// End-to-end encryption: keys and messages between devices.
    pub keys: Arc<keys::Keys>,
    /// Application services.
    pub appservices: Arc<appservices::Appservices>,
    /// Rooms.
    pub rooms: Arc<rooms::Rooms>,
    /// What people set for themselves.
    pub personal: Arc<personal::Personal>,
    /// Who has read how far, and who is typing.
    pub reading: Arc<reading::Reading>,
    /// Other servers.
    pub peers: Arc<peers::Peers>,
    /// What was said, found again.
    pub search: search::Search,
    /// What rings where.
    pub push: Arc<push::Push>,
    /// The clinical policy.
    pub policy: policy::PolicyDesk,
    /// Files.
    pub media: media::Media,
    /// What is new for whom.
    pub sync: sync::Sync,
}

impl Services {
    /// Takes out of the store what was said and is over, and the keys in backups that open nothing
    /// else. Returns how many events. To be called every few seconds.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn forget_what_is_over(&self) -> Result<usize, appliance_model::Error> {
        let erased = self.rooms.erase_expired_events().await?;
        self.rooms.forget_unneeded_sessions(&self.keys).await?;
        Ok(erased)
    }

    /// Wires the services to a house.
    pub fn new(house: Arc<House>, waiters: Arc<sync::Waiters>) -> Self {
        waiters.start_at(house.ledger.position());
        let limits = Limits::new(house.options.rate_limits.clone(), house.clock.clone());
        let limits = Arc::new(limits);
        let rooms = Arc::new(rooms::Rooms::new(house.clone(), limits.clone()));
        let keys = Arc::new(keys::Keys::new(house.clone()));
        let accounts = Arc::new(accounts::Accounts::new(
            house.clone(),
            limits.clone(),
            keys.clone(),
            rooms.clone(),
        ));
        let personal =
            Arc::new(personal::Personal::new(house.clone(), rooms.clone(), accounts.clone()));
        let reading = Arc::new(reading::Reading::new(
            house.clone(),
            waiters.clone(),
            rooms.clone(),
            personal.clone(),
        ));
        let stir = Arc::new(stir::Stir::default());
        waiters.also_tell(stir.clone());
        let parts = push::Parts {
            rooms: rooms.clone(),
            reading: reading.clone(),
            personal: personal.clone(),
            stir,
        };
        let push = Arc::new(push::Push::new(house.clone(), parts));
        let stir = Arc::new(stir::Stir::default());
        waiters.also_tell(stir.clone());
        let parts = appservices::Parts {
            limits: limits.clone(),
            accounts: accounts.clone(),
            rooms: rooms.clone(),
            reading: reading.clone(),
            keys: keys.clone(),
            stir,
        };
        let appservices = Arc::new(appservices::Appservices::new(house.clone(), parts));
        let peers = Arc::new(peers::Peers::new(house.clone()));
        rooms.line.connect(peers.clone());
        let moves = Arc::new(stir::Moves::default());
        waiters.also_tell(moves.clone());
        let administration = administration::Administration::new(
            house.clone(),
            accounts.clone(),
            rooms.clone(),
            personal.clone(),
            keys.clone(),
            peers.clone(),
            moves,
        );
        let parts = sync::Parts {
            keys: keys.clone(),
            waiters,
            rooms: rooms.clone(),
            accounts: accounts.clone(),
            personal: personal.clone(),
            reading: reading.clone(),
        };
        Self {
            sync: sync::Sync::new(house.clone(), parts),
            search: search::Search::new(house.clone(), rooms.clone()),
            media: media::Media::new(
                house.clone(),
                rooms.clone(),
                limits.clone(),
                (accounts.clone(), peers.clone()),
            ),
            peers,
            administration,
            policy: policy::PolicyDesk::new(house.clone(), rooms.clone(), accounts.clone()),
            limits,
            appservices,
            push,
            accounts,
            rooms,
            personal,
            reading,
            keys,
            house,
        }
    }
}
