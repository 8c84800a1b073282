//! Room state as a persistent trie.
//!
//! Every state a room ever had stays readable by its [`Root`]: a change writes the few nodes on the
//! path to it and shares all others. So the state before any event is one number, looking up one
//! key reads one to three nodes, joining a room of ten thousand writes two, and the difference of
//! two states reads only the nodes in which they differ.
//!
//! A leaf holds up to [`LEAF_ENTRIES_MAX`] entries; a fuller one splits into a branch of sixteen by
//! four more bits of the mixed state-key number.

use std::collections::HashMap;
use std::sync::Arc;

use appliance_model::{Error, EventNid, RoomNid, StateKeyNid};

use crate::keyspaces::STATE_NODES;
use crate::lane::Commit;
use crate::ledger::Ledger;
use crate::rows::StateNode;

/// More entries than this split a leaf. A leaf is then at most 1 KB.
const LEAF_ENTRIES_MAX: usize = 32;
const BRANCHES: usize = 16;
const BITS: u32 = 4;
/// Sixteen levels use up all 64 bits; two different keys part long before.
const DEPTH_MAX: u32 = 16;

/// The state of a room at some point: the number of the trie's top node. Zero is the empty state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(pub u64);

/// State keys and the events that set them.
pub type Entries = Vec<(StateKeyNid, EventNid)>;

/// One difference between two states: the key, its event in the first, its event in the second.
pub type Change = (StateKeyNid, Option<EventNid>, Option<EventNid>);

/// The tries of one room, with nodes that are not committed yet.
pub struct States<'a> {
    ledger: &'a Ledger,
    room: RoomNid,
    fresh: HashMap<u64, Arc<StateNode>>,
}

impl Ledger {
    /// The states of a room.
    pub fn states(&self, room: RoomNid) -> States<'_> {
        States { ledger: self, room, fresh: HashMap::new() }
    }
}

