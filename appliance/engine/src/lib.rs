//! An ordered map from bytes to bytes with atomic, durable batches. Nothing else.
//!
//! Three engines stand behind one trait: LMDB (default), sled, and memory (tests). The trait is
//! shaped so that PostgreSQL can stand behind it too: asynchronous, owned values, no borrowed
//! iterators, no closure that runs inside a transaction, pages instead of streams, joins and bulk
//! reads in one call. No type of any engine leaves this crate.
//!
//! # What an engine promises
//!
//! * A batch is there wholly or not at all, after a kill and after a power cut.
//! * A commit that was answered is on the disk: the file was synced before the answer.
//! * Batches are applied in the order they were given; if a batch is there, those before it are.
//! * A commit that failed with anything but [`EngineError::Full`] or [`EngineError::KeyTooLong`] is the
//!   last one until the store is opened again. A sync that failed cannot be repeated: the kernel may
//!   already have dropped the pages, and the next sync would succeed without them.
//! * A damaged store is refused by [`open`] with a sentence that names the next step, or answers with
//!   [`EngineError::Damaged`]. It never ends the process, if the damage was there when it was opened
//!   and the store was verified ([`Options::verify_bytes_max`]).
//!
//! # What it leaves to the ledger
//!
//! * **Wrong bytes of the right length.** LMDB keeps no checksums. Values arrive sealed; the seal binds
//!   the key, so that a value under another's key is noticed too.
//! * **A store that fell back.** A damaged head of LMDB's file shows the commit before the newest; sled
//!   cuts off what follows a damaged record without a word. The newest acknowledged position is kept in
//!   a small file of its own, and a store that is behind it is not served.
//! * **Agreement between reads on sled**, which has no snapshots ([`Engine::isolates`]): readers bound
//!   themselves by a position that the ledger published.
//! * **What must be forgotten.** Freed pages keep their bytes, on both engines; what must be erasable is
//!   sealed under a key that lives elsewhere.
//!
//! # How a commit goes
//!
//! `commit` checks the lengths, takes its turn (one commit at a time), and moves to a thread that may
//! block. LMDB: one write transaction for all batches, new pages beside the old ones, one sync, then the
//! head, synced. sled: one atomic batch after another, one flush, one sync of our own. Whoever asked may
//! leave meanwhile; the commit is finished anyway. Reads on LMDB are memory reads and stay on their
//! thread; they never wait for a commit.
//!
//! # How it is tried
//!
//! `conformance.rs` asks all engines the same questions and plays random stories against a plain map.
//! `tests/damage.rs` harms files and looks from another process. `tests/bad_disk/` records every call
//! that changes a file and rebuilds the disk as a power cut could have left it; it also plays a disk that
//! is full or fails to sync. The turns an engine takes and why are in its own file.

use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;

mod blocking;
#[cfg(test)]
mod conformance;
mod folder;
mod heap_trim;
mod layout;
mod lmdb;
mod lmdb_check;
mod lmdb_file;
mod lmdb_trim;
mod lmdb_view;
mod memory;
mod open;
mod sled;
mod sled_rows;

pub use memory::Memory;
pub use open::{Kind, OpenError, Options, UnknownKind, open};

/// A keyspace: keys of different spaces never meet. The number is part of the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(pub u8);

/// A key is at most this long, because LMDB keeps keys inside its pages.
pub const KEY_BYTES_MAX: usize = 500;

/// A value is at most this long. Everything the house keeps in the engine is far smaller (the
/// largest Matrix event is 64 KB); the limit makes a damaged length field an error instead of a
/// read of gigabytes.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One key and its value.
pub type Row = (Bytes, Bytes);

/// Which end of a range a scan starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Backward,
}

/// The keys a scan may return, within one space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The smallest key.
    pub from: Bound<Vec<u8>>,
    /// The largest key.
    pub to: Bound<Vec<u8>>,
}

impl KeyRange {
    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { from: Bound::Included(prefix.to_vec()), to: after_prefix(prefix) }
    }

    /// From `from` (included) to `to` (excluded).
    pub fn between(from: &[u8], to: &[u8]) -> Self {
        Self { from: Bound::Included(from.to_vec()), to: Bound::Excluded(to.to_vec()) }
    }
}

/// The upper bound of the keys that start with `prefix`: the prefix, counted up by one.
fn after_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Bound::Excluded(end);
        }
        end.pop();
    }
    Bound::Unbounded
}

