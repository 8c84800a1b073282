//! Account data, tags, filters.

use std::sync::Arc;

use appliance_model::ruma::api::client::config::{
    get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data,
};
use appliance_model::ruma::api::client::filter::get_filter;
use appliance_model::ruma::api::client::tag::{create_tag, delete_tag, get_tags};
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{RoomId, UserId};
use appliance_model::{Caller, Error, Kind, RoomNid};
use appliance_services::Services;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::route::{Access, RawRequest, Routes, Visit, json_response, read_body};

/// The account data type of tags.
const TAG: &str = "m.tag";
/// A filter, as JSON.
const FILTER_BYTES_MAX: usize = 65_536;

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(get_global);
    routes.serve(set_global);
    routes.serve(get_of_room);
    routes.serve(set_of_room);
    let path = "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{type}";
    routes.serve_raw(Method::DELETE, path, Access::SignedIn, delete_global);
    let path = "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{type}";
    routes.serve_raw(Method::DELETE, path, Access::SignedIn, delete_of_room);
    routes.serve(tags);
    routes.serve(set_tag);
    routes.serve(remove_tag);
    routes.serve(filter);
    // Ruma reads a filter and forgets what it does not know; the client gets back what it sent.
    for path in
        ["/_matrix/client/r0/user/{user_id}/filter", "/_matrix/client/v3/user/{user_id}/filter"]
    {
        routes.serve_raw(Method::POST, path, Access::SignedIn, make_filter);
    }
}

/// "You can only … your own".
fn own(caller: &Caller, user_id: &UserId) -> Result<(), Error> {
    if caller.user_id == user_id {
        return Ok(());
    }
    Err(Error::forbidden("You can only read and change your own account data."))
}

fn none() -> Error {
    Error::not_found("This was never set.")
}

/// "M_BAD_JSON … this type of account data is controlled by the server".
fn check_type(kind: &str) -> Result<(), Error> {
    if matches!(kind, "m.fully_read" | "m.push_rules") {
        return Err(Error::new(Kind::Managed, "This account data has an endpoint of its own."));
    }
    Ok(())
}

async fn room_number(services: &Services, room_id: &RoomId) -> Result<RoomNid, Error> {
    let unknown = || Error::not_found("This server does not know that room.");
    services.house.ledger.room(room_id).await?.ok_or_else(unknown)
}

async fn get_global(
    visit: Visit<get_global_account_data::v3::Request>,
) -> Result<get_global_account_data::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    own(caller, &request.user_id)?;
    let personal = &visit.services.personal;
    let kind = request.event_type.to_string();
    let content = if kind == "m.push_rules" {
        Some(personal.push_rules_content(caller.user, &caller.user_id).await?)
    } else {
        personal.account_data(caller.user, None, &kind).await?
    };
    let content = Raw::from_json_string(content.ok_or_else(none)?).map_err(Error::internal)?;
    Ok(get_global_account_data::v3::Response::new(content))
}

async fn set_global(
    visit: Visit<set_global_account_data::v3::Request>,
) -> Result<set_global_account_data::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    own(caller, &request.user_id)?;
    let kind = request.event_type.to_string();
    check_type(&kind)?;
    let owner = (caller.user, caller.user_id.as_str());
    let content = request.data.json().get();
    visit.services.personal.set_account_data(owner, None, &kind, content).await?;
    Ok(set_global_account_data::v3::Response::new())
}

async fn get_of_room(
    visit: Visit<get_room_account_data::v3::Request>,
) -> Result<get_room_account_data::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    own(caller, &request.user_id)?;
    let room = room_number(&visit.services, &request.room_id).await?;
    let kind = request.event_type.to_string();
    let content = visit.services.personal.account_data(caller.user, Some(room), &kind).await?;
    let content = Raw::from_json_string(content.ok_or_else(none)?).map_err(Error::internal)?;
    Ok(get_room_account_data::v3::Response::new(content))
}

async fn set_of_room(
    visit: Visit<set_room_account_data::v3::Request>,
) -> Result<set_room_account_data::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    own(caller, &request.user_id)?;
    let kind = request.event_type.to_string();
    check_type(&kind)?;
    let room = room_number(&visit.services, &request.room_id).await?;
    let owner = (caller.user, caller.user_id.as_str());
    let content = request.data.json().get();
    visit.services.personal.set_account_data(owner, Some(room), &kind, content).await?;
    Ok(set_room_account_data::v3::Response::new())
}

