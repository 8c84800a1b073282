//! `POST /createRoom` ([spec]): a new room, all of its first events in one commit.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom

use std::collections::BTreeSet;

use appliance_ledger::keyspaces::{PUBLISHED, ROOM_IDS, ROOMS};
use appliance_ledger::rows::{HeadRow, PublishedRow, RoomRow};
use appliance_model::ruma::api::client::room::Visibility;
use appliance_model::ruma::api::client::room::create_room::v3::{Request, RoomPreset};
use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedRoomAliasId,
    OwnedRoomId, OwnedUserId, RoomVersionId, UInt,
};
use appliance_model::{Caller, Error, Kind, Pdu, RoomNid};
use appliance_rules::event_auth::NamedState;
use appliance_rules::policy::POLICY_TYPE;
use serde::Deserialize;
use serde_json::json;

use super::build::{Draft, Place, content_from, content_of};
use super::room::OpenRoom;
use super::{Rooms, rules_of};

/// More people can be invited afterwards; one commit must stay small.
const INVITES_MAX: usize = 200;
/// The same for state given with the request.
const INITIAL_STATE_MAX: usize = 200;

/// Rooms that one person makes within a millisecond.
const SAME_TIME_MAX: u64 = 100;

/// The oldest room version this server creates or joins: the first whose rules Ruma keeps fully.
pub const ROOM_VERSIONS: [RoomVersionId; 7] = [
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// What is settled before the first event is built.
struct Plan<'a> {
    caller: &'a Caller,
    request: &'a Request,
    version: RoomVersionId,
    rules: RoomVersionRules,
    preset: RoomPreset,
    /// The creator, and from v12 on those who are creators with them.
    creators: BTreeSet<OwnedUserId>,
    alias: Option<OwnedRoomAliasId>,
}

#[derive(Deserialize)]
struct InitialState {
    #[serde(rename = "type")]
    kind: StateEventType,
    #[serde(default)]
    state_key: String,
    content: CanonicalJsonObject,
}

impl Rooms {
    /// Creates a room; returns when it would survive a power cut.
    ///
    /// # Errors
    ///
    /// * [`Kind::UnsupportedRoomVersion`]: not a version of [`ROOM_VERSIONS`].
    /// * [`Kind::InvalidRoomState`]: the state asked for is refused by the room's own rules.
    /// * [`Kind::BadJson`]: some content is no canonical JSON object.
    /// * [`Kind::InvalidParam`]: too many invites or state events at once; a malformed alias.
    /// * [`Kind::RoomInUse`]: the alias is taken.
    /// * [`Kind::NotFound`]: an invite for someone who does not exist.
    pub async fn create_room(
        &self,
        caller: &Caller,
        request: &Request,
    ) -> Result<OwnedRoomId, Error> {
        let plan = self.plan(caller, request)?;
        for invitee in &request.invite {
            self.check_invitable(invitee).await?;
        }
        let inside = match &plan.alias {
            Some(alias) => {
                // All aliases share one door: another room must not get this one meanwhile.
                let inside = self.doors.enter(0).await;
                self.check_new_alias(alias).await?;
                Some(inside)
            }
            None => None,
        };
        let mut room = self.found(&plan).await?;
        let added = self.furnish(&plan, &mut room).await;
        added.map_err(|error| match error.kind {
            // The creator may do anything, so a refusal is about the state that was asked for.
            Kind::Forbidden => Error::new(Kind::InvalidRoomState, error.message),
            _ => error,
        })?;
        let (room_id, number) = (room.room_id.clone(), room.room);
        if let Some(commit) = room.commit_mut() {
            if let Some(alias) = &plan.alias {
                self.put_alias(caller, alias, number, commit);
                commit.hold(inside);
            }
            if request.visibility == Visibility::Public {
                let row = PublishedRow { by: caller.user.0, at_ms: self.house.clock.now_ms() };
                commit.put(&PUBLISHED, &number, &row);
            }
        }
        room.leave().await?;
        Ok(room_id)
    }

    /// "room_alias_name: the desired room alias local part".
    fn new_alias(&self, request: &Request) -> Result<Option<OwnedRoomAliasId>, Error> {
        let Some(name) = &request.room_alias_name else { return Ok(None) };
        let alias = OwnedRoomAliasId::try_from(format!("#{name}:{}", self.house.server_name));
        let usable = !name.is_empty() && !name.contains([':', '\0']);
        alias.ok().filter(|_| usable).map(Some).ok_or_else(|| {
            Error::invalid_param("`room_alias_name` is the part before the colon, without `#`.")
        })
    }

