//! One request to a push gateway ([spec]), and the unread count in it.
//!
//! [spec]: https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify

use std::sync::PoisonError;
use std::time::Duration;

use appliance_ledger::Event;
use appliance_ledger::rows::push::{PusherRow, RingRow};
use appliance_model::ruma::UserId;
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Error, EventNid, RoomNid, UserNid};
use appliance_rules::policy::RoomClass;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Uri};
use serde_json::{Map, Value, json};

use super::{Push, PusherKey};
use crate::egress::{Failure, Limits, Outgoing, Purpose};
use crate::policy::of_room;

/// A gateway passes on what it gets; it does not think.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The answer is a list of at most one key.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Users whose unread counts are kept in memory.
const BADGES_MAX: usize = 10_000;

/// What came of it.
pub(super) enum Outcome {
    /// The gateway took it.
    Taken,
    /// There was nothing to tell: the event is read, or gone.
    Moot,
    /// The gateway does not know the device any more.
    Rejected,
    /// Try again.
    Failed(String),
    /// The operator has not allowed this gateway.
    Forbidden(String),
}

impl Push {
    /// Tells a gateway of an event.
    pub(super) async fn notify_event(
        &self,
        (user, _): PusherKey,
        row: &PusherRow,
        ring: &RingRow,
    ) -> Result<Outcome, Error> {
        let ledger = &self.house.ledger;
        let event = ledger.get(&appliance_ledger::keyspaces::EVENTS, &EventNid(ring.event)).await?;
        if event.is_none() {
            return Ok(Outcome::Moot);
        }
        let event = ledger.event(EventNid(ring.event)).await?;
        let room = RoomNid(ring.room);
        let is_over = self.rooms.horizon(room).await?.hides(&event);
        if event.redacted_by.is_some()
            || is_over
            || self.reading.has_read(user, room, &event).await?
        {
            return Ok(Outcome::Moot);
        }
        let room_id = ledger.room_id(room).await?;
        let mut notification = Map::new();
        notification.insert("event_id".to_owned(), event.event_id.as_str().into());
        notification.insert("room_id".to_owned(), room_id.as_str().into());
        let is_urgent =
            ring.highlight || ring.sound.is_some() || event.kind() == "m.room.encrypted";
        notification.insert("prio".to_owned(), if is_urgent { "high" } else { "low" }.into());
        let settings = settings(row);
        // A clinical room's words stay in the house, whatever the pusher asked for.
        let of_room = of_room(&self.rooms, room).await?;
        let class = self.house.policy.now().class_of(of_room.as_ref());
        let is_governed = of_room.is_some() || class != RoomClass::General;
        let id_only = is_governed || settings["data"]["format"] == "event_id_only";
        if !id_only {
            self.add_words(user, room, &event, &mut notification).await?;
        }
        let counts = json!({ "unread": self.badge(user, Some(room)).await? });
        notification.insert("counts".to_owned(), counts);
        let mut tweaks = Map::new();
        if let Some(sound) = &ring.sound {
            tweaks.insert("sound".to_owned(), sound.as_str().into());
        }
        if ring.highlight {
            tweaks.insert("highlight".to_owned(), true.into());
        }
        // "event_id_only … only event_id, room_id, counts, and devices": how it sounds says nothing.
        self.send(row, &settings, notification, Some(tweaks)).await
    }

    /// Tells a gateway how much is unread now.
    pub(super) async fn notify_badge(
        &self,
        (user, _): PusherKey,
        row: &PusherRow,
    ) -> Result<Outcome, Error> {
        let mut notification = Map::new();
        let counts = json!({ "unread": self.badge(user, None).await? });
        notification.insert("counts".to_owned(), counts);
        notification.insert("prio".to_owned(), "low".into());
        self.send(row, &settings(row), notification, None).await
    }

