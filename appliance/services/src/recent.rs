//! A map that forgets what nobody touched for long, so that strangers cannot fill the memory.

use std::collections::HashMap;
use std::hash::Hash;

/// At most `max` entries in two halves: when the newer half is full it becomes the older, and the
/// older is dropped. Every touch brings an entry into the newer half.
pub(crate) struct Recent<K, V> {
    newer: HashMap<K, V>,
    older: HashMap<K, V>,
    half_max: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub fn new(max: usize) -> Self {
        Self { newer: HashMap::new(), older: HashMap::new(), half_max: (max / 2).max(1) }
    }

    /// The value of `key`; `fresh` makes one if there is none.
    pub fn entry(&mut self, key: K, fresh: impl FnOnce() -> V) -> &mut V {
        let known = self.remove(&key);
        self.put(key, known.unwrap_or_else(fresh))
    }

    /// Sets the value of `key`.
    pub fn insert(&mut self, key: K, value: V) {
        self.older.remove(&key);
        self.put(key, value);
    }

    /// The value of `key`, if it is remembered.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.newer.get(key).or_else(|| self.older.get(key))
    }

    /// Takes the value of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.newer.remove(key).or_else(|| self.older.remove(key))
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> impl Iterator<Item = (K, V)> {
        let newer = std::mem::take(&mut self.newer);
        newer.into_iter().chain(std::mem::take(&mut self.older))
    }

    fn put(&mut self, key: K, value: V) -> &mut V {
        if self.newer.len() >= self.half_max && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        let slot = self.newer.entry(key).insert_entry(value);
        slot.into_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_bounded_and_keeps_what_is_touched() {
        let mut recent = Recent::new(10);
        recent.insert(0, "kept");
        for key in 1..1_000 {
            assert_eq!(*recent.entry(0, || "forgotten"), "kept");
            recent.insert(key, "other");
            assert!(recent.newer.len() + recent.older.len() <= 10);
        }
        assert!(recent.get(&1).is_none(), "nobody touched it");
        assert_eq!(recent.remove(&0), Some("kept"));
        assert_eq!(recent.remove(&0), None);
    }

    #[test]
    fn draining_takes_both_halves() {
        let mut recent = Recent::new(4);
        (0..4).for_each(|key| recent.insert(key, key));
        let mut all: Vec<_> = recent.drain().map(|(key, _)| key).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
        assert!(recent.get(&3).is_none());
    }
}
