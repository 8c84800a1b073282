//! What application services alone may ask for.

use appliance_model::Error;
use appliance_model::ruma::RoomId;
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::form::Form;
use crate::route::{Access, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    for version in ["r0", "v3"] {
        let path = match version {
            "r0" => "/_matrix/client/r0/directory/list/appservice/{network_id}/{room_id}",
            _ => "/_matrix/client/v3/directory/list/appservice/{network_id}/{room_id}",
        };
        routes.serve_form_at(Method::PUT, path, Access::SignedIn, publish);
    }
    let path = "/_matrix/client/v1/appservice/{appservice_id}/ping";
    routes.serve_form_at(Method::POST, path, Access::SignedIn, ping);
}

#[derive(Deserialize)]
struct PingBody {
    transaction_id: Option<String>,
}

async fn ping(visit: Visit<Form<PingBody>>) -> Result<Response, Error> {
    let (id, transaction_id) = (visit.request.param(0)?, visit.request.body.transaction_id.clone());
    let duration_ms = visit.services.appservices.ping(visit.caller()?, id, transaction_id).await?;
    Ok(json_response(StatusCode::OK, json!({ "duration_ms": duration_ms }).to_string()))
}

#[derive(Deserialize)]
struct Publish {
    visibility: Option<String>,
}

