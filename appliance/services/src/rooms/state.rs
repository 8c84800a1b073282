//! Setting and reading a room's state.

use std::sync::Arc;

use appliance_ledger::keyspaces::HEADS;
use appliance_ledger::{Event, Root};
use appliance_model::ruma::api::client::state::send_state_event::v3::Request;
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, UserId};
use appliance_model::{Caller, Error, RoomNid};
use appliance_rules::policy::POLICY_TYPE;

use super::Rooms;
use super::build::{Draft, content_of};
use super::membership::check_inside;
use super::room::OpenRoom;

impl Rooms {
    /// Sets one state event ([spec]). State that says so already is not set again: the answer is the
    /// event that set it.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
    ///
    /// # Errors
    ///
    /// As [`Rooms::send_event`], and
    ///
    /// * [`appliance_model::Kind::BadAlias`], [`appliance_model::Kind::InvalidParam`]: the canonical
    ///   alias names an alias that does not point at the room, or none at all.
    /// * [`appliance_model::Kind::NotFound`]: an invite for someone who does not exist.
    pub async fn send_state(
        &self,
        caller: &Caller,
        request: &Request,
    ) -> Result<OwnedEventId, Error> {
        self.limits.message(caller.user)?;
        let content = content_of(&request.body)?;
        if let Some(invite) = self.invite_by_state(caller, request, &content).await? {
            return Ok(invite);
        }
        let mut room = self.enter(&request.room_id).await?;
        let content = self.checked_state(caller, &room, request, content).await?;
        let kind = TimelineEventType::from(request.event_type.to_string());
        let draft = Draft {
            at: request.timestamp.filter(|_| caller.appservice.is_some()),
            ..Draft::state(caller.user_id.clone(), kind, request.state_key.as_str(), content)
        };
        let event = room.add(draft, None).await?;
        room.leave().await?;
        Ok(event.event_id.clone())
    }

    /// An invite for a user of another server goes to that server first, whichever endpoint it came by.
    async fn invite_by_state(
        &self,
        caller: &Caller,
        request: &Request,
        content: &CanonicalJsonObject,
    ) -> Result<Option<OwnedEventId>, Error> {
        let membership = content.get("membership").and_then(CanonicalJsonValue::as_str);
        if request.event_type != StateEventType::RoomMember || membership != Some("invite") {
            return Ok(None);
        }
        let target = UserId::parse(request.state_key.as_str()).ok();
        let Some(target) = target.filter(|target| !self.house.is_ours(target)) else {
            return Ok(None);
        };
        let content = serde_json::from_str(request.body.json().get())
            .map_err(|error| Error::bad_json(format!("This is no invite: {error}")))?;
        let inviting = self.invite_elsewhere(caller, &request.room_id, &target, &content);
        inviting.await?;
        let room = self.enter(&request.room_id).await?;
        let set = room.state(&StateEventType::RoomMember, target.as_str()).await?;
        Ok(set.map(|event| event.event_id.clone()))
    }

