//! One counter numbers rooms, users, devices, events and trie nodes. Gaps do not matter; reuse
//! would.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counter.
#[derive(Debug)]
pub struct Numbers(AtomicU64);

impl Numbers {
    /// Starts at `next`, never at zero: zero means "none".
    pub fn starting_at(next: u64) -> Self {
        Self(AtomicU64::new(next.max(1)))
    }

    /// A number nobody has.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// All numbers given out so far are below this.
    pub fn next_unused(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
