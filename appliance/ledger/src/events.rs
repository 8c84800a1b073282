//! Events as the store keeps them: the signed JSON once, and what this server knows of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use appliance_model::ruma::{EventId, OwnedEventId};
use appliance_model::{DeviceNid, Error, EventNid, Pdu, RoomNid, Spans};
use bytes::Bytes;

use crate::keyspaces::{Digest, EVENT_IDS, EVENT_LOG, EVENTS, GAPS, TIMELINE};
use crate::lane::{Commit, Rows};
use crate::ledger::Ledger;
use crate::rows::{EventRow, GapRow, LoggedRow, TimelineRow, spans_from_row, spans_to_row};
use crate::state::Root;
use crate::view::View;

/// A stored event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number.
    pub number: EventNid,
    /// Its ID.
    pub event_id: OwnedEventId,
    /// Its room.
    pub room: RoomNid,
    /// Its place in the timeline; none for events that only authorize others.
    pub position: Option<i64>,
    /// Canonical JSON, as signed (or as pruned by a redaction).
    pub json: Bytes,
    /// Where in `json` the parts lie that clients see.
    pub spans: Spans,
    /// The state before it.
    pub state_before: Root,
    /// Rejected by the authorization rules.
    pub rejected: bool,
    /// The event that redacted it.
    pub redacted_by: Option<EventNid>,
    /// The device that sent it, and its transaction ID.
    pub txn: Option<(DeviceNid, String)>,
    /// The state event it replaced.
    pub replaces: Option<EventNid>,
    /// The state with it; as before it for what sets no state, or was rejected.
    pub state_after: Root,
    /// Allowed where it was sent, but not by the room's state when it came.
    pub soft_failed: bool,
    /// The state before it is not known.
    pub outlier: bool,
    /// Its time was over: of its content is left what a redaction leaves, and nobody is shown it.
    pub erased: bool,
}

/// Places left free below an event whose predecessors are not known: more history than a room has.
/// Positions are 63 bits, enough for half a million million such events.
pub const GAP_PLACES: u64 = 1 << 24;

/// Where an event goes in its room's timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placing {
    /// At the end.
    #[default]
    End,
    /// At a place that was left free for it.
    At(i64),
    /// Not in the timeline at all.
    Nowhere,
}

/// An event to be kept.
pub struct NewEvent<'a> {
    /// Its number, from [`Ledger::next_number`].
    pub number: EventNid,
    /// The event.
    pub pdu: &'a Pdu,
    /// Its room.
    pub room: RoomNid,
    /// The state before it.
    pub state_before: Root,
    /// The state with it.
    pub state_after: Root,
    /// The room's current state once it is in.
    pub room_state: Root,
    /// The current state changed by more than the event says.
    pub resolved: bool,
    /// The device that sent it, and its transaction ID.
    pub txn: Option<(DeviceNid, String)>,
    /// The state event it replaces.
    pub replaces: Option<EventNid>,
    /// Allowed where it was sent, but not by the room's state when it came.
    pub soft_failed: bool,
    /// The state before it is not known.
    pub outlier: bool,
    /// Where it goes.
    pub placing: Placing,
    /// The event that took it back before it came.
    pub redacted_by: Option<EventNid>,
    /// The events before it that this server has not. Only for the first event of a commit: the free
    /// places lie below the commit.
    pub missing: Vec<String>,
}

impl Event {
    fn from_row(number: EventNid, row: EventRow) -> Option<Self> {
        Some(Self {
            number,
            event_id: EventId::parse(row.event_id).ok()?,
            room: RoomNid(row.room),
            position: row.position,
            spans: spans_from_row(&row.spans),
            json: Bytes::from(row.json),
            state_before: Root(row.state_before),
            rejected: row.rejected,
            redacted_by: row.redacted_by.map(EventNid),
            txn: row.txn.map(|(device, txn_id)| (DeviceNid(device), txn_id)),
            replaces: row.replaces.map(EventNid),
            state_after: Root(row.state_after.unwrap_or(row.state_before)),
            soft_failed: row.soft_failed.unwrap_or_default(),
            outlier: row.outlier.unwrap_or_default(),
            erased: row.erased.unwrap_or_default(),
        })
    }

