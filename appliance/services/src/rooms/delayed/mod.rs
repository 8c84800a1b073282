//! Delayed events ([MSC4140]): an event that the server sends later, so that a phone that loses its
//! network still leaves a call.
//!
//! What is scheduled is a row, with a row in an index by time; a job sends what is due. Both survive a
//! restart, and sending twice is not possible: the delay ID is the transaction ID of the event.
//!
//! [MSC4140]: https://github.com/matrix-org/matrix-spec-proposals/pull/4140

mod settle;

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{DELAYED_DUE, DELAYED_EVENTS, DELAYED_OF};
use appliance_ledger::rows::extras::DelayedRow;
use appliance_model::ruma::{CanonicalJsonObject, OwnedRoomId, TransactionId};
use appliance_model::{Caller, Error, Kind, UserNid};
use appliance_rules::Permit;

pub use settle::DelayedAction;

use super::Rooms;

/// A month: reminders included.
pub const DELAY_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;
/// Scheduled by one user at once: one for every call they are in, and some reminders.
const SCHEDULED_MAX: usize = 100;
/// "finalised retention: up to 7 days or 1000 events per user".
const SETTLED_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
const KEPT_MAX: usize = 1_000;
const DELAY_ID_LENGTH: usize = 32;
const NAME_BYTES_MAX: usize = 255;

/// An event to be sent later.
#[derive(Clone, Debug)]
pub struct NewDelayed {
    /// Where to.
    pub room_id: OwnedRoomId,
    /// Its type.
    pub kind: String,
    /// Its state key, if it sets state.
    pub state_key: Option<String>,
    /// Its content.
    pub content: CanonicalJsonObject,
    /// How long from now, in milliseconds.
    pub delay_ms: u64,
}

/// An event that is to be sent, or was.
#[derive(Clone, Debug)]
pub struct Delayed {
    /// Its name until it has an event ID.
    pub delay_id: String,
    /// What is known of it.
    pub row: DelayedRow,
}

impl Delayed {
    fn due_ms(&self) -> u64 {
        self.row.running_since_ms.saturating_add(self.row.delay_ms)
    }
}

impl Rooms {
    /// Schedules an event; returns its delay ID when it would survive a power cut. Repeating `txn_id`
    /// from the same device returns the first one.
    ///
    /// The room's rules judge when the event is sent, not now: "the power level situation may have
    /// changed".
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: this server does not know the room.
    /// * [`Kind::InvalidParam`]: no delay; [`Kind::MaxDelayExceeded`]: more than [`DELAY_MS_MAX`].
    /// * [`Kind::Limited`]: the caller has scheduled 100 events, or many in a short time.
    pub async fn schedule(
        &self,
        caller: &Caller,
        new: NewDelayed,
        txn_id: Option<&TransactionId>,
    ) -> Result<String, Error> {
        check(&new)?;
        self.known(&new.room_id).await?;
        let ledger = &self.house.ledger;
        let delay_id = match txn_id {
            // Nobody can guess it: the digest is keyed.
            Some(txn_id) => hex(&ledger.digest(&[
                b"delayed",
                &caller.device.0.to_be_bytes(),
                new.room_id.as_bytes(),
                new.kind.as_bytes(),
                txn_id.as_bytes(),
            ])),
            None => self.house.dice.letters(DELAY_ID_LENGTH),
        };
        let inside = self.delayed_doors.enter(caller.user.0).await;
        if ledger.get(&DELAYED_EVENTS, &delay_id).await?.is_some() {
            return Ok(delay_id);
        }
        self.limits.message(caller.user)?;
        let oldest = self.check_scheduled(caller.user).await?;
        let now_ms = self.house.clock.now_ms();
        let row = DelayedRow {
            user: caller.user.0,
            device_id: caller.device_id.to_string(),
            device: caller.device.0,
            room_id: new.room_id.to_string(),
            kind: new.kind,
            state_key: new.state_key,
            content: serde_json::to_string(&new.content).map_err(Error::internal)?,
            delay_ms: new.delay_ms,
            running_since_ms: now_ms,
            outcome: None,
        };
        let permit = Permit::own("event.delayed", &caller.user_id, &new.room_id);
        let mut commit = ledger.begin(permit);
        for old in oldest {
            commit.delete(&DELAYED_EVENTS, &old);
            commit.delete(&DELAYED_OF, &(caller.user, old));
        }
        let due_ms = now_ms.saturating_add(new.delay_ms);
        commit.put(&DELAYED_EVENTS, &delay_id, &row);
        commit.put(&DELAYED_OF, &(caller.user, delay_id.clone()), &());
        commit.put(&DELAYED_DUE, &(due_ms, delay_id.clone()), &());
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok(delay_id)
    }

