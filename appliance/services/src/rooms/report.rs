//! Reporting rooms, events and people ([spec]): kept for the administrators, and audited.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#reporting-content

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{ACCOUNTS, REPORTS};
use appliance_ledger::rows::reports::ReportRow;
use appliance_model::ruma::{EventId, RoomId, UserId};
use appliance_model::{Caller, Error, Position};
use appliance_rules::Permit;

use super::Rooms;

/// A reason is a sentence or two.
const REASON_BYTES_MAX: usize = 4_000;

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub enum Reported<'a> {
    /// A room.
    Room(&'a RoomId),
    /// An event in a room.
    Event(&'a RoomId, &'a EventId),
    /// A person.
    User(&'a UserId),
}

impl Rooms {
    /// Keeps a report.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: there is no such room, event or person, or it is not
    ///   for the caller to see.
    /// * [`appliance_model::Kind::TooLarge`]: the reason is.
    pub async fn report(
        &self,
        caller: &Caller,
        what: Reported<'_>,
        (reason, score): (Option<String>, Option<i64>),
    ) -> Result<(), Error> {
        self.limits.message(caller.user)?;
        if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
            return Err(Error::too_large("A reason has at most 4000 bytes."));
        }
        self.check_reported(caller, what).await?;
        let mut row = ReportRow {
            by: caller.user_id.to_string(),
            at_ms: self.house.clock.now_ms(),
            reason,
            score,
            room_id: None,
            event_id: None,
            user_id: None,
        };
        let (verb, object) = match what {
            Reported::Room(room_id) => {
                row.room_id = Some(room_id.to_string());
                ("room.reported", room_id.to_string())
            }
            Reported::Event(room_id, event_id) => {
                row.room_id = Some(room_id.to_string());
                row.event_id = Some(event_id.to_string());
                ("event.reported", format!("{room_id} {event_id}"))
            }
            Reported::User(user_id) => {
                row.user_id = Some(user_id.to_string());
                ("user.reported", user_id.to_string())
            }
        };
        let ledger = &self.house.ledger;
        let mut commit = ledger.begin(Permit::own(verb, &caller.user_id, object));
        commit.stamp(move |position, rows| rows.put(&REPORTS, &position, &row));
        ledger.commit(commit).await?;
        Ok(())
    }

    async fn check_reported(&self, caller: &Caller, what: Reported<'_>) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        match what {
            Reported::Room(room_id) => self.known(room_id).await.map(drop),
            Reported::Event(room_id, event_id) => {
                // "The caller must be joined to the room to report it."
                let unseen =
                    || Error::not_found("There is no such event, or you are not in its room.");
                let room = ledger.room(room_id).await?.ok_or_else(unseen)?;
                if !self.is_joined(caller, room).await? {
                    return Err(unseen());
                }
                self.seen_event(caller, room, event_id).await.map(drop)
            }
            Reported::User(user_id) => {
                let nobody = || Error::not_found("This server knows nobody of that name.");
                let user = ledger.user(user_id).await?.ok_or_else(nobody)?;
                let ours = self.house.is_ours(user_id);
                if ours && ledger.get(&ACCOUNTS, &user).await?.is_none() {
                    return Err(nobody());
                }
                Ok(())
            }
        }
    }

    /// Reports, the newest first, before a position; at most `limit`. Their position is their
    /// number.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn reports(
        &self,
        before: Position,
        limit: usize,
    ) -> Result<Vec<(Position, ReportRow)>, Error> {
        let view = self.house.ledger.newest();
        let range = (&Position(0), &before);
        Ok(view.scan_between(&REPORTS, range, Direction::Backward, limit).await?.0)
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;

    use super::*;
    use crate::scenario::{Ward, user_id};

    #[tokio::test]
    async fn reports_are_kept_and_audited_and_strangers_events_cannot_be_probed() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room(&nurse).await;
        let said = EventId::parse(ward.say(&nurse, &room, "Bed 4").await).unwrap();
        let nowhere = RoomId::parse("!nowhere:hospital.example").unwrap();
        let report = async |who: &Caller, what: Reported<'_>, reason: &str| {
            let said = (Some(reason.to_owned()), Some(-100));
            ward.services.rooms.report(who, what, said).await.map_err(|error| error.kind)
        };
        assert_eq!(report(&nurse, Reported::Event(&room, &said), "rude").await, Ok(()));
        assert_eq!(report(&doctor, Reported::Room(&room), "odd").await, Ok(()));
        assert_eq!(report(&doctor, Reported::User(&nurse.user_id), "").await, Ok(()));
        let hidden = report(&doctor, Reported::Event(&room, &said), "x").await;
        assert_eq!(hidden, Err(Kind::NotFound));
        assert_eq!(report(&doctor, Reported::Room(&nowhere), "x").await, Err(Kind::NotFound));
        let nobody = user_id("nobody");
        assert_eq!(report(&doctor, Reported::User(&nobody), "x").await, Err(Kind::NotFound));
        let long = "x".repeat(4_001);
        assert_eq!(report(&doctor, Reported::Room(&room), &long).await, Err(Kind::TooLarge));

        let entries = ward.audit().await;
        let last: Vec<_> = entries.iter().rev().take(3).rev().cloned().collect();
        assert_eq!(
            last,
            [
                "event.reported @nurse:hospital.example",
                "room.reported @doctor:hospital.example",
                "user.reported @doctor:hospital.example",
            ]
        );
        let kept = ward.services.rooms.reports(Position(u64::MAX), 10).await.unwrap();
        assert_eq!(kept.len(), 3);
        assert_eq!(kept[2].1.event_id.as_deref(), Some(said.as_str()));
        assert_eq!((kept[2].1.reason.as_deref(), kept[2].1.score), (Some("rude"), Some(-100)));
    }
}
