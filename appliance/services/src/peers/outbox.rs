//! What other servers are owed. Events, messages between devices and news of device lists lie in the
//! store, written by the commit that owes them; who is typing and who has read how far is kept in
//! memory, because tomorrow nobody wants to know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use appliance_ledger::Commit;
use appliance_ledger::keyspaces::{Digest, OUTBOX, OUTBOX_EDUS, OWED};
use appliance_ledger::rows::peers::{EduRow, OwedRow};
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_model::{EventNid, Position};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::attempts::Attempts;
use super::canonical::canonical;
use super::drain::Batch;
use crate::house::House;

/// Fleeting messages that wait for one server. Beyond, the newest is not told.
const FLEETING_MAX: usize = 1_000;

/// How a queue stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// There is something to send, or there may be.
    pub is_owed: bool,
    /// Attempts that failed since one succeeded.
    pub failures: u32,
    /// When the first of them was, in milliseconds since the Unix epoch.
    pub failing_since_ms: Option<u64>,
    /// Not before this, in milliseconds since the Unix epoch.
    pub retry_ms: u64,
    /// When something was last delivered, in milliseconds since the Unix epoch.
    pub delivered_ms: Option<u64>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// How long the last delivery took, in milliseconds.
    pub took_ms: Option<u64>,
}

/// What is remembered of all queues, in memory.
#[derive(Default)]
pub struct Outbox(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Erasures, which servers are told of one by one and must confirm.
    notices: Arc<Attempts>,
    /// In an order that is the same every time: a simulated night must be one that can be played again.
    queues: Mutex<BTreeMap<OwnedServerName, Queue>>,
    bell: Notify,
}

#[derive(Default)]
struct Queue {
    state: QueueState,
    fleeting: BTreeMap<String, Value>,
    /// What was sent and not taken: the same transaction is sent again.
    pending: Option<Batch>,
}

/// Rings when a commit is done with, whether it was written or not.
struct Ring(Arc<Inner>, Vec<OwnedServerName>);

impl Drop for Ring {
    fn drop(&mut self) {
        self.0.wake(&self.1);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OwnedServerName, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, servers: &[OwnedServerName]) {
        let mut queues = self.lock();
        for server in servers {
            queues.entry(server.clone()).or_default().state.is_owed = true;
        }
        drop(queues);
        self.bell.notify_one();
    }
}

impl Outbox {
    /// Waits until something changes.
    pub async fn rung(&self) {
        self.0.bell.notified().await;
    }

    /// When servers are told of erasures.
    pub(crate) fn notices(&self) -> &Arc<Attempts> {
        &self.0.notices
    }

    /// Something may lie in the store for these servers.
    pub(super) fn wake(&self, servers: &[OwnedServerName]) {
        self.0.wake(servers);
        self.0.notices.wake(servers);
    }

    /// The list is another: whoever waits may be on it now.
    pub(super) fn wake_known(&self) {
        let mut queues = self.0.lock();
        queues.values_mut().for_each(|queue| queue.state.is_owed = true);
        drop(queues);
        self.0.bell.notify_one();
        self.0.notices.wake_known();
    }

    /// The servers to send to now, and when the next one is due if none is.
    pub fn due(&self, now_ms: u64) -> (Vec<OwnedServerName>, Option<u64>) {
        let queues = self.0.lock();
        let owed = || queues.iter().filter(|(_, queue)| queue.state.is_owed);
        let due = owed().filter(|(_, queue)| queue.state.retry_ms <= now_ms);
        let due = due.map(|(server, _)| server.clone()).collect();
        let later = owed().map(|(_, queue)| queue.state.retry_ms).filter(|ms| *ms > now_ms).min();
        (due, later)
    }

    /// How the queue to a server stands.
    pub fn state(&self, server: &ServerName) -> Option<QueueState> {
        self.0.lock().get(server).map(|queue| queue.state.clone())
    }

    /// The servers that take nothing now, and since when.
    pub fn failing(&self) -> Vec<(OwnedServerName, u64)> {
        let queues = self.0.lock();
        let failing = queues.iter().filter_map(|(server, queue)| {
            queue.state.failing_since_ms.map(|since_ms| (server.clone(), since_ms))
        });
        failing.collect()
    }

    /// Changes how a queue stands, and rings.
    pub(super) fn change(&self, server: &ServerName, change: impl FnOnce(&mut QueueState)) {
        change(&mut self.0.lock().entry(server.to_owned()).or_default().state);
        self.0.bell.notify_one();
    }

