//! LMDB, the default engine.
//!
//! One map file, one tree, one writer. A commit is one write transaction: LMDB writes new pages beside
//! the old ones, syncs them, then writes and syncs one small head; a crash shows the old head or the
//! new one, nothing between, and opening after it takes no repair. Readers see the head that was newest
//! when they began and never wait for the writer.
//!
//! LMDB keeps no checksums. What can kill the process is refused before the file is mapped
//! (`lmdb_file.rs`); a value that is not what was written is the ledger's seal to notice.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use heed::types::Bytes as Raw;
use heed::{
    CompactionOption, Database, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, RoTxn,
    WithoutTls,
};

use crate::blocking::{blocking, pause};
use crate::folder::{self, FolderLock, Runs};
use crate::layout::{check_lengths, stored_key};
use crate::lmdb_check;
use crate::lmdb_file::{DATA_FILE, DataFile};
use crate::lmdb_view::{Snapshot, View, reading};
use crate::open::{Kind, Options, copy_into, failed};
use crate::{
    Batch, Conflict, Direction, Engine, EngineError, JoinedPage, KeyRange, Page, Precondition,
    Read, Space, Stats, Write,
};
use crate::{heap_trim, lmdb_trim};

/// How many reads and snapshots may exist at one moment: far more than the runtime has threads, because
/// a snapshot may wait for its task to be polled. Each costs 64 bytes in the lock file.
const READERS_MAX: u32 = 1024;

/// Map sizes are multiples of the largest page any Linux has.
const MAP_BYTES_STEP: u64 = 64 * 1024;

/// The store keeps at least this many times the bytes in use as map.
const MAP_GROWTH: u64 = 4;

/// Address space that a process can surely have (47 bits, half of them for others).
const MAP_BYTES_MAX: u64 = 1 << 46;

/// How long a commit waits for the last snapshot before a full map can be replaced: 10 s, far longer
/// than a snapshot may live.
const GROW_TRIES_MAX: u32 = 1000;
const GROW_PAUSE: Duration = Duration::from_millis(10);

/// Counts the runs that did not end by closing the store.
const RUNS_FILE: &str = "running";

/// So many of them in a row, and the structure is read before LMDB trusts it: a damaged page can end
/// the process each time it is met, and nobody should have to find that out by hand.
const UNFINISHED_RUNS_MAX: u32 = 2;

/// `EIO` of every Linux.
const EIO: i32 = 5;

pub(crate) type Rows = Database<Raw, Raw>;

/// The engine.
#[derive(Debug)]
pub(crate) struct Lmdb {
    shared: Arc<Shared>,
    /// One commit at a time; the commit takes its turn along, so that a caller who leaves does not let
    /// the next one in early.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// One copy at a time: each pins the pages of the moment it began.
    copying: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    /// `None` only if a larger map could not be had after the smaller one was given back.
    map: RwLock<Option<Arc<Map>>>,
    /// Set when a commit failed in doubt: nothing may be acknowledged after it.
    failed: AtomicBool,
    /// Pages of files that this process had when memory was last given back, in bytes.
    mapped_at_rest: AtomicU64,
    /// The same of memory of its own.
    heap_at_rest: AtomicU64,
    _runs: Runs,
    _lock: Option<FolderLock>,
}

/// An open file.
pub(crate) struct Map {
    pub(crate) env: Env<WithoutTls>,
    pub(crate) rows: Rows,
    map_bytes: u64,
    data: DataFile,
    /// How long the file is; only the writer changes it.
    file_bytes: Mutex<u64>,
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("map_bytes", &self.map_bytes).finish_non_exhaustive()
    }
}

impl Lmdb {
    /// Opens the files in `folder`, or makes them. The folder must be this process's alone.
    pub(crate) fn open(
        folder: &Path,
        options: &Options,
        lock: Option<FolderLock>,
    ) -> Result<Self, EngineError> {
        let (runs, unfinished) = Runs::begin(folder.join(RUNS_FILE)).map_err(failed)?;
        let verify_bytes_max = match unfinished {
            0..UNFINISHED_RUNS_MAX => options.verify_bytes_max,
            _ => u64::MAX,
        };
        let map = match Map::open(folder, options.lmdb_map_bytes, verify_bytes_max) {
            Ok(map) => map,
            Err(error) => {
                runs.end_badly();
                return Err(error);
            }
        };
        if verify_bytes_max == u64::MAX {
            runs.start_again().map_err(failed)?;
        }
        let shared = Shared {
            folder: folder.to_owned(),
            _runs: runs,
            map: RwLock::new(Some(Arc::new(map))),
            failed: AtomicBool::new(false),
            mapped_at_rest: AtomicU64::new(0),
            heap_at_rest: AtomicU64::new(0),
            _lock: lock,
        };
        Ok(Self {
            shared: Arc::new(shared),
            turn: Arc::default(),
            copying: tokio::sync::Mutex::default(),
        })
    }
}

