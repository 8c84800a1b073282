//! sled 0.34.7, the optional engine, under a discipline that makes it keep what it acknowledged.
//!
//! Each rule has a measured reason; left to itself sled loses data in a power cut:
//!
//! * Its `flush` does not sync on Linux: after it we sync the log file through a handle of our own.
//! * Pages above a quarter of a segment go to files in `blobs/` that are never synced: segments have
//!   8 MiB, values are cut into chunks of 16 KiB, and a file in `blobs/` is a fault.
//! * A batch is atomic within one tree only: there is one tree.
//! * Its flusher thread is the only one that collects garbage: it stays on, and nothing relies on it.
//! * Damaged pages make it panic: every call into it is caught, and a panic is reported as damage.
//! * It takes a snapshot of its own state that a crash left half written for a damaged store: those are
//!   removed before it looks. Its log holds everything that is in them.
//! * It has no snapshots for readers, and a damaged tail of its log is cut off silently: the ledger bounds its reads
//!   by a position it published, and keeps the newest one in a file of its own.
//! * It cannot give space back: `store export` and `store import` shrink it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes};
use sled::{Db, IVec, Mode};

use crate::blocking::{blocking, pause};
use crate::folder::{self, FolderLock};
use crate::layout::{check_lengths, join_key, stored_bounds};
use crate::open::{Kind, Options, copy_into, failed};
use crate::sled_rows::{
    CHUNK, CHUNK_BYTES, CHUNKED, CHUNKED_BYTES, ROW, Stored, WHOLE, as_row, chunk_key, chunks,
    damaged, parse, row_key,
};
use crate::{
    Batch, Conflict, Direction, Engine, EngineError, JoinedPage, KEY_BYTES_MAX, KeyRange, Page,
    Precondition, Read, Row, Space, Stats, Write,
};

/// sled's name for its log.
pub(crate) const LOG_FILE: &str = "db";

/// Fixed when a store is made. A page above a quarter of this would go to a file that is never synced.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// sled's thread that collects garbage and syncs in the background.
const FLUSH_EVERY_MS: u64 = 500;
/// A commit that would leave less than this is refused: sled cannot undo what it began to write, so it
/// must not run into the end of the disk.
const ROOM_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// What sled may write for one byte of ours, with its page fragments and segments.
const ROOM_FACTOR: u64 = 4;
/// How many reads may be on their way at once: more threads would only wait for sled's one lock.
const READS_MAX: usize = 32;
/// How often a read starts again because the value was replaced under it; each time a whole commit fit
/// in between.
const REREADS_MAX: u32 = 100;
/// A closed sled holds its file for a moment longer, in its threads: 5 s is far more than that moment.
const OPEN_TRIES_MAX: u32 = 250;
const OPEN_PAUSE: Duration = Duration::from_millis(20);
/// How many bytes of values a copy writes at once.
const COPY_BYTES: usize = 4 * 1024 * 1024;

/// The engine.
#[derive(Debug)]
pub(crate) struct Sled {
    shared: Arc<Shared>,
    /// One commit at a time, and no commit while a copy is made.
    turn: Arc<tokio::sync::Mutex<()>>,
    reads: Arc<tokio::sync::Semaphore>,
}

#[derive(Debug)]
struct Shared {
    db: Db,
    folder: PathBuf,
    /// Our own handle on sled's log, for the sync that sled leaves out.
    log: File,
    /// The number of the next value that is cut into chunks.
    next_value: AtomicU64,
    /// A commit that would leave less on the disk is refused.
    room_bytes_min: u64,
    /// Set when a commit failed in doubt: nothing may be acknowledged after it.
    failed: AtomicBool,
    _lock: Option<FolderLock>,
}

