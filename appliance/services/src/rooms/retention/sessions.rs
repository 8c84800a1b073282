//! The keys in backups with which nothing is encrypted any more that this server has.
//!
//! The commit that erases an encrypted event writes down its session; a session is crossed off when its keys are
//! gone, or something still needs them. So a power cut between the two keeps no key for ever.

use std::collections::BTreeSet;

use appliance_ledger::keyspaces::ERASED_SESSIONS;
use appliance_ledger::{Direction, Event};
use appliance_model::ruma::OwnedRoomId;
use appliance_model::{Error, RoomNid};
use appliance_rules::Permit;
use serde::Deserialize;

use super::Rooms;
use crate::keys::Keys;
use crate::keys::backup::SESSION_ID_BYTES_MAX;

/// Sessions looked at in one trip.
const PAGE: usize = 1_000;

impl Rooms {
    /// Deletes from all backups the keys of sessions of which events were erased and no event of their room is left.
    /// To be called after events were erased; what a power cut left is done by the next call.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn forget_unneeded_sessions(&self, keys: &Keys) -> Result<(), Error> {
        loop {
            // Nothing is erased meanwhile: a session that is written down again must not be crossed off.
            let alone = self.retention.sessions.clone().lock_owned().await;
            let view = self.house.ledger.newest();
            let (rows, more) = view.scan(&ERASED_SESSIONS, &(), Direction::Forward, PAGE).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let sessions: BTreeSet<_> = rows.into_iter().map(|(session, ())| session).collect();
            keys.forget_sessions(&self.unneeded_sessions(&sessions).await?).await?;
            let mut commit = self.house.ledger.begin(Permit::housekeeping());
            for session in &sessions {
                commit.delete(&ERASED_SESSIONS, session);
            }
            commit.hold(alone);
            self.house.ledger.commit(commit).await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Of these encryption sessions, those that no event of their room needs any more.
    ///
    /// # Errors
    ///
    /// If the store fails.
    async fn unneeded_sessions(
        &self,
        sessions: &BTreeSet<(RoomNid, String)>,
    ) -> Result<Vec<(OwnedRoomId, String)>, Error> {
        /// Events of a room looked at. Where more live, keys are kept: that is no leak, only no gain.
        const LOOKED_AT_MAX: usize = 10_000;
        let mut unneeded = Vec::new();
        let rooms: BTreeSet<RoomNid> = sessions.iter().map(|(room, _)| *room).collect();
        for room in rooms {
            let range = ((room, String::new()), (RoomNid(room.0 + 1), String::new()));
            let mut left: BTreeSet<String> =
                sessions.range(range.0..range.1).map(|(_, session)| session.clone()).collect();
            let view = self.house.ledger.view().await?;
            let all = (i64::MIN, i64::MAX);
            let newest = view.timeline(room, all, Direction::Backward, LOOKED_AT_MAX).await?;
            let mut reached_erased = !newest.more;
            for (event, _) in &newest.events {
                reached_erased |= event.erased;
                if let Some(session) = session_of(event).filter(|_| !event.erased) {
                    left.remove(&session);
                }
            }
            if reached_erased {
                let room_id = self.house.ledger.room_id(room).await?;
                unneeded.extend(left.into_iter().map(|session| (room_id.clone(), session)));
            }
        }
        Ok(unneeded)
    }
}

/// The session with which an event is encrypted.
pub(super) fn session_of(event: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        session_id: String,
    }
    if event.kind() != "m.room.encrypted" {
        return None;
    }
    let content = serde_json::from_str::<Content>(event.content()).ok()?;
    // A longer one is in no backup.
    Some(content.session_id).filter(|id| id.len() <= SESSION_ID_BYTES_MAX)
}