    /// The row of this event.
    pub fn to_row(&self) -> EventRow {
        EventRow {
            event_id: self.event_id.to_string(),
            room: self.room.0,
            position: self.position,
            json: self.json.to_vec(),
            spans: spans_to_row(&self.spans),
            state_before: self.state_before.0,
            rejected: self.rejected,
            redacted_by: self.redacted_by.map(|event| event.0),
            txn: self.txn.as_ref().map(|(device, txn_id)| (device.0, txn_id.clone())),
            replaces: self.replaces.map(|event| event.0),
            state_after: (self.state_after != self.state_before).then_some(self.state_after.0),
            soft_failed: self.soft_failed.then_some(true),
            outlier: self.outlier.then_some(true),
            erased: self.erased.then_some(true),
        }
    }

    /// One of the parts that [`Spans`] points at.
    pub fn part(&self, (start, end): (u32, u32)) -> &str {
        let bytes = self.json.get(start as usize..end as usize).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The event type.
    pub fn kind(&self) -> &str {
        self.part(self.spans.kind).trim_matches('"')
    }

    /// The content, as JSON.
    pub fn content(&self) -> &str {
        self.part(self.spans.content)
    }

    /// Whether it is a state event.
    pub fn is_state(&self) -> bool {
        self.spans.state_key.1 > 0
    }
}

impl Commit {
    /// Keeps an event: the event, its ID, and its place in the timeline if it has one; then `more`, rows
    /// that carry its place.
    pub fn keep(
        &mut self,
        ledger: &Ledger,
        new: NewEvent<'_>,
        more: impl FnOnce(i64, &mut Rows) + Send + Sync + 'static,
    ) {
        let NewEvent { number, pdu, room, state_before, state_after, txn, replaces, .. } = new;
        let digest = ledger.event_digest(&pdu.event_id);
        let mut event = Event {
            number,
            event_id: pdu.event_id.clone(),
            room,
            position: None,
            json: pdu.json.clone(),
            spans: pdu.spans,
            state_before,
            rejected: pdu.rejected,
            redacted_by: new.redacted_by,
            txn,
            replaces,
            state_after,
            soft_failed: new.soft_failed,
            outlier: new.outlier,
            erased: false,
        };
        self.put(&EVENT_IDS, &digest, &number.0);
        let place = TimelineRow {
            state_after: new.room_state.0,
            is_state: pdu.state_key.is_some(),
            resolved: new.resolved.then_some(true),
        };
        match new.placing {
            Placing::Nowhere => self.put(&EVENTS, &number, &event.to_row()),
            Placing::At(position) => {
                event.position = Some(position);
                self.put(&EVENTS, &number, &event.to_row());
                self.put(&TIMELINE, &(room, position, number), &place);
                more(position, self.rows());
            }
            Placing::End => {
                self.touched().timelines.push(room);
                let missing = new.missing;
                if !missing.is_empty() {
                    self.leave_places_below(GAP_PLACES);
                }
                self.stamp(move |position, rows| {
                    let logged = LoggedRow { room: room.0, event: number.0 };
                    rows.put(&EVENT_LOG, &position, &logged);
                    let position = position.0.cast_signed();
                    event.position = Some(position);
                    if !missing.is_empty() {
                        let (next, lowest) = (position - 1, position - GAP_PLACES.cast_signed());
                        let gap = GapRow { missing, next, lowest: lowest + 1 };
                        rows.put(&GAPS, &(room, position, number), &gap);
                    }
                    rows.put(&EVENTS, &number, &event.to_row());
                    rows.put(&TIMELINE, &(room, position, number), &place);
                    more(position, rows);
                });
            }
        }
    }
}

impl Ledger {
    /// The key under which an event's number is kept.
    pub fn event_digest(&self, event_id: &EventId) -> Digest {
        self.digest(&[b"event", event_id.as_bytes()])
    }

    /// The number of an event, if this server has it.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn event_number(&self, event_id: &EventId) -> Result<Option<EventNid>, Error> {
        Ok(self.get(&EVENT_IDS, &self.event_digest(event_id)).await?.map(EventNid))
    }

    /// An event by number.
    ///
    /// # Errors
    ///
    /// If the store fails, or lacks the event.
    pub async fn event(&self, number: EventNid) -> Result<Arc<Event>, Error> {
        if let Some(event) = self.events_cache().get(&number.0) {
            return Ok(event);
        }
        let rewrites = self.rewrites().load(Ordering::SeqCst);
        let row = self.get(&EVENTS, &number).await?;
        self.keep(number, row.ok_or_else(missing)?, rewrites)
    }

