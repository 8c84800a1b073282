//! What becomes of an event that another server sent: the [checks on receipt] that need state.
//!
//! [checks on receipt]: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu

use std::collections::HashMap;
use std::sync::Arc;

use appliance_model::ruma::events::TimelineEventType;
use appliance_model::ruma::events::room::server_acl::RoomServerAclEventContent;
use appliance_model::ruma::room_version_rules::AuthorizationRules;
use appliance_model::ruma::{
    EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, ServerName, state_res,
};
use appliance_model::{Pdu, StateKey};

use crate::Permit;
use crate::event_auth::NamedState;

/// Where an event stands once it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It counts.
    Accepted,
    /// "soft failed": allowed where it was sent, but not by the room's current state. It stays in the
    /// graph, nobody is shown it, and nothing is built on it.
    SoftFailed(String),
    /// "rejected": kept so that it is not asked for again; it changes nothing, and what it allows is
    /// rejected too.
    Rejected(String),
}

impl Standing {
    /// The right to keep the event, and what the trail says of it.
    pub fn permit(&self, event: &Pdu) -> Permit {
        let verb = match self {
            Self::Accepted => "event.received",
            Self::SoftFailed(_) => "event.soft_failed",
            Self::Rejected(_) => "event.rejected",
        };
        Permit::audited(verb, &event.sender, format!("{} {}", event.room_id, event.event_id))
    }
}

/// The right to keep what came with a handshake or was fetched: events that only authorize others.
pub fn may_keep_outliers(via: &str, room_id: &RoomId) -> Permit {
    Permit::audited("room.state_fetched", via, room_id)
}

/// The ID of the create event, where the room's ID names it (since version 12).
pub fn create_event_of(room_id: &RoomId, rules: &AuthorizationRules) -> Option<OwnedEventId> {
    let hash = room_id.as_str().strip_prefix('!')?;
    let event_id = rules.room_create_event_id_as_room_id.then(|| format!("${hash}"))?;
    EventId::parse(event_id).ok()
}

/// "4. Passes authorization rules based on the event's auth events, otherwise it is rejected."
///
/// `known` holds every event that `event` names as allowing it, and the room's create event.
///
/// # Errors
///
/// Why not.
pub fn judge_by_auth_events(
    event: &Pdu,
    known: &HashMap<OwnedEventId, Arc<Pdu>>,
    rules: &AuthorizationRules,
) -> Result<(), String> {
    let fetch = |id: &EventId| known.get(id).map(|event| &**event);
    state_res::check_state_independent_auth_rules(rules, event, fetch)?;
    let create = create_event_of(&event.room_id, rules);
    let allowing = event.auth_events.iter().chain(&create).filter_map(|id| known.get(id));
    let named: NamedState =
        allowing.filter_map(|event| Some((event.state_pair()?, event.clone()))).collect();
    judge_by_state(event, &named, rules)
}

/// "5. … based on the state before the event", and "6. … based on the current state of the room".
///
/// # Errors
///
/// Why not.
pub fn judge_by_state(
    event: &Pdu,
    state: &NamedState,
    rules: &AuthorizationRules,
) -> Result<(), String> {
    state_res::check_state_dependent_auth_rules(rules, event, |kind, key| {
        state.get(&(kind.clone(), key.to_owned())).map(|event| &**event)
    })
}

/// The servers that answer for an event: its sender's, and that of who vouched for a join.
pub fn answerable(event: &Pdu) -> Vec<OwnedServerName> {
    #[derive(serde::Deserialize)]
    struct Content {
        join_authorised_via_users_server: Option<OwnedUserId>,
    }
    let mut servers = vec![event.sender.server_name().to_owned()];
    if event.kind == TimelineEventType::RoomMember
        && let Ok(content) = serde_json::from_str::<Content>(event.content.get())
        && let Some(voucher) = content.join_authorised_via_users_server
    {
        servers.push(voucher.server_name().to_owned());
    }
    servers
}

/// The state that decides about an event of another server.
///
/// # Errors
///
/// A sentence, if the content has not the form its type needs.
pub fn deciding_state_of(event: &Pdu, rules: &AuthorizationRules) -> Result<Vec<StateKey>, String> {
    crate::event_auth::deciding_state(
        &event.kind,
        &event.sender,
        event.state_key.as_deref(),
        &event.content,
        rules,
    )
}

/// Whether a server may take part, by the room's `m.room.server_acl` ([spec]). Without one, and with
/// one that is no longer readable as one, everybody may.
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#server-access-control-lists-acls-for-rooms
pub fn acl_allows(acl: Option<&Pdu>, server: &ServerName) -> bool {
    let content = acl
        .and_then(|acl| serde_json::from_str::<RoomServerAclEventContent>(acl.content.get()).ok());
    content.is_none_or(|content| content.is_allowed(server))
}
