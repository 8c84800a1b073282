//! A room with many members: does it cost more to be in good company?

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::clock::Stopwatch;
use crate::http::encode;
use crate::measure::{Operation, Row};
use crate::scenario::Sizes;
use crate::scenario::send::closed_loop;
use crate::server::Server;
use crate::site::{Site, User};

const SMALL: usize = 10;
const READS: usize = 20;
const SENDERS: usize = 5;

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let users = site.users(sizes.members).await?;
    let connection = site.connection();

    // Joins into small rooms: each room takes ten newcomers at most, so that it stays small.
    let mut rooms = Vec::new();
    for newcomers in users[SMALL..SMALL + sizes.joins].chunks(SMALL) {
        let room = site.create_room(&connection, &users[0], json!({})).await?;
        site.join_all(&room, &users[1..SMALL], 4).await?;
        rooms.push((room, newcomers));
    }
    let meter = site.meter();
    let mut joins = Vec::new();
    for (room, newcomers) in &rooms {
        joins.extend(site.join_all(room, newcomers, 1).await?);
    }
    let small = meter.row("room", &format!("join a room of {SMALL}"), &joins);

    let room = site.create_room(&connection, &users[0], json!({})).await?;
    let (early, late) = users[1..].split_at(users.len() - 1 - sizes.joins);
    site.join_all(&room, early, 4).await?;
    let meter = site.meter();
    let joins = site.join_all(&room, late, 1).await?;
    let members = sizes.members;
    let big = meter.row("room", &format!("join a room of {members}"), &joins);

    let path = |end: &str| format!("/_matrix/client/v3/rooms/{}/{end}", encode(&room));
    let all = read(site, &users[0], &path("members"), "m.room.member", members).await?;
    let all = all.row(&format!("/members of {members}"));
    let joined = read(site, &users[0], &path("joined_members"), "display_name", members).await?;
    let joined = joined.row(&format!("/joined_members of {members}"));

    let senders: Vec<Arc<User>> = users[..SENDERS].to_vec();
    let meter = site.meter();
    let sent = closed_loop(site, &[room], &senders, 1, sizes.send_s).await;
    let send = meter.row("room", &format!("send, 1 connection, room of {members}"), &sent);
    Ok(vec![small, big, all, joined, send])
}

struct Reads {
    meter: crate::measure::Meter,
    operations: Vec<Operation>,
    bytes: usize,
}

impl Reads {
    fn row(self, name: &str) -> Row {
        let row = self.meter.row("room", name, &self.operations);
        row.noted(format!("{} kB", self.bytes / 1000))
    }
}

/// Reads one answer again and again; it must name every member.
async fn read(
    site: &Site,
    user: &User,
    path: &str,
    once_per_member: &str,
    members: usize,
) -> Result<Reads> {
    let connection = site.connection();
    let first = connection.get(path, &user.token).await?.check()?;
    let found = String::from_utf8_lossy(&first.body).matches(once_per_member).count();
    ensure!(found == members, "{found} of {members} members");
    let meter = site.meter();
    let mut operations = Vec::new();
    for _ in 0..READS {
        let start = Stopwatch::start();
        let answer = connection.get(path, &user.token).await;
        operations.push(Operation::ended(start, &answer));
    }
    Ok(Reads { meter, operations, bytes: first.body.len() })
}
