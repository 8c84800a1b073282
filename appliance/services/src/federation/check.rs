//! The checks on an event that need no state: form, signatures, hash ([checks on receipt], 1 to 3).
//!
//! [checks on receipt]: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu

use std::collections::BTreeMap;

use appliance_model::ruma::canonical_json::redact_in_place;
use appliance_model::ruma::events::room::policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID as POLICY_SERVER_KEY_ID;
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::serde::Base64;
use appliance_model::ruma::signatures::{
    PublicKeyMap, Verified, reference_hash, required_server_signatures_to_verify_event,
    verify_event,
};
use appliance_model::ruma::state_res::check_pdu_format;
use appliance_model::ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName,
};
use appliance_model::{Error, Pdu};
use appliance_rules::inbound::answerable;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::rooms::Rooms;

/// An event with what others may put beside it in `unsigned`, which is thrown away unread.
const RAW_BYTES_MAX: usize = 4 * appliance_model::EVENT_BYTES_MAX;
/// Signatures of one server on one event that are looked at.
const SIGNATURES_MAX: usize = 16;

/// An event whose form is right; whose hash is its name.
pub(crate) struct Formed {
    /// Without `unsigned`.
    pub object: CanonicalJsonObject,
    pub event_id: OwnedEventId,
    pub room_id: OwnedRoomId,
}

/// The room an event says it is for, before anything of it is believed.
pub(crate) fn room_named_in(raw: &str) -> Option<OwnedRoomId> {
    #[derive(Deserialize)]
    struct Named {
        room_id: OwnedRoomId,
    }
    serde_json::from_str::<Named>(raw).ok().map(|named| named.room_id)
}

/// "1. Is a valid event, otherwise it is dropped. For an event to be valid, it must contain a `room_id`,
/// and it must comply with the event format of that room version."
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn formed(raw: &RawValue, rules: &RoomVersionRules) -> Result<Formed, String> {
    if raw.get().len() > RAW_BYTES_MAX {
        return Err("the event is too large".to_owned());
    }
    // Floats and numbers beyond 2^53 end here: they are no canonical JSON.
    let mut object: CanonicalJsonObject =
        serde_json::from_str(raw.get()).map_err(|error| format!("not canonical JSON: {error}"))?;
    object.remove("unsigned");
    check_pdu_format(&object, &rules.event_format)?;
    let hash = reference_hash(&object, rules).map_err(|error| error.to_string())?;
    let event_id = EventId::parse(format!("${hash}")).map_err(|error| error.to_string())?;
    let room_id = match object.get("room_id") {
        Some(CanonicalJsonValue::String(room_id)) => RoomId::parse(room_id.as_str()),
        // Since v12 the create event's hash is the room's ID.
        _ => RoomId::parse(format!("!{hash}")),
    };
    Ok(Formed { object, event_id, room_id: room_id.map_err(|error| error.to_string())? })
}

impl Formed {
    /// The event, as far as it is well-formed.
    pub fn into_pdu(self, rules: &RoomVersionRules) -> Result<Pdu, String> {
        let json = serde_json::to_vec(&self.object).map_err(|error| error.to_string())?;
        let in_content = rules.redaction.content_field_redacts;
        Pdu::parse(self.event_id, self.room_id, Bytes::from(json), in_content)
            .map_err(|error| error.to_string())
    }
}

