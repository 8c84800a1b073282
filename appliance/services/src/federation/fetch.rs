//! What an event builds on and this server has not: asked for, within bounds.
//!
//! Order of asking, as the [checks on receipt] want it: events before it from `get_missing_events`; if
//! some are still missing, the state there from `state_ids` (with the single events, or all of `state`
//! when most are unknown); events that allow others from `event_auth`. What comes is checked like
//! everything else, and a bad event among good ones spoils only itself.
//!
//! [checks on receipt]: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::{
    CanonicalJsonValue, EventId, OwnedEventId, RoomId, ServerName, UserId,
};
use appliance_model::{Error, Kind, Pdu};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::check::formed;
use super::line::Ask;
use crate::house::House;
use crate::rooms::Rooms;

/// Events of one walk backwards: beyond it the state is fetched and a gap is left.
pub(super) const MISSING_MAX: usize = 500;
/// Requests of one walk backwards.
const MISSING_ROUNDS_MAX: usize = 25;
/// "limit: the maximum number of events to retrieve"; servers cut it down.
const MISSING_LIMIT: usize = 50;
/// Single events fetched before everything is fetched at once.
const SINGLE_MAX: usize = 64;
/// Events of a state and what allows it: members of a large room with their past.
pub(super) const STATE_MAX: usize = 100_000;
/// Questions of one errand: the events of a transaction, of an answer to a handshake, of a page of history.
/// A long walk backwards, a state and what allows it are a hundred; who needs more is not to be followed.
const ASKED_MAX: usize = 200;
/// Unanswered questions of one errand: a server that is gone is not asked for each event once more.
const UNANSWERED_MAX: usize = 4;
/// After this an errand asks no more, in milliseconds: the other server has long given up waiting for the
/// answer to its transaction.
const ERRAND_MS_MAX: u64 = 120_000;
/// A state of which more than one event in so many cannot be had is not used.
const LACKING_PART: usize = 10;
/// After so many signatures others get their turn.
const CHECKED_BEFORE_A_PAUSE: usize = 32;

/// Well-formed and signed events, by ID.
pub(crate) type Fetched = HashMap<OwnedEventId, Pdu>;

/// The state before an event, as another server has it.
pub(crate) struct FetchedState {
    /// The state events.
    pub state: Vec<OwnedEventId>,
    /// These and what allows them, as far as this server had to ask.
    pub events: Fetched,
}

/// Whom and where to ask.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub server: &'a ServerName,
    pub room_id: &'a RoomId,
    pub rules: &'a RoomVersionRules,
    pub errand: &'a Errand,
}

/// What one request of another server, or of a user of ours, may make this server ask for.
pub(crate) struct Errand {
    asked: AtomicUsize,
    unanswered: AtomicUsize,
    /// Events that could not be checked, because their servers' keys cannot be had now.
    unchecked: AtomicUsize,
    /// Leaves among those that could not be checked: not missed in a state, only where others rest on them.
    unchecked_leaves: Mutex<HashSet<OwnedEventId>>,
    /// Events that came, and that are not taken because of whom they are from.
    unwelcome: Mutex<HashSet<OwnedEventId>>,
    until_ms: u64,
}

impl Errand {
    /// Begins now.
    pub fn begin(house: &House) -> Self {
        Self {
            asked: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            unchecked: AtomicUsize::new(0),
            unchecked_leaves: Mutex::default(),
            unwelcome: Mutex::default(),
            until_ms: house.clock.now_ms().saturating_add(ERRAND_MS_MAX),
        }
    }

    /// How many events could not be checked so far that would be missed in a state.
    pub fn unchecked(&self) -> usize {
        self.unchecked.load(Ordering::Relaxed)
    }

    /// Whether one of these events names as allowing it one that could not be checked. It would be dropped for
    /// want of it: who left and came back, say, would not be in the room here, and be rejected ever after.
    pub fn rests_on_unchecked(&self, events: &Fetched) -> bool {
        let leaves = self.unchecked_leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let rests = |pdu: &Pdu| pdu.auth_events.iter().any(|id| leaves.contains(id));
        !leaves.is_empty() && events.values().any(rests)
    }

    /// Whether this is a leave that could not be checked.
    fn is_unchecked_leave(&self, event_id: &EventId) -> bool {
        let leaves = self.unchecked_leaves.lock().unwrap_or_else(PoisonError::into_inner);
        leaves.contains(event_id)
    }

