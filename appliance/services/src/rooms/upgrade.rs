//! `POST /rooms/{roomId}/upgrade` ([spec]): a new room of another version takes the place of a room.
//!
//! The new room is one commit, the end of the old one another: if the server stops in between, the old
//! room goes on as if nothing had been, and a room that nobody was told of is left behind.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#room-upgrades

use std::collections::BTreeSet;

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{ALIASES, MEMBERS, PUBLISHED, ROOM_ALIASES};
use appliance_ledger::membership;
use appliance_ledger::rows::AliasRow;
use appliance_model::ruma::api::client::room::create_room::v3::{Request, RoomPreset};
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::power_levels::{RoomPowerLevels, UserPowerLevel};
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
};
use appliance_model::{Caller, Error, Kind};
use appliance_rules::Permit;
use appliance_rules::policy::POLICY_TYPE;
use serde_json::{Value, json};

use super::build::{Draft, content_from};
use super::membership::check_inside;
use super::policy_server::POLICY_SERVER_TYPE;
use super::room::OpenRoom;
use super::{Rooms, rules_of};

/// "The recommended state events to transfer", what this house adds to them, and what names things.
const CARRIED: [&str; 11] = [
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
    "m.room.retention",
    // A room must not shake off its rules by an upgrade.
    POLICY_TYPE,
    POLICY_SERVER_TYPE,
];
/// Rooms of a space that come along, in one commit.
const CHILDREN_MAX: usize = 500;
/// Bans that come along, in one commit. More are to be set anew.
const BANS_MAX: usize = 500;
const ALIASES_MAX: usize = 1_000;

/// Into what.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The version of the new room.
    pub version: RoomVersionId,
    /// Its creators beside the caller, from version 12 on.
    pub additional_creators: Vec<OwnedUserId>,
}

impl Rooms {
    /// Puts a room of another version in the place of a room; returns the new room.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: this server does not know the room.
    /// * [`Kind::Forbidden`]: the caller may not end it.
    /// * [`Kind::UnsupportedRoomVersion`]: not a version this server creates.
    pub async fn upgrade(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        upgrade: &Upgrade,
    ) -> Result<OwnedRoomId, Error> {
        self.limits.room(caller.user)?;
        // Aliases move: all of them share one door, which comes before the room's.
        let names = self.doors.enter(0).await;
        let mut old = self.enter(room_id).await?;
        check_inside(&old, &caller.user_id).await?;
        let levels = self.power_levels(old.room).await?;
        if !levels.user_can_send_state(&caller.user_id, StateEventType::RoomTombstone) {
            return Err(old.refuse(&caller.user_id, "You may not end this room.").await);
        }
        let is_published = self.house.ledger.get(&PUBLISHED, &old.room).await?;
        let mut new = self.successor(caller, &old, upgrade).await?;
        let (new_id, number) = (new.room_id.clone(), new.room);
        if let (Some(row), Some(commit)) = (&is_published, new.commit_mut()) {
            commit.put(&PUBLISHED, &number, row);
        }
        new.leave().await?;

        let tombstone =
            json!({ "body": "This room has been replaced.", "replacement_room": new_id });
        set(caller, &mut old, "m.room.tombstone", "", content_from(&tombstone)?).await?;
        self.quiet(caller, &mut old, &levels).await?;
        let aliases = self.aliases_of(&old).await?;
        let old_number = old.room;
        if let Some(commit) = old.commit_mut() {
            let object = format!("{room_id} {new_id}");
            commit.also(Permit::own("room.upgraded", &caller.user_id, object));
            for (alias, creator) in aliases {
                let digest = self.house.ledger.digest(&[b"alias", alias.as_bytes()]);
                commit.put(&ALIASES, &digest, &AliasRow { room: number.0, creator });
                commit.delete(&ROOM_ALIASES, &(old_number, alias.clone()));
                commit.put(&ROOM_ALIASES, &(number, alias), &creator);
            }
            if is_published.is_some() {
                commit.delete(&PUBLISHED, &old_number);
            }
            commit.hold(names);
        }
        old.leave().await?;
        Ok(new_id)
    }

