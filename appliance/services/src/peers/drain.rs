//! Sends what a server is owed: one transaction after the other, in order, until nothing is left or
//! the server does not take it ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#transactions

use std::time::Duration;

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{Digest, EVENTS, OUTBOX, OUTBOX_EDUS, OWED};
use appliance_ledger::rows::EventRow;
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_model::{Error, EventNid, Position, RoomNid};
use appliance_rules::Permit;

use super::{Peers, RemoteError};
use crate::egress::Limits;
use crate::keys::write_out;

/// "A list of up to 50 PDUs and 100 EDUs."
const PDUS_MAX: usize = 50;
const EDUS_MAX: usize = 100;

/// Messages between devices may be 64 KiB each; a transaction of them stays below what servers take.
const EDU_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Servers that are owed something, read at once. A hospital has fewer peers.
const SERVERS_MAX: usize = 10_000;

/// A large transaction may make the other server fetch what it misses before it answers.
const LIMITS: Limits = Limits { total: Duration::from_secs(120), answer_bytes_max: 1024 * 1024 };

/// Events of a queue that are looked at for those of one room: what a day's outage leaves.
const LOOKED_AT_MAX: usize = 10_000;
/// Of these so many at once.
const LOOKED_AT_ONCE: usize = 200;

/// The first retry comes after this, each further one after twice the time.
const RETRY_MS: u64 = 1_000;
/// An hour's outage must not become two, and ten minutes of a stranger's time cost nobody anything.
const RETRY_MS_MAX: u64 = 10 * 60 * 1_000;

/// A transaction that is to be sent.
pub(super) struct Batch {
    /// "Transaction IDs … unique for all transactions sent by the origin to the destination".
    id: String,
    body: String,
    events: Vec<(Digest, Position)>,
    edus: Vec<(Digest, Position)>,
}

