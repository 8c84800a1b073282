//! Full-text search over a long room.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::clock::Stopwatch;
use crate::http::Connection;
use crate::measure::{Operation, Row};
use crate::scenario::Sizes;
use crate::server::Server;
use crate::site::{User, parallel};

/// One word of each message is its own, another is in every message.
const COMMON: &str = "medication";
/// Many, so that what the index does for itself after the last message weighs little.
const SEARCHES: usize = 200;
const PAGE: usize = 10;
/// An index may be written a moment after the event.
const INDEX_TRIES: usize = 60;
const INDEX_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let user = site.new_users(1).await?.remove(0);
    let connection = site.connection();
    let room = site.create_room(&connection, &user, json!({})).await?;
    let count = sizes.search_events;
    let (owned, sender, place) = (std::sync::Arc::clone(site), user.clone(), room.clone());
    let sent = parallel(site, count, 8, move |at, connection| {
        let (site, user, room) = (std::sync::Arc::clone(&owned), sender.clone(), place.clone());
        async move {
            let body = format!("{} bed {COMMON} plan checked before round", word(at));
            let content = json!({"msgtype": "m.text", "body": body});
            site.send(&connection, &user, &room, &content).await?.check().map(drop)
        }
    });
    sent.await?.into_iter().collect::<Result<Vec<()>>>()?;
    indexed(&connection, &user, &room, count - 1).await?;

    let meter = site.meter();
    let mut operations = Vec::new();
    for number in 0..SEARCHES {
        let start = Stopwatch::start();
        let found = search(&connection, &user, &room, &word(number * count / SEARCHES)).await?;
        operations.push(Operation::of_ms(start.ms()));
        ensure!(found["count"] == 1, "a word said once was found {} times", found["count"]);
    }
    let rare = meter.row("search", &format!("search, a rare word in {count} events"), &operations);

    let meter = site.meter();
    let mut operations = Vec::new();
    for _ in 0..SEARCHES {
        let start = Stopwatch::start();
        let found = search(&connection, &user, &room, COMMON).await?;
        operations.push(Operation::of_ms(start.ms()));
        let results = found["results"].as_array().map_or(0, Vec::len);
        ensure!(results == PAGE.min(count), "{results} results on a page of {PAGE}");
    }
    let name = format!("search, a word in all of {count} events");
    Ok(vec![rare, meter.row("search", &name, &operations)])
}

/// Letters only: a tokenizer may cut words at digits.
fn word(number: usize) -> String {
    let letters = b"bcdfghjklm";
    let digits = format!("{number:05}");
    let coded = digits.bytes().map(|digit| char::from(letters[usize::from(digit - b'0')]));
    format!("zq{}", coded.collect::<String>())
}

async fn search(connection: &Connection, user: &User, room: &str, term: &str) -> Result<Value> {
    let body = json!({"search_categories": {"room_events": {
        "search_term": term,
        "keys": ["content.body"],
        "order_by": "recent",
        "filter": {"limit": PAGE, "rooms": [room]},
    }}});
    let path = "/_matrix/client/v3/search";
    let mut json = connection.post(path, &user.token, &body).await?.check()?.json();
    Ok(json["search_categories"]["room_events"].take())
}

async fn indexed(connection: &Connection, user: &User, room: &str, last: usize) -> Result<()> {
    for _ in 0..INDEX_TRIES {
        if search(connection, user, room, &word(last)).await?["count"] == 1 {
            return Ok(());
        }
        tokio::time::sleep(INDEX_PAUSE).await;
    }
    bail!("the last message cannot be found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_word_of_its_own() {
        assert_eq!(word(0), "zqbbbbb");
        assert_eq!(word(12_345), "zqcdfgh");
    }
}
