//! Users.

use appliance_model::{Error, Kind};
use appliance_services::accounts::Judgement;
use appliance_services::administration::{AccountChange, AccountView, Notice, Task, TaskState};
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::{Desk, answer, does_not, flag, is_backward, page_of, reason_of, user_at};
use crate::json::read_json;
use crate::route::{RawRequest, Visit, json_response};

pub(super) fn add(desk: &mut Desk<'_>) {
    use Method as M;
    for path in ["/_synapse/admin/v2/users", "/_synapse/admin/v3/users"] {
        desk.serve(M::GET, path, "admin.users_listed", list);
    }
    let one = "/_synapse/admin/v2/users/{user_id}";
    desk.serve(M::GET, one, "admin.user_read", get);
    desk.serve(M::PUT, one, "admin.user_put", put);
    let admin = "/_synapse/admin/v1/users/{user_id}/admin";
    desk.serve(M::GET, admin, "admin.user_read", is_admin);
    desk.serve(M::PUT, admin, "admin.user_put", set_admin);
    let path = "/_synapse/admin/v1/deactivate/{user_id}";
    desk.serve(M::POST, path, "admin.user_deactivate", deactivate);
    let path = "/_synapse/admin/v1/suspend/{user_id}";
    desk.serve(M::PUT, path, "admin.user_suspend", suspend);
    let path = "/_synapse/admin/v1/reset_password/{user_id}";
    desk.serve(M::POST, path, "admin.user_reset_password", reset_password);
    let path = "/_synapse/admin/v1/users/{user_id}/login";
    desk.serve(M::POST, path, "admin.user_login", login_as);
    let path = "/_synapse/admin/v1/users/{user_id}/joined_rooms";
    desk.serve(M::GET, path, "admin.user_rooms_read", joined_rooms);
    let shadow = "/_synapse/admin/v1/users/{user_id}/shadow_ban";
    desk.serve(M::POST, shadow, "admin.user_shadow_ban", no_shadow_ban);
    desk.serve(M::DELETE, shadow, "admin.user_shadow_ban", no_shadow_ban);
    let rates = "/_synapse/admin/v1/users/{user_id}/override_ratelimit";
    desk.serve(M::GET, rates, "admin.user_rates_read", no_rates);
    desk.serve(M::POST, rates, "admin.user_rates_set", no_rates_of_their_own);
    desk.serve(M::DELETE, rates, "admin.user_rates_set", no_rates);
    let path = "/_synapse/admin/v1/username_available";
    desk.serve(M::GET, path, "admin.username_asked", is_available);
    let path = "/_synapse/admin/v1/threepid/{medium}/users/{address}";
    desk.serve(M::GET, path, "admin.user_looked_up", nobody);
    let path = "/_synapse/admin/v1/auth_providers/{provider}/users/{external_id}";
    desk.serve(M::GET, path, "admin.user_looked_up", nobody);
    let path = "/_synapse/admin/v1/user/{user_id}/redact";
    desk.serve(M::POST, path, "admin.user_redact", redact);
    let path = "/_synapse/admin/v1/user/redact_status/{redact_id}";
    desk.serve(M::GET, path, "admin.user_redact_read", redact_status);
    let path = "/_synapse/admin/v1/send_server_notice";
    desk.serve(M::POST, path, "admin.notice_sent", send_notice);
    let path = "/_synapse/admin/v1/send_server_notice/{txn_id}";
    desk.serve(M::PUT, path, "admin.notice_sent", send_notice);
}

