//! What administrators do through the endpoints that Synapse's tools know.
//!
//! Every call passes [`Administration::admit`] first: only administrators come in, and each call is in
//! the audit trail before anything is done or shown.

mod accounts;
mod closing;
mod expel;
mod islands;
mod notices;
mod parting;
mod rooms;
mod tasks;

use std::sync::Arc;

use appliance_model::{Caller, Error};
use appliance_rules::administration::{may_administer, may_take_over};

pub use accounts::{AccountChange, AccountView};
pub use closing::Closing;
pub use expel::Expelled;
pub use notices::Notice;
pub use parting::{Parted, Parting};
pub use rooms::RoomView;
pub use tasks::{Task, TaskState};

use crate::accounts::Accounts;
use crate::house::House;
use crate::keys::Keys;
use crate::peers::Peers;
use crate::personal::Personal;
use crate::rooms::Rooms;
use crate::stir::Moves;

/// The administrators' desk.
pub struct Administration {
    house: Arc<House>,
    accounts: Arc<Accounts>,
    rooms: Arc<Rooms>,
    personal: Arc<Personal>,
    keys: Arc<Keys>,
    peers: Arc<Peers>,
    orders: tasks::Orders,
    moves: Arc<Moves>,
    outages: islands::Told,
}

impl Administration {
    pub(crate) fn new(
        house: Arc<House>,
        accounts: Arc<Accounts>,
        rooms: Arc<Rooms>,
        personal: Arc<Personal>,
        keys: Arc<Keys>,
        peers: Arc<Peers>,
        moves: Arc<Moves>,
    ) -> Self {
        let (orders, outages) = (tasks::Orders::default(), islands::Told::default());
        Self { house, accounts, rooms, personal, keys, peers, orders, moves, outages }
    }

    /// Lets an administrator in and writes down what for.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] for everybody else; that is written down, too.
    pub async fn admit(&self, by: &Caller, verb: &'static str, object: &str) -> Result<(), Error> {
        match may_administer(by, verb, object) {
            Ok(permit) => self.house.ledger.commit(self.house.ledger.begin(permit)).await.map(drop),
            Err(denial) => Err(self.house.ledger.refuse(denial).await),
        }
    }

    /// Lets an administrator in who takes what is another's, and says why.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] without a reason.
    pub async fn admit_to_take_over(
        &self,
        by: &Caller,
        (verb, object): (&'static str, &str),
        reason: Option<&str>,
    ) -> Result<(), Error> {
        match may_take_over(by, verb, object, reason) {
            Ok(permit) => self.house.ledger.commit(self.house.ledger.begin(permit)).await.map(drop),
            Err(denial) => Err(self.house.ledger.refuse(denial).await),
        }
    }
}
