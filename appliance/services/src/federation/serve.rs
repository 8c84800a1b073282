//! What other servers in a room may read of it ([spec]): single events, the state at an event, what
//! allows an event, events before others, the event closest to a time.
//!
//! Rejected events are not served. Of events that the other server's users may not see, only what a
//! redaction leaves is served: the graph needs them, nobody needs their content.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#retrieving-events

use std::collections::{BTreeSet, BinaryHeap, HashSet};
use std::sync::Arc;

use appliance_ledger::Event;
use appliance_model::ruma::api::Direction;
use appliance_model::ruma::{EventId, OwnedEventId, RoomId, ServerName};
use appliance_model::{Error, EventNid};
use serde::Deserialize;

use super::resident::{json_of, strings_json};
use super::visible::Window;
use crate::rooms::{OpenRoom, Rooms, closest};

/// Events in one answer: "limit", cut down. A hundred events of 64 KiB are what a transaction may hold.
const SERVED_MAX: usize = 100;
/// Events that one walk backwards looks at: the walk is bounded, not only the answer.
const WALKED_MAX: usize = 1_000;
/// Events that a walk may be told to start or to end at.
const STARTS_MAX: usize = 50;

/// The body of `POST /get_missing_events`.
#[derive(Debug, Deserialize)]
pub struct MissingQuery {
    /// How many at most.
    #[serde(default = "ten")]
    pub limit: usize,
    /// None below this depth.
    #[serde(default)]
    pub min_depth: u64,
    /// What the other server has.
    pub earliest_events: Vec<OwnedEventId>,
    /// Whose predecessors it wants.
    pub latest_events: Vec<OwnedEventId>,
}

fn ten() -> usize {
    10
}