    /// What the authorization rules do not look at.
    async fn checked_state(
        &self,
        caller: &Caller,
        room: &OpenRoom<'_>,
        request: &Request,
        content: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject, Error> {
        match &request.event_type {
            StateEventType::RoomMember => {
                self.checked_member(caller, room, &request.state_key, content).await
            }
            StateEventType::RoomPowerLevels if request.state_key.is_empty() => {
                check_levels(room, &content).await?;
                Ok(content)
            }
            kind @ StateEventType::RoomCanonicalAlias if request.state_key.is_empty() => {
                let current = room.state(kind, "").await?;
                let current = current.and_then(|now| serde_json::from_str(now.content.get()).ok());
                self.check_canonical_alias(&content, (room.room, current.as_ref())).await?;
                Ok(content)
            }
            StateEventType::RoomServerAcl if request.state_key.is_empty() => {
                self.checked_access_list(content)
            }
            kind if kind.to_string() == POLICY_TYPE && request.state_key.is_empty() => {
                self.check_may_become(room, &request.body).await?;
                Ok(content)
            }
            StateEventType::RoomEncryption => {
                // "algorithm: Required." Clients take an encryption event without it for none, and
                // would go on in the clear.
                let algorithm = content.get("algorithm").and_then(CanonicalJsonValue::as_str);
                if algorithm.is_none_or(str::is_empty) {
                    return Err(Error::bad_json("Encryption needs an `algorithm`."));
                }
                Ok(content)
            }
            _ => Ok(content),
        }
    }

    async fn checked_member(
        &self,
        caller: &Caller,
        room: &OpenRoom<'_>,
        target: &str,
        mut content: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject, Error> {
        const VOUCHER: &str = "join_authorised_via_users_server";
        let target = UserId::parse(target)
            .map_err(|_| Error::invalid_param("The state key of a member event is a user ID."))?;
        // Only this server says who vouches; a client that copies an old event would pass on a name
        // that may have left.
        content.remove(VOUCHER);
        match content.get("membership").and_then(CanonicalJsonValue::as_str) {
            Some("invite") => {
                check_inside(room, &caller.user_id).await?;
                self.invite_content(&target).await?;
            }
            Some("join") if target == caller.user_id => {
                if let Some(voucher) = self.voucher(room, caller).await? {
                    content.insert(VOUCHER.to_owned(), voucher.to_string().into());
                }
            }
            Some(_) => {}
            None => return Err(Error::bad_json("A member event needs a `membership`.")),
        }
        Ok(content)
    }

    /// A current state event, without entering the room.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn current(
        &self,
        room: RoomNid,
        kind: &StateEventType,
        key: &str,
    ) -> Result<Option<Arc<Event>>, Error> {
        let root = self.current_root(room).await?;
        self.state_at(room, root, kind, key).await
    }

    /// The root of a room's current state.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn current_root(&self, room: RoomNid) -> Result<Root, Error> {
        let head = self.house.ledger.get(&HEADS, &room).await?.unwrap_or_default();
        Ok(Root(head.state_root))
    }

    /// A state event of the state `root`.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn state_at(
        &self,
        room: RoomNid,
        root: Root,
        kind: &StateEventType,
        key: &str,
    ) -> Result<Option<Arc<Event>>, Error> {
        let ledger = &self.house.ledger;
        let Some(key) = ledger.state_key(kind, key).await? else { return Ok(None) };
        let Some(number) = ledger.states(room).get(root, key).await? else { return Ok(None) };
        ledger.event(number).await.map(Some)
    }
}

