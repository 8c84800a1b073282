//! The graph of which state event allowed which, by short numbers.
//!
//! Every state event has a row with the numbers of the events that allow it and a generation above all
//! of theirs. Walks go from the highest generation down, so that they stop as soon as nothing that is
//! left can matter: the difference of two states' chains costs what differs, not what the room has been
//! through.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use appliance_ledger::keyspaces::AUTH_EDGES;
use appliance_ledger::rows::AuthRow;
use appliance_model::{Error, EventNid, Kind};

use crate::rooms::OpenRoom;

/// Events one walk looks at. A room of ten thousand members has chains of some twenty thousand; what is
/// far beyond that was made to keep servers busy.
pub(super) const WALKED_MAX: usize = 200_000;

/// States whose chains are compared, each a bit.
pub(super) const STATES_MAX: usize = 64;

impl OpenRoom<'_> {
    /// What allowed an event.
    pub(crate) async fn edges(&self, number: EventNid) -> Result<Arc<AuthRow>, Error> {
        if let Some(edges) = self.known_edges(number) {
            return Ok(edges);
        }
        let row = self.rooms.house.ledger.get(&AUTH_EDGES, &number).await?;
        let edges = Arc::new(match row {
            Some(row) => row,
            None => self.edges_from_events(number).await?,
        });
        self.rooms.edges.insert(number, edges.clone());
        Ok(edges)
    }

    fn known_edges(&self, number: EventNid) -> Option<Arc<AuthRow>> {
        let fresh = self.fresh_edges.get(&number).cloned();
        fresh.or_else(|| self.rooms.edges.get(&number))
    }

    /// Reads the edges of many events in one trip.
    async fn load_edges(&self, numbers: &[EventNid]) -> Result<(), Error> {
        let absent: Vec<_> =
            numbers.iter().filter(|number| self.known_edges(**number).is_none()).copied().collect();
        let rows = self.rooms.house.ledger.newest().get_many(&AUTH_EDGES, &absent).await?;
        for (number, row) in absent.into_iter().zip(rows) {
            if let Some(row) = row {
                self.rooms.edges.insert(number, Arc::new(row));
            }
        }
        Ok(())
    }

    /// The same from the events themselves: for state of the time before there were rows.
    async fn edges_from_events(&self, number: EventNid) -> Result<AuthRow, Error> {
        let (mut open, mut done) = (vec![number], HashMap::<EventNid, AuthRow>::new());
        while let Some(at) = open.last().copied() {
            if done.len() > WALKED_MAX {
                return Err(too_much());
            }
            let mut row = AuthRow { events: Vec::new(), generation: 1 };
            let mut waiting = false;
            for id in &self.pdu(at).await?.auth_events {
                let Some(known) = self.known(id).await? else { continue };
                row.events.push(known.number.0);
                let cached = self.known_edges(known.number).map(|edges| edges.generation);
                match cached.or_else(|| done.get(&known.number).map(|row| row.generation)) {
                    Some(generation) => row.generation = row.generation.max(generation + 1),
                    None => {
                        waiting = true;
                        open.push(known.number);
                    }
                }
            }
            if !waiting {
                open.pop();
                done.insert(at, row);
            }
        }
        for (at, row) in &done {
            self.rooms.edges.insert(*at, Arc::new(row.clone()));
        }
        Ok(done.remove(&number).unwrap_or_default())
    }

    /// Everything that allowed these events, directly or not; they themselves are not in it unless one
    /// allowed another.
    ///
    /// # Errors
    ///
    /// If the store fails, or the chain is too long to be one of a room.
    pub(crate) async fn auth_chain(
        &self,
        of: impl IntoIterator<Item = EventNid>,
    ) -> Result<BTreeSet<EventNid>, Error> {
        let mut open: Vec<_> = of.into_iter().collect();
        self.load_edges(&open).await?;
        let mut seen = BTreeSet::new();
        while let Some(number) = open.pop() {
            for allowing in &self.edges(number).await?.events {
                if seen.insert(EventNid(*allowing)) {
                    open.push(EventNid(*allowing));
                }
            }
            if seen.len() > WALKED_MAX {
                return Err(too_much());
            }
        }
        Ok(seen)
    }

    /// "the auth difference": what is in the chain of some but not of all of `states`. Each event comes
    /// with the states it is in, as bits; an event counts as part of its own chain.
    pub(super) async fn auth_difference(
        &self,
        events: HashMap<EventNid, u64>,
        states: usize,
    ) -> Result<BTreeSet<EventNid>, Error> {
        let all = if states >= STATES_MAX { u64::MAX } else { (1 << states) - 1 };
        let numbers: Vec<_> = events.keys().copied().collect();
        self.load_edges(&numbers).await?;
        let mut walk = Walk { masks: HashMap::new(), heap: BinaryHeap::new(), all, partial: 0 };
        for (number, mask) in events {
            let generation = self.edges(number).await?.generation;
            walk.reach(number, generation, mask);
        }
        let mut difference = BTreeSet::new();
        // Whatever is left is in all chains, and so is all that it rests on.
        while walk.partial > 0 {
            let Some((_, number)) = walk.heap.pop() else { break };
            let Some(mask) = walk.masks.get(&number).copied() else { continue };
            if mask != all {
                walk.partial -= 1;
                difference.insert(number);
            }
            for allowing in &self.edges(number).await?.events {
                let allowing = EventNid(*allowing);
                let generation = self.edges(allowing).await?.generation;
                walk.reach(allowing, generation, mask);
            }
            if walk.masks.len() > WALKED_MAX {
                return Err(too_much());
            }
        }
        Ok(difference)
    }

    /// "the conflicted state subgraph": what lies on a path of the graph between two of these events
    /// (room version 12).
    pub(super) async fn between(
        &self,
        events: &BTreeSet<EventNid>,
    ) -> Result<BTreeSet<EventNid>, Error> {
        let mut lowest = u64::MAX;
        for number in events {
            lowest = lowest.min(self.edges(*number).await?.generation);
        }
        // All below them, oldest first; what is older than the oldest of them leads to none of them.
        let mut below: BTreeMap<(u64, EventNid), Arc<AuthRow>> = BTreeMap::new();
        let (mut open, mut seen): (Vec<_>, HashSet<_>) =
            (events.iter().copied().collect(), events.iter().copied().collect());
        while let Some(number) = open.pop() {
            let edges = self.edges(number).await?;
            if edges.generation < lowest {
                continue;
            }
            for allowing in &edges.events {
                if seen.insert(EventNid(*allowing)) {
                    open.push(EventNid(*allowing));
                }
            }
            below.insert((edges.generation, number), edges);
            if seen.len() > WALKED_MAX {
                return Err(too_much());
            }
        }
        let mut leading = BTreeSet::new();
        for ((_, number), edges) in below {
            let leads = edges.events.iter().any(|event| leading.contains(&EventNid(*event)));
            if leads || events.contains(&number) {
                leading.insert(number);
            }
        }
        Ok(leading)
    }
}

/// A walk from the highest generation down.
struct Walk {
    /// The states in whose chain each event is, as bits.
    masks: HashMap<EventNid, u64>,
    heap: BinaryHeap<(u64, EventNid)>,
    all: u64,
    /// How many in the heap are not in all chains.
    partial: usize,
}

impl Walk {
    fn reach(&mut self, number: EventNid, generation: u64, mask: u64) {
        let all = self.all;
        match self.masks.entry(number) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(mask);
                self.partial += usize::from(mask != all);
                self.heap.push((generation, number));
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let before = *entry.get();
                entry.insert(before | mask);
                if before != all && before | mask == all {
                    self.partial -= 1;
                }
            }
        }
    }
}

pub(super) fn too_much() -> Error {
    Error::new(Kind::TooLarge, "This room's history is too tangled for this server to follow.")
}
