//! What is new for whom, and waiting for it.
use crate::house::House;
pub mod token;

use std::sync::Arc;
/// Those who wait.
#[derive(Default)]
pub struct Waiters;
impl appliance_ledger::Observer for Waiters {
    fn committed(&self, _: &appliance_ledger::Touched, _: appliance_model::Position) {}
}
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
