//! What becomes of a delayed event: its time comes, or somebody who knows its ID sends, cancels or
//! restarts it.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{ACCOUNTS, DELAYED_DUE, DELAYED_EVENTS, DELAYED_OF};
use appliance_ledger::rows::extras::{DelayedOutcome, DelayedRow};
use appliance_model::ruma::api::client::message::send_message_event;
use appliance_model::ruma::api::client::state::send_state_event;
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{OwnedEventId, OwnedRoomId};
use appliance_model::{Caller, DeviceNid, Error, Kind, Role, SessionClass, UserNid};
use appliance_rules::Permit;

use super::{DELAY_MS_MAX, Rooms, SETTLED_KEPT_MS};

/// Events settled in one look of the job; the next look goes on.
const PAGE: usize = 100;
/// A sentence.
const ERROR_CHARS_MAX: usize = 300;

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayedAction {
    /// Send it now.
    Send,
    /// Never send it.
    Cancel,
    /// Start its time anew.
    Restart,
}

impl DelayedAction {
    /// The action of that name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "send" => Some(Self::Send),
            "cancel" => Some(Self::Cancel),
            "restart" => Some(Self::Restart),
            _ => None,
        }
    }
}

impl Rooms {
    /// Sends, cancels or restarts a delayed event. Knowing its ID is the right to: a call server is
    /// told it, and has no session.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: there is none of that ID.
    /// * [`Kind::Conflict`]: it is settled, and not in the way that is asked for.
    /// * Sending: as [`Rooms::send_event`]; the event stays scheduled then.
    pub async fn settle_delayed(&self, delay_id: &str, action: DelayedAction) -> Result<(), Error> {
        let _inside = self.delayed_doors.enter(self.delayed_door(delay_id)).await;
        let row = self.delayed_row(delay_id).await?;
        match (&row.outcome, action) {
            // "To allow safely retrying requests … success if … already finalised with an outcome
            // that matches the action".
            (Some(outcome), DelayedAction::Send) if outcome.event_id.is_some() => Ok(()),
            (Some(outcome), DelayedAction::Cancel) if outcome.event_id.is_none() => Ok(()),
            (Some(_), _) => {
                Err(Error::new(Kind::Conflict, "This event was sent or cancelled before."))
            }
            (None, DelayedAction::Restart) => self.restart(delay_id, row).await,
            (None, DelayedAction::Cancel) => self.settled(delay_id, row, None, true).await,
            (None, DelayedAction::Send) => {
                let event_id = self.send_delayed(delay_id, &row).await?;
                self.settled(delay_id, row, Some(Ok(event_id)), true).await
            }
        }
    }

