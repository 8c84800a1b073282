//! The engine of tests and simulations: an ordered map with a disk that forgets what was not synced,
//! and knobs for everything a disk can do wrong.
//!
//! It is harsher than the real engines where they differ: a commit can be read before it is synced (as
//! on sled), and a commit that failed may or may not be there after the power returns (as on any disk).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::layout::{check_lengths, join_key, stored_bounds, stored_key};
use crate::{
    Batch, Conflict, Direction, Engine, EngineError, JoinedPage, KeyRange, Page, Precondition,
    Read, Row, Space, Stats, Write,
};

/// The one file of a copy ([`Engine::copy_to`], [`Memory::load`]).
const COPY_FILE: &str = "rows";

type Rows = BTreeMap<Bytes, Bytes>;

/// What a key held before a batch that is not synced yet.
type Undo = Vec<(Bytes, Option<Bytes>)>;

/// An engine in memory, for tests.
///
/// Keep an `Arc<Memory>` to turn its knobs while the ledger uses it as `Arc<dyn Engine>`.
#[derive(Debug, Default)]
pub struct Memory {
    machine: Mutex<Machine>,
    /// Commits enter one at a time, as on the other engines.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Machine {
    /// What readers see. Copied when a commit meets a living snapshot.
    cache: Arc<Rows>,
    /// How to get from the cache back to the disk: one entry per batch since the last sync.
    unsynced: Vec<Undo>,
    /// After so many more commits, this.
    fault: Option<(u64, EngineError)>,
    full: bool,
    sync_delay: Duration,
    health: Health,
    commits: u64,
}

/// What the machine still does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Health {
    #[default]
    Well,
    /// A commit failed: reads go on, commits do not.
    CommitFailed,
    /// Nothing goes on.
    PowerCut,
}

impl Health {
    fn writable(self) -> Result<(), EngineError> {
        match self {
            Self::Well => Ok(()),
            Self::CommitFailed => Err(EngineError::Failed("an earlier commit failed".to_owned())),
            Self::PowerCut => Err(EngineError::Failed("the power was cut".to_owned())),
        }
    }
}

impl Memory {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power: what was not synced is forgotten. Returns the engine as it is when the power is
    /// back; commits still under way on this one fail, and so does every later call, so that nothing
    /// that survived by accident can write to the new one.
    #[must_use = "the engine after the power cut is the one returned"]
    pub fn power_cut(&self) -> Self {
        self.power_cut_keeping(0)
    }

