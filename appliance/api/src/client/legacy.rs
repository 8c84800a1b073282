//! What clients of before `/sync` ask for: all rooms or one at a glance, the stream of events, one event
//! whatever its room (the specification still has those), and messages without a transaction ID (some
//! bots and the conformance suites do).

use std::time::Duration;

use appliance_model::ruma::api::client::filter::RoomEventFilter;
use appliance_model::ruma::api::client::message::send_message_event;
use appliance_model::ruma::api::client::peeking::get_current_state;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{EventId, OwnedRoomId, RoomId};
use appliance_model::{Error, Position};
use appliance_services::Direction;
use appliance_services::rooms::{HistoryQuery, StateForm};
use appliance_services::sync::token::timeline_token;
use appliance_services::sync::{EventsRequest, InitialRequest, Token};
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::sync::{flag, number};
use crate::json::read_json;
use crate::query;
use crate::route::{Access, RawRequest, Routes, Visit, json_response, token};

/// The newest messages of a room: what old clients showed first.
const MESSAGES: usize = 20;
/// As long as clients' own.
const TXN_ID_LENGTH: usize = 24;

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_json(room);
    for path in ["/_matrix/client/r0/events/{event_id}", "/_matrix/client/v3/events/{event_id}"] {
        routes.serve_raw(Method::GET, path, Access::SignedIn, event);
    }
    for path in ["/_matrix/client/r0/events", "/_matrix/client/v3/events"] {
        routes.serve_raw(Method::GET, path, Access::SignedIn, events);
    }
    for path in [
        "/_matrix/client/r0/rooms/{room_id}/send/{event_type}",
        "/_matrix/client/r0/rooms/{room_id}/send/{event_type}/{txn_id}",
        "/_matrix/client/v3/rooms/{room_id}/send/{event_type}",
        "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}",
    ] {
        routes.serve_raw(Method::POST, path, Access::SignedIn, send);
    }
    for path in ["/_matrix/client/r0/initialSync", "/_matrix/client/v3/initialSync"] {
        routes.serve_raw(Method::GET, path, Access::SignedIn, initial);
    }
}

/// Without a timeout the answer comes at once, as at `/sync`.
async fn events(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let uri = visit.request.uri.clone();
    let query = move |name| query::value(&uri, name).filter(|value| !value.is_empty());
    let room_id = |text: String| -> Result<OwnedRoomId, Error> {
        RoomId::parse(text).map_err(|_| Error::invalid_param("`room_id` is not a room ID."))
    };
    let request = EventsRequest {
        from: query("from").as_deref().map(Token::parse).transpose()?,
        timeout: Duration::from_millis(query("timeout").map_or(Ok(0), |text| number(&text))?),
        room_id: query("room_id").map(room_id).transpose()?,
    };
    let token = token(&visit.headers, &visit.request.uri).unwrap_or_default();
    let json = visit.services.sync.events(visit.caller()?, &token, &request).await?;
    Ok(json_response(StatusCode::OK, json))
}

async fn initial(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let bad_limit = |_| Error::invalid_param("`limit` must be a number of messages.");
    let request = InitialRequest {
        limit: visit
            .request
            .query("limit")
            .map(|text| text.parse().map_err(bad_limit))
            .transpose()?,
        archived: visit.request.query("archived").map_or(Ok(false), |text| flag(&text))?,
    };
    let json = visit.services.sync.initial(visit.caller()?, request).await?;
    Ok(json_response(StatusCode::OK, json))
}

/// Sending before there were transaction IDs: nobody can ask twice whether it arrived.
async fn send(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let content: Box<RawValue> = read_json(&mut visit.request).await?;
    let room_id = RoomId::parse(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("The path names a room by ID."))?;
    let kind = visit.request.param(1)?.into();
    let txn_id = match visit.request.params.get(2) {
        Some(txn_id) => txn_id.clone(),
        None => visit.services.house.dice.letters(TXN_ID_LENGTH),
    };
    let content = Raw::from_json(content);
    let request = send_message_event::v3::Request::new_raw(room_id, txn_id.into(), kind, content);
    let event_id = visit.services.rooms.send_event(visit.caller()?, &request).await?;
    Ok(json_response(StatusCode::OK, json!({ "event_id": event_id }).to_string()))
}

async fn room(visit: Visit<get_current_state::v3::Request>) -> Result<String, Error> {
    let (caller, room_id) = (visit.caller()?, &visit.request.room_id);
    let (rooms, personal) = (&visit.services.rooms, &visit.services.personal);
    let filter = RoomEventFilter::default();
    let query = HistoryQuery {
        from: None,
        to: None,
        direction: Direction::Backward,
        limit: MESSAGES,
        filter: &filter,
    };
    let page = rooms.history(caller, room_id, &query).await?;
    let (start, end) = (page.end, page.start);
    let chunk = page.chunk.reversed().to_json(Some(room_id.as_str()));
    let state = rooms.full_state(caller, room_id).await?;
    let key = (&StateEventType::RoomMember, caller.user_id.as_str());
    // Who reads what the world may read is nothing in the room.
    let member = rooms.state_event(caller, room_id, key, StateForm::Content).await.ok();
    let member: Value =
        member.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    let membership = member["membership"].as_str().unwrap_or("leave");
    let visibility = if rooms.is_published(room_id).await? { "public" } else { "private" };
    let number = visit.services.house.ledger.room(room_id).await?;
    let upto = visit.services.house.ledger.position();
    let own = personal.account_data_changes(caller.user, Position(0), upto).await?;
    let own = own.into_iter().filter(|datum| datum.room.is_some() && datum.room == number);
    let own: Vec<_> = own
        .map(|datum| format!(r#"{{"content":{},"type":{}}}"#, datum.content, json!(datum.kind)))
        .collect();
    let start = start.map(|start| format!(r#","start":"{}""#, timeline_token(start)));
    Ok(format!(
        r#"{{"account_data":[{}],"membership":{},"messages":{{"chunk":{chunk},"end":"{}"{}}},"room_id":{},"state":{state},"visibility":"{visibility}"}}"#,
        own.join(","),
        json!(membership),
        timeline_token(end),
        start.unwrap_or_default(),
        json!(room_id),
    ))
}

async fn event(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let event_id = EventId::parse(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("The path names an event by ID."))?;
    let rooms = &visit.services.rooms;
    let (room_id, found) = rooms.event_anywhere(visit.caller()?, &event_id).await?;
    let mut body = String::new();
    found.write(&mut body, 0, Some(room_id.as_str()));
    Ok(json_response(StatusCode::OK, body))
}