    async fn aliases_of(&self, room: &OpenRoom<'_>) -> Result<Vec<(String, u64)>, Error> {
        let view = self.house.ledger.newest();
        let (rows, _) =
            view.scan(&ROOM_ALIASES, &room.room, Direction::Forward, ALIASES_MAX).await?;
        Ok(rows.into_iter().map(|((_, alias), creator)| (alias, creator)).collect())
    }

    /// The new room with all that comes along, not committed yet.
    async fn successor(
        &self,
        caller: &Caller,
        old: &OpenRoom<'_>,
        upgrade: &Upgrade,
    ) -> Result<OpenRoom<'_>, Error> {
        let rules = rules_of(&upgrade.version)?.authorization;
        let power = content_of_state(old, "m.room.power_levels").await?.unwrap_or_default();
        let mut request = Request::new();
        request.room_version = Some(upgrade.version.clone());
        request.preset = Some(RoomPreset::PrivateChat);
        request.creation_content = Some(raw(creation(old, upgrade).await?)?);
        if !rules.explicitly_privilege_room_creators {
            // Whoever carries everything over needs the power for it; the levels themselves come last.
            let highest = power.values().filter_map(highest_in).fold(100, i64::max);
            let users = json!({ "users": { caller.user_id.as_str(): highest } });
            request.power_level_content_override = Some(raw(users)?);
        }
        for kind in CARRIED {
            if let Some(mut content) = content_of_state(old, kind).await? {
                if kind == "m.room.server_acl" {
                    content = self.carried_access_list(content);
                }
                let state = json!({ "type": kind, "state_key": "", "content": content });
                request.initial_state.push(raw(state)?);
            }
        }
        let plan = self.plan(caller, &request)?;
        let mut new = self.found(&plan).await?;
        let carried = async {
            self.furnish(&plan, &mut new).await?;
            self.carry_children(caller, old, &mut new).await?;
            self.carry_bans(caller, old, &mut new).await?;
            if let Some(alias) = content_of_state(old, "m.room.canonical_alias").await? {
                set(caller, &mut new, "m.room.canonical_alias", "", alias).await?;
            }
            let creators = &upgrade.additional_creators;
            let above = rules.explicitly_privilege_room_creators;
            let power = carried_power(power, caller, creators, above);
            set(caller, &mut new, "m.room.power_levels", "", power).await
        };
        carried.await.map_err(|error| match error.kind {
            Kind::Forbidden => Error::new(Kind::InvalidRoomState, error.message),
            _ => error,
        })?;
        Ok(new)
    }

    async fn carry_children(
        &self,
        caller: &Caller,
        old: &OpenRoom<'_>,
        new: &mut OpenRoom<'_>,
    ) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let all = ledger.states(old.room).all(self.current_root(old.room).await?).await?;
        let others = all.into_iter().filter(|(key, _)| !key.is_member());
        let numbers: Vec<_> = others.map(|(_, number)| number).collect();
        let events = ledger.events(&numbers).await?;
        let children = events.iter().filter(|event| event.kind() == "m.space.child");
        for child in children.take(CHILDREN_MAX) {
            let key: String =
                serde_json::from_str(child.part(child.spans.state_key)).map_err(Error::internal)?;
            let content = serde_json::from_str(child.content()).map_err(Error::internal)?;
            set(caller, new, "m.space.child", &key, content).await?;
        }
        Ok(())
    }

    /// "Membership events should not be transferred", but who was sent away stays away.
    async fn carry_bans(
        &self,
        caller: &Caller,
        old: &OpenRoom<'_>,
        new: &mut OpenRoom<'_>,
    ) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let prefix = (old.room, membership::BAN);
        let (rows, _) =
            ledger.newest().scan(&MEMBERS, &prefix, Direction::Forward, BANS_MAX).await?;
        for ((_, _, user), _) in rows {
            let user_id = ledger.user_id(user).await?;
            let content = content_from(&json!({ "membership": "ban" }))?;
            set(caller, new, "m.room.member", user_id.as_str(), content).await?;
        }
        Ok(())
    }

    /// "If possible, the power levels in the old room should also be modified to prevent sending of
    /// events and inviting new users. For example, setting events_default and invite to the greater
    /// of 50 and users_default + 1." The main alias goes with the aliases.
    async fn quiet(
        &self,
        caller: &Caller,
        old: &mut OpenRoom<'_>,
        levels: &RoomPowerLevels,
    ) -> Result<(), Error> {
        let may = |kind: StateEventType| levels.user_can_send_state(&caller.user_id, kind);
        let has_alias = content_of_state(old, "m.room.canonical_alias").await?;
        if may(StateEventType::RoomCanonicalAlias) && has_alias.is_some_and(|had| !had.is_empty()) {
            let nothing = CanonicalJsonObject::new();
            set(caller, old, "m.room.canonical_alias", "", nothing).await?;
        }
        let quiet = i64::from(levels.users_default).saturating_add(1).max(50);
        let own = levels.for_user(&caller.user_id);
        // Nobody sets a level above their own, or lowers one that is.
        let within =
            |level: i64| Int::new(level).is_some_and(|level| own >= UserPowerLevel::Int(level));
        let now = [i64::from(levels.events_default), i64::from(levels.invite)];
        if !may(StateEventType::RoomPowerLevels) || !within(quiet) || !now.into_iter().all(within) {
            return Ok(());
        }
        let mut power = content_of_state(old, "m.room.power_levels").await?.unwrap_or_default();
        for (name, now) in ["events_default", "invite"].into_iter().zip(now) {
            let level = Int::new_saturating(now.max(quiet));
            power.insert(name.to_owned(), CanonicalJsonValue::Integer(level));
        }
        set(caller, old, "m.room.power_levels", "", power).await
    }
}

