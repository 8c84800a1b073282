//! Rooms, as administrators see and change them. Nobody reads messages here.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{BLOCKED_ROOMS, ROOMS};
use appliance_ledger::rows::RoomRow;
use appliance_ledger::rows::extras::BlockedRoomRow;
use appliance_model::ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use appliance_model::{Caller, Error, RoomNid};
use appliance_rules::Permit;

use super::Administration;
use crate::rooms::Face;

const PAGE: usize = 500;

/// A room.
#[derive(Clone, Debug)]
pub struct RoomView {
    /// What it shows.
    pub face: Face,
    /// Who made it.
    pub creator: Option<OwnedUserId>,
    /// Who is joined.
    pub members: Vec<OwnedUserId>,
    /// How many of them are ours.
    pub local_members: usize,
    /// Whether other servers may join.
    pub federatable: bool,
    /// Whether it is in the published directory.
    pub published: bool,
    /// `shared`, unless it says otherwise.
    pub history_visibility: String,
    /// How many state events it has.
    pub state_events: usize,
}

impl Administration {
    /// The IDs of all rooms, oldest first.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn rooms(&self) -> Result<Vec<OwnedRoomId>, Error> {
        let view = self.house.ledger.newest();
        let (mut found, mut from) = (Vec::new(), RoomNid(0));
        loop {
            let range = (&from, &RoomNid(u64::MAX));
            let (rows, more) = view.scan_between(&ROOMS, range, Direction::Forward, PAGE).await?;
            for (room, row) in rows {
                let (room, row): (RoomNid, RoomRow) = (room, row);
                from = RoomNid(room.0 + 1);
                found.extend(OwnedRoomId::try_from(row.room_id));
            }
            if !more {
                return Ok(found);
            }
        }
    }

    /// One room.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server does not know it.
    pub async fn room(&self, room_id: &RoomId) -> Result<RoomView, Error> {
        self.rooms.steward_view(room_id).await
    }

    /// All its state events, as a JSON array.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server does not know it.
    pub async fn room_state(&self, room_id: &RoomId) -> Result<String, Error> {
        self.rooms.steward_state(room_id).await
    }

    /// Lets nobody of this server join a room from now on, or lets them again. This server need not
    /// know the room.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn block(&self, by: &Caller, room_id: &RoomId, block: bool) -> Result<(), Error> {
        let verb = if block { "room.blocked" } else { "room.unblocked" };
        let permit = Permit::administration(verb, &by.user_id, room_id);
        let mut commit = self.house.ledger.begin(permit);
        let key = self.house.ledger.room_digest(room_id);
        if block {
            let (room_id, by) = (room_id.to_string(), by.user_id.to_string());
            commit.put(&BLOCKED_ROOMS, &key, &BlockedRoomRow { room_id, by });
        } else {
            commit.delete(&BLOCKED_ROOMS, &key);
        }
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// Who has blocked a room.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn blocked_by(&self, room_id: &RoomId) -> Result<Option<String>, Error> {
        let key = self.house.ledger.room_digest(room_id);
        Ok(self.house.ledger.get(&BLOCKED_ROOMS, &key).await?.map(|row| row.by))
    }

    /// Joins somebody to a room, as they could themselves.
    ///
    /// # Errors
    ///
    /// As [`crate::rooms::Rooms::join`].
    pub async fn join(&self, user_id: &UserId, room_id: &RoomId) -> Result<(), Error> {
        let member = self.stand_in(user_id).await?;
        self.rooms.join(&member, room_id, None).await
    }

    /// Gives somebody as much power in a room as the mightiest of ours has there, and invites them
    /// if they are not in it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if nobody of this server may change the room's powers.
    pub async fn make_room_admin(&self, user_id: &UserId, room_id: &RoomId) -> Result<(), Error> {
        self.account(user_id).await?;
        let view = self.room(room_id).await?;
        let none = || Error::forbidden("Nobody of this server has the power to do that there.");
        let mighty = self.rooms.who_may_share_power(room_id).await?.ok_or_else(none)?;
        let owner = self.stand_in(&mighty).await?;
        self.rooms.share_power(&owner, room_id, user_id).await?;
        if !view.members.iter().any(|member| member == user_id) {
            self.rooms.invite(&owner, room_id, user_id, None).await?;
        }
        Ok(())
    }
}
