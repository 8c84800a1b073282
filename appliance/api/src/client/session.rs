//! Signing in, staying signed in, signing out.

use appliance_model::ruma::OwnedDeviceId;
use appliance_model::ruma::api::client::session::{
    get_login_types, login, logout, logout_all, refresh_token,
};
use appliance_model::{Error, Kind};
use appliance_services::accounts::{Login, NewSession, Session};
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::discovery::client_well_known;
use crate::form::Form;
use crate::route::{Access, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(get_login_types);
    routes.serve_form::<login::v3::Request, _, _, _>(login);
    routes.serve_form::<refresh_token::v3::Request, _, _, _>(refresh);
    let path = "/_matrix/client/v1/login/get_token";
    routes.serve_form_at(Method::POST, path, Access::SignedIn, get_token);
    routes.serve(logout);
    routes.serve(logout_all);
}

/// How an application service signs its users up and in.
pub(super) const APPLICATION_SERVICE: &str = "m.login.application_service";

async fn get_login_types(
    visit: Visit<get_login_types::v3::Request>,
) -> Result<get_login_types::v3::Response, Error> {
    use get_login_types::v3::{
        ApplicationServiceLoginType, LoginType, PasswordLoginType, TokenLoginType,
    };
    let options = &visit.services.house.options;
    let mut flows = Vec::new();
    if options.password_login {
        flows.push(LoginType::Password(PasswordLoginType::new()));
    }
    if !visit.services.house.appservices.is_empty() {
        flows.push(LoginType::ApplicationService(ApplicationServiceLoginType::new()));
    }
    let mut token = TokenLoginType::new();
    token.get_login_token = true;
    flows.push(LoginType::Token(token));
    Ok(get_login_types::v3::Response::new(flows))
}

