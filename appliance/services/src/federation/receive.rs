//! One way in for every event of another server, however it came: in a transaction, with a handshake,
//! as an answer to a question about the past.
//!
//! An event that gets here has passed the checks that need no state (`check`). Here it meets the others,
//! in the order of the [specification]: what allows it, the state before it, the state now. What it
//! builds on and this server has not is fetched first (`fetch`), outside the room's lock: nobody who
//! writes in the room waits for another server.
//!
//! [specification]: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use appliance_ledger::keyspaces::{GAPS, HEADS};
use appliance_ledger::{Commit, Direction, Placing, Root};
use appliance_model::ruma::events::TimelineEventType;
use appliance_model::ruma::{EventId, OwnedEventId};
use appliance_model::{Error, Kind, Pdu};
use appliance_rules::event_auth::NamedState;
use appliance_rules::inbound::{
    Standing, create_event_of, deciding_state_of, judge_by_auth_events, judge_by_state,
    may_keep_outliers,
};

use super::fetch::{Fetched, FetchedState, Source, in_order};
use crate::rooms::arrive::{Arrival, Known, Sending};
use crate::rooms::{OpenRoom, Rooms};

/// Events that become true with one commit: more would make local writers wait for the room.
const COMMITTED_AT_ONCE_MAX: usize = 50;

/// Gaps of a room that are looked at.
const GAPS_MAX: usize = 8;

/// How an event is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It has just been sent.
    Live,
    /// It belongs to the past, at this place.
    Past(i64),
}

/// Events of one room on their way in.
pub(crate) struct Inflow<'a> {
    pub rooms: &'a Rooms,
    pub source: Source<'a>,
    /// To whom what is accepted goes out.
    pub sending: Sending,
    pub(super) open: Option<OpenRoom<'a>>,
    added: usize,
}

impl<'a> Inflow<'a> {
    pub fn new(rooms: &'a Rooms, source: Source<'a>) -> Self {
        Self { rooms, source, sending: Sending::Own, open: None, added: 0 }
    }

    /// Takes in an event that has just been sent, and what is missing before it.
    ///
    /// # Errors
    ///
    /// [`Kind::RemoteUnavailable`], [`Kind::TooLarge`]: the event cannot be judged now, and is not kept.
    /// Others: the store failed, and what was not yet kept is not.
    pub async fn live(&mut self, pdu: Pdu) -> Result<Standing, Error> {
        let farewell = self.puts_ours_out(&pdu).then(|| pdu.clone());
        match (self.live_after_others(pdu).await, farewell) {
            (Err(error), Some(pdu)) if error.kind == Kind::Forbidden => {
                self.shown_out(pdu, error).await
            }
            (outcome, _) => outcome,
        }
    }

    async fn live_after_others(&mut self, pdu: Pdu) -> Result<Standing, Error> {
        if let Some(standing) = self.known_standing(&pdu).await? {
            return Ok(standing);
        }
        if self.is_history(&pdu).await? {
            return Ok(Standing::Accepted);
        }
        let mut events = BTreeMap::new();
        if !self.is_missing(&pdu.prev_events).await?.is_empty() {
            self.flush().await?;
            let (earliest, min_depth) = self.beginnings().await?;
            let found = self.rooms.missing_before(self.source, &pdu, &earliest, min_depth).await?;
            // Not all servers look at the depth they are asked for.
            events.extend(found.into_iter().filter(|(_, event)| event.depth >= min_depth));
        }
        let event_id = pdu.event_id.clone();
        events.insert(event_id.clone(), pdu);
        let mut outcome = None;
        for event in in_order(events.into_iter().collect(), |pdu| &pdu.prev_events) {
            let is_it = event.event_id == event_id;
            let standing = self.place(event, How::Live).await;
            if is_it {
                outcome = Some(standing?);
            } else if let Err(error) = standing {
                only_this_one(error)?;
            }
        }
        outcome.ok_or_else(|| Error::new(Kind::BadJson, "The event comes before itself."))
    }

    /// The ends of the room, and the depth below which its history begins that this server has not: a
    /// walk that went on from there would bring the past in as if it were news.
    async fn beginnings(&self) -> Result<(Vec<String>, u64), Error> {
        let ledger = &self.rooms.house.ledger;
        let Some(room) = ledger.room(self.source.room_id).await? else {
            return Ok((Vec::new(), 1));
        };
        let head = ledger.get(&HEADS, &room).await?.unwrap_or_default();
        let (gaps, _) = ledger.newest().scan(&GAPS, &room, Direction::Forward, 1).await?;
        let min_depth = match gaps.first() {
            Some(((.., above), _)) => self.rooms.pdu(*above, self.source.rules).await?.depth,
            None => 1,
        };
        Ok((head.extremities, min_depth))
    }