    /// Like [`Memory::power_cut`], but the first `batches` of the batches not yet synced reached the
    /// disk anyway: what was in doubt may be there, always in order and always whole.
    #[must_use = "the engine after the power cut is the one returned"]
    pub fn power_cut_keeping(&self, batches: usize) -> Self {
        let mut machine = self.machine();
        machine.health = Health::PowerCut;
        let kept = batches.min(machine.unsynced.len());
        let lost = machine.unsynced.split_off(kept);
        let mut disk = std::mem::take(&mut machine.cache);
        let rows = Arc::make_mut(&mut disk);
        for (key, before) in lost.into_iter().rev().flat_map(|undo| undo.into_iter().rev()) {
            match before {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Self::with_rows(disk)
    }

    /// The next commit fails with `error`. With [`EngineError::Failed`] or [`EngineError::Damaged`] its
    /// batches are written but not synced, and no later commit is taken until the power was cut.
    pub fn fail_next_commit(&self, error: EngineError) {
        self.fail_commit_after(0, error);
    }

    /// The same for the commit after so many more.
    pub fn fail_commit_after(&self, commits: u64, error: EngineError) {
        self.machine().fault = Some((commits, error));
    }

    /// The disk is full from now on: every commit fails with [`EngineError::Full`].
    pub fn full(&self) {
        self.machine().full = true;
    }

    /// Ends what [`Memory::full`] began.
    pub fn make_room(&self) {
        self.machine().full = false;
    }

    /// From now on `delay` passes between the write and the sync of every commit, in tokio's time.
    pub fn delay_commits(&self, delay: Duration) {
        self.machine().sync_delay = delay;
    }

    /// How many commits were acknowledged.
    pub fn commits(&self) -> u64 {
        self.machine().commits
    }

    /// Opens what [`Engine::copy_to`] wrote.
    ///
    /// # Errors
    ///
    /// * [`EngineError::Failed`]: the folder cannot be read.
    /// * [`EngineError::Damaged`]: it does not hold a whole copy.
    pub fn load(folder: &Path) -> Result<Self, EngineError> {
        let copied = std::fs::read(folder.join(COPY_FILE)).map_err(failed)?;
        let rows = parse(Bytes::from(copied))
            .ok_or_else(|| EngineError::Damaged("the copy ends inside a row".to_owned()))?;
        Ok(Self::with_rows(Arc::new(rows)))
    }

    fn with_rows(rows: Arc<Rows>) -> Self {
        Self {
            machine: Mutex::new(Machine { cache: rows, ..Machine::default() }),
            ..Self::default()
        }
    }

    /// The machine. A test that panicked while holding it has already failed.
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> Result<View, EngineError> {
        let machine = self.machine();
        if machine.health == Health::PowerCut {
            machine.health.writable()?;
        }
        Ok(View(Arc::clone(&machine.cache)))
    }
}

impl Machine {
    /// Writes the batches to the cache, or says why not.
    fn write(&mut self, batches: Vec<Batch>) -> Result<Vec<Result<(), Conflict>>, EngineError> {
        self.health.writable()?;
        if self.full {
            return Err(EngineError::Full);
        }
        match self.fault.take() {
            None => Ok(self.apply(batches)),
            Some((commits @ 1.., error)) => {
                self.fault = Some((commits - 1, error));
                Ok(self.apply(batches))
            }
            Some((0, error @ (EngineError::Full | EngineError::KeyTooLong(_)))) => Err(error),
            Some((0, error)) => {
                self.apply(batches);
                self.health = Health::CommitFailed;
                Err(error)
            }
        }
    }

    fn apply(&mut self, batches: Vec<Batch>) -> Vec<Result<(), Conflict>> {
        let rows = Arc::make_mut(&mut self.cache);
        let mut answers = Vec::with_capacity(batches.len());
        for batch in batches {
            if let Some(precondition) = broken(rows, &batch.preconditions) {
                answers.push(Err(Conflict { precondition }));
                continue;
            }
            self.unsynced
                .push(batch.writes.into_iter().map(|write| write_row(rows, write)).collect());
            answers.push(Ok(()));
        }
        answers
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.health.writable()?;
        self.unsynced.clear();
        self.commits += 1;
        Ok(())
    }
}

/// The number of the first precondition that does not hold.
fn broken(rows: &Rows, preconditions: &[Precondition]) -> Option<usize> {
    preconditions.iter().position(|precondition| match precondition {
        Precondition::Absent(space, key) => rows.contains_key(stored_key(*space, key).as_slice()),
        Precondition::Present(space, key) => !rows.contains_key(stored_key(*space, key).as_slice()),
    })
}

/// Writes one row and returns what was there.
fn write_row(rows: &mut Rows, write: Write) -> (Bytes, Option<Bytes>) {
    match write {
        Write::Put(space, key, value) => {
            let key = Bytes::from(stored_key(space, &key));
            let before = rows.insert(key.clone(), Bytes::from(value));
            (key, before)
        }
        Write::Delete(space, key) => {
            let key = Bytes::from(stored_key(space, &key));
            let before = rows.remove(&key);
            (key, before)
        }
    }
}

/// The rows at one moment.
struct View(Arc<Rows>);

impl View {
    fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.0.get(stored_key(space, key).as_slice()).cloned()
    }

    fn scan(&self, space: Space, range: &KeyRange, direction: Direction, limit: usize) -> Page {
        let Some((from, to)) = stored_bounds(space, range) else { return Page::default() };
        let bounds = (as_slice(&from), as_slice(&to));
        let mut found = self.0.range::<[u8], _>(bounds);
        let mut next = || match direction {
            Direction::Forward => found.next(),
            Direction::Backward => found.next_back(),
        };
        let mut page = Page::default();
        while let Some((key, value)) = next() {
            if page.rows.len() == limit {
                page.more = true;
                break;
            }
            page.rows.push((key.slice(1..), value.clone()));
        }
        page
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

#[async_trait]
impl Read for View {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.get(space, key))
    }

    async fn get_many(&self, keys: &[(Space, Vec<u8>)]) -> Result<Vec<Option<Bytes>>, EngineError> {
        Ok(keys.iter().map(|(space, key)| self.get(*space, key)).collect())
    }

    async fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, EngineError> {
        Ok(self.scan(space, range, direction, limit))
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
        let page = self.scan(index, range, direction, limit);
        let join = |row: Row| {
            let value = join_key(&row.0, suffix_bytes).and_then(|key| self.get(target, key));
            (row, value)
        };
        Ok(JoinedPage { rows: page.rows.into_iter().map(join).collect(), more: page.more })
    }
}

#[async_trait]
impl Read for Memory {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.view()?.get(space, key))
    }

    async fn get_many(&self, keys: &[(Space, Vec<u8>)]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.view()?.get_many(keys).await
    }

    async fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, EngineError> {
        Ok(self.view()?.scan(space, range, direction, limit))
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
        self.view()?.scan_join(index, range, direction, limit, target, suffix_bytes).await
    }
}

