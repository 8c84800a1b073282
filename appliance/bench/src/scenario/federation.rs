//! Two servers that share rooms: how soon a message is there and what it costs both together, joining a
//! large room from afar, catching up after an outage, and agreeing again after a partition.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::clock::Stopwatch;
use crate::http::encode;
use crate::measure::{Operation, Row};
use crate::pair::Pair;
use crate::scenario::{Shared, Sizes};
use crate::server::{Kind, Server};
use crate::site::{FILTER, Site, User, marks, message, next_batch};

/// Between two messages that are timed.
const PAUSE: Duration = Duration::from_millis(100);
const POLL_MS: u64 = 10_000;
/// Whatever takes longer has failed. Synapse joins rooms of thousands in minutes.
const PATIENCE: Duration = Duration::from_secs(900);
const CONNECTIONS: usize = 8;
/// Looks at a history that does not grow, two seconds apart, before it is taken for all there is.
const STILL_MAX: usize = 10;
const PAGE: usize = 100;
/// State that each side of a fork changes.
const FORKED_CHANGES: usize = 20;

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let mut pair = Pair::open(server).await?;
    let shared = sizes.shared(server);
    let mut rows = delivery(&pair, sizes, &shared).await?;
    rows.push(join(&pair, sizes, &shared).await?);
    rows.push(outage(&mut pair, sizes, &shared).await?);
    rows.push(fork(&pair, sizes, &shared).await?);
    pair.stop().await?;
    Ok(rows)
}

/// A room of the first server that somebody of the second is in.
async fn shared_room(pair: &Pair, members: usize) -> Result<(String, Vec<Arc<User>>, Arc<User>)> {
    let (one, other) = pair.sites();
    let users = one.new_users(members.max(1)).await?;
    // Anybody may change anything: a fork is about agreeing, not about power.
    let free = json!({ "power_level_content_override": { "state_default": 0, "events": {} } });
    let room = one.create_room(&one.connection(), &users[0], free).await?;
    one.join_all(&room, &users[1..], 4).await?;
    let guest = other.new_users(1).await?.remove(0);
    Ok((room, users, guest))
}

