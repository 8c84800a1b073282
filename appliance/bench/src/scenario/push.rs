//! Push rules for thousands: a message in a room of the whole house, and each member's counts.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::clock::Stopwatch;
use crate::measure::{Operation, Row};
use crate::scenario::Sizes;
use crate::server::Server;
use crate::site::{FILTER, User};

const MESSAGES: usize = 50;
/// Members whose counts are read afterwards.
const READERS: usize = 50;

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let users = site.users(sizes.house_members).await?;
    let connection = site.connection();
    let room = site.create_room(&connection, &users[0], json!({})).await?;
    site.join_all(&room, &users[1..], 4).await?;
    let readers: Vec<Arc<User>> = users[1..=READERS.min(users.len() - 1)].to_vec();
    let positions = site.positions(&readers).await?;

    let meter = site.meter();
    let only = std::slice::from_ref(&room);
    let sent = site.send_many(only, &users[..1], MESSAGES, 1).await?;
    let members = sizes.house_members;
    let send = meter.row("push", &format!("send, push rules of {members} members"), &sent);

    let meter = site.meter();
    let mut operations = Vec::new();
    for (reader, since) in readers.iter().zip(&positions) {
        let start = Stopwatch::start();
        let answer = site.sync(&connection, reader, Some(since), 0, FILTER).await;
        operations.push(Operation::ended(start, &answer));
        let json = answer?.check()?.json();
        let unread = &json["rooms"]["join"][&room]["unread_notifications"]["notification_count"];
        ensure!(*unread == MESSAGES, "{unread} of {MESSAGES} messages are counted as unread");
    }
    let name = format!("sync with unread counts, room of {members}");
    Ok(vec![send, meter.row("push", &name, &operations)])
}
