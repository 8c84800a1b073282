//! The one place that writes. Commits queue in one lane; the lane numbers them, chains their audit
//! entries, writes each as one batch, syncs once for all that waited, then publishes and answers.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use appliance_engine::{Batch, Engine, EngineError, Write};
use appliance_model::{Clock, Error, Kind, Position};
use appliance_rules::{Audit, Permit};
use aws_lc_rs::digest;
use tokio::sync::{mpsc, oneshot, watch};

use crate::acked::Acked;
use crate::codec::{KeyPart, Row};
use crate::keyspaces::{AUDIT, Keyspace, STORE};
use crate::number::Numbers;
use crate::rows::{AuditFact, AuditRow, StoreRow};
use crate::seal::Vault;
use crate::touched::{Observer, Touched};
use crate::view::store_error;

/// One disk sync carries at most this many commits: more would make the first wait for the last.
const GROUP_COMMITS_MAX: usize = 64;
/// Commits that may wait; beyond that senders wait at the door. Bounds memory at a few megabytes.
const QUEUE_COMMITS_MAX: usize = 1_024;

/// Rows of one commit, sealed as they are added.
pub struct Rows {
    vault: Arc<Vault>,
    writes: Vec<Write>,
}

impl Rows {
    /// Sets a row.
    pub fn put<K: KeyPart, V: Row>(&mut self, keyspace: &Keyspace<K, V>, key: &K, row: &V) {
        let key = key.to_key();
        let sealed = self.vault.seal(keyspace.space, &key, &row.to_bytes());
        self.writes.push(Write::Put(keyspace.space, key, sealed));
    }

    /// Removes a row.
    pub fn delete<K: KeyPart, V: Row>(&mut self, keyspace: &Keyspace<K, V>, key: &K) {
        self.writes.push(Write::Delete(keyspace.space, key.to_key()));
    }
}

type Stamp = Box<dyn FnOnce(Position, &mut Rows) + Send + Sync>;

/// Facts that become true together. Made from a [`Permit`], so nothing is written unjudged.
#[must_use]
pub struct Commit {
    rows: Rows,
    stamps: Vec<Stamp>,
    positions: u64,
    audit: Vec<Audit>,
    touched: Touched,
    held: Vec<Box<dyn Any + Send + Sync>>,
}

impl Commit {
    pub(crate) fn new(vault: Arc<Vault>, permit: Permit) -> Self {
        Self {
            rows: Rows { vault, writes: Vec::new() },
            stamps: Vec::new(),
            positions: 0,
            audit: permit.into_audit().into_iter().collect(),
            touched: Touched::default(),
            held: Vec::new(),
        }
    }

    /// Adds what another permit allows to the same commit: all of it becomes true, or none.
    pub fn also(&mut self, permit: Permit) {
        self.audit.extend(permit.into_audit());
    }

    /// Sets a row.
    pub fn put<K: KeyPart, V: Row>(&mut self, keyspace: &Keyspace<K, V>, key: &K, row: &V) {
        self.rows.put(keyspace, key, row);
    }

    /// Removes a row.
    pub fn delete<K: KeyPart, V: Row>(&mut self, keyspace: &Keyspace<K, V>, key: &K) {
        self.rows.delete(keyspace, key);
    }

    /// Adds rows that carry their position: `stamp` is called in the lane with a position that is
    /// this call's alone. It must only compute.
    pub fn stamp(&mut self, stamp: impl FnOnce(Position, &mut Rows) + Send + Sync + 'static) {
        self.positions += 1;
        self.stamps.push(Box::new(stamp));
    }

    /// Whom this concerns.
    pub fn touched(&mut self) -> &mut Touched {
        &mut self.touched
    }

    /// Keeps `guard` until the answer: a caller who hangs up cannot open the door early.
    pub fn hold(&mut self, guard: impl Any + Send + Sync) {
        self.held.push(Box::new(guard));
    }
}

/// The sending side of the lane.
#[derive(Clone)]
pub(crate) struct LaneDoor {
    queue: mpsc::Sender<(Commit, oneshot::Sender<Result<Position, Error>>)>,
}

impl LaneDoor {
    pub(crate) async fn commit(&self, commit: Commit) -> Result<Position, Error> {
        let (answer, answered) = oneshot::channel();
        let closing =
            || Error::new(Kind::Unavailable, "The server is shutting down. Try again shortly.");
        self.queue.send((commit, answer)).await.map_err(|_| closing())?;
        answered.await.map_err(|_| closing())?
    }
}

/// The lane itself; [`Lane::run`] is its life.
pub struct Lane {
    engine: Arc<dyn Engine>,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    numbers: Arc<Numbers>,
    observer: Arc<dyn Observer>,
    acked: Option<Acked>,
    store: StoreRow,
    published: watch::Sender<Position>,
    queue: mpsc::Receiver<(Commit, oneshot::Sender<Result<Position, Error>>)>,
}

