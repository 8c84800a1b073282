//! `/sync`: everything for a new phone, a little for a known one, nothing for most.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::clock::Stopwatch;
use crate::measure::{Operation, Row};
use crate::scenario::Sizes;
use crate::server::Server;
use crate::site::{FILTER, Site, User, marks, next_batch, parallel, text};

/// Messages in each room, all of which an initial sync shows.
const EVENTS: usize = 20;
/// Rooms in which something happens before an incremental sync.
const BUSY_ROOMS: usize = 10;
const INITIAL_SYNCS: usize = 10;
const INCREMENTAL_SYNCS: usize = 200;
/// Work that the sends left behind ends before syncs are measured.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let people = site.new_users(2).await?;
    let rooms = rooms_of(site, &people, sizes.sync_rooms).await?;
    site.send_many(&rooms, &people, rooms.len() * EVENTS, 8).await?;
    tokio::time::sleep(SETTLE).await;

    let user = &people[0];
    let (initial, since) = initial(site, user, rooms.len()).await?;
    let nothing = incremental(site, user, &since, "sync with nothing new", 0).await?;
    let busy: Vec<String> = rooms.iter().take(BUSY_ROOMS).cloned().collect();
    site.send_many(&busy, &people[1..], busy.len(), 1).await?;
    tokio::time::sleep(SETTLE).await;
    let name = format!("incremental sync, {0} events in {0} rooms", busy.len());
    let some = incremental(site, user, &since, &name, busy.len()).await?;
    Ok(vec![initial, some, nothing])
}

/// Rooms that the second of `people` made and the first joined.
pub(super) async fn rooms_of(
    site: &Arc<Site>,
    people: &[Arc<User>],
    count: usize,
) -> Result<Vec<String>> {
    let (owned, people) = (Arc::clone(site), people.to_vec());
    let made = parallel(site, count, 4, move |at, connection| {
        let (site, people) = (Arc::clone(&owned), people.clone());
        async move {
            let name = json!({"name": format!("Room {at}")});
            let room = site.create_room(&connection, &people[1], name).await?;
            site.join(&connection, &people[0], &room).await?.check()?;
            Ok(room)
        }
    });
    made.await?.into_iter().collect()
}

/// Filters that differ: an answer kept for the same question must not serve.
fn filter(timeline_limit: usize, number: usize) -> String {
    let room = json!({"timeline": {"limit": timeline_limit}, "state": {"lazy_load_members": true}});
    json!({
        "room": room,
        "presence": {"types": []},
        "account_data": {"limit": 100 + number},
    })
    .to_string()
}

async fn initial(site: &Site, user: &User, rooms: usize) -> Result<(Row, String)> {
    let connection = site.connection();
    let mut operations = Vec::new();
    let mut since = String::new();
    let mut bytes = 0;
    let meter = site.meter();
    for number in 0..INITIAL_SYNCS {
        let start = Stopwatch::start();
        let answer = site.sync(&connection, user, None, 0, &filter(EVENTS, number)).await;
        operations.push(Operation::ended(start, &answer));
        let answer = answer?.check()?;
        bytes = answer.body.len();
        since = next_batch(&answer.body).context("no next_batch")?;
        if number == 0 {
            whole(&answer.json(), rooms)?;
        }
    }
    let name = format!("initial sync, {rooms} rooms x {EVENTS} events");
    let row = meter.row("sync", &name, &operations).noted(format!("{} kB", bytes / 1000));
    Ok((row, since))
}

/// Every room is there, with as many events as were asked for.
fn whole(answer: &Value, rooms: usize) -> Result<()> {
    let joined = answer["rooms"]["join"].as_object().context("no joined rooms")?;
    ensure!(joined.len() == rooms, "{} of {rooms} rooms", joined.len());
    for (id, room) in joined {
        let events = room["timeline"]["events"].as_array().map_or(0, Vec::len);
        ensure!(events == EVENTS, "{events} of {EVENTS} events in {id}");
    }
    Ok(())
}

async fn incremental(
    site: &Site,
    user: &User,
    since: &str,
    name: &str,
    events: usize,
) -> Result<Row> {
    let connection = site.connection();
    let first = site.sync(&connection, user, Some(since), 0, FILTER).await?.check()?;
    let found = marks(&first.body, "bulk").len();
    ensure!(found == events, "{found} of {events} new events");
    text(&first.json(), "next_batch")?;
    let mut operations = Vec::new();
    let meter = site.meter();
    for number in 0..INCREMENTAL_SYNCS {
        let start = Stopwatch::start();
        let answer = site.sync(&connection, user, Some(since), 0, &filter(EVENTS, number)).await;
        operations.push(Operation::ended(start, &answer));
    }
    Ok(meter.row("sync", name, &operations))
}
