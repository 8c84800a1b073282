//! Dehydrated devices (MSC3814).

use std::collections::BTreeMap;

use appliance_model::ruma::api::client::keys::upload_keys::v3::Request as Upload;
use appliance_model::ruma::encryption::{DeviceKeys, OneTimeKey};
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{OwnedDeviceId, OwnedOneTimeKeyId};
use appliance_model::{Error, Position};
use appliance_services::accounts::NewDehydrated;
use appliance_services::sync::Token;
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::json::read_json;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";
const EVENTS: &str =
    "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events";

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw(Method::PUT, PATH, Access::SignedIn, put);
    routes.serve_raw(Method::GET, PATH, Access::SignedIn, get);
    routes.serve_raw(Method::DELETE, PATH, Access::SignedIn, delete);
    routes.serve_raw(Method::POST, EVENTS, Access::SignedIn, events);
}

#[derive(Deserialize)]
struct NewBody {
    device_id: OwnedDeviceId,
    initial_device_display_name: Option<String>,
    device_data: Box<RawValue>,
    device_keys: Raw<DeviceKeys>,
    #[serde(default)]
    one_time_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
    #[serde(default)]
    fallback_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
}

async fn put(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: NewBody = read_json(&mut visit.request).await?;
    if !body.device_data.get().starts_with('{') {
        return Err(Error::bad_json("`device_data` is an object."));
    }
    let mut keys = Upload::new();
    keys.device_keys = Some(body.device_keys);
    keys.one_time_keys = body.one_time_keys;
    keys.fallback_keys = body.fallback_keys;
    let new = NewDehydrated {
        device_id: body.device_id.clone(),
        display_name: body.initial_device_display_name,
        data: body.device_data.get().to_owned(),
        keys,
    };
    visit.services.accounts.dehydrate(visit.caller()?, new).await?;
    Ok(json_response(StatusCode::OK, json!({ "device_id": body.device_id }).to_string()))
}

async fn get(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let device = visit.services.accounts.dehydrated(visit.caller()?).await?;
    let data: Box<RawValue> = serde_json::from_str(&device.data).map_err(Error::internal)?;
    let answer = json!({ "device_id": device.device_id, "device_data": data });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

async fn delete(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let device_id = visit.services.accounts.discard_dehydrated(visit.caller()?).await?;
    Ok(json_response(StatusCode::OK, json!({ "device_id": device_id }).to_string()))
}

#[derive(Deserialize)]
struct EventsBody {
    next_batch: Option<String>,
}

async fn events(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: EventsBody = read_json(&mut visit.request).await?;
    let after = body.next_batch.as_deref().map(Token::parse).transpose()?;
    let after = after.map(|token| token.position).unwrap_or_default();
    let device_id = visit.request.param(0)?;
    let accounts = &visit.services.accounts;
    let waiting = accounts.dehydrated_events(visit.caller()?, device_id, after).await?;
    let answer = json!({
        "events": waiting.events,
        "next_batch": token_at(waiting.next),
    });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

fn token_at(position: Position) -> String {
    Token { position, typing: 0, to_device: position }.text()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::PATH;
    use crate::scenario::Desk;

    fn frozen(device_id: &str) -> Value {
        json!({
            "device_id": device_id,
            "device_data": {
                "algorithm": "org.matrix.msc3814.v2", "device_pickle": "cGlja2xl", "nonce": "bg",
            },
            "device_keys": {
                "user_id": "@nurse:hospital.example", "device_id": device_id,
                "algorithms": [], "keys": {}, "signatures": {},
            },
        })
    }

    /// Her only phone fell into the sink: what was sent to her meanwhile waits on the server.
    #[tokio::test]
    async fn it_gets_messages_while_nobody_is_signed_in() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        desk.call("PUT", PATH, &nurse, frozen("OLD")).await.ok();
        desk.call("PUT", PATH, &nurse, frozen("FROZEN")).await.ok();
        let query = json!({ "device_keys": { "@nurse:hospital.example": [] } });
        let keys = desk.post("/v3/keys/query", &doctor, query).await.ok();
        let devices = keys["device_keys"]["@nurse:hospital.example"].as_object().unwrap();
        assert!(devices.contains_key("FROZEN") && !devices.contains_key("OLD"));
        desk.post("/v3/logout", &nurse, json!({})).await.ok();
        for txn in 0..3 {
            let body =
                json!({ "messages": { "@nurse:hospital.example": { "*": { "txn": txn } } } });
            let path = format!("/v3/sendToDevice/m.room_key/{txn}");
            desk.call("PUT", &path, &doctor, body).await.ok();
        }
        let nurse = desk.sign_in("nurse", "TABLET").await;
        let events = format!("{PATH}/FROZEN/events");
        let page = desk.post(&events, &nurse, json!({})).await.ok();
        assert_eq!(page["events"].as_array().unwrap().len(), 3);
        assert_eq!(page["events"][2]["content"]["txn"], 2);
        let next = json!({ "next_batch": page["next_batch"] });
        let end = desk.post(&events, &nurse, next.clone()).await.ok();
        assert_eq!(end["events"], json!([]));
        assert_eq!(end["next_batch"], next["next_batch"]);
        desk.call("DELETE", PATH, &nurse, Value::Null).await.ok();
        assert_eq!(desk.get(PATH, &nurse).await.error(), (404, "M_NOT_FOUND"));
        let devices = desk.get("/v3/devices", &nurse).await.ok();
        assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    }
}