impl Sled {
    /// Opens the files in `folder`, or makes them. The folder must be this process's alone.
    pub(crate) fn open(
        folder: &Path,
        options: &Options,
        lock: Option<FolderLock>,
    ) -> Result<Self, EngineError> {
        remove_half_snapshots(folder).map_err(failed)?;
        caught(|| {
            let db = open_db(folder, options.sled_cache_bytes)?;
            let log = OpenOptions::new().read(true).write(true).open(folder.join(LOG_FILE));
            let log = log.map_err(failed)?;
            db.flush().map_err(fault)?;
            folder::sync_tree(folder).map_err(failed)?;
            let next_value = AtomicU64::new(next_value(&db)?);
            let failed = AtomicBool::new(false);
            let folder = folder.to_owned();
            let room_bytes_min = ROOM_BYTES_MIN;
            let shared =
                Shared { db, folder, log, next_value, room_bytes_min, failed, _lock: lock };
            shared.check_blobs()?;
            if options.verify_bytes_max == u64::MAX {
                shared.rows().try_for_each(|row| row.map(drop))?;
            }
            let reads = Arc::new(tokio::sync::Semaphore::new(READS_MAX));
            Ok(Self { shared: Arc::new(shared), turn: Arc::default(), reads })
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        // sled's readers wait for its writer, 40 ms at times: not on the runtime's threads.
        let permit = Arc::clone(&self.reads).acquire_owned().await;
        let permit = permit.map_err(|error| EngineError::Failed(error.to_string()))?;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let _permit = permit;
            caught(|| read(&shared))
        })
        .await
    }
}

fn open_db(folder: &Path, cache_bytes: u64) -> Result<Db, EngineError> {
    let config = sled::Config::new()
        .path(folder)
        .mode(Mode::LowSpace)
        .flush_every_ms(Some(FLUSH_EVERY_MS))
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(cache_bytes)
        .use_compression(false);
    let mut tries = 0;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if tries < OPEN_TRIES_MAX && is_held(&error) => {
                tries += 1;
                pause(OPEN_PAUSE);
            }
            opened => return opened.map_err(fault),
        }
    }
}

