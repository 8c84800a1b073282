//! What is new for whom, and waiting for it.

pub mod token;
mod wait;

use std::sync::Arc;

pub use token::Token;
pub use wait::{News, Subscription, Waiters};

use crate::house::House;

/// Sync.
pub struct Sync {
    pub(crate) house: Arc<House>,
    pub(crate) waiters: Arc<Waiters>,
}

impl Sync {
    pub(crate) fn new(house: Arc<House>, waiters: Arc<Waiters>) -> Self {
        Self { house, waiters }
    }
}
