//! Read receipts ([spec]): public, private, threaded. They only move forward.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#receipts

use std::collections::BTreeMap;

use appliance_ledger::keyspaces::{MEMBERS, RECEIPT_CHANGES, RECEIPTS};
use appliance_ledger::rows::{MovedReceiptRow, ReceiptRow};
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::{EventId, RoomId, ServerName, UserId};
use appliance_model::{Caller, Error, Position, RoomNid, UserNid};
use appliance_rules::Permit;
use appliance_rules::keys::may_be_told_of_receipts;
use serde_json::{Map, Value, json};

use super::Reading;

/// `m.read`.
pub const PUBLIC: u8 = 1;
/// `m.read.private`.
pub const PRIVATE: u8 = 2;
/// "thread_id … main, or the event ID of the thread root".
const THREAD_BYTES_MAX: usize = 255;
/// Receipts read at once; a room's members and threads stay below in one answer.
const RECEIPTS_PAGE: usize = 5_000;

/// What a client reports.
#[derive(Clone, Debug)]
pub struct NewReceipt<'a> {
    /// [`PUBLIC`] or [`PRIVATE`].
    pub kind: u8,
    /// The event read.
    pub event_id: &'a EventId,
    /// `main`, a thread's root, or empty for the whole room.
    pub thread: &'a str,
}

/// A receipt to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whose.
    pub user: UserNid,
    /// [`PUBLIC`] or [`PRIVATE`].
    pub kind: u8,
    /// `main`, a thread's root, or empty.
    pub thread: String,
    /// How far.
    pub row: ReceiptRow,
}

impl Reading {
    /// Moves a receipt forward; one that would move back changes nothing.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`]: the caller is not in the room.
    /// * [`appliance_model::Kind::NotFound`]: the room has no such event.
    pub async fn receive(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        new: NewReceipt<'_>,
    ) -> Result<(), Error> {
        let room = self.joined_room(caller, room_id).await?;
        if new.thread.len() > THREAD_BYTES_MAX {
            return Err(Error::invalid_param("`thread_id` is too long."));
        }
        let object = format!("{room_id} {}", new.event_id);
        let permit = Permit::own("event.read", &caller.user_id, object);
        let at_ms = self.house.clock.now_ms();
        if self.move_receipt(permit, (room, caller.user), &new, at_ms).await? && new.kind == PUBLIC
        {
            self.tell_receipt((room, room_id), &caller.user_id, &new, at_ms).await?;
        }
        Ok(())
    }

    /// Another server says how far one of its users has read.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`]: the user is not the server's, or not in the room.
    /// * [`appliance_model::Kind::NotFound`]: this server does not have the event.
    pub async fn heard_receipt(
        &self,
        origin: &ServerName,
        (room_id, user_id): (&RoomId, &UserId),
        new: NewReceipt<'_>,
        at_ms: u64,
    ) -> Result<(), Error> {
        let (room, user) = self.member_there(origin, (room_id, user_id)).await?;
        if new.thread.len() > THREAD_BYTES_MAX {
            return Err(Error::invalid_param("`thread_id` is too long."));
        }
        let permit = may_be_told_of_receipts(origin, user_id)
            .ok_or_else(|| Error::forbidden("A server speaks for its own users."))?;
        let at_ms = at_ms.min(self.house.clock.now_ms());
        self.move_receipt(permit, (room, user), &new, at_ms).await.map(drop)
    }

    /// Another server's user who is in a room.
    pub(super) async fn member_there(
        &self,
        origin: &ServerName,
        (room_id, user_id): (&RoomId, &UserId),
    ) -> Result<(RoomNid, UserNid), Error> {
        let not_in = || Error::forbidden("That server has no such user in this room.");
        if user_id.server_name() != origin {
            return Err(not_in());
        }
        let ledger = &self.house.ledger;
        let room = ledger.room(room_id).await?.ok_or_else(not_in)?;
        let user = ledger.user(user_id).await?.ok_or_else(not_in)?;
        let member = ledger.get(&MEMBERS, &(room, membership::JOIN, user)).await?;
        member.map(|_| (room, user)).ok_or_else(not_in)
    }

    async fn tell_receipt(
        &self,
        (room, room_id): (RoomNid, &RoomId),
        user_id: &UserId,
        new: &NewReceipt<'_>,
        at_ms: u64,
    ) -> Result<(), Error> {
        let servers = self.house.servers_in(room).await?;
        let mut data = json!({ "ts": at_ms });
        if !new.thread.is_empty() {
            data["thread_id"] = new.thread.into();
        }
        let receipt = json!({ "event_ids": [new.event_id], "data": data });
        let content = json!({ room_id.as_str(): { "m.read": { user_id.as_str(): receipt } } });
        let name = format!("receipt {room_id} {user_id} {}", new.thread);
        self.house.outbox.tell(&servers, &name, "m.receipt", &content);
        Ok(())
    }

