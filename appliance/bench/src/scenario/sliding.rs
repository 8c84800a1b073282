//! Simplified sliding sync: a phone's cold start with many rooms, and what follows.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::clock::Stopwatch;
use crate::http::{Answer, Connection};
use crate::measure::{Operation, Row};
use crate::scenario::Sizes;
use crate::scenario::sync::rooms_of;
use crate::server::Server;
use crate::site::{Site, User, text};

/// Messages in each room.
const EVENTS: usize = 2;
/// The list that a phone shows first, and by how many rooms it grows after that.
const FIRST_ROOMS: usize = 20;
const GROWTH_ROOMS: usize = 100;
const COLD_STARTS: usize = 10;
/// Rooms in which something happens between two polls.
const BUSY_ROOMS: usize = 10;
const POLLS: usize = 50;
/// Work that the sends left behind ends before anything is measured.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let people = site.new_users(2).await?;
    let rooms = rooms_of(site, &people, sizes.sliding_rooms).await?;
    site.send_many(&rooms, &people, rooms.len() * EVENTS, 8).await?;
    tokio::time::sleep(SETTLE).await;

    let user = &people[0];
    let connection = site.connection();
    let mut operations = Vec::new();
    let meter = site.meter();
    let (mut pos, mut bytes) = (String::new(), 0);
    for number in 0..COLD_STARTS {
        let start = Stopwatch::start();
        (pos, bytes) = cold_start(&connection, user, number, rooms.len()).await?;
        operations.push(Operation::of_ms(start.ms()));
    }
    let name = format!("sliding sync, cold start of {} rooms", rooms.len());
    let cold = meter.row("sliding", &name, &operations).noted(format!("{} kB", bytes / 1000));

    let phone = Phone { site, connection: &connection, user, rooms: rooms.len() };
    let (nothing, pos) = phone.polls(&pos, "sliding sync with nothing new", &[], &people).await?;
    let name = format!("sliding sync, events in {BUSY_ROOMS} rooms");
    let busy = &rooms[..BUSY_ROOMS.min(rooms.len())];
    let (some, _) = phone.polls(&pos, &name, busy, &people).await?;
    Ok(vec![cold, some, nothing])
}

/// What Element X asks for in its room list.
fn request(connection_number: usize, last_room: usize) -> Value {
    let state = |kind: &str, key: &str| json!([kind, key]);
    json!({
        "conn_id": format!("list-{connection_number}"),
        "lists": {"all_rooms": {
            "ranges": [[0, last_room]],
            "timeline_limit": 1,
            "required_state": [
                state("m.room.name", ""),
                state("m.room.encryption", ""),
                state("m.room.member", "$LAZY"),
                state("m.room.member", "$ME"),
                state("m.room.topic", ""),
                state("m.room.canonical_alias", ""),
                state("m.room.power_levels", ""),
                state("m.room.join_rules", ""),
                state("m.room.create", ""),
                state("m.room.tombstone", ""),
            ],
            "filters": {"not_room_types": ["m.space"]},
        }},
        "extensions": {
            "account_data": {"enabled": true},
            "receipts": {"enabled": true, "rooms": ["*"]},
            "typing": {"enabled": true},
        },
    })
}

async fn ask(
    connection: &Connection,
    user: &User,
    pos: Option<&str>,
    body: &Value,
) -> Result<Answer> {
    let pos = pos.map(|pos| format!("&pos={}", crate::http::encode(pos))).unwrap_or_default();
    let path =
        format!("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0{pos}");
    connection.post(&path, &user.token, body).await
}

/// From nothing to the whole list: a screenful first, then a hundred at a time, as the app does.
async fn cold_start(
    connection: &Connection,
    user: &User,
    number: usize,
    rooms: usize,
) -> Result<(String, usize)> {
    let mut pos: Option<String> = None;
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    let mut shown = FIRST_ROOMS.min(rooms);
    loop {
        let body = request(number, shown - 1);
        let answer = ask(connection, user, pos.as_deref(), &body).await?.check()?;
        bytes += answer.body.len();
        let json = answer.json();
        seen.extend(json["rooms"].as_object().into_iter().flatten().map(|(id, _)| id.clone()));
        let next = text(&json, "pos")?;
        if shown == rooms {
            ensure!(seen.len() == rooms, "{} of {rooms} rooms", seen.len());
            return Ok((next, bytes));
        }
        pos = Some(next);
        shown = (shown + GROWTH_ROOMS).min(rooms);
    }
}

/// A phone whose list is complete.
struct Phone<'a> {
    site: &'a std::sync::Arc<Site>,
    connection: &'a Connection,
    user: &'a User,
    rooms: usize,
}

impl Phone<'_> {
    /// Polls that do not wait; before each, one message is sent to every room of `busy`, and the
    /// poll must show just these rooms. What the sends cost is not counted.
    async fn polls(
        &self,
        from: &str,
        name: &str,
        busy: &[String],
        people: &[std::sync::Arc<User>],
    ) -> Result<(Row, String)> {
        let body = request(COLD_STARTS - 1, self.rooms - 1);
        let mut pos = from.to_owned();
        let mut operations = Vec::new();
        let mut sends_cpu_s = 0.0;
        let meter = self.site.meter();
        for _ in 0..POLLS {
            if !busy.is_empty() {
                let sending = self.site.meter();
                self.site.send_many(busy, &people[1..], busy.len(), 1).await?;
                sends_cpu_s += sending.cpu_s();
            }
            let start = Stopwatch::start();
            let answer = ask(self.connection, self.user, Some(&pos), &body).await;
            operations.push(Operation::ended(start, &answer));
            let json = answer?.check()?.json();
            let shown = json["rooms"].as_object().map_or(0, serde_json::Map::len);
            ensure!(shown == busy.len(), "{shown} rooms shown, {} are new", busy.len());
            pos = json["pos"].as_str().context("no pos")?.to_owned();
        }
        Ok((meter.without_cpu_s(sends_cpu_s).row("sliding", name, &operations), pos))
    }
}
