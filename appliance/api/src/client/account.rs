//! Signing up, asking who one is, changing the password, leaving for good.

use appliance_model::ruma::api::client::account::{
    change_password, check_registration_token_validity, deactivate, get_username_availability,
    register, whoami,
};
use appliance_model::ruma::{OwnedDeviceId, OwnedUserId};
use appliance_model::{Error, Kind};
use appliance_services::accounts::{NewAccount, NewSession, Session};
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::session::{APPLICATION_SERVICE, session_json};
use crate::form::Form;
use crate::route::{Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_form::<register::v3::Request, _, _, _>(register);
    routes.serve(get_availability);
    routes.serve(check_registration_token);
    routes.serve(whoami);
    routes.serve_form::<change_password::v3::Request, _, _, _>(change_password);
    routes.serve_form::<deactivate::v3::Request, _, _, _>(deactivate);
}

#[derive(Deserialize)]
struct RegisterBody {
    #[serde(rename = "type")]
    kind: Option<String>,
    username: Option<String>,
    password: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    #[serde(default)]
    refresh_token: bool,
}

/// Of the two parameters of the registration: who gets an account, and a session unless inhibited.
async fn register_masked(visit: Visit<Form<RegisterBody>>) -> Result<Response, Error> {
    let token = visit.token()?;
    let RegisterBody { username, device_id, inhibit_login, .. } = visit.request.body;
    let missing = || Error::new(Kind::MissingParam, "The name of the user is missing.");
    let session = (!inhibit_login).then_some(NewSession {
        device_id,
        display_name: visit.request.body.initial_device_display_name,
        refreshable: visit.request.body.refresh_token,
        ..NewSession::default()
    });
    let localpart = username.ok_or_else(missing)?;
    let made = visit.services.accounts.register_masked(&token, localpart, session).await?;
    Ok(registered(made))
}

fn registered(made: (OwnedUserId, Option<Session>)) -> Response {
    let answer = match made {
        (_, Some(session)) => Value::Object(session_json(&session)),
        (user_id, None) => json!({ "user_id": user_id, "home_server": user_id.server_name() }),
    };
    json_response(StatusCode::OK, answer.to_string())
}

async fn register(visit: Visit<Form<RegisterBody>>) -> Result<Response, Error> {
    if visit.request.body.kind.as_deref() == Some(APPLICATION_SERVICE) {
        return register_masked(visit).await;
    }
    let accounts = visit.services.accounts.clone();
    match visit.request.query("kind").as_deref() {
        None | Some("user") => {}
        Some("guest") => return Err(accounts.refuse_guest()),
        Some(_) => return Err(Error::invalid_param("`kind` is `user` or `guest`.")),
    }
    let (proof, class) = (visit.proof(), visit.door);
    let body = visit.request.body;
    let new =
        NewAccount { localpart: body.username, password: body.password, ..NewAccount::default() };
    let session = (!body.inhibit_login).then_some(NewSession {
        device_id: body.device_id,
        display_name: body.initial_device_display_name,
        refreshable: body.refresh_token,
        class,
        client: None,
    });
    Ok(registered(accounts.register(new, session, proof).await?))
}

async fn get_availability(
    visit: Visit<get_username_availability::v3::Request>,
) -> Result<get_username_availability::v3::Response, Error> {
    let accounts = &visit.services.accounts;
    accounts.is_available(&visit.request.username, visit.address()).await?;
    Ok(get_username_availability::v3::Response::new(true))
}

async fn check_registration_token(
    visit: Visit<check_registration_token_validity::v1::Request>,
) -> Result<check_registration_token_validity::v1::Response, Error> {
    let (accounts, token) = (&visit.services.accounts, &visit.request.token);
    let valid = accounts.is_registration_token(token, visit.address()).await?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}

async fn whoami(visit: Visit<whoami::v3::Request>) -> Result<whoami::v3::Response, Error> {
    let caller = visit.caller()?;
    let mut response = whoami::v3::Response::new(caller.user_id.clone(), false);
    // "If the access token was not associated with a device, e.g. … an application service".
    response.device_id = Some(caller.device_id.clone()).filter(|id| !id.as_str().is_empty());
    Ok(response)
}

#[derive(Deserialize)]
struct PasswordBody {
    new_password: String,
    logout_devices: Option<bool>,
}