#[derive(Deserialize)]
struct LoginBody {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<Identifier>,
    // "Deprecated in favour of `identifier`", and still sent.
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

#[derive(Deserialize)]
struct Identifier {
    #[serde(rename = "type")]
    kind: String,
    user: Option<String>,
}

async fn login(visit: Visit<Form<LoginBody>>) -> Result<Response, Error> {
    let address = visit.address();
    let services = visit.services.clone();
    if visit.request.body.kind == APPLICATION_SERVICE {
        return login_masked(visit).await;
    }
    let class = visit.door;
    let body = visit.request.body;
    let session = NewSession {
        device_id: body.device_id,
        display_name: body.initial_device_display_name,
        refreshable: body.refresh_token,
        class,
        client: None,
    };
    let missing = |what| Error::new(Kind::MissingParam, what);
    let session = match body.kind.as_str() {
        "m.login.password" if !services.house.options.password_login => {
            return Err(Error::new(
                Kind::UnknownLoginType,
                "This server takes passwords on its own page only. Use an app that opens a browser to sign in, \
                 or update yours.",
            ));
        }
        "m.login.password" => {
            let user = login_name(body.identifier, body.user)?;
            let password = body.password.ok_or_else(|| missing("The password is missing."))?;
            services.accounts.login(Login { user, password, session, address }).await?
        }
        "m.login.token" => {
            let token = body.token.ok_or_else(|| missing("The token is missing."))?;
            services.accounts.login_with_token(&token, session, address).await?
        }
        _ => {
            return Err(Error::new(
                Kind::UnknownLoginType,
                "Bad login type. This server signs in with `m.login.password`.",
            ));
        }
    };
    let mut answer = session_json(&session);
    if let Some(well_known) = client_well_known(&services.house) {
        answer.insert("well_known".to_owned(), well_known);
    }
    Ok(json_response(StatusCode::OK, Value::Object(answer).to_string()))
}

async fn login_masked(visit: Visit<Form<LoginBody>>) -> Result<Response, Error> {
    let token = visit.token()?;
    let body = visit.request.body;
    let user = login_name(body.identifier, body.user)?;
    let session = NewSession {
        device_id: body.device_id,
        display_name: body.initial_device_display_name,
        refreshable: body.refresh_token,
        ..NewSession::default()
    };
    let session = visit.services.accounts.login_masked(&token, &user, session).await?;
    Ok(json_response(StatusCode::OK, Value::Object(session_json(&session)).to_string()))
}

/// "Optional endpoint to generate a single-use, time-limited, `m.login.token` token."
async fn get_token(visit: Visit<Form<IgnoredAny>>) -> Result<Response, Error> {
    let token = visit.services.accounts.login_token(visit.caller()?, visit.proof()).await?;
    let answer = json!({ "login_token": token.login_token, "expires_in_ms": token.expires_in_ms });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

fn login_name(identifier: Option<Identifier>, user: Option<String>) -> Result<String, Error> {
    let missing = || Error::new(Kind::MissingParam, "The name of the user is missing.");
    let Some(identifier) = identifier else { return user.ok_or_else(missing) };
    match identifier.kind.as_str() {
        "m.id.user" => identifier.user.ok_or_else(missing),
        // No account here has an address or a number: nobody's credentials.
        "m.id.thirdparty" | "m.id.phone" => {
            Err(Error::forbidden("Sign in with a user name or a Matrix ID."))
        }
        _ => Err(Error::invalid_param("Sign in with a user name or a Matrix ID (`m.id.user`).")),
    }
}

/// What a client gets with a new session. "If `refresh_token` is not given, the client can assume
/// that the access token will not expire": so it is there only for those who asked.
pub(crate) fn session_json(session: &Session) -> Map<String, Value> {
    let mut answer = Map::new();
    answer.insert("user_id".to_owned(), session.user_id.as_str().into());
    answer.insert("access_token".to_owned(), session.access_token.as_str().into());
    answer.insert("device_id".to_owned(), session.device_id.as_str().into());
    answer.insert("home_server".to_owned(), session.user_id.server_name().as_str().into());
    add_renewal(&mut answer, session);
    answer
}

fn add_renewal(answer: &mut Map<String, Value>, session: &Session) {
    if let Some(refresh_token) = &session.refresh_token {
        answer.insert("refresh_token".to_owned(), refresh_token.as_str().into());
    }
    if let Some(expires_in_ms) = session.expires_in_ms {
        answer.insert("expires_in_ms".to_owned(), expires_in_ms.into());
    }
}

#[derive(Deserialize)]
struct RefreshBody {
    refresh_token: String,
}

async fn refresh(visit: Visit<Form<RefreshBody>>) -> Result<Response, Error> {
    let (accounts, address) = (&visit.services.accounts, visit.address());
    let session = accounts.refresh(&visit.request.body.refresh_token, address).await?;
    let mut answer = Map::new();
    answer.insert("access_token".to_owned(), session.access_token.as_str().into());
    add_renewal(&mut answer, &session);
    Ok(json_response(StatusCode::OK, Value::Object(answer).to_string()))
}

async fn logout(visit: Visit<logout::v3::Request>) -> Result<logout::v3::Response, Error> {
    visit.services.accounts.logout(visit.caller()?).await?;
    Ok(logout::v3::Response::new())
}

async fn logout_all(
    visit: Visit<logout_all::v3::Request>,
) -> Result<logout_all::v3::Response, Error> {
    visit.services.accounts.logout_all(visit.caller()?).await?;
    Ok(logout_all::v3::Response::new())
}

#[cfg(test)]
mod tests {
    use appliance_services::{Options, Rate, RateLimits};
    use serde_json::{Value, json};

    use crate::scenario::{Desk, login_body, open_house};

    #[tokio::test]
    async fn a_password_opens_a_session_and_nothing_expires_unasked() {
        let desk = Desk::new().await;
        desk.sign_up("nurse").await;
        let flows = desk.get("/v3/login", "").await.ok();
        let token = json!({ "type": "m.login.token", "get_login_token": true });
        assert_eq!(flows, json!({ "flows": [{ "type": "m.login.password" }, token] }));

        for user in ["nurse", "Nurse", "@nurse:hospital.example"] {
            let answer =
                desk.post("/v3/login", "", login_body(user, json!({ "password": "nurse" })));
            let answer = answer.await.ok();
            assert_eq!(answer["user_id"], "@nurse:hospital.example");
            assert!(answer.get("refresh_token").is_none(), "Element X signs out when it gets one");
            assert!(answer.get("expires_in_ms").is_none());
            assert!(answer.get("well_known").is_none(), "this server was not told where it is");
            assert!(desk.is_in(answer["access_token"].as_str().unwrap()).await);
        }
        let legacy = json!({ "type": "m.login.password", "user": "nurse", "password": "nurse" });
        desk.post("/r0/login", "", legacy).await.ok();
    }

    #[tokio::test]
    async fn wrong_ones_get_no_session() {
        let desk = Desk::new().await;
        desk.sign_up("nurse").await;
        let try_in = async |name: &str, more| {
            let answer = desk.post("/v3/login", "", login_body(name, more)).await;
            (answer.status, answer.errcode().to_owned())
        };
        let forbidden = (403, "M_FORBIDDEN".to_owned());
        assert_eq!(try_in("nurse", json!({ "password": "guess" })).await, forbidden);
        assert_eq!(try_in("nobody", json!({})).await, forbidden);
        assert_eq!(try_in("@nurse:other.example", json!({ "password": "nurse" })).await, forbidden);
        assert_eq!(try_in("nurse", json!({ "password": "x".repeat(600) })).await, forbidden);
        let email =
            json!({ "type": "m.id.thirdparty", "medium": "email", "address": "a@b.example" });
        assert_eq!(try_in("nurse", json!({ "identifier": email })).await, forbidden);

        let unknown = (400, "M_UNKNOWN".to_owned());
        assert_eq!(try_in("nurse", json!({ "type": "m.login.cas" })).await, unknown);
        let missing = (400, "M_MISSING_PARAM".to_owned());
        assert_eq!(try_in("nurse", json!({ "password": null })).await, missing);
        let invalid = (400, "M_INVALID_PARAM".to_owned());
        assert_eq!(try_in("nurse", json!({ "device_id": "x".repeat(256) })).await, invalid);
        assert_eq!(try_in("nurse", json!({ "device_id": "a\nb" })).await, invalid);
        let bad = (400, "M_BAD_JSON".to_owned());
        assert_eq!(try_in("nurse", json!({ "password": 7 })).await, bad);
        let not_json = desk.call_raw("POST", "/v3/login", "", "{".to_owned()).await;
        assert_eq!(not_json.error(), (400, "M_NOT_JSON"));
    }

    /// A phone that is signed in shows a code; the new one signs in with it, once.
    #[tokio::test]
    async fn a_token_signs_in_another_device_once_and_soon() {
        let desk = Desk::new().await;
        let phone = desk.sign_up("nurse").await;
        let token = async || {
            let asked = desk.post("/v1/login/get_token", &phone, json!({})).await;
            let auth = crate::scenario::own_password("nurse", &asked.text("session"));
            desk.post("/v1/login/get_token", &phone, json!({ "auth": auth })).await.ok()
        };
        let sign_in = async |token: &serde_json::Value| {
            let body = json!({ "type": "m.login.token", "token": token, "device_id": "TABLET" });
            desk.post("/v3/login", "", body).await
        };
        let first = token().await;
        assert_eq!(first["expires_in_ms"], 120_000);
        let signed_in = sign_in(&first["login_token"]).await.ok();
        assert_eq!(signed_in["user_id"], "@nurse:hospital.example");
        assert_eq!(sign_in(&first["login_token"]).await.error(), (403, "M_FORBIDDEN"), "used up");
        let second = token().await;
        desk.clock.pass_ms(120_000);
        assert_eq!(sign_in(&second["login_token"]).await.error(), (403, "M_FORBIDDEN"), "over");
        assert!(desk.is_in(&phone).await);
    }

    #[tokio::test]
    async fn the_same_device_again_ends_the_session_it_had() {
        let desk = Desk::new().await;
        let first = desk.sign_up("nurse").await;
        assert!(desk.is_in(&first).await, "and is remembered");
        let second = desk.sign_in("nurse", "PHONE").await;
        assert!(!desk.is_in(&first).await);
        assert!(desk.is_in(&second).await);
        let devices = desk.get("/v3/devices", &second).await.ok();
        assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_client_that_can_renew_gets_tokens_that_end() {
        let desk = Desk::new().await;
        desk.sign_up("nurse").await;
        let body = login_body("nurse", json!({ "refresh_token": true, "device_id": "LAPTOP" }));
        let login = desk.post("/v3/login", "", body).await;
        let (access, refresh) = (login.text("access_token"), login.text("refresh_token"));
        assert_eq!(login.json["expires_in_ms"], 300_000);
        assert!(desk.is_in(&access).await);

        desk.clock.pass_ms(300_000);
        let expired = desk.get("/v3/account/whoami", &access).await;
        assert_eq!(expired.error(), (401, "M_UNKNOWN_TOKEN"));
        assert_eq!(expired.json["soft_logout"], true, "the refresh token still works");

        // The first answer is lost on the way; the client asks again with what it has.
        let renew = async |token: &str| {
            desk.post("/v3/refresh", "", json!({ "refresh_token": token })).await
        };
        let lost = renew(&refresh).await;
        let renewed = renew(&refresh).await;
        let newer = renewed.text("access_token");
        assert!(!desk.is_in(&lost.text("access_token")).await, "its pair was replaced");
        assert!(desk.is_in(&newer).await);

        // "… until the new access token … is used, at which point the old … is revoked."
        assert_eq!(renew(&refresh).await.error(), (401, "M_UNKNOWN_TOKEN"));
        assert!(desk.is_in(&newer).await, "the current session does not suffer");
        let old = desk.get("/v3/account/whoami", &access).await;
        assert_eq!(old.json.get("soft_logout"), None, "nothing renews this one");

        let third = renew(&renewed.text("refresh_token")).await;
        let fourth = renew(&third.text("refresh_token")).await;
        let gone = renew(&renewed.text("refresh_token")).await;
        assert_eq!(gone.error(), (401, "M_UNKNOWN_TOKEN"), "using the new refresh token ends it");
        assert!(desk.is_in(&fourth.text("access_token")).await);

        desk.post("/v3/logout", &fourth.text("access_token"), json!({})).await.ok();
        let over = renew(&fourth.text("refresh_token")).await;
        assert_eq!(over.error(), (401, "M_UNKNOWN_TOKEN"));
    }

    #[tokio::test]
    async fn whoever_leaves_is_out_at_once() {
        let desk = Desk::new().await;
        let phone = desk.sign_up("nurse").await;
        let laptop = desk.sign_in("nurse", "LAPTOP").await;
        let colleague = desk.sign_up("doctor").await;
        assert!(desk.is_in(&phone).await && desk.is_in(&laptop).await);

        desk.post("/v3/logout", &phone, json!({})).await.ok();
        assert!(!desk.is_in(&phone).await);
        assert!(desk.is_in(&laptop).await);
        assert_eq!(desk.post("/v3/logout", &phone, json!({})).await.error().0, 401);

        let tablet = desk.sign_in("nurse", "TABLET").await;
        desk.post("/v3/logout/all", &laptop, json!({})).await.ok();
        assert!(!desk.is_in(&laptop).await && !desk.is_in(&tablet).await);
        assert!(desk.is_in(&colleague).await, "others stay");
        assert_eq!(desk.post("/v3/logout", "", json!({})).await.error(), (401, "M_MISSING_TOKEN"));
    }

    #[tokio::test]
    async fn guessing_is_slowed_down_and_does_not_lock_out_others() {
        let limits = Some(RateLimits::default());
        let desk = Desk::with(Options { rate_limits: limits, ..open_house() }).await;
        desk.sign_up("nurse").await;
        desk.sign_up("doctor").await;
        let guess = login_body("nurse", json!({ "password": "guess" }));
        for _ in 0..5 {
            assert_eq!(desk.post("/v3/login", "", guess.clone()).await.status, 403);
        }
        let limited = desk.post("/v3/login", "", guess.clone()).await;
        assert_eq!(limited.error(), (429, "M_LIMIT_EXCEEDED"));
        assert_eq!(limited.json["retry_after_ms"], 10_000);
        assert_eq!(limited.headers["retry-after"], "10");
        desk.sign_in("doctor", "LAPTOP").await;
        desk.clock.pass_ms(10_000);
        desk.sign_in("nurse", "LAPTOP").await;
    }

    /// A long poll of a phone that was signed out elsewhere ends now, not after its 30 seconds.
    #[tokio::test]
    async fn whoever_waits_hears_that_it_is_over() {
        let desk = Desk::new().await;
        let phone = desk.sign_up("nurse").await;
        let laptop = desk.sign_in("nurse", "LAPTOP").await;
        let now = desk.get("/v3/sync", &phone).await.text("next_batch");
        let path = format!("/v3/sync?timeout=30000&since={now}");
        let (polled, ()) = tokio::join!(desk.get(&path, &phone), async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            desk.post("/v3/logout/all", &laptop, json!({})).await.ok();
        });
        assert_eq!(polled.error(), (401, "M_UNKNOWN_TOKEN"));
    }

    #[tokio::test]
    async fn whoever_says_too_much_waits_and_is_told_how_long() {
        let limits = RateLimits {
            message: Rate { per_second: 1.0, burst: 2 },
            room: Rate { per_second: 0.5, burst: 1 },
            ..RateLimits::default()
        };
        let desk = Desk::with(Options { rate_limits: Some(limits), ..open_house() }).await;
        let nurse = desk.sign_up("nurse").await;
        let room = desk.post("/v3/createRoom", &nurse, json!({})).await.text("room_id");
        let second = desk.post("/v3/createRoom", &nurse, json!({})).await;
        assert_eq!(second.error(), (429, "M_LIMIT_EXCEEDED"));
        assert_eq!(second.json["retry_after_ms"], 2_000);

        let say = async |txn: &str| {
            let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}");
            let body = json!({ "msgtype": "m.text", "body": "Bed 4 is free" });
            desk.call("PUT", &path, &nurse, body).await
        };
        let first = say("1").await.ok();
        say("2").await.ok();
        let limited = say("3").await;
        assert_eq!(limited.error(), (429, "M_LIMIT_EXCEEDED"));
        assert_eq!(limited.json["retry_after_ms"], 1_000);
        assert_eq!(say("1").await.ok(), first, "a retry says nothing new");
        desk.clock.pass_ms(1_000);
        say("3").await.ok();
    }

    /// A cross-signing key and a device are named in the same place of a signature.
    #[tokio::test]
    async fn a_device_cannot_take_the_name_of_a_signing_key() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let public_key = "Qm9iJ3MgbWFzdGVyIGtleSBpcyAzMiBieXRlcyBsb24";
        let master = json!({
            "user_id": "@nurse:hospital.example",
            "usage": ["master"],
            "keys": { format!("ed25519:{public_key}"): public_key },
        });
        let body = json!({ "master_key": master });
        desk.post("/v3/keys/device_signing/upload", &nurse, body).await.ok();
        let login = login_body("nurse", json!({ "device_id": public_key }));
        assert_eq!(desk.post("/v3/login", "", login).await.error(), (403, "M_FORBIDDEN"));
    }