    /// Events by number, in the order asked; the uncached ones in one trip.
    ///
    /// # Errors
    ///
    /// If the store fails, or lacks one.
    pub async fn events(&self, numbers: &[EventNid]) -> Result<Vec<Arc<Event>>, Error> {
        let cached: Vec<_> = numbers.iter().map(|n| self.events_cache().get(&n.0)).collect();
        let absent: Vec<_> = (numbers.iter().zip(&cached))
            .filter_map(|(number, found)| found.is_none().then_some(*number))
            .collect();
        let rewrites = self.rewrites().load(Ordering::SeqCst);
        let rows = self.newest().get_many(&EVENTS, &absent).await?;
        let mut read = absent
            .into_iter()
            .zip(rows)
            .map(|(number, row)| self.keep(number, row.ok_or_else(missing)?, rewrites));
        let pick = |found: Option<Arc<Event>>| match found {
            Some(event) => Ok(event),
            None => read.next().unwrap_or_else(|| Err(missing())),
        };
        cached.into_iter().map(pick).collect()
    }

    /// An event by ID, if this server has it.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn event_by_id(&self, event_id: &EventId) -> Result<Option<Arc<Event>>, Error> {
        match self.event_number(event_id).await? {
            Some(number) => self.event(number).await.map(Some),
            None => Ok(None),
        }
    }

    /// To be held by a commit that rewrites an event's row: when the commit is done, what was in
    /// memory of the event is forgotten, also what somebody reads of it meanwhile.
    pub fn rewriting(&self, number: EventNid) -> Rewriting {
        Rewriting { ledger: self.clone(), number }
    }

    fn keep(&self, number: EventNid, row: EventRow, rewrites: u64) -> Result<Arc<Event>, Error> {
        let event = Event::from_row(number, row).map(Arc::new).ok_or_else(missing)?;
        self.events_cache().insert(number.0, event.clone());
        // Rewritten while it was read: what was read may be what is to be forgotten.
        if self.rewrites().load(Ordering::SeqCst) != rewrites {
            self.events_cache().remove(&number.0);
        }
        Ok(event)
    }
}

/// An event whose row a commit rewrites ([`Ledger::rewriting`]).
pub struct Rewriting {
    ledger: Ledger,
    number: EventNid,
}

impl Drop for Rewriting {
    fn drop(&mut self) {
        self.ledger.rewrites().fetch_add(1, Ordering::SeqCst);
        self.ledger.events_cache().remove(&self.number.0);
    }
}

fn missing() -> Error {
    Error::internal("an event that the store names is missing")
}

impl Ledger {
    /// The newest events of a room below position `to`, from `from` on, at most `limit`, newest
    /// first. For hot events: bodies come from memory where they are there.
    ///
    /// # Errors
    ///
    /// If the store fails or is damaged.
    pub async fn recent(
        &self,
        room: RoomNid,
        (from, to): (i64, i64),
        limit: usize,
    ) -> Result<Stretch, Error> {
        let bounds = ((room, from), (room, to));
        let direction = appliance_engine::Direction::Backward;
        let (rows, more) =
            self.newest().scan_between(&TIMELINE, (&bounds.0, &bounds.1), direction, limit).await?;
        let numbers: Vec<_> = rows.iter().map(|((_, _, number), _)| *number).collect();
        let events = self.events(&numbers).await?;
        let places = rows.into_iter().map(|(_, place)| place);
        Ok(Stretch { events: events.into_iter().zip(places).collect(), more })
    }
}

/// A stretch of a room's timeline: events with their place, newest or oldest first as asked.
pub struct Stretch {
    /// The events and the state after each.
    pub events: Vec<(Arc<Event>, TimelineRow)>,
    /// Whether the timeline goes on.
    pub more: bool,
}

impl View {
    /// Events of a room from position `from` (included) to `to` (excluded), at most `limit`.
    ///
    /// # Errors
    ///
    /// If the store fails or is damaged.
    pub async fn timeline(
        &self,
        room: RoomNid,
        (from, to): (i64, i64),
        direction: appliance_engine::Direction,
        limit: usize,
    ) -> Result<Stretch, Error> {
        let bounds = ((room, from), (room, to));
        let (rows, more) =
            self.scan_join(&TIMELINE, (&bounds.0, &bounds.1), direction, limit, &EVENTS).await?;
        type Joined = ((RoomNid, i64, EventNid), (TimelineRow, Option<EventRow>));
        let event = |((_, _, number), (place, row)): Joined| {
            let event = row.and_then(|row| Event::from_row(number, row)).ok_or_else(missing)?;
            Ok((Arc::new(event), place))
        };
        Ok(Stretch { events: rows.into_iter().map(event).collect::<Result<_, Error>>()?, more })
    }
}
