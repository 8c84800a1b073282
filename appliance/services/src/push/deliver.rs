//! Telling the gateways ([spec]): each pusher in its own time, again until it is taken, at most a
//! day.
//!
//! [spec]: https://spec.matrix.org/v1.19/push-gateway-api/

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::PoisonError;
use std::time::Duration;

use appliance_ledger::keyspaces::PUSHERS;
use appliance_ledger::rows::push::{PusherRow, RingRow};
use appliance_model::{Error, Position, UserNid};
use appliance_rules::Permit;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::notify::Outcome;
use super::{Push, PusherKey};

/// Gateways told at once. More would only wait for one another's answers.
const AT_ONCE_MAX: usize = 64;
/// What waits for one pusher: a phone that was off for a day needs to ring for the newest only.
const WAITING_MAX: usize = 20;
/// "If the gateway returns an error, the homeserver should retry with back-off."
const RETRY_MS_MIN: u64 = 1_000;
const RETRY_MS_MAX: u64 = 15 * 60 * 1_000;
/// What nobody took for a day is no news any more.
const GIVE_UP_MS: u64 = 24 * 60 * 60 * 1_000;
/// How often the place in the log is written down. After a crash the events since ring again, and
/// clients know them by their IDs.
const WRITE_EVERY_MS: u64 = 5_000;
/// When the log could not be read.
const TROUBLE_WAIT: Duration = Duration::from_secs(1);

/// What waits for pushers.
#[derive(Default)]
pub(super) struct Queues {
    /// By pusher, oldest first.
    waiting: HashMap<PusherKey, Waiting>,
    /// Those with something new, in the order of its coming.
    ready: VecDeque<PusherKey>,
    /// Those being told.
    busy: HashSet<PusherKey>,
}

#[derive(Default)]
struct Waiting {
    rings: VecDeque<RingRow>,
    /// The unread count alone has changed.
    badge: bool,
}

/// What is told next.
enum Next {
    Ring(RingRow),
    Badge,
}

impl Push {
    /// Follows the log and tells the gateways, for ever.
    pub async fn run(&self) {
        let mut cursor = self.begin().await;
        let (mut written, mut written_ms) = (cursor, self.house.clock.now_ms());
        let mut working = FuturesUnordered::new();
        loop {
            match self.look(cursor).await {
                Ok(upto) => cursor = upto,
                Err(error) => {
                    tracing::error!(kind = "push.failed", %error, "push cannot follow the log");
                    tokio::time::sleep(TROUBLE_WAIT).await;
                }
            }
            while working.len() < AT_ONCE_MAX
                && let Some(key) = self.next_ready()
            {
                working.push(async move {
                    self.tell(key).await;
                    key
                });
            }
            let now_ms = self.house.clock.now_ms();
            if cursor > written && now_ms.saturating_sub(written_ms) >= WRITE_EVERY_MS {
                (written, written_ms) = (cursor, now_ms);
                if let Err(error) = self.write_cursor(cursor).await {
                    tracing::warn!(kind = "push.cursor", %error, "push did not note its place");
                }
            }
            tokio::select! {
                Some(key) = working.next(), if !working.is_empty() => self.done(key),
                () = self.stir.stirred() => {}
                () = tokio::time::sleep(Duration::from_millis(WRITE_EVERY_MS)), if cursor > written => {}
            }
        }
    }

    async fn begin(&self) -> Position {
        loop {
            let begun = async {
                self.find_owners().await?;
                let cursor = self.cursor().await?;
                self.write_cursor(cursor).await.map(|()| cursor)
            };
            match begun.await {
                Ok(cursor) => return cursor,
                Err(error) => {
                    tracing::error!(kind = "push.failed", %error, "push cannot begin");
                    tokio::time::sleep(TROUBLE_WAIT).await;
                }
            }
        }
    }

    /// One look: new events, and receipts that moved.
    async fn look(&self, cursor: Position) -> Result<Position, Error> {
        let stirred = self.stir.take();
        let upto = self.follow(cursor).await?;
        let readers: BTreeSet<UserNid> =
            stirred.own_receipts.iter().map(|(user, _)| *user).collect();
        for user in readers {
            if !self.owners.lock().unwrap_or_else(PoisonError::into_inner).contains(&user) {
                continue;
            }
            let rooms = stirred.own_receipts.range((user, appliance_model::RoomNid(0))..);
            let rooms = rooms.take_while(|(reader, _)| *reader == user).map(|(_, room)| *room);
            if self.badge_changed(user, &rooms.collect::<Vec<_>>()).await? {
                for (digest, _) in self.rows(user).await? {
                    self.queue((user, digest), None);
                }
            }
        }
        Ok(upto)
    }

    /// Puts an event (or, without one, a changed unread count) into a pusher's queue.
    pub(super) fn queue(&self, key: PusherKey, ring: Option<RingRow>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = queues.waiting.entry(key).or_default();
        match ring {
            Some(ring) => waiting.rings.push_back(ring),
            None => waiting.badge = true,
        }
        let beyond = waiting.rings.len().saturating_sub(WAITING_MAX);
        waiting.rings.drain(..beyond);
        if !queues.busy.contains(&key) && !queues.ready.contains(&key) {
            queues.ready.push_back(key);
        }
    }

