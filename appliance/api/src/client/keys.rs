//! Publishing, asking for and claiming keys.

use std::collections::{BTreeMap, BTreeSet};

use appliance_model::ruma::OwnedServerName;
use appliance_model::ruma::OwnedUserId;
use appliance_model::ruma::api::client::keys::{
    claim_keys, get_key_changes, get_keys, upload_keys, upload_signatures, upload_signing_keys,
};
use appliance_model::{Error, Kind};
use appliance_services::accounts::OWN_PASSWORD;
use appliance_services::keys::{Claims, NewSigningKeys, Queries, RawJson, SignedKeys};
use appliance_services::sync::Token;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::error_body;
use crate::form::Form;
use crate::json::{answer, read_json};
use crate::route::{RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(upload_keys);
    routes.serve_raw_as::<get_keys::v3::Request, _, _>(query);
    routes.serve_raw_as::<claim_keys::v3::Request, _, _>(claim);
    routes.serve(get_key_changes);
    routes.serve_form::<upload_signing_keys::v3::Request, _, _, _>(publish);
    routes.serve_raw_as::<upload_signatures::v3::Request, _, _>(sign);
}

async fn upload_keys(
    visit: Visit<upload_keys::v3::Request>,
) -> Result<upload_keys::v3::Response, Error> {
    let counts = visit.services.keys.upload(visit.caller()?, &visit.request).await?;
    let number = |count: u64| count.try_into().map_err(Error::internal);
    let counts =
        counts.into_iter().map(|(algorithm, count)| Ok((algorithm.into(), number(count)?)));
    Ok(upload_keys::v3::Response::new(counts.collect::<Result<_, Error>>()?))
}

#[derive(Deserialize)]
struct QueryBody {
    device_keys: Queries,
}

/// All five maps are always there: matrix-nio takes an answer without `failures` for none.
#[derive(Serialize)]
struct QueryAnswer {
    device_keys: BTreeMap<OwnedUserId, BTreeMap<String, RawJson>>,
    failures: BTreeMap<OwnedServerName, Value>,
    master_keys: BTreeMap<OwnedUserId, RawJson>,
    self_signing_keys: BTreeMap<OwnedUserId, RawJson>,
    user_signing_keys: BTreeMap<OwnedUserId, RawJson>,
}

async fn query(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.caller()?.clone();
    let body: QueryBody = read_json(&mut visit.request).await?;
    let found = visit.services.keys.query(&caller, body.device_keys).await?;
    answer(&QueryAnswer {
        device_keys: found.device_keys,
        failures: failures(found.failures),
        master_keys: found.master_keys,
        self_signing_keys: found.self_signing_keys,
        user_signing_keys: found.user_signing_keys,
    })
}

#[derive(Deserialize)]
struct ClaimBody {
    one_time_keys: Claims,
}

#[derive(Serialize)]
struct ClaimAnswer {
    failures: BTreeMap<OwnedServerName, Value>,
    one_time_keys: BTreeMap<OwnedUserId, BTreeMap<String, BTreeMap<String, RawJson>>>,
}

async fn claim(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.caller()?.clone();
    let body: ClaimBody = read_json(&mut visit.request).await?;
    let claimed = visit.services.keys.claim(&caller, body.one_time_keys).await?;
    let failures = failures(claimed.failures);
    answer(&ClaimAnswer { failures, one_time_keys: claimed.one_time_keys })
}

/// "If any remote homeservers could not be reached, they are recorded here."
fn failures(servers: BTreeSet<OwnedServerName>) -> BTreeMap<OwnedServerName, Value> {
    let unreachable = Error::new(Kind::RemoteUnavailable, "This server could not be asked.");
    servers.into_iter().map(|server| (server, json!(error_body(&unreachable)))).collect()
}

#[derive(Deserialize)]
struct SigningKeys {
    master_key: Option<RawJson>,
    self_signing_key: Option<RawJson>,
    user_signing_key: Option<RawJson>,
}

async fn publish(mut visit: Visit<Form<SigningKeys>>) -> Result<Response, Error> {
    let caller = visit.caller()?.clone();
    let body = &mut visit.request.body;
    let new = NewSigningKeys {
        master: body.master_key.take(),
        self_signing: body.self_signing_key.take(),
        user_signing: body.user_signing_key.take(),
    };
    let services = &visit.services;
    let needs_proof = services.keys.needs_proof(&caller, &new).await?;
    if needs_proof {
        services.accounts.require(Some(&caller), OWN_PASSWORD, visit.proof()).await?;
    }
    services.keys.publish_signing_keys(&caller, &new, needs_proof).await?;
    answer(&json!({}))
}

async fn sign(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.caller()?.clone();
    let signed_keys: SignedKeys = read_json(&mut visit.request).await?;
    let failures = visit.services.keys.add_signatures(&caller, signed_keys).await?;
    let of_user = |keys: BTreeMap<String, Error>| {
        let failures =
            keys.into_iter().map(|(key, error)| (key, Value::Object(error_body(&error))));
        failures.collect::<BTreeMap<_, _>>()
    };
    let failures: BTreeMap<_, _> =
        failures.into_iter().map(|(user, keys)| (user, of_user(keys))).collect();
    answer(&json!({ "failures": failures }))
}