    /// One of the caller's delayed events.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is none of that ID, or it is another's.
    pub async fn delayed_event(&self, caller: &Caller, delay_id: &str) -> Result<Delayed, Error> {
        let row = self.delayed_row(delay_id).await?;
        if row.user != caller.user.0 {
            return Err(no_delayed());
        }
        Ok(Delayed { delay_id: delay_id.to_owned(), row })
    }

    /// The caller's delayed events, scheduled and settled, by the time at which they are or were due.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn delayed_events(&self, caller: &Caller) -> Result<Vec<Delayed>, Error> {
        self.delayed_of(caller.user).await
    }

    async fn delayed_of(&self, user: UserNid) -> Result<Vec<Delayed>, Error> {
        let view = self.house.ledger.newest();
        type Owned = ((UserNid, String), ());
        let (owned, _): (Vec<Owned>, _) =
            view.scan(&DELAYED_OF, &user, Direction::Forward, KEPT_MAX + SCHEDULED_MAX).await?;
        let ids: Vec<String> = owned.into_iter().map(|((_, delay_id), ())| delay_id).collect();
        let rows = view.get_many(&DELAYED_EVENTS, &ids).await?;
        let delayed = |(delay_id, row): (String, Option<DelayedRow>)| {
            row.map(|row| Delayed { delay_id, row })
        };
        let mut found: Vec<_> = ids.into_iter().zip(rows).filter_map(delayed).collect();
        found.sort_by_key(Delayed::due_ms);
        Ok(found)
    }

    /// Whether there is room for one more; returns settled ones that have to go for it.
    async fn check_scheduled(&self, user: UserNid) -> Result<Vec<String>, Error> {
        let mut all = self.delayed_of(user).await?;
        let scheduled = all.iter().filter(|one| one.row.outcome.is_none());
        if scheduled.clone().count() >= SCHEDULED_MAX {
            let now_ms = self.house.clock.now_ms();
            let next_ms = scheduled.map(Delayed::due_ms).min().unwrap_or_default();
            let retry_after_ms = next_ms.saturating_sub(now_ms).max(1);
            let why = "You have scheduled 100 events. Cancel some, or wait until one is sent.";
            return Err(Error::new(Kind::Limited { retry_after_ms }, why));
        }
        let surplus = (all.len() + 1).saturating_sub(KEPT_MAX);
        all.retain(|one| one.row.outcome.is_some());
        Ok(all.into_iter().take(surplus).map(|one| one.delay_id).collect())
    }

    async fn delayed_row(&self, delay_id: &str) -> Result<DelayedRow, Error> {
        // No ID of ours is longer, and no key of the store.
        if delay_id.len() > NAME_BYTES_MAX {
            return Err(no_delayed());
        }
        let row = self.house.ledger.get(&DELAYED_EVENTS, &delay_id.to_owned()).await?;
        row.ok_or_else(no_delayed)
    }
}

fn check(new: &NewDelayed) -> Result<(), Error> {
    if new.delay_ms == 0 {
        return Err(Error::invalid_param("A delay is a number of milliseconds greater than 0."));
    }
    if new.delay_ms > DELAY_MS_MAX {
        return Err(Error::new(
            Kind::MaxDelayExceeded { max_delay_ms: DELAY_MS_MAX },
            "This server delays events by 30 days at most.",
        ));
    }
    let state_key = new.state_key.as_deref().unwrap_or_default();
    if new.kind.len() > NAME_BYTES_MAX || state_key.len() > NAME_BYTES_MAX {
        return Err(Error::too_large("The event type or state key is longer than 255 bytes."));
    }
    Ok(())
}

fn no_delayed() -> Error {
    Error::not_found("There is no such delayed event.")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