/// Synapse counts the age of an account in milliseconds on lists, and in seconds on its own.
fn shown(view: &AccountView) -> Map<String, Value> {
    let row = &view.row;
    let shown = json!({
        "name": view.user_id,
        "displayname": row.displayname,
        "avatar_url": row.avatar_url,
        "admin": row.administrator,
        "deactivated": row.deactivated,
        "erased": row.erased == Some(true),
        "locked": row.locked == Some(true),
        "suspended": row.suspended == Some(true),
        "shadow_banned": false,
        "is_guest": false,
        "approved": true,
        "user_type": row.user_type,
        "creation_ts": row.created_ms,
        "last_seen_ts": null,
    });
    shown.as_object().cloned().unwrap_or_default()
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let accounts = visit.services.administration.accounts().await?;
    let request = &visit.request;
    let (from, limit) = page_of(request)?;
    let (name, user_id) = (request.query("name"), request.query("user_id"));
    let v3 = request.uri.path().contains("/v3/");
    // v2 leaves the closed out unless they are asked for; v3 shows all unless one kind is.
    let deactivated = match (flag(request, "deactivated")?, v3) {
        (Some(true), false) => None,
        (None | Some(false), false) => Some(false),
        (wanted, true) => wanted,
    };
    let admins = flag(request, "admins")?;
    let shows_locked = flag(request, "locked")?.unwrap_or(false) || v3;
    // "To exclude users without a user type, use an empty string".
    let unwanted = request.queries("not_user_type");
    let has = |field: &str, part: &str| field.to_lowercase().contains(&part.to_lowercase());
    let is_wanted = |view: &AccountView| {
        let displayname = view.row.displayname.as_deref().unwrap_or_default();
        let named = |part: &str| has(view.user_id.localpart(), part) || has(displayname, part);
        name.as_deref().filter(|part| !part.is_empty()).is_none_or(named)
            && user_id
                .as_deref()
                .filter(|part| !part.is_empty())
                .is_none_or(|part| has(view.user_id.as_str(), part))
            && deactivated.is_none_or(|wanted| view.row.deactivated == wanted)
            && admins.is_none_or(|wanted| view.row.administrator == wanted)
            && !unwanted
                .iter()
                .any(|kind| kind == view.row.user_type.as_deref().unwrap_or_default())
            && (shows_locked || view.row.locked != Some(true))
    };
    let mut all: Vec<_> = accounts.into_iter().filter(is_wanted).collect();
    match request.query("order_by").as_deref() {
        None | Some("name") => all.sort_by(|a, b| a.user_id.cmp(&b.user_id)),
        Some("creation_ts") => all.sort_by_key(|view| view.row.created_ms),
        Some("displayname") => all.sort_by(|a, b| a.row.displayname.cmp(&b.row.displayname)),
        Some("admin") => all.sort_by_key(|view| view.row.administrator),
        Some("deactivated") => all.sort_by_key(|view| view.row.deactivated),
        Some("is_guest" | "avatar_url" | "shadow_banned" | "user_type" | "last_seen_ts") => {}
        Some(_) => return Err(Error::invalid_param("Users are not ordered by that.")),
    }
    if is_backward(request)? {
        all.reverse();
    }
    let users: Vec<_> = all.iter().skip(from).take(limit).map(shown).collect();
    let mut body = json!({ "users": users, "total": all.len() });
    if from.saturating_add(limit) < all.len() {
        body["next_token"] = (from + limit).to_string().into();
    }
    answer(&body)
}

fn details_of(view: &AccountView) -> Value {
    let mut body = Value::Object(shown(view));
    body["creation_ts"] = (view.row.created_ms / 1_000).into();
    for (name, value) in [
        ("threepids", json!([])),
        ("external_ids", json!([])),
        ("appservice_id", Value::Null),
        ("consent_server_notice_sent", Value::Null),
        ("consent_version", Value::Null),
        ("consent_ts", Value::Null),
    ] {
        body[name] = value;
    }
    body
}

async fn get(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let view = visit.services.administration.account(&user_id).await?;
    answer(&details_of(&view))
}

#[derive(Deserialize)]
struct PutBody {
    password: Option<String>,
    logout_devices: Option<bool>,
    displayname: Option<String>,
    avatar_url: Option<String>,
    #[serde(default)]
    threepids: Vec<IgnoredAny>,
    #[serde(default)]
    external_ids: Vec<IgnoredAny>,
    admin: Option<bool>,
    deactivated: Option<bool>,
    locked: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    user_type: Option<Option<String>>,
}

/// Tells `null` from what is not there.
fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

async fn put(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: PutBody = read_json(&mut visit.request).await?;
    if !body.threepids.is_empty() || !body.external_ids.is_empty() {
        return Err(Error::new(
            Kind::ThreepidDenied,
            "This server keeps no addresses, numbers or foreign names of its users.",
        ));
    }
    let change = AccountChange {
        password: body.password,
        keep_sessions: body.logout_devices == Some(false),
        displayname: body.displayname,
        avatar_url: body.avatar_url,
        administrator: body.admin,
        locked: body.locked,
        deactivated: body.deactivated,
        user_type: body.user_type,
    };
    let user_id = user_at(&visit.request, 0)?;
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    let is_new = desk.put_account(by, &user_id, change).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let view = desk.account(&user_id).await?;
    Ok(json_response(status, details_of(&view).to_string()))
}

async fn is_admin(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let view = visit.services.administration.account(&user_id).await?;
    answer(&json!({ "admin": view.row.administrator }))
}

#[derive(Deserialize)]
struct AdminBody {
    admin: bool,
}

async fn set_admin(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: AdminBody = read_json(&mut visit.request).await?;
    let user_id = user_at(&visit.request, 0)?;
    let change = AccountChange { administrator: Some(body.admin), ..AccountChange::default() };
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    desk.account(&user_id).await?;
    desk.put_account(by, &user_id, change).await?;
    answer(&json!({}))
}

#[derive(Deserialize)]
struct DeactivateBody {
    #[serde(default)]
    erase: bool,
}

async fn deactivate(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: DeactivateBody = read_json(&mut visit.request).await?;
    let user_id = user_at(&visit.request, 0)?;
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    desk.deactivate(by, &user_id, body.erase).await?;
    answer(&json!({ "id_server_unbind_result": "success" }))
}

