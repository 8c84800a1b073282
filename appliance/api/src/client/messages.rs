//! Reading a room's history. The answers are written from the stored events, not through types.

use appliance_model::Error;
use appliance_model::ruma::api::Direction as RumaDirection;
use appliance_model::ruma::api::IncomingRequestExt;
use appliance_model::ruma::api::client::context::get_context;
use appliance_model::ruma::api::client::message::get_message_events;
use appliance_model::ruma::api::client::room::get_room_event;
use appliance_services::Direction;
use appliance_services::rooms::HistoryQuery;
use appliance_services::sync::token::{timeline_place, timeline_token};
use axum::response::Response;
use http::{Method, StatusCode};

use crate::error::respond_to_bad_request;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    for path in [
        "/_matrix/client/r0/rooms/{room_id}/messages",
        "/_matrix/client/v3/rooms/{room_id}/messages",
    ] {
        routes.serve_raw(Method::GET, path, Access::SignedIn, messages);
    }
    for path in [
        "/_matrix/client/r0/rooms/{room_id}/context/{event_id}",
        "/_matrix/client/v3/rooms/{room_id}/context/{event_id}",
    ] {
        routes.serve_raw(Method::GET, path, Access::SignedIn, context);
    }
    for path in [
        "/_matrix/client/r0/rooms/{room_id}/event/{event_id}",
        "/_matrix/client/v3/rooms/{room_id}/event/{event_id}",
    ] {
        routes.serve_raw(Method::GET, path, Access::SignedIn, event);
    }
}

/// Reads a request without a body into Ruma's type.
fn read<R: IncomingRequestExt>(request: &RawRequest) -> Result<R, Error> {
    let incoming = http::Request::builder().method(Method::GET).uri(request.uri.clone());
    let incoming = incoming.body(&[][..]).map_err(Error::internal)?;
    let params: Vec<&str> = request.params.iter().map(String::as_str).collect();
    R::try_from_http_request(incoming, &params).map_err(respond_to_bad_request)
}

async fn messages(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.caller()?;
    let request: get_message_events::v3::Request = read(&visit.request)?;
    let query = HistoryQuery {
        from: request.from.as_deref().map(timeline_place).transpose()?,
        to: request.to.as_deref().map(timeline_place).transpose()?,
        direction: match request.dir {
            RumaDirection::Backward => Direction::Backward,
            RumaDirection::Forward => Direction::Forward,
        },
        limit: usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX),
        filter: &request.filter,
    };
    let page = visit.services.rooms.history(caller, &request.room_id, &query).await?;
    let room_id = Some(request.room_id.as_str());
    let mut body = format!(r#"{{"chunk":{}"#, page.chunk.to_json(room_id));
    if let Some(end) = page.end {
        body.push_str(&format!(r#","end":"{}""#, timeline_token(end)));
    }
    body.push_str(&format!(r#","start":"{}""#, timeline_token(page.start)));
    if !page.state.is_empty() {
        body.push_str(&format!(r#","state":{}"#, page.state.to_json(room_id)));
    }
    body.push('}');
    Ok(json_response(StatusCode::OK, body))
}

async fn context(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.caller()?;
    let request: get_context::v3::Request = read(&visit.request)?;
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let wanted = (limit, &request.filter);
    let rooms = &visit.services.rooms;
    let found = rooms.context(caller, &request.room_id, &request.event_id, wanted).await?;
    let room_id = Some(request.room_id.as_str());
    let mut event = String::new();
    found.event.write(&mut event, 0, room_id);
    let body = format!(
        r#"{{"end":"{}","event":{event},"events_after":{},"events_before":{},"start":"{}","state":{}}}"#,
        timeline_token(found.end),
        found.after.to_json(room_id),
        found.before.to_json(room_id),
        timeline_token(found.start),
        found.state.to_json(room_id),
    );
    Ok(json_response(StatusCode::OK, body))
}

async fn event(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.caller()?;
    let request: get_room_event::v3::Request = read(&visit.request)?;
    let rooms = &visit.services.rooms;
    let found = rooms.one_event(caller, &request.room_id, &request.event_id).await?;
    let mut body = String::new();
    found.write(&mut body, 0, Some(request.room_id.as_str()));
    Ok(json_response(StatusCode::OK, body))
}
