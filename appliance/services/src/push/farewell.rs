//! The last ring of a device whose session somebody else has ended: its hours are over, it is lost, or an
//! administrator or its owner has signed it out from elsewhere.
//!
//! An app that is closed hears that its session is over only when it comes here next. A ring makes it come: it
//! asks for the event, is told `M_UNKNOWN_TOKEN`, and removes what it keeps. The ring says nothing but an
//! event's ID, as those of clinical rooms do.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use appliance_ledger::keyspaces::{FAREWELLS, PUSHERS};
use appliance_ledger::rows::push::PusherRow;
use appliance_ledger::{Commit, Direction, Ledger};
use appliance_model::{DeviceNid, Error, UserNid};
use appliance_rules::Permit;
use serde_json::Map;

use super::notify::{Outcome, settings};
use super::pushers::PUSHERS_MAX;
use super::{Push, PusherKey};
use crate::rest::Rest;

/// Rung in one look. More devices end at once only when a hospital ends them all.
const AT_ONCE_MAX: usize = 64;
/// A gateway that is away for so long is not waited for: the device hears of it when it comes.
const GIVE_UP_MS: u64 = 60 * 60 * 1_000;
/// Between two attempts.
const AGAIN_MS: u64 = 60 * 1_000;

/// What is remembered of those that wait.
#[derive(Default)]
pub(super) struct Farewell {
    rest: Rest,
    /// When each was rung last: at most as many as wait.
    tried: Mutex<HashMap<PusherKey, u64>>,
}

/// Owes a device's pushers a last ring, in the commit that ends it and them.
///
/// # Errors
///
/// If the store fails.
pub(crate) async fn owe_farewell(
    ledger: &Ledger,
    (user, device): (UserNid, DeviceNid),
    now_ms: u64,
    commit: &mut Commit,
) -> Result<(), Error> {
    let scan = ledger.newest().scan(&PUSHERS, &user, Direction::Forward, PUSHERS_MAX);
    let (rows, _): (Vec<(PusherKey, PusherRow)>, _) = scan.await?;
    for (key, row) in rows.into_iter().filter(|(_, row)| row.device == device.0) {
        let row = PusherRow { set_ms: now_ms, backlog: None, ..row };
        commit.put(&FAREWELLS, &key, &row);
    }
    Ok(())
}

impl Push {
    /// Rings for the last time where that is owed; returns where it was taken. To be called every second.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on.
    pub async fn say_farewell(&self) -> Result<usize, Error> {
        let (ledger, now_ms) = (&self.house.ledger, self.house.clock.now_ms());
        if !self.farewell.rest.is_due(ledger, now_ms) {
            return Ok(0);
        }
        let at = ledger.position();
        let scan = ledger.newest().scan(&FAREWELLS, &(), Direction::Forward, AT_ONCE_MAX);
        let (owed, _): (Vec<(PusherKey, PusherRow)>, _) = scan.await?;
        let due: Vec<_> = owed.iter().filter(|(key, _)| self.may_try(*key, now_ms)).collect();
        let asked = due.iter().map(|(key, row)| self.ring_once(*key, row));
        let outcomes = futures_util::future::join_all(asked).await;
        let (mut taken, mut left) = (0, owed.len());
        let mut commit = ledger.begin(Permit::housekeeping());
        for ((key, row), outcome) in due.iter().zip(outcomes) {
            let is_over = now_ms.saturating_sub(row.set_ms) >= GIVE_UP_MS;
            let outcome = outcome?;
            if matches!(outcome, Outcome::Failed(_)) && !is_over {
                continue;
            }
            taken += usize::from(matches!(outcome, Outcome::Taken));
            commit.delete(&FAREWELLS, key);
            self.tried().remove(key);
            left -= 1;
        }
        if left < owed.len() {
            ledger.commit(commit).await?;
        } else {
            let again = (left > 0).then_some(now_ms.saturating_add(AGAIN_MS));
            self.farewell.rest.until(at, again);
        }
        Ok(taken)
    }

    /// Whether a gateway that failed may be asked again; notes that it is.
    fn may_try(&self, key: PusherKey, now_ms: u64) -> bool {
        let mut tried = self.tried();
        let may = tried.get(&key).is_none_or(|last_ms| now_ms.abs_diff(*last_ms) >= AGAIN_MS);
        if may {
            tried.insert(key, now_ms);
        }
        may
    }

    fn tried(&self) -> MutexGuard<'_, HashMap<PusherKey, u64>> {
        self.farewell.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ring_once(&self, (user, _): PusherKey, row: &PusherRow) -> Result<Outcome, Error> {
        // Any event does: the app is told that it may not have it.
        let Some((event_id, room_id)) = self.last_event(user).await? else {
            return Ok(Outcome::Moot);
        };
        let mut notification = Map::new();
        notification.insert("event_id".to_owned(), event_id.into());
        notification.insert("room_id".to_owned(), room_id.into());
        // A phone puts off what is not urgent until somebody takes it up.
        notification.insert("prio".to_owned(), "high".into());
        self.send(row, &settings(row), notification, None).await
    }

    /// The newest event of a room that a user is in.
    async fn last_event(&self, user: UserNid) -> Result<Option<(String, String)>, Error> {
        let ledger = &self.house.ledger;
        for room in self.rooms.joined(user).await? {
            let newest = ledger.recent(room, (i64::MIN, i64::MAX), 1).await?;
            if let Some((event, _)) = newest.events.first() {
                let room_id = ledger.room_id(room).await?;
                return Ok(Some((event.event_id.to_string(), room_id.to_string())));
            }
        }
        Ok(None)
    }
}