/// The spec also lets strangers ask, who prove themselves with an e-mail address or a phone number.
/// This server keeps neither, so it takes a session.
async fn change_password(visit: Visit<Form<PasswordBody>>) -> Result<Response, Error> {
    let (caller, body) = (visit.caller()?, &visit.request.body);
    let (password, proof) = (body.new_password.clone(), visit.proof());
    // "Defaults to `true`."
    let logout_devices = body.logout_devices.unwrap_or(true);
    visit.services.accounts.change_password(caller, proof, password, logout_devices).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

#[derive(Deserialize)]
struct DeactivateBody {
    #[serde(default)]
    erase: bool,
}

/// As for the password: it takes a session.
async fn deactivate(visit: Visit<Form<DeactivateBody>>) -> Result<Response, Error> {
    let (caller, erase) = (visit.caller()?, visit.request.body.erase);
    visit.services.accounts.deactivate(caller, visit.proof(), erase).await?;
    // "This must be `success` if the homeserver has no identifiers to unbind for the user."
    Ok(json_response(StatusCode::OK, json!({ "id_server_unbind_result": "success" }).to_string()))
}

#[cfg(test)]
mod tests {
    use appliance_services::{Options, RateLimits, Registration, Secret};
    use serde_json::{Value, json};

    use crate::scenario::{Desk, login_body, open_house, own_password};

    fn dummy(more: Value) -> Value {
        let mut body = json!({ "password": "secret", "auth": { "type": "m.login.dummy" } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    #[tokio::test]
    async fn signing_up_where_all_may() {
        let desk = Desk::new().await;
        let asked = desk.post("/v3/register", "", json!({})).await;
        assert_eq!(asked.status, 401);
        assert_eq!(asked.json["flows"], json!([{ "stages": ["m.login.dummy"] }]));

        let body = dummy(json!({ "username": "Nurse.4", "device_id": "D", "refresh_token": true,
            "auth": { "type": "m.login.dummy", "session": asked.text("session") } }));
        let made = desk.post("/v3/register", "", body).await;
        assert_eq!(made.json["user_id"], "@nurse.4:hospital.example", "upper case is folded");
        assert_eq!(made.json["device_id"], "D");
        assert_eq!(made.json["expires_in_ms"], 300_000);
        let who = desk.get("/v3/account/whoami", &made.text("access_token")).await.ok();
        let expected = json!({ "user_id": "@nurse.4:hospital.example", "device_id": "D" });
        assert_eq!(who["user_id"], expected["user_id"]);
        assert_eq!(who["device_id"], expected["device_id"]);

        let quiet =
            desk.post("/v3/register", "", dummy(json!({ "inhibit_login": true }))).await.ok();
        assert!(quiet["user_id"].as_str().unwrap().ends_with(":hospital.example"));
        assert_eq!(quiet.get("access_token"), None);
        assert_eq!(quiet.get("device_id"), None);
    }

    #[tokio::test]
    async fn names_that_cannot_be() {
        let desk = Desk::new().await;
        desk.sign_up("nurse").await;
        let long = "x".repeat(300);
        let odd = ["", "nürse", "a b", "a:b", "@a", "\u{212a}", "a\u{0}", &long];
        for name in odd {
            // Before anything else is asked.
            let body = json!({ "username": name });
            let answer = desk.post("/v3/register", "", body).await;
            assert_eq!(answer.error(), (400, "M_INVALID_USERNAME"), "{name:?}");
        }
        let taken = desk.post("/v3/register", "", json!({ "username": "NURSE" })).await;
        assert_eq!(taken.error(), (400, "M_USER_IN_USE"));
        let available = async |name: &str| {
            desk.get(&format!("/v3/register/available?username={name}"), "").await
        };
        assert_eq!(available("doctor").await.ok(), json!({ "available": true }));
        assert_eq!(available("nurse").await.error(), (400, "M_USER_IN_USE"));
        assert_eq!(available("a%20b").await.error(), (400, "M_INVALID_USERNAME"));
        assert_eq!(desk.get("/v3/register/available", "").await.status, 400);
        for name in ["q", "3", "a.b", "a=b", "a_b", "a-b", "a/b", "a+b"] {
            desk.post("/v3/register", "", dummy(json!({ "username": name }))).await.ok();
        }
    }

    #[tokio::test]
    async fn odd_requests_make_no_account() {
        let desk = Desk::new().await;
        let register = async |body| desk.post("/v3/register", "", body).await;
        let no_password = json!({ "username": "a", "auth": { "type": "m.login.dummy" } });
        assert_eq!(register(no_password).await.error(), (400, "M_MISSING_PARAM"));
        let empty = register(dummy(json!({ "password": "" }))).await;
        assert_eq!(empty.error(), (400, "M_WEAK_PASSWORD"));
        let long = register(dummy(json!({ "password": "x".repeat(513) }))).await;
        assert_eq!(long.error(), (413, "M_TOO_LARGE"));
        assert_eq!(register(json!([])).await.error(), (400, "M_BAD_JSON"));
        assert_eq!(register(dummy(json!({ "username": 7 }))).await.error(), (400, "M_BAD_JSON"));
        let guest = desk.post("/v3/register?kind=guest", "", json!({})).await;
        assert_eq!(guest.error(), (403, "M_GUEST_ACCESS_FORBIDDEN"));
        let odd = desk.post("/v3/register?kind=robot", "", json!({})).await;
        assert_eq!(odd.error(), (400, "M_INVALID_PARAM"));
        assert_eq!(register(json!({ "username": "a" })).await.status, 401, "still free");
    }

    #[tokio::test]
    async fn a_closed_house_tells_strangers_nothing() {
        let registration = Registration::Closed;
        let desk = Desk::with(Options { registration, ..open_house() }).await;
        let forbidden = (403, "M_FORBIDDEN");
        assert_eq!(desk.post("/v3/register", "", json!({})).await.error(), forbidden);
        let body = dummy(json!({ "username": "nurse" }));
        assert_eq!(desk.post("/v3/register", "", body).await.error(), forbidden);
        let available = desk.get("/v3/register/available?username=nurse", "").await;
        assert_eq!(available.error(), forbidden);
        let path = "/v1/register/m.login.registration_token/validity?token=x";
        assert_eq!(desk.get(path, "").await.error(), forbidden);
    }

    #[tokio::test]
    async fn a_registration_token_opens_the_door_and_guesses_do_not() {
        let registration = Registration::Token(vec![Secret::new("welcome")]);
        let rate_limits = Some(RateLimits::default());
        let desk = Desk::with(Options { registration, rate_limits, ..open_house() }).await;
        let asked = desk.post("/v3/register", "", json!({})).await;
        assert_eq!(asked.json["flows"], json!([{ "stages": ["m.login.registration_token"] }]));
        let body = |kind: &str, token: &str| {
            let auth = json!({ "type": kind, "token": token });
            dummy(json!({ "username": "nurse", "auth": auth }))
        };
        let kind = "m.login.registration_token";
        let skipped = desk.post("/v3/register", "", body("m.login.dummy", "welcome")).await;
        assert_eq!(skipped.error(), (401, "M_UNRECOGNIZED"));
        let wrong = desk.post("/v3/register", "", body(kind, "sesame")).await;
        assert_eq!(wrong.error(), (401, "M_FORBIDDEN"));
        desk.post("/v3/register", "", body(kind, "welcome")).await.ok();

        let is_valid = async |token: &str| {
            let path = "/v1/register/m.login.registration_token/validity?token=";
            desk.get(&format!("{path}{token}"), "").await
        };
        assert_eq!(is_valid("welcome").await.ok(), json!({ "valid": true }));
        assert_eq!(is_valid("guess").await.ok(), json!({ "valid": false }));
        for _ in 0..4 {
            is_valid("guess").await;
        }
        assert_eq!(is_valid("guess").await.error(), (429, "M_LIMIT_EXCEEDED"));
        let late = desk.post("/v3/register", "", json!({})).await;
        assert_eq!(late.error(), (429, "M_LIMIT_EXCEEDED"));
    }

    #[tokio::test]
    async fn a_new_password_ends_the_other_sessions() {
        let desk = Desk::new().await;
        let phone = desk.sign_up("nurse").await;
        let laptop = desk.sign_in("nurse", "LAPTOP").await;
        let change = async |more: Value| {
            let mut body = json!({ "new_password": "fresh", "auth": own_password("nurse", "") });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            desk.post("/v3/account/password", &phone, body).await
        };
        let asked = change(json!({ "auth": null })).await;
        assert_eq!(asked.status, 401);
        assert_eq!(asked.json["flows"], json!([{ "stages": ["m.login.password"] }]));
        assert_eq!(change(json!({ "new_password": "" })).await.error(), (400, "M_WEAK_PASSWORD"));
        desk.sign_in("nurse", "TABLET").await;

        change(json!({})).await.ok();
        assert!(desk.is_in(&phone).await, "whoever asked stays");
        assert!(!desk.is_in(&laptop).await);
        let old = desk.post("/v3/login", "", login_body("nurse", json!({}))).await;
        assert_eq!(old.error(), (403, "M_FORBIDDEN"));
        let fresh = login_body("nurse", json!({ "password": "fresh" }));
        let laptop = desk.post("/v3/login", "", fresh).await.text("access_token");

        let mut auth = own_password("nurse", "");
        auth["password"] = json!("fresh");
        change(json!({ "new_password": "other", "logout_devices": false, "auth": auth }))
            .await
            .ok();
        assert!(desk.is_in(&laptop).await, "the sessions were to stay");

        let body = json!({ "new_password": "x", "auth": own_password("nurse", "") });
        let stranger = desk.post("/v3/account/password", "", body).await;
        assert_eq!(stranger.error(), (401, "M_MISSING_TOKEN"));
    }

    /// Colleagues must not go on writing to somebody who is not there.
    #[tokio::test]
    async fn whoever_closes_their_account_leaves_their_rooms() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let doctor = desk.sign_up("doctor").await;
        let room = json!({ "invite": ["@nurse:hospital.example"] });
        let ward = desk.post("/v3/createRoom", &doctor, room.clone()).await.text("room_id");
        desk.post(&format!("/v3/join/{ward}"), &nurse, json!({})).await.ok();
        let asked = desk.post("/v3/createRoom", &doctor, room).await.text("room_id");

        let body = json!({ "auth": own_password("nurse", "") });
        desk.post("/v3/account/deactivate", &nurse, body).await.ok();
        for room in [ward, asked] {
            let path = format!("/v3/rooms/{room}/state/m.room.member/@nurse:hospital.example");
            let member = desk.get(&path, &doctor).await.ok();
            assert_eq!(member["membership"], "leave", "{room}");
        }
        let accounts = &desk.services.accounts;
        assert_eq!(accounts.leave_rooms_of_closed().await.unwrap(), 0, "nothing is left to do");
    }

    #[tokio::test]
    async fn a_closed_account_stays_closed() {
        let desk = Desk::new().await;
        let phone = desk.sign_up("nurse").await;
        let body = login_body("nurse", json!({ "refresh_token": true, "device_id": "LAPTOP" }));
        let laptop = desk.post("/v3/login", "", body).await;
        assert_eq!(desk.post("/v3/account/deactivate", &phone, json!({})).await.status, 401);
        assert!(desk.is_in(&phone).await);

        let body = json!({ "erase": true, "auth": own_password("nurse", "") });
        let closed = desk.post("/v3/account/deactivate", &phone, body).await.ok();
        assert_eq!(closed, json!({ "id_server_unbind_result": "success" }));
        assert!(!desk.is_in(&phone).await);
        assert!(!desk.is_in(&laptop.text("access_token")).await);
        let renew = json!({ "refresh_token": laptop.text("refresh_token") });
        assert_eq!(desk.post("/v3/refresh", "", renew).await.error(), (401, "M_UNKNOWN_TOKEN"));
        let login = desk.post("/v3/login", "", login_body("nurse", json!({}))).await;
        assert_eq!(login.error(), (403, "M_FORBIDDEN"));
        let again = desk.post("/v3/register", "", dummy(json!({ "username": "nurse" }))).await;
        assert_eq!(again.error(), (400, "M_USER_IN_USE"), "nobody takes the name over");
        let user_id = "@nurse:hospital.example".try_into().unwrap();
        let user_id: &appliance_model::ruma::UserId = user_id;
        let accounts = &desk.services.accounts;
        let reset = accounts.reset_password(user_id, "x".to_owned(), true, "root").await;
        assert_eq!(reset.unwrap_err().kind, appliance_model::Kind::UserDeactivated);
    }
}
