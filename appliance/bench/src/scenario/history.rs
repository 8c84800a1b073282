//! A long room: what its events occupy on disk, and paging back through them.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::clock::Stopwatch;
use crate::http::encode;
use crate::measure::{Figure, Operation, Row};
use crate::scenario::Sizes;
use crate::scenario::send::MEMBERS;
use crate::server::Server;
use crate::site::marks;

const PAGE: usize = 100;
/// Logs and journals of the store settle before the disk is looked at.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let users = site.users(MEMBERS).await?;
    let connection = site.connection();
    let room = site.create_room(&connection, &users[0], json!({})).await?;
    site.join_all(&room, &users[1..], 1).await?;

    let before = server.disk_bytes();
    site.send_many(std::slice::from_ref(&room), &users, sizes.history_events, 8).await?;
    tokio::time::sleep(SETTLE).await;
    let grown = server.disk_bytes().saturating_sub(before);
    let name = format!("disk per event, over {} events", sizes.history_events);
    let each = Figure::Bytes(grown as f64 / sizes.history_events as f64);
    let disk = Row::single("history", &name, each, String::new());

    let mut operations = Vec::new();
    let mut seen = 0;
    let mut from = String::new();
    let meter = site.meter();
    while operations.len() <= sizes.history_events / PAGE + 1 {
        let path =
            format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit={PAGE}{from}", encode(&room));
        let start = Stopwatch::start();
        let answer = connection.get(&path, &users[0].token).await;
        operations.push(Operation::ended(start, &answer));
        let answer = answer?.check()?;
        seen += marks(&answer.body, "bulk").len();
        let json = answer.json();
        match json["end"].as_str() {
            Some(end) => from = format!("&from={}", encode(end)),
            None => break,
        }
    }
    let row = meter.row("history", "/messages, 100 events a page", &operations);
    ensure!(seen == sizes.history_events, "{seen} of {} events seen", sizes.history_events);
    Ok(vec![disk, row])
}
