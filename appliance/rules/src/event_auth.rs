//! Whether an event may be added to a room: Matrix' [authorization rules], judged by Ruma on the
//! state that they name.
//!
//! [authorization rules]: https://spec.matrix.org/v1.19/server-server-api/#authorization-rules

use std::collections::BTreeMap;
use std::sync::Arc;

use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::room_version_rules::AuthorizationRules;
use appliance_model::ruma::{UserId, state_res};
use appliance_model::{Pdu, StateKey};
use serde_json::value::RawValue;

use crate::plain_words::plain;
use crate::{Denial, Permit};

/// The state an event is judged on.
pub type NamedState = BTreeMap<StateKey, Arc<Pdu>>;

/// The state that decides about such an event, the create event always among it.
///
/// # Errors
///
/// A sentence, if the content has not the form its type needs.
pub fn deciding_state(
    kind: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &AuthorizationRules,
) -> Result<Vec<StateKey>, String> {
    let mut wanted = state_res::auth_types_for_event(kind, sender, state_key, content, rules)?;
    // Since v12 the create event is no auth event, yet the rules read it.
    let create = (StateEventType::RoomCreate, String::new());
    if *kind != TimelineEventType::RoomCreate && !wanted.contains(&create) {
        wanted.push(create);
    }
    Ok(wanted)
}

/// Judges a local user's event.
///
/// # Errors
///
/// The refusal, to be recorded.
pub fn may_send(
    event: &Pdu,
    state: &NamedState,
    rules: &AuthorizationRules,
) -> Result<Permit, Denial> {
    let judged = if event.kind == TimelineEventType::RoomCreate {
        state_res::check_state_independent_auth_rules(rules, event, |_| None::<&Pdu>)
    } else {
        state_res::check_state_dependent_auth_rules(rules, event, |kind, key| {
            state.get(&(kind.clone(), key.to_owned())).map(|event| &**event)
        })
    };
    let object = format!("{} {}", event.room_id, event.event_id);
    match judged {
        Ok(()) => Ok(Permit::audited("event.sent", &event.sender, object)),
        Err(why) => Err(Denial {
            verb: "event.refused",
            who: event.sender.to_string(),
            object: format!("{} {}", event.room_id, event.kind),
            why: plain(why),
        }),
    }
}
