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
    OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UInt,
};
use appliance_model::{Caller, Error, Kind, Pdu, RoomNid};
use appliance_rules::event_auth::NamedState;
use appliance_rules::policy::{POLICY_TYPE, Policy};
use serde::Deserialize;
use serde_json::json;

use super::build::{Draft, Place, content_from, content_of};
use super::policy_server::POLICY_SERVER_TYPE;
use super::room::OpenRoom;
use super::sharing::is_federated_object;
use super::{Rooms, rules_of};
use crate::policy::room_policy;

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

const PRESETS: [RoomPreset; 3] =
    [RoomPreset::PrivateChat, RoomPreset::TrustedPrivateChat, RoomPreset::PublicChat];
const VISIBILITIES: [Visibility; 2] = [Visibility::Private, Visibility::Public];

/// What is settled before the first event is built.
pub(super) struct Plan<'a> {
    caller: &'a Caller,
    request: &'a Request,
    version: RoomVersionId,
    rules: RoomVersionRules,
    preset: RoomPreset,
    /// The creator, and from v12 on those who are creators with them.
    creators: BTreeSet<OwnedUserId>,
    alias: Option<OwnedRoomAliasId>,
    /// What the create event says beside who made the room, and in which version.
    creation: CanonicalJsonObject,
    /// State that was asked for.
    given: Vec<InitialState>,
    /// The room names this server as its policy server.
    is_guarded: bool,
}