/// The content of the create event: the old one's, but for what belongs to one room alone.
async fn creation(old: &OpenRoom<'_>, upgrade: &Upgrade) -> Result<CanonicalJsonObject, Error> {
    let rules = rules_of(&upgrade.version)?.authorization;
    let mut content = content_of_state(old, "m.room.create").await?.unwrap_or_default();
    for own in ["room_version", "creator", "predecessor", "additional_creators"] {
        content.remove(own);
    }
    let mut predecessor = json!({ "room_id": old.room_id });
    // "event_id: … deprecated": since version 12 the tombstone cannot be known by then.
    if let Some(newest) = old.newest().filter(|_| !rules.room_create_event_id_as_room_id) {
        predecessor["event_id"] = newest.into();
    }
    content.insert("predecessor".to_owned(), content_from(&predecessor)?.into());
    // "When upgrading to a room version which doesn't support additional creators, this field is
    // ignored".
    if rules.additional_room_creators && !upgrade.additional_creators.is_empty() {
        let ids = upgrade.additional_creators.iter().map(|id| id.to_string().into()).collect();
        content.insert("additional_creators".to_owned(), CanonicalJsonValue::Array(ids));
    }
    Ok(content)
}

/// The old levels, as the new version takes them.
fn carried_power(
    mut power: CanonicalJsonObject,
    caller: &Caller,
    creators: &[OwnedUserId],
    creators_are_above: bool,
) -> CanonicalJsonObject {
    power.values_mut().for_each(numbers_only);
    let empty = CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let users = power.entry("users".to_owned()).or_insert(empty);
    let CanonicalJsonValue::Object(users) = users else { return power };
    if creators_are_above {
        // v12: "creators … MUST NOT appear in users".
        let creators: BTreeSet<&str> =
            creators.iter().map(|id| id.as_str()).chain([caller.user_id.as_str()]).collect();
        users.retain(|user_id, _| !creators.contains(user_id.as_str()));
    } else if users.is_empty() {
        // Creators of version 12 had no level: somebody must be able to look after the room.
        users.insert(caller.user_id.to_string(), CanonicalJsonValue::Integer(Int::from(100)));
    }
    power
}

