//! `GET /notifications` ([spec]): what rang, newest first.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3notifications

use std::collections::HashMap;

use appliance_ledger::keyspaces::{EVENT_LOG, EVENTS, USER_ROOMS};
use appliance_ledger::rows::LoggedRow;
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::push::Action;
use appliance_model::{Caller, Error, EventNid, Position, RoomNid};
use serde_json::{Value, json};

use super::Push;
use crate::reading::Scene;

/// "limit: limit on the number of events to return in this request."
const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 100;
/// Rows of the log looked at for one page: those of other people's rooms are passed over quickly.
const LOOKED_AT_MAX: usize = 10_000;
const PAGE: usize = 500;

/// A page.
#[derive(Clone, Debug, Default)]
pub struct NotificationsPage {
    /// Newest first.
    pub notifications: Vec<Value>,
    /// Where the next begins, if there may be one.
    pub next_token: Option<String>,
}

impl Push {
    /// A page of what rang for the caller, before `from`; only what was for them in particular, if
    /// `highlights`.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] if `from` is none of ours.
    pub async fn notifications(
        &self,
        caller: &Caller,
        (from, limit): (Option<&str>, Option<usize>),
        highlights: bool,
    ) -> Result<NotificationsPage, Error> {
        let ledger = &self.house.ledger;
        let invalid = |_| Error::invalid_param("`from` is not a token that this server gave out.");
        let mut before = match from {
            Some(from) => Position(from.parse().map_err(invalid)?),
            None => Position(ledger.position().0 + 1),
        };
        let limit = limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
        let since = self.joined_since(caller).await?;
        let mut page = NotificationsPage::default();
        let (mut scenes, mut looked_at) = (HashMap::new(), 0);
        while !since.is_empty() {
            let range = (&Position(0), &before);
            let (rows, more) =
                ledger.newest().scan_between(&EVENT_LOG, range, Direction::Backward, PAGE).await?;
            for (position, LoggedRow { room, event }) in rows {
                before = position;
                looked_at += 1;
                let room = RoomNid(room);
                if since.get(&room).is_none_or(|since| position.0 <= *since) {
                    continue;
                }
                let number = EventNid(event);
                let shown = self.shown(caller, (room, number), highlights, &mut scenes).await?;
                page.notifications.extend(shown);
                if page.notifications.len() >= limit || looked_at >= LOOKED_AT_MAX {
                    page.next_token = Some(before.0.to_string());
                    return Ok(page);
                }
            }
            if !more {
                break;
            }
        }
        Ok(page)
    }

    async fn joined_since(&self, caller: &Caller) -> Result<HashMap<RoomNid, u64>, Error> {
        const ROOMS_MAX: usize = 20_000;
        let newest = self.house.ledger.newest();
        let (rows, _) =
            newest.scan(&USER_ROOMS, &caller.user, Direction::Forward, ROOMS_MAX).await?;
        let joined = rows.into_iter().filter(|(_, row)| row.membership == membership::JOIN);
        Ok(joined.map(|((_, room), row)| (room, row.since)).collect())
    }

    async fn shown(
        &self,
        caller: &Caller,
        (room, number): (RoomNid, EventNid),
        highlights: bool,
        scenes: &mut HashMap<RoomNid, Scene>,
    ) -> Result<Option<Value>, Error> {
        let ledger = &self.house.ledger;
        if ledger.get(&EVENTS, &number).await?.is_none() {
            return Ok(None);
        }
        let event = ledger.event(number).await?;
        if self.rooms.horizon(room).await?.hides(&event) {
            return Ok(None);
        }
        let scene = match scenes.get(&room) {
            Some(scene) => scene.clone(),
            None => self.reading.scene(room).await?,
        };
        scenes.insert(room, scene.clone());
        let rules = self.personal.push_rules(caller.user, &caller.user_id).await?;
        let reader = (caller.user, &*caller.user_id);
        let actions = self.reading.actions(&scene, reader, &rules, &event).await?;
        let rings = actions.iter().any(Action::should_notify);
        if !rings || (highlights && !actions.iter().any(Action::is_highlight)) {
            return Ok(None);
        }
        let room_id = ledger.room_id(room).await?;
        let events = self.rooms.client_events(caller, room, vec![(event.clone(), None)]).await?;
        let mut json = String::new();
        // "The Event object for the event that triggered the notification", the room beside it.
        events.write(&mut json, 0, None);
        let event_json: Value = serde_json::from_str(&json).map_err(Error::internal)?;
        let sent_ms: Value = event_json["origin_server_ts"].clone();
        let read = self.reading.has_read(caller.user, room, &event).await?;
        Ok(Some(json!({
            "actions": actions, "event": event_json, "read": read, "room_id": room_id, "ts": sent_ms,
        })))
    }
}
