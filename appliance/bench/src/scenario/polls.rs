//! Phones in pockets: what clients cost that wait in `/sync` while nothing happens.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::clock::Stopwatch;
use crate::measure::{Figure, Operation, Row};
use crate::process;
use crate::scenario::Sizes;
use crate::server::Server;
use crate::site::{FILTER, next_batch};

/// What clients ask for; each is answered and asks again within the measured time.
const POLL_MS: u64 = 30_000;
/// All are in their long-poll.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let users = site.users(sizes.idle_clients).await?;
    let positions = site.positions(&users).await?;
    // A first round of requests is behind us: what is still held is not of the clients below.
    tokio::time::sleep(SETTLE).await;
    let before = process::memory(site.pid()).anonymous_bytes;

    let mut clients = JoinSet::new();
    for (user, mut since) in users.iter().map(Arc::clone).zip(positions) {
        let site = Arc::clone(site);
        clients.spawn(async move {
            let connection = site.connection();
            loop {
                let answer = site.sync(&connection, &user, Some(&since), POLL_MS, FILTER).await;
                match answer.and_then(crate::http::Answer::check) {
                    Ok(answer) => since = next_batch(&answer.body).unwrap_or(since),
                    Err(error) => return error,
                }
            }
        });
    }
    tokio::time::sleep(SETTLE).await;
    let (meter, minute) = (site.meter(), Stopwatch::start());
    tokio::time::sleep(Duration::from_secs(sizes.idle_s)).await;
    let minutes = minute.elapsed().as_secs_f64() / 60.0;
    let grown = process::memory(site.pid()).anonymous_bytes.saturating_sub(before);
    let count = users.len();
    ensure!(clients.len() == count && clients.try_join_next().is_none(), "a client was refused");

    // One client for one minute is one operation.
    let whole: Vec<Operation> = users.iter().map(|_| Operation::of_ms(60e3)).collect();
    let mut cpu = meter.row("polls", &format!("{count} idle clients, a minute"), &whole);
    cpu.figure = Figure::CpuPer1000(cpu.figure.value() / minutes);
    cpu.latency = None;
    let each = Figure::Bytes(grown as f64 / count as f64);
    let memory = Row::single("polls", "memory of an idle client", each, String::new());
    clients.shutdown().await;
    Ok(vec![cpu, memory])
}