/// Removes the file that sled was writing when it crashed while opening.
fn remove_half_snapshots(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Whether sled's own lock is still held, which can only be by a handle of ours that is closing.
fn is_held(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("acquire lock")
}

/// The number after the newest value in chunks.
fn next_value(db: &Db) -> Result<u64, EngineError> {
    match db.scan_prefix([CHUNK]).next_back() {
        Some(Ok((key, _))) => {
            let number = key.get(1..).and_then(|rest| rest.first_chunk().copied());
            let number = number.ok_or_else(|| damaged("a chunk has no number"))?;
            Ok(u64::from_be_bytes(number).saturating_add(1))
        }
        Some(Err(error)) => Err(fault(error)),
        None => Ok(0),
    }
}

impl Shared {
    fn commit(&self, batches: Vec<Batch>) -> Result<Vec<Result<(), Conflict>>, EngineError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(EngineError::Failed("an earlier commit failed".to_owned()));
        }
        let bytes: usize = batches.iter().flat_map(|batch| &batch.writes).map(write_bytes).sum();
        let needed = (bytes as u64).saturating_mul(ROOM_FACTOR).saturating_add(self.room_bytes_min);
        if folder::room_bytes(&self.folder).map_err(failed)? < needed {
            return Err(EngineError::Full);
        }
        let answers = caught(|| self.apply(batches));
        // sled has begun to write: whatever it was, the end of it is unknown.
        answers.map_err(|error| {
            self.failed.store(true, Ordering::Release);
            match error {
                EngineError::Full => EngineError::Failed("the disk is full".to_owned()),
                error => error,
            }
        })
    }

    fn apply(&self, batches: Vec<Batch>) -> Result<Vec<Result<(), Conflict>>, EngineError> {
        let mut answers = Vec::with_capacity(batches.len());
        let mut changed = false;
        for batch in batches {
            if let Some(precondition) = self.broken(&batch.preconditions)? {
                answers.push(Err(Conflict { precondition }));
                continue;
            }
            changed |= !batch.writes.is_empty();
            self.db.apply_batch(self.sled_batch(batch.writes)?).map_err(fault)?;
            answers.push(Ok(()));
        }
        if changed {
            self.db.flush().map_err(fault)?;
            self.log.sync_data().map_err(failed)?;
            self.check_blobs()?;
        }
        Ok(answers)
    }

    /// The number of the first precondition that does not hold.
    fn broken(&self, preconditions: &[Precondition]) -> Result<Option<usize>, EngineError> {
        for (number, precondition) in preconditions.iter().enumerate() {
            let (space, key, wanted) = match precondition {
                Precondition::Absent(space, key) => (*space, key, false),
                Precondition::Present(space, key) => (*space, key, true),
            };
            if self.db.contains_key(row_key(space, key)).map_err(fault)? != wanted {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// The writes as sled takes them: long values in chunks, and the chunks of replaced values gone.
    fn sled_batch(&self, writes: Vec<Write>) -> Result<sled::Batch, EngineError> {
        let mut last = BTreeMap::new();
        for write in writes {
            match write {
                Write::Put(space, key, value) => last.insert(row_key(space, &key), Some(value)),
                Write::Delete(space, key) => last.insert(row_key(space, &key), None),
            };
        }
        let mut batch = sled::Batch::default();
        for (key, value) in last {
            if let Some(Stored::Chunked { number, bytes }) = self.stored(&key)? {
                for place in 0..chunks(bytes) {
                    batch.remove(&chunk_key(number, place));
                }
            }
            match value {
                Some(value) if value.len() > CHUNK_BYTES => {
                    let row = self.insert_chunks(&mut batch, &value);
                    batch.insert(key, row);
                }
                Some(value) => batch.insert(key, [&[WHOLE], value.as_slice()].concat()),
                None => batch.remove(key),
            }
        }
        Ok(batch)
    }

    /// Adds the chunks of a value and returns what its row holds.
    fn insert_chunks(&self, batch: &mut sled::Batch, value: &[u8]) -> Vec<u8> {
        let number = self.next_value.fetch_add(1, Ordering::Relaxed);
        for (place, chunk) in (0..).zip(value.chunks(CHUNK_BYTES)) {
            batch.insert(&chunk_key(number, place), chunk);
        }
        let mut row = Vec::with_capacity(CHUNKED_BYTES);
        row.put_u8(CHUNKED);
        row.put_u64(number);
        // At most VALUE_BYTES_MAX, as every commit was checked.
        row.put_u32(value.len() as u32);
        row
    }

    /// A file in `blobs/` holds a page that no sync of ours reaches.
    fn check_blobs(&self) -> Result<(), EngineError> {
        match fs::read_dir(self.folder.join("blobs")) {
            Ok(mut blobs) => match blobs.next() {
                Some(_) => Err(damaged("sled moved a page to blobs/, where it is never synced")),
                None => Ok(()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// What the row `key` holds.
    fn stored(&self, key: &[u8]) -> Result<Option<Stored>, EngineError> {
        self.db.get(key).map_err(fault)?.map(parse).transpose()
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let key = row_key(space, key);
        match self.stored(&key)? {
            Some(stored) => self.value(&key, stored),
            None => Ok(None),
        }
    }

    /// The value of a row, which a commit may replace or remove while its chunks are read.
    fn value(&self, key: &[u8], mut stored: Stored) -> Result<Option<Bytes>, EngineError> {
        for _ in 0..REREADS_MAX {
            let (number, bytes) = match stored {
                Stored::Whole(value) => return Ok(Some(value)),
                Stored::Chunked { number, bytes } => (number, bytes),
            };
            if let Some(value) = self.join_chunks(number, bytes)? {
                return Ok(Some(value));
            }
            match self.stored(key)? {
                None => return Ok(None),
                Some(Stored::Chunked { number: again, .. }) if again == number => {
                    return Err(damaged("a part of a value is missing"));
                }
                Some(newer) => stored = newer,
            }
        }
        Err(EngineError::Failed("a value changed faster than it could be read".to_owned()))
    }

    /// The chunks of one value; `None` if one of them is not there.
    fn join_chunks(&self, number: u64, bytes: usize) -> Result<Option<Bytes>, EngineError> {
        let mut value = Vec::with_capacity(bytes);
        for place in 0..chunks(bytes) {
            match self.db.get(chunk_key(number, place)).map_err(fault)? {
                Some(chunk) => value.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
        match value.len() == bytes {
            true => Ok(Some(Bytes::from(value))),
            false => Err(damaged("the parts of a value have another length than the whole")),
        }
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, EngineError> {
        let Some((from, to)) = stored_bounds(space, range) else { return Ok(Page::default()) };
        let end = Bound::Excluded(vec![ROW + 1]);
        let bounds = (from.map(as_row), if to == Bound::Unbounded { end } else { to.map(as_row) });
        let mut found = self.db.range::<Vec<u8>, _>(bounds);
        let mut next = || match direction {
            Direction::Forward => found.next(),
            Direction::Backward => found.next_back(),
        };
        let mut page = Page::default();
        while let Some(row) = next() {
            if page.rows.len() == limit {
                page.more = true;
                break;
            }
            let (stored_key, stored) = row.map_err(fault)?;
            page.rows.extend(self.row(&stored_key, stored)?);
        }
        Ok(page)
    }

    /// One row as a scan met it; `None` if it was removed since.
    fn row(&self, stored_key: &[u8], stored: IVec) -> Result<Option<Row>, EngineError> {
        let key = match stored_key.get(2..) {
            Some(key) if key.len() <= KEY_BYTES_MAX => Bytes::copy_from_slice(key),
            _ => return Err(damaged("a key has an impossible length")),
        };
        Ok(self.value(stored_key, parse(stored)?)?.map(|value| (key, value)))
    }

    /// Every row of every space.
    fn rows(&self) -> impl Iterator<Item = Result<(Space, Row), EngineError>> {
        self.db.scan_prefix([ROW]).filter_map(|row| {
            let read = row.map_err(fault).and_then(|(stored_key, stored)| {
                let space = Space(*stored_key.get(1).ok_or_else(|| damaged("a key has no space"))?);
                Ok(self.row(&stored_key, stored)?.map(|row| (space, row)))
            });
            read.transpose()
        })
    }

    /// Writes every row to another engine.
    fn copy(&self, to: &Self) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        for row in self.rows() {
            let (space, (key, value)) = row?;
            bytes += key.len() + value.len();
            batch.writes.push(Write::Put(space, key.to_vec(), value.to_vec()));
            if bytes >= COPY_BYTES {
                to.commit(vec![std::mem::take(&mut batch)])?;
                bytes = 0;
            }
        }
        to.commit(vec![batch]).map(drop)
    }
}

fn write_bytes(write: &Write) -> usize {
    match write {
        Write::Put(_, key, value) => key.len() + value.len(),
        Write::Delete(_, key) => key.len(),
    }
}

/// Calls into sled; a panic is an answer too.
fn caught<T>(call: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    // Nothing of ours is left half changed by a panic: a commit that panicked is the last one.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(answer) => answer,
        Err(panic) => Err(EngineError::Damaged(format!("sled gave up: {}", message(&*panic)))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

fn fault(error: sled::Error) -> EngineError {
    match error {
        sled::Error::Io(error) => failed(error),
        other => EngineError::Damaged(other.to_string()),
    }
}

#[async_trait]
impl Read for Sled {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let key = key.to_vec();
        self.read(move |shared| shared.get(space, &key)).await
    }

    async fn get_many(&self, keys: &[(Space, Vec<u8>)]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let keys = keys.to_vec();
        let get_all = move |shared: &Shared| {
            keys.iter().map(|(space, key)| shared.get(*space, key)).collect()
        };
        self.read(get_all).await
    }

    async fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, EngineError> {
        let range = range.clone();
        self.read(move |shared| shared.scan(space, &range, direction, limit)).await
    }

    async fn scan_join(
        &self,
        index: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
        target: Space,
        suffix_bytes: usize,
    ) -> Result<JoinedPage, EngineError> {
        let range = range.clone();
        self.read(move |shared| {
            let found = shared.scan(index, &range, direction, limit)?;
            let join = |row: Row| {
                let value = match join_key(&row.0, suffix_bytes) {
                    Some(key) => shared.get(target, key)?,
                    None => None,
                };
                Ok((row, value))
            };
            let rows = found.rows.into_iter().map(join).collect::<Result<_, EngineError>>()?;
            Ok(JoinedPage { rows, more: found.more })
        })
        .await
    }
}

#[async_trait]
impl Engine for Sled {
    async fn snapshot(&self) -> Result<Box<dyn Read>, EngineError> {
        let Self { shared, turn, reads } = self;
        let (shared, turn, reads) = (Arc::clone(shared), Arc::clone(turn), Arc::clone(reads));
        Ok(Box::new(Self { shared, turn, reads }))
    }

    fn isolates(&self) -> bool {
        false
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<Result<(), Conflict>>, EngineError> {
        check_lengths(&batches)?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let answers = shared.commit(batches);
            drop(turn);
            answers
        })
        .await
    }

    async fn stats(&self) -> Result<Stats, EngineError> {
        self.read(|shared| {
            shared.check_blobs()?;
            let disk_bytes = folder::disk_bytes(&shared.folder).map_err(failed)?;
            Ok(Stats { disk_bytes, rows: None, room_bytes: None })
        })
        .await
    }

    /// Row by row; commits wait until it is done, because there is no other way to one moment.
    async fn copy_to(&self, to: &Path) -> Result<(), EngineError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        let to = to.to_owned();
        blocking(move || {
            let _turn = turn;
            copy_into(&to, Kind::Sled, |new| {
                let copy = Self::open(new, &Options::default(), None)?;
                caught(|| shared.copy(&copy.shared))
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(folder: &Path) -> Sled {
        Sled::open(folder, &Options::default(), None).unwrap()
    }

    fn put(key: &[u8], bytes: usize) -> Vec<Batch> {
        let write = Write::Put(Space(1), key.to_vec(), vec![7; bytes]);
        vec![Batch { preconditions: vec![], writes: vec![write] }]
    }

    fn rows_starting_with(engine: &Sled, first: u8) -> usize {
        engine.shared.db.scan_prefix([first]).count()
    }

    #[tokio::test]
    async fn a_commit_that_would_fill_the_disk_is_refused_before_it_begins() {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = opened(folder.path());
        engine.commit(put(b"a", 10)).await.unwrap();
        Arc::get_mut(&mut engine.shared).unwrap().room_bytes_min = u64::MAX;
        assert!(matches!(engine.commit(put(b"b", 10)).await, Err(EngineError::Full)));
        assert_eq!(engine.get(Space(1), b"b").await.unwrap(), None);
        Arc::get_mut(&mut engine.shared).unwrap().room_bytes_min = ROOM_BYTES_MIN;
        engine.commit(put(b"b", 10)).await.unwrap();
    }

    /// Chunks that nobody names would stay for ever: sled gives nothing back.
    #[tokio::test]
    async fn replaced_and_deleted_values_leave_no_chunks() {
        let folder = tempfile::tempdir().unwrap();
        let engine = opened(folder.path());
        engine.commit(put(b"a", 5 * CHUNK_BYTES + 1)).await.unwrap();
        assert_eq!(rows_starting_with(&engine, CHUNK), 6);
        engine.commit(put(b"a", 2 * CHUNK_BYTES)).await.unwrap();
        assert_eq!(rows_starting_with(&engine, CHUNK), 2);
        let twice = [put(b"a", 3 * CHUNK_BYTES), put(b"a", 2 * CHUNK_BYTES)].concat();
        let writes = twice.into_iter().flat_map(|batch| batch.writes).collect();
        engine.commit(vec![Batch { preconditions: vec![], writes }]).await.unwrap();
        assert_eq!(rows_starting_with(&engine, CHUNK), 2, "two writes to a key in one batch");
        let writes = vec![Write::Delete(Space(1), b"a".to_vec())];
        engine.commit(vec![Batch { preconditions: vec![], writes }]).await.unwrap();
        assert_eq!(rows_starting_with(&engine, CHUNK), 0);
        assert_eq!(rows_starting_with(&engine, ROW), 0);
    }

    /// Found by cutting the power: sled alone refuses such a store for ever.
    #[tokio::test]
    async fn a_snapshot_that_a_crash_left_half_written_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let engine = opened(folder.path());
        engine.commit(put(b"a", 10)).await.unwrap();
        drop(engine);
        let half = folder.path().join("snap.00000000000FFFFF.generating");
        fs::write(&half, b"half a snapshot").unwrap();
        let engine = opened(folder.path());
        assert!(engine.get(Space(1), b"a").await.unwrap().is_some());
        assert!(!half.exists());
    }

    #[tokio::test]
    async fn numbers_of_values_go_on_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let engine = opened(folder.path());
        engine.commit(put(b"a", CHUNK_BYTES + 1)).await.unwrap();
        engine.commit(put(b"b", CHUNK_BYTES + 1)).await.unwrap();
        drop(engine);
        let engine = opened(folder.path());
        engine.commit(put(b"c", CHUNK_BYTES + 1)).await.unwrap();
        assert_eq!(rows_starting_with(&engine, CHUNK), 6, "no value took another's chunks");
        assert_eq!(engine.get(Space(1), b"a").await.unwrap().unwrap().len(), CHUNK_BYTES + 1);
    }

    #[tokio::test]
    async fn a_page_in_blobs_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let engine = opened(folder.path());
        fs::create_dir_all(folder.path().join("blobs")).unwrap();
        fs::write(folder.path().join("blobs/1"), b"a page").unwrap();
        assert!(matches!(engine.stats().await, Err(EngineError::Damaged(_))));
        assert!(engine.commit(put(b"a", 1)).await.is_err(), "never acknowledged");
        assert!(engine.commit(put(b"a", 1)).await.is_err(), "nor anything after it");
        drop(engine);
        let refused = Sled::open(folder.path(), &Options::default(), None);
        assert!(matches!(refused, Err(EngineError::Damaged(_))));
    }
}