pub(crate) struct LaneParts {
    pub engine: Arc<dyn Engine>,
    pub vault: Arc<Vault>,
    pub clock: Arc<dyn Clock>,
    pub numbers: Arc<Numbers>,
    pub observer: Arc<dyn Observer>,
    pub acked: Option<Acked>,
    pub store: StoreRow,
}

/// The lane stopped because the disk's answer is in doubt: the process must end, and a restart
/// finds out what is there.
#[derive(Debug, thiserror::Error)]
#[error("writing stopped: {0}")]
pub struct LaneStopped(String);

struct Waiting {
    positions: (Position, Position),
    touched: Touched,
    held: Vec<Box<dyn Any + Send + Sync>>,
    answer: oneshot::Sender<Result<Position, Error>>,
}

impl Lane {
    pub(crate) fn new(parts: LaneParts) -> (LaneDoor, watch::Receiver<Position>, Self) {
        let (queue_in, queue) = mpsc::channel(QUEUE_COMMITS_MAX);
        let (published, positions) = watch::channel(Position(parts.store.position));
        let LaneParts { engine, vault, clock, numbers, observer, acked, store } = parts;
        let lane = Self { engine, vault, clock, numbers, observer, acked, store, published, queue };
        (LaneDoor { queue: queue_in }, positions, lane)
    }

    /// Writes until every sender is gone.
    ///
    /// # Errors
    ///
    /// [`LaneStopped`] when the disk's answer is in doubt. Nothing is acknowledged after that.
    pub async fn run(mut self) -> Result<(), LaneStopped> {
        let mut group = Vec::with_capacity(GROUP_COMMITS_MAX);
        while self.queue.recv_many(&mut group, GROUP_COMMITS_MAX).await > 0 {
            self.write_group(group.drain(..).collect()).await?;
        }
        Ok(())
    }

    async fn write_group(
        &mut self,
        group: VecDeque<(Commit, oneshot::Sender<Result<Position, Error>>)>,
    ) -> Result<(), LaneStopped> {
        let now_ms = self.clock.now_ms();
        let mut store = self.store.clone();
        let mut batches = Vec::with_capacity(group.len() + 1);
        let mut waiting = Vec::with_capacity(group.len());
        for (commit, answer) in group {
            let Commit { mut rows, stamps, positions, audit, touched, held } = commit;
            let first = Position(store.position + 1);
            store.position += positions.max(1);
            for (offset, stamp) in (0..).zip(stamps) {
                stamp(Position(first.0 + offset), &mut rows);
            }
            if !audit.is_empty() {
                let row = chain(&mut store.audit_link, now_ms, audit);
                rows.put(&AUDIT, &Position(store.position), &row);
            }
            let positions = (first, Position(store.position));
            waiting.push(Waiting { positions, touched, held, answer });
            batches.push(Batch { preconditions: Vec::new(), writes: rows.writes });
        }
        store.next_number = self.numbers.next_unused();
        let mut last = Rows { vault: self.vault.clone(), writes: Vec::new() };
        last.put(&STORE, &(), &store);
        batches.push(Batch { preconditions: Vec::new(), writes: last.writes });

        match self.engine.commit(batches).await {
            Ok(_) => self.answer(store, waiting),
            Err(EngineError::Full) => {
                // Nothing was written: the positions are free again, the senders may retry.
                for refused in waiting {
                    let _ = refused.answer.send(Err(store_error(EngineError::Full)));
                }
                Ok(())
            }
            Err(error) => {
                // What is on disk is in doubt; dropping the answers says "unavailable" to all.
                Err(LaneStopped(error.to_string()))
            }
        }
    }

    /// Acknowledges, publishes, wakes, answers: in this order.
    fn answer(&mut self, store: StoreRow, waiting: Vec<Waiting>) -> Result<(), LaneStopped> {
        let position = Position(store.position);
        if let Some(acked) = &mut self.acked {
            acked.record(position).map_err(|error| LaneStopped(error.to_string()))?;
        }
        self.store = store;
        self.published.send_replace(position);
        for one in waiting {
            self.observer.committed(&one.touched, one.positions.1);
            drop(one.held);
            // The caller may have hung up; what it asked for is kept all the same.
            let _ = one.answer.send(Ok(one.positions.1));
        }
        Ok(())
    }
}

/// Makes the next audit row and moves the chain's link on.
fn chain(link: &mut Vec<u8>, at_ms: u64, audit: Vec<Audit>) -> AuditRow {
    let facts: Vec<_> = audit
        .into_iter()
        .map(|Audit { verb, who, object }| AuditFact { verb: verb.to_owned(), who, object })
        .collect();
    *link = audit_link(link, at_ms, &facts);
    AuditRow { at_ms, facts, link: link.clone() }
}

/// The link of a row: SHA-256 over the link before it, its time and its facts.
pub(crate) fn audit_link(before: &[u8], at_ms: u64, facts: &[AuditFact]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(before);
    context.update(&at_ms.to_be_bytes());
    context.update(&minicbor::to_vec(facts).expect("writing to memory does not fail"));
    context.finish().as_ref().to_vec()
}
