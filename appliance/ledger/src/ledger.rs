//! The ledger as its users see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use appliance_engine::{Engine, Read};
use appliance_model::{Error, Position};
use appliance_rules::{Denial, Permit};
use quick_cache::sync::Cache;
use tokio::sync::watch;

use crate::codec::{KeyPart, Row};
use crate::events::Event;
use crate::keyspaces::{Digest, Keyspace, STORE};
use crate::lane::{Commit, LaneDoor};
use crate::names::Names;
use crate::number::Numbers;
use crate::rows::{StateNode, StoreRow};
use crate::seal::Vault;
use crate::sealed_folder::SealedFolder;
use crate::time::Time;
use crate::view::{ReadFrom, View, damaged, store_error};

/// Events kept in memory: enough for the state of the busy rooms; about 1.5 KB each.
pub(crate) const EVENTS_CACHED_MAX: usize = 4_000;
/// Trie nodes kept in memory; at most about 1 KB each.
pub(crate) const NODES_CACHED_MAX: usize = 4_000;

/// Typed rows to read, commits to make. Cheap to clone.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    newest: View,
    engine: Arc<dyn Engine>,
    vault: Arc<Vault>,
    numbers: Arc<Numbers>,
    time: Arc<Time>,
    names: Names,
    events: Cache<u64, Arc<Event>>,
    nodes: Cache<u64, Arc<StateNode>>,
    rewrites: AtomicU64,
    lane: LaneDoor,
    published: watch::Receiver<Position>,
}

impl Ledger {
    pub(crate) fn new(
        (engine, vault): (Arc<dyn Engine>, Arc<Vault>),
        (numbers, time): (Arc<Numbers>, Arc<Time>),
        lane: LaneDoor,
        published: watch::Receiver<Position>,
    ) -> Self {
        let newest = View {
            read: ReadFrom::Newest(engine.clone()),
            vault: vault.clone(),
            position: Position(u64::MAX),
        };
        Self(Arc::new(Inner {
            newest,
            engine,
            vault,
            numbers,
            time,
            names: Names::default(),
            events: Cache::new(EVENTS_CACHED_MAX),
            nodes: Cache::new(NODES_CACHED_MAX),
            rewrites: AtomicU64::new(0),
            lane,
            published,
        }))
    }

    /// Reads without a snapshot: each call sees the newest committed data.
    pub fn newest(&self) -> &View {
        &self.0.newest
    }

    /// A look at the store on which all reads agree, complete up to [`View::position`].
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn view(&self) -> Result<View, Error> {
        // The position first: the snapshot then holds at least that much.
        let position = self.position();
        let snapshot = self.0.engine.snapshot().await.map_err(store_error)?;
        Ok(View { read: ReadFrom::Snapshot(snapshot), vault: self.0.vault.clone(), position })
    }

    /// One row of the newest data.
    ///
    /// # Errors
    ///
    /// If the store fails or the row is damaged.
    pub async fn get<K: KeyPart, V: Row>(
        &self,
        keyspace: &Keyspace<K, V>,
        key: &K,
    ) -> Result<Option<V>, Error> {
        self.0.newest.get(keyspace, key).await
    }

    /// Begins what `permit` allows.
    pub fn begin(&self, permit: Permit) -> Commit {
        Commit::new(self.0.vault.clone(), permit)
    }

    /// Makes a commit true; returns when it would survive a power cut.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Unavailable`]: the disk is full or the server is stopping; nothing
    /// changed.
    pub async fn commit(&self, commit: Commit) -> Result<Position, Error> {
        self.0.lane.commit(commit).await
    }

    /// Returns when everything queued before this call is on disk.
    pub async fn drained(&self) {
        // An empty commit takes its place behind all others.
        let last = Commit::new(self.0.vault.clone(), Permit::housekeeping());
        let _ = self.commit(last).await;
    }

    /// A refusal is a fact too: it is chained and synced before the caller hears of it.
    pub async fn refuse(&self, denial: Denial) -> Error {
        let error = denial.error();
        let refusal = Commit::new(self.0.vault.clone(), denial.into_permit());
        self.commit(refusal).await.err().unwrap_or(error)
    }

    /// The newest position whose commits are all complete.
    pub fn position(&self) -> Position {
        *self.0.published.borrow()
    }

    /// Changes with every published position.
    pub fn positions(&self) -> watch::Receiver<Position> {
        self.0.published.clone()
    }

    /// A number nobody has.
    pub fn next_number(&self) -> u64 {
        self.0.numbers.next()
    }

    /// A keyed digest: a short name for a long one.
    pub fn digest(&self, parts: &[&[u8]]) -> Digest {
        self.0.vault.digest(parts)
    }

    /// A folder of files that only this store's keys open.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub fn sealed_folder(
        &self,
        path: &std::path::Path,
        purpose: &str,
    ) -> std::io::Result<SealedFolder> {
        let vault = &self.0.vault;
        SealedFolder::open(path, vault.key_for(purpose), vault.dice())
    }

    pub(crate) fn time(&self) -> &Time {
        &self.0.time
    }

    pub(crate) fn names(&self) -> &Names {
        &self.0.names
    }

    pub(crate) fn events_cache(&self) -> &Cache<u64, Arc<Event>> {
        &self.0.events
    }

    /// How often a row of an event was rewritten.
    pub(crate) fn rewrites(&self) -> &AtomicU64 {
        &self.0.rewrites
    }

    /// How often a row of an event was rewritten. What was read before this changed may be out of
    /// date, and must not be kept in memory.
    pub fn rewrite_count(&self) -> u64 {
        self.rewrites().load(Ordering::SeqCst)
    }

    pub(crate) fn nodes_cache(&self) -> &Cache<u64, Arc<StateNode>> {
        &self.0.nodes
    }

    pub(crate) fn vault(&self) -> &Vault {
        &self.0.vault
    }

    /// The store's own row, as `read` shows it.
    pub(crate) async fn stored_as_of(&self, read: &dyn Read) -> Result<StoreRow, Error> {
        let key = ().to_key();
        let sealed = read.get(STORE.space, &key).await.map_err(store_error)?;
        sealed
            .and_then(|sealed| self.0.vault.open(STORE.space, &key, &sealed).ok())
            .and_then(|bytes| StoreRow::from_bytes(&bytes))
            .ok_or_else(|| damaged(STORE.name))
    }

    /// The engine, for tools that work below the ledger: check, stats, export.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.0.engine
    }
}
