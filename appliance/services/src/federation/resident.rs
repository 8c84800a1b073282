//! What is common to all answers: the room must be one that this server is in, and the asking server one
//! that may take part.

use std::fmt::Write as _;

use appliance_ledger::keyspaces::HEADS;
use appliance_ledger::{Event, Root};
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::{OwnedRoomId, RoomId, ServerName};
use appliance_model::{Error, EventNid, RoomNid};

use super::fetch::{Errand, Source};
use crate::rooms::{OpenRoom, Rooms, rules_of};

impl Rooms {
    /// Enters a room that another server asks about.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: this server is not in the room.
    /// * [`appliance_model::Kind::Forbidden`]: the room's access list keeps the other server out.
    pub(super) async fn enter_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<OpenRoom<'_>, Error> {
        let open = self.enter(room_id).await?;
        if !open.is_resident() {
            return Err(Error::not_found("This server is not in that room."));
        }
        if !open.admits(origin).await? {
            let kept_out = "The room's access list keeps this server out.";
            return Err(Error::forbidden(kept_out));
        }
        Ok(open)
    }

    /// "The server ACLs … `m.typing` and `m.receipt` EDUs": for what is no event and needs no door.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`]: the room's access list keeps the other server out.
    pub(crate) async fn check_admitted(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<(), Error> {
        let (room, _, rules) = self.known_room(room_id).await?;
        let head = self.house.ledger.get(&HEADS, &room).await?.unwrap_or_default();
        let kind = StateEventType::RoomServerAcl;
        let acl = match self.state_at(room, Root(head.state_root), &kind, "").await? {
            Some(event) => Some(self.pdu(event.number, &rules).await?),
            None => None,
        };
        match appliance_rules::inbound::acl_allows(acl.as_deref(), origin) {
            true => Ok(()),
            false => Err(Error::forbidden("The room's access list keeps this server out.")),
        }
    }

    /// The same for what only servers in the room are told.
    ///
    /// # Errors
    ///
    /// As [`Rooms::enter_for`]; also [`appliance_model::Kind::Forbidden`] if the other server has nobody
    /// in the room.
    pub(super) async fn enter_for_member(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<OpenRoom<'_>, Error> {
        let open = self.enter_for(origin, room_id).await?;
        if !open.has_server(origin) {
            return Err(Error::forbidden("Your server is not in that room."));
        }
        Ok(open)
    }

    /// The same for what a server can tell that is no longer in the room: what came before it left. Its last word
    /// there, a leave, is of no use to whoever has not what it builds on and can ask nobody else for it.
    ///
    /// # Errors
    ///
    /// As [`Rooms::enter_for_member`].
    pub(super) async fn enter_for_reader(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<OpenRoom<'_>, Error> {
        let open = self.enter(room_id).await?;
        // Who was in the room when our people left it is so for this server ever after.
        if open.is_resident() || !open.has_server(origin) {
            drop(open);
            return self.enter_for_member(origin, room_id).await;
        }
        match open.admits(origin).await? {
            true => Ok(open),
            false => Err(Error::forbidden("The room's access list keeps this server out.")),
        }
    }

    /// A room this server knows: number, ID and rules.
    pub(super) async fn known_room(
        &self,
        room_id: &RoomId,
    ) -> Result<(RoomNid, OwnedRoomId, RoomVersionRules), Error> {
        let (room, version) = self.known(room_id).await?;
        Ok((room, room_id.to_owned(), rules_of(&version)?))
    }

    /// Events as a JSON array, in the form for servers.
    pub(super) async fn pdus_json(&self, numbers: &[EventNid]) -> Result<String, Error> {
        let events = self.house.ledger.events(numbers).await?;
        let mut out = String::from("[");
        for event in &events {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(json_of(event));
        }
        out.push(']');
        Ok(out)
    }
}

/// One at a time through what `server` has of a room. Others need not wait for one that is slow: what
/// two of them bring at once is told apart inside the room.
pub(super) fn turn_of(rooms: &Rooms, room_id: &RoomId, server: &ServerName) -> u64 {
    turn(rooms, room_id, server.as_bytes())
}

/// One of our users at a time comes into a room that is elsewhere; what is sent of the room meanwhile
/// waits until it is ours.
pub(super) fn arrival_of(rooms: &Rooms, room_id: &RoomId) -> u64 {
    turn(rooms, room_id, b"")
}

fn turn(rooms: &Rooms, room_id: &RoomId, whose: &[u8]) -> u64 {
    let digest = rooms.house.ledger.digest(&[b"turn", room_id.as_bytes(), whose]);
    u64::from_be_bytes(digest[..8].try_into().expect("eight of sixteen bytes"))
}

/// An event as it travels between servers.
pub(super) fn json_of(event: &Event) -> &str {
    // What is stored was UTF-8 when it was parsed.
    std::str::from_utf8(&event.json).unwrap_or("{}")
}

/// Texts as a JSON array of strings.
pub(super) fn strings_json<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let mut out = String::from("[");
    for text in texts {
        if out.len() > 1 {
            out.push(',');
        }
        let _ = write!(out, "{}", serde_json::Value::from(text.as_ref()));
    }
    out.push(']');
    out
}

impl<'a> Source<'a> {
    /// A source of events of `room_id`; all that is asked of it counts as part of `errand`.
    pub(super) fn new(
        server: &'a ServerName,
        room_id: &'a RoomId,
        rules: &'a RoomVersionRules,
        errand: &'a Errand,
    ) -> Self {
        Self { server, room_id, rules, errand }
    }
}
