//! `/_matrix/federation/v1/user/…`: the devices of people here, their keys, and one-time keys to begin
//! encrypted sessions with.

use std::collections::BTreeMap;

use appliance_model::Error;
use appliance_model::ruma::api::federation::device::get_devices;
use appliance_model::ruma::api::federation::keys::{claim_keys, get_keys};
use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_services::keys::{Claims, Queries, RawJson};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::json::{answer, read_json};
use crate::route::{RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<get_devices::v1::Request, _, _>(get_devices);
    routes.serve_raw_as::<get_keys::v1::Request, _, _>(query);
    routes.serve_raw_as::<claim_keys::v1::Request, _, _>(claim);
}

async fn get_devices(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = UserId::parse(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("The path has no user ID."))?;
    answer(&visit.services.keys.devices_for_server(&user_id).await?)
}

#[derive(Deserialize)]
struct QueryBody {
    device_keys: Queries,
}

#[derive(Serialize)]
struct QueryAnswer {
    device_keys: BTreeMap<OwnedUserId, BTreeMap<String, RawJson>>,
    master_keys: BTreeMap<OwnedUserId, RawJson>,
    self_signing_keys: BTreeMap<OwnedUserId, RawJson>,
}

async fn query(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: QueryBody = read_json(&mut visit.request).await?;
    let found = visit.services.keys.query_for_server(body.device_keys).await?;
    answer(&QueryAnswer {
        device_keys: found.device_keys,
        master_keys: found.master_keys,
        self_signing_keys: found.self_signing_keys,
    })
}

#[derive(Deserialize)]
struct ClaimBody {
    one_time_keys: Claims,
}

async fn claim(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let origin = visit.origin()?.to_owned();
    let body: ClaimBody = read_json(&mut visit.request).await?;
    let claimed = visit.services.keys.claim_for_server(&origin, body.one_time_keys).await?;
    answer(&json!({ "one_time_keys": claimed.one_time_keys }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::town::Town;

    /// A nurse in `a.example` with a phone that has keys.
    async fn scene() -> (Town, String, String) {
        let town = Town::of(&["a.example", "b.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let device = town.desk(0).get("/v3/account/whoami", &nurse).await.text("device_id");
        let keys = json!({
            "device_keys": {
                "user_id": "@nurse:a.example",
                "device_id": device,
                "algorithms": ["m.megolm.v1.aes-sha2"],
                "keys": { format!("ed25519:{device}"): "c2VjcmV0" },
                "signatures": { "@nurse:a.example": { format!("ed25519:{device}"): "c2ln" } },
            },
            "one_time_keys": {
                "signed_curve25519:AAAA": { "key": "b25l", "signatures": {} },
            },
        });
        town.desk(0).post("/v3/keys/upload", &nurse, keys).await.ok();
        let doctor = town.desk(1).sign_up("doctor").await;
        (town, doctor, device)
    }

    async fn query(town: &Town, doctor: &str) -> Value {
        let body = json!({ "device_keys": { "@nurse:a.example": [] } });
        town.desk(1).post("/v3/keys/query", doctor, body).await.ok()
    }

    #[tokio::test]
    async fn the_keys_of_colleagues_elsewhere_are_found_while_the_line_holds() {
        let (town, doctor, device) = scene().await;
        let found = query(&town, &doctor).await;
        let keys = &found["device_keys"]["@nurse:a.example"][&device];
        assert_eq!(keys["user_id"], "@nurse:a.example", "{found}");
        assert_eq!(found["failures"], json!({}));
        town.line.set_up("a.example", false);
        let found = query(&town, &doctor).await;
        assert!(found["failures"]["a.example"].is_object(), "{found}");
    }

    #[tokio::test]
    async fn one_time_keys_are_taken_once_across_the_line() {
        let (town, doctor, device) = scene().await;
        let wanted = json!({
            "one_time_keys": {
                "@nurse:a.example": { device.as_str(): "signed_curve25519" },
                "@nobody:c.example": { "X": "signed_curve25519" },
            },
        });
        let first = town.desk(1).post("/v3/keys/claim", &doctor, wanted.clone()).await.ok();
        let key = &first["one_time_keys"]["@nurse:a.example"][&device]["signed_curve25519:AAAA"];
        assert_eq!(key["key"], "b25l", "{first}");
        assert!(first["failures"]["c.example"].is_object(), "{first}");
        let second = town.desk(1).post("/v3/keys/claim", &doctor, wanted).await.ok();
        assert_eq!(second["one_time_keys"], json!({}));
    }

    #[tokio::test]
    async fn a_server_asks_for_the_devices_of_people_here_alone() {
        let (town, _, device) = scene().await;
        let ask = |path: &'static str| town.ask(1, "a.example", "GET", path, Value::Null);
        let (status, found) = ask("/user/devices/@nurse:a.example").await;
        assert_eq!((status, &found["devices"][0]["device_id"]), (200, &json!(device)), "{found}");
        assert!(found["stream_id"].as_u64() > Some(0));
        assert_eq!(found["devices"][0]["keys"]["device_id"], json!(device));
        for nobody in ["/user/devices/@nobody:a.example", "/user/devices/@doctor:b.example"] {
            assert_eq!(ask(nobody).await.0, 404);
        }
    }
}