    /// What a gateway may show without asking the server.
    async fn add_words(
        &self,
        user: UserNid,
        room: RoomNid,
        event: &Event,
        notification: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        let sender = event.part(event.spans.sender).trim_matches('"');
        let mut add = |name: &str, value: Value| notification.insert(name.to_owned(), value);
        add("type", event.kind().into());
        add("sender", sender.into());
        add("content", serde_json::from_str(event.content()).map_err(Error::internal)?);
        if let Ok(sender) = <&UserId>::try_from(sender) {
            add("sender_display_name", self.reading.name_in(room, sender).await?.into());
        }
        let user_id = self.house.ledger.user_id(user).await?;
        if event.is_state() && event.kind() == "m.room.member" {
            let target = event.part(event.spans.state_key).trim_matches('"');
            add("user_is_target", (target == user_id.as_str()).into());
        }
        for (name, kind, field) in [
            ("room_name", StateEventType::RoomName, "name"),
            ("room_alias", StateEventType::RoomCanonicalAlias, "alias"),
        ] {
            if let Some(state) = self.rooms.current(room, &kind, "").await?
                && let Ok(content) = serde_json::from_str::<Value>(state.content())
                && let Some(text) = content[field].as_str().filter(|text| !text.is_empty())
            {
                add(name, text.into());
            }
        }
        Ok(())
    }

    /// Rings.
    pub(super) async fn send(
        &self,
        row: &PusherRow,
        settings: &Value,
        mut notification: Map<String, Value>,
        tweaks: Option<Map<String, Value>>,
    ) -> Result<Outcome, Error> {
        let url = settings["data"]["url"].as_str().unwrap_or_default();
        let Ok(uri) = url.parse::<Uri>() else { return Ok(Outcome::Moot) };
        // "The data dictionary passed in at pusher creation minus the url key."
        let mut data = settings["data"].clone();
        data.as_object_mut().map(|data| data.remove("url"));
        let mut device = json!({
            "app_id": row.app_id,
            "pushkey": row.pushkey,
            "pushkey_ts": row.set_ms / 1_000,
            "data": data,
        });
        if let Some(tweaks) = tweaks {
            device["tweaks"] = tweaks.into();
        }
        notification.insert("devices".to_owned(), json!([device]));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = Outgoing {
            purpose: Purpose::PushGateway,
            method: Method::POST,
            uri,
            connect_to: None,
            headers,
            body: json!({ "notification": notification }).to_string().into(),
            limits: Limits { total: ANSWER_TIMEOUT, answer_bytes_max: ANSWER_BYTES_MAX },
        };
        Ok(match self.house.egress.send(request).await {
            Ok(answer) if answer.status.is_success() => {
                let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let rejected = told["rejected"].as_array().is_some_and(|keys| {
                    keys.iter().any(|key| key.as_str() == Some(row.pushkey.as_str()))
                });
                if rejected { Outcome::Rejected } else { Outcome::Taken }
            }
            Ok(answer) => Outcome::Failed(format!("status {}", answer.status.as_u16())),
            Err(Failure::Refused(why)) => Outcome::Forbidden(why),
            Err(failure) => Outcome::Failed(failure.to_string()),
        })
    }

    /// "The number of unread messages a user has across all of the rooms they are a member of."
    /// `changed` is counted again, the others are remembered.
    async fn badge(&self, user: UserNid, changed: Option<RoomNid>) -> Result<u64, Error> {
        let known = {
            let badges = self.badges.lock().unwrap_or_else(PoisonError::into_inner);
            badges.get(&user).cloned()
        };
        let (mut counts, rooms) = match known {
            Some(known) => (known, changed.into_iter().collect()),
            None => (std::collections::HashMap::new(), self.rooms.joined(user).await?),
        };
        let user_id = self.house.ledger.user_id(user).await?;
        let now = self.house.ledger.position();
        for room in rooms {
            let unread = self.reading.unread_of((user, &user_id), room, now).await?.all();
            if unread == 0 {
                counts.remove(&room);
            } else {
                counts.insert(room, unread);
            }
        }
        let sum = counts.values().sum();
        let mut badges = self.badges.lock().unwrap_or_else(PoisonError::into_inner);
        if badges.len() >= BADGES_MAX {
            badges.clear();
        }
        badges.insert(user, counts);
        Ok(sum)
    }

    /// Counts rooms again in which a user's receipt moved. Whether the sum is another one.
    pub(super) async fn badge_changed(
        &self,
        user: UserNid,
        rooms: &[RoomNid],
    ) -> Result<bool, Error> {
        let before = {
            let badges = self.badges.lock().unwrap_or_else(PoisonError::into_inner);
            badges.get(&user).map(|counts| counts.values().sum::<u64>())
        };
        let mut after = 0;
        for room in rooms {
            after = self.badge(user, Some(*room)).await?;
        }
        Ok(before.is_none_or(|before| before != after))
    }
}

/// What the client said of a pusher.
pub(super) fn settings(row: &PusherRow) -> Value {
    serde_json::from_str(&row.json).unwrap_or_default()
}
