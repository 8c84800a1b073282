//! Where connections went, and where they were not let: `wardstone egress list`.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::DESTINATIONS;
use appliance_ledger::rows::peers::DestinationRow;
use appliance_model::Error;
use appliance_rules::Permit;

use super::Peers;
use crate::egress::Destination;

/// Kept in the store. Refusals can be provoked from outside, so the list has an end: those seen longest
/// ago go.
const DESTINATIONS_MAX: usize = 10_000;

impl Peers {
    /// Writes down where connections went since the last call. A job calls this.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn note_destinations(&self) -> Result<(), Error> {
        let seen = self.house.egress.take_seen();
        if seen.is_empty() {
            return Ok(());
        }
        let ledger = &self.house.ledger;
        let mut commit = ledger.begin(Permit::housekeeping());
        for new in seen {
            let digest = ledger.digest(&[b"egress", new.purpose.as_bytes(), new.host.as_bytes()]);
            let old = ledger.get(&DESTINATIONS, &digest).await?.unwrap_or_default();
            commit.put(&DESTINATIONS, &digest, &together(old, new));
        }
        let view = ledger.newest();
        let (mut rows, _) =
            view.scan(&DESTINATIONS, &(), Direction::Forward, 2 * DESTINATIONS_MAX).await?;
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.last_ms));
        for (digest, _) in rows.iter().skip(DESTINATIONS_MAX) {
            commit.delete(&DESTINATIONS, digest);
        }
        ledger.commit(commit).await.map(drop)
    }

    /// Every destination that was ever contacted or refused, the newest first.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn destinations(&self) -> Result<Vec<DestinationRow>, Error> {
        self.note_destinations().await?;
        let view = self.house.ledger.newest();
        let (rows, _) =
            view.scan(&DESTINATIONS, &(), Direction::Forward, 2 * DESTINATIONS_MAX).await?;
        let mut rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.last_ms));
        Ok(rows)
    }
}

fn together(old: DestinationRow, new: Destination) -> DestinationRow {
    let is_first = old.host.is_empty();
    DestinationRow {
        purpose: new.purpose,
        host: new.host,
        address: new.address.or(old.address),
        connected: old.connected.saturating_add(new.connected),
        refused: old.refused.saturating_add(new.refused),
        why_refused: new.why_refused.or(old.why_refused),
        first_ms: if is_first { new.first_ms } else { old.first_ms },
        last_ms: new.last_ms.max(old.last_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_before_is_not_forgotten() {
        let seen = |connected, refused, at_ms| Destination {
            purpose: "peer b.example".to_owned(),
            host: "b.example:8448".to_owned(),
            address: (connected > 0).then(|| "192.0.2.7:8448".to_owned()),
            connected,
            refused,
            why_refused: (refused > 0).then(|| "not on the list".to_owned()),
            first_ms: at_ms,
            last_ms: at_ms,
        };
        let first = together(DestinationRow::default(), seen(2, 0, 10));
        let both = together(first, seen(0, 3, 20));
        assert_eq!((both.connected, both.refused, both.first_ms, both.last_ms), (2, 3, 10, 20));
        assert_eq!(both.address.as_deref(), Some("192.0.2.7:8448"));
        assert_eq!(both.why_refused.as_deref(), Some("not on the list"));
    }
}
