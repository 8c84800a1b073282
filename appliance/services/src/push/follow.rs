//! Finding for whom an event rings: a walk along the log of all events, behind those who write.

use std::sync::{Arc, PoisonError};

use appliance_ledger::keyspaces::{EVENT_LOG, EVENTS, PUSH_CURSOR, PUSHERS, USER_ROOMS};
use appliance_ledger::rows::LoggedRow;
use appliance_ledger::rows::push::RingRow;
use appliance_ledger::{Direction, Event, membership};
use appliance_model::ruma::UserId;
use appliance_model::ruma::push::{Action, Tweak};
use appliance_model::{Error, EventNid, Position, RoomNid, UserNid};
use appliance_rules::Permit;

use super::Push;

/// Rows of the log read at once.
const PAGE: usize = 200;
/// Pushers read at once, at the start.
const PUSHERS_PAGE: usize = 1_000;

impl Push {
    /// Who has a pusher: for the start. What a gateway did not take before the end is queued again.
    pub(super) async fn find_owners(&self) -> Result<(), Error> {
        let mut from = UserNid(0);
        loop {
            let range = ((from, [0; 16]), (UserNid(u64::MAX), [u8::MAX; 16]));
            let newest = self.house.ledger.newest();
            let (rows, more) = newest
                .scan_between(&PUSHERS, (&range.0, &range.1), Direction::Forward, PUSHERS_PAGE)
                .await?;
            for (key, row) in rows {
                from = UserNid(key.0.0 + 1);
                self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(key.0);
                for ring in row.backlog.unwrap_or_default() {
                    self.queue(key, Some(ring));
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Where the last run ended; the end of the log, if there was none.
    pub(super) async fn cursor(&self) -> Result<Position, Error> {
        let ledger = &self.house.ledger;
        Ok(ledger.get(&PUSH_CURSOR, &()).await?.map_or(ledger.position(), Position))
    }

    pub(super) async fn write_cursor(&self, cursor: Position) -> Result<(), Error> {
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.put(&PUSH_CURSOR, &(), &cursor.0);
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// Queues what rings in the log after `cursor`. Returns up to where it looked.
    pub(super) async fn follow(&self, cursor: Position) -> Result<Position, Error> {
        let ledger = &self.house.ledger;
        let end = Position(ledger.position().0 + 1);
        if self.owners.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Ok(Position(end.0 - 1));
        }
        let mut cursor = cursor;
        loop {
            let from = Position(cursor.0 + 1);
            let (rows, more) = ledger
                .newest()
                .scan_between(&EVENT_LOG, (&from, &end), Direction::Forward, PAGE)
                .await?;
            for (position, LoggedRow { room, event }) in rows {
                cursor = position;
                let number = EventNid(event);
                if ledger.get(&EVENTS, &number).await?.is_some() {
                    let event = ledger.event(number).await?;
                    self.ring_for(RoomNid(room), &event).await?;
                }
            }
            if !more {
                return Ok(Position(cursor.0.max(end.0 - 1)));
            }
        }
    }

    /// Queues an event for everybody for whom it rings.
    async fn ring_for(&self, room: RoomNid, event: &Arc<Event>) -> Result<(), Error> {
        let mut listeners = Vec::new();
        if event.kind() == "m.room.member" {
            self.members.remove(&room);
            listeners.extend(self.invited(room, event).await?);
        }
        {
            let members = self.members_of(room).await?;
            let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.extend(members.iter().filter(|user| owners.contains(user)));
        }
        if listeners.is_empty() {
            return Ok(());
        }
        let scene = self.reading.scene(room).await?;
        for user in listeners {
            let user_id = self.house.ledger.user_id(user).await?;
            let rules = self.personal.push_rules(user, &user_id).await?;
            let actions = self.reading.actions(&scene, (user, &user_id), &rules, event).await?;
            if !actions.iter().any(Action::should_notify) {
                continue;
            }
            let ring = RingRow {
                event: event.number.0,
                room: room.0,
                sound: sound(&actions),
                highlight: actions.iter().any(Action::is_highlight),
                at_ms: self.house.clock.now_ms(),
            };
            for (digest, _) in self.rows(user).await? {
                self.queue((user, digest), Some(ring.clone()));
            }
        }
        Ok(())
    }

    /// Whom a member event invites, if they have a pusher. "They are not in the room yet."
    async fn invited(&self, room: RoomNid, event: &Event) -> Result<Option<UserNid>, Error> {
        let target = event.part(event.spans.state_key).trim_matches('"');
        let Ok(target) = <&UserId>::try_from(target) else { return Ok(None) };
        let Some(user) = self.house.ledger.user(target).await? else { return Ok(None) };
        // Who left has other rooms than before, and other unread counts.
        self.badges.lock().unwrap_or_else(PoisonError::into_inner).remove(&user);
        let has_pusher = self.owners.lock().unwrap_or_else(PoisonError::into_inner).contains(&user);
        let row = self.house.ledger.get(&USER_ROOMS, &(user, room)).await?;
        let is_invited = row.is_some_and(|row| row.membership == membership::INVITE);
        Ok(Some(user).filter(|_| has_pusher && is_invited))
    }

    async fn members_of(&self, room: RoomNid) -> Result<Arc<Vec<UserNid>>, Error> {
        if let Some(members) = self.members.get(&room) {
            return Ok(members);
        }
        let members: Arc<Vec<_>> =
            Arc::new(self.rooms.members_now(room).await?.into_iter().collect());
        self.members.insert(room, members.clone());
        Ok(members)
    }
}

fn sound(actions: &[Action]) -> Option<String> {
    actions.iter().find_map(|action| match action {
        Action::SetTweak(Tweak::Sound(sound)) => Some(sound.as_str().to_owned()),
        _ => None,
    })
}
