//! The worker that empties the queues of all servers: each server's in order, all servers' side by
//! side, in one task.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use appliance_model::ruma::OwnedServerName;
use appliance_services::Services;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// Transactions under way at once. Each holds its body in memory, a few hundred KB as a rule.
const SERVERS_AT_ONCE_MAX: usize = 64;

/// The longest sleep: the clock may have stepped.
const NAP_MAX: Duration = Duration::from_secs(60);

/// Sends until it is dropped.
pub async fn run(services: Arc<Services>) {
    let (peers, house) = (&services.peers, &services.house);
    if let Err(error) = peers.wake_all().await {
        tracing::error!(kind = "outbox.failed", %error, "nobody knows what servers are owed");
    }
    let mut busy: HashSet<OwnedServerName> = HashSet::new();
    let mut working = FuturesUnordered::new();
    loop {
        let now_ms = house.clock.now_ms();
        let (due, later_ms) = house.outbox.due(now_ms);
        for server in due {
            if busy.len() < SERVERS_AT_ONCE_MAX && busy.insert(server.clone()) {
                working.push(async move {
                    let drained = peers.drain(&server).await;
                    (server, drained)
                });
            }
        }
        let nap = later_ms.map_or(NAP_MAX, |ms| Duration::from_millis(ms.saturating_sub(now_ms)));
        tokio::select! {
            // In order, not by chance: what is looked at first does not matter, that it replays does.
            biased;
            Some((server, drained)) = working.next(), if !working.is_empty() => {
                busy.remove(&server);
                if let Err(error) = drained {
                    tracing::error!(kind = "outbox.failed", %server, %error, "a queue was not emptied");
                    // The store is in trouble; it is asked again, but not at once.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            () = house.outbox.rung() => {}
            () = tokio::time::sleep(nap.min(NAP_MAX)) => {}
        }
    }
}
