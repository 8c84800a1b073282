//! Room aliases ([spec]): names that people can type.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#room-aliases

use appliance_ledger::keyspaces::{ALIASES, ROOM_ALIASES, USER_ROOMS};
use appliance_ledger::rows::AliasRow;
use appliance_ledger::{Commit, Direction, membership};
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, RoomAliasId, RoomId,
};
use appliance_model::{Caller, Error, Kind, Role, RoomNid};
use appliance_rules::Permit;
use appliance_rules::administration::may_administer;

use super::Rooms;
use super::build::Draft;
use super::room::OpenRoom;
use crate::appservices::ask::alias_is_made;
use crate::appservices::exclusive;

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
        let mut row = self.alias_row(alias).await?;
        // An application service may make the room now, before it answers.
        let is_ours = alias.server_name() == self.house.server_name;
        if row.is_none() && is_ours && alias_is_made(&self.house, alias).await {
            row = self.alias_row(alias).await?;
        }
        let row = row.ok_or_else(no_alias)?;
        self.house.ledger.room_id(RoomNid(row.room)).await
    }

    /// The room an alias of any server points at, and servers that know the room.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such alias; [`Kind::Forbidden`] if it is of a server that this
    /// one has nothing to do with; [`Kind::RemoteUnavailable`] if that server cannot be reached.
    pub async fn find_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Error> {
        #[derive(serde::Deserialize)]
        struct Found {
            room_id: OwnedRoomId,
            #[serde(default)]
            servers: Vec<OwnedServerName>,
        }
        let server = alias.server_name();
        if *server == self.house.server_name {
            return Ok((self.resolve_alias(alias).await?, Vec::new()));
        }
        if !self.line.allows(server) {
            let unknown = format!("This server does not exchange rooms with {server}.");
            return Err(Error::forbidden(unknown));
        }
        let ask = crate::federation::Ask::Alias { alias: alias.to_owned() };
        let Found { room_id, mut servers } = self.ask(server, ask).await?;
        servers.insert(0, server.to_owned());
        Ok((room_id, servers))
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
        self.check_new_alias(caller, alias).await?;
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
    pub(super) async fn check_new_alias(
        &self,
        caller: &Caller,
        alias: &RoomAliasId,
    ) -> Result<(), Error> {
        self.check_own_alias(caller, alias)?;
        if alias.server_name() != self.house.server_name {
            return Err(Error::invalid_param("Aliases of other servers are made there."));
        }
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == ':';
        let name = alias.alias();
        if alias.as_bytes().len() > ALIAS_BYTES_MAX || name.is_empty() || name.contains(bad) {
            return Err(Error::invalid_param(
                "An alias has at most 255 bytes, and neither spaces nor colons in its name.",
            ));
        }
        if self.alias_row(alias).await?.is_some() {
            return Err(Error::new(Kind::RoomInUse, "This alias is taken."));
        }
        Ok(())
    }

    /// "normal users who attempt to create users or aliases *inside* an application service-defined
    /// namespace will receive … `M_EXCLUSIVE` …, but only if the application service has defined the
    /// namespace as `exclusive`", and application services *outside* of theirs.
    fn check_own_alias(&self, caller: &Caller, alias: &RoomAliasId) -> Result<(), Error> {
        let registry = &self.house.appservices;
        let own = caller.appservice.as_deref();
        if let Some(service) = own.and_then(|id| registry.by_id(id))
            && !service.registration.aliases.holds(alias.as_str())
        {
            return Err(exclusive("This alias is not in the namespaces of the service."));
        }
        registry.check_alias(alias, own)
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
        if caller.role != Role::Administrator {
            self.check_own_alias(caller, alias)?;
        }
        let inside = self.doors.enter(0).await;
        let row = self.alias_row(alias).await?.ok_or_else(no_alias)?;
        let room = RoomNid(row.room);
        let may_name = self.may_name(caller, room).await?;
        let own = row.creator == caller.user.0
            || caller.role == Role::Administrator
            || caller.appservice.is_some();
        if !may_name && !own {
            return Err(Error::forbidden("This alias is not yours to take away."));
        }
        let ledger = &self.house.ledger;
        let permit = Permit::own("alias.deleted", &caller.user_id, alias);
        let mut open = self.enter(&ledger.room_id(room).await?).await?;
        // "Servers may choose to update the … m.room.canonical_alias state event".
        if may_name && let Some(content) = canonical_without(&open, alias).await? {
            let kind = StateEventType::RoomCanonicalAlias;
            open.add(Draft::state(caller.user_id.clone(), kind, "", content), None).await?;
        }
        let mut alone = None;
        let commit = match open.commit_mut() {
            Some(commit) => {
                commit.also(permit);
                commit
            }
            None => alone.insert(ledger.begin(permit)),
        };
        commit.delete(&ALIASES, &ledger.digest(&[b"alias", alias.as_bytes()]));
        commit.delete(&ROOM_ALIASES, &(room, alias.to_string()));
        commit.hold(inside);
        match alone {
            Some(commit) => ledger.commit(commit).await?,
            None => open.leave().await?,
        };
        Ok(())
    }

    /// "servers SHOULD ensure that any new aliases being listed in the event are valid per their
    /// grammar/syntax and that they point to the room ID … Servers do not validate aliases which
    /// are being removed or are already present".
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidParam`] or [`Kind::BadAlias`].
    pub(super) async fn check_canonical_alias(
        &self,
        content: &CanonicalJsonObject,
        (room, current): (RoomNid, Option<&CanonicalJsonObject>),
    ) -> Result<(), Error> {
        let known = current.and_then(|current| named_aliases(current).ok()).unwrap_or_default();
        for name in named_aliases(content)?.into_iter().filter(|name| !known.contains(name)) {
            let alias = RoomAliasId::parse(&name)
                .map_err(|_| Error::invalid_param("An alias has the form `#name:server`."))?;
            let row = self.alias_row(&alias).await?;
            if row.is_none_or(|row| row.room != room.0) {
                let message = format!("The alias {alias} does not point to this room.");
                return Err(Error::new(Kind::BadAlias, message));
            }
        }
        Ok(())
    }

    /// The aliases of a room, for its members and, where the world may read it, for all.
    ///
    /// "Servers may choose to implement additional access control checks here, such as allowing
    /// server administrators to view aliases regardless of membership": this one does, on record.
    ///
    /// # Errors
    ///
    /// [`Kind::Forbidden`] for others.
    pub async fn aliases(&self, caller: &Caller, room_id: &RoomId) -> Result<Vec<String>, Error> {
        let room = match self.readable(caller, room_id).await {
            Ok(room) => room,
            Err(error) => {
                let permit = may_administer(caller, "admin.room_aliases_read", room_id);
                let Ok(permit) = permit else { return Err(error) };
                self.house.ledger.commit(self.house.ledger.begin(permit)).await?;
                self.known(room_id).await?.0
            }
        };
        let ledger = self.house.ledger.newest();
        let (rows, _) = ledger.scan(&ROOM_ALIASES, &room, Direction::Forward, ALIASES_MAX).await?;
        Ok(rows.into_iter().map(|((_, alias), _)| alias).collect())
    }
}

