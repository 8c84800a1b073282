//! Devices of users, and where they are signed in.

use appliance_model::Error;
use appliance_model::ruma::{OwnedDeviceId, UserId};
use appliance_services::accounts::Device;
use axum::response::Response;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, answer, user_at};
use crate::client::moderation::whois_json;
use crate::client::pushers::in_json;
use crate::json::read_json;
use crate::route::{RawRequest, Visit};

pub(super) fn add(desk: &mut Desk<'_>) {
    let path = "/_synapse/admin/v1/whois/{user_id}";
    desk.serve(Method::GET, path, "admin.user_whois", whois);
    let path = "/_synapse/admin/v1/users/{user_id}/pushers";
    desk.serve(Method::GET, path, "admin.pushers_listed", pushers);
    let path = "/_synapse/admin/v2/users/{user_id}/devices";
    desk.serve(Method::GET, path, "admin.devices_listed", list);
    let path = "/_synapse/admin/v2/users/{user_id}/delete_devices";
    desk.serve(Method::POST, path, "admin.devices_deleted", delete_many);
    let path = "/_synapse/admin/v2/users/{user_id}/devices/{device_id}";
    desk.serve(Method::GET, path, "admin.device_read", get);
    desk.serve(Method::PUT, path, "admin.device_named", rename);
    desk.serve(Method::DELETE, path, "admin.devices_deleted", delete);
}

fn shown(user_id: &UserId, device: &Device) -> Value {
    json!({
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_user_agent": null,
        "last_seen_ts": device.last_seen_ms,
        "user_id": user_id,
    })
}

async fn whois(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let devices = visit.services.accounts.whois(visit.caller()?, &user_id).await?;
    answer(&whois_json(&user_id, &devices))
}

async fn pushers(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let view = visit.services.administration.account(&user_id).await?;
    let pushers = visit.services.push.pushers_of(view.user).await?;
    let shown: Vec<_> = pushers.into_iter().map(in_json).collect();
    answer(&json!({ "total": shown.len(), "pushers": shown }))
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let view = visit.services.administration.account(&user_id).await?;
    let devices = visit.services.accounts.all_devices(view.user).await?;
    let shown: Vec<_> = devices.iter().map(|device| shown(&user_id, device)).collect();
    answer(&json!({ "total": shown.len(), "devices": shown }))
}

async fn get(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let device_id = visit.request.param(1)?;
    let view = visit.services.administration.account(&user_id).await?;
    let devices = visit.services.accounts.all_devices(view.user).await?;
    let device = devices.iter().find(|device| device.device_id == device_id);
    let device = device.ok_or_else(|| Error::not_found("No device found"))?;
    answer(&shown(&user_id, device))
}

#[derive(Deserialize)]
struct NameBody {
    display_name: Option<String>,
}

async fn rename(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: NameBody = read_json(&mut visit.request).await?;
    let user_id = user_at(&visit.request, 0)?;
    let device_id = OwnedDeviceId::from(visit.request.param(1)?);
    let owner = visit.services.administration.owner(&user_id).await?;
    visit.services.accounts.name_device(&owner, &device_id, body.display_name).await?;
    answer(&json!({}))
}

async fn delete(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let device_id = OwnedDeviceId::from(visit.request.param(1)?);
    let by = visit.caller()?.clone();
    visit.services.administration.end_devices(&by, &user_id, vec![device_id]).await?;
    answer(&json!({}))
}

#[derive(Deserialize)]
struct DeleteBody {
    devices: Vec<OwnedDeviceId>,
}

async fn delete_many(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: DeleteBody = read_json(&mut visit.request).await?;
    let user_id = user_at(&visit.request, 0)?;
    let by = visit.caller()?.clone();
    visit.services.administration.end_devices(&by, &user_id, body.devices).await?;
    answer(&json!({}))
}
