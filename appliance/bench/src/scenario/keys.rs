//! Keys for end-to-end encryption: devices publish them, others ask for them and take one each.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde_json::{Map, Value, json};

use crate::clock::Stopwatch;
use crate::measure::{Operation, Row};
use crate::scenario::Sizes;
use crate::server::Server;
use crate::site::{Site, User, parallel};

/// What a client keeps in stock, as the Element apps do.
const ONE_TIME_KEYS: usize = 50;
const QUERIES: usize = 20;

pub(super) async fn measure(server: &Server, sizes: &Sizes) -> Result<Vec<Row>> {
    let site = &server.site;
    let users = site.users(sizes.key_users).await?;
    let upload = upload(site, &users).await?;
    let all: Map<String, Value> = users.iter().map(|user| (user.id.clone(), json!([]))).collect();
    let body = json!({"device_keys": all});
    let query = ask(site, &users[0], "query", &body, "device_keys").await?;
    let one_each: Map<String, Value> = users
        .iter()
        .map(|user| (user.id.clone(), json!({user.device.as_str(): "signed_curve25519"})))
        .collect();
    let body = json!({"one_time_keys": one_each});
    let claim = ask(site, &users[0], "claim", &body, "one_time_keys").await?;
    Ok(vec![upload, query, claim])
}

async fn upload(site: &Arc<Site>, users: &[Arc<User>]) -> Result<Row> {
    let bodies: Arc<Vec<Value>> =
        Arc::new(users.iter().map(|user| keys_of(user)).collect::<Result<_>>()?);
    let people = users.to_vec();
    let meter = site.meter();
    let operations = parallel(site, users.len(), 4, move |at, connection| {
        let (user, bodies) = (Arc::clone(&people[at]), Arc::clone(&bodies));
        async move {
            let start = Stopwatch::start();
            let path = "/_matrix/client/v3/keys/upload";
            let answer = connection.post(path, &user.token, &bodies[at]).await;
            Operation::ended(start, &answer)
        }
    });
    let operations = operations.await?;
    Ok(meter.row("keys", "keys upload, 1 device and 50 one-time keys", &operations))
}

/// Asks about all users in one request, again and again; each answer must name all of them.
async fn ask(site: &Site, user: &User, verb: &str, body: &Value, answers_in: &str) -> Result<Row> {
    let connection = site.connection();
    let path = format!("/_matrix/client/v3/keys/{verb}");
    let count = body[answers_in].as_object().map_or(0, Map::len);
    let mut operations = Vec::new();
    let meter = site.meter();
    for _ in 0..QUERIES {
        let start = Stopwatch::start();
        let answer = connection.post(&path, &user.token, body).await;
        operations.push(Operation::ended(start, &answer));
        let json = answer?.check()?.json();
        let found = json[answers_in].as_object().context("no keys in the answer")?;
        let named = found.values().filter(|of| of.as_object().is_some_and(|of| !of.is_empty()));
        let named = named.count();
        ensure!(named == count, "keys of {named} of {count} users");
    }
    Ok(meter.row("keys", &format!("keys {verb}, {count} users in one request"), &operations))
}

/// Device keys and one-time keys, signed as a client signs them.
fn keys_of(user: &User) -> Result<Value> {
    let seed: [u8; 32] = std::array::from_fn(|at| {
        let text = user.id.as_bytes();
        text[at % text.len()].wrapping_add(u8::try_from(at).unwrap_or_default())
    });
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).context("signing key")?;
    let (curve, ed) = (format!("curve25519:{}", user.device), format!("ed25519:{}", user.device));
    let sign = |mut value: Value| {
        // serde_json sorts keys and adds no space: for these values that is canonical JSON.
        let signature = BASE64.encode(pair.sign(value.to_string().as_bytes()));
        value["signatures"] = json!({user.id.as_str(): {ed.as_str(): signature}});
        value
    };
    let device = sign(json!({
        "user_id": user.id,
        "device_id": user.device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            curve: BASE64.encode(seed),
            ed.as_str(): BASE64.encode(pair.public_key()),
        },
    }));
    let one_time: Map<String, Value> = (0..ONE_TIME_KEYS)
        .map(|number| {
            let mut key = seed;
            key[0] = u8::try_from(number).unwrap_or_default();
            (format!("signed_curve25519:AAAA{number:02}"), sign(json!({"key": BASE64.encode(key)})))
        })
        .collect();
    Ok(json!({"device_keys": device, "one_time_keys": one_time}))
}