/// Before version 10 levels could be texts.
fn numbers_only(value: &mut CanonicalJsonValue) {
    match value {
        CanonicalJsonValue::String(text) => {
            let level = text.trim().parse().ok().and_then(Int::new).unwrap_or_default();
            *value = CanonicalJsonValue::Integer(level);
        }
        CanonicalJsonValue::Object(object) => object.values_mut().for_each(numbers_only),
        _ => {}
    }
}

/// The highest level that some part of the levels names.
fn highest_in(value: &CanonicalJsonValue) -> Option<i64> {
    match value {
        CanonicalJsonValue::Integer(level) => Some((*level).into()),
        CanonicalJsonValue::String(text) => text.trim().parse().ok(),
        CanonicalJsonValue::Object(object) => object.values().filter_map(highest_in).max(),
        _ => None,
    }
}

async fn content_of_state(
    room: &OpenRoom<'_>,
    kind: &str,
) -> Result<Option<CanonicalJsonObject>, Error> {
    let event = room.state(&StateEventType::from(kind), "").await?;
    Ok(event.and_then(|event| serde_json::from_str(event.content.get()).ok()))
}

async fn set(
    caller: &Caller,
    room: &mut OpenRoom<'_>,
    kind: &str,
    key: &str,
    content: CanonicalJsonObject,
) -> Result<(), Error> {
    let kind = StateEventType::from(kind);
    room.add(Draft::state(caller.user_id.clone(), kind, key, content), None).await.map(drop)
}

fn raw<T>(content: impl Into<Loose>) -> Result<Raw<T>, Error> {
    let json = match content.into() {
        Loose::Canonical(object) => serde_json::to_string(&object),
        Loose::Value(value) => serde_json::to_string(&value),
    };
    Raw::from_json_string(json.map_err(Error::internal)?).map_err(Error::internal)
}

/// JSON on its way into a request.
enum Loose {
    Canonical(CanonicalJsonObject),
    Value(Value),
}

impl From<CanonicalJsonObject> for Loose {
    fn from(object: CanonicalJsonObject) -> Self {
        Self::Canonical(object)
    }
}

impl From<Value> for Loose {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::RoomAliasId;
    use appliance_model::ruma::RoomVersionId as V;
    use appliance_model::ruma::events::room::member::MembershipState as M;

    use super::*;
    use crate::scenario::Ward;

    fn to(version: V) -> Upgrade {
        Upgrade { version, additional_creators: Vec::new() }
    }

