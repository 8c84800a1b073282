//! When servers are asked for something that each of them must answer: at once, later and later while
//! there is no answer, and at once again when they are heard from. In memory: a restart tries all anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use appliance_model::ruma::{OwnedServerName, ServerName};
use tokio::sync::Notify;

/// The first attempt after one without an answer comes after this, each further one after twice the time.
const FIRST_MS: u64 = 2_000;
/// From some point on hourly.
const MOST_MS: u64 = 60 * 60 * 1_000;
/// Whoever has not answered for so long is left alone until it is heard from.
pub const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// How long after the attempt of this number, counted from one, the next one comes.
pub fn wait_ms(attempts: u64) -> u64 {
    let doublings = attempts.saturating_sub(1).min(20);
    (FIRST_MS << doublings).min(MOST_MS)
}

/// How it stands with each server.
#[derive(Default)]
pub struct Attempts {
    /// In an order that is the same every time.
    servers: Mutex<BTreeMap<OwnedServerName, Standing>>,
    bell: Notify,
}

#[derive(Default)]
struct Standing {
    /// Not before this, in milliseconds since the Unix epoch; none: there is nothing to ask, or nobody to
    /// hear it.
    due_ms: Option<u64>,
    /// Attempts without an answer since there was one.
    failures: u64,
    /// When the first of them was, in milliseconds since the Unix epoch.
    failing_since_ms: Option<u64>,
}

/// Rings when the commit that owes something is done with, whether it was written or not.
pub struct Ring(Arc<Attempts>, OwnedServerName);

impl Drop for Ring {
    fn drop(&mut self) {
        self.0.is_owed(&self.1, 0);
    }
}

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OwnedServerName, Standing>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held by the commit that owes something to a server.
    pub fn ring(self: &Arc<Self>, server: OwnedServerName) -> Ring {
        Ring(self.clone(), server)
    }

    /// Waits until something changes.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// There is something to ask, from that time on. Of whoever does not answer that is no news.
    pub fn is_owed(&self, server: &ServerName, at_ms: u64) {
        let mut servers = self.lock();
        let standing = servers.entry(server.to_owned()).or_default();
        if standing.failures == 0 || standing.due_ms.is_none() {
            standing.due_ms = Some(standing.due_ms.map_or(at_ms, |due_ms| due_ms.min(at_ms)));
        }
        drop(servers);
        self.bell.notify_one();
    }

    /// These may be on the list again, or somewhere else.
    pub(super) fn wake(&self, woken: &[OwnedServerName]) {
        let mut servers = self.lock();
        for server in woken {
            if let Some(standing) = servers.get_mut(server) {
                standing.due_ms = Some(0);
            }
        }
        drop(servers);
        self.bell.notify_one();
    }

    /// The list is another.
    pub(super) fn wake_known(&self) {
        self.lock().values_mut().for_each(|standing| standing.due_ms = Some(0));
        self.bell.notify_one();
    }

    /// The server is up: if it did not answer, it is asked now, however long it was away.
    pub(super) fn heard_from(&self, server: &ServerName) {
        let mut servers = self.lock();
        let standing = servers.get_mut(server).filter(|standing| standing.failures > 0);
        let Some(standing) = standing else { return };
        standing.due_ms = Some(0);
        drop(servers);
        self.bell.notify_one();
    }

    /// The servers to ask now, and when the next one is due if none is.
    pub fn due(&self, now_ms: u64) -> (Vec<OwnedServerName>, Option<u64>) {
        let servers = self.lock();
        let due = servers.iter().filter(|(_, one)| one.due_ms.is_some_and(|ms| ms <= now_ms));
        let due = due.map(|(server, _)| server.clone()).collect();
        let later = servers.values().filter_map(|one| one.due_ms).filter(|ms| *ms > now_ms).min();
        (due, later)
    }

    /// Somebody asks now: whatever is owed from here on is looked for once more.
    pub fn begin(&self, server: &ServerName) {
        if let Some(standing) = self.lock().get_mut(server) {
            standing.due_ms = None;
        }
    }

    /// There was an answer.
    pub fn answered(&self, server: &ServerName) {
        if let Some(standing) = self.lock().get_mut(server) {
            (standing.failures, standing.failing_since_ms) = (0, None);
        }
    }

    /// There was none.
    pub fn failed(&self, server: &ServerName, now_ms: u64) {
        let mut servers = self.lock();
        let standing = servers.entry(server.to_owned()).or_default();
        standing.failures = standing.failures.saturating_add(1);
        let since_ms = *standing.failing_since_ms.get_or_insert(now_ms);
        let is_tried = now_ms.saturating_sub(since_ms) < DAY_MS;
        standing.due_ms = is_tried.then(|| now_ms.saturating_add(wait_ms(standing.failures)));
        drop(servers);
        self.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::server_name;

    use super::*;

    #[test]
    fn whoever_does_not_answer_is_asked_later_and_later_for_a_day_and_at_once_when_it_is_heard_from()
     {
        let (attempts, b) = (Arc::new(Attempts::default()), server_name!("b.example"));
        assert_eq!(attempts.due(u64::MAX), (Vec::new(), None), "nothing is owed");
        drop(attempts.ring(b.to_owned()));
        let (mut now_ms, mut waits_ms) = (1_000_000, Vec::new());
        while let (due, Some(at_ms)) = match attempts.due(now_ms) {
            (due, None) if !due.is_empty() => (due, Some(now_ms)),
            other => other,
        } {
            waits_ms.push(at_ms - now_ms);
            now_ms = at_ms;
            assert_eq!(attempts.due(now_ms).0, [b.to_owned()], "{due:?}");
            attempts.begin(b);
            attempts.failed(b, now_ms);
        }
        assert_eq!(waits_ms[..5], [0, 2_000, 4_000, 8_000, 16_000]);
        assert_eq!(waits_ms[12..], vec![MOST_MS; 23], "then hourly, for a day");

        attempts.wake_known();
        assert_eq!(attempts.due(now_ms).0.len(), 1, "it may be on the list again");
        attempts.begin(b);
        attempts.heard_from(b);
        assert_eq!(attempts.due(now_ms).0.len(), 1, "it is back");
        attempts.begin(b);
        attempts.answered(b);
        attempts.heard_from(b);
        attempts.heard_from(server_name!("c.example"));
        assert_eq!(attempts.due(u64::MAX), (Vec::new(), None), "there is nothing to ask");
    }

    #[test]
    fn what_is_owed_to_somebody_who_does_not_answer_waits_for_the_next_attempt() {
        let (attempts, b) = (Arc::new(Attempts::default()), server_name!("b.example"));
        attempts.failed(b, 0);
        drop(attempts.ring(b.to_owned()));
        assert_eq!(attempts.due(0), (Vec::new(), Some(FIRST_MS)));
        attempts.failed(b, DAY_MS);
        assert_eq!(attempts.due(u64::MAX), (Vec::new(), None));
        drop(attempts.ring(b.to_owned()));
        assert_eq!(attempts.due(DAY_MS).0.len(), 1, "whoever was left alone is tried once more");
        attempts.begin(b);
        attempts.is_owed(b, 70);
        attempts.is_owed(b, 90);
        attempts.answered(b);
        attempts.is_owed(b, 50);
        attempts.is_owed(b, 60);
        assert_eq!(attempts.due(0), (Vec::new(), Some(50)), "the earliest counts");
    }
}
