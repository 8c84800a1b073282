//! `PUT /v2/invite` ([spec]): a user of another server invites one of ours.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room

use std::sync::Arc;

use appliance_ledger::keyspaces::{ACCOUNTS, CALLS};
use appliance_ledger::membership;
use appliance_ledger::rows::CallRow;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::signatures::sign_event;
use appliance_model::ruma::{
    CanonicalJsonValue, EventId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
};
use appliance_model::{Error, Kind, RoomNid, UserNid};
use appliance_rules::Permit;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::check::formed;
use crate::rooms::{ROOM_VERSIONS, Rooms, rules_of};

/// What a room shows of itself has some eight events; more are not kept.
const FACE_MAX: usize = 32;
/// Their size together.
const FACE_BYTES_MAX: usize = 256 * 1024;

/// The body of the request.
#[derive(Deserialize)]
pub struct InviteBody {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The invite, signed by the server that sends it.
    pub event: Box<RawValue>,
    /// What the room shows of itself.
    #[serde(default)]
    pub invite_room_state: Vec<Box<RawValue>>,
}

impl Rooms {
    /// Takes an invite; the answer is the event with this server's signature, as JSON.
    ///
    /// # Errors
    ///
    /// * [`Kind::IncompatibleRoomVersion`]: this server does not speak that version.
    /// * [`Kind::InvalidParam`]: the event is not an invite, or not the one that the path names.
    /// * [`Kind::NotFound`]: there is no such user here.
    /// * [`Kind::Forbidden`]: a signature is wrong, the sender is not a user of the other server, that
    ///   server may not invite, or not to rooms of that class, the access list keeps that server out, or
    ///   somebody off this server's list is in the room.
    pub async fn take_invite(
        &self,
        origin: &ServerName,
        (room_id, event_id): (&RoomId, &EventId),
        body: &InviteBody,
    ) -> Result<String, Error> {
        if !ROOM_VERSIONS.contains(&body.room_version) {
            let room_version = body.room_version.to_string();
            let kind = Kind::IncompatibleRoomVersion { room_version };
            return Err(Error::new(kind, "This server does not know that room version."));
        }
        let rules = rules_of(&body.room_version)?;
        let mut formed = formed(&body.event, &rules).map_err(Error::invalid_param)?;
        if formed.room_id != *room_id || formed.event_id != *event_id {
            return Err(Error::invalid_param("The event is not the one that the path names."));
        }
        if !self.house.roll.may_invite(origin) {
            let message = "People of your server may not invite people of this one.";
            return Err(Error::forbidden(message));
        }
        let target = self.invited(&formed.object, origin).await?;
        if let Some(stranger) = self.stranger_in_face(&body.invite_room_state) {
            return Err(Error::forbidden(format!(
                "{stranger} is in that room, and this server has nothing to do with it."
            )));
        }
        self.check_shared_elsewhere(origin, body.invite_room_state.iter().map(|raw| &**raw))?;
        let (own, key) = (self.house.server_name.as_str(), &self.house.signing_key);
        sign_event(own, key, &mut formed.object, &rules.redaction).map_err(Error::internal)?;
        let signed = serde_json::to_string(&formed.object).map_err(Error::internal)?;
        let pdu = self.verified(formed, &rules).await?.map_err(Error::forbidden)?;

        let mut open = self.enter_new(room_id, &body.room_version).await?;
        if open.is_resident() {
            if !open.admits(origin).await? {
                return Err(Error::forbidden("The room's access list keeps this server out."));
            }
            // The event itself comes with the room's others.
            return Ok(signed);
        }
        let room = open.room;
        let mut commit =
            open.begin(Permit::own("event.received", &pdu.sender, format!("{room_id} {event_id}")));
        let event = match open.known(event_id).await? {
            Some(known) => known.number,
            None => open.add_outlier(&Arc::new(pdu), &mut commit).await?,
        };
        let call =
            CallRow { stripped: stripped_of(&body.invite_room_state), via: origin.to_string() };
        commit.put(&CALLS, &(room, target), &call);
        self.stand_outside((target, room), membership::INVITE, event, &mut commit).await?;
        open.resume(commit);
        open.leave().await?;
        Ok(signed)
    }

    /// Whom an invite is for.
    async fn invited(
        &self,
        object: &appliance_model::ruma::CanonicalJsonObject,
        origin: &ServerName,
    ) -> Result<UserNid, Error> {
        let text = |name: &str| object.get(name).and_then(CanonicalJsonValue::as_str);
        let content = object.get("content").and_then(CanonicalJsonValue::as_object);
        let says = content
            .and_then(|content| content.get("membership"))
            .and_then(CanonicalJsonValue::as_str);
        if text("type") != Some(&*StateEventType::RoomMember.to_string()) || says != Some("invite")
        {
            return Err(Error::invalid_param("The event is not an invite."));
        }
        let by = text("sender").and_then(|sender| UserId::parse(sender).ok());
        if by.is_none_or(|sender| sender.server_name() != origin) {
            let other = "The event's sender is not a user of the server that sends it.";
            return Err(Error::forbidden(other));
        }
        let nobody = || Error::not_found("There is no such user on this server.");
        let target = text("state_key").and_then(|key| UserId::parse(key).ok());
        let target = target.filter(|target| self.house.is_ours(target)).ok_or_else(nobody)?;
        let ledger = &self.house.ledger;
        let user = ledger.user(&target).await?.ok_or_else(nobody)?;
        let account = ledger.get(&ACCOUNTS, &user).await?;
        account.filter(|account| !account.deactivated).map(|_| user).ok_or_else(nobody)
    }

    fn stranger_in_face(&self, face: &[Box<RawValue>]) -> Option<String> {
        #[derive(Deserialize)]
        struct Seen {
            sender: OwnedUserId,
        }
        let senders = face.iter().filter_map(|raw| serde_json::from_str::<Seen>(raw.get()).ok());
        let mut servers = senders.map(|seen| seen.sender.server_name().to_owned());
        servers.find(|server| !self.is_allowed(server)).map(|server| server.to_string())
    }

    /// What a room that this server is not in shows of itself to one of our users.
    pub(crate) async fn call_face(
        &self,
        room: RoomNid,
        user: UserNid,
    ) -> Result<Vec<String>, Error> {
        let call = self.house.ledger.get(&CALLS, &(room, user)).await?;
        Ok(call.map(|call| call.stripped).unwrap_or_default())
    }
}

/// "Only the sender, type, state_key and content properties" of what another server shows of a room.
pub(super) fn stripped_of(face: &[Box<RawValue>]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Seen<'a> {
        sender: OwnedUserId,
        #[serde(rename = "type")]
        kind: String,
        state_key: String,
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let mut bytes = 0;
    let mut stripped = Vec::new();
    for raw in face.iter().take(FACE_MAX) {
        bytes += raw.get().len();
        if bytes > FACE_BYTES_MAX {
            break;
        }
        let Ok(seen) = serde_json::from_str::<Seen<'_>>(raw.get()) else { continue };
        let Seen { sender, kind, state_key, content } = seen;
        let event =
            json!({ "content": content, "sender": sender, "state_key": state_key, "type": kind });
        stripped.push(event.to_string());
    }
    stripped
}