impl Map {
    fn open(folder: &Path, map_bytes: u64, verify_bytes_max: u64) -> Result<Self, EngineError> {
        let mut used_bytes = 0;
        if let Some(data) = DataFile::open(folder).map_err(failed)? {
            let head = data.check_heads()?;
            used_bytes = head.used_bytes();
            if used_bytes <= verify_bytes_max {
                lmdb_check::check(&data, &head)?;
            }
            data.keep_ahead(data.file_bytes()?, used_bytes, 0)?;
        }
        let map_bytes = map_bytes.max(used_bytes.saturating_mul(MAP_GROWTH)).min(MAP_BYTES_MAX);
        let map_bytes = map_bytes.next_multiple_of(MAP_BYTES_STEP);
        let env = open_env(folder, map_bytes).map_err(|error| opening(error, map_bytes))?;

        let mut txn = env.write_txn().map_err(reading)?;
        let rows = env.create_database(&mut txn, None).map_err(reading)?;
        txn.commit().map_err(reading)?;

        // LMDB has written the heads of a new file by now, but not synced them.
        let data = DataFile::open(folder).map_err(failed)?;
        let data = data.ok_or_else(|| EngineError::Failed(format!("{DATA_FILE} vanished")))?;
        let file_bytes = data.keep_ahead(data.file_bytes()?, used(&env), 0)?;
        data.sync()?;
        folder::sync(folder).map_err(failed)?;
        Ok(Self { env, rows, map_bytes, data, file_bytes: Mutex::new(file_bytes) })
    }

    /// Whether a quarter of the map or less is left, and a larger one can be had.
    fn nearly_full(&self) -> bool {
        let left = self.map_bytes.saturating_sub(used(&self.env));
        left < self.map_bytes / 4 && self.map_bytes < MAP_BYTES_MAX
    }

    /// Makes sure that the file reaches behind everything this commit may write.
    fn keep_ahead(&self, batches: &[Batch]) -> Result<(), EngineError> {
        let mut file_bytes = self.file_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *file_bytes = self.data.keep_ahead(*file_bytes, used(&self.env), incoming(batches))?;
        Ok(())
    }
}

/// Opens the environment: full sync on every commit, reads not bound to threads.
#[expect(unsafe_code, reason = "mapping a file is unsafe in every wrapper of LMDB; argued below")]
fn open_env(folder: &Path, map_bytes: u64) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    let map_bytes = usize::try_from(map_bytes).unwrap_or(usize::MAX);
    options.map_size(map_bytes).max_readers(READERS_MAX).max_dbs(0);
    // SAFETY: the mapped file must not change under our feet. The folder's lock keeps other processes
    // out, heed refuses to open it twice in this one, the heads and the length were checked, and the
    // file is only ever extended. NO_READ_AHEAD changes nothing but the kernel's guess about what is
    // read next: random keys would fill memory with neighbours that nobody asked for.
    unsafe {
        options.flags(EnvFlags::NO_READ_AHEAD);
        options.open(folder)
    }
}

/// Bytes from the start of the file to the end of the last page in use.
fn used(env: &Env<WithoutTls>) -> u64 {
    let page_bytes = u64::from(env.stat().page_size);
    (env.info().last_page_number as u64 + 1).saturating_mul(page_bytes)
}

/// No commit of these batches adds more than this to the file: each row may take a page for itself and
/// rewrite a path of pages, and each value is rounded up.
fn incoming(batches: &[Batch]) -> u64 {
    const ROW_BYTES: u64 = 64 * 1024;
    let writes = batches.iter().flat_map(|batch| &batch.writes);
    let bytes = writes.map(|write| match write {
        Write::Put(_, _, value) => ROW_BYTES + value.len() as u64,
        Write::Delete(..) => ROW_BYTES,
    });
    bytes.sum()
}

