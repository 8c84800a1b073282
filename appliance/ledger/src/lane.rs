//! The one place that writes. Commits queue in one lane; the lane numbers them, chains their audit
//! entries, writes each as one batch, syncs once for all that waited, then publishes and answers.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use appliance_engine::{Batch, Engine, EngineError, Write};
use appliance_model::{Error, Kind, Position};
use appliance_rules::{Audit, Permit};
use aws_lc_rs::digest;
use tokio::sync::{mpsc, oneshot, watch};

use crate::acked::{Acked, SYNC_WITHIN};
use crate::codec::{KeyPart, Row};
use crate::keyspaces::{AUDIT, Keyspace, STORE};
use crate::number::Numbers;
use crate::rows::{AuditFact, AuditRow, Floor, StoreRow};
use crate::seal::Vault;
use crate::time::Time;
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
    places_below: u64,
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
            places_below: 0,
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

    /// The rows that carry no position.
    pub(crate) fn rows(&mut self) -> &mut Rows {
        &mut self.rows
    }

    /// Leaves `places` positions unused below those of this commit: history that is found later takes
    /// its place there.
    pub fn leave_places_below(&mut self, places: u64) {
        self.places_below = self.places_below.max(places);
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
    time: Arc<Time>,
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
    pub time: Arc<Time>,
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
        let LaneParts { engine, vault, time, numbers, observer, acked, store } = parts;
        let lane = Self { engine, vault, time, numbers, observer, acked, store, published, queue };
        (LaneDoor { queue: queue_in }, positions, lane)
    }

    /// Writes until every sender is gone.
    ///
    /// # Errors
    ///
    /// [`LaneStopped`] when the disk's answer is in doubt. Nothing is acknowledged after that.
    pub async fn run(mut self) -> Result<(), LaneStopped> {
        let mut group = Vec::with_capacity(GROUP_COMMITS_MAX);
        let sync_due = tokio::time::sleep(SYNC_WITHIN);
        tokio::pin!(sync_due);
        let mut unsynced = false;
        loop {
            tokio::select! {
                // The sync first: under load the queue is never empty. And never by chance, so that a
                // simulated night can be played again.
                biased;
                () = &mut sync_due, if unsynced => {
                    self.sync_acked().await?;
                    unsynced = false;
                }
                count = self.queue.recv_many(&mut group, GROUP_COMMITS_MAX) => {
                    if count == 0 {
                        return self.sync_acked().await;
                    }
                    self.write_group(group.drain(..).collect()).await?;
                    if !unsynced {
                        unsynced = true;
                        sync_due.set(tokio::time::sleep(SYNC_WITHIN));
                    }
                }
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a disk sync must not hold up the runtime")]
    async fn sync_acked(&self) -> Result<(), LaneStopped> {
        let Some(file) = self.acked.as_ref().map(Acked::file) else { return Ok(()) };
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        let synced = synced.map_err(std::io::Error::other).and_then(|synced| synced);
        synced.map_err(|error| LaneStopped(error.to_string()))
    }

    async fn write_group(
        &mut self,
        group: VecDeque<(Commit, oneshot::Sender<Result<Position, Error>>)>,
    ) -> Result<(), LaneStopped> {
        let now_ms = self.time.now_ms();
        let mut store = self.store.clone();
        let mut set_back = self.time.enter(&mut store).into_iter().map(clock_set_back);
        let mut writes = Vec::new();
        let mut waiting = Vec::with_capacity(group.len());
        for (commit, answer) in group {
            let Commit { mut rows, stamps, positions, places_below, audit, touched, held } = commit;
            let audit: Vec<_> = set_back.by_ref().chain(audit).collect();
            let first = Position(store.position + 1 + places_below);
            store.position += places_below + positions.max(1);
            for (offset, stamp) in (0..).zip(stamps) {
                stamp(Position(first.0 + offset), &mut rows);
            }
            if !audit.is_empty() {
                let row = chain(&mut store.audit_link, now_ms, audit);
                rows.put(&AUDIT, &Position(store.position), &row);
            }
            let positions = (first, Position(store.position));
            waiting.push(Waiting { positions, touched, held, answer });
            writes.append(&mut rows.writes);
        }
        store.next_number = self.numbers.next_unused();
        let mut last = Rows { vault: self.vault.clone(), writes: Vec::new() };
        last.put(&STORE, &(), &store);
        writes.append(&mut last.writes);

        // One batch for the whole group. Each batch is atomic, a list of them is not on every engine:
        // a kill on sled kept some and lost the store's own row, and after the restart their positions
        // and numbers were given out a second time.
        match self.engine.commit(vec![Batch { preconditions: Vec::new(), writes }]).await {
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

    /// Acknowledges, notes, publishes, wakes, answers: in this order. Whoever is woken by the first
    /// commit of a group reads up to the end of the group, and must find noted what the others
    /// changed.
    fn answer(&mut self, store: StoreRow, waiting: Vec<Waiting>) -> Result<(), LaneStopped> {
        let position = Position(store.position);
        if let Some(acked) = &mut self.acked {
            acked.record(position).map_err(|error| LaneStopped(error.to_string()))?;
        }
        self.time.kept(&store);
        self.store = store;
        for one in &waiting {
            self.observer.changing(&one.touched, one.positions.1);
        }
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

/// That the clock went back is a fact too: the times of the entries that follow are not those of before.
fn clock_set_back(floor: Floor) -> Audit {
    let object = format!("from {} ms", floor.ms);
    Audit { verb: "clock.set_back", who: "clock".to_owned(), object }
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

#[cfg(test)]
mod tests {
    use appliance_engine::Direction;
    use appliance_model::{RoomNid, UserNid};

    use super::*;
    use crate::keyspaces::{MEMBERS, USERS};
    use crate::rows::UserRow;
    use crate::scenario::Store;

    fn user(name: &str) -> UserRow {
        UserRow { user_id: name.to_owned() }
    }

    #[tokio::test]
    async fn what_was_answered_survives_a_power_cut_and_what_was_not_does_not() {
        let store = Store::new().await;
        let mut kept = store.ledger.begin(Permit::own("account.created", "@a:h", "@a:h"));
        kept.put(&USERS, &UserNid(1), &user("@a:h"));
        let position = store.ledger.commit(kept).await.unwrap();
        store.engine.fail_next_commit(EngineError::Failed("the cable is loose".to_owned()));
        let mut lost = store.ledger.begin(Permit::own("account.created", "@b:h", "@b:h"));
        lost.put(&USERS, &UserNid(2), &user("@b:h"));
        assert_eq!(store.ledger.commit(lost).await.unwrap_err().kind, Kind::Unavailable);

        let store = store.power_cut_and_restart().await;
        assert_eq!(store.ledger.position(), position, "only what was answered counts");
        assert_eq!(store.ledger.get(&USERS, &UserNid(1)).await.unwrap(), Some(user("@a:h")));
        assert_eq!(store.ledger.get(&USERS, &UserNid(2)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_lane_whose_disk_is_in_doubt_writes_nothing_more() {
        let mut store = Store::new().await;
        store.engine.fail_next_commit(EngineError::Failed("the cable is loose".to_owned()));
        for _ in 0..2 {
            let commit = store.ledger.begin(Permit::housekeeping());
            assert!(store.ledger.commit(commit).await.is_err());
        }
        let end = store.lane.join_next().await.unwrap().unwrap();
        assert!(end.unwrap_err().to_string().contains("cable"));
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_recovers_when_there_is_room() {
        let store = Store::new().await;
        store.engine.full();
        let mut commit = store.ledger.begin(Permit::housekeeping());
        commit.put(&USERS, &UserNid(1), &user("@a:h"));
        let error = store.ledger.commit(commit).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        assert!(error.message.contains("full"));
        store.engine.make_room();
        let commit = store.ledger.begin(Permit::housekeeping());
        let position = store.ledger.commit(commit).await.unwrap();
        assert_eq!(position, Position(1), "the refused commit left no trace, not even a number");
    }

    #[tokio::test]
    async fn positions_are_each_stamps_own_and_commits_are_whole() {
        let store = Store::new().await;
        let mut waiting = Vec::new();
        for commit_number in 0..200_u64 {
            let ledger = store.ledger.clone();
            waiting.push(async move {
                let mut commit = ledger.begin(Permit::own("event.sent", "@a:h", commit_number));
                for part in 0..3 {
                    commit.stamp(move |position, rows| {
                        let key = (RoomNid(commit_number), part, UserNid(position.0));
                        rows.put(&MEMBERS, &key, &position.0);
                    });
                }
                ledger.commit(commit).await.unwrap()
            });
        }
        futures_util::future::join_all(waiting).await;
        assert!(store.engine.commits() < 150, "those who wait share a disk sync");
        let (rows, _) =
            store.ledger.newest().scan(&MEMBERS, &(), Direction::Forward, 1_000).await.unwrap();
        assert_eq!(rows.len(), 600);
        let mut positions: Vec<_> = rows.iter().map(|(_, position)| *position).collect();
        positions.sort_unstable();
        positions.dedup();
        assert_eq!(positions.len(), 600, "no position twice");
    }

    /// Who is woken by the first commit of a group reads up to the group's end.
    #[tokio::test]
    async fn a_whole_group_is_noted_before_its_position_is_published() {
        #[derive(Default)]
        struct Witness {
            ledger: std::sync::OnceLock<crate::Ledger>,
            noted: std::sync::Mutex<Vec<Position>>,
            largest_group: std::sync::atomic::AtomicUsize,
        }
        impl Observer for Witness {
            fn changing(&self, _: &Touched, position: Position) {
                assert!(self.ledger.get().unwrap().position() < position, "not published yet");
                self.noted.lock().unwrap().push(position);
            }

            fn committed(&self, _: &Touched, position: Position) {
                let (published, noted) =
                    (self.ledger.get().unwrap().position(), self.noted.lock().unwrap());
                assert!(published >= position);
                assert_eq!(noted.last(), Some(&published), "all that can be read is noted");
                let ahead = noted.iter().filter(|other| **other > position).count();
                self.largest_group.fetch_max(ahead + 1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let (witness, engine) =
            (Arc::new(Witness::default()), Arc::new(appliance_engine::Memory::new()));
        let master = crate::SecretKey::random(&appliance_model::OsDice);
        let openers =
            crate::Openers { observer: witness.clone(), ..crate::scenario::openers(&master) };
        let (ledger, lane) = crate::open(engine, openers).await.unwrap();
        assert!(witness.ledger.set(ledger.clone()).is_ok());
        let mut running = tokio::task::JoinSet::new();
        running.spawn(lane.run());
        let commits = (0..100_u64).map(|_| ledger.commit(ledger.begin(Permit::housekeeping())));
        futures_util::future::join_all(commits).await;
        assert_eq!(witness.noted.lock().unwrap().len(), 100);
        assert!(witness.largest_group.load(std::sync::atomic::Ordering::Relaxed) > 1);
    }

    #[tokio::test]
    async fn the_audit_chain_links_every_row_to_all_before() {
        let store = Store::new().await;
        for who in ["@a:h", "@b:h", "@c:h"] {
            let commit = store.ledger.begin(Permit::own("account.created", who, who));
            store.ledger.commit(commit).await.unwrap();
        }
        let store = store.power_cut_and_restart().await;
        let denial = appliance_rules::Denial {
            verb: "event.refused",
            who: "@visitor:h".to_owned(),
            object: "!ward:h".to_owned(),
            why: "You are not in this room.".into(),
        };
        assert_eq!(store.ledger.refuse(denial).await.kind, Kind::Forbidden);
        let (rows, _) =
            store.ledger.newest().scan(&AUDIT, &(), Direction::Forward, 10).await.unwrap();
        let verbs: Vec<_> = rows.iter().map(|(_, row)| row.facts[0].verb.as_str()).collect();
        assert_eq!(
            verbs,
            ["account.created", "account.created", "account.created", "event.refused"]
        );
        let mut link = Vec::new();
        for (_, row) in rows {
            link = audit_link(&link, row.at_ms, &row.facts);
            assert_eq!(link, row.link);
        }
    }
}