    #[tokio::test]
    async fn clients_are_told_where_the_server_is() {
        let url = Some("https://matrix.hospital.example".to_owned());
        let desk = Desk::with(Options { public_base_url: url, ..open_house() }).await;
        desk.sign_up("nurse").await;
        let login = desk.post("/v3/login", "", login_body("nurse", json!({}))).await.ok();
        let told = json!({ "m.homeserver": { "base_url": "https://matrix.hospital.example" } });
        assert_eq!(login["well_known"], told);
        assert_eq!(desk.get("/.well-known/matrix/client", "").await.ok(), told);
    }

    /// A listener that asks devices for certificates vouches for them; a session keeps its class elsewhere,
    /// and the same device that comes in by another door is no more than others.
    #[tokio::test]
    async fn who_signs_in_at_a_door_that_vouches_for_devices_has_a_managed_session() {
        use appliance_model::SessionClass::{Managed, Unmanaged};
        let desk = Desk::new().await;
        let plain = desk.sign_up("nurse").await;
        let class =
            async |token: &str| desk.services.accounts.authenticate(token).await.unwrap().class;
        assert_eq!(class(&plain).await, Unmanaged);
        let (router, _) = crate::router(desk.services.clone());
        let router = router.layer(axum::Extension(crate::DoorClass(Managed)));
        let body = login_body("nurse", json!({ "device_id": "TABLET" }));
        let request = http::Request::post("/_matrix/client/v3/login");
        let request = request.body(axum::body::Body::from(body.to_string())).unwrap();
        let answer = tower::ServiceExt::oneshot(router, request).await.unwrap();
        let answer = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let managed = answer["access_token"].as_str().unwrap();
        assert_eq!(class(managed).await, Managed);
        let again = desk.sign_in("nurse", "TABLET").await;
        assert_eq!(class(&again).await, Unmanaged);
    }
}