impl Shared {
    fn map(&self) -> Result<Arc<Map>, EngineError> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.clone()
            .ok_or_else(|| EngineError::Failed("its file could not be mapped again".to_owned()))
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&View<'_>) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let map = self.map()?;
        let txn = map.env.read_txn().map_err(reading)?;
        read(&View { rows: &map.rows, txn: &txn })
    }

    /// Commits in one transaction. Blocks on the disk.
    fn commit(&self, batches: &[Batch]) -> Result<Vec<Result<(), Conflict>>, EngineError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(EngineError::Failed("an earlier commit failed".to_owned()));
        }
        let committed = self.commit_growing(batches);
        if matches!(committed, Err(EngineError::Failed(_) | EngineError::Damaged(_))) {
            self.failed.store(true, Ordering::Release);
        }
        committed
    }

    fn commit_growing(&self, batches: &[Batch]) -> Result<Vec<Result<(), Conflict>>, EngineError> {
        loop {
            let mut map = self.map()?;
            if map.nearly_full() {
                let map_bytes = map.map_bytes.saturating_mul(MAP_GROWTH).min(MAP_BYTES_MAX);
                drop(map);
                // If a snapshot is in the way, there is still room, and the next commit tries again.
                self.try_grow(map_bytes)?;
                map = self.map()?;
            }
            map.keep_ahead(batches)?;
            match write(&map, batches) {
                Ok(answers) => return Ok(answers),
                Err(heed::Error::Mdb(MdbError::MapFull)) => self.grow(map)?,
                Err(error) => return Err(self.writing(&map, error, incoming(batches))),
            }
        }
    }

    /// Replaces a full map by a larger one, as soon as no snapshot looks through the old one. Waits
    /// without holding anything, so that snapshots can come to their end.
    fn grow(&self, full: Arc<Map>) -> Result<(), EngineError> {
        let map_bytes = full.map_bytes.saturating_mul(MAP_GROWTH).min(MAP_BYTES_MAX);
        if map_bytes <= full.map_bytes {
            return Err(EngineError::Full);
        }
        drop(full);
        for _ in 0..GROW_TRIES_MAX {
            if self.try_grow(map_bytes)? {
                return Ok(());
            }
            pause(GROW_PAUSE);
        }
        // Nothing was written, and the next commit tries again.
        Err(EngineError::Full)
    }

    fn try_grow(&self, map_bytes: u64) -> Result<bool, EngineError> {
        let mut held = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|map| Arc::strong_count(map) > 1) {
            return Ok(false);
        }
        // The same file cannot be mapped twice, so the old map goes first.
        drop(held.take());
        *held = Some(Arc::new(Map::open(&self.folder, map_bytes, 0)?));
        tracing::info!(map_bytes, "the store's map was enlarged");
        Ok(true)
    }

    /// What a failed commit means. LMDB writes new pages beside the old ones and the head last, so all
    /// but a failure to write the head leave the store as it was.
    fn writing(&self, map: &Map, error: heed::Error, incoming_bytes: u64) -> EngineError {
        let heed::Error::Io(io) = error else { return reading(error) };
        // Once the head is in doubt LMDB begins no further write.
        let untouched = map.env.write_txn().is_ok();
        // LMDB answers EIO when a full disk took only a part of its pages.
        let full = folder::is_full(&io)
            || (io.raw_os_error() == Some(EIO) && !folder::has_room(&self.folder, incoming_bytes));
        if untouched && full { EngineError::Full } else { EngineError::Failed(io.to_string()) }
    }
}

/// Writes all batches whose preconditions hold, in one transaction.
fn write(map: &Map, batches: &[Batch]) -> heed::Result<Vec<Result<(), Conflict>>> {
    let mut txn = map.env.write_txn()?;
    let mut answers = Vec::with_capacity(batches.len());
    let mut changed = false;
    let mut end = map.rows.last(&txn)?.map(|(key, _)| key.to_vec()).unwrap_or_default();
    for batch in batches {
        // The transaction sees the batches before this one.
        if let Some(precondition) = broken(&map.rows, &txn, &batch.preconditions)? {
            answers.push(Err(Conflict { precondition }));
            continue;
        }
        for write in &batch.writes {
            match write {
                Write::Put(space, key, value) => {
                    let key = stored_key(*space, key);
                    // A page that is full is split in the middle, but when LMDB is told that a key
                    // comes after all others it leaves the page full and begins a new one.
                    if key > end {
                        map.rows.put_with_flags(&mut txn, PutFlags::APPEND, &key, value)?;
                        end = key;
                    } else {
                        map.rows.put(&mut txn, &key, value)?;
                    }
                }
                Write::Delete(space, key) => {
                    map.rows.delete(&mut txn, &stored_key(*space, key))?;
                }
            }
        }
        changed |= !batch.writes.is_empty();
        answers.push(Ok(()));
    }
    if changed {
        txn.commit()?;
    }
    Ok(answers)
}

