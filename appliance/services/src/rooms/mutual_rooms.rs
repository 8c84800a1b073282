//! `GET /mutual_rooms` ([spec]): the rooms that the caller shares with somebody.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms

use appliance_ledger::keyspaces::MEMBERS;
use appliance_ledger::membership;
use appliance_model::ruma::{OwnedRoomId, UserId};
use appliance_model::{Caller, Error, RoomNid};

use super::Rooms;

/// Rooms on a page.
const PAGE: usize = 500;

/// A page of rooms, and how many there are in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MutualRooms {
    /// The rooms.
    pub joined: Vec<OwnedRoomId>,
    /// How many in all.
    pub count: usize,
    /// The last room of the page, if there are more.
    pub next: Option<RoomNid>,
}

impl Rooms {
    /// The rooms after `from` in which both are joined.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`]: the other is the caller.
    pub async fn mutual_rooms(
        &self,
        caller: &Caller,
        other: &UserId,
        from: RoomNid,
    ) -> Result<MutualRooms, Error> {
        if caller.user_id == *other {
            return Err(Error::invalid_param("You share all your rooms with yourself."));
        }
        let ledger = &self.house.ledger;
        // "If the provided user_id is not a valid user, the server MUST return an empty list".
        let Some(other) = ledger.user(other).await? else { return Ok(MutualRooms::default()) };
        let own = self.joined(caller.user).await?;
        let keys: Vec<_> = own.iter().map(|room| (*room, membership::JOIN, other)).collect();
        let there = ledger.newest().get_many(&MEMBERS, &keys).await?;
        let shared = own.into_iter().zip(there).filter_map(|(room, row)| row.map(|_| room));
        let shared: Vec<_> = shared.collect();
        let mut page: Vec<_> = shared.iter().copied().filter(|room| *room > from).collect();
        page.sort_unstable();
        let more = page.len() > PAGE;
        page.truncate(PAGE);
        let next = page.last().copied().filter(|_| more);
        let mut joined = Vec::with_capacity(page.len());
        for room in page {
            joined.push(ledger.room_id(room).await?);
        }
        Ok(MutualRooms { joined, count: shared.len(), next })
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;

    use super::*;
    use crate::scenario::{Ward, user_id};

    #[tokio::test]
    async fn only_rooms_that_both_are_in() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let both = ward.room_of(&[&nurse, &doctor]).await;
        ward.room(&nurse).await;
        ward.room(&doctor).await;
        let rooms = &ward.services.rooms;
        let found = rooms.mutual_rooms(&nurse, &doctor.user_id, RoomNid(0)).await.unwrap();
        assert_eq!(found, MutualRooms { joined: vec![both], count: 1, next: None });
        let nobody = rooms.mutual_rooms(&nurse, &user_id("nobody"), RoomNid(0)).await.unwrap();
        assert_eq!(nobody, MutualRooms::default());
        let own = rooms.mutual_rooms(&nurse, &nurse.user_id, RoomNid(0)).await.unwrap_err();
        assert_eq!(own.kind, Kind::InvalidParam);
    }
}
