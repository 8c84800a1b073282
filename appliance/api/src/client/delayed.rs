//! Delayed events (MSC4140), in the form of the present draft and in the one that released clients
//! still use: a `delay` in the query of `/send` and `/state`.

use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{CanonicalJsonObject, OwnedRoomId, RoomId, TransactionId};
use appliance_model::{Error, Kind};
use appliance_services::rooms::{DELAY_MS_MAX, Delayed, DelayedAction, NewDelayed, content_of};
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::error_body;
use crate::json::read_json;
use crate::query;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

const SCHEDULE: &str = "/_matrix/client/unstable/org.matrix.msc4140/rooms/{room_id}/delayed_event/{event_type}/{txn_id}";
const LIST: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
const ONE: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}";
const ACTION: &str =
    "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}/{action}";

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw(Method::PUT, SCHEDULE, Access::SignedIn, schedule);
    routes.serve_raw(Method::GET, LIST, Access::SignedIn, list);
    routes.serve_raw(Method::GET, ONE, Access::SignedIn, one);
    // "These endpoints are unauthenticated so that control … may be delegated."
    routes.serve_raw(Method::POST, ONE, Access::Open, act_on_body);
    routes.serve_raw(Method::POST, ACTION, Access::Open, act);
}

/// The delay that a client asks for in the query of `/send` or `/state`.
pub(crate) fn delay_ms(uri: &http::Uri) -> Result<Option<u64>, Error> {
    let Some(text) = query::value(uri, "org.matrix.msc4140.delay") else { return Ok(None) };
    let delay_ms = text.parse();
    delay_ms.map(Some).map_err(|_| Error::invalid_param("The delay is no number of milliseconds."))
}

/// Schedules what came with such a query.
pub(crate) async fn schedule_from_query<R, T>(
    visit: &Visit<R>,
    room_id: &RoomId,
    (kind, state_key, txn_id): (String, Option<String>, Option<&TransactionId>),
    (content, delay_ms): (&Raw<T>, u64),
) -> Result<String, Error> {
    let content = content_of(content)?;
    let new = NewDelayed { room_id: room_id.to_owned(), kind, state_key, content, delay_ms };
    let delay_id = visit.services.rooms.schedule(visit.caller()?, new, txn_id).await?;
    Ok(json!({ "delay_id": delay_id }).to_string())
}

#[derive(Deserialize)]
struct ScheduleBody {
    delay: u64,
    state_key: Option<String>,
    content: CanonicalJsonObject,
}

async fn schedule(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: ScheduleBody = read_json(&mut visit.request).await?;
    let room_id = OwnedRoomId::try_from(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("This is not a room ID."))?;
    let new = NewDelayed {
        room_id,
        kind: visit.request.param(1)?.to_owned(),
        state_key: body.state_key,
        content: body.content,
        delay_ms: body.delay.min(DELAY_MS_MAX + 1),
    };
    let txn_id = <&TransactionId>::from(visit.request.param(2)?);
    let delay_id = visit.services.rooms.schedule(visit.caller()?, new, Some(txn_id)).await?;
    Ok(json_response(StatusCode::OK, json!({ "delay_id": delay_id }).to_string()))
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let wants_settled = match visit.request.query("status").as_deref() {
        None => None,
        Some("scheduled") => Some(false),
        Some("finalised") => Some(true),
        Some(_) => {
            return Err(Error::invalid_param("`status` is `scheduled` or `finalised`."));
        }
    };
    let (room_id, kind) = (visit.request.query("room_id"), visit.request.query("type"));
    let is_wanted = |one: &&Delayed| {
        wants_settled.is_none_or(|wanted| one.row.outcome.is_some() == wanted)
            && room_id.as_ref().is_none_or(|room_id| *room_id == one.row.room_id)
            && kind.as_ref().is_none_or(|kind| *kind == one.row.kind)
    };
    let mut all = visit.services.rooms.delayed_events(visit.caller()?).await?;
    match visit.request.query("dir").as_deref() {
        None | Some("f") => {}
        Some("b") => all.reverse(),
        Some(_) => return Err(Error::invalid_param("`dir` is `f` or `b`.")),
    }
    let shown: Result<Vec<Value>, Error> = all.iter().filter(is_wanted).map(show).collect();
    Ok(json_response(StatusCode::OK, json!({ "delayed_events": shown? }).to_string()))
}

async fn one(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let delay_id = visit.request.param(0)?;
    let delayed = visit.services.rooms.delayed_event(visit.caller()?, delay_id).await?;
    Ok(json_response(StatusCode::OK, show(&delayed)?.to_string()))
}

fn show(delayed: &Delayed) -> Result<Value, Error> {
    let row = &delayed.row;
    let content: Box<RawValue> = serde_json::from_str(&row.content).map_err(Error::internal)?;
    let mut shown = json!({
        "delay_id": delayed.delay_id,
        "room_id": row.room_id,
        "type": row.kind,
        "delay": row.delay_ms,
        "running_since": row.running_since_ms,
        "content": content,
    });
    if let Some(state_key) = &row.state_key {
        shown["state_key"] = state_key.as_str().into();
    }
    if let Some(outcome) = &row.outcome {
        // Drafts have called it one and the other.
        shown["origin_server_ts"] = outcome.at_ms.into();
        shown["finalised_ts"] = outcome.at_ms.into();
        if let Some(event_id) = &outcome.event_id {
            shown["event_id"] = event_id.as_str().into();
        }
        if let Some(error) = &outcome.error {
            shown["error"] = error_body(&Error::forbidden(error.clone())).into();
        }
    }
    Ok(shown)
}

#[derive(Deserialize)]
struct ActionBody {
    action: String,
}

async fn act_on_body(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: ActionBody = read_json(&mut visit.request).await?;
    settle(visit, &body.action).await
}

async fn act(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let action = visit.request.param(1)?.to_owned();
    settle(visit, &action).await
}

async fn settle(visit: Visit<RawRequest>, action: &str) -> Result<Response, Error> {
    let unknown = || Error::new(Kind::InvalidParam, "The action is `send`, `cancel` or `restart`.");
    let action = DelayedAction::named(action).ok_or_else(unknown)?;
    visit.services.rooms.settle_delayed(visit.request.param(0)?, action).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}
