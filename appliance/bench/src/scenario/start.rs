//! After the load: memory, and how long a restart keeps the ward waiting.

use anyhow::Result;
use serde_json::json;

use crate::measure::{Figure, Row};
use crate::scenario::Sizes;
use crate::scenario::idle::memory_row;
use crate::scenario::send::{MEMBERS, closed_loop};
use crate::server::Server;

const ROOMS: usize = 10;
const RESTARTS: usize = 3;

pub(super) async fn measure(server: &mut Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let events = sizes.start_events(server);
    let site = &server.site;
    let users = site.users(MEMBERS).await?;
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        let room = site.create_room(&site.connection(), &users[0], json!({})).await?;
        site.join_all(&room, &users[1..], 1).await?;
        rooms.push(room);
    }
    site.send_many(&rooms, &users, events, 16).await?;
    let after = memory_row("start", "memory, after the load", server).await;
    let meter = site.meter();
    let sent = closed_loop(site, &rooms[..1], &users, 1, sizes.send_s).await;
    let send = meter.row("start", "send, 1 connection, 1 room, full store", &sent);

    let mut slowest_ms = 0.0_f64;
    for _ in 0..RESTARTS {
        server.stop().await?;
        server.start().await?;
        slowest_ms = slowest_ms.max(server.first_answer.as_secs_f64() * 1e3);
    }
    let note = match events {
        0 => "on the store of this run".to_owned(),
        _ => format!("store of more than {events} events, {} on disk", on_disk(server)),
    };
    let start = Row::single("start", "first answer after start", Figure::Ms(slowest_ms), note);
    Ok(vec![after, send, start])
}

fn on_disk(server: &Server) -> String {
    Figure::Bytes(server.disk_bytes() as f64).to_string()
}