    fn plan<'a>(&self, caller: &'a Caller, request: &'a Request) -> Result<Plan<'a>, Error> {
        if request.invite.len() > INVITES_MAX || request.initial_state.len() > INITIAL_STATE_MAX {
            return Err(Error::invalid_param(
                "At most 200 invites and 200 state events go with a new room; send the rest later.",
            ));
        }
        if !request.invite_3pid.is_empty() {
            return Err(Error::invalid_param(
                "This server has no identity server: invite people by their Matrix ID.",
            ));
        }
        let version = request.room_version.clone();
        let version = version.unwrap_or_else(|| self.house.options.default_room_version.clone());
        let rules = rules_of(&version)?;
        if !ROOM_VERSIONS.contains(&version) {
            return Err(Error::new(
                Kind::UnsupportedRoomVersion,
                "This server creates rooms of versions 6 to 12.",
            ));
        }
        let preset = request.preset.clone().unwrap_or(match request.visibility {
            Visibility::Public => RoomPreset::PublicChat,
            _ => RoomPreset::PrivateChat,
        });
        let mut creators = BTreeSet::from([caller.user_id.clone()]);
        // v12: "the `trusted_private_chat` preset … invitees … additional_creators".
        if rules.authorization.additional_room_creators && preset == RoomPreset::TrustedPrivateChat
        {
            creators.extend(request.invite.iter().cloned());
        }
        let alias = self.new_alias(request)?;
        Ok(Plan { caller, request, version, rules, preset, creators, alias })
    }

    /// The create event, and the room that it makes.
    async fn found(&self, plan: &Plan<'_>) -> Result<OpenRoom<'_>, Error> {
        // One room at a time per person: what is found free below stays free until it is taken.
        let turn = self.doors.enter(plan.caller.user.0).await;
        let hash_is_id = plan.rules.authorization.room_create_event_id_as_room_id;
        let room_id = (!hash_is_id).then(|| {
            let opaque = self.house.dice.letters(18);
            OwnedRoomId::try_from(format!("!{opaque}:{}", self.house.server_name))
        });
        let room_id = room_id.transpose().map_err(Error::internal)?;
        let place =
            Place { room_id: room_id.as_deref(), prev_events: &[], auth_events: &[], depth: 1 };
        let create = self.create_event(plan, &place).await?;

        let ledger = &self.house.ledger;
        let room = RoomNid(ledger.next_number());
        let guard = self.doors.enter(room.0).await;
        let room_id = create.room_id.clone();
        let mut open = OpenRoom::new(
            self,
            room,
            room_id.clone(),
            plan.rules.clone(),
            HeadRow::default(),
            guard,
        );
        open.judge_and_append(create, &NamedState::new(), None).await?;
        if let Some(commit) = open.commit_mut() {
            let row = RoomRow { room_id: room_id.to_string(), version: plan.version.to_string() };
            commit.hold(turn);
            commit.put(&ROOM_IDS, &ledger.room_digest(&room_id), &room.0);
            commit.put(&ROOMS, &room, &row);
        }
        Ok(open)
    }

    /// The create event of a room whose ID nobody has.
    ///
    /// Since v12 the ID is the event's hash: two rooms that one person asks for in the same
    /// millisecond would be one. The second is dated a millisecond later, and so on.
    async fn create_event(&self, plan: &Plan<'_>, place: &Place<'_>) -> Result<Pdu, Error> {
        let content = create_content(plan)?;
        let now_ms = self.house.clock.now_ms();
        for later_ms in 0..SAME_TIME_MAX {
            let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(now_ms + later_ms));
            let draft = Draft {
                at: Some(at),
                ..Draft::state(
                    plan.caller.user_id.clone(),
                    StateEventType::RoomCreate,
                    "",
                    content.clone(),
                )
            };
            let create = draft.sign(&self.house, &plan.rules, place)?;
            if self.house.ledger.room(&create.room_id).await?.is_none() {
                return Ok(create);
            }
        }
        Err(Error::new(Kind::Unavailable, "Too many rooms at once. Try again in a second."))
    }

    /// The events after the create event, in the order the specification gives.
    async fn furnish(&self, plan: &Plan<'_>, room: &mut OpenRoom<'_>) -> Result<(), Error> {
        let creator = &plan.caller.user_id;
        let member = self.joining_content(plan.caller).await?;
        room.add_member(creator, creator, &member).await?;
        set(plan, room, StateEventType::RoomPowerLevels, power_levels(plan)?).await?;

        if let Some(alias) = &plan.alias {
            let content = content_from(&json!({ "alias": alias }))?;
            set(plan, room, StateEventType::RoomCanonicalAlias, content).await?;
        }
        let given = initial_state(plan.request)?;
        for (kind, content) in preset_state(&plan.preset) {
            // "initial_state … takes precedence over events set by preset".
            if !given.iter().any(|state| state.kind == kind && state.state_key.is_empty()) {
                set(plan, room, kind, content_from(&content)?).await?;
            }
        }
        for InitialState { kind, state_key, content } in given {
            if kind == StateEventType::RoomCanonicalAlias {
                let own =
                    plan.alias.iter().map(|alias| ("alias".to_owned(), alias.as_str().into()));
                let own: CanonicalJsonObject = own.collect();
                self.check_canonical_alias(&content, (room.room, Some(&own))).await?;
            }
            room.add(Draft::state(creator.clone(), kind, state_key, content), None).await?;
        }
        if let Some(name) = &plan.request.name {
            let content = content_from(&json!({ "name": name }))?;
            set(plan, room, StateEventType::RoomName, content).await?;
        }
        if let Some(topic) = &plan.request.topic {
            let content = json!({
                "topic": topic,
                "m.topic": { "m.text": [{ "body": topic, "mimetype": "text/plain" }] },
            });
            set(plan, room, StateEventType::RoomTopic, content_from(&content)?).await?;
        }
        for invitee in &plan.request.invite {
            let mut content = RoomMemberEventContent::new(MembershipState::Invite);
            content.is_direct = plan.request.is_direct.then_some(true);
            room.add_member(creator, invitee, &content).await?;
        }
        Ok(())
    }
}

