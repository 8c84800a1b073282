//! [State resolution]: what several branches of a room make of its state together.
//!
//! The algorithm is Ruma's. What is handed to it is only what it can look at: the keys in which the
//! states differ (found by comparing tries, which reads only nodes they do not share), the auth
//! difference (found by numbers), and of the state all agree on the entries that the events in question
//! are judged by. A room of ten thousand in which two topics conflict is resolved by reading a dozen
//! events.
//!
//! [State resolution]: https://spec.matrix.org/v1.19/rooms/v12/#state-resolution

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use appliance_ledger::{Commit, Root};
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::state_res::{self, StateMap};
use appliance_model::ruma::{EventId, OwnedEventId};
use appliance_model::{Error, EventNid, Pdu, StateKey, StateKeyNid};
use appliance_rules::inbound::{create_event_of, deciding_state_of};

use super::auth_graph::{STATES_MAX, WALKED_MAX, too_much};
use crate::rooms::OpenRoom;

/// Rounds in which events are fetched that the algorithm turned out to want.
const ROUNDS_MAX: usize = 16;

/// What the states disagree about: for each key, its event in each state.
type Conflicts = Vec<(StateKeyNid, Vec<Option<EventNid>>)>;

/// Events at hand, by ID.
type AtHand = HashMap<OwnedEventId, (EventNid, Arc<Pdu>)>;