/// "creators … MUST NOT appear in users" (version 12): the rules would refuse it, but it is the content
/// that is wrong, not who sends it.
async fn check_levels(room: &OpenRoom<'_>, content: &CanonicalJsonObject) -> Result<(), Error> {
    let Some(CanonicalJsonValue::Object(users)) = content.get("users") else { return Ok(()) };
    if !room.rules.authorization.explicitly_privilege_room_creators {
        return Ok(());
    }
    let Some(create) = room.state(&StateEventType::RoomCreate, "").await? else { return Ok(()) };
    let made: CanonicalJsonObject =
        serde_json::from_str(create.content.get()).map_err(Error::internal)?;
    let others = made.get("additional_creators").and_then(CanonicalJsonValue::as_array);
    let others = others.into_iter().flatten().filter_map(CanonicalJsonValue::as_str);
    let mut creators = others.chain([create.sender.as_str()]);
    match creators.find(|creator| users.contains_key(*creator)) {
        Some(creator) => Err(Error::invalid_param(format!(
            "{creator} made this room, stands above its power levels and cannot be listed in them."
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::RoomVersionId as V;
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use serde_json::{Value, json};

    use super::*;
    use crate::scenario::{Ward, state};

    async fn set(
        ward: &Ward,
        who: &Caller,
        request: &Request,
    ) -> Result<OwnedEventId, (Kind, String)> {
        let set = ward.services.rooms.send_state(who, request).await;
        set.map_err(|error| (error.kind, error.message.into_owned()))
    }

    #[tokio::test]
    async fn state_that_says_so_already_is_not_set_again() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let name = state(&room, ("m.room.name", ""), json!({ "name": "Ward 4", "x": [1, {}] }));
        let first = set(&ward, &nurse, &name).await.unwrap();
        let again = set(&ward, &nurse, &name).await.unwrap();
        assert_eq!(first, again);
        let refused = set(&ward, &doctor, &name).await.unwrap_err();
        assert_eq!(refused.0, Kind::Forbidden, "even if nothing would change");
        let other = state(&room, ("m.room.name", ""), json!({ "name": "Ward 5" }));
        assert_ne!(set(&ward, &nurse, &other).await.unwrap(), first);
        assert_ne!(set(&ward, &nurse, &name).await.unwrap(), first, "back again is a change");
    }

    #[tokio::test]
    async fn strangers_and_strange_state_are_refused() {
        let (ward, [nurse, visitor]) = Ward::with_members(["nurse", "visitor"]).await;
        let room = ward.room(&nurse).await;
        let case = |kind: &str, key: &str, content: Value| state(&room, (kind, key), content);
        let topic = case("m.room.topic", "", json!({ "topic": "Beds" }));
        let not_in = "You are not in this room.".to_owned();
        assert_eq!(set(&ward, &visitor, &topic).await, Err((Kind::Forbidden, not_in)));
        for (request, kind) in [
            (case("m.room.encryption", "", json!({})), Kind::BadJson),
            (case("m.room.encryption", "", json!({ "algorithm": "" })), Kind::BadJson),
            (case("m.room.member", "nurse", json!({ "membership": "join" })), Kind::InvalidParam),
            (case("m.room.member", "@nobody:hospital.example", json!({})), Kind::BadJson),
            (
                case(
                    "m.room.member",
                    "@nobody:hospital.example",
                    json!({ "membership": "invite" }),
                ),
                Kind::NotFound,
            ),
            (
                case("m.room.member", nurse.user_id.as_str(), json!({ "membership": "lodger" })),
                Kind::Forbidden,
            ),
            (case("m.room.create", "", json!({})), Kind::Forbidden),
            (case("example.bed", "@visitor:hospital.example", json!({})), Kind::Forbidden),
            (case("m.room.power_levels", "", json!({ "users": 7 })), Kind::Forbidden),
            (case("m.room.topic", "", json!({ "topic": 0.5 })), Kind::BadJson),
            (case("m.room.topic", "", json!({ "topic": "x".repeat(66_000) })), Kind::TooLarge),
            (case("m.room.topic", &"x".repeat(256), json!({})), Kind::TooLarge),
            (case(&"x".repeat(256), "", json!({})), Kind::TooLarge),
        ] {
            let refused = set(&ward, &nurse, &request).await.unwrap_err();
            assert_eq!(refused.0, kind, "{} {}", request.event_type, refused.1);
        }
    }

    /// A phone that sets a nickname copies its old member event, voucher and all.
    #[tokio::test]
    async fn a_nickname_takes_no_voucher_along() {
        for version in [V::V8, V::V11, V::V12] {
            let ward = Ward::of_version(version.clone()).await;
            let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
            let hall = ward.room_of(&[&nurse, &doctor]).await;
            let allow = json!([{ "type": "m.room_membership", "room_id": hall }]);
            let rule = json!({ "join_rule": "restricted", "allow": allow });
            let body = json!({ "initial_state": [
                { "type": "m.room.join_rules", "content": rule },
            ] });
            let side = ward.room_as(&nurse, body).await;
            // Joining by way of the state endpoint is vouched for as well.
            let key = ("m.room.member", doctor.user_id.as_str());
            ward.state(&doctor, &side, key, json!({ "membership": "join" })).await;
            let joined = ward.current(&side, key).await;
            let voucher = &joined["join_authorised_via_users_server"];
            assert_eq!(*voucher, nurse.user_id.as_str(), "{version}");

            ward.set(&nurse, &side, &nurse.user_id, M::Leave).await;
            let mut renamed = joined.clone();
            renamed["displayname"] = json!("Dr. House");
            ward.state(&doctor, &side, key, renamed).await;
            let expected = json!({ "membership": "join", "displayname": "Dr. House" });
            assert_eq!(ward.current(&side, key).await, expected, "{version}");
        }
    }
}
