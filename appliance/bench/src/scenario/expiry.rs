//! Many files whose time comes at once: how fast they are gone, and what those notice who talk meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::clock::Stopwatch;
use crate::http::encode;
use crate::measure::{Figure, Row};
use crate::scenario::Sizes;
use crate::scenario::send::closed_loop;
use crate::server::{Kind, Server};
use crate::site::{Site, User, text};

/// A room's policy reaches at most 50,000 files at once.
const FILES_PER_ROOM_MAX: usize = 40_000;
const CONNECTIONS: usize = 16;
/// Their time comes a second after their room's policy says so.
const TTL_MS: u64 = 1_000;
/// Long enough for the slowest disk.
const WAIT: Duration = Duration::from_secs(3_600);

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    if server.kind != Kind::Wardstone {
        // No other server has it.
        return Ok(Vec::new());
    }
    let site = &server.site;
    let users = site.users(2).await?;
    let before = server.media_files();
    let (mut rooms, mut left) = (Vec::new(), sizes.expiring_files);
    while left > 0 {
        let files = left.min(FILES_PER_ROOM_MAX);
        let room = site.create_room(&site.connection(), &users[0], json!({})).await?;
        show(site, &users[0], &room, files).await?;
        rooms.push(room);
        left -= files;
    }
    ensure!(server.media_files() >= before + sizes.expiring_files, "the files are there");
    let quiet = site.create_room(&site.connection(), &users[1], json!({})).await?;
    let talkers = [Arc::clone(&users[1])];
    let meter = site.meter();
    let calm = closed_loop(site, std::slice::from_ref(&quiet), &talkers, 1, sizes.send_s).await;
    let calm = meter.row("expiry", "send, before files are erased", &calm);

    let connection = site.connection();
    for room in &rooms {
        let path = format!("/_matrix/client/v3/rooms/{}/state/io.wardstone.policy", encode(room));
        let policy = json!({ "media": { "ttl_ms": TTL_MS } });
        connection.put(&path, &users[0].token, &policy).await?.check()?;
    }
    let wall = Stopwatch::start();
    let meter = site.meter();
    let mut talked = Vec::new();
    let mut fewest = usize::MAX;
    while fewest > before {
        ensure!(wall.elapsed() < WAIT, "{fewest} files are still there");
        talked.extend(closed_loop(site, std::slice::from_ref(&quiet), &talkers, 1, 1).await);
        fewest = server.media_files();
    }
    let took_s = wall.elapsed().as_secs_f64() - TTL_MS as f64 / 1e3;
    let files = sizes.expiring_files;
    let name = format!("erasure of {files} files at once");
    let note = format!("{:.0} files a second", files as f64 / took_s);
    let erased = Row::single("expiry", &name, Figure::Ms(took_s * 1e3), note);
    let during = meter.row("expiry", "send, while files are erased", &talked);
    Ok(vec![erased, calm, during])
}

/// Uploads so many small files, and shows each in a message.
async fn show(site: &Arc<Site>, user: &Arc<User>, room: &str, files: usize) -> Result<()> {
    let mut clients = JoinSet::new();
    for first in 0..CONNECTIONS {
        let (site, user, room) = (Arc::clone(site), Arc::clone(user), room.to_owned());
        clients.spawn(async move {
            let connection = site.connection();
            for at in (first..files).step_by(CONNECTIONS) {
                let path = "/_matrix/media/v3/upload?filename=note.txt";
                let body = Bytes::from(format!("note {at} of {room}"));
                let sent =
                    connection.request(Method::POST, path, &user.token, "text/plain", body).await?;
                let uri = text(&sent.check().context("upload")?.json(), "content_uri")?;
                let content = json!({ "msgtype": "m.file", "body": "note.txt", "url": uri });
                site.send(&connection, &user, &room, &content).await?.check().context("send")?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}