    /// Whether it moved.
    async fn move_receipt(
        &self,
        permit: Permit,
        (room, user): (RoomNid, UserNid),
        new: &NewReceipt<'_>,
        at_ms: u64,
    ) -> Result<bool, Error> {
        let place = self.place_of(room, new.event_id).await?;
        let ledger = &self.house.ledger;
        let key = (room, user, new.kind, new.thread.to_owned());
        let inside = self.doors.enter(user.0).await;
        let old = ledger.get(&RECEIPTS, &key).await?;
        if old.as_ref().is_some_and(|old| old.place >= place) {
            return Ok(false);
        }
        let mut commit = ledger.begin(permit);
        if let Some(old) = old {
            commit.delete(&RECEIPT_CHANGES, &(room, Position(old.position)));
        }
        let event_id = new.event_id.to_string();
        commit.stamp(move |position, rows| {
            let moved = MovedReceiptRow { user: key.1.0, kind: key.2, thread: key.3.clone() };
            rows.put(&RECEIPT_CHANGES, &(room, position), &moved);
            let row = ReceiptRow { event_id, place, at_ms, position: position.0 };
            rows.put(&RECEIPTS, &key, &row);
        });
        commit.hold(inside);
        if new.kind == PUBLIC {
            commit.touched().receipts.push(room);
        }
        // The reader's own counts change with either.
        commit.touched().own_receipts.push((user, room));
        ledger.commit(commit).await?;
        Ok(true)
    }

    /// Moves the caller's `m.fully_read` marker.
    ///
    /// # Errors
    ///
    /// As [`Reading::receive`].
    pub async fn mark_fully_read(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(), Error> {
        let room = self.joined_room(caller, room_id).await?;
        self.place_of(room, event_id).await?;
        let owner = (caller.user, caller.user_id.as_str());
        let content = json!({ "event_id": event_id }).to_string();
        self.personal.set_account_data(owner, Some(room), "m.fully_read", &content).await
    }

    /// The place of an event of the room's timeline.
    pub(super) async fn place_of(&self, room: RoomNid, event_id: &EventId) -> Result<i64, Error> {
        let event = self.house.ledger.event_by_id(event_id).await?;
        event
            .filter(|event| event.room == room)
            .and_then(|event| event.position)
            .ok_or_else(|| Error::not_found("The room has no such event."))
    }

    pub(super) async fn joined_room(
        &self,
        caller: &Caller,
        room_id: &RoomId,
    ) -> Result<RoomNid, Error> {
        let not_in = || Error::forbidden("You are not in this room.");
        let room = self.house.ledger.room(room_id).await?.ok_or_else(not_in)?;
        let key = (caller.user, room);
        let row = self.house.ledger.get(&appliance_ledger::keyspaces::USER_ROOMS, &key).await?;
        row.filter(|row| row.membership == appliance_ledger::membership::JOIN)
            .ok_or_else(not_in)?;
        Ok(room)
    }

    /// The receipts of a room that moved after `after`, up to `upto`.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn receipt_changes(
        &self,
        room: RoomNid,
        after: Option<Position>,
        upto: Position,
    ) -> Result<Vec<Receipt>, Error> {
        let view = self.house.ledger.newest();
        let from = after.map_or(0, |after| after.0 + 1);
        let bounds = ((room, Position(from)), (room, Position(upto.0 + 1)));
        let (moved, _) = view
            .scan_between(
                &RECEIPT_CHANGES,
                (&bounds.0, &bounds.1),
                Direction::Forward,
                RECEIPTS_PAGE,
            )
            .await?;
        let keys: Vec<_> = moved
            .into_iter()
            .map(|(_, moved)| (room, UserNid(moved.user), moved.kind, moved.thread))
            .collect();
        let rows = view.get_many(&RECEIPTS, &keys).await?;
        let receipt = |((_, user, kind, thread), row): (_, Option<ReceiptRow>)| {
            Some(Receipt { user, kind, thread, row: row? })
        };
        Ok(keys.into_iter().zip(rows).filter_map(receipt).collect())
    }

    /// The `m.receipt` events that `reader` sees: everyone's public receipts and their own private
    /// ones. None if there is nothing to see.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn receipt_events(
        &self,
        reader: UserNid,
        receipts: &[Receipt],
    ) -> Result<Vec<String>, Error> {
        let visible = |receipt: &&Receipt| receipt.kind == PUBLIC || receipt.user == reader;
        let shown: Vec<_> = receipts.iter().filter(visible).cloned().collect();
        self.receipts_shown(&shown).await
    }

    /// The `m.receipt` events of these receipts, none if there are none. The first says the most.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn receipts_shown(&self, receipts: &[Receipt]) -> Result<Vec<String>, Error> {
        type Content<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Map<String, Value>>>;
        let mut contents: Vec<Content<'_>> = Vec::new();
        // Those of the whole room come first: they say more than those of a thread.
        let whole = receipts.iter().filter(|receipt| receipt.thread.is_empty());
        let threads = receipts.iter().filter(|receipt| !receipt.thread.is_empty());
        for receipt in whole.chain(threads) {
            let user_id = self.house.ledger.user_id(receipt.user).await?;
            let kind = if receipt.kind == PUBLIC { "m.read" } else { "m.read.private" };
            let mut value = json!({ "ts": receipt.row.at_ms });
            if !receipt.thread.is_empty() {
                value["thread_id"] = receipt.thread.as_str().into();
            }
            // One event can carry a threaded and an unthreaded receipt of the same user, but the
            // format has room for one: then there is a second event.
            let event_id = receipt.row.event_id.as_str();
            let is_free = |content: &Content<'_>| {
                let users = content.get(event_id).and_then(|kinds| kinds.get(kind));
                users.is_none_or(|users| !users.contains_key(user_id.as_str()))
            };
            let free = contents.iter().position(is_free).unwrap_or_else(|| {
                contents.push(Content::new());
                contents.len() - 1
            });
            let kinds = contents[free].entry(event_id).or_default();
            kinds.entry(kind).or_default().insert(user_id.to_string(), value);
        }
        let event = |content| json!({ "type": "m.receipt", "content": content }).to_string();
        Ok(contents.into_iter().map(event).collect())
    }
}