async fn enter(pair: &Pair, guest: &User, room: &str) -> Result<()> {
    let name = pair.name();
    let path = format!("/_matrix/client/v3/join/{}?via={name}&server_name={name}", encode(room));
    // It may take longer than the client waits for any answer: then it is asked again.
    let wall = Stopwatch::start();
    loop {
        let connection = pair.other.site.connection();
        let answer = connection.post(&path, &guest.token, &json!({})).await;
        match answer.and_then(crate::http::Answer::check) {
            Ok(_) => return Ok(()),
            Err(error) if wall.elapsed() > PATIENCE => return Err(error.context("join from afar")),
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// What one waiting client of the second server hears.
struct Listener {
    site: Arc<Site>,
    user: Arc<User>,
    since: String,
    heard: BTreeSet<usize>,
}

impl Listener {
    async fn begin(site: &Arc<Site>, user: &Arc<User>) -> Result<Self> {
        let users = [Arc::clone(user)];
        let since = site.positions(&users).await?.pop().context("a position")?;
        let (site, user) = (Arc::clone(site), Arc::clone(user));
        Ok(Self { site, user, since, heard: BTreeSet::new() })
    }

    /// Waits until messages with these numbers are there.
    async fn hear(&mut self, mark: &str, count: usize) -> Result<()> {
        let (connection, wall) = (self.site.connection(), Stopwatch::start());
        while self.heard.len() < count {
            ensure!(wall.elapsed() < PATIENCE, "{} of {count} arrived", self.heard.len());
            let answer =
                self.site.sync(&connection, &self.user, Some(&self.since), POLL_MS, FILTER).await?;
            let body = answer.check()?.body;
            self.heard.extend(marks(&body, mark));
            self.since = next_batch(&body).context("no next_batch")?;
        }
        Ok(())
    }
}

async fn delivery(pair: &Pair, sizes: &Sizes, shared: &Shared) -> Result<Vec<Row>> {
    const MARK: &str = "peer";
    let (one, other) = pair.sites();
    let (room, users, guest) = shared_room(pair, 1).await?;
    enter(pair, &guest, &room).await?;
    let mut listener = Listener::begin(&other, &guest).await?;
    let (singles, many) = (shared.single_messages, shared.messages);
    let connection = one.connection();
    // The first finds out where the other server is.
    one.send(&connection, &users[0], &room, &message(MARK, 0)).await?.check()?;
    listener.hear(MARK, 1).await?;

    let meter = pair.meter();
    let mut operations = Vec::new();
    for number in 1..=singles {
        let start = Stopwatch::start();
        let said = message(MARK, number);
        let sent = one.send(&connection, &users[0], &room, &said);
        let (sent, heard) = tokio::join!(sent, listener.hear(MARK, number + 1));
        sent?.check()?;
        heard?;
        operations.push(Operation::of_ms(start.ms()));
        tokio::time::sleep(PAUSE).await;
    }
    let row = meter.row("federation", "delivery to another server, one at a time", &operations);

    // Every message counts, whatever the sync answers leave out: the last one ends the measurement.
    let before = listener.heard.len();
    let meter = pair.meter();
    let wall = Stopwatch::start();
    let sent = one.send_many(std::slice::from_ref(&room), &users, many, CONNECTIONS).await?;
    one.send(&connection, &users[0], &room, &message(MARK, singles + 1)).await?.check()?;
    listener.hear(MARK, before + 1).await?;
    let took_s = wall.elapsed().as_secs_f64();
    let name = format!("delivery to another server, {} messages", sizes.peer_messages[1]);
    let mut flood = meter.row("federation", &name, &sent);
    flood.per_s = many as f64 / took_s;
    let found = settled(&other, &guest, &room, "bulk", many).await?;
    // Between two of Synapse some are now and then not found again by paging back.
    let is_whole = found == many || pair.one.kind == Kind::Synapse;
    ensure!(is_whole, "{found} of {many} messages arrived");
    let noted = format!(
        "the rate counts until the last is there; {found} of {many} are found by paging back"
    );
    Ok(vec![row, flood.noted(noted)])
}

/// The same once all are there, or no more come.
async fn settled(site: &Site, user: &User, room: &str, mark: &str, wanted: usize) -> Result<usize> {
    let (mut found, mut still) = (0, 0);
    while found < wanted && still < STILL_MAX {
        let now = all_messages(site, user, room, mark, wanted).await?;
        still = if now > found { 0 } else { still + 1 };
        found = now;
        if found < wanted {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
    Ok(found)
}

/// How many of the numbered messages somebody finds by paging back.
async fn all_messages(
    site: &Site,
    user: &User,
    room: &str,
    mark: &str,
    wanted: usize,
) -> Result<usize> {
    let (connection, mut from) = (site.connection(), String::new());
    let mut found = BTreeSet::new();
    let wall = Stopwatch::start();
    while found.len() < wanted && wall.elapsed() < PATIENCE {
        let room = encode(room);
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit={PAGE}{from}");
        let answer = connection.get(&path, &user.token).await?.check()?;
        found.extend(marks(&answer.body, mark));
        match answer.json()["end"].as_str() {
            Some(end) => from = format!("&from={}", encode(end)),
            None => break,
        }
    }
    Ok(found.len())
}

/// Somebody of the second server joins a large room of the first.
async fn join(pair: &Pair, sizes: &Sizes, shared: &Shared) -> Result<Row> {
    let (members, events) = (shared.members, shared.events);
    let (room, users, guest) = shared_room(pair, members).await?;
    let (one, other) = pair.sites();
    let senders = &users[..users.len().min(10)];
    one.send_many(std::slice::from_ref(&room), senders, events, CONNECTIONS).await?;
    let meter = pair.meter();
    let start = Stopwatch::start();
    enter(pair, &guest, &room).await?;
    // Synapse answers before it has the room's state: the join is done when the members are known.
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", encode(&room));
    let connection = other.connection();
    loop {
        let answer = connection.get(&path, &guest.token).await;
        let known = answer.ok().and_then(|answer| answer.check().ok()).map(|answer| answer.json());
        let known = known.and_then(|json| json["joined"].as_object().map(serde_json::Map::len));
        if known == Some(members + 1) {
            break;
        }
        ensure!(start.elapsed() < PATIENCE, "{known:?} of {} members", members + 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let [named_members, named_events] = sizes.peer_room;
    let name = format!("join from afar, {named_members} members, {named_events} events, a member");
    let row = meter.row("federation", &name, &[Operation::of_ms(start.ms())]);
    Ok(row.each_of(members).noted(format!("a room of {members} with {events} events")))
}

/// The second server is away while the first goes on; then its people read what they missed.
async fn outage(pair: &mut Pair, sizes: &Sizes, shared: &Shared) -> Result<Row> {
    let missed = shared.missed_events;
    let (room, users, guest) = shared_room(pair, 1).await?;
    enter(pair, &guest, &room).await?;
    let (one, other) = pair.sites();
    let mut listener = Listener::begin(&other, &guest).await?;
    pair.other.stop().await?;
    one.send_many(std::slice::from_ref(&room), &users, missed, CONNECTIONS).await?;
    pair.other.start().await?;
    let meter = pair.meter();
    let start = Stopwatch::start();
    // What is said now shows that the line is back, to whoever waits for it.
    one.send(&one.connection(), &users[0], &room, &message("back", 0)).await?.check()?;
    listener.hear("back", 1).await?;
    let heard_ms = start.ms();
    let found = settled(&other, &guest, &room, "bulk", missed).await?;
    let enough = if pair.one.kind == Kind::Synapse { missed * 95 / 100 } else { missed };
    ensure!(found >= enough, "{found} of {missed} events came after the outage");
    let name = format!("catch-up of {} events after an outage, an event", sizes.missed_events);
    let row = meter.row("federation", &name, &[Operation::of_ms(start.ms())]);
    let noted = format!(
        "what is said next is heard after {heard_ms:.0} ms; {found} of {missed} were found"
    );
    Ok(row.each_of(missed).noted(noted))
}

/// Both sides change the room while the line is cut; then they agree again.
async fn fork(pair: &Pair, sizes: &Sizes, shared: &Shared) -> Result<Row> {
    let members = shared.forked_members;
    let (room, users, guest) = shared_room(pair, members).await?;
    enter(pair, &guest, &room).await?;
    let (one, other) = pair.sites();
    let first = users[0].as_ref();
    agree(pair, &room, first, &guest).await?;
    pair.cut(true);
    for number in 0..FORKED_CHANGES {
        for (site, user, side) in [(&one, first, "one"), (&other, guest.as_ref(), "other")] {
            set(
                site,
                user,
                &room,
                "m.room.topic",
                "",
                json!({ "topic": format!("{side} {number}") }),
            )
            .await?;
            let key = format!("{number}");
            set(site, user, &room, "example.bed", &key, json!({ "of": side })).await?;
        }
        let user = &users[number % users.len()];
        let name = json!({ "membership": "join", "displayname": format!("Nurse {number}") });
        set(&one, user, &room, "m.room.member", &user.id, name).await?;
    }
    let meter = pair.meter();
    let start = Stopwatch::start();
    pair.cut(false);
    // Something new on either side makes the other look.
    for (site, user) in [(&one, first), (&other, guest.as_ref())] {
        site.send(&site.connection(), user, &room, &message("mended", 0)).await?.check()?;
    }
    agree(pair, &room, first, &guest).await?;
    let name = format!("agreeing on a forked room of {}, a member", sizes.forked_members);
    let row = meter.row("federation", &name, &[Operation::of_ms(start.ms())]);
    Ok(row.each_of(members).noted(format!("a room of {members}")))
}

async fn set(
    site: &Site,
    user: &User,
    room: &str,
    kind: &str,
    key: &str,
    content: Value,
) -> Result<()> {
    let path = format!("/_matrix/client/v3/rooms/{}/state/{kind}/{}", encode(room), encode(key));
    site.connection().put(&path, &user.token, &content).await?.check().map(drop)
}

/// Waits until both servers have the same state of what was changed and of the newest members.
async fn agree(pair: &Pair, room: &str, first: &User, guest: &User) -> Result<()> {
    let (one, other) = pair.sites();
    let wall = Stopwatch::start();
    loop {
        let ours = changed(&one, first, room).await?;
        // The guest's server may still be taking the room in.
        if changed(&other, guest, room).await.is_ok_and(|theirs| theirs == ours) {
            return Ok(());
        }
        if wall.elapsed() > PATIENCE {
            bail!("the servers do not agree");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The contested state, read entry by entry: all of it would cost more than what is measured.
async fn changed(site: &Site, user: &User, room: &str) -> Result<Vec<String>> {
    let connection = site.connection();
    let mut found = Vec::new();
    let mut keys = vec![("m.room.topic", String::new())];
    keys.extend((0..FORKED_CHANGES).map(|number| ("example.bed", number.to_string())));
    for (kind, key) in keys {
        let room = encode(room);
        let path = format!("/_matrix/client/v3/rooms/{room}/state/{kind}/{}", encode(&key));
        let answer = connection.get(&path, &user.token).await?;
        match answer.status {
            404 => found.push(String::new()),
            _ => found.push(String::from_utf8_lossy(&answer.check()?.body).into_owned()),
        }
    }
    Ok(found)
}
