//! Which events ring ([spec]): a user's push rules, held against an event.
//!
//! What does not depend on the user (the event taken apart, the room's power levels) is looked up
//! once, so that a room of thousands costs one look and a few comparisons for each reader.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#push-rules

use std::sync::Arc;

use appliance_ledger::Event;
use appliance_ledger::keyspaces::HEADS;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::push::{
    Action, FlattenedJson, PushCondition, PushConditionPowerLevelsCtx, PushConditionRoomCtx,
    Ruleset,
};
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{OwnedRoomId, UInt, UserId};
use appliance_model::{Error, EventNid, RoomNid, UserNid};
use quick_cache::sync::Cache;
use serde_json::Value;

use super::Reading;

/// Events kept taken apart: those of the moment, about 2 KB each.
const FLAT_EVENTS_MAX: usize = 500;

/// Events taken apart.
pub(super) struct FlatEvents(Cache<EventNid, Arc<FlattenedJson>>);

impl FlatEvents {
    pub fn new() -> Self {
        Self(Cache::new(FLAT_EVENTS_MAX))
    }
}

/// What the rules ask about a room.
#[derive(Clone)]
pub(crate) struct Scene {
    room: RoomNid,
    room_id: OwnedRoomId,
    joined: UInt,
    power: PushConditionPowerLevelsCtx,
}

impl Reading {
    /// Looks a room up for [`Reading::actions`].
    pub(crate) async fn scene(&self, room: RoomNid) -> Result<Scene, Error> {
        let ledger = &self.house.ledger;
        let head = ledger.get(&HEADS, &room).await?.unwrap_or_default();
        Ok(Scene {
            room,
            room_id: ledger.room_id(room).await?,
            joined: UInt::new_saturating(head.joined),
            power: self.rooms.power_levels(room).await?.into(),
        })
    }

    /// What an event does to a user's devices: nothing, if it is their own, taken back, or from
    /// somebody they ignore.
    pub(crate) async fn actions(
        &self,
        scene: &Scene,
        (user, user_id): (UserNid, &UserId),
        rules: &Ruleset,
        event: &Event,
    ) -> Result<Vec<Action>, Error> {
        let sender = event.part(event.spans.sender).trim_matches('"');
        if sender == user_id.as_str() || event.redacted_by.is_some() {
            return Ok(Vec::new());
        }
        let Some(flat) = self.flat(event) else { return Ok(Vec::new()) };
        let name = match asks_for_name(rules) {
            true => self.name_in(scene.room, user_id).await?,
            false => String::new(),
        };
        let (room_id, joined) = (scene.room_id.clone(), scene.joined);
        let mut context = PushConditionRoomCtx::new(room_id, joined, user_id.to_owned(), name);
        context.power_levels = Some(scene.power.clone());
        for rule in rules {
            if rule.applies(&flat, &context).await {
                let actions = rule.actions().to_vec();
                let rings = actions.iter().any(Action::should_notify);
                if rings && self.personal.ignores(user, sender).await? {
                    return Ok(Vec::new());
                }
                return Ok(actions);
            }
        }
        Ok(Vec::new())
    }

    fn flat(&self, event: &Event) -> Option<Arc<FlattenedJson>> {
        if let Some(flat) = self.flat.0.get(&event.number) {
            return Some(flat);
        }
        let mut json = String::new();
        let unsigned = crate::client_event::Unsigned::default();
        crate::client_event::write(&mut json, event, None, unsigned);
        let raw: Raw<Value> = serde_json::from_str(&json).ok()?;
        let flat = Arc::new(FlattenedJson::from_raw(&raw));
        self.flat.0.insert(event.number, flat.clone());
        Some(flat)
    }

    /// The name that a user has in a room.
    pub(crate) async fn name_in(&self, room: RoomNid, user_id: &UserId) -> Result<String, Error> {
        let kind = StateEventType::RoomMember;
        let own = self.rooms.current(room, &kind, user_id.as_str()).await?;
        let name = own.and_then(|event| {
            let content: Value = serde_json::from_str(event.content()).ok()?;
            Some(content.get("displayname")?.as_str()?.to_owned())
        });
        Ok(name.unwrap_or_else(|| user_id.localpart().to_owned()))
    }
}

/// Whether any rule looks for the user's name in a message. The predefined ones do not any more.
#[expect(deprecated, reason = "users may still have such a rule")]
fn asks_for_name(rules: &Ruleset) -> bool {
    let is_name =
        |condition: &PushCondition| matches!(condition, PushCondition::ContainsDisplayName);
    let mut conditional = rules.override_.iter().chain(&rules.underride);
    conditional.any(|rule| rule.conditions.iter().any(is_name))
}
