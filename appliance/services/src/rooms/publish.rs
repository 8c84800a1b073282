//! `GET` and `PUT /directory/list/room/{roomId}` ([spec]): whether a room is in the published
//! directory.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directorylistroomroomid

use appliance_ledger::keyspaces::PUBLISHED;
use appliance_ledger::rows::PublishedRow;
use appliance_model::ruma::RoomId;
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Caller, Error, Role, RoomNid};
use appliance_rules::{Denial, Permit};

use super::Rooms;

impl Rooms {
    /// Whether a room is in the published directory.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server does not know the room.
    pub async fn is_published(&self, room_id: &RoomId) -> Result<bool, Error> {
        let (room, _) = self.known(room_id).await?;
        Ok(self.house.ledger.get(&PUBLISHED, &room).await?.is_some())
    }

    /// Puts a room into the published directory, or takes it out.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: this server does not know the room.
    /// * [`appliance_model::Kind::Forbidden`]: the caller is no administrator, nor a member who may
    ///   set the room's canonical alias.
    pub async fn publish(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        published: bool,
    ) -> Result<(), Error> {
        let (room, _) = self.known(room_id).await?;
        let ledger = &self.house.ledger;
        if caller.role != Role::Administrator && !self.may_name(caller, room).await? {
            let why = "Only members who may set the room's main alias publish it or hide it.";
            let (who, object) = (caller.user_id.to_string(), room_id.to_string());
            let denial = Denial { verb: "room.publish_refused", who, object, why: why.into() };
            return Err(ledger.refuse(denial).await);
        }
        let verb = if published { "room.published" } else { "room.unpublished" };
        let mut commit = ledger.begin(Permit::own(verb, &caller.user_id, room_id));
        if published {
            let row = PublishedRow { by: caller.user.0, at_ms: self.house.clock.now_ms() };
            commit.put(&PUBLISHED, &room, &row);
        } else {
            commit.delete(&PUBLISHED, &room);
        }
        ledger.commit(commit).await?;
        Ok(())
    }

    /// Whether the caller is in the room and may set its canonical alias.
    pub(super) async fn may_name(&self, caller: &Caller, room: RoomNid) -> Result<bool, Error> {
        let kind = StateEventType::RoomCanonicalAlias;
        Ok(self.is_joined(caller, room).await?
            && self.power_levels(room).await?.user_can_send_state(&caller.user_id, kind))
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use serde_json::json;

    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn a_room_is_published_by_those_who_may_name_it() {
        let (ward, [nurse, doctor, visitor]) =
            Ward::with_members(["nurse", "doctor", "visitor"]).await;
        let rooms = &ward.services.rooms;
        let open = ward.room_as(&nurse, json!({ "visibility": "public" })).await;
        assert!(rooms.is_published(&open).await.unwrap());
        let room = ward.room_of(&[&nurse, &doctor]).await;
        assert!(!rooms.is_published(&room).await.unwrap());
        for other in [&doctor, &visitor] {
            let refused = rooms.publish(other, &room, true).await.unwrap_err();
            assert_eq!(refused.kind, Kind::Forbidden);
        }
        rooms.publish(&nurse, &room, true).await.unwrap();
        let chief = Caller { role: Role::Administrator, ..visitor };
        let ward = ward.power_cut_and_restart().await;
        let rooms = &ward.services.rooms;
        assert!(rooms.is_published(&room).await.unwrap());
        rooms.publish(&chief, &room, false).await.unwrap();
        assert!(!rooms.is_published(&room).await.unwrap());
        let nowhere = RoomId::parse("!nowhere:hospital.example").unwrap();
        assert_eq!(rooms.is_published(&nowhere).await.unwrap_err().kind, Kind::NotFound);
    }
}
