//! `PUT /room_keys/keys` ([spec]) and its forms for one room and one session: keys go into the
//! backup.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeys

use std::collections::BTreeMap;

use appliance_ledger::keyspaces::{BACKED_UP_KEYS, BACKUPS};
use appliance_ledger::rows::keys::BackedUpKeyRow;
use appliance_model::ruma::{OwnedRoomId, UInt};
use appliance_model::{Caller, Error, Kind};
use appliance_rules::Permit;
use serde::Deserialize;

use super::{BackupState, OpenBackup};
use crate::keys::{Keys, RawJson};

/// A backed-up session is about 700 bytes.
const KEY_BYTES_MAX: usize = 16 * 1024;
/// "Session IDs" are 43 letters; longer ones than this do not fit the engine's keys.
pub(crate) const SESSION_ID_BYTES_MAX: usize = 255;
/// A busy account gathers some ten thousand a year.
const KEYS_MAX: u64 = 1_000_000;

/// Rooms, their sessions, and the key of each.
pub type RoomKeys = BTreeMap<OwnedRoomId, BTreeMap<String, RawJson>>;

/// What the server understands of a key. Everything else is passed on as it is.
#[derive(Deserialize)]
struct KeyData {
    first_message_index: UInt,
    forwarded_count: UInt,
    is_verified: bool,
    session_data: RawJson,
}

impl Keys {
    /// Puts keys into the current backup. A session that is there already is replaced only by a
    /// better key for it.
    ///
    /// # Errors
    ///
    /// * [`Kind::WrongRoomKeysVersion`]: the backup is not (or no longer) the current one.
    /// * [`Kind::NotFound`]: there is no such backup.
    /// * [`Kind::BadJson`], [`Kind::InvalidParam`], [`Kind::TooLarge`]: a key does not have the form
    ///   it needs, or the backup is full. Then none is stored.
    pub async fn store_room_keys(
        &self,
        caller: &Caller,
        version: &str,
        keys: RoomKeys,
    ) -> Result<BackupState, Error> {
        let mut checked = Vec::new();
        for (room_id, sessions) in keys {
            let room = self.backup_room(&room_id);
            for (session_id, json) in sessions {
                checked.push(((room, session_id.clone()), check(&room_id, &session_id, &json)?));
            }
        }
        let OpenBackup { version, mut row, door } = self.enter_backup(caller, version).await?;
        // "Must be the current backup."
        let current = self.current_backup(caller.user).await?.map(|(current, _)| current);
        if current != Some(version) {
            let current_version = current.unwrap_or_default().to_string();
            return Err(Error::new(
                Kind::WrongRoomKeysVersion { current_version },
                "Another key backup is the current one.",
            ));
        }
        let places: Vec<_> = checked
            .iter()
            .map(|((room, session), _)| (caller.user, version, *room, session.clone()))
            .collect();
        let known = self.house.ledger.newest().get_many(&BACKED_UP_KEYS, &places).await?;
        let permit = Permit::own("backup.filled", &caller.user_id, version);
        let mut commit = self.house.ledger.begin(permit);
        let mut is_changed = false;
        for ((place, (_, new)), old) in places.iter().zip(&checked).zip(&known) {
            if old.as_ref().is_some_and(|old| !is_better(new, old)) {
                continue;
            }
            commit.put(&BACKED_UP_KEYS, place, new);
            row.count += u64::from(old.is_none());
            is_changed = true;
        }
        if row.count > KEYS_MAX {
            return Err(Error::too_large("This key backup is full."));
        }
        if is_changed {
            row.etag += 1;
            commit.put(&BACKUPS, &(caller.user, version), &row);
            commit.hold(door);
            self.house.ledger.commit(commit).await?;
        }
        Ok(BackupState::of(&row))
    }
}

fn check(room_id: &OwnedRoomId, session_id: &str, json: &RawJson) -> Result<BackedUpKeyRow, Error> {
    if json.get().len() > KEY_BYTES_MAX {
        return Err(Error::too_large("A room key is larger than 16 KiB."));
    }
    if session_id.is_empty() || session_id.len() > SESSION_ID_BYTES_MAX {
        return Err(Error::invalid_param("A session ID has 1 to 255 bytes."));
    }
    let data: KeyData = serde_json::from_str(json.get()).map_err(|error| {
        Error::bad_json(format!("A room key has not the form it needs: {error}"))
    })?;
    if !data.session_data.get().starts_with('{') {
        return Err(Error::bad_json("`session_data` must be an object."));
    }
    Ok(BackedUpKeyRow {
        room_id: room_id.to_string(),
        is_verified: data.is_verified,
        first_message_index: data.first_message_index.into(),
        forwarded_count: data.forwarded_count.into(),
        json: json.get().to_owned(),
    })
}

/// "if the keys have different values for `is_verified`, then it will keep the key that has
/// `is_verified` set to true; if … the same …, then it will keep the key with a lower
/// `first_message_index`; and finally, … the key with a lower `forwarded_count`."
fn is_better(new: &BackedUpKeyRow, old: &BackedUpKeyRow) -> bool {
    let rank =
        |row: &BackedUpKeyRow| (!row.is_verified, row.first_message_index, row.forwarded_count);
    rank(new) < rank(old)
}