    #[tokio::test]
    async fn from_every_version_to_every_version() {
        for old in [V::V6, V::V9, V::V11, V::V12] {
            for new in [V::V6, V::V10, V::V11, V::V12] {
                let ward = Ward::of_version(old.clone()).await;
                let [nurse, doctor, visitor] = ward.members(["nurse", "doctor", "visitor"]).await;
                let body = json!({
                    "name": "Ward 4", "topic": "Beds", "room_alias_name": "ward-4",
                    "visibility": "public", "preset": "private_chat",
                    "creation_content": { "type": "m.space", "example.floor": 4 },
                    "initial_state": [{ "type": "io.wardstone.policy", "content": { "media": { "ttl_ms": 60_000 } } }],
                });
                let room = ward.room_as(&nurse, body).await;
                ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
                ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
                ward.set(&nurse, &room, &visitor.user_id, M::Ban).await;
                let child = "!beds:hospital.example";
                let via = json!({ "via": ["hospital.example"] });
                ward.state(&nurse, &room, ("m.space.child", child), via.clone()).await;
                let rooms = &ward.services.rooms;
                let refused = rooms.upgrade(&doctor, &room, &to(new.clone())).await.unwrap_err();
                assert_eq!(refused.kind, Kind::Forbidden);
                let case = format!("{old} to {new}");
                let next = rooms.upgrade(&nurse, &room, &to(new.clone())).await;
                let next = next.unwrap_or_else(|error| panic!("{case}: {error}"));

                let create = ward.current(&next, ("m.room.create", "")).await;
                assert_eq!(create["room_version"], new.as_str(), "{case}");
                assert_eq!(create["predecessor"]["room_id"], room.as_str(), "{case}");
                assert_eq!(
                    (&create["type"], &create["example.floor"]),
                    (&json!("m.space"), &json!(4))
                );
                let tombstone = ward.current(&room, ("m.room.tombstone", "")).await;
                assert_eq!(tombstone["replacement_room"], next.as_str(), "{case}");
                for kind in
                    ["m.room.name", "m.room.topic", "io.wardstone.policy", "m.room.join_rules"]
                {
                    let kind = (kind, "");
                    assert_eq!(
                        ward.current(&next, kind).await,
                        ward.current(&room, kind).await,
                        "{case}"
                    );
                }
                assert_eq!(ward.current(&next, ("m.space.child", child)).await, via, "{case}");
                assert_eq!(ward.membership(&next, &visitor.user_id).await, Some(M::Ban), "{case}");
                assert_eq!(ward.membership(&next, &doctor.user_id).await, None, "{case}");
                let alias = RoomAliasId::parse("#ward-4:hospital.example").unwrap();
                assert_eq!(rooms.resolve_alias(&alias).await.unwrap(), next, "{case}");
                let named = ward.current(&next, ("m.room.canonical_alias", "")).await;
                assert_eq!(named["alias"], alias.as_str(), "{case}");
                assert_eq!(ward.current(&room, ("m.room.canonical_alias", "")).await, json!({}));
                assert!(rooms.is_published(&next).await.unwrap(), "{case}");
                assert!(!rooms.is_published(&room).await.unwrap(), "{case}");

                let quiet = ward.current(&room, ("m.room.power_levels", "")).await;
                assert_eq!((&quiet["events_default"], &quiet["invite"]), (&json!(50), &json!(50)));
                let power = ward.current(&next, ("m.room.power_levels", "")).await;
                assert_eq!(power["events_default"], 0, "{case}: as it was");
                let own = &power["users"][nurse.user_id.as_str()];
                let expected = if new == V::V12 { Value::Null } else { json!(100) };
                assert_eq!(*own, expected, "{case}");
                ward.say(&nurse, &next, "here").await;
            }
        }
    }

    #[tokio::test]
    async fn those_with_more_power_keep_it_and_more_creators_can_be_named() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let users = json!({ nurse.user_id.as_str(): 60, doctor.user_id.as_str(): 100 });
        let body = json!({ "power_level_content_override": {
            "users": { nurse.user_id.as_str(): 100 }, "events": { "m.room.tombstone": 60 },
        } });
        let room = ward.room_as(&nurse, body).await;
        let mut power = ward.current(&room, ("m.room.power_levels", "")).await;
        power["users"] = users.clone();
        ward.state(&nurse, &room, ("m.room.power_levels", ""), power).await;
        let rooms = &ward.services.rooms;
        let next = rooms.upgrade(&nurse, &room, &to(V::V11)).await.unwrap();
        assert_eq!(ward.current(&next, ("m.room.power_levels", "")).await["users"], users);

        let upgrade =
            Upgrade { version: V::V12, additional_creators: vec![doctor.user_id.clone()] };
        let last = rooms.upgrade(&nurse, &next, &upgrade).await.unwrap();
        let create = ward.current(&last, ("m.room.create", "")).await;
        assert_eq!(create["additional_creators"], json!([doctor.user_id]));
        assert_eq!(ward.current(&last, ("m.room.power_levels", "")).await["users"], json!({}));
        let unknown = rooms.upgrade(&nurse, &last, &to(V::V1)).await.unwrap_err();
        assert_eq!(unknown.kind, Kind::UnsupportedRoomVersion);
    }
}
