//! What waits for a device, until the device has it.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::TO_DEVICE;
use appliance_ledger::rows::keys::ToDeviceRow;
use appliance_model::{DeviceNid, Error, Position};
use appliance_rules::Permit;
use serde::Deserialize;

use super::part::is_key_share;
use super::{Keys, RawJson, raw};

/// Acknowledged messages deleted in one commit.
const PAGE: usize = 1_000;
/// A device that has not been seen for so long has to be verified anew anyway: 90 days.
const KEPT_MS: u64 = 90 * 24 * 60 * 60 * 1_000;
/// The newest messages kept for a device that does not fetch them: about 20 MB.
const QUEUE_MAX: usize = 20_000;

type Waiting = ((DeviceNid, Position), ToDeviceRow);

/// The type of a message that waits.
fn kind_of(row: &ToDeviceRow) -> Option<String> {
    #[derive(Deserialize)]
    struct Kind {
        r#type: String,
    }
    serde_json::from_str::<Kind>(&row.json).ok().map(|kind| kind.r#type)
}

impl Keys {
    /// At most `limit` messages that wait for a device, from after `after` up to and including
    /// `upto`, oldest first, and whether there are more. The device may be given them again until
    /// it acknowledges them. Keys that were sent before the house kept the device out are not given out any more.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn to_device(
        &self,
        device: DeviceNid,
        after: Position,
        upto: Position,
        limit: usize,
    ) -> Result<(Vec<(Position, RawJson)>, bool), Error> {
        let mut from = (device, Position(after.0.saturating_add(1)));
        let end = (device, Position(upto.0.saturating_add(1)));
        let view = self.house.ledger.newest();
        loop {
            let (mut rows, more): (Vec<Waiting>, _) =
                view.scan_between(&TO_DEVICE, (&from, &end), Direction::Forward, limit).await?;
            let last = rows.last().map(|((_, position), _)| *position);
            if last.is_some() && self.house.kept_out(&[device]).await? == [true] {
                rows.retain(|(_, row)| !kind_of(row).is_some_and(|kind| is_key_share(&kind)));
            }
            match last {
                // Nothing of this page is for the device: there may be something on the next.
                Some(last) if rows.is_empty() && more => from.1 = Position(last.0 + 1),
                _ => {
                    let open = |((_, position), row): Waiting| Ok((position, raw(row.json)?));
                    return Ok((rows.into_iter().map(open).collect::<Result<_, Error>>()?, more));
                }
            }
        }
    }

    /// The device has everything up to and including `upto`: it is deleted. Costs one read if
    /// nothing is there.
    ///
    /// # Errors
    ///
    /// If the store fails. What could not be deleted is deleted next time.
    pub async fn acknowledge(&self, device: DeviceNid, upto: Position) -> Result<(), Error> {
        let end = (device, Position(upto.0.saturating_add(1)));
        self.delete_queued(device, end, usize::MAX).await
    }

    /// Deletes the oldest messages before `end`, at most `count`.
    async fn delete_queued(
        &self,
        device: DeviceNid,
        end: (DeviceNid, Position),
        mut count: usize,
    ) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let range = (&(device, Position(0)), &end);
        loop {
            let limit = count.min(PAGE);
            let (rows, more) =
                ledger.newest().scan_between(&TO_DEVICE, range, Direction::Forward, limit).await?;
            if rows.is_empty() {
                return Ok(());
            }
            count -= rows.len();
            let mut commit = ledger.begin(Permit::housekeeping());
            for (key, _) in rows {
                commit.delete(&TO_DEVICE, &key);
            }
            ledger.commit(commit).await?;
            if !more || count == 0 {
                return Ok(());
            }
        }
    }

    /// Keeps the queues of devices that do not fetch them within limits: messages older than 90
    /// days go, and all but the newest 20,000 of a device. Returns how many devices were concerned.
    /// For a job that runs once a day.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn tidy_queues(&self) -> Result<usize, Error> {
        let oldest_ms = self.house.clock.now_ms().saturating_sub(KEPT_MS);
        let view = self.house.ledger.newest();
        let end = (DeviceNid(u64::MAX), Position(u64::MAX));
        let (mut next, mut tidied) = (DeviceNid(0), 0);
        loop {
            let range = (&(next, Position(0)), &end);
            let (rows, _) = view.scan_between(&TO_DEVICE, range, Direction::Forward, 1).await?;
            let Some(((device, _), first)) = rows.first() else { return Ok(tidied) };
            let end_of_old = self.end_of_old(*device, oldest_ms, first.at_ms).await?;
            if let Some(end_of_old) = end_of_old {
                self.delete_queued(*device, end_of_old, usize::MAX).await?;
                tidied += 1;
            }
            next = DeviceNid(device.0 + 1);
        }
    }

    /// Before which key a device's messages are too old or too many, if any are.
    async fn end_of_old(
        &self,
        device: DeviceNid,
        oldest_ms: u64,
        first_ms: u64,
    ) -> Result<Option<(DeviceNid, Position)>, Error> {
        let view = self.house.ledger.newest();
        let (newest, more) = view.scan(&TO_DEVICE, &device, Direction::Backward, QUEUE_MAX).await?;
        let is_young = |(_, row): &&(_, ToDeviceRow)| row.at_ms >= oldest_ms;
        let oldest_kept = newest.iter().take_while(is_young).last();
        Ok(match oldest_kept {
            Some((key, _)) if more || first_ms < oldest_ms => Some(*key),
            Some(_) => None,
            None => Some((device, Position(u64::MAX))),
        })
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Caller;
    use serde_json::json;

    use super::*;
    use crate::keys::scene::to_device;
    use crate::scenario::Ward;

    async fn send(ward: &Ward, to: &Caller, count: usize) {
        for _ in 0..count {
            let txn = ward.services.house.dice.letters(12);
            let messages = json!({ to.user_id.as_str(): { "*": {} } });
            let request = to_device("m.test", &txn, messages);
            ward.services.keys.send_to_device(to, &request).await.unwrap();
        }
    }

    #[tokio::test]
    async fn messages_come_in_pages_until_they_are_acknowledged() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let (keys, ledger) = (&ward.services.keys, &ward.services.house.ledger);
        let start = ledger.position();
        send(&ward, &nurse, 5).await;
        let upto = ledger.position();
        send(&ward, &nurse, 1).await;

        let (first, more) = keys.to_device(nurse.device, start, upto, 3).await.unwrap();
        assert_eq!((first.len(), more), (3, true));
        let seen = first.last().unwrap().0;
        let (rest, more) = keys.to_device(nurse.device, seen, upto, 3).await.unwrap();
        assert_eq!((rest.len(), more), (2, false), "nothing beyond `upto`");
        let (again, _) = keys.to_device(nurse.device, start, upto, 3).await.unwrap();
        assert_eq!(again.len(), 3, "given again until acknowledged");

        keys.acknowledge(nurse.device, seen).await.unwrap();
        let position = ledger.position();
        keys.acknowledge(nurse.device, seen).await.unwrap();
        assert_eq!(ledger.position(), position, "nothing there, nothing written");
        let ward = ward.power_cut_and_restart().await;
        let all = Position(u64::MAX - 1);
        let (left, _) = ward.services.keys.to_device(nurse.device, start, all, 9).await.unwrap();
        assert_eq!(left.len(), 3, "two of the first five and the sixth");
    }

    #[tokio::test]
    async fn what_nobody_fetches_for_three_months_goes() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let keys = &ward.services.keys;
        send(&ward, &nurse, 3).await;
        ward.clock.pass_ms(KEPT_MS / 2);
        send(&ward, &nurse, 2).await;
        send(&ward, &doctor, 1).await;
        assert_eq!(keys.tidy_queues().await.unwrap(), 0, "all of it is young");
        ward.clock.pass_ms(KEPT_MS / 2 + 1);
        assert_eq!(keys.tidy_queues().await.unwrap(), 1);
        let all = (Position(0), Position(u64::MAX - 1));
        let left = keys.to_device(nurse.device, all.0, all.1, 9).await.unwrap().0;
        assert_eq!(left.len(), 2);
        ward.clock.pass_ms(KEPT_MS);
        assert_eq!(keys.tidy_queues().await.unwrap(), 2);
        assert!(keys.to_device(doctor.device, all.0, all.1, 9).await.unwrap().0.is_empty());
    }
}