impl Peers {
    /// Sends all that a server is owed. How it went is in the queue's state.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn drain(&self, server: &ServerName) -> Result<(), Error> {
        // One transaction at a time, in order.
        let _turn = self.turns.enter(super::keys::door(&self.house.server_digest(server))).await;
        let outbox = &self.house.outbox;
        loop {
            // Whatever comes from now on rings again.
            outbox.change(server, |queue| queue.is_owed = false);
            if !self.house.roll.allows(server) {
                // What lasts waits; who typed meanwhile is of no use later.
                outbox.take_fleeting(server, EDUS_MAX);
                return Ok(());
            }
            let batch = match outbox.take_pending(server) {
                Some(batch) => batch,
                None => match self.next_batch(server).await? {
                    Some(batch) => batch,
                    None => return Ok(()),
                },
            };
            let started_ms = self.house.clock.now_ms();
            let sent = self.send_batch(server, &batch).await;
            let now_ms = self.house.clock.now_ms();
            match sent {
                Ok(()) => {
                    self.delivered(batch).await?;
                    outbox.change(server, |queue| {
                        queue.is_owed = true;
                        queue.failures = 0;
                        queue.failing_since_ms = None;
                        queue.retry_ms = 0;
                        queue.delivered_ms = Some(now_ms);
                        queue.took_ms = Some(now_ms.saturating_sub(started_ms));
                        queue.last_error = None;
                    });
                }
                Err(error) => {
                    outbox.keep_pending(server, batch);
                    self.failed(server, now_ms, &error);
                    return Ok(());
                }
            }
        }
    }

    /// Every server that may be owed something from before the start.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn wake_all(&self) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&OWED, &(), Direction::Forward, SERVERS_MAX).await?;
        let servers: Vec<_> = rows
            .into_iter()
            .filter_map(|(_, row)| OwnedServerName::try_from(row.server_name).ok())
            .collect();
        self.house.outbox.wake(&servers);
        Ok(())
    }

    /// How many events and messages wait for a server, at most `limit` of each.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn backlog(
        &self,
        server: &ServerName,
        limit: usize,
    ) -> Result<(usize, usize), Error> {
        let digest = self.house.server_digest(server);
        let view = self.house.ledger.newest();
        let (events, _) = view.scan(&OUTBOX, &digest, Direction::Forward, limit).await?;
        let (edus, _) = view.scan(&OUTBOX_EDUS, &digest, Direction::Forward, limit).await?;
        Ok((events.len(), edus.len()))
    }

    /// Where the first event lies that waits for a server.
    pub(crate) async fn first_owed(&self, server: &ServerName) -> Result<Option<Position>, Error> {
        let digest = self.house.server_digest(server);
        let view = self.house.ledger.newest();
        let (first, _) = view.scan(&OUTBOX, &digest, Direction::Forward, 1).await?;
        Ok(first.first().map(|((_, position), _)| *position))
    }

    /// Where the last event of a room lies that waits for a server. Of a queue that is longer than is looked
    /// at, the last event is taken for one of the room.
    pub(crate) async fn last_owed(
        &self,
        server: &ServerName,
        room: RoomNid,
    ) -> Result<Option<Position>, Error> {
        let digest = self.house.server_digest(server);
        let view = self.house.ledger.newest();
        let (rows, more) = view.scan(&OUTBOX, &digest, Direction::Backward, LOOKED_AT_MAX).await?;
        let rows: Vec<((Digest, Position), u64)> = rows;
        for page in rows.chunks(LOOKED_AT_ONCE) {
            let numbers: Vec<_> = page.iter().map(|(_, number)| EventNid(*number)).collect();
            let events = view.get_many(&EVENTS, &numbers).await?;
            let of_room =
                |event: &Option<EventRow>| event.as_ref().is_some_and(|event| event.room == room.0);
            let found = page.iter().zip(&events).find(|(_, event)| of_room(event));
            if let Some((((_, position), _), _)) = found {
                return Ok(Some(*position));
            }
        }
        Ok(rows.first().filter(|_| more).map(|((_, position), _)| *position))
    }

    async fn next_batch(&self, server: &ServerName) -> Result<Option<Batch>, Error> {
        let digest = self.house.server_digest(server);
        let view = self.house.ledger.newest();
        let (events, _) = view.scan(&OUTBOX, &digest, Direction::Forward, PDUS_MAX).await?;
        let mut pdus = Vec::with_capacity(events.len());
        for (_, number) in &events {
            // What was taken out of the store since is owed to nobody.
            if let Some(row) = view.get(&EVENTS, &EventNid(*number)).await? {
                pdus.push(String::from_utf8(row.json).map_err(Error::internal)?);
            }
        }
        let (owed, _) = view.scan(&OUTBOX_EDUS, &digest, Direction::Forward, EDUS_MAX).await?;
        let (mut edus, mut keys, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (key, row) in owed {
            let edu = write_out(&self.house, key.1, row).await?;
            bytes += edu.as_ref().map_or(0, String::len);
            if !keys.is_empty() && bytes > EDU_BYTES_MAX {
                break;
            }
            edus.extend(edu);
            keys.push(key);
        }
        edus.append(&mut self.house.outbox.take_fleeting(server, EDUS_MAX - keys.len()));
        if events.is_empty() && keys.is_empty() && edus.is_empty() {
            return Ok(None);
        }
        let now_ms = self.house.clock.now_ms();
        let id = format!("{now_ms}{}", self.house.dice.letters(8));
        // Written in canonical form, because this is what is signed.
        let body = format!(
            "{{\"edus\":[{}],\"origin\":\"{}\",\"origin_server_ts\":{},\"pdus\":[{}]}}",
            edus.join(","),
            self.house.server_name,
            now_ms,
            pdus.join(","),
        );
        let events = events.into_iter().map(|(key, _)| key).collect();
        Ok(Some(Batch { id, body, events, edus: keys }))
    }

    async fn send_batch(&self, server: &ServerName, batch: &Batch) -> Result<(), RemoteError> {
        let path = format!("/_matrix/federation/v1/send/{}", batch.id);
        self.house.put_canonical(server, &path, &batch.body, LIMITS).await.map(drop)
    }

    async fn delivered(&self, batch: Batch) -> Result<(), Error> {
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        for key in batch.events {
            commit.delete(&OUTBOX, &key);
        }
        for key in batch.edus {
            commit.delete(&OUTBOX_EDUS, &key);
        }
        self.house.ledger.commit(commit).await.map(drop)
    }

    fn failed(&self, server: &ServerName, now_ms: u64, error: &RemoteError) {
        let jitter = self.house.dice.number();
        let is_quick = self.house.options.quick_retries;
        self.house.outbox.change(server, |queue| {
            queue.is_owed = true;
            queue.failures = queue.failures.saturating_add(1);
            queue.retry_ms = now_ms.saturating_add(wait_ms(queue.failures, jitter, is_quick));
            queue.failing_since_ms.get_or_insert(now_ms);
            if queue.failures == 1 {
                tracing::warn!(kind = "peers.away", %server, %error, "another server takes nothing");
            }
            queue.last_error = Some(error.to_string());
        });
    }
}

/// How long to wait after so many failures: doubled each time, and a quarter more or less by chance,
/// so that the servers of a town do not all knock at once at the one that comes back.
fn wait_ms(failures: u32, jitter: u64, is_quick: bool) -> u64 {
    let (first_ms, most_ms) = if is_quick { (100, 2_000) } else { (RETRY_MS, RETRY_MS_MAX) };
    let doubled = first_ms << failures.saturating_sub(1).min(20);
    let wait_ms = doubled.min(most_ms);
    wait_ms * 3 / 4 + jitter % (wait_ms / 2)
}

#[cfg(test)]
mod tests;
