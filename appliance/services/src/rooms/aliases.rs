//! Room aliases ([spec]): names that people can type.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#room-aliases

use appliance_ledger::keyspaces::{ALIASES, ROOM_ALIASES, USER_ROOMS};
use appliance_ledger::rows::AliasRow;
use appliance_ledger::{Commit, Direction, membership};
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::{OwnedRoomId, RoomAliasId, RoomId};
use appliance_model::{Caller, Error, Kind, Role, RoomNid};
use appliance_rules::Permit;

use super::Rooms;

/// "The length of a room alias … MUST NOT exceed 255 bytes".
const ALIAS_BYTES_MAX: usize = 255;
/// Aliases of one room.
const ALIASES_MAX: usize = 1_000;

impl Rooms {
    /// The room an alias of this server points at.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such alias here.
    pub async fn resolve_alias(&self, alias: &RoomAliasId) -> Result<OwnedRoomId, Error> {
        let row = self.alias_row(alias).await?.ok_or_else(no_alias)?;
        self.house.ledger.room_id(RoomNid(row.room)).await
    }

    async fn alias_row(&self, alias: &RoomAliasId) -> Result<Option<AliasRow>, Error> {
        let digest = self.house.ledger.digest(&[b"alias", alias.as_bytes()]);
        self.house.ledger.get(&ALIASES, &digest).await
    }

    /// Points a new alias at a room that the caller is in.
    ///
    /// # Errors
    ///
    /// * [`Kind::RoomInUse`] (409 where the endpoint says so): the alias is taken.
    /// * [`Kind::InvalidParam`]: not an alias of this server.
    /// * [`Kind::Forbidden`]: the caller is not in the room.
    pub async fn create_alias(
        &self,
        caller: &Caller,
        alias: &RoomAliasId,
        room_id: &RoomId,
    ) -> Result<(), Error> {
        let (room, _) = self.known(room_id).await?;
        let row = self.house.ledger.get(&USER_ROOMS, &(caller.user, room)).await?;
        if row.is_none_or(|row| row.membership != membership::JOIN) {
            return Err(Error::forbidden("Only members of a room can give it an alias."));
        }
        // All aliases share one door: two people asking for one name meet here.
        let inside = self.doors.enter(0).await;
        self.check_new_alias(alias).await?;
        let permit = Permit::own("alias.created", &caller.user_id, alias);
        let mut commit = self.house.ledger.begin(permit);
        self.put_alias(caller, alias, room, &mut commit);
        commit.hold(inside);
        self.house.ledger.commit(commit).await?;
        Ok(())
    }

    /// Whether the alias is one of this server's and free.
    ///
    /// # Errors
    ///
    /// As [`Rooms::create_alias`].
    pub(super) async fn check_new_alias(&self, alias: &RoomAliasId) -> Result<(), Error> {
        if alias.server_name() != self.house.server_name {
            return Err(Error::invalid_param("Aliases of other servers are made there."));
        }
        if alias.as_bytes().len() > ALIAS_BYTES_MAX {
            return Err(Error::invalid_param("An alias is at most 255 bytes."));
        }
        if self.alias_row(alias).await?.is_some() {
            return Err(Error::new(Kind::RoomInUse, "This alias is taken."));
        }
        Ok(())
    }

    /// Adds the alias's rows to a commit.
    pub(super) fn put_alias(
        &self,
        caller: &Caller,
        alias: &RoomAliasId,
        room: RoomNid,
        commit: &mut Commit,
    ) {
        let digest = self.house.ledger.digest(&[b"alias", alias.as_bytes()]);
        let row = AliasRow { room: room.0, creator: caller.user.0 };
        commit.put(&ALIASES, &digest, &row);
        commit.put(&ROOM_ALIASES, &(room, alias.to_string()), &caller.user.0);
    }

