//! Every destination that was contacted or refused, until somebody writes it down.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use appliance_services::egress::{Destination, Purpose};

/// A hospital has tens of destinations. Refusals can be provoked from outside (a pusher with a new
/// host each time), so the list has an end: the one seen longest ago goes. About 200 bytes each.
const DESTINATIONS_MAX: usize = 2_048;

/// The list.
#[derive(Default)]
pub struct SeenList(Mutex<HashMap<(String, String), Destination>>);

impl SeenList {
    /// A connection was opened.
    pub fn connected(&self, purpose: &Purpose, host: &str, address: SocketAddr, now_ms: u64) {
        self.note(purpose, host, now_ms, |seen| {
            seen.connected += 1;
            seen.address = Some(address.to_string());
        });
    }

    /// It was refused. Returns whether this is news.
    pub fn refused(&self, purpose: &Purpose, host: &str, why: &str, now_ms: u64) -> bool {
        let mut is_news = false;
        self.note(purpose, host, now_ms, |seen| {
            is_news = seen.refused == 0;
            seen.refused += 1;
            seen.why_refused = Some(why.to_owned());
        });
        is_news
    }

    /// All, newest first. The list is empty then.
    pub fn take(&self) -> Vec<Destination> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = std::mem::take(&mut *seen).into_values().collect();
        list.sort_by_key(|seen| std::cmp::Reverse(seen.last_ms));
        list
    }

    fn note(
        &self,
        purpose: &Purpose,
        host: &str,
        now_ms: u64,
        with: impl FnOnce(&mut Destination),
    ) {
        let purpose = match purpose {
            Purpose::Peer(name) | Purpose::PeerPlace(name) => format!("peer {name}"),
            other => other.as_str().to_owned(),
        };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (purpose, host.to_owned());
        if seen.len() >= DESTINATIONS_MAX && !seen.contains_key(&key) {
            let oldest = seen.iter().min_by_key(|(_, seen)| seen.last_ms);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                seen.remove(&oldest);
            }
        }
        let entry = seen.entry(key).or_insert_with_key(|(purpose, host)| Destination {
            purpose: purpose.clone(),
            host: host.clone(),
            address: None,
            connected: 0,
            refused: 0,
            why_refused: None,
            first_ms: now_ms,
            last_ms: now_ms,
        });
        entry.last_ms = now_ms;
        with(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_forgets_who_was_seen_longest_ago() {
        let list = SeenList::default();
        for number in 0..=DESTINATIONS_MAX as u64 {
            assert!(list.refused(&Purpose::PushGateway, &format!("h{number}:443"), "no", number));
        }
        assert!(!list.refused(&Purpose::PushGateway, "h1:443", "still no", 9_000));
        let seen = list.take();
        assert_eq!(seen.len(), DESTINATIONS_MAX);
        assert_eq!((seen[0].host.as_str(), seen[0].refused), ("h1:443", 2));
        assert!(seen.iter().all(|seen| seen.host != "h0:443"));
    }
}