/// The number of the first precondition that does not hold.
fn broken(
    rows: &Rows,
    txn: &RoTxn<'_>,
    preconditions: &[Precondition],
) -> heed::Result<Option<usize>> {
    for (number, precondition) in preconditions.iter().enumerate() {
        let (space, key, wanted) = match precondition {
            Precondition::Absent(space, key) => (*space, key, false),
            Precondition::Present(space, key) => (*space, key, true),
        };
        if rows.get(txn, &stored_key(space, key))?.is_some() != wanted {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

fn opening(error: heed::Error, map_bytes: u64) -> EngineError {
    match &error {
        heed::Error::Io(io) if io.kind() == io::ErrorKind::OutOfMemory => {
            EngineError::Failed(format!(
                "this process may not have {map_bytes} bytes of address space (see `ulimit -v`); set \
                 store.lmdb_map_bytes to less"
            ))
        }
        _ => reading(error),
    }
}

#[async_trait]
impl Read for Lmdb {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.shared.read(|view| view.get(space, key))
    }

    async fn get_many(&self, keys: &[(Space, Vec<u8>)]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.shared.read(|view| view.get_many(keys))
    }

    async fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, EngineError> {
        self.shared.read(|view| view.scan(space, range, direction, limit))
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
        self.shared
            .read(|view| view.scan_join((index, range), direction, limit, (target, suffix_bytes)))
    }
}

#[async_trait]
impl Engine for Lmdb {
    async fn snapshot(&self) -> Result<Box<dyn Read>, EngineError> {
        Ok(Box::new(Snapshot::take(self.shared.map()?)?))
    }

    fn isolates(&self) -> bool {
        true
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<Result<(), Conflict>>, EngineError> {
        check_lengths(&batches)?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let answers = shared.commit(&batches);
            drop(turn);
            answers
        })
        .await
    }

    async fn trim(&self) -> Result<(), EngineError> {
        // Held until the end: a map that is in use is not replaced.
        let map = self.shared.map()?;
        let shared = Arc::clone(&self.shared);
        let resident = lmdb_trim::Resident::now().map_err(failed)?;
        let is_read = lmdb_trim::is_due(&resident, &shared.mapped_at_rest);
        let is_grown = heap_trim::is_due(&resident, &shared.heap_at_rest);
        if !is_read && !is_grown {
            return Ok(());
        }
        blocking(move || {
            if is_read {
                let file = shared.folder.join(DATA_FILE);
                lmdb_trim::trim(&file, &shared.mapped_at_rest).map_err(failed)?;
            }
            drop(map);
            if is_grown {
                heap_trim::trim(&shared.heap_at_rest).map_err(failed)?;
            }
            Ok(())
        })
        .await
    }

    async fn stats(&self) -> Result<Stats, EngineError> {
        let map = self.shared.map()?;
        let txn = map.env.read_txn().map_err(reading)?;
        let rows = map.rows.len(&txn).map_err(reading)?;
        let disk_bytes = folder::disk_bytes(&self.shared.folder).map_err(failed)?;
        Ok(Stats { disk_bytes, rows: Some(rows), room_bytes: Some(map.map_bytes - used(&map.env)) })
    }

    async fn copy_to(&self, to: &Path) -> Result<(), EngineError> {
        let _copying = self.copying.lock().await;
        let map = self.shared.map()?;
        let to = to.to_owned();
        blocking(move || {
            copy_into(&to, Kind::Lmdb, |new| {
                let copied = map.env.copy_to_path(new.join(DATA_FILE), CompactionOption::Enabled);
                copied.map(drop).map_err(reading)
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn small(folder: &Path) -> Lmdb {
        let options = Options { lmdb_map_bytes: MIB, ..Options::default() };
        Lmdb::open(folder, &options, None).unwrap()
    }

    fn batch(number: u8, bytes: usize) -> Vec<Batch> {
        let write = Write::Put(Space(1), vec![number], vec![number; bytes]);
        vec![Batch { preconditions: vec![], writes: vec![write] }]
    }

    async fn room(engine: &Lmdb) -> u64 {
        engine.stats().await.unwrap().room_bytes.unwrap()
    }

    #[tokio::test]
    async fn a_map_grows_before_it_is_full_and_when_one_commit_fills_it() {
        let folder = tempfile::tempdir().unwrap();
        let engine = small(folder.path());
        assert!(room(&engine).await < MIB);
        for number in 0..20 {
            engine.commit(batch(number, 300_000)).await.unwrap();
        }
        engine.commit(batch(20, 16 << 20)).await.unwrap();
        assert!(room(&engine).await > 16 * MIB);
        for number in 0..20 {
            let value = engine.get(Space(1), &[number]).await.unwrap().unwrap();
            assert!(value == vec![number; 300_000], "what was written before it grew");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_map_waits_for_a_snapshot_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let engine = small(folder.path());
        engine.commit(batch(0, 10)).await.unwrap();
        let snapshot = engine.snapshot().await.unwrap();
        let (answer, ()) = tokio::join!(engine.commit(batch(1, 4 << 20)), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(snapshot.get(Space(1), &[1]).await.unwrap(), None, "still isolated");
            drop(snapshot);
        });
        assert_eq!(answer.unwrap(), [Ok(())]);
        assert!(engine.get(Space(1), &[1]).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_store_opens_with_a_map_larger_than_itself_whatever_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Lmdb::open(folder.path(), &Options::default(), None).unwrap();
        engine.commit(batch(1, 8 << 20)).await.unwrap();
        drop(engine);
        let engine = small(folder.path());
        assert!(room(&engine).await > 16 * MIB);
    }

    /// The file reaches far behind what is in use, so that a damaged page cannot point behind its end.
    #[tokio::test]
    async fn the_file_stays_ahead_of_what_is_in_use_without_taking_room() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Lmdb::open(folder.path(), &Options::default(), None).unwrap();
        for number in 0..8 {
            engine.commit(batch(number, 16 << 20)).await.unwrap();
            let file = std::fs::metadata(folder.path().join(DATA_FILE)).unwrap().len();
            let used = used(&engine.shared.map().unwrap().env);
            assert!(file >= used + 32 * MIB, "{file} bytes for {used} in use");
        }
        let disk_bytes = engine.stats().await.unwrap().disk_bytes;
        assert!(disk_bytes < 150 * MIB, "a hole takes no room: {disk_bytes}");
    }

    #[tokio::test]
    async fn memory_that_was_only_read_is_given_back_and_reads_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Lmdb::open(folder.path(), &Options::default(), None).unwrap();
        for number in 0..8 {
            engine.commit(batch(number, 16 << 20)).await.unwrap();
        }
        for number in 0..8 {
            engine.get(Space(1), &[number]).await.unwrap().unwrap();
        }
        let file = folder.path().join(DATA_FILE);
        let before = lmdb_trim::resident_bytes(&file).unwrap();
        assert!(before > 100 * MIB, "{before} bytes were read through the map");
        let snapshot = engine.snapshot().await.unwrap();
        engine.trim().await.unwrap();
        let after = lmdb_trim::resident_bytes(&file).unwrap();
        assert!(after < MIB, "{after} bytes are left");
        for number in 0..8 {
            let value = snapshot.get(Space(1), &[number]).await.unwrap().unwrap();
            assert!(value == vec![number; 16 << 20]);
        }
        engine.commit(batch(9, 4 << 20)).await.unwrap();
        engine.trim().await.unwrap();
        engine.get(Space(1), &[9]).await.unwrap().unwrap();
        let few = lmdb_trim::resident_bytes(&file).unwrap();
        engine.trim().await.unwrap();
        let kept = lmdb_trim::resident_bytes(&file).unwrap();
        assert!(few > 3 * MIB && kept == few, "{few} bytes are not worth it; {kept} are left");
    }

    /// More snapshots than one ward opens in the same second.
    #[tokio::test]
    async fn many_snapshots_live_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Lmdb::open(folder.path(), &Options::default(), None).unwrap();
        let mut snapshots = Vec::new();
        for number in 0..200 {
            engine.commit(batch(number, 10)).await.unwrap();
            snapshots.push(engine.snapshot().await.unwrap());
        }
        for (number, snapshot) in (0..).zip(&snapshots) {
            assert!(snapshot.get(Space(1), &[number]).await.unwrap().is_some());
            assert!(snapshot.get(Space(1), &[number + 1]).await.unwrap().is_none());
        }
    }
}