impl Rooms {
    /// `GET /event/{eventId}`: the event in a transaction of its own, as JSON.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is none, [`appliance_model::Kind::Forbidden`] if the
    /// other server is not in its room.
    pub async fn event_for(
        &self,
        origin: &ServerName,
        event_id: &EventId,
    ) -> Result<String, Error> {
        let event = self.house.ledger.event_by_id(event_id).await?.ok_or_else(no_event)?;
        let room_id = self.house.ledger.room_id(event.room).await?;
        let open = self.enter_for_reader(origin, &room_id).await?;
        if event.rejected {
            return Err(no_event());
        }
        let pdu = self.served(&open, origin, vec![event]).await?.pop().unwrap_or_default();
        let (own, now_ms) = (&self.house.server_name, self.house.clock.now_ms());
        Ok(format!(r#"{{"origin":"{own}","origin_server_ts":{now_ms},"pdus":[{pdu}]}}"#))
    }

    /// `GET /state/{roomId}`: the state before an event and what allows it, as JSON.
    ///
    /// # Errors
    ///
    /// As [`Rooms::event_for`].
    pub async fn state_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<String, Error> {
        let (state, chain) = self.state_and_chain(origin, room_id, event_id).await?;
        let (state, chain) = (self.pdus_json(&state).await?, self.pdus_json(&chain).await?);
        Ok(format!(r#"{{"auth_chain":{chain},"pdus":{state}}}"#))
    }

    /// `GET /state_ids/{roomId}`: the same, by ID.
    ///
    /// # Errors
    ///
    /// As [`Rooms::event_for`].
    pub async fn state_ids_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<String, Error> {
        let (state, chain) = self.state_and_chain(origin, room_id, event_id).await?;
        let (state, chain) = (self.ids_json(&state).await?, self.ids_json(&chain).await?);
        Ok(format!(r#"{{"auth_chain_ids":{chain},"pdu_ids":{state}}}"#))
    }

    /// `GET /event_auth/{roomId}/{eventId}`: everything that allowed an event, as JSON.
    ///
    /// # Errors
    ///
    /// As [`Rooms::event_for`].
    pub async fn event_auth_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<String, Error> {
        let open = self.enter_for_reader(origin, room_id).await?;
        let event = self.event_of(&open, event_id).await?;
        let chain = self.chain_of(&open, &event).await?;
        Ok(format!(r#"{{"auth_chain":{}}}"#, self.pdus_json(&chain).await?))
    }

    /// `GET /backfill/{roomId}`: these events and those before them, newest first, as JSON.
    ///
    /// # Errors
    ///
    /// As [`Rooms::event_for`].
    pub async fn backfill_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<String, Error> {
        let open = self.enter_for_reader(origin, room_id).await?;
        let starts = from.iter().take(STARTS_MAX).cloned().collect();
        let found = self.walk_back(&open, starts, (&HashSet::new(), 0), limit).await?;
        let pdus = self.served(&open, origin, found).await?.join(",");
        let (own, now_ms) = (&self.house.server_name, self.house.clock.now_ms());
        Ok(format!(r#"{{"origin":"{own}","origin_server_ts":{now_ms},"pdus":[{pdus}]}}"#))
    }

    /// `POST /get_missing_events/{roomId}`: what lies between, oldest first, as JSON.
    ///
    /// # Errors
    ///
    /// As [`Rooms::event_for`].
    pub async fn missing_events(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        query: &MissingQuery,
    ) -> Result<String, Error> {
        let open = self.enter_for_reader(origin, room_id).await?;
        let has = query.earliest_events.iter().take(STARTS_MAX).cloned();
        // "latest_events: The event IDs to retrieve the previous events for", not they themselves.
        let mut has: HashSet<_> = has.collect();
        let mut starts = BTreeSet::new();
        for id in query.latest_events.iter().take(STARTS_MAX) {
            has.insert(id.clone());
            let Some(known) = open.known(id).await? else { continue };
            starts.extend(open.pdu(known.number).await?.prev_events.iter().cloned());
        }
        let bounds = (&has, query.min_depth);
        let mut found = self.walk_back(&open, starts, bounds, query.limit).await?;
        found.reverse();
        let events = self.served(&open, origin, found).await?.join(",");
        Ok(format!(r#"{{"events":[{events}]}}"#))
    }

    /// `GET /timestamp_to_event/{roomId}`: the closest event on one side of a time (milliseconds since the
    /// Unix epoch), as JSON.
    ///
    /// # Errors
    ///
    /// As [`Rooms::event_for`].
    pub async fn timestamp_for(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        at_ms: u64,
        direction: Direction,
    ) -> Result<String, Error> {
        let room = self.enter_for_member(origin, room_id).await?.room;
        let direction = match direction {
            Direction::Forward => appliance_ledger::Direction::Forward,
            Direction::Backward => appliance_ledger::Direction::Backward,
        };
        let events = self.events_around(room, at_ms).await?;
        let closest = closest(events.iter().map(|(event, _)| &**event), at_ms, direction);
        let (event_id, sent_ms) = closest.ok_or_else(no_event)?;
        Ok(format!(r#"{{"event_id":"{event_id}","origin_server_ts":{sent_ms}}}"#))
    }

    async fn event_of(&self, open: &OpenRoom<'_>, event_id: &EventId) -> Result<Arc<Event>, Error> {
        let event = self.house.ledger.event_by_id(event_id).await?;
        let event = event.filter(|event| event.room == open.room && !event.rejected);
        event.ok_or_else(no_event)
    }

    async fn state_and_chain(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(Vec<EventNid>, Vec<EventNid>), Error> {
        let open = self.enter_for_reader(origin, room_id).await?;
        let event = self.event_of(&open, event_id).await?;
        if event.outlier {
            return Err(no_event());
        }
        let state: Vec<_> = open.states.all(event.state_before).await?;
        let state: Vec<_> = state.into_iter().map(|(_, number)| number).collect();
        let chain = open.auth_chain(state.iter().copied()).await?;
        Ok((state, chain.into_iter().collect()))
    }

    /// What allowed an event, directly or not, and since version 12 the create event.
    async fn chain_of(&self, open: &OpenRoom<'_>, event: &Event) -> Result<Vec<EventNid>, Error> {
        let pdu = open.pdu(event.number).await?;
        let mut direct = Vec::new();
        for id in &pdu.auth_events {
            direct.extend(open.known(id).await?.map(|known| known.number));
        }
        let mut chain = open.auth_chain(direct.iter().copied()).await?;
        chain.extend(direct);
        let rules = &open.rules.authorization;
        if let Some(create) = appliance_rules::inbound::create_event_of(&open.room_id, rules) {
            chain.extend(open.known(&create).await?.map(|known| known.number));
        }
        Ok(chain.into_iter().collect())
    }

    async fn ids_json(&self, numbers: &[EventNid]) -> Result<String, Error> {
        let events = self.house.ledger.events(numbers).await?;
        Ok(strings_json(events.iter().map(|event| event.event_id.as_str())))
    }

    /// From these events back, the deepest first, without what the other server has.
    async fn walk_back(
        &self,
        open: &OpenRoom<'_>,
        starts: BTreeSet<OwnedEventId>,
        (has, min_depth): (&HashSet<OwnedEventId>, u64),
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, Error> {
        let limit = limit.min(SERVED_MAX);
        let mut heap = BinaryHeap::new();
        let mut seen = has.clone();
        for id in starts {
            self.step(open, id, &mut seen, &mut heap).await?;
        }
        let mut found = Vec::new();
        while let Some((depth, id, number)) = heap.pop() {
            if found.len() >= limit || seen.len() > WALKED_MAX {
                break;
            }
            if depth < min_depth {
                continue;
            }
            let pdu = open.pdu(number).await?;
            for before in &pdu.prev_events {
                self.step(open, before.clone(), &mut seen, &mut heap).await?;
            }
            if !pdu.rejected {
                found.push(self.event_of(open, &id).await?);
            }
        }
        Ok(found)
    }

    async fn step(
        &self,
        open: &OpenRoom<'_>,
        id: OwnedEventId,
        seen: &mut HashSet<OwnedEventId>,
        heap: &mut BinaryHeap<(u64, OwnedEventId, EventNid)>,
    ) -> Result<(), Error> {
        if seen.insert(id.clone())
            && let Some(known) = open.known(&id).await?.filter(|known| !known.outlier)
        {
            heap.push((open.pdu(known.number).await?.depth, id, known.number));
        }
        Ok(())
    }

    /// Events as another server may have them.
    async fn served(
        &self,
        open: &OpenRoom<'_>,
        origin: &ServerName,
        events: Vec<Arc<Event>>,
    ) -> Result<Vec<String>, Error> {
        let mut window = Window::of(self, open.room, origin).await?;
        let mut served = Vec::with_capacity(events.len());
        for event in events {
            let is_seen = match event.outlier {
                // Its state is not known; state itself is the room's, not a person's.
                true => event.is_state(),
                false => window.shows(&event).await?,
            };
            served.push(match is_seen {
                true => json_of(&event).to_owned(),
                false => {
                    let pruned = open.pruned(&event.event_id, &event.json)?;
                    String::from_utf8_lossy(&pruned.json).into_owned()
                }
            });
        }
        Ok(served)
    }
}

pub(super) fn no_event() -> Error {
    Error::not_found("This server has no such event.")
}