#[async_trait]
impl Engine for Memory {
    async fn snapshot(&self) -> Result<Box<dyn Read>, EngineError> {
        Ok(Box::new(self.view()?))
    }

    fn isolates(&self) -> bool {
        true
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<Result<(), Conflict>>, EngineError> {
        check_lengths(&batches)?;
        let _turn = self.turn.lock().await;
        let (answers, delay) = {
            let mut machine = self.machine();
            (machine.write(batches)?, machine.sync_delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.machine().sync()?;
        Ok(answers)
    }

    async fn stats(&self) -> Result<Stats, EngineError> {
        let View(rows) = self.view()?;
        let bytes = rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        Ok(Stats { disk_bytes: bytes, rows: Some(rows.len() as u64), room_bytes: None })
    }

    async fn copy_to(&self, to: &Path) -> Result<(), EngineError> {
        let View(rows) = self.view()?;
        let mut copy = Vec::new();
        for bytes in rows.iter().flat_map(|(key, value)| [key, value]) {
            copy.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            copy.extend_from_slice(bytes);
        }
        std::fs::write(to.join(COPY_FILE), copy).map_err(failed)
    }
}

/// Reads the rows of a copy; `None` if it ends inside one.
fn parse(mut copied: Bytes) -> Option<Rows> {
    let mut rows = Rows::new();
    while !copied.is_empty() {
        let key = take(&mut copied)?;
        rows.insert(key, take(&mut copied)?);
    }
    Some(rows)
}

fn take(copied: &mut Bytes) -> Option<Bytes> {
    let head = (copied.len() >= 8).then(|| copied.split_to(8))?;
    let bytes = usize::try_from(u64::from_be_bytes(head.as_ref().try_into().ok()?)).ok()?;
    (copied.len() >= bytes).then(|| copied.split_to(bytes))
}

fn failed(error: std::io::Error) -> EngineError {
    EngineError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Space = Space(1);

    fn put(key: &[u8]) -> Batch {
        Batch { preconditions: vec![], writes: vec![Write::Put(S, key.to_vec(), b"v".to_vec())] }
    }

    async fn has(engine: &Memory, key: &[u8]) -> bool {
        engine.get(S, key).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn a_power_cut_keeps_exactly_what_was_acknowledged() {
        let engine = Memory::new();
        engine.commit(vec![put(b"a")]).await.unwrap();
        engine.fail_next_commit(EngineError::Failed("disk gone".to_owned()));
        assert!(engine.commit(vec![put(b"b"), put(b"c")]).await.is_err());
        assert!(has(&engine, b"b").await, "what is in doubt can be seen before the power cut");
        assert!(engine.commit(vec![put(b"d")]).await.is_err(), "no commit after a failed one");

        let after = engine.power_cut();
        assert!(has(&after, b"a").await, "acknowledged");
        assert!(!has(&after, b"b").await && !has(&after, b"c").await, "never synced");
        assert!(engine.get(S, b"a").await.is_err(), "the old machine is off");
        after.commit(vec![put(b"d")]).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_in_doubt_may_survive_in_order() {
        let engine = Memory::new();
        engine.fail_next_commit(EngineError::Failed("disk gone".to_owned()));
        assert!(engine.commit(vec![put(b"b"), put(b"c")]).await.is_err());
        let after = engine.power_cut_keeping(1);
        assert!(has(&after, b"b").await);
        assert!(!has(&after, b"c").await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_under_way_when_the_power_goes_is_never_acknowledged() {
        let engine = Arc::new(Memory::new());
        engine.delay_commits(Duration::from_millis(20));
        let (answer, after) = tokio::join!(engine.commit(vec![put(b"a")]), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            engine.power_cut()
        });
        assert!(answer.is_err(), "the sync never happened");
        assert!(!has(&after, b"a").await);
    }

    #[tokio::test]
    async fn a_full_disk_writes_nothing_and_recovers() {
        let engine = Memory::new();
        engine.full();
        assert!(matches!(engine.commit(vec![put(b"a")]).await, Err(EngineError::Full)));
        assert!(!has(&engine, b"a").await);
        engine.make_room();
        engine.commit(vec![put(b"a")]).await.unwrap();
        assert_eq!(engine.commits(), 1);
    }

    #[test]
    fn half_a_copy_is_refused() {
        let folder = std::env::temp_dir().join(format!("engine-memory-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(COPY_FILE), [0, 0, 0, 0, 0, 0, 0, 9]).unwrap();
        assert!(matches!(Memory::load(&folder), Err(EngineError::Damaged(_))));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
