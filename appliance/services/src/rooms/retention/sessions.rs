//! The keys in backups with which nothing is encrypted any more that this server has.
//!
//! The commit that takes an encrypted event away writes down its session, and that is crossed off when its keys
//! are gone, or something still needs them. So a power cut between the two keeps no key for ever.
//!
//! Where a whole room forgets, it is looked at at once. Where a single event is taken back, more may be said in
//! the same session, whose key apps have put into the backup once and will not again: it is looked at when the
//! session is too old to be used.

use std::collections::BTreeSet;

use appliance_ledger::keyspaces::ERASED_SESSIONS;
use appliance_ledger::{Commit, Direction, Event};
use appliance_model::ruma::OwnedRoomId;
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Error, EventNid, RoomNid};
use appliance_rules::Permit;
use serde::Deserialize;

use super::Rooms;
use crate::keys::Keys;
use crate::keys::backup::SESSION_ID_BYTES_MAX;
use crate::rooms::OpenRoom;

/// Sessions looked at in one trip.
const PAGE: usize = 1_000;
/// Those of an hour are looked at together: each look at a room goes through its newest events.
const HOUR_MS: u64 = 60 * 60 * 1_000;
/// "How long the session should be used before changing it. `604800000` (a week) is the recommended default."
const ROTATION_MS_DEFAULT: u64 = 7 * 24 * HOUR_MS;
/// Rooms that hardly ever change it are not waited for for ever.
const ROTATION_MS_MAX: u64 = 5 * ROTATION_MS_DEFAULT;

impl OpenRoom<'_> {
    /// Writes down the session of an event that is gone, to be looked at from `due_ms` on (milliseconds since the
    /// Unix epoch).
    pub(in crate::rooms) fn let_session_go(&self, event: &Event, due_ms: u64, commit: &mut Commit) {
        if let Some(session) = session_of(event) {
            commit.put(&ERASED_SESSIONS, &(due_ms, self.room, event.number), &session);
        }
    }

    /// From when on nobody encrypts any more with a session that is in use now, by the room's
    /// `m.room.encryption`.
    pub(in crate::rooms) async fn rotated_ms(&self) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Content {
            rotation_period_ms: Option<u64>,
        }
        let encryption = self.state(&StateEventType::RoomEncryption, "").await?;
        let said = encryption
            .and_then(|event| serde_json::from_str::<Content>(event.content.get()).ok())
            .and_then(|content| content.rotation_period_ms);
        let period_ms = said.unwrap_or(ROTATION_MS_DEFAULT).min(ROTATION_MS_MAX);
        let end_ms = self.rooms.house.clock.now_ms().saturating_add(period_ms);
        Ok(end_ms.next_multiple_of(HOUR_MS))
    }
}