async fn publish(visit: Visit<Form<Publish>>) -> Result<Response, Error> {
    let published = match visit.request.body.visibility.as_deref() {
        Some("public") => true,
        Some("private") => false,
        _ => return Err(Error::invalid_param("`visibility` is `public` or `private`.")),
    };
    let room_id = RoomId::parse(visit.request.param(1)?)
        .map_err(|_| Error::invalid_param("This is no room ID."))?;
    let room = (visit.request.param(0)?, &*room_id);
    visit.services.appservices.publish(visit.caller()?, room, published).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::scenario::Desk;

    const TOKEN: &str = "as-secret-token";

    /// A desk at which a bridge is registered that speaks as `@pager_…`.
    async fn desk_with_bridge() -> Desk {
        let desk = Desk::new().await;
        let registration = json!({
            "id": "bridge", "url": null, "as_token": TOKEN, "hs_token": "hs-secret-token",
            "sender_localpart": "bridgebot", "rate_limited": false, "protocols": ["pager"],
            "namespaces": {
                "users": [{ "regex": "@pager_.*", "exclusive": true }],
                "aliases": [{ "regex": "#pager_.*", "exclusive": true }],
            },
        });
        desk.services.appservices.register(registration, "root").await.unwrap();
        desk
    }

    fn ghost(name: &str) -> Value {
        json!({ "type": "m.login.application_service", "username": name, "inhibit_login": true })
    }

    #[tokio::test]
    async fn a_bridge_makes_its_ghosts_and_speaks_as_them() {
        let desk = desk_with_bridge().await;
        let flows = desk.get("/v3/login", "").await.ok();
        assert_eq!(flows["flows"][1]["type"], "m.login.application_service");
        let who = desk.get("/v3/account/whoami", TOKEN).await.ok();
        assert_eq!(who["user_id"], "@bridgebot:hospital.example");
        assert_eq!(who.get("device_id"), None);

        let as_ghost = "/v3/account/whoami?user_id=@pager_7:hospital.example";
        assert_eq!(desk.get(as_ghost, TOKEN).await.error(), (403, "M_FORBIDDEN"), "not there yet");
        let made = desk.post("/v3/register", TOKEN, ghost("pager_7")).await.ok();
        assert_eq!(made["user_id"], "@pager_7:hospital.example");
        assert_eq!(made.get("access_token"), None);
        let again = desk.post("/v3/register", TOKEN, ghost("pager_7")).await;
        assert_eq!(again.error(), (400, "M_USER_IN_USE"));
        let who = desk.get(as_ghost, TOKEN).await.ok();
        assert_eq!(who["user_id"], "@pager_7:hospital.example");

        let login = json!({
            "type": "m.login.application_service", "device_id": "GHOST",
            "identifier": { "type": "m.id.user", "user": "pager_7" },
        });
        let session = desk.post("/v3/login", TOKEN, login.clone()).await;
        assert!(desk.is_in(&session.text("access_token")).await);
        for (token, expected) in
            [("", (401, "M_MISSING_TOKEN")), ("guess", (401, "M_UNKNOWN_TOKEN"))]
        {
            assert_eq!(desk.post("/v3/login", token, login.clone()).await.error(), expected);
            let refused = desk.post("/v3/register", token, ghost("pager_8")).await;
            assert_eq!(refused.error(), expected);
        }
    }

    #[tokio::test]
    async fn names_of_a_bridge_are_its_own_and_others_are_not() {
        let desk = desk_with_bridge().await;
        let nurse = desk.sign_up("nurse").await;
        let exclusive = (400, "M_EXCLUSIVE");
        for name in ["pager_1", "bridgebot"] {
            let body =
                json!({ "username": name, "password": "x", "auth": { "type": "m.login.dummy" } });
            assert_eq!(desk.post("/v3/register", "", body).await.error(), exclusive, "{name}");
            let path = format!("/v3/register/available?username={name}");
            assert_eq!(desk.get(&path, "").await.error(), exclusive, "{name}");
        }
        let outside = desk.post("/v3/register", TOKEN, ghost("somebody")).await;
        assert_eq!(outside.error(), exclusive);
        let login = json!({
            "type": "m.login.application_service",
            "identifier": { "type": "m.id.user", "user": "nurse" },
        });
        assert_eq!(desk.post("/v3/login", TOKEN, login).await.error(), exclusive);
        let as_nurse = "/v3/account/whoami?user_id=@nurse:hospital.example";
        assert_eq!(desk.get(as_nurse, TOKEN).await.error(), (403, "M_FORBIDDEN"));
        let as_nobody = "/v3/account/whoami?user_id=nurse";
        assert_eq!(desk.get(as_nobody, TOKEN).await.error(), (400, "M_INVALID_PARAM"));
        // Somebody else's parameter means nothing.
        let path = "/v3/account/whoami?user_id=@pager_1:hospital.example";
        assert_eq!(desk.get(path, &nurse).await.ok()["user_id"], "@nurse:hospital.example");

        let body = json!({ "room_alias_name": "pager_ward" });
        let taken = desk.post("/v3/createRoom", &nurse, body.clone()).await;
        assert_eq!(taken.error(), exclusive);
        let room = desk.post("/v3/createRoom", &nurse, json!({})).await.text("room_id");
        let alias = "/v3/directory/room/%23pager_x:hospital.example";
        let to = json!({ "room_id": room });
        assert_eq!(desk.call("PUT", alias, &nurse, to).await.error(), exclusive);
        let own = desk.post("/v3/createRoom", TOKEN, body).await.text("room_id");
        let outside = "/v3/directory/room/%23ward:hospital.example";
        let to = json!({ "room_id": own });
        assert_eq!(desk.call("PUT", outside, TOKEN, to).await.error(), exclusive);
        let alias = "/v3/directory/room/%23pager_ward:hospital.example";
        assert_eq!(desk.call("DELETE", alias, &nurse, Value::Null).await.error(), exclusive);
        desk.call("DELETE", alias, TOKEN, Value::Null).await.ok();
    }

    /// "PUT /devices/{deviceId} … 201 The device was successfully created", and what follows.
    #[tokio::test]
    async fn a_bridge_manages_devices_without_anybody_there() {
        let desk = desk_with_bridge().await;
        desk.post("/v3/register", TOKEN, ghost("pager_7")).await.ok();
        let ghost = "user_id=@pager_7:hospital.example";
        let path = format!("/v3/devices/BEEP?{ghost}");
        let name = |name: &str| json!({ "display_name": name });
        assert_eq!(desk.call("PUT", &path, TOKEN, name("Pager")).await.status, 201);
        assert_eq!(desk.call("PUT", &path, TOKEN, name("Old pager")).await.status, 200);
        assert_eq!(desk.get(&path, TOKEN).await.ok()["display_name"], "Old pager");
        for parameter in ["device_id", "org.matrix.msc3202.device_id"] {
            let whoami = |device: &str| format!("/v3/account/whoami?{ghost}&{parameter}={device}");
            assert_eq!(desk.get(&whoami("BEEP"), TOKEN).await.ok()["device_id"], "BEEP");
            let unknown = desk.get(&whoami("BOOP"), TOKEN).await;
            assert_eq!(unknown.error(), (400, "M_UNKNOWN_DEVICE"));
        }
        desk.call("DELETE", &path, TOKEN, json!({})).await.ok();
        assert_eq!(desk.get(&path, TOKEN).await.status, 404);
        let nurse = desk.sign_up("nurse").await;
        let stranger = desk.call("PUT", "/v3/devices/MINE", &nurse, name("x")).await;
        assert_eq!(stranger.error(), (404, "M_NOT_FOUND"), "people sign in to make a device");
    }

    #[tokio::test]
    async fn a_bridge_dates_its_events_and_people_do_not() {
        let desk = desk_with_bridge().await;
        let nurse = desk.sign_up("nurse").await;
        for (token, dated) in [(TOKEN, true), (nurse.as_str(), false)] {
            let room = desk.post("/v3/createRoom", token, json!({})).await.text("room_id");
            let text = json!({ "msgtype": "m.text", "body": "an old page" });
            let path = format!("/v3/rooms/{room}/send/m.room.message/t?ts=1500000000000");
            let event = desk.call("PUT", &path, token, text).await.text("event_id");
            let path = format!("/v3/rooms/{room}/event/{event}");
            let shown = desk.get(&path, token).await.ok();
            assert_eq!(shown["origin_server_ts"] == 1_500_000_000_000_u64, dated, "{shown}");
            let path = format!("/v3/rooms/{room}/state/m.room.topic?ts=1500000000000");
            desk.call("PUT", &path, token, json!({ "topic": "old" })).await.ok();
            let path = format!("/v3/rooms/{room}/state/m.room.topic?format=event");
            let shown = desk.get(&path, token).await.ok();
            assert_eq!(shown["origin_server_ts"] == 1_500_000_000_000_u64, dated, "{shown}");
        }
    }

    #[tokio::test]
    async fn a_service_that_was_taken_away_is_out_at_once() {
        let desk = desk_with_bridge().await;
        assert!(desk.is_in(TOKEN).await);
        let appservices = &desk.services.appservices;
        let list = appservices.list().await.unwrap();
        assert_eq!(list[0].id, "bridge");
        appservices.unregister("bridge", "root").await.unwrap();
        assert!(!desk.is_in(TOKEN).await);
        assert!(appservices.unregister("bridge", "root").await.is_err());
        assert!(desk.services.house.appservices.is_empty());
    }

    #[tokio::test]
    async fn a_bridge_keeps_a_directory_of_its_own() {
        let desk = desk_with_bridge().await;
        let nurse = desk.sign_up("nurse").await;
        let room = desk.post("/v3/createRoom", TOKEN, json!({})).await.text("room_id");
        let path = format!("/v3/directory/list/appservice/pagers/{room}");
        let set = async |token: &str, visibility: &str| {
            desk.call("PUT", &path, token, json!({ "visibility": visibility })).await
        };
        let listed = async || {
            let after = appliance_model::RoomNid(0);
            let list = desk.services.appservices.published("bridge|pagers", after, 10).await;
            list.unwrap().0.len()
        };
        assert_eq!(set(&nurse, "public").await.error(), (403, "M_FORBIDDEN"));
        assert_eq!(set(TOKEN, "secret").await.error(), (400, "M_INVALID_PARAM"));
        set(TOKEN, "public").await.ok();
        assert_eq!(listed().await, 1);
        set(TOKEN, "private").await.ok();
        assert_eq!(listed().await, 0);
        let nowhere = "/v3/directory/list/appservice/pagers/!nowhere:hospital.example";
        let body = json!({ "visibility": "public" });
        assert_eq!(desk.call("PUT", nowhere, TOKEN, body).await.error(), (404, "M_NOT_FOUND"));
    }

    /// A ghost of an exempt service may say more than a person.
    #[tokio::test]
    async fn an_exempt_service_is_not_limited() {
        let rate_limits = Some(appliance_services::RateLimits::default());
        let options = appliance_services::Options { rate_limits, ..crate::scenario::open_house() };
        let desk = Desk::with(options).await;
        let registration = json!({
            "id": "bridge", "url": null, "as_token": TOKEN, "hs_token": "hs-secret-token",
            "sender_localpart": "bridgebot", "namespaces": {},
        });
        desk.services.appservices.register(registration, "root").await.unwrap();
        for _ in 0..40 {
            desk.post("/v3/createRoom", TOKEN, json!({})).await.ok();
        }
    }
}
