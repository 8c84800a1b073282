//! The job that takes out of the store what no reader is shown any more. It takes no input, and may be
//! stopped and repeated at any point: each of its commits says up to which time a room's events are
//! over, and takes out some of them.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use appliance_ledger::keyspaces::{ERASED_EVENTS, EVENTS, RETENTION, ROOMS};
use appliance_ledger::rows::RoomRow;
use appliance_ledger::{Commit, Direction, Event};
use appliance_model::{Error, EventNid, RoomNid};
use appliance_rules::policy::{HousePolicy, must_erase_events};

use super::{Horizon, Rooms, said_ms};
use crate::media::link::unlink;
use crate::rooms::OpenRoom;
use crate::rooms::redact_event::Reparsed;

/// Rooms looked at in one trip.
const ROOMS_PAGE: usize = 1_000;
/// Events taken out in one commit, which holds up those who write in the room for some milliseconds.
const ERASED_AT_ONCE_MAX: usize = 100;
/// Events looked at in one trip.
const PAGE: usize = 256;
/// Behind so many events that live, none is expected that does not: clocks of senders are not all right.
const LIVING_MAX: usize = 200;
/// So often every room is looked through from its beginning: what was fetched of the past lies there,
/// and a room that says something new of its events may have no reader.
const WHOLE_MS: u64 = 60 * 60 * 1_000;

