//! Who is typing ([spec]). Kept in memory only: after a restart nobody is.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#typing-notifications

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use appliance_model::ruma::{RoomId, ServerName, UserId};
use appliance_model::{Caller, Error, RoomNid, UserNid};
use serde_json::json;

use super::Reading;
use super::presence::Serial;

/// A client that went away stops typing by itself after this.
const TYPING_MS_MAX: u64 = 120_000;
/// A server that went away: its user stops typing by itself after this.
const TYPING_THERE_MS: u64 = 60_000;
/// Rooms with typists; beyond it the notices of the quietest are dropped.
const ROOMS_MAX: usize = 10_000;

/// Who is typing where.
pub(super) struct Typists(Mutex<Inner>);

struct Inner {
    serial: Serial,
    rooms: HashMap<RoomNid, TypingRoom>,
}

#[derive(Default)]
struct TypingRoom {
    /// When, by serial number, this room last changed.
    changed: u64,
    /// Until when each is typing.
    until_ms: BTreeMap<UserNid, u64>,
}

impl Typists {
    pub fn new(serial: Serial) -> Self {
        Self(Mutex::new(Inner { serial, rooms: HashMap::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// Says that the caller is typing for so long, or no more.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] outside the room.
    pub async fn set_typing(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        timeout_ms: Option<u64>,
    ) -> Result<(), Error> {
        let room = self.joined_room(caller, room_id).await?;
        let now_ms = self.house.clock.now_ms();
        let changed = {
            let mut inner = self.typists.lock();
            inner.set(
                room,
                caller.user,
                timeout_ms.map(|ms| now_ms + ms.min(TYPING_MS_MAX)),
                now_ms,
            )
        };
        if changed {
            self.waiters.wake_room(room);
        }
        // Said again while it lasts: other servers forget it after a minute or less.
        if changed || timeout_ms.is_some() {
            let user_id = &caller.user_id;
            let content =
                json!({ "room_id": room_id, "user_id": user_id, "typing": timeout_ms.is_some() });
            let servers = self.house.servers_in(room).await?;
            let name = format!("typing {room_id} {user_id}");
            self.house.outbox.tell(&servers, &name, "m.typing", &content);
        }
        Ok(())
    }

    /// Another server says that one of its users is typing, or no more.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`]: the user is not the server's, or not in the room.
    pub async fn heard_typing(
        &self,
        origin: &ServerName,
        (room_id, user_id): (&RoomId, &UserId),
        is_typing: bool,
    ) -> Result<(), Error> {
        let (room, user) = self.member_there(origin, (room_id, user_id)).await?;
        let now_ms = self.house.clock.now_ms();
        let until_ms = is_typing.then(|| now_ms + TYPING_THERE_MS);
        if self.typists.lock().set(room, user, until_ms, now_ms) {
            self.waiters.wake_room(room);
        }
        Ok(())
    }

    /// The present serial number of what is told without being committed: typing and presence.
    pub fn serial(&self) -> u64 {
        self.serial.now()
    }

    /// The typing notices of a room, if they changed after `after`: those who type, as JSON.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn typing_event(&self, room: RoomNid, after: u64) -> Result<Option<String>, Error> {
        let now_ms = self.house.clock.now_ms();
        let users = {
            let mut inner = self.typists.lock();
            inner.expire(room, now_ms);
            match inner.rooms.get(&room) {
                Some(known) if known.changed > after => {
                    known.until_ms.keys().copied().collect::<Vec<_>>()
                }
                _ => return Ok(None),
            }
        };
        let mut user_ids = Vec::with_capacity(users.len());
        for user in users {
            user_ids.push(self.house.ledger.user_id(user).await?);
        }
        Ok(Some(json!({ "type": "m.typing", "content": { "user_ids": user_ids } }).to_string()))
    }

    /// The rooms whose typing notices changed after `after`.
    pub fn rooms_with_typing(&self, after: u64) -> Vec<RoomNid> {
        let now_ms = self.house.clock.now_ms();
        let mut inner = self.typists.lock();
        if inner.rooms.is_empty() {
            return Vec::new();
        }
        let rooms: Vec<_> = inner.rooms.keys().copied().collect();
        rooms.iter().for_each(|room| inner.expire(*room, now_ms));
        rooms
            .into_iter()
            .filter(|room| inner.rooms.get(room).is_some_and(|known| known.changed > after))
            .collect()
    }

    /// Ends the notices whose time is over, so that those who wait hear of it. Returns when the
    /// next one ends, in milliseconds since the Unix epoch.
    pub fn expire_typing(&self) -> Option<u64> {
        let now_ms = self.house.clock.now_ms();
        let (woken, next) = {
            let mut inner = self.typists.lock();
            let before = inner.serial.now();
            let rooms: Vec<_> = inner.rooms.keys().copied().collect();
            rooms.iter().for_each(|room| inner.expire(*room, now_ms));
            let woken: Vec<_> = (inner.rooms.iter())
                .filter(|(_, known)| known.changed > before)
                .map(|(room, _)| *room)
                .collect();
            let next = inner.rooms.values().flat_map(|known| known.until_ms.values()).min();
            (woken, next.copied())
        };
        woken.into_iter().for_each(|room| self.waiters.wake_room(room));
        next
    }
}

impl Inner {
    /// Whether anything changed for those who watch.
    fn set(&mut self, room: RoomNid, user: UserNid, until_ms: Option<u64>, now_ms: u64) -> bool {
        if self.rooms.len() >= ROOMS_MAX && !self.rooms.contains_key(&room) {
            self.rooms.retain(|_, known| !known.until_ms.is_empty());
            if self.rooms.len() >= ROOMS_MAX {
                return false;
            }
        }
        self.expire(room, now_ms);
        let known = self.rooms.entry(room).or_default();
        let changed = match until_ms {
            Some(until_ms) => known.until_ms.insert(user, until_ms).is_none(),
            None => known.until_ms.remove(&user).is_some(),
        };
        if changed {
            known.changed = self.serial.next();
        }
        changed
    }

    fn expire(&mut self, room: RoomNid, now_ms: u64) {
        let Some(known) = self.rooms.get_mut(&room) else { return };
        let before = known.until_ms.len();
        known.until_ms.retain(|_, until_ms| *until_ms > now_ms);
        if known.until_ms.len() != before {
            known.changed = self.serial.next();
        }
    }
}
