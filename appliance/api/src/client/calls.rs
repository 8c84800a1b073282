//! What clients need for calls: TURN credentials, where group calls meet, and a token that tells a
//! call server who somebody is.

use appliance_model::ruma::UserId;
use appliance_model::{Error, Kind};
use appliance_services::House;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::route::{Access, RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    for path in ["/_matrix/client/r0/voip/turnServer", "/_matrix/client/v3/voip/turnServer"] {
        routes.serve_raw(Method::GET, path, Access::SignedIn, turn_server);
    }
    let path = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";
    routes.serve_raw(Method::GET, path, Access::SignedIn, transports);
    for path in [
        "/_matrix/client/r0/user/{user_id}/openid/request_token",
        "/_matrix/client/v3/user/{user_id}/openid/request_token",
    ] {
        routes.serve_raw(Method::POST, path, Access::SignedIn, openid_token);
    }
}

/// An empty object says that there is none: clients then call without, and do not ask again at once.
async fn turn_server(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let answer = match visit.services.house.turn_credentials(&visit.caller()?.user_id) {
        Some(turn) => json!({
            "username": turn.username,
            "password": turn.password,
            "uris": turn.uris,
            "ttl": turn.ttl_secs,
        }),
        None => json!({}),
    };
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

/// Where group calls meet, as `.well-known` and the endpoint for it name it.
pub(crate) fn livekit(house: &House) -> Option<Value> {
    let url = house.options.rtc_livekit_url.as_ref()?;
    Some(json!({ "type": "livekit", "livekit_service_url": url }))
}

/// Without one the endpoint is not there, so that clients look elsewhere.
async fn transports(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let none = || Error::new(Kind::Unrecognized, "This server has no place for group calls.");
    let livekit = livekit(&visit.services.house).ok_or_else(none)?;
    Ok(json_response(StatusCode::OK, json!({ "rtc_transports": [livekit] }).to_string()))
}

/// The body says nothing.
const OPENID_BODY_BYTES_MAX: usize = 64 * 1024;

async fn openid_token(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    // "An empty object. Reserved for future expansion."
    let body = std::mem::take(&mut visit.request.body);
    crate::json_body::check(&crate::route::read_body(body, OPENID_BODY_BYTES_MAX).await?)?;
    let user_id = UserId::parse(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("This is not a user ID."))?;
    let token = visit.services.accounts.openid_token(visit.caller()?, &user_id).await?;
    let answer = json!({
        "access_token": token.access_token,
        "expires_in": token.expires_in_secs,
        "matrix_server_name": visit.services.house.server_name,
        "token_type": "Bearer",
    });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

#[cfg(test)]
mod tests {
    use appliance_services::{Options, Turn};
    use serde_json::json;

    use crate::scenario::{Desk, open_house};

    #[tokio::test]
    async fn a_turn_server_can_check_what_it_is_shown() {
        let uris = vec!["turn:turn.hospital.example:3478?transport=udp".to_owned()];
        let turn = Some(Turn::new(uris.clone(), "north"));
        let desk = Desk::with(Options { turn, ..open_house() }).await;
        let nurse = desk.sign_up("nurse").await;
        let answer = desk.get("/v3/voip/turnServer", &nurse).await.ok();
        assert_eq!(answer["username"], "1700086400:@nurse:hospital.example");
        // openssl dgst -sha1 -hmac north -binary, over the user name, in base64.
        assert_eq!(answer["password"], "Y/lNpB81gH5V1hKs8jOL9z8me9s=");
        assert_eq!((&answer["uris"], &answer["ttl"]), (&json!(uris), &json!(86_400)));
    }

    #[tokio::test]
    async fn what_a_house_does_not_have_it_does_not_offer() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        assert_eq!(desk.get("/v3/voip/turnServer", &nurse).await.ok(), json!({}));
        let path = "/unstable/org.matrix.msc4143/rtc/transports";
        assert_eq!(desk.get(path, &nurse).await.error(), (404, "M_UNRECOGNIZED"));
        let url = Some("https://calls.hospital.example".to_owned());
        let desk = Desk::with(Options { rtc_livekit_url: url, ..open_house() }).await;
        let nurse = desk.sign_up("nurse").await;
        let one = json!({
            "type": "livekit", "livekit_service_url": "https://calls.hospital.example",
        });
        assert_eq!(desk.get(path, &nurse).await.ok(), json!({ "rtc_transports": [one] }));
        let well_known = desk.get("/.well-known/matrix/client", "").await;
        assert_eq!(well_known.error(), (404, "M_NOT_FOUND"), "it needs `m.homeserver`");
    }
}
