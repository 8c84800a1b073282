//! Suspending and locking accounts, and where somebody is signed in: what the specification gives
//! administrators.

use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Error, Role};
use appliance_services::accounts::{Device, Judgement};
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::json::read_json;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

const SUSPEND: &str = "/_matrix/client/v1/admin/suspend/{user_id}";
const LOCK: &str = "/_matrix/client/v1/admin/lock/{user_id}";

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw(Method::GET, SUSPEND, Access::SignedIn, is_suspended);
    routes.serve_raw(Method::PUT, SUSPEND, Access::SignedIn, suspend);
    routes.serve_raw(Method::GET, LOCK, Access::SignedIn, is_locked);
    routes.serve_raw(Method::PUT, LOCK, Access::SignedIn, lock);
    for path in
        ["/_matrix/client/r0/admin/whois/{user_id}", "/_matrix/client/v3/admin/whois/{user_id}"]
    {
        routes.serve_raw(Method::GET, path, Access::SignedIn, whois);
    }
}

pub(crate) fn user_of(request: &RawRequest) -> Result<OwnedUserId, Error> {
    UserId::parse(request.param(0)?).map_err(|_| Error::invalid_param("This is not a user ID."))
}

async fn is_suspended(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_of(&visit.request)?;
    let standing = visit.services.accounts.standing(visit.caller()?, &user_id).await?;
    Ok(json_response(StatusCode::OK, json!({ "suspended": standing.suspended }).to_string()))
}

async fn is_locked(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_of(&visit.request)?;
    let standing = visit.services.accounts.standing(visit.caller()?, &user_id).await?;
    Ok(json_response(StatusCode::OK, json!({ "locked": standing.locked }).to_string()))
}

#[derive(Deserialize)]
struct Suspension {
    suspended: bool,
}

async fn suspend(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let Suspension { suspended } = read_json(&mut visit.request).await?;
    let user_id = user_of(&visit.request)?;
    let judgement = Judgement::Suspend(suspended);
    visit.services.accounts.judge(visit.caller()?, &user_id, judgement).await?;
    Ok(json_response(StatusCode::OK, json!({ "suspended": suspended }).to_string()))
}

#[derive(Deserialize)]
struct Locking {
    locked: bool,
}

async fn lock(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let Locking { locked } = read_json(&mut visit.request).await?;
    let user_id = user_of(&visit.request)?;
    let judgement = Judgement::Lock(locked);
    visit.services.accounts.judge(visit.caller()?, &user_id, judgement).await?;
    Ok(json_response(StatusCode::OK, json!({ "locked": locked }).to_string()))
}

/// "This API may be restricted to only be called by the user being looked up, or by a server admin."
async fn whois(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (caller, user_id) = (visit.caller()?, user_of(&visit.request)?);
    let accounts = &visit.services.accounts;
    if caller.role != Role::Administrator && caller.user_id != user_id {
        return Err(Error::forbidden("You can only look up where you are signed in yourself."));
    }
    let devices = accounts.whois(caller, &user_id).await?;
    Ok(json_response(StatusCode::OK, whois_json(&user_id, &devices).to_string()))
}

/// Where somebody is signed in, device by device.
pub(crate) fn whois_json(user_id: &UserId, devices: &[Device]) -> Value {
    let shown = |device: &Device| {
        let connection = json!({
            "ip": device.last_seen_ip,
            "last_seen": device.last_seen_ms,
            "user_agent": null,
        });
        let sessions = json!({ "sessions": [{ "connections": [connection] }] });
        (device.device_id.to_string(), sessions)
    };
    let devices: Map<String, Value> = devices.iter().map(shown).collect();
    json!({ "user_id": user_id, "devices": devices })
}
