//! What people set for themselves: account data, filters, push rules, name and picture.

mod account_data;
mod filters;
mod moved;
mod previews;
mod profile;
mod profile_fields;
mod push_rules;
mod thread_subscriptions;

use std::sync::Arc;

pub use account_data::AccountDatum;
pub(crate) use previews::begin_without_previews;
pub use profile::ProfileChange;
pub use thread_subscriptions::{Cause, SubscriptionPage};

pub use push_rules::{Place, find as find_push_rule};

use crate::accounts::Accounts;
use crate::doors::Doors;
use crate::house::House;
use crate::rooms::Rooms;

/// What is someone's own.
pub struct Personal {
    house: Arc<House>,
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    doors: Doors,
    filters: filters::KnownFilters,
    rules: push_rules::KnownRules,
}

impl Personal {
    pub(crate) fn new(house: Arc<House>, rooms: Arc<Rooms>, accounts: Arc<Accounts>) -> Self {
        Self {
            house,
            rooms,
            accounts,
            doors: Doors::default(),
            filters: filters::KnownFilters::new(),
            rules: push_rules::KnownRules::new(),
        }
    }
}
