//! Rooms.

use std::sync::Arc;

use appliance_model::ruma::{OwnedRoomAliasId, OwnedRoomId, OwnedUserId};
use appliance_model::{Error, Kind};
use appliance_services::Services;
use appliance_services::administration::{Closing, RoomView, Task, TaskState};
use axum::response::Response;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, answer, does_not, is_backward, page_of, reason_of, room_at};
use crate::json::read_json;
use crate::route::{RawRequest, Visit};

pub(super) fn add(desk: &mut Desk<'_>) {
    use Method as M;
    desk.serve(M::GET, "/_synapse/admin/v1/rooms", "admin.rooms_listed", list);
    let one = "/_synapse/admin/v1/rooms/{room_id}";
    desk.serve(M::GET, one, "admin.room_read", get);
    desk.serve(M::DELETE, one, "admin.room_delete", delete_now);
    let path = "/_synapse/admin/v2/rooms/{room_id}";
    desk.serve(M::DELETE, path, "admin.room_delete", delete);
    let path = "/_synapse/admin/v2/rooms/{room_id}/delete_status";
    desk.serve(M::GET, path, "admin.room_delete_read", status_by_room);
    let path = "/_synapse/admin/v2/rooms/delete_status/{delete_id}";
    desk.serve(M::GET, path, "admin.room_delete_read", status_by_id);
    let path = "/_synapse/admin/v1/rooms/{room_id}/members";
    desk.serve(M::GET, path, "admin.room_members_read", members);
    let path = "/_synapse/admin/v1/rooms/{room_id}/state";
    desk.serve(M::GET, path, "admin.room_state_read", state);
    let block = "/_synapse/admin/v1/rooms/{room_id}/block";
    desk.serve(M::GET, block, "admin.room_block_read", is_blocked);
    desk.serve(M::PUT, block, "admin.room_block", block_room);
    let path = "/_synapse/admin/v1/rooms/{room_id}/make_room_admin";
    desk.serve(M::POST, path, "admin.room_make_admin", make_admin);
    let path = "/_synapse/admin/v1/join/{room_id_or_alias}";
    desk.serve(M::POST, path, "admin.room_join", join);
}

fn shown(view: &RoomView) -> Value {
    let face = &view.face;
    json!({
        "room_id": face.room_id,
        "name": face.name,
        "canonical_alias": face.canonical_alias,
        "joined_members": view.members.len(),
        "joined_local_members": view.local_members,
        "version": face.room_version,
        "creator": view.creator,
        "encryption": face.encryption,
        "federatable": view.federatable,
        "public": view.published,
        "join_rules": face.join_rule,
        "guest_access": if face.guest_can_join { "can_join" } else { "forbidden" },
        "history_visibility": view.history_visibility,
        "state_events": view.state_events,
        "room_type": face.room_type,
    })
}

