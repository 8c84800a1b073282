//! What the clinical policy costs a download: the same photo out of a room of a clinical class, and out of
//! one that has none. On a server as a hospital runs it: in conformance mode there are no classes. Whoever looks
//! does so from a managed device, so that both get the whole photo.

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::json;

use crate::clock::{self, Stopwatch};
use crate::http::Connection;
use crate::measure::{Figure, Operation, Row};
use crate::scenario::Sizes;
use crate::scenario::media::photo;
use crate::server::{Kind, Server};
use crate::site::{User, text};

/// Downloads of each photo: the first counts as a look, the others are the same look.
const TIMES: usize = 10;

pub(super) async fn measure(server: &mut Server, sizes: &Sizes) -> Result<Vec<Row>> {
    if server.kind != Kind::Wardstone {
        return Ok(Vec::new());
    }
    let users = server.site.users(2).await?;
    server.restart_as_a_hospital(true).await?;
    let measured = compare(server, sizes, &users[0], &users[1]).await;
    server.restart_as_a_hospital(false).await?;
    measured
}

async fn compare(server: &Server, sizes: &Sizes, one: &User, other: &User) -> Result<Vec<Row>> {
    let site = &server.site;
    let connection = site.connection();
    // The sessions of before are of no class that is shown a governed photo.
    let other = &site.log_in(&connection, other).await?;
    let (general, governed) = (json!({}), json!({ "class": "clinical-photo" }));
    let mut files = Vec::new();
    for policy in [general, governed] {
        let initial = json!({ "initial_state": [
            { "type": "io.wardstone.policy", "state_key": "", "content": policy },
        ] });
        let room = site.create_room(&connection, one, initial).await?;
        site.join(&connection, other, &room).await?.check()?;
        files.push(shown(server, &connection, one, &room, sizes.photos).await?);
    }
    let mut timed = [Vec::new(), Vec::new()];
    // In turns, so that both meet the same weather.
    for _ in 0..TIMES {
        for (files, timed) in files.iter().zip(&mut timed) {
            for (name, bytes) in files {
                let start = Stopwatch::start();
                let path = format!("/_matrix/client/v1/media/download/{name}");
                let got = connection.get(&path, &other.token).await;
                timed.push(Operation::ended(start, &got));
                let got = got?.check()?.body.len();
                ensure!(got == *bytes, "{got} bytes of a photo of {bytes}");
            }
        }
    }
    let [general, governed] = timed;
    let row = |name: &str, operations: &[Operation]| {
        let mut row = site.meter().row("governed", name, operations);
        row.figure = row.latency.map_or(Figure::Ms(f64::MAX), |latency| Figure::Ms(latency.p50));
        // The two were taken in turns: only each one's own time says something.
        let total_s: f64 = operations.iter().map(|operation| operation.ms / 1e3).sum();
        row.per_s = row.operations as f64 / total_s;
        row
    };
    Ok(vec![
        row("download out of a general room", &general),
        row("download out of a clinical room", &governed),
    ])
}

async fn shown(
    server: &Server,
    connection: &Connection,
    user: &User,
    room: &str,
    photos: usize,
) -> Result<Vec<(String, usize)>> {
    let mut names = Vec::new();
    for _ in 0..photos {
        let path = "/_matrix/media/v3/upload?filename=photo.jpg";
        let bytes = photo(clock::run_number() + names.len() as u64)?;
        let size = bytes.len();
        let sent = connection.request(Method::POST, path, &user.token, "image/jpeg", bytes).await?;
        let uri = text(&sent.check().context("upload")?.json(), "content_uri")?;
        let content = json!({ "msgtype": "m.image", "body": "photo.jpg", "url": uri });
        server.site.send(connection, user, room, &content).await?.check().context("send")?;
        names.push((uri.strip_prefix("mxc://").context("not an mxc:// URI")?.to_owned(), size));
    }
    Ok(names)
}
