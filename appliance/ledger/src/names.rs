//! Numbers for users, rooms and state keys. A number given out but not yet committed is remembered
//! and written again with every commit that uses it, so that a failed commit leaves no dangling
//! number.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use appliance_model::{Error, RoomNid, StateKeyNid, UserNid};
use quick_cache::sync::Cache;

use crate::keyspaces::{
    Digest, Keyspace, ROOM_IDS, ROOMS, STATE_KEY_IDS, STATE_KEYS, USER_IDS, USERS,
};
use crate::lane::Commit;
use crate::ledger::Ledger;
use crate::rows::{StateKeyRow, UserRow};

/// Names kept in memory, of each kind; about 150 bytes each.
const NAMES_CACHED_MAX: usize = 16_000;

/// The names in use.
pub(crate) struct Names {
    numbers: Cache<Digest, u64>,
    users: Cache<u64, OwnedUserId>,
    rooms: Cache<u64, OwnedRoomId>,
    given_out: Mutex<HashMap<Digest, u64>>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            numbers: Cache::new(NAMES_CACHED_MAX),
            users: Cache::new(NAMES_CACHED_MAX),
            rooms: Cache::new(NAMES_CACHED_MAX),
            given_out: Mutex::default(),
        }
    }
}

impl Ledger {
    /// The number of a user this server knows of.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn user(&self, user_id: &UserId) -> Result<Option<UserNid>, Error> {
        let digest = self.user_digest(user_id);
        Ok(self.number_of(&USER_IDS, digest).await?.map(UserNid))
    }

    /// The number of a user, given out in `commit` if there is none yet.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn user_in(&self, user_id: &UserId, commit: &mut Commit) -> Result<UserNid, Error> {
        let digest = self.user_digest(user_id);
        if let Some(number) = self.number_of(&USER_IDS, digest).await? {
            return Ok(UserNid(number));
        }
        let user = UserNid(self.give_out(digest));
        commit.put(&USER_IDS, &digest, &user.0);
        commit.put(&USERS, &user, &UserRow { user_id: user_id.to_string() });
        Ok(user)
    }

    /// The user ID of a number.
    ///
    /// # Errors
    ///
    /// If the store fails or knows no such number.
    pub async fn user_id(&self, user: UserNid) -> Result<OwnedUserId, Error> {
        if let Some(user_id) = self.names().users.get(&user.0) {
            return Ok(user_id);
        }
        let row = self.get(&USERS, &user).await?;
        let user_id = row
            .and_then(|row| UserId::parse(row.user_id).ok())
            .ok_or_else(|| Error::internal("a user number without a user"))?;
        self.names().users.insert(user.0, user_id.clone());
        Ok(user_id)
    }

    /// The number of a room this server knows.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn room(&self, room_id: &RoomId) -> Result<Option<RoomNid>, Error> {
        let digest = self.room_digest(room_id);
        Ok(self.number_of(&ROOM_IDS, digest).await?.map(RoomNid))
    }

    /// The key under which a room's number is kept.
    pub fn room_digest(&self, room_id: &RoomId) -> Digest {
        self.digest(&[b"room", room_id.as_bytes()])
    }

    /// The room ID of a number.
    ///
    /// # Errors
    ///
    /// If the store fails or knows no such number.
    pub async fn room_id(&self, room: RoomNid) -> Result<OwnedRoomId, Error> {
        if let Some(room_id) = self.names().rooms.get(&room.0) {
            return Ok(room_id);
        }
        let row = self.get(&ROOMS, &room).await?;
        let room_id = row
            .and_then(|row| RoomId::parse(row.room_id).ok())
            .ok_or_else(|| Error::internal("a room number without a room"))?;
        self.names().rooms.insert(room.0, room_id.clone());
        Ok(room_id)
    }

    /// The number of a state key, if anyone has ever set it.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn state_key(
        &self,
        kind: &StateEventType,
        key: &str,
    ) -> Result<Option<StateKeyNid>, Error> {
        let digest = self.state_key_digest(kind, key);
        if let Some(number) = self.number_of(&STATE_KEY_IDS, digest).await? {
            return Ok(Some(StateKeyNid(number)));
        }
        // One that is on its way to the store: its commit may be ahead of the caller's.
        let given_out = self.names().given_out.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(given_out.get(&digest).map(|number| marked(*number, kind)))
    }

    /// The number of a state key, given out in `commit` if there is none yet.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn state_key_in(
        &self,
        kind: &StateEventType,
        key: &str,
        commit: &mut Commit,
    ) -> Result<StateKeyNid, Error> {
        let digest = self.state_key_digest(kind, key);
        if let Some(number) = self.number_of(&STATE_KEY_IDS, digest).await? {
            return Ok(StateKeyNid(number));
        }
        let number = marked(self.give_out(digest), kind);
        let row = StateKeyRow { kind: kind.to_string(), key: key.to_owned() };
        commit.put(&STATE_KEY_IDS, &digest, &number.0);
        commit.put(&STATE_KEYS, &number, &row);
        Ok(number)
    }

    fn user_digest(&self, user_id: &UserId) -> Digest {
        self.digest(&[b"user", user_id.as_bytes()])
    }

    fn state_key_digest(&self, kind: &StateEventType, key: &str) -> Digest {
        self.digest(&[b"state", kind.to_string().as_bytes(), key.as_bytes()])
    }

    async fn number_of(
        &self,
        keyspace: &Keyspace<Digest, u64>,
        digest: Digest,
    ) -> Result<Option<u64>, Error> {
        if let Some(number) = self.names().numbers.get(&digest) {
            return Ok(Some(number));
        }
        let Some(number) = self.get(keyspace, &digest).await? else { return Ok(None) };
        self.names().numbers.insert(digest, number);
        self.names().given_out.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        Ok(Some(number))
    }

    fn give_out(&self, digest: Digest) -> u64 {
        let mut given_out = self.names().given_out.lock().unwrap_or_else(PoisonError::into_inner);
        *given_out.entry(digest).or_insert_with(|| self.next_number())
    }
}

/// The number of a state key: its lowest bit tells members from other state, so that a state of ten
/// thousand members can be read without them.
fn marked(number: u64, kind: &StateEventType) -> StateKeyNid {
    StateKeyNid(number << 1 | u64::from(*kind == StateEventType::RoomMember))
}