impl Rooms {
    /// Checks 1 to 3, and that this server has to do with all who answer for the event.
    ///
    /// # Errors
    ///
    /// Why the event is dropped; or, outside, that it cannot be checked now.
    pub(crate) async fn checked(
        &self,
        raw: &RawValue,
        room_id: &RoomId,
        rules: &RoomVersionRules,
    ) -> Result<Result<Pdu, String>, Error> {
        match formed(raw, rules) {
            Ok(formed) if formed.room_id == *room_id => self.verified(formed, rules).await,
            Ok(_) => Ok(Err("the event is of another room".to_owned())),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Checks 2 and 3.
    pub(crate) async fn verified(
        &self,
        formed: Formed,
        rules: &RoomVersionRules,
    ) -> Result<Result<Pdu, String>, Error> {
        let verified = self.verified_whole_or_part(formed, rules).await?;
        Ok(verified.map(|(pdu, _)| pdu))
    }

    /// The same; and whether it is all of the event, or only what a redaction leaves.
    pub(crate) async fn verified_whole_or_part(
        &self,
        mut formed: Formed,
        rules: &RoomVersionRules,
    ) -> Result<Result<(Pdu, bool), String>, Error> {
        let keys = match self.keys_for(&formed.object, rules).await? {
            Ok(keys) => keys,
            Err(why) => return Ok(Err(why)),
        };
        // "2. Passes signature checks, otherwise it is dropped."
        let is_whole = match verify_event(&keys, &formed.object, rules) {
            Ok(Verified::All) => true,
            // "3. Passes hash checks, otherwise it is redacted before being processed further."
            Ok(_) => {
                let redacted = redact_in_place(&mut formed.object, &rules.redaction, None);
                if let Err(error) = redacted {
                    return Ok(Err(error.to_string()));
                }
                false
            }
            Err(error) => return Ok(Err(format!("wrong signature: {error}"))),
        };
        let pdu = formed.into_pdu(rules);
        Ok(pdu.and_then(|pdu| match answerable(&pdu).iter().find(|name| !self.is_allowed(name)) {
            Some(stranger) => Err(format!("{stranger} is not one of this server's peers")),
            None => Ok((pdu, is_whole)),
        }))
    }

    /// Whether a server is this one or one it has to do with.
    pub(crate) fn is_allowed(&self, server: &ServerName) -> bool {
        *server == self.house.server_name || self.line.allows(server)
    }

    /// The keys of all who must have signed.
    async fn keys_for(
        &self,
        object: &CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<Result<PublicKeyMap, String>, Error> {
        let servers = match required_server_signatures_to_verify_event(object, &rules.signatures) {
            Ok(servers) => servers,
            Err(error) => return Ok(Err(error.to_string())),
        };
        // "signing key validity period … at the time of the event" (room version 5 and later).
        let at_ms = object.get("origin_server_ts").and_then(CanonicalJsonValue::as_integer);
        let at_ms = at_ms.and_then(|at| u64::try_from(i64::from(at)).ok()).unwrap_or_default();
        let mut keys = BTreeMap::new();
        for server in servers {
            if !self.is_allowed(&server) {
                return Ok(Err(format!("{server} is not one of this server's peers")));
            }
            if server == self.house.server_name {
                keys.insert(server.to_string(), self.own_keys());
                continue;
            }
            let key_ids = key_ids(object, &server);
            if key_ids.is_empty() {
                return Ok(Err(format!("{server} has not signed it")));
            }
            let of_server = self.line.servers()?.keys(&server, &key_ids, at_ms).await?;
            keys.insert(server.to_string(), of_server);
        }
        Ok(Ok(keys))
    }

    fn own_keys(&self) -> BTreeMap<String, Base64> {
        let key = &self.house.signing_key;
        let public = Base64::new(key.public_key().to_vec());
        BTreeMap::from([(format!("ed25519:{}", key.version()), public)])
    }
}

fn key_ids(object: &CanonicalJsonObject, server: &ServerName) -> Vec<String> {
    let of_server = object
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object)
        .and_then(|all| all.get(server.as_str()))
        .and_then(CanonicalJsonValue::as_object);
    // What it says as the policy server of a room is not signed with a key that it publishes.
    let keys =
        of_server.into_iter().flat_map(|keys| keys.keys()).filter(|id| *id != POLICY_SERVER_KEY_ID);
    keys.take(SIGNATURES_MAX).cloned().collect()
}