impl States<'_> {
    /// The event that sets `key` in the state `root`.
    ///
    /// # Errors
    ///
    /// If the store fails or is damaged.
    pub async fn get(&self, root: Root, key: StateKeyNid) -> Result<Option<EventNid>, Error> {
        let (mut at, mut depth) = (root.0, 0);
        while at != 0 {
            match &*self.node(at).await? {
                StateNode::Leaf(entries) => {
                    let found = entries.binary_search_by_key(&key.0, |entry| entry.0);
                    return Ok(found.ok().map(|index| EventNid(entries[index].1)));
                }
                StateNode::Branch(children) => at = children[slot(key, depth)],
            }
            depth += 1;
        }
        Ok(None)
    }

    /// The state `root` with `key` set by `event`. The new nodes go into `commit`.
    ///
    /// # Errors
    ///
    /// If the store fails or is damaged.
    pub async fn set(
        &mut self,
        root: Root,
        key: StateKeyNid,
        event: EventNid,
        commit: &mut Commit,
    ) -> Result<Root, Error> {
        // Down: remember the branches passed.
        let mut path = Vec::new();
        let (mut at, mut depth) = (root.0, 0);
        let mut entries = loop {
            if at == 0 {
                break Vec::new();
            }
            match &*self.node(at).await? {
                StateNode::Leaf(entries) => break entries.clone(),
                StateNode::Branch(children) => {
                    path.push(children.clone());
                    at = children[slot(key, depth)];
                    depth += 1;
                }
            }
        };
        match entries.binary_search_by_key(&key.0, |entry| entry.0) {
            Ok(index) => entries[index].1 = event.0,
            Err(index) => entries.insert(index, (key.0, event.0)),
        }
        // Up: new nodes all the way.
        let mut below = self.add_subtrie(entries, depth, commit);
        while let Some(mut children) = path.pop() {
            depth -= 1;
            children[slot(key, depth)] = below;
            below = self.add(StateNode::Branch(children), commit);
        }
        Ok(Root(below))
    }

    /// The state `root` without `key`. The new nodes go into `commit`.
    ///
    /// # Errors
    ///
    /// If the store fails or is damaged.
    pub async fn unset(
        &mut self,
        root: Root,
        key: StateKeyNid,
        commit: &mut Commit,
    ) -> Result<Root, Error> {
        let mut path = Vec::new();
        let (mut at, mut depth) = (root.0, 0);
        let mut entries = loop {
            if at == 0 {
                return Ok(root);
            }
            match &*self.node(at).await? {
                StateNode::Leaf(entries) => break entries.clone(),
                StateNode::Branch(children) => {
                    path.push(children.clone());
                    at = children[slot(key, depth)];
                    depth += 1;
                }
            }
        };
        let Ok(index) = entries.binary_search_by_key(&key.0, |entry| entry.0) else {
            return Ok(root);
        };
        entries.remove(index);
        let mut below = match entries.is_empty() {
            true => 0,
            false => self.add(StateNode::Leaf(entries), commit),
        };
        while let Some(mut children) = path.pop() {
            depth -= 1;
            children[slot(key, depth)] = below;
            let is_empty = children.iter().all(|child| *child == 0);
            below = if is_empty { 0 } else { self.add(StateNode::Branch(children), commit) };
        }
        Ok(Root(below))
    }

    /// A state with exactly these entries, built afresh.
    pub fn build(&mut self, mut entries: Entries, commit: &mut Commit) -> Root {
        if entries.is_empty() {
            return Root(0);
        }
        entries.sort_unstable();
        entries.dedup_by_key(|entry| entry.0);
        let entries = entries.into_iter().map(|(key, event)| (key.0, event.0)).collect();
        Root(self.add_subtrie(entries, 0, commit))
    }

    /// All entries of a state, sorted by key.
    ///
    /// # Errors
    ///
    /// If the store fails or is damaged.
    pub async fn all(&self, root: Root) -> Result<Entries, Error> {
        let mut found = Vec::new();
        let mut open = vec![root.0];
        while let Some(at) = open.pop() {
            if at == 0 {
                continue;
            }
            match &*self.node(at).await? {
                StateNode::Leaf(entries) => found.extend(
                    entries.iter().map(|(key, event)| (StateKeyNid(*key), EventNid(*event))),
                ),
                StateNode::Branch(children) => open.extend(children),
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// What differs between two states. Reads only nodes that the two do not share.
    ///
    /// # Errors
    ///
    /// If the store fails or is damaged.
    pub async fn changes(&self, before: Root, after: Root) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        let mut open = vec![(before.0, after.0)];
        while let Some((before, after)) = open.pop() {
            if before == after {
                continue;
            }
            let nodes = (self.node_or_empty(before).await?, self.node_or_empty(after).await?);
            if let (StateNode::Branch(before), StateNode::Branch(after)) = (&*nodes.0, &*nodes.1) {
                open.extend(before.iter().copied().zip(after.iter().copied()));
                continue;
            }
            let (old, new) = (self.all(Root(before)).await?, self.all(Root(after)).await?);
            compare(&old, &new, &mut changes);
        }
        Ok(changes)
    }

    async fn node_or_empty(&self, number: u64) -> Result<Arc<StateNode>, Error> {
        if number == 0 {
            Ok(Arc::new(StateNode::Leaf(Vec::new())))
        } else {
            self.node(number).await
        }
    }

    async fn node(&self, number: u64) -> Result<Arc<StateNode>, Error> {
        if let Some(node) = self.fresh.get(&number) {
            return Ok(node.clone());
        }
        if let Some(node) = self.ledger.nodes_cache().get(&number) {
            return Ok(node);
        }
        let node = self.ledger.get(&STATE_NODES, &(self.room, number)).await?;
        let node = node
            .filter(
                |node| !matches!(node, StateNode::Branch(children) if children.len() != BRANCHES),
            )
            .ok_or_else(|| Error::internal("a node of a room's state is missing"))?;
        let node = Arc::new(node);
        self.ledger.nodes_cache().insert(number, node.clone());
        Ok(node)
    }

    fn add_subtrie(&mut self, entries: Vec<(u64, u64)>, depth: u32, commit: &mut Commit) -> u64 {
        if entries.len() <= LEAF_ENTRIES_MAX || depth >= DEPTH_MAX {
            return self.add(StateNode::Leaf(entries), commit);
        }
        let mut parts = vec![Vec::new(); BRANCHES];
        for entry in entries {
            parts[slot(StateKeyNid(entry.0), depth)].push(entry);
        }
        let add = |part: Vec<_>| {
            if part.is_empty() { 0 } else { self.add_subtrie(part, depth + 1, commit) }
        };
        let children = parts.into_iter().map(add).collect();
        self.add(StateNode::Branch(children), commit)
    }

    fn add(&mut self, node: StateNode, commit: &mut Commit) -> u64 {
        let number = self.ledger.next_number();
        commit.put(&STATE_NODES, &(self.room, number), &node);
        let node = Arc::new(node);
        // Numbers are never reused, so a node whose commit fails does no harm here.
        self.ledger.nodes_cache().insert(number, node.clone());
        self.fresh.insert(number, node);
        number
    }
}

/// Which of sixteen branches leads to `key` at this depth. Mixed, because numbers come in runs.
fn slot(key: StateKeyNid, depth: u32) -> usize {
    let mixed = key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes();
    usize::try_from((mixed >> (depth * BITS)) & 0xf).expect("four bits fit")
}

/// Both sorted by key.
fn compare(
    old: &[(StateKeyNid, EventNid)],
    new: &[(StateKeyNid, EventNid)],
    out: &mut Vec<Change>,
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some((key, event)), next) if next.is_none_or(|(other, _)| key < other) => {
                out.push((*key, Some(*event), None));
                old.next();
            }
            (Some((key, before)), Some((other, after))) if key == other => {
                if before != after {
                    out.push((*key, Some(*before), Some(*after)));
                }
                old.next();
                new.next();
            }
            (_, Some((key, event))) => {
                out.push((*key, None, Some(*event)));
                new.next();
            }
            (Some(_), None) => unreachable!("the second arm takes it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use appliance_rules::Permit;
    use proptest::prelude::*;

    use super::*;
    use crate::scenario::Store;

    fn key(number: u64) -> StateKeyNid {
        StateKeyNid(number)
    }

    /// Sets in any order, over any number of members: every root ever made reads as the map it was
    /// made from, after a restart too, and differences are what the maps differ by.
    #[test]
    fn every_root_stays_the_map_it_was() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sets = prop::collection::vec((1_u64..400, 1_u64..1_000_000), 1..300);
        proptest!(ProptestConfig::with_cases(24), |(sets in sets, picks in any::<[u16; 4]>())| {
            runtime.block_on(check(&sets, picks));
        });
    }

    async fn check(sets: &[(u64, u64)], picks: [u16; 4]) {
        let store = Store::new().await;
        let room = RoomNid(7);
        let mut history = vec![(Root(0), BTreeMap::new())];
        let mut commit = store.ledger.begin(Permit::housekeeping());
        let mut states = store.ledger.states(room);
        for (number, event) in sets {
            let (root, mut map) = history.last().unwrap().clone();
            let (key, event) = (key(*number), EventNid(*event));
            // Every fourth takes the key away instead.
            let root = match event.0 % 4 {
                0 => states.unset(root, key, &mut commit).await.unwrap(),
                _ => states.set(root, key, event, &mut commit).await.unwrap(),
            };
            match event.0 % 4 {
                0 => map.remove(&key),
                _ => map.insert(key, event),
            };
            history.push((root, map));
        }
        store.ledger.commit(commit).await.unwrap();
        let store = store.power_cut_and_restart().await;
        let states = store.ledger.states(room);
        for pair in picks.chunks(2) {
            let at = |pick: u16| &history[usize::from(pick) % history.len()];
            let ((root_a, map_a), (root_b, map_b)) = (at(pair[0]), at(pair[1]));
            let all: Entries = map_a.iter().map(|(key, event)| (*key, *event)).collect();
            assert_eq!(states.all(*root_a).await.unwrap(), all);
            for number in [1, 17, 399] {
                let found = states.get(*root_a, key(number)).await.unwrap();
                assert_eq!(found, map_a.get(&key(number)).copied());
            }
            let mut changes = states.changes(*root_a, *root_b).await.unwrap();
            changes.sort_unstable();
            let keys: std::collections::BTreeSet<_> = map_a.keys().chain(map_b.keys()).collect();
            let expected: Vec<Change> = keys
                .into_iter()
                .map(|key| (*key, map_a.get(key).copied(), map_b.get(key).copied()))
                .filter(|(_, a, b)| a != b)
                .collect();
            assert_eq!(changes, expected);
        }
    }

    #[tokio::test]
    async fn a_change_in_a_large_state_writes_few_nodes() {
        let store = Store::new().await;
        let mut commit = store.ledger.begin(Permit::housekeeping());
        let mut states = store.ledger.states(RoomNid(1));
        let entries = (1..=10_000).map(|number| (key(number), EventNid(number))).collect();
        let root = states.build(entries, &mut commit);
        store.ledger.commit(commit).await.unwrap();
        let before = store.ledger.next_number();
        let mut commit = store.ledger.begin(Permit::housekeeping());
        let mut states = store.ledger.states(RoomNid(1));
        states.set(root, key(5_000), EventNid(1), &mut commit).await.unwrap();
        let nodes = store.ledger.next_number() - before - 1;
        assert!(nodes <= 4, "{nodes} nodes for one change among ten thousand");
    }
}