async fn set(
    plan: &Plan<'_>,
    room: &mut OpenRoom<'_>,
    kind: StateEventType,
    content: CanonicalJsonObject,
) -> Result<(), Error> {
    let kind = TimelineEventType::from(kind.to_string());
    room.add(Draft::state(plan.caller.user_id.clone(), kind, "", content), None).await.map(drop)
}

fn create_content(plan: &Plan<'_>) -> Result<CanonicalJsonObject, Error> {
    let mut content = match &plan.request.creation_content {
        Some(raw) => content_of(raw)?,
        None => CanonicalJsonObject::new(),
    };
    content.insert("room_version".to_owned(), plan.version.to_string().into());
    // "creator … removed in room version 11".
    if plan.rules.authorization.use_room_create_sender {
        content.remove("creator");
    } else {
        content.insert("creator".to_owned(), plan.caller.user_id.to_string().into());
    }
    if plan.rules.authorization.additional_room_creators {
        let mut creators: BTreeSet<String> =
            plan.creators.iter().map(ToString::to_string).collect();
        if let Some(asked) = content.get("additional_creators") {
            creators.extend(user_ids(asked)?);
        }
        creators.remove(plan.caller.user_id.as_str());
        if !creators.is_empty() {
            let ids = creators.into_iter().map(CanonicalJsonValue::String).collect();
            content.insert("additional_creators".to_owned(), CanonicalJsonValue::Array(ids));
        }
    }
    Ok(content)
}

fn user_ids(value: &CanonicalJsonValue) -> Result<Vec<String>, Error> {
    let wrong = || Error::invalid_param("`additional_creators` must be a list of user IDs.");
    let CanonicalJsonValue::Array(values) = value else { return Err(wrong()) };
    let id = |value: &CanonicalJsonValue| match value {
        CanonicalJsonValue::String(id) if OwnedUserId::try_from(id.as_str()).is_ok() => {
            Ok(id.clone())
        }
        _ => Err(wrong()),
    };
    values.iter().map(id).collect()
}

fn power_levels(plan: &Plan<'_>) -> Result<CanonicalJsonObject, Error> {
    let creators_are_above = plan.rules.authorization.explicitly_privilege_room_creators;
    let mut users = serde_json::Map::new();
    // v12: "creators … MUST NOT appear in users".
    if !creators_are_above {
        users.insert(plan.caller.user_id.to_string(), 100.into());
        if plan.preset == RoomPreset::TrustedPrivateChat {
            users.extend(plan.request.invite.iter().map(|id| (id.to_string(), 100.into())));
        }
    }
    // In a ward room anyone may bring a colleague in; a public room is opened by its join rule.
    let invite = if plan.preset == RoomPreset::PublicChat { 50 } else { 0 };
    let defaults = json!({
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.power_levels": 100,
            POLICY_TYPE: 100,
            "m.room.history_visibility": 100,
            "m.room.encryption": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": if creators_are_above { 150 } else { 100 },
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": invite,
        "historical": 100,
    });
    let mut content = content_from(&defaults)?;
    if let Some(asked) = &plan.request.power_level_content_override {
        content.extend(content_of(asked)?);
    }
    Ok(content)
}

fn initial_state(request: &Request) -> Result<Vec<InitialState>, Error> {
    let read = |raw: &appliance_model::ruma::serde::Raw<_>| {
        serde_json::from_str(raw.json().get()).map_err(|error| {
            Error::bad_json(format!("An entry of `initial_state` is unusable: {error}"))
        })
    };
    request.initial_state.iter().map(read).collect()
}

/// "Preset … join_rules, history_visibility, guest_access" (table of the specification).
fn preset_state(preset: &RoomPreset) -> Vec<(StateEventType, serde_json::Value)> {
    let public = *preset == RoomPreset::PublicChat;
    let join_rule = if public { "public" } else { "invite" };
    let mut state = vec![
        (StateEventType::RoomJoinRules, json!({ "join_rule": join_rule })),
        (StateEventType::RoomHistoryVisibility, json!({ "history_visibility": "shared" })),
    ];
    let guests = if public { "forbidden" } else { "can_join" };
    state.push((StateEventType::RoomGuestAccess, json!({ "guest_access": guests })));
    state
}
