//! One message reaches everyone who waits for it: the ward's devices lie in pockets, in `/sync`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::Stopwatch;
use crate::measure::{Operation, Row};
use crate::scenario::Sizes;
use crate::server::Server;
use crate::site::{FILTER, Site, User, marks, message, next_batch};

const MARK: &str = "fanout";
/// All are asleep in their long-poll before the first message.
const SETTLE: Duration = Duration::from_secs(4);
/// Between two messages: everybody is back in the long-poll.
const PAUSE: Duration = Duration::from_millis(300);
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_MS: u64 = 30_000;

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for waiters in sizes.waiters {
        rows.push(deliver(&server.site, waiters, sizes.fanout_messages).await?);
    }
    Ok(rows)
}

/// One message after another to so many clients.
async fn deliver(site: &Arc<Site>, waiters: usize, messages: usize) -> Result<Row> {
    let users = site.users(waiters + 1).await?;
    let (sender, waiters) = (&users[0], &users[1..]);
    let connection = site.connection();
    let room = site.create_room(&connection, sender, json!({})).await?;
    site.join_all(&room, waiters, 4).await?;
    let positions = site.positions(waiters).await?;

    let (heard, mut hearing) = mpsc::unbounded_channel();
    let mut clients = JoinSet::new();
    for (user, since) in waiters.iter().zip(positions) {
        clients.spawn(wait(Arc::clone(site), Arc::clone(user), since, heard.clone()));
    }
    tokio::time::sleep(SETTLE).await;

    let meter = site.meter();
    let mut deliveries = Vec::new();
    let mut sends = Vec::new();
    let mut whole_ms = Vec::new();
    for number in 0..messages {
        let start = Stopwatch::start();
        let answer = site.send(&connection, sender, &room, &message(MARK, number)).await;
        sends.push(start.ms());
        answer?.check()?;
        let mut reached = 0;
        while reached < waiters.len() {
            let left = DELIVERY_TIMEOUT.saturating_sub(start.elapsed());
            match tokio::time::timeout(left, hearing.recv()).await {
                Ok(Some((heard, at))) if heard == number => {
                    // The message was sent when its stopwatch started; `at` runs since the delivery.
                    deliveries.push(Operation::of_ms(start.ms() - Stopwatch::ms(at)));
                    reached += 1;
                }
                Ok(Some(_)) => {}
                _ => bail!("message {number} reached {reached} of {} clients", waiters.len()),
            }
        }
        whole_ms.push(start.ms());
        tokio::time::sleep(PAUSE).await;
    }
    let name = format!("delivery to {} waiting clients", waiters.len());
    let row = meter.row("fanout", &name, &deliveries);
    clients.shutdown().await;
    let median = |mut ms: Vec<f64>| {
        ms.sort_by(f64::total_cmp);
        ms.get(ms.len() / 2).copied().unwrap_or_default()
    };
    let (sent, all) = (median(sends), median(whole_ms));
    Ok(row.noted(format!("send answered in {sent:.1} ms, the last reached in {all:.1} ms")))
}

/// One waiting client: tells which numbers it heard, and when.
async fn wait(
    site: Arc<Site>,
    user: Arc<User>,
    mut since: String,
    heard: mpsc::UnboundedSender<(usize, Stopwatch)>,
) {
    let connection = site.connection();
    let mut seen = BTreeSet::new();
    loop {
        let answer = site.sync(&connection, &user, Some(&since), POLL_MS, FILTER).await;
        let at = Stopwatch::start();
        let Ok(answer) = answer.and_then(crate::http::Answer::check) else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        for number in marks(&answer.body, MARK) {
            if seen.insert(number) && heard.send((number, at)).is_err() {
                return;
            }
        }
        if let Some(next) = next_batch(&answer.body) {
            since = next;
        }
    }
}
