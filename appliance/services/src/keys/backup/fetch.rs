//! `GET /room_keys/keys` ([spec]) and its forms for one room and one session: keys come back.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeys

use appliance_ledger::keyspaces::BACKED_UP_KEYS;
use appliance_ledger::{Digest, Direction};
use appliance_model::ruma::RoomId;
use appliance_model::{Caller, Error, UserNid};

use crate::keys::{Keys, RawJson, raw};

/// Keys in one page: about 500 KB.
const PAGE: usize = 500;

/// Where to go on. Comes from the page before.
#[derive(Clone, Debug)]
pub struct Place(Digest, String);

/// A key out of a backup.
#[derive(Clone, Debug)]
pub struct BackedUpKey {
    /// The room of the session.
    pub room_id: String,
    /// The session.
    pub session_id: String,
    /// The key, as it came in.
    pub json: RawJson,
}

impl Keys {
    /// A page of the keys in a backup, in all rooms or in one, those of one room together; and where
    /// the next page begins, if there is one.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such backup.
    pub async fn room_keys(
        &self,
        caller: &Caller,
        version: &str,
        room_id: Option<&RoomId>,
        from: Option<Place>,
    ) -> Result<(Vec<BackedUpKey>, Option<Place>), Error> {
        self.check_takes_part(caller)?;
        let (version, _) = self.backup(caller.user, version).await?;
        let room = room_id.map(|room_id| self.backup_room(room_id));
        let (first, end) = range_of(caller.user, version, room);
        let first = match from {
            Some(Place(room, session_id)) => (caller.user, version, room, session_id),
            None => first,
        };
        let view = self.house.ledger.newest();
        let range = (&first, &end);
        let (rows, more) =
            view.scan_between(&BACKED_UP_KEYS, range, Direction::Forward, PAGE).await?;
        let mut next = None;
        let mut keys = Vec::with_capacity(rows.len());
        for ((.., room, session_id), row) in rows {
            // The smallest ID after this one.
            next = more.then(|| Place(room, format!("{session_id}\0")));
            keys.push(BackedUpKey { room_id: row.room_id, session_id, json: raw(row.json)? });
        }
        Ok((keys, next))
    }

    /// One key.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if backup or key are not there.
    pub async fn room_key(
        &self,
        caller: &Caller,
        version: &str,
        room_id: &RoomId,
        session_id: &str,
    ) -> Result<RawJson, Error> {
        self.check_takes_part(caller)?;
        let (version, _) = self.backup(caller.user, version).await?;
        let place = (caller.user, version, self.backup_room(room_id), session_id.to_owned());
        let row = self.house.ledger.get(&BACKED_UP_KEYS, &place).await?;
        raw(row.ok_or_else(|| Error::not_found("This key is not in the backup."))?.json)
    }

    /// A backup may hold keys of rooms that this server does not know.
    pub(super) fn backup_room(&self, room_id: &RoomId) -> Digest {
        self.house.ledger.digest(&[b"backup room", room_id.as_bytes()])
    }
}

type Key = (UserNid, u64, Digest, String);

/// From the first key of a backup (or of a room in it) to before the first that is not.
pub(super) fn range_of(user: UserNid, version: u64, room: Option<Digest>) -> (Key, Key) {
    let Some(room) = room else {
        let start = |version| (user, version, Digest::default(), String::new());
        return (start(version), start(version + 1));
    };
    let start = (user, version, room, String::new());
    match u128::from_be_bytes(room).checked_add(1) {
        Some(after) => (start, (user, version, after.to_be_bytes(), String::new())),
        None => (start, (user, version + 1, Digest::default(), String::new())),
    }
}