/// The content of the canonical alias event without `alias`, if it names it.
async fn canonical_without(
    room: &OpenRoom<'_>,
    alias: &RoomAliasId,
) -> Result<Option<CanonicalJsonObject>, Error> {
    let event = room.state(&StateEventType::RoomCanonicalAlias, "").await?;
    let content = event.and_then(|event| serde_json::from_str(event.content.get()).ok());
    let Some(mut content): Option<CanonicalJsonObject> = content else { return Ok(None) };
    let before = content.clone();
    let is_it = |value: &CanonicalJsonValue| value.as_str() == Some(alias.as_str());
    if content.get("alias").is_some_and(is_it) {
        content.remove("alias");
    }
    if let Some(CanonicalJsonValue::Array(others)) = content.get_mut("alt_aliases") {
        others.retain(|other| !is_it(other));
    }
    Ok((content != before).then_some(content))
}

/// The aliases that a canonical alias event names.
fn named_aliases(content: &CanonicalJsonObject) -> Result<Vec<String>, Error> {
    use CanonicalJsonValue as J;
    let wrong = || Error::invalid_param("`alias` is a text, `alt_aliases` a list of texts.");
    let mut named = Vec::new();
    match content.get("alias") {
        None | Some(J::Null) => {}
        // Clients take the main alias away with an empty one.
        Some(J::String(alias)) if alias.is_empty() => {}
        Some(J::String(alias)) => named.push(alias.clone()),
        Some(_) => return Err(wrong()),
    }
    match content.get("alt_aliases") {
        None | Some(J::Null) => {}
        Some(J::Array(others)) => {
            for other in others {
                named.push(other.as_str().ok_or_else(wrong)?.to_owned());
            }
        }
        Some(_) => return Err(wrong()),
    }
    Ok(named)
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
        let chief = Caller { role: Role::Administrator, ..visitor.clone() };
        assert_eq!(rooms.aliases(&chief, &room).await.unwrap(), [alias.as_str()]);
        assert_eq!(rooms.delete_alias(&visitor, alias).await.unwrap_err().kind, Kind::Forbidden);
        rooms.delete_alias(&nurse, alias).await.unwrap();
        assert_eq!(rooms.resolve_alias(alias).await.unwrap_err().kind, Kind::NotFound);
    }

    /// The main alias names only aliases that lead here, and loses those that are taken away.
    #[tokio::test]
    async fn the_canonical_alias_follows_the_aliases() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let rooms = &ward.services.rooms;
        let (room, other) = (ward.room(&nurse).await, ward.room(&nurse).await);
        let (main, alt) = ("#ward4:hospital.example", "#beds:hospital.example");
        let create = async |alias: &str, room: &RoomId| {
            rooms.create_alias(&nurse, &RoomAliasId::parse(alias).unwrap(), room).await.unwrap();
        };
        create(main, &room).await;
        create(alt, &other).await;
        let kind = ("m.room.canonical_alias", "");
        let name = async |content| {
            let request = crate::scenario::state(&room, kind, content);
            rooms.send_state(&nurse, &request).await.map_err(|error| error.kind)
        };
        assert_eq!(name(json!({ "alias": alt })).await, Err(Kind::BadAlias), "another room's");
        assert_eq!(name(json!({ "alias": "ward4" })).await, Err(Kind::InvalidParam));
        assert_eq!(name(json!({ "alt_aliases": "x" })).await, Err(Kind::InvalidParam));
        rooms.delete_alias(&nurse, &RoomAliasId::parse(alt).unwrap()).await.unwrap();
        create(alt, &room).await;
        name(json!({ "alias": main, "alt_aliases": [alt] })).await.unwrap();
        rooms.delete_alias(&nurse, &RoomAliasId::parse(alt).unwrap()).await.unwrap();
        let expected = json!({ "alias": main, "alt_aliases": [] });
        assert_eq!(ward.current(&room, kind).await, expected);
        rooms.delete_alias(&nurse, &RoomAliasId::parse(main).unwrap()).await.unwrap();
        assert_eq!(ward.current(&room, kind).await, json!({ "alt_aliases": [] }));
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