impl Rooms {
    /// Looks once through the rooms whose events live for a time; now and then through all, so that
    /// those are found of which nobody has read anything. To be called every few seconds. Returns how many
    /// events were taken out.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn erase_expired_events(&self) -> Result<usize, Error> {
        let mut erased = 0;
        let policy = self.house.policy.now();
        if self.has_looked_through(&policy) {
            let timed: Vec<RoomNid> = self.done_to().keys().copied().collect();
            self.erase_in_each(timed, &mut erased).await?;
        } else {
            self.done_to().clear();
            self.erase_everywhere(&mut erased).await?;
            *self.looked_through() = Some((self.house.clock.now_ms(), policy));
        }
        Ok(erased)
    }

    /// Whether all rooms were looked through lately, under this policy.
    fn has_looked_through(&self, policy: &Arc<HousePolicy>) -> bool {
        let now_ms = self.house.clock.now_ms();
        self.looked_through().as_ref().is_some_and(|(last_ms, known)| {
            Arc::ptr_eq(known, policy) && now_ms.saturating_sub(*last_ms) < WHOLE_MS
        })
    }

    async fn erase_everywhere(&self, erased: &mut usize) -> Result<(), Error> {
        let mut failed = Ok(());
        let mut from = RoomNid(0);
        loop {
            let view = self.house.ledger.newest();
            let end = RoomNid(u64::MAX);
            let (rooms, more): (Vec<(RoomNid, RoomRow)>, _) =
                view.scan_between(&ROOMS, (&from, &end), Direction::Forward, ROOMS_PAGE).await?;
            let rooms: Vec<RoomNid> = rooms.into_iter().map(|(room, _)| room).collect();
            from = rooms.last().map_or(from, |last| RoomNid(last.0 + 1));
            failed = failed.and(self.erase_in_each(rooms, erased).await);
            if !more {
                return failed;
            }
        }
    }

    /// One room must not keep the others: the last failure is told at the end.
    async fn erase_in_each(&self, rooms: Vec<RoomNid>, erased: &mut usize) -> Result<(), Error> {
        let mut failed = Ok(());
        for room in rooms {
            if let Err(error) = self.erase_in(room, erased, usize::MAX).await {
                failed = Err(error);
            }
        }
        failed
    }

    fn looked_through(&self) -> MutexGuard<'_, Option<(u64, Arc<HousePolicy>)>> {
        self.retention.looked_through.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn done_to(&self) -> MutexGuard<'_, HashMap<RoomNid, i64>> {
        self.retention.done_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One commit of the job, for scenes in which the power goes after it.
    #[cfg(test)]
    pub(super) async fn erase_once(&self, room: RoomNid) -> Result<(), Error> {
        self.erase_in(room, &mut 0, 1).await
    }

    pub(super) async fn erase_in(
        &self,
        room: RoomNid,
        erased: &mut usize,
        mut commits_max: usize,
    ) -> Result<(), Error> {
        let horizon = self.horizon(room).await?;
        if horizon == Horizon::default() {
            return Ok(());
        }
        let mut at = self.done_to().get(&room).copied().unwrap_or(i64::MIN);
        let (mut living, mut done_to) = (0, at);
        loop {
            let view = self.house.ledger.view().await?;
            let stretch = view.timeline(room, (at, i64::MAX), Direction::Forward, PAGE).await?;
            drop(view);
            let mut over = Vec::new();
            for (event, _) in stretch.events {
                at = event.position.map_or(at, |place| place.saturating_add(1));
                if !event.is_state() && !event.erased {
                    match horizon.hides(&event) {
                        true => over.push(event),
                        false => living += 1,
                    }
                }
                if living == 0 {
                    done_to = at;
                }
            }
            // No further than what was said: on a clock that is ahead, a room would be silent for as long.
            let upto_ms = over.iter().filter_map(|event| said_ms(event)).max().unwrap_or_default();
            for some in over.chunks(ERASED_AT_ONCE_MAX) {
                if commits_max == 0 {
                    return Ok(());
                }
                commits_max -= 1;
                self.erase_some(room, (some, upto_ms), erased).await?;
            }
            // Only now: what the disk refuses is tried again.
            self.done_to().insert(room, done_to);
            if !stretch.more || living > LIVING_MAX {
                return Ok(());
            }
        }
    }

    async fn erase_some(
        &self,
        room: RoomNid,
        (events, upto_ms): (&[Arc<Event>], u64),
        erased: &mut usize,
    ) -> Result<(), Error> {
        let room_id = self.house.ledger.room_id(room).await?;
        let mut open = self.enter(&room_id).await?;
        let permit = must_erase_events(self.house.server_name.as_str(), &room_id, events.len());
        let mut commit = open.begin(permit);
        let before_ms = self.house.ledger.get(&RETENTION, &room).await?.unwrap_or_default();
        commit.put(&RETENTION, &room, &upto_ms.max(before_ms));
        for event in events {
            // Under the lock of the room: it may have been taken back meanwhile.
            let event = self.house.ledger.event(event.number).await?;
            open.erase(&event, &mut commit).await?;
        }
        open.resume(commit);
        open.leave().await?;
        // What is remembered says how far it was erased the next time it is asked.
        self.retention.lifetimes.remove(&room);
        *erased += events.len();
        Ok(())
    }
}

impl OpenRoom<'_> {
    /// Takes the content of an event out of the store; what it showed and what it is counted in goes
    /// with it.
    async fn erase(&mut self, event: &Event, commit: &mut Commit) -> Result<(), Error> {
        if event.erased || event.is_state() {
            return Ok(());
        }
        let pruned = self.pruned(&event.event_id, &event.json)?;
        let left =
            Event { json: pruned.json.clone(), spans: pruned.spans, erased: true, ..event.clone() };
        commit.put(&EVENTS, &event.number, &left.to_row());
        unlink(&self.rooms.house, self.room, event.number, commit).await?;
        self.drop_relation(event, commit).await?;
        self.note_for_search(event.number, commit);
        self.let_session_go(event, 0, commit);
        commit.hold(self.rooms.house.ledger.rewriting(event.number));
        commit.hold(Reparsed { pdus: self.rooms.pdus.clone(), number: event.number });
        Ok(())
    }

    /// The index of words has it too, and follows.
    fn note_for_search(&self, number: EventNid, commit: &mut Commit) {
        commit.stamp(move |position, rows| rows.put(&ERASED_EVENTS, &position, &number.0));
    }
}