    /// Whether an event that was asked for alone came, and could not be checked.
    pub fn is_unsure_of(&self, event_id: &EventId) -> bool {
        self.unchecked() > 0 || self.is_unchecked_leave(event_id)
    }

    /// How many questions were not answered so far.
    fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    fn leave_unchecked(&self, raw: &RawValue, rules: &RoomVersionRules) {
        let Ok(formed) = formed(raw, rules) else { return };
        let mut leaves = self.unchecked_leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if leaves.len() < STATE_MAX {
            leaves.insert(formed.event_id);
        }
    }

    fn turn_away(&self, event_id: OwnedEventId) {
        let mut unwelcome = self.unwelcome.lock().unwrap_or_else(PoisonError::into_inner);
        if unwelcome.len() < STATE_MAX {
            unwelcome.insert(event_id);
        }
    }

    fn turned_away(&self, event_id: &EventId) -> bool {
        self.unwelcome.lock().unwrap_or_else(PoisonError::into_inner).contains(event_id)
    }

    /// Whether one more question is in bounds; counts it.
    pub fn may_ask(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
            && self.unanswered.load(Ordering::Relaxed) < UNANSWERED_MAX
            && self.asked.fetch_add(1, Ordering::Relaxed) < ASKED_MAX
    }
}

impl Rooms {
    /// Asks, and reads the answer.
    pub(crate) async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        server: &ServerName,
        ask: Ask,
    ) -> Result<T, Error> {
        let answer = self.line.servers()?.ask(server, ask).await?;
        serde_json::from_str(answer.get()).map_err(|error| {
            if let Some(times) = self.alarm("federation.nonsense", server.as_str()) {
                tracing::warn!(kind = "federation.nonsense", %server, %error, times,
                    "another server's answer cannot be read");
            }
            Error::new(Kind::RemoteUnavailable, "The other server's answer cannot be read.")
        })
    }

    /// Asks where an event comes from for what it needs, as often as an errand may.
    async fn ask_on<T: for<'de> Deserialize<'de>>(
        &self,
        source: Source<'_>,
        ask: Ask,
    ) -> Result<T, Error> {
        let Source { server, errand, room_id, .. } = source;
        if !errand.may_ask(self.house.clock.now_ms()) {
            if let Some(times) = self.alarm("federation.endless", server.as_str()) {
                tracing::warn!(kind = "federation.endless", %server, room.id = %room_id, times,
                    "a server's events need more than is fetched for them; they are dropped");
            }
            let enough = "What these events need is more than this server asks for.";
            return Err(Error::new(Kind::RemoteUnavailable, enough));
        }
        let asked = self.ask(server, ask).await;
        if asked.as_ref().is_err_and(|error| error.kind == Kind::RemoteUnavailable) {
            errand.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        asked
    }

    /// Counts what somebody should look at; returns how often it was there if it is to be said now.
    pub(crate) fn alarm(&self, kind: &'static str, about: &str) -> Option<u64> {
        self.alarms.count(kind, about, self.house.clock.now_ms())
    }

    /// An event was not even worth keeping.
    pub(super) fn dropped(&self, source: Source<'_>, why: &str) {
        let Source { server, room_id, .. } = source;
        match self.alarm("event.dropped", server.as_str()) {
            Some(times) => {
                tracing::warn!(kind = "event.dropped", %server, room.id = %room_id, times,
                why, "events that a server sent are dropped");
            }
            None => tracing::debug!(%server, room.id = %room_id, why, "an event is dropped"),
        }
    }

    /// Checks what came; what is bad is left out.
    pub(crate) async fn checked_all(
        &self,
        source: Source<'_>,
        raws: impl IntoIterator<Item = Box<RawValue>> + Send,
    ) -> Result<Fetched, Error> {
        let mut fetched = Fetched::new();
        let raws: Vec<_> = raws.into_iter().take(STATE_MAX).collect();
        for (index, raw) in raws.into_iter().enumerate() {
            match self.checked(&raw, source.room_id, source.rules).await {
                Ok(Ok(pdu)) => {
                    fetched.insert(pdu.event_id.clone(), pdu);
                }
                Ok(Err(why)) => {
                    if let Some(event_id) = self.stranger_in(&raw, source.rules) {
                        source.errand.turn_away(event_id);
                    }
                    self.dropped(source, &why);
                }
                // Somebody's keys cannot be had now: only their events are missing.
                Err(error) if error.kind == Kind::RemoteUnavailable => {
                    tracing::debug!(server = %source.server, %error, "an event cannot be checked");
                    match is_leave(&raw) {
                        true => source.errand.leave_unchecked(&raw, source.rules),
                        false => {
                            source.errand.unchecked.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
            if index % CHECKED_BEFORE_A_PAUSE == CHECKED_BEFORE_A_PAUSE - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(fetched)
    }

    /// The ID of an event that is from a server off the list.
    fn stranger_in(&self, raw: &RawValue, rules: &RoomVersionRules) -> Option<OwnedEventId> {
        let formed = formed(raw, rules).ok()?;
        let sender = formed.object.get("sender").and_then(CanonicalJsonValue::as_str)?;
        let sender = <&UserId>::try_from(sender).ok()?;
        (!self.is_allowed(sender.server_name())).then_some(formed.event_id)
    }

    /// Whether this server has an event with the state before it.
    pub(super) async fn is_placed(&self, event_id: &EventId) -> Result<bool, Error> {
        let event = self.house.ledger.event_by_id(event_id).await?;
        Ok(event.is_some_and(|event| !event.outlier))
    }

    /// Those of `ids` that this server has not, or only as outliers, and that are not in `found`.
    pub(crate) async fn unplaced(
        &self,
        ids: &[OwnedEventId],
        found: &BTreeMap<OwnedEventId, Pdu>,
    ) -> Result<Vec<OwnedEventId>, Error> {
        let mut missing = Vec::new();
        for id in ids {
            if !found.contains_key(id) && !self.is_placed(id).await? {
                missing.push(id.clone());
            }
        }
        Ok(missing)
    }

    /// The events between what this server has and `pdu`, as far as they can be had within bounds.
    pub(crate) async fn missing_before(
        &self,
        source: Source<'_>,
        pdu: &Pdu,
        earliest: &[String],
        min_depth: u64,
    ) -> Result<BTreeMap<OwnedEventId, Pdu>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            events: Vec<Box<RawValue>>,
        }
        let mut found = BTreeMap::new();
        let mut latest = vec![pdu.event_id.clone()];
        let mut missing = self.unplaced(&pdu.prev_events, &found).await?;
        for _ in 0..MISSING_ROUNDS_MAX {
            if missing.is_empty() || found.len() >= MISSING_MAX {
                break;
            }
            let body = json!({
                "earliest_events": earliest, "latest_events": latest,
                "limit": MISSING_LIMIT, "min_depth": min_depth,
            });
            let room_id = source.room_id.to_owned();
            let ask = Ask::MissingEvents { room_id, body: body.to_string() };
            let answer = match self.ask_on::<Answer>(source, ask).await {
                Ok(answer) => answer,
                Err(error) => {
                    if let Some(times) = self.alarm("federation.gap", source.server.as_str()) {
                        tracing::info!(kind = "federation.gap", server = %source.server, %error,
                            room.id = %source.room_id, times, "missing events cannot be fetched");
                    }
                    break;
                }
            };
            let before = found.len();
            let raws = answer.events.into_iter().take(MISSING_LIMIT);
            for (id, event) in self.checked_all(source, raws.collect::<Vec<_>>()).await? {
                if id != pdu.event_id && !self.is_placed(&id).await? {
                    found.insert(id, event);
                }
            }
            if found.len() == before {
                break;
            }
            // What the found ones build on is what is missing now.
            let (mut open, mut heads) = (BTreeSet::new(), BTreeSet::new());
            for event in found.values().chain([pdu]) {
                let before_it = self.unplaced(&event.prev_events, &found).await?;
                if !before_it.is_empty() {
                    heads.insert(event.event_id.clone());
                    open.extend(before_it);
                }
            }
            (missing, latest) = (open.into_iter().collect(), heads.into_iter().take(20).collect());
        }
        Ok(found)
    }

    /// The state after an event that this server has not placed: the state before it, and it.
    ///
    /// `after` is an event that follows it. A server that came to the room with that one has not its
    /// predecessor; it has the state between them.
    pub(crate) async fn state_with(
        &self,
        source: Source<'_>,
        event_id: &EventId,
        after: &EventId,
    ) -> Result<FetchedState, Error> {
        match self.state_at_event(source, event_id, Some(event_id)).await {
            Err(error) if error.kind == Kind::NotFound => {
                self.state_at_event(source, after, None).await
            }
            found => found,
        }
    }

    /// The state before an event, and what allows it; and `also`, if it is not here.
    async fn state_at_event(
        &self,
        source: Source<'_>,
        event_id: &EventId,
        also: Option<&EventId>,
    ) -> Result<FetchedState, Error> {
        #[derive(Deserialize)]
        struct Ids {
            pdu_ids: Vec<OwnedEventId>,
            auth_chain_ids: Vec<OwnedEventId>,
        }
        let (unchecked, unanswered) = (source.errand.unchecked(), source.errand.unanswered());
        let (room_id, event_id) = (source.room_id.to_owned(), event_id.to_owned());
        let also = also.map(ToOwned::to_owned);
        let ask = Ask::StateIds { room_id, event_id: event_id.clone() };
        let ids: Ids = self.ask_on(source, ask).await?;
        let all: BTreeSet<_> = ids.pdu_ids.iter().chain(&ids.auth_chain_ids).chain(&also).collect();
        if all.len() > STATE_MAX {
            return Err(super::auth_graph::too_much());
        }
        let mut absent = Vec::new();
        for id in all {
            if self.house.ledger.event_number(id).await?.is_none() {
                absent.push(id.clone());
            }
        }
        let mut events = Fetched::new();
        if absent.len() > SINGLE_MAX {
            events = self.whole_state(source, &event_id).await.unwrap_or_default();
            absent.retain(|id| !events.contains_key(id) && !source.errand.turned_away(id));
        }
        let mut lost: BTreeSet<_> = absent.iter().cloned().collect();
        for id in absent.into_iter().take(SINGLE_MAX) {
            // One that cannot be had must not keep the rest from being used.
            if let Ok(Some(event)) = self.one_event_of(source, &id).await {
                lost.remove(&id);
                events.insert(id, event);
            }
        }
        // Strangers whom the other server let in are no part of the state here, and not missed. They must
        // have been shown by name: whoever tells of others instead hides nothing with them.
        lost.retain(|id| !source.errand.turned_away(id));
        // A state that is mostly names would have everything rejected for good that is judged by it. So would one
        // that lacks what a line that broke did not bring: that can be had another time.
        let lacking = ids.pdu_ids.iter().filter(|id| lost.contains(*id)).count();
        let is_cut = source.errand.unanswered() > unanswered && !lost.is_empty();
        let is_unsure = is_cut
            || source.errand.unchecked() > unchecked
            || source.errand.rests_on_unchecked(&events)
            || also.is_some_and(|id| source.errand.is_unchecked_leave(&id));
        if is_unsure || lacking * LACKING_PART > ids.pdu_ids.len() {
            let names = "The state before an event cannot be had.";
            return Err(Error::new(Kind::RemoteUnavailable, names));
        }
        Ok(FetchedState { state: ids.pdu_ids, events })
    }

    async fn whole_state(&self, source: Source<'_>, event_id: &EventId) -> Result<Fetched, Error> {
        #[derive(Deserialize)]
        struct Whole {
            pdus: Vec<Box<RawValue>>,
            auth_chain: Vec<Box<RawValue>>,
        }
        let (room_id, event_id) = (source.room_id.to_owned(), event_id.to_owned());
        let whole: Whole = self.ask_on(source, Ask::State { room_id, event_id }).await?;
        let all: Vec<_> = whole.pdus.into_iter().chain(whole.auth_chain).collect();
        self.checked_all(source, all).await
    }

    /// One event, if the other server gives it and it is what it is called.
    pub(crate) async fn one_event_of(
        &self,
        source: Source<'_>,
        event_id: &EventId,
    ) -> Result<Option<Pdu>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            pdus: Vec<Box<RawValue>>,
        }
        let ask = Ask::Event { event_id: event_id.to_owned() };
        let answer: Answer = self.ask_on(source, ask).await?;
        let first: Vec<_> = answer.pdus.into_iter().take(1).collect();
        Ok(self.checked_all(source, first).await?.remove(event_id))
    }

    /// What allows `pdu` and this server has not.
    pub(crate) async fn auth_before(
        &self,
        source: Source<'_>,
        pdu: &Pdu,
    ) -> Result<Fetched, Error> {
        #[derive(Deserialize)]
        struct Chain {
            auth_chain: Vec<Box<RawValue>>,
        }
        let mut absent = Vec::new();
        for id in &pdu.auth_events {
            if self.house.ledger.event_number(id).await?.is_none() {
                absent.push(id.clone());
            }
        }
        if absent.is_empty() {
            return Ok(Fetched::new());
        }
        let (room_id, event_id) = (source.room_id.to_owned(), pdu.event_id.clone());
        let chain = self.ask_on::<Chain>(source, Ask::EventAuth { room_id, event_id }).await;
        let mut fetched = match chain {
            Ok(chain) => self.checked_all(source, chain.auth_chain).await?,
            Err(_) => Fetched::new(),
        };
        // Some servers answer without what was asked for: then each event, and what allows it.
        absent.retain(|id| !fetched.contains_key(id));
        let mut left = SINGLE_MAX;
        while let Some(id) = absent.pop() {
            let known = self.house.ledger.event_number(&id).await?.is_some();
            if known || fetched.contains_key(&id) || left == 0 {
                continue;
            }
            left -= 1;
            let Ok(Some(event)) = self.one_event_of(source, &id).await else { continue };
            absent.extend(event.auth_events.iter().cloned());
            fetched.insert(id, event);
        }
        Ok(fetched)
    }
}

/// Whether an event says that somebody left: a state without it says the same.
fn is_leave(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Seen {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    serde_json::from_str::<Seen>(raw.get()).is_ok_and(|seen| seen.content.membership == "leave")
}

/// Events in an order in which each comes after those it names by `before`; cycles, which hashes make
/// impossible, would be left out.
pub(crate) fn in_order(events: Fetched, before: fn(&Pdu) -> &[OwnedEventId]) -> Vec<Pdu> {
    let mut waiting: BTreeMap<OwnedEventId, usize> = BTreeMap::new();
    let mut followers: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    for (id, event) in &events {
        let known: BTreeSet<_> =
            before(event).iter().filter(|id| events.contains_key(*id)).collect();
        waiting.insert(id.clone(), known.len());
        for earlier in known {
            followers.entry(earlier.clone()).or_default().push(id.clone());
        }
    }
    let mut ready: BTreeSet<(u64, OwnedEventId)> = waiting
        .iter()
        .filter(|(_, count)| **count == 0)
        .map(|(id, _)| (events[id].depth, id.clone()))
        .collect();
    let (mut events, mut ordered) = (events, Vec::new());
    while let Some((_, id)) = ready.pop_first() {
        for follower in followers.remove(&id).unwrap_or_default() {
            let count = waiting.get_mut(&follower);
            let Some(count) = count else { continue };
            *count -= 1;
            if *count == 0 {
                ready.insert((events[&follower].depth, follower));
            }
        }
        ordered.extend(events.remove(&id));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn event(id: &str, before: &[&str]) -> (OwnedEventId, Pdu) {
        let json = serde_json::json!({
            "content": {}, "depth": 1, "origin_server_ts": 1, "sender": "@a:one.example",
            "type": "m.room.message", "prev_events": before, "auth_events": [],
        });
        let id: OwnedEventId = id.try_into().unwrap();
        let room = "!r:one.example".try_into().unwrap();
        let pdu = Pdu::parse(id.clone(), room, Bytes::from(json.to_string()), true).unwrap();
        (id, pdu)
    }

    /// Hashes make cycles impossible; whoever found a way round gets nothing for it.
    #[test]
    fn a_cycle_is_left_out_and_what_stands_beside_it_is_not() {
        let events = [
            event("$a", &["$c"]),
            event("$b", &["$a"]),
            event("$c", &["$b"]),
            event("$self", &["$self"]),
            event("$later", &["$good", "$elsewhere"]),
            event("$good", &[]),
        ];
        let ordered = in_order(events.into_iter().collect(), |pdu| &pdu.prev_events);
        let ids: Vec<_> = ordered.iter().map(|event| event.event_id.as_str()).collect();
        assert_eq!(ids, ["$good", "$later"]);
    }
}
