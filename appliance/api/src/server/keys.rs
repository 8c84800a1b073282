//! Signing keys: this server's own, and what it knows of others'.

use std::collections::BTreeMap;

use appliance_model::Error;
use appliance_model::ruma::OwnedServerName;
use appliance_model::ruma::api::federation::discovery::{
    get_remote_server_keys, get_remote_server_keys_batch, get_server_keys,
};
use appliance_services::Services;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use crate::json::{answer, read_json};
use crate::route::{RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_json::<get_server_keys::v2::Request, _, _>(get_keys);
    routes.serve_raw_as::<get_remote_server_keys::v2::Request, _, _>(query_one);
    routes.serve_raw_as::<get_remote_server_keys_batch::v2::Request, _, _>(query_many);
}

async fn get_keys(visit: Visit<get_server_keys::v2::Request>) -> Result<String, Error> {
    let keys = visit.services.house.own_keys()?;
    serde_json::to_string(&keys).map_err(Error::internal)
}

async fn query_one(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let server = visit.request.param(0)?;
    let server = OwnedServerName::try_from(server)
        .map_err(|_| Error::invalid_param("The path has no server's name."))?;
    let until_ms = visit.request.query("minimum_valid_until_ts").and_then(|ms| ms.parse().ok());
    tell(&visit.services, vec![(server, until_ms)]).await
}

/// `server_keys`: server to key IDs to what is wanted of the key.
#[derive(Deserialize)]
struct Query {
    server_keys: BTreeMap<OwnedServerName, BTreeMap<String, Criteria>>,
}

#[derive(Deserialize)]
struct Criteria {
    minimum_valid_until_ts: Option<u64>,
}

async fn query_many(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let query: Query = read_json(&mut visit.request).await?;
    let wanted = query.server_keys.into_iter().map(|(server, keys)| {
        let until_ms = keys.values().filter_map(|key| key.minimum_valid_until_ts).max();
        (server, until_ms)
    });
    let wanted = wanted.collect();
    tell(&visit.services, wanted).await
}

async fn tell(
    services: &Services,
    wanted: Vec<(OwnedServerName, Option<u64>)>,
) -> Result<Response, Error> {
    // "If not supplied, the current time as determined by the notary server is used."
    let now_ms = services.house.clock.now_ms();
    let wanted = wanted.into_iter().map(|(server, ms)| (server, ms.unwrap_or(now_ms))).collect();
    let told = services.peers.tell_keys(wanted).await?;
    answer(&json!({ "server_keys": told }))
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::serde::Base64;
    use appliance_model::ruma::signatures::{PublicKeyMap, PublicKeySet, verify_json};
    use appliance_model::ruma::{CanonicalJsonObject, server_name};
    use appliance_services::egress::Opened;
    use axum::body::Body;
    use futures_util::StreamExt;
    use http::Request;
    use serde_json::Value;

    use crate::town::Town;

    async fn json(opened: Opened) -> (u16, Value) {
        let mut body = opened.body;
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        (opened.status.as_u16(), serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_server_tells_its_key_and_what_it_knows_of_others() {
        let town = Town::of(&["a.example", "b.example"]).await;
        let (a, b) = (server_name!("a.example"), server_name!("b.example"));
        let ask = |path: &str, body: &'static str| {
            let method = if body.is_empty() { "GET" } else { "POST" };
            Request::builder().method(method).uri(path).body(Body::from(body)).unwrap()
        };
        let own = town.line.ring(a, ask("/_matrix/key/v2/server", "")).await.unwrap();
        let (status, own) = json(own).await;
        assert_eq!((status, own["server_name"].as_str()), (200, Some("a.example")));

        let body = r#"{"server_keys": {"b.example": {}, "c.example": {}}}"#;
        let told = town.line.ring(a, ask("/_matrix/key/v2/query", body)).await.unwrap();
        let (_, told) = json(told).await;
        let keys = told["server_keys"].as_array().unwrap();
        assert_eq!(keys.len(), 1, "c.example is unknown: {told}");
        assert_eq!(keys[0]["server_name"], "b.example");
        // Signed by both: each signature is verified with what its owner says of its key.
        let said: CanonicalJsonObject = serde_json::from_value(keys[0].clone()).unwrap();
        let mut keys = PublicKeyMap::new();
        for index in [0, 1] {
            let house = &town.desk(index).services.house;
            let public = Base64::new(house.signing_key.public_key().to_vec());
            let set = PublicKeySet::from([("ed25519:a_1".to_owned(), public)]);
            keys.insert(house.server_name.to_string(), set);
        }
        verify_json(&keys, &said).unwrap();
        // And once it is known, the owner is not asked again.
        town.line.set_up("b.example", false);
        let told = town.line.ring(a, ask("/_matrix/key/v2/query/b.example", "")).await.unwrap();
        assert_eq!(json(told).await.1["server_keys"].as_array().unwrap().len(), 1);
        assert!(town.line.ring(b, ask("/_matrix/key/v2/server", "")).await.is_none());
    }
}
