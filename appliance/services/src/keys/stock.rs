//! What a device has in stock: unclaimed one-time keys and fallback keys.

use std::collections::BTreeMap;

use appliance_ledger::keyspaces::STOCKS;
use appliance_ledger::rows::keys::StockRow;
use appliance_model::{DeviceNid, Error};

use super::Keys;

/// The algorithm all clients use today. Its count is always said, zero included: some clients take
/// a missing count for "unchanged", others for zero.
const SIGNED_CURVE25519: &str = "signed_curve25519";

impl Keys {
    /// How many unclaimed one-time keys of each algorithm a device has, and for which algorithms
    /// it has a fallback key that was not given out yet. One read.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn counts(
        &self,
        device: DeviceNid,
    ) -> Result<(BTreeMap<String, u64>, Vec<String>), Error> {
        let stock = self.house.ledger.get(&STOCKS, &device).await?.unwrap_or_default();
        let unused = stock.fallbacks.iter().filter(|fallback| !fallback.used);
        let unused = unused.map(|fallback| fallback.algorithm.clone()).collect();
        Ok((counts_of(&stock), unused))
    }
}

/// How many one-time keys of each algorithm are in stock.
pub(super) fn counts_of(stock: &StockRow) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::from([(SIGNED_CURVE25519.to_owned(), 0)]);
    counts.extend(stock.algorithms.iter().map(|one| (one.algorithm.clone(), one.count)));
    counts
}