    /// Takes an alias away: its maker, whoever may set the room's canonical alias, and
    /// administrators can.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is none, [`Kind::Forbidden`] for others.
    pub async fn delete_alias(&self, caller: &Caller, alias: &RoomAliasId) -> Result<(), Error> {
        let inside = self.doors.enter(0).await;
        let row = self.alias_row(alias).await?.ok_or_else(no_alias)?;
        let room = RoomNid(row.room);
        let allowed = row.creator == caller.user.0
            || caller.role == Role::Administrator
            || self
                .power_levels(room)
                .await?
                .user_can_send_state(&caller.user_id, StateEventType::RoomCanonicalAlias);
        if !allowed {
            return Err(Error::forbidden("This alias is not yours to take away."));
        }
        let permit = Permit::own("alias.deleted", &caller.user_id, alias);
        let mut commit = self.house.ledger.begin(permit);
        commit.delete(&ALIASES, &self.house.ledger.digest(&[b"alias", alias.as_bytes()]));
        commit.delete(&ROOM_ALIASES, &(room, alias.to_string()));
        commit.hold(inside);
        self.house.ledger.commit(commit).await?;
        Ok(())
    }

    /// The aliases of a room, for its members and, where the world may read it, for all.
    ///
    /// # Errors
    ///
    /// [`Kind::Forbidden`] for others.
    pub async fn aliases(&self, caller: &Caller, room_id: &RoomId) -> Result<Vec<String>, Error> {
        let room = self.readable(caller, room_id).await?;
        let ledger = self.house.ledger.newest();
        let (rows, _) = ledger.scan(&ROOM_ALIASES, &room, Direction::Forward, ALIASES_MAX).await?;
        Ok(rows.into_iter().map(|((_, alias), _)| alias).collect())
    }
}

fn no_alias() -> Error {
    Error::not_found("There is no such alias.")
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::room_alias_id;
    use serde_json::json;

    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn an_alias_leads_to_its_room_until_it_is_taken_away() {
        let (ward, [nurse, visitor]) = Ward::with_members(["nurse", "visitor"]).await;
        let rooms = &ward.services.rooms;
        let room = ward.room(&nurse).await;
        let alias = room_alias_id!("#ward4:hospital.example");
        rooms.create_alias(&nurse, alias, &room).await.unwrap();
        let taken = rooms.create_alias(&nurse, alias, &room).await.unwrap_err();
        assert_eq!(taken.kind, Kind::RoomInUse);
        let other = room_alias_id!("#ward5:hospital.example");
        let stranger = rooms.create_alias(&visitor, other, &room).await.unwrap_err();
        assert_eq!(stranger.kind, Kind::Forbidden);
        let foreign = room_alias_id!("#ward4:elsewhere.example");
        let foreign = rooms.create_alias(&nurse, foreign, &room).await.unwrap_err();
        assert_eq!(foreign.kind, Kind::InvalidParam);

        let ward = ward.power_cut_and_restart().await;
        let rooms = &ward.services.rooms;
        assert_eq!(rooms.resolve_alias(alias).await.unwrap(), room);
        assert_eq!(rooms.aliases(&nurse, &room).await.unwrap(), [alias.as_str()]);
        assert!(rooms.aliases(&visitor, &room).await.is_err());
        assert_eq!(rooms.delete_alias(&visitor, alias).await.unwrap_err().kind, Kind::Forbidden);
        rooms.delete_alias(&nurse, alias).await.unwrap();
        assert_eq!(rooms.resolve_alias(alias).await.unwrap_err().kind, Kind::NotFound);
    }

    #[tokio::test]
    async fn a_new_room_comes_with_its_alias_or_not_at_all() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let body = json!({ "room_alias_name": "ward4" });
        let room = ward.room_as(&nurse, body.clone()).await;
        let alias = room_alias_id!("#ward4:hospital.example");
        assert_eq!(ward.services.rooms.resolve_alias(alias).await.unwrap(), room);
        let canonical = StateEventType::RoomCanonicalAlias;
        let number = ward.services.house.ledger.room(&room).await.unwrap().unwrap();
        let event = ward.services.rooms.current(number, &canonical, "").await.unwrap().unwrap();
        assert_eq!(event.content(), r##"{"alias":"#ward4:hospital.example"}"##);
        let request = crate::scenario::create_request(body);
        let taken = ward.services.rooms.create_room(&nurse, &request).await.unwrap_err();
        assert_eq!(taken.kind, Kind::RoomInUse);
    }
}
