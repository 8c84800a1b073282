//! What people set for a room goes along when the room is upgraded ([spec]): "the server should
//! automatically transfer/replicate some of the user's personalized settings such as notifications,
//! tags, etc."
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-19

use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::push::{NewPushRule, NewSimplePushRule, RuleKind};
use appliance_model::ruma::{OwnedRoomId, RoomId};
use appliance_model::{Caller, Error};
use serde::Deserialize;

use super::Personal;
use crate::rooms::StateForm;

const TAGS: &str = "m.tag";

#[derive(Deserialize)]
struct Created {
    predecessor: Option<Predecessor>,
}

#[derive(Deserialize)]
struct Predecessor {
    room_id: OwnedRoomId,
}

impl Personal {
    /// Copies what the caller set for the room that this one replaces, if it replaces one and the
    /// caller has set nothing for it yet. Whoever calls is in the room by now, so that a failure is
    /// told to the operator, not to them.
    pub async fn bring_along(&self, caller: &Caller, room_id: &RoomId) {
        if let Err(error) = self.try_to_bring_along(caller, room_id).await {
            tracing::warn!(
                kind = "room.settings_left_behind",
                room.id = %room_id,
                %error,
                "notifications and tags of the room before an upgrade could not be copied"
            );
        }
    }

    async fn try_to_bring_along(&self, caller: &Caller, room_id: &RoomId) -> Result<(), Error> {
        let create = (&StateEventType::RoomCreate, "");
        let made = self.rooms.state_event(caller, room_id, create, StateForm::Content).await?;
        let made: Option<Created> = serde_json::from_str(&made).ok();
        let Some(old) = made.and_then(|made| made.predecessor).map(|old| old.room_id) else {
            return Ok(());
        };
        self.bring_rule(caller, &old, room_id).await?;
        self.bring_tags(caller, &old, room_id).await
    }

    async fn bring_rule(&self, caller: &Caller, old: &RoomId, new: &RoomId) -> Result<(), Error> {
        let rules = self.push_rules(caller.user, &caller.user_id).await?;
        let has = |room_id: &RoomId| rules.room.iter().any(|rule| rule.rule_id == room_id);
        if !has(old) || has(new) {
            return Ok(());
        }
        self.change_rules(caller, |rules| {
            let Some(rule) = rules.room.iter().find(|rule| rule.rule_id == old).cloned() else {
                return Ok(());
            };
            let copy = NewSimplePushRule::new(new.to_owned(), rule.actions);
            rules.insert(NewPushRule::Room(copy), None, None).map_err(Error::internal)?;
            rules.set_enabled(RuleKind::Room, new, rule.enabled).map_err(Error::internal)
        })
        .await
    }

    async fn bring_tags(&self, caller: &Caller, old: &RoomId, new: &RoomId) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let (Some(old), Some(new)) = (ledger.room(old).await?, ledger.room(new).await?) else {
            return Ok(());
        };
        let Some(tags) = self.account_data(caller.user, Some(old), TAGS).await? else {
            return Ok(());
        };
        if self.account_data(caller.user, Some(new), TAGS).await?.is_some() {
            return Ok(());
        }
        let owner = (caller.user, caller.user_id.as_str());
        self.set_account_data(owner, Some(new), TAGS, &tags).await
    }
}