    /// The server was heard from: it is tried now, however long it was away.
    pub(crate) fn heard_from(&self, server: &ServerName) {
        self.0.notices.heard_from(server);
        let mut queues = self.0.lock();
        let Some(queue) = queues.get_mut(server).filter(|queue| queue.state.failures > 0) else {
            return;
        };
        queue.state.retry_ms = 0;
        drop(queues);
        self.0.bell.notify_one();
    }

    /// Takes the transaction that was not taken the last time.
    pub(super) fn take_pending(&self, server: &ServerName) -> Option<Batch> {
        self.0.lock().get_mut(server)?.pending.take()
    }

    /// Keeps a transaction that was not taken.
    pub(super) fn keep_pending(&self, server: &ServerName, batch: Batch) {
        self.0.lock().entry(server.to_owned()).or_default().pending = Some(batch);
    }

    /// Takes fleeting messages for one transaction.
    pub(super) fn take_fleeting(&self, server: &ServerName, count_max: usize) -> Vec<String> {
        let mut queues = self.0.lock();
        let Some(queue) = queues.get_mut(server) else { return Vec::new() };
        let mut taken = Vec::new();
        while taken.len() < count_max
            && let Some((_, message)) = queue.fleeting.pop_first()
        {
            taken.push(canonical(&message));
        }
        taken
    }

    /// Tells servers something that is not worth keeping. A newer message under the same name takes
    /// the place of one that is still waiting.
    pub(crate) fn tell(
        &self,
        servers: &[OwnedServerName],
        name: &str,
        edu_type: &str,
        content: &Value,
    ) {
        let mut queues = self.0.lock();
        for server in servers {
            let queue = queues.entry(server.clone()).or_default();
            // Whoever is away learns nothing from it when it is back.
            let is_away = queue.state.failures > 2;
            if is_away || queue.fleeting.len() >= FLEETING_MAX {
                continue;
            }
            let message = json!({ "edu_type": edu_type, "content": content });
            queue.fleeting.insert(name.to_owned(), message);
            queue.state.is_owed = true;
        }
        drop(queues);
        self.0.bell.notify_one();
    }
}

impl House {
    /// Notes in `commit` that servers are owed an event. Those that are not on the list are owed
    /// nothing.
    pub fn owe_event(&self, event: EventNid, servers: Vec<OwnedServerName>, commit: &mut Commit) {
        let Some(digests) = self.owed(servers, commit) else { return };
        commit.stamp(move |position, rows| {
            for digest in digests {
                rows.put(&OUTBOX, &(digest, position), &event.0);
            }
        });
    }

    /// The same for a message that is no event and must arrive.
    pub(crate) fn owe_edu(
        &self,
        servers: Vec<OwnedServerName>,
        edu_type: &str,
        content: &Value,
        commit: &mut Commit,
    ) {
        let message = json!({ "edu_type": edu_type, "content": content });
        let row = EduRow { json: Some(canonical(&message)), ..EduRow::default() };
        self.owe_row(servers, |_| row, commit);
    }

    /// The same for what is written out when it is sent; `row` is told its position.
    pub(crate) fn owe_row(
        &self,
        servers: Vec<OwnedServerName>,
        row: impl FnOnce(Position) -> EduRow + Send + Sync + 'static,
        commit: &mut Commit,
    ) {
        let Some(digests) = self.owed(servers, commit) else { return };
        commit.stamp(move |position, rows| {
            let row = row(position);
            for digest in digests {
                rows.put(&OUTBOX_EDUS, &(digest, position), &row);
            }
        });
    }

    fn owed(&self, mut servers: Vec<OwnedServerName>, commit: &mut Commit) -> Option<Vec<Digest>> {
        // A suspended peer is still in its rooms: what it misses waits until it is resumed.
        servers.retain(|server| *server != self.server_name && self.roll.may_be_owed(server));
        if servers.is_empty() {
            return None;
        }
        let digests: Vec<_> = servers.iter().map(|server| self.server_digest(server)).collect();
        for (server, digest) in servers.iter().zip(&digests) {
            commit.put(&OWED, digest, &OwedRow { server_name: server.to_string() });
        }
        // Dropped when the commit is written and published.
        commit.hold(Ring(self.outbox.0.clone(), servers));
        Some(digests)
    }

    /// The key under which a server's rows lie.
    pub(crate) fn server_digest(&self, server: &ServerName) -> Digest {
        self.ledger.digest(&[b"server", server.as_bytes()])
    }
}