impl Rooms {
    /// Deletes from all backups the keys of sessions of which events are gone and no event of their room is left.
    /// To be called after events were erased, and now and then; what a power cut left is done by the next call.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn forget_unneeded_sessions(&self, keys: &Keys) -> Result<(), Error> {
        type Gone = ((u64, RoomNid, EventNid), String);
        let due_ms = self.house.clock.now_ms().saturating_add(1);
        let due = (&(0, RoomNid(0), EventNid(0)), &(due_ms, RoomNid(0), EventNid(0)));
        loop {
            let view = self.house.ledger.newest();
            let (rows, more): (Vec<Gone>, _) =
                view.scan_between(&ERASED_SESSIONS, due, Direction::Forward, PAGE).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut commit = self.house.ledger.begin(Permit::housekeeping());
            let mut sessions = BTreeSet::new();
            for (key, session) in rows {
                commit.delete(&ERASED_SESSIONS, &key);
                sessions.insert((key.1, session));
            }
            keys.forget_sessions(&self.unneeded_sessions(&sessions).await?).await?;
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

/// The session with which an event is encrypted; none of one whose content is gone.
fn session_of(event: &Event) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use appliance_model::ruma::RoomId;
    use appliance_model::{Caller, Kind};
    use serde_json::{Value, json};

    use super::*;
    use crate::keys::backup::NewBackup;
    use crate::rooms::Redaction;
    use crate::rooms::retention::tests::{MINUTE_MS, forgetful};
    use crate::scenario::{Ward, event};

    /// A backup of somebody's with the keys `early` and `both` of each room; its version.
    async fn back_up(ward: &Ward, owner: &Caller, rooms: &[&RoomId]) -> String {
        let raw =
            |value: Value| serde_json::value::RawValue::from_string(value.to_string()).unwrap();
        let keys = &ward.services.keys;
        let algorithm = "m.megolm_backup.v1.curve25519-aes-sha2".to_owned();
        let new = NewBackup { algorithm, auth_data: raw(json!({})), version: None };
        let version = keys.create_backup(owner, new).await.unwrap();
        let key = json!({
            "first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": {},
        });
        let sessions = || ["early", "both"].map(|id| (id.to_owned(), raw(key.clone()))).into();
        let stored = rooms.iter().map(|room| ((*room).to_owned(), sessions())).collect();
        keys.store_room_keys(owner, &version, stored).await.unwrap();
        version
    }

    async fn backed_up(ward: &Ward, owner: &Caller, version: &str, room: &RoomId) -> Vec<String> {
        let keys = &ward.services.keys;
        let found = keys.room_keys(owner, version, Some(room), None).await.unwrap().0;
        found.into_iter().map(|key| key.session_id).collect()
    }

    /// Something encrypted with this session.
    async fn seal(ward: &Ward, who: &Caller, room: &RoomId, session: &str) -> String {
        let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": session });
        let txn_id = ward.services.house.dice.letters(12);
        let request = event(room, ("m.room.encrypted", &txn_id), content);
        ward.services.rooms.send_event(who, &request).await.unwrap().to_string()
    }

    /// A key in a backup lives as long as there is something that it opens.
    #[tokio::test]
    async fn a_backed_up_key_goes_with_the_last_event_that_it_opens() {
        let (ward, people, room) = forgetful().await;
        let [nurse, doctor] = &people;
        let other = ward.room_of(&[nurse, doctor]).await;
        let mut versions = Vec::new();
        for owner in &people {
            versions.push(back_up(&ward, owner, &[&room, &other]).await);
        }
        let left = async |expected: &[&str]| {
            for (owner, version) in people.iter().zip(&versions) {
                assert_eq!(backed_up(&ward, owner, version, &room).await, expected);
                assert_eq!(
                    backed_up(&ward, owner, version, &other).await.len(),
                    2,
                    "another room's are others"
                );
                let info = ward.services.keys.backup_info(owner, Some(version)).await.unwrap();
                assert_eq!(info.count as usize, expected.len() + 2);
            }
        };
        seal(&ward, nurse, &room, "early").await;
        seal(&ward, nurse, &room, "both").await;
        ward.clock.pass_ms(MINUTE_MS / 2);
        seal(&ward, nurse, &room, "both").await;
        left(&["both", "early"]).await;
        ward.clock.pass_ms(MINUTE_MS / 2);
        assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 2);
        left(&["both"]).await;
        ward.clock.pass_ms(MINUTE_MS / 2);
        assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 1);
        left(&[]).await;
    }

    /// The power goes, or the disk is full, after the events and before their keys.
    #[tokio::test]
    async fn a_backed_up_key_that_a_power_cut_left_goes_with_the_next_look() {
        for is_full in [false, true] {
            let (mut ward, [nurse, _], room) = forgetful().await;
            let version = back_up(&ward, &nurse, &[&room]).await;
            seal(&ward, &nurse, &room, "early").await;
            ward.clock.pass_ms(MINUTE_MS);
            if is_full {
                // That the time has come, and the events.
                ward.engine().fail_commit_after(2, appliance_engine::EngineError::Full);
                let stopped = ward.services.forget_what_is_over().await;
                assert_eq!(stopped.unwrap_err().kind, Kind::Unavailable);
            } else {
                let (number, _) = ward.services.rooms.known(&room).await.unwrap();
                ward.services.rooms.erase_once(number).await.unwrap();
                ward = ward.power_cut_and_restart().await;
            }
            assert_eq!(backed_up(&ward, &nurse, &version, &room).await, ["both", "early"]);
            assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 0, "the event was gone");
            assert_eq!(
                backed_up(&ward, &nurse, &version, &room).await,
                ["both"],
                "full: {is_full}"
            );
            let view = ward.services.house.ledger.newest();
            let (noted, _) =
                view.scan(&ERASED_SESSIONS, &(), Direction::Forward, 10).await.unwrap();
            assert_eq!(noted, Vec::<((u64, RoomNid, EventNid), String)>::new());
        }
    }

    /// What is said later in the same session is opened with the key that is in the backup already.
    #[tokio::test]
    async fn a_key_outlives_what_was_taken_back_as_long_as_its_session_is_used() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        for (said, period_ms) in [(json!({}), 7 * 24 * HOUR_MS), (json!(HOUR_MS), HOUR_MS)] {
            let room = ward.room_of(&[&nurse, &doctor]).await;
            let mut encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
            if said.is_u64() {
                encryption["rotation_period_ms"] = said;
            }
            ward.state(&nurse, &room, ("m.room.encryption", ""), encryption).await;
            let version = back_up(&ward, &nurse, &[&room]).await;
            let taken_back = ["early", "both"].map(|session| seal(&ward, &nurse, &room, session));
            for event_id in taken_back {
                let event_id = event_id.await;
                let redaction = Redaction {
                    event_id: event_id.as_str().try_into().unwrap(),
                    txn_id: event_id.as_str().into(),
                    reason: None,
                };
                ward.services.rooms.redact(&nurse, &room, redaction).await.unwrap();
            }
            seal(&ward, &nurse, &room, "both").await;
            ward.clock.pass_ms(period_ms - 1);
            ward.services.forget_what_is_over().await.unwrap();
            assert_eq!(backed_up(&ward, &nurse, &version, &room).await, ["both", "early"]);
            ward.clock.pass_ms(HOUR_MS + 1);
            ward.services.forget_what_is_over().await.unwrap();
            assert_eq!(backed_up(&ward, &nurse, &version, &room).await, ["both"]);
        }
    }
}