    /// Makes true what was taken in.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.added = 0;
        match self.open.take() {
            Some(open) => open.leave().await.map(drop),
            None => Ok(()),
        }
    }

    async fn known_standing(&self, pdu: &Pdu) -> Result<Option<Standing>, Error> {
        if self.open.as_ref().is_some_and(|open| open.is_fresh(&pdu.event_id)) {
            return Ok(Some(Standing::Accepted));
        }
        let event = self.rooms.house.ledger.event_by_id(&pdu.event_id).await?;
        Ok(event.filter(|event| !event.outlier).map(|event| {
            match (event.rejected, event.soft_failed) {
                (true, _) => Standing::Rejected("it was rejected before".to_owned()),
                (_, true) => Standing::SoftFailed("it was soft-failed before".to_owned()),
                _ => Standing::Accepted,
            }
        }))
    }

    /// Whether an event is known as part of what lies before a gap: state that came with a join, say. It
    /// is not news, whoever sends it; its place is found when somebody pages back to it.
    async fn is_history(&self, pdu: &Pdu) -> Result<bool, Error> {
        let ledger = &self.rooms.house.ledger;
        let Some(event) = ledger.event_by_id(&pdu.event_id).await? else { return Ok(false) };
        if event.rejected {
            return Ok(false);
        }
        if pdu.prev_events.is_empty() {
            return Ok(true);
        }
        let newest = ledger.newest();
        let (gaps, _) = newest.scan(&GAPS, &event.room, Direction::Backward, GAPS_MAX).await?;
        for ((.., above), _) in gaps {
            if self.rooms.pdu(above, self.source.rules).await?.depth > pdu.depth {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_missing(&self, ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, Error> {
        let fresh = |id: &OwnedEventId| self.open.as_ref().is_some_and(|open| open.is_fresh(id));
        let ids: Vec<_> = ids.iter().filter(|id| !fresh(id)).cloned().collect();
        self.rooms.unplaced(&ids, &BTreeMap::new()).await
    }

    /// Takes in one event whose predecessors are there, or whose state can be asked for.
    pub async fn place(&mut self, mut pdu: Pdu, how: How) -> Result<Standing, Error> {
        if let Some(standing) = self.known_standing(&pdu).await? {
            return Ok(standing);
        }
        // What the room rests on must not be judged anew as if it had just been said.
        if how == How::Live && self.is_history(&pdu).await? {
            return Ok(Standing::Accepted);
        }
        let missing = self.is_missing(&pdu.prev_events).await?;
        let fresh = |id: &OwnedEventId| self.open.as_ref().is_some_and(|open| open.knows_fresh(id));
        let mut asked = pdu.clone();
        asked.auth_events.retain(|id| !fresh(id));
        let ledger = &self.rooms.house.ledger;
        let mut lacks_auth = false;
        for id in &asked.auth_events {
            lacks_auth |= ledger.event_number(id).await?.is_none();
        }
        let mut fetched = Fetched::new();
        let mut states = HashMap::new();
        if lacks_auth || !missing.is_empty() {
            // Another server is asked: nobody waits for it at the room's door.
            self.flush().await?;
            fetched = self.rooms.auth_before(self.source, &asked).await?;
            for id in &missing {
                let state = self.rooms.state_with(self.source, id, &pdu.event_id).await?;
                states.insert(id.clone(), state);
            }
        }
        self.enter_with(&pdu, how).await?;
        let unsigned = match how {
            How::Live => self.have_signed(&mut pdu).await?,
            How::Past(_) => None,
        };
        // While this one asked, another server may have brought the event, or what was missing.
        if let Some(standing) = self.known_standing(&pdu).await? {
            return Ok(standing);
        }
        let still = self.is_missing(&missing).await?;
        states.retain(|id, _| still.contains(id));
        let source = self.source;
        let Some(open) = self.open.as_mut() else {
            return Err(Error::internal("a room that was entered is not open"));
        };
        let arriving = Arriving { source, how, sending: self.sending.clone(), unsigned };
        let standing = arriving.arrive(open, pdu, fetched, states).await;
        match standing {
            Ok(standing) => {
                self.added += 1;
                if self.added >= COMMITTED_AT_ONCE_MAX {
                    self.flush().await?;
                }
                Ok(standing)
            }
            Err(error) => {
                // Nothing of this visit may become true by half.
                self.open = None;
                self.added = 0;
                Err(error)
            }
        }
    }

    /// Asks the room's policy server for its signature, if it is wanted and not there; returns why there is
    /// none then. Nobody waits for that at the room's door.
    async fn have_signed(&mut self, pdu: &mut Pdu) -> Result<Option<String>, Error> {
        let Some(open) = &self.open else { return Ok(None) };
        let Some(server) = open.unsigned_by(pdu).await? else { return Ok(None) };
        self.flush().await?;
        let source = self.source;
        let signed = match source.errand.may_ask(self.rooms.house.clock.now_ms()) {
            true => self.rooms.sign_by_policy_server(&server, pdu.clone(), source.rules).await,
            false => Err(Error::new(Kind::RemoteUnavailable, "too much was asked for already")),
        };
        let unsigned = match signed {
            Ok(signed) => {
                *pdu = signed;
                None
            }
            Err(error) => Some(only_this_one(error)?.message.into_owned()),
        };
        self.enter_with(pdu, How::Live).await?;
        Ok(unsigned)
    }

    /// Enters the room; first makes true what was taken in if this event needs to find it so.
    pub(super) async fn enter_with(&mut self, pdu: &Pdu, how: How) -> Result<(), Error> {
        let apart = self.open.as_ref().is_some_and(|open| {
            let redacts_fresh = pdu.redacts.as_ref().is_some_and(|id| open.is_fresh(id));
            redacts_fresh || open.head.extremities.len() > 1 || pdu.prev_events.len() > 1
        });
        if apart || how != How::Live {
            self.flush().await?;
        }
        if self.open.is_none() {
            let open = self.rooms.enter(self.source.room_id).await?;
            if !open.is_resident() {
                let gone = "This server is not in that room.";
                return Err(Error::new(Kind::NotFound, gone));
            }
            self.open = Some(open);
        }
        Ok(())
    }
}

/// What is not a failure of the store concerns one event alone.
pub(crate) fn only_this_one(error: Error) -> Result<Error, Error> {
    match error.kind {
        Kind::Internal | Kind::Unavailable => Err(error),
        _ => Ok(error),
    }
}

/// One event inside the room.
struct Arriving<'a> {
    source: Source<'a>,
    how: How,
    sending: Sending,
    /// Why the room's policy server has not signed it, if it was asked.
    unsigned: Option<String>,
}

impl Arriving<'_> {
    async fn arrive(
        &self,
        open: &mut OpenRoom<'_>,
        mut pdu: Pdu,
        fetched: Fetched,
        states: HashMap<OwnedEventId, FetchedState>,
    ) -> Result<Standing, Error> {
        let permit = may_keep_outliers(self.source.server.as_str(), self.source.room_id);
        let needs_outliers = !fetched.is_empty() || !states.is_empty();
        let before_any = open.commit_mut().is_none();
        let mut commit = match needs_outliers {
            true => Some(open.begin(permit)),
            false => None,
        };
        let mut outliers = fetched;
        let mut wanted = BTreeMap::new();
        for (id, state) in states {
            outliers.extend(state.events);
            wanted.insert(id, state.state);
        }
        // It is about to be placed; it must not be kept as an outlier too.
        outliers.remove(&pdu.event_id);
        let mut roots = BTreeMap::new();
        if let Some(commit) = &mut commit {
            open.keep_outliers(outliers, commit).await?;
            for (id, state) in &wanted {
                roots.insert(id.clone(), open.root_of(state, id, commit).await?);
            }
        }
        debug_assert!(roots.is_empty() || before_any, "a gap begins a commit");
        if let Some(commit) = commit {
            open.resume(commit);
        }
        let known = open.known(&pdu.event_id).await?;
        let before = open.state_before(&pdu, &roots).await?;
        let standing = self.judge(open, &pdu, known, before).await?;
        pdu.rejected = matches!(standing, Standing::Rejected(_));
        let mut commit = open.begin(standing.permit(&pdu));
        let arrival = Arrival {
            soft_failed: matches!(standing, Standing::SoftFailed(_)),
            number: known.map(|known| known.number),
            missing: roots.into_keys().collect(),
            placing: match self.how {
                How::Live => Placing::End,
                How::Past(at) => Placing::At(at),
            },
            sending: self.sending.clone(),
            ..Arrival::at(before)
        };
        self.say(open.rooms, &pdu, &standing);
        open.append(&Arc::new(pdu), arrival, &mut commit).await?;
        open.resume(commit);
        Ok(standing)
    }

    /// Says what is not shown: once for each server and verdict, not for each event.
    fn say(&self, rooms: &Rooms, pdu: &Pdu, standing: &Standing) {
        let (kind, why) = match standing {
            Standing::Accepted => return,
            Standing::SoftFailed(why) => ("event.soft_failed", why),
            Standing::Rejected(why) => ("event.rejected", why),
        };
        let server = self.source.server;
        match rooms.alarm(kind, server.as_str()) {
            Some(times) => tracing::warn!(kind, %server, room.id = %pdu.room_id,
                event.id = %pdu.event_id, why, times,
                "events of another server are kept but not shown"),
            None => tracing::debug!(kind, event.id = %pdu.event_id, why, "kept but not shown"),
        }
    }

    async fn judge(
        &self,
        open: &mut OpenRoom<'_>,
        pdu: &Pdu,
        known: Option<Known>,
        before: Root,
    ) -> Result<Standing, Error> {
        if known.is_some_and(|known| known.rejected) {
            return Ok(Standing::Rejected("it was rejected before".to_owned()));
        }
        // "If any event in `auth_events` … belongs to a different room, reject."
        if let Some(foreign) = open.foreign_among(&pdu.auth_events).await? {
            return Ok(Standing::Rejected(format!("{foreign} is an event of another room")));
        }
        let allowing = open.allowing(pdu).await?;
        let rules = &open.rules.authorization;
        if let Err(why) = judge_by_auth_events(pdu, &allowing, rules) {
            return Ok(Standing::Rejected(why));
        }
        if pdu.kind == TimelineEventType::RoomCreate && self.how == How::Live {
            return Ok(Standing::Rejected("the room is there already".to_owned()));
        }
        if let Err(why) = open.judged_at(before, pdu).await? {
            return Ok(Standing::Rejected(why));
        }
        let now = Root(open.head.state_root);
        if self.how != How::Live {
            return Ok(Standing::Accepted);
        }
        if now != before
            && let Err(why) = open.judged_at(now, pdu).await?
            && !open.allowed_by_both(now, before, pdu).await?
        {
            return Ok(Standing::SoftFailed(why));
        }
        if pdu.kind == TimelineEventType::RoomRedaction
            && let Some(author) = open.author_of_target(pdu).await?
            && !open.redaction_counts(pdu, &author).await?
        {
            return Ok(Standing::SoftFailed("the sender may not take that back".to_owned()));
        }
        // "7. … Is validated by the Policy Server, if the room is using a Policy Server, otherwise it is 'soft
        // failed'."
        Ok(match open.unsigned_by(pdu).await? {
            None => Standing::Accepted,
            Some(server) => Standing::SoftFailed(match &self.unsigned {
                Some(why) => format!("{} has not signed it: {why}", server.via),
                None => format!("{} has not signed it", server.via),
            }),
        })
    }
}

impl<'a> OpenRoom<'a> {
    /// Whether this visit placed the event.
    pub(crate) fn is_fresh(&self, event_id: &EventId) -> bool {
        self.fresh_known.get(event_id).is_some_and(|known| !known.outlier)
    }

    /// Whether this visit brought the event, placed or not.
    pub(crate) fn knows_fresh(&self, event_id: &EventId) -> bool {
        self.fresh_known.contains_key(event_id)
    }

    /// Keeps events of which only those that allow them are known, each judged by those.
    pub(crate) async fn keep_outliers(
        &mut self,
        events: Fetched,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        for mut event in in_order(events, |pdu| &pdu.auth_events) {
            if self.known(&event.event_id).await?.is_some() {
                continue;
            }
            let allowing = self.allowing(&event).await;
            let judged = match allowing {
                Ok(allowing) => judge_by_auth_events(&event, &allowing, &self.rules.authorization),
                Err(error) if error.kind == Kind::RemoteUnavailable => continue,
                Err(error) => return Err(error),
            };
            if let Err(why) = judged {
                tracing::debug!(event.id = %event.event_id, why, "an outlier is rejected");
                event.rejected = true;
            }
            self.add_outlier(&Arc::new(event), commit).await?;
        }
        Ok(())
    }

    /// The first of these events that is known as one of another room.
    pub(super) async fn foreign_among(
        &self,
        ids: &[OwnedEventId],
    ) -> Result<Option<OwnedEventId>, Error> {
        for id in ids {
            let event = self.rooms.house.ledger.event_by_id(id).await?;
            if event.is_some_and(|event| event.room != self.room) {
                return Ok(Some(id.clone()));
            }
        }
        Ok(None)
    }

    /// The events that allow `pdu`, and the create event.
    pub(crate) async fn allowing(
        &self,
        pdu: &Pdu,
    ) -> Result<HashMap<OwnedEventId, Arc<Pdu>>, Error> {
        let create = match pdu.kind {
            TimelineEventType::RoomCreate => None,
            _ => create_event_of(&self.room_id, &self.rules.authorization),
        };
        let mut allowing = HashMap::new();
        for id in pdu.auth_events.iter().chain(&create) {
            let Some(known) = self.known(id).await? else {
                // Without it nothing can be said, so nothing is kept: the event may come again.
                let missing = "An event that allows this one cannot be had.";
                return Err(Error::new(Kind::RemoteUnavailable, missing));
            };
            allowing.insert(id.clone(), self.pdu(known.number).await?);
        }
        Ok(allowing)
    }

    /// Whether the state `root` allows `pdu`.
    pub(crate) async fn judged_at(
        &self,
        root: Root,
        pdu: &Pdu,
    ) -> Result<Result<(), String>, Error> {
        let wanted = match deciding_state_of(pdu, &self.rules.authorization) {
            Ok(wanted) => wanted,
            Err(why) => return Ok(Err(why)),
        };
        let mut named = NamedState::new();
        for (kind, key) in wanted {
            if let Some((_, event)) = self.entry_at(root, &kind, &key).await? {
                named.insert((kind, key), event);
            }
        }
        Ok(judge_by_state(pdu, &named, &self.rules.authorization))
    }

    /// Whether the state that is current once the event's own branch is part of the room allows it. What
    /// this server knows now may lack the very join that lets the sender speak: that a branch is news here
    /// is no fault of its events. What both branches hold against them, a ban say, still counts.
    async fn allowed_by_both(&mut self, now: Root, before: Root, pdu: &Pdu) -> Result<bool, Error> {
        let permit = may_keep_outliers(pdu.sender.server_name().as_str(), &pdu.room_id);
        let mut commit = self.begin(permit);
        let both = self.resolve(vec![now, before], &mut commit).await;
        self.resume(commit);
        Ok(self.judged_at(both?, pdu).await?.is_ok())
    }

    /// The state made of these events, and of `last`, which comes after them.
    ///
    /// # Errors
    ///
    /// [`Kind::RemoteUnavailable`]: two of them say the same thing differently. Whoever tells such a state
    /// would let us choose between a power level and its forgery.
    pub(crate) async fn root_of(
        &mut self,
        state: &[OwnedEventId],
        last: &EventId,
        commit: &mut Commit,
    ) -> Result<Root, Error> {
        let ledger = self.rooms.house.ledger.clone();
        let mut entries = BTreeMap::new();
        let before = state.iter().filter(|id| **id != *last).map(|id| &**id);
        for id in before.chain([last]) {
            // One that was dropped or rejected is not part of any state.
            let Some(known) = self.known(id).await?.filter(|known| !known.rejected) else {
                continue;
            };
            let Some((kind, key)) = self.pdu(known.number).await?.state_pair() else { continue };
            let key = ledger.state_key_in(&kind, &key, commit).await?;
            let replaced = entries.insert(key, known.number);
            if replaced.is_some_and(|replaced| replaced != known.number) && id != last {
                let twice = "The state that the other server tells has two events for one key.";
                return Err(Error::new(Kind::RemoteUnavailable, twice));
            }
        }
        Ok(self.states.build(entries.into_iter().collect(), commit))
    }

    /// The state before an event: what the states after its predecessors make together. `fetched` are
    /// those of predecessors that this server has not.
    async fn state_before(
        &mut self,
        pdu: &Pdu,
        fetched: &BTreeMap<OwnedEventId, Root>,
    ) -> Result<Root, Error> {
        let mut roots = BTreeSet::new();
        for id in &pdu.prev_events {
            match fetched.get(id) {
                Some(root) => roots.insert(*root),
                None => match self.known(id).await? {
                    Some(known) => roots.insert(known.after),
                    None => continue,
                },
            };
        }
        if roots.len() <= 1 {
            return Ok(roots.first().copied().unwrap_or_default());
        }
        let ends: BTreeSet<&str> = self.head.extremities.iter().map(String::as_str).collect();
        let before: BTreeSet<&str> = pdu.prev_events.iter().map(|id| id.as_str()).collect();
        if ends == before {
            return Ok(Root(self.head.state_root));
        }
        let permit = may_keep_outliers(pdu.sender.server_name().as_str(), &pdu.room_id);
        let mut commit = self.begin(permit);
        let resolved = self.resolve(roots.into_iter().collect(), &mut commit).await;
        self.resume(commit);
        resolved
    }
}