/// What a scan found, in the order asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most `limit` rows.
    pub rows: Vec<Row>,
    /// Whether more rows follow in this range.
    pub more: bool,
}

/// What a joined scan found: the index row and the row of the target space that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinedPage {
    /// The index row, and the target's value if the target has that key.
    pub rows: Vec<(Row, Option<Bytes>)>,
    /// Whether more index rows follow in this range.
    pub more: bool,
}

/// Reading. On an engine each call sees the newest committed data; on a snapshot all calls agree.
#[async_trait]
pub trait Read: Send + Sync {
    /// The value of one key.
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The values of many keys, in the order asked, in one trip.
    async fn get_many(&self, keys: &[(Space, Vec<u8>)]) -> Result<Vec<Option<Bytes>>, EngineError>;

    /// At most `limit` rows of a range.
    async fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, EngineError>;

    /// A scan of `index` in which the last `suffix_bytes` bytes of each key are a key of `target`;
    /// returns both, in one trip. Index keys shorter than `suffix_bytes` join nothing.
    async fn scan_join(
        &self,
        index: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
        target: Space,
        suffix_bytes: usize,
    ) -> Result<JoinedPage, EngineError>;
}

/// An engine: the newest data to read, and the only way to write.
#[async_trait]
pub trait Engine: Read + 'static {
    /// A view on which all reads agree, where the engine can give one ([`Engine::isolates`]). Drop
    /// it before anything slow: it may pin pages.
    async fn snapshot(&self) -> Result<Box<dyn Read>, EngineError>;

    /// Whether [`Engine::snapshot`] is isolated from later commits. sled is not: its callers bound
    /// their reads by a published position.
    fn isolates(&self) -> bool;

    /// Applies each batch wholly or not at all, in order, and returns when all that were applied
    /// would survive a power cut. One answer per batch: a batch whose precondition does not hold
    /// (seen after the batches before it) is left out and answered with a [`Conflict`].
    ///
    /// # Errors
    ///
    /// On an error nothing is known about the batches: the caller must stop acknowledging. Only
    /// [`EngineError::Full`] and [`EngineError::KeyTooLong`] promise that nothing was written and
    /// that the engine goes on. After any other error every later commit is refused until the
    /// store is opened again, because a failed sync cannot be repeated: the kernel may already have
    /// dropped the pages.
    ///
    /// Dropping the future does not stop a commit that has begun.
    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<Result<(), Conflict>>, EngineError>;

    /// Gives memory back that only mirrors the disk, or that is free. To be called every few seconds.
    ///
    /// # Errors
    ///
    /// If the kernel does not say what is mapped; nothing is lost then.
    async fn trim(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Facts for metrics and `store stats`.
    async fn stats(&self) -> Result<Stats, EngineError>;

    /// Writes a consistent copy into the empty folder `to`, while the engine goes on working.
    async fn copy_to(&self, to: &std::path::Path) -> Result<(), EngineError>;
}

/// Writes that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// What must hold for the batch to apply.
    pub preconditions: Vec<Precondition>,
    /// The writes, in order; the last one to a key wins.
    pub writes: Vec<Write>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(Space, Vec<u8>, Vec<u8>),
    /// Removes a key; no error if it is not there.
    Delete(Space, Vec<u8>),
}

/// What must hold just before a batch is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The key is not there.
    Absent(Space, Vec<u8>),
    /// The key is there.
    Present(Space, Vec<u8>),
}

/// A batch that was left out, because its precondition number `precondition` did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Index into [`Batch::preconditions`].
    pub precondition: usize,
}

/// What an engine knows about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Rows, where the engine knows the number without counting.
    pub rows: Option<u64>,
    /// Bytes that can still be written before the engine has to enlarge something by itself (LMDB: its
    /// map), where it has such a thing. The disk may be full earlier.
    pub room_bytes: Option<u64>,
}

/// Why an engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No space left; nothing was written. Trying again after making room is safe.
    #[error("the disk of the store is full; make room, then try again")]
    Full,
    /// The stored data is not what the engine wrote.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// A key is longer than [`KEY_BYTES_MAX`] or a value longer than [`VALUE_BYTES_MAX`]; the number
    /// is its length in bytes. Nothing was written.
    #[error("a key or value of {0} bytes is longer than the engine takes")]
    KeyTooLong(usize),
    /// The engine or the disk failed; what was being written is in doubt.
    #[error("the store failed: {0}")]
    Failed(String),
}
