//! Transaction IDs ([spec]): a request that is repeated because its answer was lost does nothing and
//! gets the same answer.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#transaction-identifiers

use appliance_ledger::keyspaces::{TXN_TIMES, TXNS};
use appliance_ledger::rows::TxnRow;
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::ruma::{EventId, OwnedEventId, TransactionId};
use appliance_model::{Caller, DeviceNid, Error};
use appliance_rules::Permit;

use super::Rooms;

/// Clients repeat within seconds, or when the phone has a network again. A day covers a shift.
const KEPT_MS: u64 = 24 * 60 * 60 * 1_000;
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
        let row = self.house.ledger.get(&TXNS, &(txn.device, txn.digest)).await?;
        row.map(|row| EventId::parse(row.event_id).map_err(Error::internal)).transpose()
    }

    /// Remembers the answer, in the commit that makes it true.
    pub(super) fn remember(&self, txn: &Txn, event_id: &EventId, commit: &mut Commit) {
        let at_ms = self.house.clock.now_ms();
        let row = TxnRow { event_id: event_id.to_string(), at_ms };
        commit.put(&TXNS, &(txn.device, txn.digest), &row);
        commit.put(&TXN_TIMES, &(at_ms, txn.device, txn.digest), &());
    }

    /// Forgets the transaction IDs of more than a day ago; a reconciler, to be called now and then.
    /// Returns how many it forgot.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn forget_old_txns(&self) -> Result<usize, Error> {
        let ledger = &self.house.ledger;
        let before_ms = self.house.clock.now_ms().saturating_sub(KEPT_MS);
        let mut forgotten = 0;
        loop {
            let span = (&0_u64, &before_ms);
            let (rows, more) = ledger
                .newest()
                .scan_between(&TXN_TIMES, span, Direction::Forward, FORGOTTEN_AT_ONCE_MAX)
                .await?;
            if rows.is_empty() {
                return Ok(forgotten);
            }
            forgotten += rows.len();
            let mut commit = ledger.begin(Permit::housekeeping());
            for (key, ()) in rows {
                commit.delete(&TXN_TIMES, &key);
                commit.delete(&TXNS, &(key.1, key.2));
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
    use super::*;
    use crate::scenario::{Ward, text};

    #[tokio::test]
    async fn after_a_day_an_id_may_be_used_again() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let rooms = &ward.services.rooms;
        let room = ward.room(&nurse).await;
        let first = rooms.send_event(&nurse, &text(&room, "txn", "one")).await.unwrap();
        ward.clock.pass_ms(KEPT_MS / 2);
        rooms.send_event(&nurse, &text(&room, "later", "two")).await.unwrap();
        assert_eq!(rooms.forget_old_txns().await.unwrap(), 0, "half a day is not a day");
        ward.clock.pass_ms(KEPT_MS / 2 + 1);
        assert_eq!(rooms.forget_old_txns().await.unwrap(), 1);
        assert_eq!(rooms.forget_old_txns().await.unwrap(), 0);
        let again = rooms.send_event(&nurse, &text(&room, "txn", "one")).await.unwrap();
        assert_ne!(first, again);
        let kept = rooms.send_event(&nurse, &text(&room, "later", "two")).await.unwrap();
        assert_eq!(rooms.send_event(&nurse, &text(&room, "later", "two")).await.unwrap(), kept);
    }
}