/// All rooms that have a beginning.
async fn views(services: Arc<Services>) -> Result<Vec<RoomView>, Error> {
    let desk = &services.administration;
    let mut found = Vec::new();
    for room_id in desk.rooms().await? {
        match desk.room(&room_id).await {
            Ok(view) => found.push(view),
            Err(Error { kind: Kind::NotFound, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let mut all = views(visit.services.clone()).await?;
    let request = &visit.request;
    let (from, limit) = page_of(request)?;
    let search = request.query("search_term").unwrap_or_default().to_lowercase();
    let empty = super::flag(request, "empty_rooms")?;
    let has = |text: Option<&str>| text.is_some_and(|text| text.to_lowercase().contains(&search));
    all.retain(|view| {
        let face = &view.face;
        let is_named = has(face.name.as_deref())
            || has(face.canonical_alias.as_deref())
            || face.room_id.to_lowercase() == search;
        (search.is_empty() || is_named)
            && empty.is_none_or(|empty| view.members.is_empty() == empty)
    });
    match request.query("order_by").as_deref() {
        None | Some("name" | "alphabetical") => all.sort_by_key(|view| view.face.name.clone()),
        Some("canonical_alias") => all.sort_by_key(|view| view.face.canonical_alias.clone()),
        Some("joined_members" | "size") => {
            all.sort_by_key(|view| std::cmp::Reverse(view.members.len()));
        }
        Some("joined_local_members") => {
            all.sort_by_key(|view| std::cmp::Reverse(view.local_members));
        }
        Some("version") => all.sort_by_key(|view| view.face.room_version.clone()),
        Some("creator") => all.sort_by_key(|view| view.creator.clone()),
        Some("state_events") => all.sort_by_key(|view| std::cmp::Reverse(view.state_events)),
        Some(
            "encryption" | "federatable" | "public" | "join_rules" | "guest_access"
            | "history_visibility",
        ) => {}
        Some(_) => return Err(Error::invalid_param("Rooms are not ordered by that.")),
    }
    if is_backward(request)? {
        all.reverse();
    }
    let rooms: Vec<_> = all.iter().skip(from).take(limit).map(shown).collect();
    let mut body = json!({ "rooms": rooms, "offset": from, "total_rooms": all.len() });
    if from.saturating_add(limit) < all.len() {
        body["next_batch"] = (from + limit).into();
    }
    if from > 0 {
        body["prev_batch"] = from.saturating_sub(limit).into();
    }
    answer(&body)
}

async fn get(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = room_at(&visit.request, 0)?;
    let view = visit.services.administration.room(&room_id).await?;
    let mut body = shown(&view);
    body["topic"] = view.face.topic.as_deref().into();
    body["avatar"] = view.face.avatar_url.as_deref().into();
    body["joined_local_devices"] = Value::Null;
    body["forgotten"] = (view.local_members == 0).into();
    let unreachable = visit.services.administration.unreachable_in(&room_id).await?;
    body["io.wardstone.unreachable_servers"] = json!(unreachable);
    answer(&body)
}

async fn members(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = room_at(&visit.request, 0)?;
    let view = visit.services.administration.room(&room_id).await?;
    answer(&json!({ "members": view.members, "total": view.members.len() }))
}

async fn state(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = room_at(&visit.request, 0)?;
    let state = visit.services.administration.room_state(&room_id).await?;
    let body = format!(r#"{{"state":{state}}}"#);
    Ok(crate::route::json_response(http::StatusCode::OK, body))
}

#[derive(Deserialize)]
struct DeleteBody {
    #[serde(default)]
    block: bool,
    #[serde(default = "yes")]
    purge: bool,
    new_room_user_id: Option<String>,
}

fn yes() -> bool {
    true
}

async fn closing(request: &mut RawRequest) -> Result<(OwnedRoomId, Closing), Error> {
    let body: DeleteBody = read_json(request).await?;
    if body.new_room_user_id.is_some() {
        return Err(does_not(
            "Nobody is moved to another room here: leave `new_room_user_id` out.",
        ));
    }
    Ok((room_at(request, 0)?, Closing { block: body.block, purge: body.purge }))
}

async fn delete_now(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, how) = closing(&mut visit.request).await?;
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    let closed = desk.close_room(by, &room_id, &how).await?;
    answer(&serde_json::to_value(closed).map_err(Error::internal)?)
}

async fn delete(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, how) = closing(&mut visit.request).await?;
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    desk.room(&room_id).await?;
    let delete_id = desk.order(by, &Task::CloseRoom(room_id, how)).await?;
    answer(&json!({ "delete_id": delete_id }))
}

async fn statuses(visit: Visit<RawRequest>, by_room: bool) -> Result<Vec<Value>, Error> {
    let wanted = visit.request.param(0)?;
    let tasks = visit.services.administration.tasks().await?;
    let tasks = tasks.into_iter().filter(|task| {
        let name = if by_room { &task.object } else { &task.task_id };
        task.kind == "room.delete" && name == wanted
    });
    let shown = tasks.map(|task| {
        let status = status_of(task.state);
        let result: Value = task
            .result
            .as_deref()
            .and_then(|result| serde_json::from_str(result).ok())
            .unwrap_or_else(|| {
                json!({ "kicked_users": [], "failed_to_kick_users": [], "local_aliases": [],
                        "new_room_id": null })
            });
        let mut shown =
            json!({ "delete_id": task.task_id, "status": status, "shutdown_room": result });
        if let Some(error) = task.error {
            shown["error"] = error.into();
        }
        shown
    });
    let shown: Vec<_> = shown.collect();
    if shown.is_empty() {
        return Err(Error::not_found("Nothing of that kind was ordered."));
    }
    Ok(shown)
}

/// Synapse's word for it.
pub(super) fn status_of(state: TaskState) -> &'static str {
    match state {
        TaskState::Active => "active",
        TaskState::Complete => "complete",
        TaskState::Failed => "failed",
    }
}

async fn status_by_room(visit: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&json!({ "results": statuses(visit, true).await? }))
}

async fn status_by_id(visit: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&statuses(visit, false).await?.remove(0))
}

async fn is_blocked(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = room_at(&visit.request, 0)?;
    let by = visit.services.administration.blocked_by(&room_id).await?;
    answer(&match by {
        Some(by) => json!({ "block": true, "user_id": by }),
        None => json!({ "block": false }),
    })
}

#[derive(Deserialize)]
struct BlockBody {
    block: bool,
}

async fn block_room(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: BlockBody = read_json(&mut visit.request).await?;
    let room_id = room_at(&visit.request, 0)?;
    visit.services.administration.block(visit.caller()?, &room_id, body.block).await?;
    answer(&json!({ "block": body.block }))
}

#[derive(Deserialize)]
struct PowerBody {
    user_id: Option<OwnedUserId>,
    reason: Option<String>,
}

async fn make_admin(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: PowerBody = read_json(&mut visit.request).await?;
    let room_id = room_at(&visit.request, 0)?;
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    let user_id = body.user_id.unwrap_or_else(|| by.user_id.clone());
    let object = format!("{room_id} {user_id}");
    let what = ("admin.room_power_taken", object.as_str());
    let reason = reason_of(&visit.request, body.reason);
    desk.admit_to_take_over(by, what, reason.as_deref()).await?;
    desk.make_room_admin(&user_id, &room_id).await?;
    answer(&json!({}))
}

#[derive(Deserialize)]
struct JoinBody {
    user_id: OwnedUserId,
}

async fn join(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: JoinBody = read_json(&mut visit.request).await?;
    let name = visit.request.param(0)?;
    let room_id = match OwnedRoomAliasId::try_from(name) {
        Ok(alias) => visit.services.rooms.resolve_alias(&alias).await?,
        Err(_) => room_at(&visit.request, 0)?,
    };
    visit.services.administration.join(&body.user_id, &room_id).await?;
    answer(&json!({ "room_id": room_id }))
}
