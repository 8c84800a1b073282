//! Policy servers ([spec]): one server of a room may be named that looks at every event before it is sent,
//! and puts its signature beside the sender's server's. This server asks the one that a room names
//! (`ask`), and is one itself (`sign`), by what the clinical policy says (`vouch`), with a key of its own
//! (`key`).
//!
//! Whose signature a room wants is asked of its current state: "The *current state* for the room has a valid
//! `m.room.policy` state event", and "The server name denoted by … `via` has at least one joined user".
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#policy-servers

mod ask;
mod key;
mod sign;
mod vouch;

use appliance_ledger::keyspaces::HEADS;
use appliance_ledger::{Root, membership};
use appliance_model::ruma::events::room::policy::{
    POLICY_SERVER_ED25519_SIGNING_KEY_ID as KEY_ID, RoomPolicyEventContent,
};
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::serde::Base64;
use appliance_model::ruma::signatures::verify_policy_server_signature;
use appliance_model::ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId, RoomId, ServerName,
};
use appliance_model::{Error, Pdu, RoomNid};
use appliance_rules::policy::{Policy, RoomClass};
use serde::Deserialize;

use super::Rooms;
use super::build::Draft;
use super::room::{OpenRoom, is_resident};
use super::sharing::is_federated_object;

pub(crate) use ask::Away;
pub(crate) use key::OwnKey;

/// The state event that names a room's policy server.
pub(crate) const POLICY_SERVER_TYPE: &str = "m.room.policy";

/// The policy server of a room.
#[derive(Clone, Debug)]
pub(crate) struct PolicyServer {
    /// Its name.
    pub via: OwnedServerName,
    /// What verifies its signatures, as the room says; none if that is no key: then nothing does.
    key: Option<Base64>,
}

#[derive(Deserialize)]
struct Content {
    via: String,
    public_keys: Keys,
}

#[derive(Deserialize)]
struct Keys {
    ed25519: String,
}

impl PolicyServer {
    /// "Valid means `content` contains at least: A string value for `via`. An object value for `public_keys`
    /// containing at least a string value for `ed25519`."
    fn of(content: &str) -> Option<Self> {
        let content: Content = serde_json::from_str(content).ok()?;
        // The specification's own example is in the other alphabet of Base64.
        let key = content.public_keys.ed25519.replace('-', "+").replace('_', "/");
        let key = Base64::parse(key).ok().filter(|key: &Base64| key.as_bytes().len() == 32);
        Some(Self { via: ServerName::parse(content.via).ok()?, key })
    }

    /// Whether its signature is on an event.
    pub fn has_signed(&self, event: &CanonicalJsonObject, rules: &RoomVersionRules) -> bool {
        self.key.clone().is_some_and(|key| {
            let content = RoomPolicyEventContent::new(self.via.clone(), key);
            verify_policy_server_signature(&content, event, rules).is_ok()
        })
    }
}

/// "Because the Policy Server is not asked to sign `m.room.policy` state events with empty string
/// `state_key`s …": so a room can always take its policy server off.
fn is_exempt(event: &Pdu) -> bool {
    event.kind.to_string() == POLICY_SERVER_TYPE && event.state_key.as_deref() == Some("")
}

impl OpenRoom<'_> {
    /// The room's policy server, if it has not signed an event that needs its signature.
    pub(crate) async fn unsigned_by(&self, event: &Pdu) -> Result<Option<PolicyServer>, Error> {
        let kind = StateEventType::from(POLICY_SERVER_TYPE);
        let Some(named) = self.state(&kind, "").await? else { return Ok(None) };
        if is_exempt(event) {
            return Ok(None);
        }
        let server = PolicyServer::of(named.content.get());
        let Some(server) = server.filter(|server| self.has_server(&server.via)) else {
            return Ok(None);
        };
        let object = serde_json::from_slice(&event.json).map_err(Error::internal)?;
        Ok((!server.has_signed(&object, &self.rules)).then_some(server))
    }
}

impl Rooms {
    /// Whether a new room names this server as its policy server, if whoever makes it names none: the operator
    /// wants it for rooms of the class `clinical-shared`. Off unless they do: hospitals of our kind keep the
    /// policy anyway, and while the policy server is out of reach all others are silent.
    pub(super) fn is_guarded(&self, create: &CanonicalJsonObject, policy: Option<&Policy>) -> bool {
        let options = &self.house.options;
        options.policy_server
            && !options.policy.is_off
            && self.house.policy.now().class_of(policy) == RoomClass::ClinicalShared
            && is_federated_object(create)
    }

    /// Takes a server off as a room's policy server, if it is that and somebody of ours may: it would not sign
    /// that its people leave. Nobody is asked about that.
    pub(crate) async fn dismiss_policy_server(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<(), Error> {
        let mut room = self.enter(room_id).await?;
        let kind = StateEventType::from(POLICY_SERVER_TYPE);
        let named = room.state(&kind, "").await?;
        let named = named.and_then(|event| PolicyServer::of(event.content.get()));
        if named.is_none_or(|named| named.via != *server) {
            return Ok(());
        }
        let levels = self.power_levels(room.room).await?;
        let may = |user_id: &OwnedUserId| {
            self.house.is_ours(user_id) && levels.user_can_send_state(user_id, kind.clone())
        };
        let joined = self.house.members_of(room.room, membership::JOIN).await?;
        if let Some(by) = joined.into_iter().find(may) {
            let kind = TimelineEventType::from(POLICY_SERVER_TYPE);
            room.add(Draft::state(by, kind, "", CanonicalJsonObject::new()), None).await?;
            room.leave().await?;
        }
        Ok(())
    }

    /// The policy server of a room, without entering it; and whether `other` has somebody in it.
    async fn policy_server_of(
        &self,
        room: RoomNid,
        other: &ServerName,
    ) -> Result<Option<(PolicyServer, bool)>, Error> {
        let head = self.house.ledger.get(&HEADS, &room).await?.unwrap_or_default();
        let has = |server: &ServerName| match *server == self.house.server_name {
            true => is_resident(&head),
            false => head.servers.iter().flatten().any(|(name, _)| name == server.as_str()),
        };
        let kind = StateEventType::from(POLICY_SERVER_TYPE);
        let named = self.state_at(room, Root(head.state_root), &kind, "").await?;
        let server = named.and_then(|event| PolicyServer::of(event.content()));
        Ok(server.filter(|server| has(&server.via)).map(|server| (server, has(other))))
    }
}

/// The signature of a policy server on an event.
fn signature_on(event: &CanonicalJsonObject, server: &ServerName) -> Option<String> {
    let of_server = event.get("signatures")?.as_object()?.get(server.as_str())?.as_object()?;
    of_server.get(KEY_ID).and_then(CanonicalJsonValue::as_str).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests;