    /// Sends what is due and forgets what was settled long ago; a reconciler, to be called every
    /// second. Returns how many events were sent or given up.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn send_due(&self) -> Result<usize, Error> {
        let now_ms = self.house.clock.now_ms();
        let ledger = &self.house.ledger;
        if !self.delayed_rest.is_due(ledger, now_ms) {
            return Ok(0);
        }
        let at = ledger.position();
        type Due = ((u64, String), ());
        let range = (&0, &u64::MAX);
        let (rows, _): (Vec<Due>, _) =
            ledger.newest().scan_between(&DELAYED_DUE, range, Direction::Forward, PAGE).await?;
        let is_due = |(key, ()): &Due| key.0 <= now_ms;
        if !rows.first().is_some_and(is_due) {
            self.delayed_rest.until(at, rows.first().map(|(key, ())| key.0));
        }
        let mut count = 0;
        for (key, ()) in rows.into_iter().filter(is_due) {
            count += usize::from(self.look_at(key, now_ms).await?);
        }
        Ok(count)
    }

    async fn look_at(&self, key: (u64, String), now_ms: u64) -> Result<bool, Error> {
        let delay_id = key.1.clone();
        let _inside = self.delayed_doors.enter(self.delayed_door(&delay_id)).await;
        let ledger = &self.house.ledger;
        let row = ledger.get(&DELAYED_EVENTS, &delay_id).await?;
        let (is_settled, due_ms) = match &row {
            Some(row) => match &row.outcome {
                Some(outcome) => (true, outcome.at_ms.saturating_add(SETTLED_KEPT_MS)),
                None => (false, row.running_since_ms.saturating_add(row.delay_ms)),
            },
            None => (true, 0),
        };
        match row {
            // The clock may have been set back since it was scheduled: it is not sent early then.
            Some(row) if !is_settled && due_ms <= now_ms => {
                let sent = self.send_delayed(&delay_id, &row).await;
                if let Err(error) = &sent
                    && matches!(error.kind, Kind::Unavailable | Kind::Internal)
                {
                    // The disk is full, or we failed: that passes.
                    return Ok(false);
                }
                self.settled(&delay_id, row, Some(sent), false).await?;
                Ok(true)
            }
            Some(_) if due_ms > now_ms => {
                // A row of before a restart of its time.
                let mut commit = ledger.begin(Permit::housekeeping());
                commit.delete(&DELAYED_DUE, &key);
                commit.put(&DELAYED_DUE, &(due_ms, delay_id), &());
                ledger.commit(commit).await.map(|_| false)
            }
            other => {
                let mut commit = ledger.begin(Permit::housekeeping());
                commit.delete(&DELAYED_DUE, &key);
                if let Some(row) = other {
                    commit.delete(&DELAYED_OF, &(UserNid(row.user), delay_id.clone()));
                    commit.delete(&DELAYED_EVENTS, &delay_id);
                }
                ledger.commit(commit).await.map(|_| false)
            }
        }
    }

    async fn restart(&self, delay_id: &str, mut row: DelayedRow) -> Result<(), Error> {
        let before_ms = row.running_since_ms.saturating_add(row.delay_ms);
        row.running_since_ms = self.house.clock.now_ms();
        let due_ms = row.running_since_ms.saturating_add(row.delay_ms.min(DELAY_MS_MAX));
        // A client in a call does this every few seconds, and it says nothing: no audit entry.
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.delete(&DELAYED_DUE, &(before_ms, delay_id.to_owned()));
        commit.put(&DELAYED_DUE, &(due_ms, delay_id.to_owned()), &());
        commit.put(&DELAYED_EVENTS, &delay_id.to_owned(), &row);
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// Writes down what became of it.
    async fn settled(
        &self,
        delay_id: &str,
        mut row: DelayedRow,
        sent: Option<Result<OwnedEventId, Error>>,
        by_action: bool,
    ) -> Result<(), Error> {
        let due_ms = row.running_since_ms.saturating_add(row.delay_ms);
        let at_ms = self.house.clock.now_ms();
        let (event_id, error) = match sent {
            Some(Ok(event_id)) => (Some(event_id.to_string()), None),
            Some(Err(error)) => (None, Some(error.message.chars().take(ERROR_CHARS_MAX).collect())),
            None => (None, None),
        };
        row.outcome = Some(DelayedOutcome { at_ms, event_id, error, by_action });
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.delete(&DELAYED_DUE, &(due_ms, delay_id.to_owned()));
        let kept_until_ms = at_ms.saturating_add(SETTLED_KEPT_MS);
        commit.put(&DELAYED_DUE, &(kept_until_ms, delay_id.to_owned()), &());
        commit.put(&DELAYED_EVENTS, &delay_id.to_owned(), &row);
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// Sends it as its author. The delay ID is the transaction ID, so that a crash between sending
    /// and writing down does not send it twice.
    async fn send_delayed(&self, delay_id: &str, row: &DelayedRow) -> Result<OwnedEventId, Error> {
        let author = self.author_of(row).await?;
        let room_id = OwnedRoomId::try_from(row.room_id.as_str()).map_err(Error::internal)?;
        let kind = row.kind.as_str();
        match &row.state_key {
            None => {
                let body = Raw::from_json_string(row.content.clone()).map_err(Error::internal)?;
                let request = send_message_event::v3::Request::new_raw(
                    room_id,
                    delay_id.into(),
                    kind.into(),
                    body,
                );
                self.send_event(&author, &request).await
            }
            Some(state_key) => {
                let body = Raw::from_json_string(row.content.clone()).map_err(Error::internal)?;
                let request = send_state_event::v3::Request::new_raw(
                    room_id,
                    kind.into(),
                    state_key.clone(),
                    body,
                );
                self.send_state(&author, &request).await
            }
        }
    }

    /// Who sends it: what an administrator has decided since holds.
    async fn author_of(&self, row: &DelayedRow) -> Result<Caller, Error> {
        let ledger = &self.house.ledger;
        let user = UserNid(row.user);
        let account = ledger.get(&ACCOUNTS, &user).await?;
        let account = account.filter(|account| !account.deactivated);
        let account =
            account.ok_or_else(|| Error::new(Kind::UserDeactivated, "The account is closed."))?;
        if account.locked == Some(true) {
            return Err(Error::new(Kind::UserLocked, "The account is locked."));
        }
        if account.suspended == Some(true) {
            return Err(Error::new(Kind::UserSuspended, "The account is suspended."));
        }
        Ok(Caller {
            user_id: ledger.user_id(user).await?,
            user,
            device_id: row.device_id.as_str().into(),
            device: DeviceNid(row.device),
            role: Role::User,
            appservice: None,
            class: SessionClass::default(),
        })
    }

    fn delayed_door(&self, delay_id: &str) -> u64 {
        let digest = self.house.ledger.digest(&[b"delayed door", delay_id.as_bytes()]);
        let (first, _) = digest.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        // Numbers of users are small: theirs are other doors.
        u64::from_be_bytes(*first) | 1 << 63
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rooms::NewDelayed;
    use crate::rooms::delayed::SCHEDULED_MAX;
    use crate::scenario::Ward;

    fn leaving(room: &appliance_model::ruma::RoomId, state_key: Option<&str>) -> NewDelayed {
        NewDelayed {
            room_id: room.to_owned(),
            kind: "org.example.call".to_owned(),
            state_key: state_key.map(str::to_owned),
            content: serde_json::from_value(json!({ "left": true })).unwrap(),
            delay_ms: 10_000,
        }
    }

    /// The phone is dead, and so was the server for a while: its owner leaves the call all the same,
    /// once.
    #[tokio::test]
    async fn it_is_sent_when_its_time_comes_over_a_power_cut_and_once() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let room = ward.room(&nurse).await;
        let rooms = &ward.services.rooms;
        let txn = Some(<&appliance_model::ruma::TransactionId>::from("txn"));
        let delay_id = rooms.schedule(&nurse, leaving(&room, Some("x")), txn).await.unwrap();
        let again = rooms.schedule(&nurse, leaving(&room, Some("x")), txn).await.unwrap();
        assert_eq!(again, delay_id, "a retry schedules nothing new");
        ward.clock.pass_ms(6_000);
        rooms.settle_delayed(&delay_id, DelayedAction::Restart).await.unwrap();
        ward.clock.pass_ms(6_000);
        assert_eq!(rooms.send_due().await.unwrap(), 0, "its time began anew");

        let ward = ward.power_cut_and_restart().await;
        let rooms = &ward.services.rooms;
        assert_eq!(rooms.send_due().await.unwrap(), 0);
        ward.clock.pass_ms(4_000);
        let before = ward.timeline(&room).await.1.len();
        assert_eq!(rooms.send_due().await.unwrap(), 1);
        assert_eq!(rooms.send_due().await.unwrap(), 0);
        assert_eq!(ward.timeline(&room).await.1.len(), before + 1);
        assert_eq!(ward.current(&room, ("org.example.call", "x")).await, json!({ "left": true }));
        let outcome = rooms.delayed_event(&nurse, &delay_id).await.unwrap().row.outcome.unwrap();
        assert!(outcome.event_id.is_some() && !outcome.by_action);
        rooms.settle_delayed(&delay_id, DelayedAction::Send).await.unwrap();
        let late = rooms.settle_delayed(&delay_id, DelayedAction::Cancel).await.unwrap_err();
        assert_eq!(late.kind, Kind::Conflict);

        ward.clock.pass_ms(SETTLED_KEPT_MS);
        rooms.send_due().await.unwrap();
        let gone = rooms.delayed_event(&nurse, &delay_id).await.unwrap_err();
        assert_eq!(gone.kind, Kind::NotFound);
        assert!(rooms.delayed_events(&nurse).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn cancelled_ones_are_never_sent_and_refused_ones_say_why() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let rooms = &ward.services.rooms;
        let cancelled = rooms.schedule(&nurse, leaving(&room, None), None).await.unwrap();
        rooms.settle_delayed(&cancelled, DelayedAction::Cancel).await.unwrap();
        rooms.settle_delayed(&cancelled, DelayedAction::Cancel).await.unwrap();
        let refused = rooms.schedule(&doctor, leaving(&room, Some("x")), None).await.unwrap();
        let now = rooms.settle_delayed(&refused, DelayedAction::Send).await.unwrap_err();
        assert_eq!(now.kind, Kind::Forbidden, "and it stays scheduled");
        ward.clock.pass_ms(10_000);
        let before = ward.timeline(&room).await.1.len();
        assert_eq!(rooms.send_due().await.unwrap(), 1);
        assert_eq!(ward.timeline(&room).await.1.len(), before);
        let outcome = rooms.delayed_event(&doctor, &refused).await.unwrap().row.outcome.unwrap();
        assert!(outcome.error.unwrap().contains("power level"));
    }

    #[tokio::test]
    async fn nobody_fills_the_future() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let room = ward.room(&nurse).await;
        let rooms = &ward.services.rooms;
        for _ in 0..SCHEDULED_MAX {
            rooms.schedule(&nurse, leaving(&room, None), None).await.unwrap();
        }
        let full = rooms.schedule(&nurse, leaving(&room, None), None).await.unwrap_err();
        assert_eq!(full.kind, Kind::Limited { retry_after_ms: 10_000 });
        let long = NewDelayed { delay_ms: DELAY_MS_MAX + 1, ..leaving(&room, None) };
        let refused = rooms.schedule(&nurse, long, None).await.unwrap_err();
        assert_eq!(refused.kind, Kind::MaxDelayExceeded { max_delay_ms: DELAY_MS_MAX });
    }
}
