//! Sending: closed loops, each connection sends as soon as its previous send was answered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::task::JoinSet;

use crate::clock::Stopwatch;
use crate::measure::{Operation, Row};
use crate::scenario::Sizes;
use crate::server::Server;
use crate::site::{Site, User, message};

/// Members of an ordinary room.
pub(super) const MEMBERS: usize = 5;
const ROOMS: usize = 10;
const CONNECTIONS: usize = 16;
const WARM_UP_S: u64 = 2;

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let users = site.users(MEMBERS).await?;
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        let room = site.create_room(&site.connection(), &users[0], json!({})).await?;
        site.join_all(&room, &users[1..], 1).await?;
        rooms.push(room);
    }
    closed_loop(site, &rooms, &users, 2, WARM_UP_S).await;
    let mut rows = Vec::new();
    for (name, rooms, connections) in [
        ("send, 1 connection, 1 room", &rooms[..1], 1),
        ("send, 1 connection, 10 rooms", &rooms[..], 1),
        ("send, 16 connections, 1 room", &rooms[..1], CONNECTIONS),
        ("send, 16 connections, 10 rooms", &rooms[..], CONNECTIONS),
    ] {
        let meter = site.meter();
        let sent = closed_loop(site, rooms, &users, connections, sizes.send_s).await;
        rows.push(meter.row("send", name, &sent));
    }
    Ok(rows)
}

/// Sends for `seconds` over so many connections.
pub(super) async fn closed_loop(
    site: &Arc<Site>,
    rooms: &[String],
    users: &[Arc<User>],
    connections: usize,
    seconds: u64,
) -> Vec<Operation> {
    let wall = Stopwatch::start();
    let mut clients = JoinSet::new();
    for first in 0..connections {
        let (site, rooms, users) = (Arc::clone(site), rooms.to_vec(), users.to_vec());
        clients.spawn(async move {
            let connection = site.connection();
            let mut done = Vec::new();
            let mut at = first;
            while wall.elapsed() < Duration::from_secs(seconds) {
                let room = &rooms[at % rooms.len()];
                let user = &users[(at / rooms.len()) % users.len()];
                let start = Stopwatch::start();
                let answer = site.send(&connection, user, room, &message("loop", at)).await;
                let operation = Operation::ended(start, &answer);
                if operation.failure.is_some() {
                    // A server that refuses must not be asked a million times.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                done.push(operation);
                at += connections;
            }
            done
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}