#[derive(Deserialize)]
struct SuspendBody {
    suspend: bool,
}

async fn suspend(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: SuspendBody = read_json(&mut visit.request).await?;
    let user_id = user_at(&visit.request, 0)?;
    let judgement = Judgement::Suspend(body.suspend);
    visit.services.accounts.judge(visit.caller()?, &user_id, judgement).await?;
    let mut shown = Map::new();
    shown.insert(format!("user_{user_id}_suspended"), body.suspend.into());
    answer(&Value::Object(shown))
}

#[derive(Deserialize)]
struct PasswordBody {
    new_password: String,
    logout_devices: Option<bool>,
}

async fn reset_password(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: PasswordBody = read_json(&mut visit.request).await?;
    let user_id = user_at(&visit.request, 0)?;
    let keep_sessions = body.logout_devices == Some(false);
    let by = visit.caller()?.user_id.to_string();
    let accounts = &visit.services.accounts;
    accounts.reset_password(&user_id, body.new_password, keep_sessions, &by).await?;
    answer(&json!({}))
}

#[derive(Deserialize)]
struct LoginBody {
    valid_until_ms: Option<u64>,
    reason: Option<String>,
}

/// With a reason, which Synapse's tools do not send by themselves: their users are told how.
async fn login_as(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: LoginBody = read_json(&mut visit.request).await?;
    let user_id = user_at(&visit.request, 0)?;
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    let what = ("admin.user_entered", user_id.as_str());
    let reason = reason_of(&visit.request, body.reason);
    desk.admit_to_take_over(by, what, reason.as_deref()).await?;
    let session = desk.enter_account(by, &user_id, body.valid_until_ms).await?;
    answer(&json!({ "access_token": session.access_token, "device_id": session.device_id }))
}

async fn joined_rooms(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let rooms = visit.services.administration.joined_rooms(&user_id).await?;
    answer(&json!({ "total": rooms.len(), "joined_rooms": rooms }))
}

async fn no_shadow_ban(_: Visit<RawRequest>) -> Result<Response, Error> {
    Err(does_not(
        "This server makes nobody believe that they are heard when they are not. Suspend or lock \
         the account.",
    ))
}

/// There are none: an empty object is what Synapse says then.
async fn no_rates(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    visit.services.administration.account(&user_id).await?;
    answer(&json!({}))
}

async fn no_rates_of_their_own(_: Visit<RawRequest>) -> Result<Response, Error> {
    Err(does_not("This server has the same limits for all. Set them in its settings."))
}

async fn is_available(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let missing = || Error::new(Kind::MissingParam, "`username` is missing.");
    let name = visit.request.query("username").ok_or_else(missing)?;
    visit.services.accounts.check_available(&name).await?;
    answer(&json!({ "available": true }))
}

async fn nobody(_: Visit<RawRequest>) -> Result<Response, Error> {
    Err(Error::not_found("User not found"))
}

#[derive(Deserialize)]
struct RedactBody {
    #[serde(default)]
    rooms: Vec<appliance_model::ruma::OwnedRoomId>,
    reason: Option<String>,
    limit: Option<usize>,
}

async fn redact(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: RedactBody = read_json(&mut visit.request).await?;
    let user_id = user_at(&visit.request, 0)?;
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    desk.account(&user_id).await?;
    let RedactBody { rooms, reason, limit } = body;
    let task = Task::Redact { user_id, rooms, reason, limit };
    answer(&json!({ "redact_id": desk.order(by, &task).await? }))
}

async fn redact_status(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let redact_id = visit.request.param(0)?;
    let tasks = visit.services.administration.tasks().await?;
    let task = tasks.iter().find(|task| task.kind == "user.redact" && task.task_id == redact_id);
    let task = task.ok_or_else(|| Error::not_found("Redact id not found"))?;
    let failed: Value = task
        .result
        .as_deref()
        .and_then(|result| serde_json::from_str(result).ok())
        .unwrap_or_else(|| json!({}));
    let status = match task.state {
        TaskState::Active => "active",
        TaskState::Complete => "completed",
        TaskState::Failed => "failed",
    };
    answer(&json!({ "status": status, "failed_redactions": failed, "error": task.error }))
}

#[derive(Deserialize)]
struct NoticeBody {
    user_id: appliance_model::ruma::OwnedUserId,
    content: Map<String, Value>,
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
}

async fn send_notice(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: NoticeBody = read_json(&mut visit.request).await?;
    if body.state_key.is_some() {
        return Err(does_not("Server notices are messages here: leave `state_key` out."));
    }
    let txn_id = visit.request.params.first().cloned();
    let notice = Notice::new(body.kind, &Value::Object(body.content), txn_id);
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    let event_id = desk.notify(by.user_id.as_str(), &body.user_id, notice).await?;
    answer(&json!({ "event_id": event_id }))
}
