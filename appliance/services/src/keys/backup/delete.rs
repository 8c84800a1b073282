//! `DELETE /room_keys/keys` ([spec]) and its forms for one room and one session.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeys

use appliance_ledger::keyspaces::{BACKED_UP_KEYS, BACKUPS};
use appliance_ledger::rows::keys::BackupRow;
use appliance_ledger::{Digest, Direction};
use appliance_model::ruma::{OwnedRoomId, RoomId};
use appliance_model::{Caller, Error, UserNid};
use appliance_rules::Permit;

use super::fetch::range_of;
use super::{BackupState, OpenBackup};
use crate::keys::Keys;

/// Keys deleted in one commit: it stays below 100 KB, and others get their turn in between.
const PAGE: usize = 500;

impl Keys {
    /// Deletes the keys of a backup, in all rooms or in one.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such backup.
    pub async fn delete_room_keys(
        &self,
        caller: &Caller,
        version: &str,
        room_id: Option<&RoomId>,
    ) -> Result<BackupState, Error> {
        let mut backup = self.enter_backup(caller, version).await?;
        let room = room_id.map(|room_id| self.backup_room(room_id));
        let permit = || Permit::own("backup.emptied", &caller.user_id, version);
        self.delete_keys_of(caller.user, &mut backup, room, &permit).await?;
        Ok(BackupState::of(&backup.row))
    }

    /// Deletes one key; that it was not there is no error.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such backup.
    pub async fn delete_room_key(
        &self,
        caller: &Caller,
        version: &str,
        room_id: &RoomId,
        session_id: &str,
    ) -> Result<BackupState, Error> {
        let OpenBackup { version, mut row, door } = self.enter_backup(caller, version).await?;
        let place = (caller.user, version, self.backup_room(room_id), session_id.to_owned());
        if self.house.ledger.get(&BACKED_UP_KEYS, &place).await?.is_some() {
            let permit = Permit::own("backup.emptied", &caller.user_id, version);
            let mut commit = self.house.ledger.begin(permit);
            commit.delete(&BACKED_UP_KEYS, &place);
            row.count = row.count.saturating_sub(1);
            row.etag += 1;
            commit.put(&BACKUPS, &(caller.user, version), &row);
            commit.hold(door);
            self.house.ledger.commit(commit).await?;
        }
        Ok(BackupState::of(&row))
    }

    /// Deletes from all backups the keys of sessions with which nothing is encrypted any more. Returns
    /// how many there were.
    ///
    /// # Errors
    ///
    /// If the store fails; what was not deleted opens nothing that this server has.
    pub async fn forget_sessions(
        &self,
        sessions: &[(OwnedRoomId, String)],
    ) -> Result<usize, Error> {
        let (mut forgotten, mut from) = (0, (UserNid(0), 0_u64));
        while !sessions.is_empty() {
            let view = self.house.ledger.newest();
            let end = (UserNid(u64::MAX), u64::MAX);
            let (backups, more): (Vec<((UserNid, u64), BackupRow)>, _) =
                view.scan_between(&BACKUPS, (&from, &end), Direction::Forward, PAGE).await?;
            for ((user, version), row) in backups {
                from = (user, version + 1);
                if !row.deleted {
                    forgotten += self.forget_sessions_of((user, version), sessions).await?;
                }
            }
            if !more {
                break;
            }
        }
        Ok(forgotten)
    }

    async fn forget_sessions_of(
        &self,
        (user, version): (UserNid, u64),
        sessions: &[(OwnedRoomId, String)],
    ) -> Result<usize, Error> {
        let door = self.doors.enter(user.0).await;
        let ledger = &self.house.ledger;
        let place = |(room_id, session): &(OwnedRoomId, String)| {
            (user, version, self.backup_room(room_id), session.clone())
        };
        let places: Vec<_> = sessions.iter().map(place).collect();
        let rows = ledger.newest().get_many(&BACKED_UP_KEYS, &places).await?;
        let Some(mut row) = ledger.get(&BACKUPS, &(user, version)).await? else { return Ok(0) };
        let there = places.iter().zip(rows).filter(|(_, row)| row.is_some());
        let there: Vec<_> = there.map(|(place, _)| place).collect();
        if there.is_empty() {
            return Ok(0);
        }
        let mut commit = ledger.begin(Permit::housekeeping());
        for place in &there {
            commit.delete(&BACKED_UP_KEYS, place);
        }
        row.count = row.count.saturating_sub(there.len() as u64);
        row.etag += 1;
        commit.put(&BACKUPS, &(user, version), &row);
        commit.hold(door);
        ledger.commit(commit).await?;
        Ok(there.len())
    }

    /// Deletes keys in pages. After each the backup counts what is left, so that it is right
    /// whenever the power goes.
    pub(super) async fn delete_keys_of(
        &self,
        user: UserNid,
        backup: &mut OpenBackup,
        room: Option<Digest>,
        permit: &(dyn Fn() -> Permit + Sync),
    ) -> Result<(), Error> {
        let (first, end) = range_of(user, backup.version, room);
        loop {
            let view = self.house.ledger.newest();
            let range = (&first, &end);
            let (rows, more) =
                view.scan_between(&BACKED_UP_KEYS, range, Direction::Forward, PAGE).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut commit = self.house.ledger.begin(permit());
            for (place, _) in &rows {
                commit.delete(&BACKED_UP_KEYS, place);
            }
            let row = &mut backup.row;
            row.count = row.count.saturating_sub(rows.len() as u64);
            row.etag += 1;
            commit.put(&BACKUPS, &(user, backup.version), row);
            commit.hold(backup.door.clone());
            self.house.ledger.commit(commit).await?;
            if !more {
                return Ok(());
            }
        }
    }
}
