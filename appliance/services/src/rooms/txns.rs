//! Transaction IDs ([spec]): a request that is repeated because its answer was lost does nothing and
//! gets the same answer.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers

use appliance_ledger::keyspaces::TXNS;
use appliance_ledger::rows::TxnRow;
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::ruma::{EventId, OwnedEventId, TransactionId};
use appliance_model::{Caller, DeviceNid, Error};
use appliance_rules::Permit;

use super::Rooms;

/// Clients repeat within seconds, or when the phone has a network again. Kept is the day of the use and
/// the day after: that covers a shift.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Forgotten in one commit; more would hold up those who write.
const FORGOTTEN_AT_ONCE_MAX: usize = 1_000;

/// "The scope of a transaction ID is for a single device, and a single HTTP endpoint": the device
/// and the path.
#[derive(Clone, Debug)]
pub struct Txn {
    device: DeviceNid,
    digest: Digest,
    id: String,
}

impl Txn {
    /// What is kept with the event, for `unsigned`.
    pub(super) fn of_event(&self) -> (DeviceNid, String) {
        (self.device, self.id.clone())
    }
}

impl Rooms {
    pub(super) fn txn(&self, caller: &Caller, path: &[&[u8]], id: &TransactionId) -> Txn {
        let parts = [path, &[id.as_bytes()]].concat();
        let digest = self.house.ledger.digest(&parts);
        Txn { device: caller.device, digest, id: id.to_string() }
    }

    /// What this transaction answered before.
    pub(super) async fn answered(&self, txn: &Txn) -> Result<Option<OwnedEventId>, Error> {
        let today = self.today();
        // Tomorrow's too: the clock may have been set back since.
        for day in [today, today.saturating_sub(1), today + 1] {
            let row = self.house.ledger.get(&TXNS, &(day, txn.device, txn.digest)).await?;
            if let Some(row) = row {
                return Ok(Some(EventId::parse(row.event_id).map_err(Error::internal)?));
            }
        }
        Ok(None)
    }

    /// Remembers the answer, in the commit that makes it true.
    pub(super) fn remember(&self, txn: &Txn, event_id: &EventId, commit: &mut Commit) {
        let row = TxnRow { event_id: event_id.to_string() };
        commit.put(&TXNS, &(self.today(), txn.device, txn.digest), &row);
    }

    /// Days since the Unix epoch.
    fn today(&self) -> u64 {
        self.house.clock.now_ms() / DAY_MS
    }

    /// Forgets the transaction IDs of the day before yesterday; a reconciler, to be called now and
    /// then. Returns how many it forgot.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn forget_old_txns(&self) -> Result<usize, Error> {
        let ledger = &self.house.ledger;
        let yesterday = self.today().saturating_sub(1);
        let mut forgotten = 0;
        loop {
            let span = (&0_u64, &yesterday);
            let (rows, more) = ledger
                .newest()
                .scan_between(&TXNS, span, Direction::Forward, FORGOTTEN_AT_ONCE_MAX)
                .await?;
            if rows.is_empty() {
                return Ok(forgotten);
            }
            forgotten += rows.len();
            let mut commit = ledger.begin(Permit::housekeeping());
            for (key, _) in rows {
                commit.delete(&TXNS, &key);
            }
            ledger.commit(commit).await?;
            if !more {
                return Ok(forgotten);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Clock as _;

    use super::*;
    use crate::scenario::{Ward, text};

    #[tokio::test]
    async fn after_a_day_an_id_may_be_used_again() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let rooms = &ward.services.rooms;
        let room = ward.room(&nurse).await;
        ward.clock.pass_ms(DAY_MS - ward.clock.now_ms() % DAY_MS);
        let first = rooms.send_event(&nurse, &text(&room, "txn", "one")).await.unwrap();
        ward.clock.pass_ms(DAY_MS);
        rooms.send_event(&nurse, &text(&room, "later", "two")).await.unwrap();
        let again = rooms.send_event(&nurse, &text(&room, "txn", "one")).await.unwrap();
        assert_eq!(first, again, "a night shift");
        assert_eq!(rooms.forget_old_txns().await.unwrap(), 0, "yesterday's are kept");
        ward.clock.pass_ms(DAY_MS);
        assert_eq!(rooms.forget_old_txns().await.unwrap(), 1);
        assert_eq!(rooms.forget_old_txns().await.unwrap(), 0);
        let again = rooms.send_event(&nurse, &text(&room, "txn", "one")).await.unwrap();
        assert_ne!(first, again);
        let kept = rooms.send_event(&nurse, &text(&room, "later", "two")).await.unwrap();
        assert_eq!(rooms.send_event(&nurse, &text(&room, "later", "two")).await.unwrap(), kept);
    }
}