#[derive(Clone, Deserialize)]
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
        self.limits.room(caller.user)?;
        let plan = self.plan(caller, request)?;
        self.check_invited_elsewhere(&plan)?;
        // Asked before anything is built: an invite to nobody makes no room.
        for invitee in &request.invite {
            self.summon(invitee).await?;
            self.invite_content(invitee).await?;
        }
        let inside = match &plan.alias {
            Some(alias) => {
                // All aliases share one door: another room must not get this one meanwhile.
                let inside = self.doors.enter(0).await;
                self.check_new_alias(caller, alias).await?;
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
        self.invite_others(&plan, &room_id).await;
        Ok(room_id)
    }

    /// Those of other servers are invited once the room is there. One who cannot be reached makes the
    /// room no less a room: the creator sees who is not in the list, and invites again.
    async fn invite_others(&self, plan: &Plan<'_>, room_id: &RoomId) {
        for invitee in plan.request.invite.iter().filter(|id| !self.house.is_ours(id)) {
            let mut content = RoomMemberEventContent::new(MembershipState::Invite);
            content.is_direct = plan.request.is_direct.then_some(true);
            let invited = self.invite_elsewhere(plan.caller, room_id, invitee, &content).await;
            if let Err(error) = invited {
                tracing::warn!(kind = "federation.invite", room.id = %room_id, user.id = %invitee,
                    %error, "somebody of another server could not be invited to a new room");
            }
        }
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

    pub(super) fn plan<'a>(
        &self,
        caller: &'a Caller,
        request: &'a Request,
    ) -> Result<Plan<'a>, Error> {
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
        let preset = match (&request.preset, &request.visibility) {
            (Some(preset), _) => preset.clone(),
            (None, Visibility::Public) => RoomPreset::PublicChat,
            (None, _) => RoomPreset::PrivateChat,
        };
        if !PRESETS.contains(&preset) || !VISIBILITIES.contains(&request.visibility) {
            return Err(Error::invalid_param(
                "`preset` is `private_chat`, `trusted_private_chat` or `public_chat`, `visibility` \
                 is `private` or `public`.",
            ));
        }
        let mut creators = BTreeSet::from([caller.user_id.clone()]);
        // v12: "the `trusted_private_chat` preset … invitees … additional_creators".
        if rules.authorization.additional_room_creators && preset == RoomPreset::TrustedPrivateChat
        {
            creators.extend(request.invite.iter().cloned());
        }
        let alias = self.new_alias(request)?;
        let given = initial_state(request)?;
        let creation = match &request.creation_content {
            Some(raw) => content_of(raw)?,
            None => CanonicalJsonObject::new(),
        };
        let policy = policy_in(&given);
        let creation = self.kept_inside(creation, &policy)?;
        let names_one = given.iter().any(|state| state.kind.to_string() == POLICY_SERVER_TYPE);
        let is_guarded = !names_one && self.is_guarded(&creation, policy.as_ref());
        Ok(Plan {
            caller,
            request,
            version,
            rules,
            preset,
            creators,
            alias,
            creation,
            given,
            is_guarded,
        })
    }

    /// Nobody is called to a room that stays inside this hospital, or that their server may not be in.
    fn check_invited_elsewhere(&self, plan: &Plan<'_>) -> Result<(), Error> {
        let others = plan.request.invite.iter().filter(|id| !self.house.is_ours(id));
        for invitee in others {
            let federated = is_federated_object(&plan.creation);
            let kind = (federated, policy_in(&plan.given));
            self.check_kind(kind, invitee.server_name())?;
        }
        Ok(())
    }

    /// The create event, and the room that it makes.
    pub(super) async fn found(&self, plan: &Plan<'_>) -> Result<OpenRoom<'_>, Error> {
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
    pub(super) async fn furnish(
        &self,
        plan: &Plan<'_>,
        room: &mut OpenRoom<'_>,
    ) -> Result<(), Error> {
        let creator = &plan.caller.user_id;
        let member = self.joining_content(plan.caller).await?;
        room.add_member(creator, creator, &member).await?;
        let given = &plan.given;
        let is_given = |kind: &StateEventType| {
            given.iter().any(|state| state.kind == *kind && state.state_key.is_empty())
        };
        let acl = StateEventType::RoomServerAcl;
        // Before the power levels: whatever the creator asks for in them, this is theirs to write.
        if is_federated_object(&plan.creation)
            && !is_given(&acl)
            && let Some(content) = self.first_access_list()
        {
            set(plan, room, acl, content).await?;
        }
        set(plan, room, StateEventType::RoomPowerLevels, power_levels(plan)?).await?;

        if let Some(alias) = &plan.alias {
            let content = content_from(&json!({ "alias": alias }))?;
            set(plan, room, StateEventType::RoomCanonicalAlias, content).await?;
        }
        for (kind, content) in preset_state(&plan.preset) {
            // "initial_state … takes precedence over events set by preset".
            if !is_given(&kind) {
                set(plan, room, kind, content_from(&content)?).await?;
            }
        }
        for InitialState { kind, state_key, mut content } in given.iter().cloned() {
            if kind == StateEventType::RoomServerAcl && state_key.is_empty() {
                content = self.checked_access_list(content)?;
            }
            if kind == StateEventType::RoomCanonicalAlias {
                let own =
                    plan.alias.iter().map(|alias| ("alias".to_owned(), alias.as_str().into()));
                let own: CanonicalJsonObject = own.collect();
                self.check_canonical_alias(&content, (room.room, Some(&own))).await?;
            }
            room.add(Draft::state(creator.clone(), kind, state_key, content), None).await?;
        }
        if plan.is_guarded {
            let content = self.own_policy_server().await?;
            set(plan, room, StateEventType::from(POLICY_SERVER_TYPE), content).await?;
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
        for invitee in plan.request.invite.iter().filter(|id| self.house.is_ours(id)) {
            let mut content = self.invite_content(invitee).await?;
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
    let mut content = plan.creation.clone();
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
        if creators.is_empty() {
            content.remove("additional_creators");
        } else {
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
    let mut defaults = json!({
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
    if plan.is_guarded {
        defaults["events"][POLICY_SERVER_TYPE] = 100.into();
    }
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

/// The policy that a room begins with; none if it names none.
fn policy_in(given: &[InitialState]) -> Option<Policy> {
    let is_policy =
        |state: &&InitialState| state.kind.to_string() == POLICY_TYPE && state.state_key.is_empty();
    let content = &given.iter().rfind(is_policy)?.content;
    Some(room_policy(&serde_json::to_string(content).unwrap_or_default()))
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

#[cfg(test)]
mod tests {
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use serde_json::Value;

    use super::*;
    use crate::scenario::{Ward, create_request};

    /// Types and state keys of a room's timeline, in order.
    async fn story(ward: &Ward, room: &RoomId) -> Vec<String> {
        let (_, events) = ward.timeline(room).await;
        events.iter().map(|(event, _)| event.kind().to_owned()).collect()
    }

    #[tokio::test]
    async fn every_preset_in_every_version() {
        for version in ROOM_VERSIONS {
            let ward = Ward::of_version(version.clone()).await;
            let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
            let above = version == RoomVersionId::V12;
            for (preset, join_rule, guests) in [
                ("private_chat", "invite", "can_join"),
                ("trusted_private_chat", "invite", "can_join"),
                ("public_chat", "public", "forbidden"),
            ] {
                let body = json!({
                    "preset": preset, "invite": [doctor.user_id], "is_direct": true,
                    "name": "Ward 4", "topic": "Beds",
                });
                let room = ward.room_as(&nurse, body).await;
                let case = format!("{version} {preset}");
                assert_eq!(room.server_name().is_none(), above, "{case}");
                assert_eq!(
                    story(&ward, &room).await,
                    [
                        "m.room.create",
                        "m.room.member",
                        "m.room.power_levels",
                        "m.room.join_rules",
                        "m.room.history_visibility",
                        "m.room.guest_access",
                        "m.room.name",
                        "m.room.topic",
                        "m.room.member",
                    ],
                    "{case}"
                );
                let state = async |kind: &str| ward.current(&room, (kind, "")).await;
                assert_eq!(state("m.room.join_rules").await["join_rule"], join_rule, "{case}");
                assert_eq!(state("m.room.guest_access").await["guest_access"], guests, "{case}");
                let visibility = state("m.room.history_visibility").await;
                assert_eq!(visibility["history_visibility"], "shared", "{case}");

                let create = state("m.room.create").await;
                assert_eq!(create["room_version"], version.as_str(), "{case}");
                let names_creator = ![RoomVersionId::V11, RoomVersionId::V12].contains(&version);
                assert_eq!(create["creator"].is_string(), names_creator, "{case}");
                let levels = &state("m.room.power_levels").await;
                let trusted = preset == "trusted_private_chat";
                let level = |who: &Caller| levels["users"][who.user_id.as_str()].clone();
                let expected = |is_high: bool| if is_high { json!(100) } else { Value::Null };
                assert_eq!(level(&nurse), expected(!above), "{case}");
                assert_eq!(level(&doctor), expected(!above && trusted), "{case}");
                let creators = &create["additional_creators"];
                let with_doctor = json!([doctor.user_id]);
                let none = Value::Null;
                assert_eq!(creators, if above && trusted { &with_doctor } else { &none }, "{case}");
                let tombstone = if above { 150 } else { 100 };
                assert_eq!(levels["events"]["m.room.tombstone"], tombstone, "{case}");

                let invite = ward.current(&room, ("m.room.member", doctor.user_id.as_str())).await;
                let expected = json!({
                    "membership": "invite", "is_direct": true, "displayname": "doctor",
                });
                assert_eq!(invite, expected, "{case}");
                ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
                ward.say(&doctor, &room, "here").await;
            }
        }
    }

    #[tokio::test]
    async fn what_the_creator_asks_for_is_laid_over_the_preset() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let body = json!({
            "creation_content": {
                "type": "m.space", "m.federate": false, "creator": "@other:elsewhere.example",
                "room_version": "1",
                "predecessor": { "room_id": "!old:hospital.example" },
            },
            "initial_state": [
                { "type": "m.room.guest_access", "content": { "guest_access": "forbidden" } },
                { "type": "m.room.name", "content": { "name": "overwritten" } },
                { "type": "m.room.encryption", "state_key": "",
                  "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
                { "type": "example.bed", "state_key": "4", "content": { "free": true } },
            ],
            "name": "Ward 4",
            "power_level_content_override": { "invite": 50, "events": { "m.room.name": 0 } },
        });
        let room = ward.room_as(&nurse, body).await;
        let state = async |kind, key| ward.current(&room, (kind, key)).await;
        let create = state("m.room.create", "").await;
        let expected = json!({
            "type": "m.space", "m.federate": false, "room_version": "11",
            "predecessor": { "room_id": "!old:hospital.example" },
        });
        assert_eq!(create, expected, "version and creator are the server's to say");
        assert_eq!(state("m.room.guest_access", "").await["guest_access"], "forbidden");
        assert_eq!(state("m.room.name", "").await["name"], "Ward 4");
        assert_eq!(state("example.bed", "4").await["free"], true);
        let levels = state("m.room.power_levels", "").await;
        assert_eq!((&levels["invite"], &levels["ban"]), (&json!(50), &json!(50)));
        assert_eq!(levels["events"], json!({ "m.room.name": 0 }));
        assert_eq!(levels["users"][nurse.user_id.as_str()], 100);
        let guests = story(&ward, &room).await;
        assert_eq!(guests.iter().filter(|kind| *kind == "m.room.guest_access").count(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_makes_no_room() {
        let ward = Ward::of_version(RoomVersionId::V12).await;
        let [nurse] = ward.members(["nurse"]).await;
        let state = |kind: &str, content: Value| json!({ "initial_state": [{ "type": kind, "content": content }] });
        let own = &nurse.user_id;
        for (body, kind) in [
            (json!({ "room_version": "5" }), Kind::UnsupportedRoomVersion),
            (json!({ "room_version": "example.next" }), Kind::UnsupportedRoomVersion),
            (json!({ "preset": "party" }), Kind::InvalidParam),
            (json!({ "visibility": "secret" }), Kind::InvalidParam),
            (json!({ "invite": ["@nobody:hospital.example"] }), Kind::NotFound),
            (json!({ "invite": [own] }), Kind::InvalidRoomState),
            (json!({ "room_alias_name": "a:b" }), Kind::InvalidParam),
            (json!({ "room_alias_name": "a b" }), Kind::InvalidParam),
            (json!({ "initial_state": [{ "content": {} }] }), Kind::BadJson),
            (json!({ "initial_state": [{ "type": "x", "content": 7 }] }), Kind::BadJson),
            (state("example.bed", json!({ "float": 0.5 })), Kind::BadJson),
            (state("m.room.create", json!({ "room_version": "11" })), Kind::InvalidRoomState),
            (
                state("m.room.canonical_alias", json!({ "alias": "#other:hospital.example" })),
                Kind::BadAlias,
            ),
            (
                json!({ "power_level_content_override": { "users": { (own.as_str()): 100 } } }),
                Kind::InvalidRoomState,
            ),
            (
                json!({ "power_level_content_override": { "invite": "all" } }),
                Kind::InvalidRoomState,
            ),
            (json!({ "creation_content": { "additional_creators": ["me"] } }), Kind::InvalidParam),
            (
                json!({ "room_version": "11", "name": "x", "power_level_content_override":
                        { "users": {}, "state_default": 50 } }),
                Kind::InvalidRoomState,
            ),
        ] {
            let request = create_request(body.clone());
            let refused = ward.services.rooms.create_room(&nurse, &request).await;
            assert_eq!(refused.unwrap_err().kind, kind, "{body}");
        }
        let rooms = ward.services.rooms.joined_rooms(&nurse).await.unwrap();
        assert_eq!(rooms, Vec::<OwnedRoomId>::new());
    }

    /// The clock stands still: the hash of the same create event would be the same room twice.
    #[tokio::test]
    async fn rooms_of_one_millisecond_are_different_rooms() {
        let ward = Ward::of_version(RoomVersionId::V12).await;
        let [nurse] = ward.members(["nurse"]).await;
        let (request, rooms) = (create_request(json!({})), &ward.services.rooms);
        let (one, two, three) = tokio::join!(
            rooms.create_room(&nurse, &request),
            rooms.create_room(&nurse, &request),
            rooms.create_room(&nurse, &request),
        );
        let ids: BTreeSet<_> = [one.unwrap(), two.unwrap(), three.unwrap()].into();
        assert_eq!(ids.len(), 3);
        assert_eq!(rooms.joined_rooms(&nurse).await.unwrap().len(), 3);
    }
}