async fn delete_global(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let kind = visit.request.param(1)?.to_owned();
    delete(visit, None, &kind).await
}

async fn delete_of_room(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = RoomId::parse(visit.request.param(1)?)
        .map_err(|_| Error::invalid_param("This is not a room ID."))?;
    let kind = visit.request.param(2)?.to_owned();
    delete(visit, Some(&room_id), &kind).await
}

async fn delete(
    visit: Visit<RawRequest>,
    room_id: Option<&RoomId>,
    kind: &str,
) -> Result<Response, Error> {
    let caller = visit.caller()?;
    let user_id = UserId::parse(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("This is not a user ID."))?;
    own(caller, &user_id)?;
    check_type(kind)?;
    let room = match room_id {
        Some(room_id) => Some(room_number(&visit.services, room_id).await?),
        None => None,
    };
    let owner = (caller.user, caller.user_id.as_str());
    visit.services.personal.delete_account_data(owner, room, kind).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

async fn read_tags(
    services: &Services,
    caller: &Caller,
    room: RoomNid,
) -> Result<Map<String, Value>, Error> {
    let content = services.personal.account_data(caller.user, Some(room), TAG).await?;
    let content = content.and_then(|json| serde_json::from_str::<Value>(&json).ok());
    let tags = content.and_then(|content| content.get("tags").and_then(Value::as_object).cloned());
    Ok(tags.unwrap_or_default())
}

async fn write_tags(
    services: &Services,
    caller: &Caller,
    room: RoomNid,
    tags: Map<String, Value>,
) -> Result<(), Error> {
    let content = json!({ "tags": tags }).to_string();
    let owner = (caller.user, caller.user_id.as_str());
    services.personal.set_account_data(owner, Some(room), TAG, &content).await
}

async fn tags(visit: Visit<get_tags::v3::Request>) -> Result<get_tags::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    own(caller, &request.user_id)?;
    let room = room_number(&visit.services, &request.room_id).await?;
    let tags = read_tags(&visit.services, caller, room).await?;
    let tags = serde_json::from_value(Value::Object(tags)).map_err(Error::internal)?;
    Ok(get_tags::v3::Response::new(tags))
}

async fn set_tag(visit: Visit<create_tag::v3::Request>) -> Result<create_tag::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    own(caller, &request.user_id)?;
    let room = room_number(&visit.services, &request.room_id).await?;
    let mut tags = read_tags(&visit.services, caller, room).await?;
    let info = serde_json::to_value(&request.tag_info).map_err(Error::internal)?;
    tags.insert(request.tag.to_string(), info);
    write_tags(&visit.services, caller, room, tags).await?;
    Ok(create_tag::v3::Response::new())
}

async fn remove_tag(
    visit: Visit<delete_tag::v3::Request>,
) -> Result<delete_tag::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    own(caller, &request.user_id)?;
    let room = room_number(&visit.services, &request.room_id).await?;
    let mut tags = read_tags(&visit.services, caller, room).await?;
    tags.remove(&request.tag.to_string());
    write_tags(&visit.services, caller, room, tags).await?;
    Ok(delete_tag::v3::Response::new())
}

async fn filter(visit: Visit<get_filter::v3::Request>) -> Result<get_filter::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    own(caller, &request.user_id)?;
    let filter = visit.services.personal.filter(caller.user, &request.filter_id).await?;
    Ok(get_filter::v3::Response::new(Arc::unwrap_or_clone(filter)))
}

async fn make_filter(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.visitor.ok_or_else(none)?;
    let user_id = visit.request.params.first().map(String::as_str).unwrap_or_default();
    let user_id =
        UserId::parse(user_id).map_err(|_| Error::invalid_param("This is not a user ID."))?;
    own(&caller, &user_id)?;
    let body = read_body(visit.request.body, FILTER_BYTES_MAX).await?;
    let json = std::str::from_utf8(&body)
        .map_err(|_| Error::new(Kind::NotJson, "The filter is not UTF-8 text."))?;
    if serde_json::from_str::<Value>(json).is_err() {
        return Err(Error::new(Kind::NotJson, "The filter is not JSON."));
    }
    let owner = (caller.user, caller.user_id.as_str());
    let filter_id = visit.services.personal.create_filter(owner, json).await?;
    Ok(json_response(StatusCode::OK, json!({ "filter_id": filter_id }).to_string()))
}