    fn next_ready(&self) -> Option<PusherKey> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let key = queues.ready.pop_front()?;
        queues.busy.insert(key);
        Some(key)
    }

    /// A pusher was told all there was.
    fn done(&self, key: PusherKey) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.busy.remove(&key);
        if queues.waiting.contains_key(&key) {
            queues.ready.push_back(key);
        }
    }

    fn take(&self, key: PusherKey) -> Option<Next> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = queues.waiting.get_mut(&key)?;
        if let Some(ring) = waiting.rings.pop_front() {
            // The count goes with it.
            waiting.badge = false;
            return Some(Next::Ring(ring));
        }
        let badge = waiting.badge;
        queues.waiting.remove(&key);
        badge.then_some(Next::Badge)
    }

    /// What waits behind `first`, for the store.
    fn backlog(&self, key: PusherKey, first: &RingRow) -> Vec<RingRow> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = queues.waiting.get(&key).map(|waiting| waiting.rings.iter().cloned());
        std::iter::once(first.clone()).chain(behind.into_iter().flatten()).collect()
    }

    fn forget_queue(&self, key: PusherKey) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&key);
    }

    /// Tells one pusher all that waits for it.
    async fn tell(&self, key: PusherKey) {
        while let Some(next) = self.take(key) {
            let told = match next {
                Next::Ring(ring) => self.tell_until_taken(key, ring).await,
                Next::Badge => self.tell_badge(key).await,
            };
            if let Err(error) = told {
                tracing::error!(kind = "push.failed", %error, "a pusher could not be told");
                tokio::time::sleep(TROUBLE_WAIT).await;
            }
        }
    }

    async fn tell_badge(&self, key: PusherKey) -> Result<(), Error> {
        let Some(row) = self.house.ledger.get(&PUSHERS, &key).await? else { return Ok(()) };
        // A count that was not taken is followed by another one day: nobody waits for it.
        let outcome = self.notify_badge(key, &row).await?;
        self.conclude(key, &row, outcome).await.map(drop)
    }

    async fn tell_until_taken(&self, key: PusherKey, ring: RingRow) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let mut wait_ms = RETRY_MS_MIN;
        let mut failed = false;
        loop {
            // It may have been removed, or set anew with another gateway.
            let Some(row) = ledger.get(&PUSHERS, &key).await? else {
                self.forget_queue(key);
                return Ok(());
            };
            let outcome = self.notify_event(key, &row, &ring).await?;
            if self.conclude(key, &row, outcome).await? {
                return if failed || row.backlog.is_some() {
                    self.write_backlog(key, Vec::new()).await
                } else {
                    Ok(())
                };
            }
            let age_ms = self.house.clock.now_ms().saturating_sub(ring.at_ms);
            if age_ms >= GIVE_UP_MS {
                return self.write_backlog(key, Vec::new()).await;
            }
            self.write_backlog(key, self.backlog(key, &ring)).await?;
            failed = true;
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            wait_ms = wait_ms.saturating_mul(2).min(RETRY_MS_MAX);
        }
    }

    /// Draws the consequence of an answer. Returns whether there is nothing more to do.
    async fn conclude(
        &self,
        key: PusherKey,
        row: &PusherRow,
        outcome: Outcome,
    ) -> Result<bool, Error> {
        match outcome {
            Outcome::Taken | Outcome::Moot => Ok(true),
            Outcome::Failed(why) => {
                metrics::counter!("wardstone_push_failures_total").increment(1);
                tracing::warn!(kind = "push.refused", app = %row.app_id, %why,
                    "a push gateway did not take a notification");
                Ok(false)
            }
            Outcome::Forbidden(why) => {
                metrics::counter!("wardstone_push_failures_total").increment(1);
                tracing::warn!(kind = "push.forbidden", app = %row.app_id, %why,
                    "a pusher names a gateway that this server may not tell");
                Ok(true)
            }
            // "rejected: … the homeserver should cease sending notification requests for these
            // pushkeys and remove the associated pushers."
            Outcome::Rejected => {
                tracing::info!(kind = "push.rejected", app = %row.app_id, "a pusher was removed");
                let ledger = &self.house.ledger;
                let mut commit = ledger.begin(Permit::housekeeping());
                super::pushers::forget(key, &mut commit);
                ledger.commit(commit).await?;
                self.forget_queue(key);
                Ok(true)
            }
        }
    }

    /// Writes down what a pusher was not told yet, so that a restart tells it.
    async fn write_backlog(&self, key: PusherKey, backlog: Vec<RingRow>) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(key.0.0).await;
        let Some(row) = ledger.get(&PUSHERS, &key).await? else { return Ok(()) };
        let backlog = (!backlog.is_empty()).then_some(backlog);
        if row.backlog == backlog {
            return Ok(());
        }
        let mut commit = ledger.begin(Permit::housekeeping());
        commit.put(&PUSHERS, &key, &PusherRow { backlog, ..row });
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }
}