impl OpenRoom<'_> {
    /// The state that several states make together.
    ///
    /// # Errors
    ///
    /// If the store fails, or the conflict is larger than any room's.
    pub(crate) async fn resolve(
        &mut self,
        mut roots: Vec<Root>,
        commit: &mut Commit,
    ) -> Result<Root, Error> {
        roots.sort_unstable();
        roots.dedup();
        if roots.len() > STATES_MAX {
            return Err(too_much());
        }
        let Some(base) = roots.first().copied() else { return Ok(Root(0)) };
        let conflicts = self.conflicts(&roots).await?;
        if conflicts.is_empty() {
            return Ok(base);
        }
        let resolved = self.settle(base, &roots, &conflicts).await?;
        let mut root = base;
        for ((key, in_states), chosen) in conflicts.into_iter().zip(resolved) {
            match chosen {
                Some(event) if in_states[0] == Some(event) => {}
                Some(event) => root = self.states.set(root, key, event, commit).await?,
                None => root = self.states.unset(root, key, commit).await?,
            }
        }
        Ok(root)
    }

    async fn conflicts(&self, roots: &[Root]) -> Result<Conflicts, Error> {
        let mut keys = BTreeSet::new();
        for other in &roots[1..] {
            let changes = self.states.changes(roots[0], *other).await?;
            keys.extend(changes.into_iter().map(|(key, ..)| key));
        }
        let mut conflicts = Vec::with_capacity(keys.len());
        for key in keys {
            let mut in_states = Vec::with_capacity(roots.len());
            for root in roots {
                in_states.push(self.states.get(*root, key).await?);
            }
            conflicts.push((key, in_states));
        }
        Ok(conflicts)
    }

    /// For each conflict, the event that wins it, if one does.
    async fn settle(
        &self,
        base: Root,
        roots: &[Root],
        conflicts: &Conflicts,
    ) -> Result<Vec<Option<EventNid>>, Error> {
        let conflicted: BTreeSet<EventNid> = conflicts
            .iter()
            .flat_map(|(_, in_states)| in_states.iter().flatten())
            .copied()
            .collect();
        let difference = self.chains_differ(base, roots.len(), conflicts).await?;
        let Some(rules) = self.rules.state_res.v2_rules().copied() else { return Err(too_much()) };
        let subgraph = match rules.consider_conflicted_state_subgraph {
            true => self.between(&conflicted).await?,
            false => BTreeSet::new(),
        };
        let full: BTreeSet<EventNid> =
            conflicted.iter().chain(&difference).chain(&subgraph).copied().collect();
        let mut at_hand = self.gather(&full).await?;
        let (maps, agreed) = self.state_maps(base, conflicts, &full, &mut at_hand).await?;
        let ids = |numbers: &BTreeSet<EventNid>, at_hand: &AtHand| -> HashSet<OwnedEventId> {
            let wanted = at_hand.iter().filter(|(_, (number, _))| numbers.contains(number));
            wanted.map(|(id, _)| id.clone()).collect()
        };
        let (difference, subgraph) = (ids(&difference, &at_hand), ids(&subgraph, &at_hand));
        for _ in 0..ROUNDS_MAX {
            let wanted = RefCell::new(BTreeSet::new());
            let fetch = |id: &EventId| -> Option<Arc<Pdu>> {
                let found = at_hand.get(id).map(|(_, pdu)| pdu.clone());
                if found.is_none() {
                    wanted.borrow_mut().insert(id.to_owned());
                }
                found
            };
            // The difference is known: one chain holds all of it, the other none.
            let chains =
                vec![difference.iter().cloned().collect(), HashSet::new().into_iter().collect()];
            let resolved =
                state_res::resolve(&self.rules.authorization, &rules, &maps, chains, fetch, |_| {
                    Some(subgraph.iter().cloned().collect())
                });
            if self.fetch_wanted(wanted.into_inner(), &mut at_hand).await? {
                continue;
            }
            let resolved = resolved.map_err(Error::internal)?;
            return self.winners(conflicts, &resolved, &at_hand, agreed).await;
        }
        Err(too_much())
    }

    async fn chains_differ(
        &self,
        base: Root,
        states: usize,
        conflicts: &Conflicts,
    ) -> Result<BTreeSet<EventNid>, Error> {
        let all = if states >= STATES_MAX { u64::MAX } else { (1 << states) - 1 };
        let contested: HashSet<_> = conflicts.iter().map(|(key, _)| *key).collect();
        let agreed = self.states.all(base).await?;
        let agreed = agreed.into_iter().filter(|(key, _)| !contested.contains(key));
        let mut events: HashMap<EventNid, u64> = agreed.map(|(_, event)| (event, all)).collect();
        for (_, in_states) in conflicts {
            for (index, event) in in_states.iter().enumerate() {
                if let Some(event) = event {
                    *events.entry(*event).or_default() |= 1 << index;
                }
            }
        }
        self.auth_difference(events, states).await
    }

    /// The events in question, what they name as allowing them, and all power levels before those.
    async fn gather(&self, events: &BTreeSet<EventNid>) -> Result<AtHand, Error> {
        let mut at_hand = AtHand::new();
        for number in events {
            self.add_with_auth(*number, &mut at_hand).await?;
        }
        if let Some(create) = create_event_of(&self.room_id, &self.rules.authorization)
            && let Some(known) = self.known(&create).await?
        {
            self.take(known.number, &mut at_hand).await?;
        }
        Ok(at_hand)
    }

    async fn add_with_auth(&self, number: EventNid, at_hand: &mut AtHand) -> Result<(), Error> {
        let mut open = vec![(number, true)];
        while let Some((number, is_asked)) = open.pop() {
            let pdu = self.take(number, at_hand).await?;
            // The mainline follows power levels to the first of them.
            if !is_asked && pdu.kind != TimelineEventType::RoomPowerLevels {
                continue;
            }
            for allowing in &self.edges(number).await?.events {
                let allowing = EventNid(*allowing);
                let id = &self.pdu(allowing).await?.event_id;
                if !at_hand.contains_key(id) {
                    open.push((allowing, false));
                }
            }
            if at_hand.len() > WALKED_MAX {
                return Err(too_much());
            }
        }
        Ok(())
    }

    async fn take(&self, number: EventNid, at_hand: &mut AtHand) -> Result<Arc<Pdu>, Error> {
        let pdu = self.pdu(number).await?;
        at_hand.insert(pdu.event_id.clone(), (number, pdu.clone()));
        Ok(pdu)
    }

    /// The states, as far as the events in question are judged by them; and the keys all agree on.
    async fn state_maps(
        &self,
        base: Root,
        conflicts: &Conflicts,
        full: &BTreeSet<EventNid>,
        at_hand: &mut AtHand,
    ) -> Result<(Vec<StateMap<OwnedEventId>>, HashSet<StateKey>), Error> {
        let states = conflicts.first().map_or(0, |(_, in_states)| in_states.len());
        let mut maps = vec![StateMap::new(); states];
        let mut contested = HashSet::new();
        for (_, in_states) in conflicts {
            for (index, event) in in_states.iter().enumerate() {
                let Some(event) = event else { continue };
                let pdu = self.pdu(*event).await?;
                let Some(key) = pdu.state_pair() else { continue };
                contested.insert(key.clone());
                maps[index].insert(key, pdu.event_id.clone());
            }
        }
        let mut wanted = HashSet::from([
            (StateEventType::RoomCreate, String::new()),
            (StateEventType::RoomPowerLevels, String::new()),
            (StateEventType::RoomJoinRules, String::new()),
        ]);
        for number in full {
            let pdu = self.pdu(*number).await?;
            wanted.extend(deciding_state_of(&pdu, &self.rules.authorization).unwrap_or_default());
            wanted.extend(pdu.state_pair());
        }
        let mut agreed = HashSet::new();
        for key in wanted {
            if contested.contains(&key) {
                continue;
            }
            let Some((number, pdu)) = self.entry_at(base, &key.0, &key.1).await? else { continue };
            self.add_with_auth(number, at_hand).await?;
            for map in &mut maps {
                map.insert(key.clone(), pdu.event_id.clone());
            }
            agreed.insert(key);
        }
        Ok((maps, agreed))
    }

    /// Fetches what was asked for and not at hand; says whether anything was found.
    async fn fetch_wanted(
        &self,
        wanted: BTreeSet<OwnedEventId>,
        at_hand: &mut AtHand,
    ) -> Result<bool, Error> {
        let before = at_hand.len();
        for id in wanted {
            if let Some(known) = self.known(&id).await? {
                self.add_with_auth(known.number, at_hand).await?;
            }
        }
        Ok(at_hand.len() > before)
    }

    async fn winners(
        &self,
        conflicts: &Conflicts,
        resolved: &StateMap<OwnedEventId>,
        at_hand: &AtHand,
        agreed: HashSet<StateKey>,
    ) -> Result<Vec<Option<EventNid>>, Error> {
        let mut winners = Vec::with_capacity(conflicts.len());
        for (_, in_states) in conflicts {
            let mut chosen = None;
            if let Some(event) = in_states.iter().flatten().next() {
                let key = self.pdu(*event).await?.state_pair();
                let id = key.and_then(|key| resolved.get(&key));
                chosen = id.and_then(|id| at_hand.get(id)).map(|(number, _)| *number);
            }
            winners.push(chosen);
        }
        debug_assert!(agreed.iter().all(|key| resolved.contains_key(key)));
        Ok(winners)
    }
}