async fn get_key_changes(
    visit: Visit<get_key_changes::v3::Request>,
) -> Result<get_key_changes::v3::Response, Error> {
    let request = &visit.request;
    let (from, to) = (Token::parse(&request.from)?, Token::parse(&request.to)?);
    let (changed, left) = visit.services.sync.key_changes(visit.caller()?, from, to).await?;
    let user_ids = |ids: Vec<String>| {
        ids.into_iter().map(|id| OwnedUserId::try_from(id).map_err(Error::internal)).collect()
    };
    let changed: Result<_, Error> = user_ids(changed);
    Ok(get_key_changes::v3::Response::new(changed?, user_ids(left)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Desk, own_password};

    const NURSE: &str = "@nurse:hospital.example";
    const DOCTOR: &str = "@doctor:hospital.example";

    fn device_keys(user_id: &str) -> Value {
        json!({
            "user_id": user_id,
            "device_id": "PHONE",
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { "curve25519:PHONE": "c", "ed25519:PHONE": "e" },
            "signatures": {},
        })
    }

    fn one_time_key(key: &str) -> Value {
        json!({ "key": key, "signatures": { NURSE: { "ed25519:PHONE": "s" } } })
    }

    fn claim_body() -> Value {
        json!({ "one_time_keys": { NURSE: { "PHONE": "signed_curve25519" } } })
    }

    async fn room_of_two(desk: &Desk, nurse: &str, doctor: &str) -> String {
        let body = json!({ "invite": [DOCTOR] });
        let room = desk.post("/v3/createRoom", nurse, body).await.text("room_id");
        desk.post(&format!("/v3/join/{room}"), doctor, json!({})).await.ok();
        room
    }

    #[tokio::test]
    async fn counts_are_explicit_wherever_they_are_said() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let body = json!({
            "device_keys": device_keys(NURSE),
            "one_time_keys": {
                "signed_curve25519:b": one_time_key("b"),
                "signed_curve25519:a": one_time_key("a"),
            },
            "fallback_keys": { "signed_curve25519:f": one_time_key("f") },
        });
        let counts = desk.post("/v3/keys/upload", &nurse, body).await.ok();
        assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 2 } }));
        let mut keys = Vec::new();
        for _ in 0..4 {
            let claimed = desk.post("/v3/keys/claim", &doctor, claim_body()).await.ok();
            assert_eq!(claimed["failures"], json!({}), "said even if empty");
            let key = claimed["one_time_keys"][NURSE]["PHONE"].as_object().unwrap().clone();
            keys.extend(key.into_iter().map(|(id, key)| (id, key["key"].clone())));
        }
        let ids: Vec<_> = keys.iter().map(|(id, _)| id.rsplit(':').next().unwrap()).collect();
        assert_eq!(ids, ["a", "b", "f", "f"]);
        assert_eq!(keys[0].1, "a");
        let sync = desk.get("/v3/sync", &nurse).await.ok();
        assert_eq!(sync["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
        assert_eq!(sync["device_unused_fallback_key_types"], json!([]));

        let body = json!({ "one_time_keys": { "@who:hospital.example": { "X": "y" } } });
        let nobody = desk.post("/v3/keys/claim", &doctor, body).await.ok();
        assert_eq!(nobody, json!({ "one_time_keys": {}, "failures": {} }));
    }

    #[tokio::test]
    async fn a_query_says_all_five_maps_and_names_servers_it_could_not_ask() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let empty = desk.post("/v3/keys/query", &nurse, json!({ "device_keys": {} })).await.ok();
        let expected = json!({
            "device_keys": {}, "failures": {}, "master_keys": {}, "self_signing_keys": {},
            "user_signing_keys": {},
        });
        assert_eq!(empty, expected);
        let body = json!({ "device_keys": { NURSE: [], "@lab:elsewhere.example": [] } });
        let found = desk.post("/v3/keys/query", &nurse, body).await.ok();
        assert_eq!(found["device_keys"], json!({ NURSE: {} }));
        assert!(found["failures"]["elsewhere.example"]["errcode"].is_string());
    }

    #[tokio::test]
    async fn nonsense_is_told_apart() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        for path in ["/v3/keys/query", "/v3/keys/claim", "/v3/keys/upload"] {
            let bad = desk.call_raw("POST", path, &nurse, "{".to_owned()).await;
            assert_eq!(bad.error(), (400, "M_NOT_JSON"), "{path}");
            let bad = desk.post(path, &nurse, json!([1])).await;
            assert_eq!(bad.error(), (400, "M_BAD_JSON"), "{path}");
        }
        let bad = json!({ "device_keys": { NURSE: { "PHONE": true } } });
        let bad = desk.post("/v3/keys/query", &nurse, bad).await;
        assert_eq!(bad.error(), (400, "M_BAD_JSON"));
        let other = json!({ "device_keys": device_keys(DOCTOR) });
        let other = desk.post("/v3/keys/upload", &nurse, other).await;
        assert_eq!(other.error(), (400, "M_INVALID_PARAM"));
    }

    /// Keys that only need to look like keys.
    fn master_key(letter: &str) -> Value {
        let key = format!("{}A", letter.repeat(42));
        let keys = json!({ format!("ed25519:{key}"): key });
        json!({ "master_key": { "user_id": NURSE, "usage": ["master"], "keys": keys } })
    }

    #[tokio::test]
    async fn the_first_identity_is_free_another_costs_the_password() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let path = "/v3/keys/device_signing/upload";
        for _ in 0..2 {
            let first = desk.post(path, &nurse, master_key("a")).await.ok();
            assert_eq!(first, json!({}));
        }
        let asked = desk.post(path, &nurse, master_key("b")).await;
        assert_eq!(asked.status, 401);
        assert_eq!(asked.json["flows"], json!([{ "stages": ["m.login.password"] }]));
        let mut body = master_key("b");
        body["auth"] = own_password("nurse", &asked.text("session"));
        body["auth"]["password"] = "wrong".into();
        let wrong = desk.post(path, &nurse, body.clone()).await;
        assert_eq!(wrong.error(), (401, "M_FORBIDDEN"));
        body["auth"] = own_password("nurse", &asked.text("session"));
        desk.post(path, &nurse, body).await.ok();
        let query = json!({ "device_keys": { NURSE: [] } });
        let found = desk.post("/v3/keys/query", &nurse, query).await.ok();
        assert_eq!(found["master_keys"][NURSE]["keys"], master_key("b")["master_key"]["keys"]);

        let mut unsigned = master_key("c");
        unsigned["self_signing_key"] = unsigned["master_key"].take();
        unsigned["self_signing_key"]["usage"] = json!(["self_signing"]);
        unsigned["master_key"] = Value::Null;
        let asked = desk.post(path, &nurse, unsigned.clone()).await;
        unsigned["auth"] = own_password("nurse", &asked.text("session"));
        let refused = desk.post(path, &nurse, unsigned).await;
        assert_eq!(refused.error(), (400, "M_INVALID_SIGNATURE"));
    }

    #[tokio::test]
    async fn signatures_that_are_not_taken_are_named() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let upload = json!({ "device_keys": device_keys(NURSE) });
        desk.post("/v3/keys/upload", &nurse, upload).await.ok();
        let mut forged = device_keys(NURSE);
        forged["signatures"] = json!({ NURSE: { "ed25519:nothing": "c2ln" } });
        let body = json!({ NURSE: { "PHONE": forged, "GONE": device_keys(NURSE) } });
        let answer = desk.post("/v3/keys/signatures/upload", &nurse, body).await.ok();
        let failures = &answer["failures"][NURSE];
        assert_eq!(failures["PHONE"]["errcode"], "M_INVALID_SIGNATURE");
        assert_eq!(failures["GONE"]["errcode"], "M_NOT_FOUND");
        let none = desk.post("/v3/keys/signatures/upload", &nurse, json!({})).await.ok();
        assert_eq!(none, json!({ "failures": {} }));
    }

    #[tokio::test]
    async fn changes_name_those_who_share_a_room_and_those_who_left() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let stranger = desk.sign_up("stranger").await;
        let stand = async || desk.get("/v3/sync", &nurse).await.text("next_batch");
        let changes = async |from: &str, to: &str| {
            let path = format!("/v3/keys/changes?from={from}&to={to}");
            let answer = desk.get(&path, &nurse).await.ok();
            (answer["changed"].clone(), answer["left"].clone())
        };
        let nobody = (json!([]), json!([]));
        let start = stand().await;
        let room = room_of_two(&desk, &nurse, &doctor).await;
        let met = stand().await;
        assert_eq!(changes(&start, &met).await, (json!([DOCTOR]), json!([])));
        assert_eq!(changes(&met, &met).await, nobody);

        for (token, user_id) in [(&doctor, DOCTOR), (&stranger, "@stranger:hospital.example")] {
            let body = json!({ "device_keys": device_keys(user_id) });
            desk.post("/v3/keys/upload", token, body).await.ok();
        }
        let uploaded = stand().await;
        assert_eq!(changes(&met, &uploaded).await, (json!([DOCTOR]), json!([])));
        assert_eq!(changes(&uploaded, &met).await, nobody, "the wrong way round");

        desk.post(&format!("/v3/rooms/{room}/leave"), &doctor, json!({})).await.ok();
        let left = stand().await;
        assert_eq!(changes(&uploaded, &left).await, (json!([]), json!([DOCTOR])));
        let bad = desk.get("/v3/keys/changes?from=x&to=y", &nurse).await;
        assert_eq!(bad.error(), (400, "M_INVALID_PARAM"));
    }
}
