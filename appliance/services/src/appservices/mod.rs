//! Application services ([spec]): programs that speak as many users and are told of what concerns
//! them.
//!
//! * [`registration`]: what a registration says; [`registry`]: who is registered now.
//! * Who shows an `as_token` is let in by [`crate::accounts`].
//!
//! [spec]: https://spec.matrix.org/v1.19/application-service-api/

mod directory;
mod manage;
mod registration;
mod registry;

use std::sync::Arc;

pub use manage::AppserviceSummary;
pub use registration::Registration;
pub(crate) use registry::exclusive;
pub use registry::{Registered, Registry, Source};

use crate::accounts::Accounts;
use crate::house::House;
use crate::limits::Limits;
use crate::rooms::Rooms;

/// The application services of the house.
pub struct Appservices {
    house: Arc<House>,
    limits: Arc<Limits>,
    accounts: Arc<Accounts>,
    rooms: Arc<Rooms>,
}

impl Appservices {
    pub(crate) fn new(
        house: Arc<House>,
        limits: Arc<Limits>,
        accounts: Arc<Accounts>,
        rooms: Arc<Rooms>,
    ) -> Self {
        Self { house, limits, accounts, rooms }
    }
}

/// The name of a network of an application service, as clients see it.
fn instance_id(service: &str, network: &str) -> String {
    format!("{service}|{network}")
}
