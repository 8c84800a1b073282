//! Rooms that servers share: coming and going, and reading what the other has.

use appliance_model::ruma::api::Direction;
use appliance_model::ruma::api::federation::authorization::get_event_authorization;
use appliance_model::ruma::api::federation::backfill::get_backfill;
use appliance_model::ruma::api::federation::event::{
    get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids,
};
use appliance_model::ruma::api::federation::membership::{
    create_invite, create_join_event, create_knock_event, create_leave_event, prepare_join_event,
    prepare_knock_event, prepare_leave_event,
};
use appliance_model::ruma::api::federation::transactions::send_transaction_message;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId};
use appliance_model::{Error, Kind};
use appliance_services::federation::{InviteBody, MissingQuery};
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::read_json;
use crate::peer::BODY_BYTES_MAX;
use crate::query;
use crate::route::{Access, RawRequest, Routes, Visit, json_response, read_body};

/// "edus: … Must not include more than 100 EDUs."
const EDUS_MAX: usize = 100;
/// Events named in one request.
const NAMED_MAX: usize = 50;

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<prepare_join_event::v1::Request, _, _>(make_join);
    routes.serve_raw_as::<prepare_leave_event::v1::Request, _, _>(make_leave);
    routes.serve_raw_as::<prepare_knock_event::v1::Request, _, _>(make_knock);
    routes.serve_raw_as::<create_join_event::v2::Request, _, _>(send_join);
    routes.serve_raw_as::<create_leave_event::v2::Request, _, _>(send_leave);
    for (path, membership) in [
        ("/_matrix/federation/v1/send_join/{room_id}/{event_id}", MembershipState::Join),
        ("/_matrix/federation/v1/send_leave/{room_id}/{event_id}", MembershipState::Leave),
    ] {
        let handler = move |visit| send_v1(visit, membership.clone());
        routes.serve_raw(Method::PUT, path, Access::Peer, handler);
    }
    routes.serve_raw_as::<create_knock_event::v1::Request, _, _>(send_knock);
    routes.serve_raw_as::<create_invite::v2::Request, _, _>(invite);
    routes.serve_raw_as::<create_invite::v1::Request, _, _>(invite_v1);
    routes.serve_raw_as::<send_transaction_message::v1::Request, _, _>(send);
    routes.serve_raw_as::<get_missing_events::v1::Request, _, _>(missing_events);
    routes.serve_raw_as::<get_event::v1::Request, _, _>(event);
    routes.serve_raw_as::<get_room_state::v1::Request, _, _>(state);
    routes.serve_raw_as::<get_room_state_ids::v1::Request, _, _>(state_ids);
    routes.serve_raw_as::<get_event_authorization::v1::Request, _, _>(event_auth);
    routes.serve_raw_as::<get_backfill::v1::Request, _, _>(backfill);
    routes.serve_raw_as::<get_event_by_timestamp::v1::Request, _, _>(timestamp);
}

fn ok(json: String) -> Result<Response, Error> {
    Ok(json_response(StatusCode::OK, json))
}

fn room_of(visit: &Visit<RawRequest>) -> Result<OwnedRoomId, Error> {
    OwnedRoomId::try_from(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("The path has no room ID."))
}

fn event_id(text: &str) -> Result<OwnedEventId, Error> {
    OwnedEventId::try_from(text).map_err(|_| Error::invalid_param("This is no event ID."))
}

/// All values of a parameter that may come several times.
fn repeated(visit: &Visit<RawRequest>, name: &str) -> Vec<String> {
    query::values(&visit.request.uri, name).take(NAMED_MAX).collect()
}

async fn make(visit: Visit<RawRequest>, membership: MembershipState) -> Result<Response, Error> {
    let room_id = room_of(&visit)?;
    let user_id = OwnedUserId::try_from(visit.request.param(1)?)
        .map_err(|_| Error::invalid_param("The path has no user ID."))?;
    // "ver: The room versions the sending server has support for. Defaults to ["1"]."
    let mut versions: Vec<RoomVersionId> =
        repeated(&visit, "ver").into_iter().filter_map(|version| version.try_into().ok()).collect();
    if versions.is_empty() && membership != MembershipState::Leave {
        versions.push(RoomVersionId::V1);
    }
    let rooms = &visit.services.rooms;
    let at = (&*room_id, &*user_id);
    ok(rooms.make_member(visit.origin()?, at, membership, &versions).await?)
}

async fn make_join(visit: Visit<RawRequest>) -> Result<Response, Error> {
    make(visit, MembershipState::Join).await
}

async fn make_leave(visit: Visit<RawRequest>) -> Result<Response, Error> {
    make(visit, MembershipState::Leave).await
}

async fn make_knock(visit: Visit<RawRequest>) -> Result<Response, Error> {
    make(visit, MembershipState::Knock).await
}

async fn signed_event(
    visit: &mut Visit<RawRequest>,
) -> Result<(OwnedRoomId, OwnedEventId, Box<RawValue>), Error> {
    let (room_id, id) = (room_of(visit)?, event_id(visit.request.param(1)?)?);
    let event: Box<RawValue> = read_json(&mut visit.request).await?;
    Ok((room_id, id, event))
}

async fn send_join(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, id, event) = signed_event(&mut visit).await?;
    let rooms = &visit.services.rooms;
    ok(rooms.take_join(visit.origin()?, (&room_id, &id), &event).await?)
}

/// Version 1, deprecated: the same answers, as the second of two elements after a status ([spec]).
///
/// [spec]: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_joinroomideventid
async fn send_v1(
    mut visit: Visit<RawRequest>,
    membership: MembershipState,
) -> Result<Response, Error> {
    let (room_id, id, event) = signed_event(&mut visit).await?;
    let (rooms, at) = (&visit.services.rooms, (&*room_id, &*id));
    let answer = match membership {
        MembershipState::Join => rooms.take_join(visit.origin()?, at, &event).await?,
        _ => rooms.take_leave(visit.origin()?, at, &event).await?,
    };
    ok(format!("[200,{answer}]"))
}

async fn send_leave(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, id, event) = signed_event(&mut visit).await?;
    let rooms = &visit.services.rooms;
    ok(rooms.take_leave(visit.origin()?, (&room_id, &id), &event).await?)
}

async fn send_knock(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, id, event) = signed_event(&mut visit).await?;
    let rooms = &visit.services.rooms;
    ok(rooms.take_knock(visit.origin()?, (&room_id, &id), &event).await?)
}

async fn invite(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, id) = (room_of(&visit)?, event_id(visit.request.param(1)?)?);
    let body: InviteBody = read_json(&mut visit.request).await?;
    let rooms = &visit.services.rooms;
    let event = rooms.take_invite(visit.origin()?, (&room_id, &id), &body).await?;
    ok(format!(r#"{{"event":{event}}}"#))
}

/// Version 1 knows room versions 1 and 2 only, which this server does not speak.
async fn invite_v1(visit: Visit<RawRequest>) -> Result<Response, Error> {
    visit.origin()?;
    Err(Error::new(
        Kind::IncompatibleRoomVersion { room_version: "1".to_owned() },
        "This server takes invites to rooms of versions 6 to 12, by version 2 of this endpoint.",
    ))
}

async fn send(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    #[derive(Deserialize)]
    struct Transaction {
        #[serde(default)]
        pdus: Vec<Box<RawValue>>,
        #[serde(default)]
        edus: Vec<Box<RawValue>>,
    }
    let body = read_body(std::mem::take(&mut visit.request.body), BODY_BYTES_MAX).await?;
    let transaction: Transaction =
        serde_json::from_slice(&body).map_err(|_| Error::bad_json("This is no transaction."))?;
    let (origin, txn_id) = (visit.origin()?, visit.request.param(0)?);
    if transaction.edus.len() > EDUS_MAX {
        return Err(Error::invalid_param("A transaction has at most 100 EDUs."));
    }
    let answer = visit.services.rooms.receive_pdus(origin, txn_id, transaction.pdus).await?;
    for edu in &transaction.edus {
        if let Err(error) = visit.services.receive_edu(origin, edu).await {
            // What the store could not keep must come again: the answer says that all of it is here.
            if error.kind == Kind::Unavailable {
                return Err(error);
            }
            // "EDUs … no acknowledgement": a bad one is passed over.
            tracing::debug!(server = %origin, %error, "an EDU is passed over");
        }
    }
    ok(answer)
}

async fn missing_events(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = room_of(&visit)?;
    let query: MissingQuery = read_json(&mut visit.request).await?;
    ok(visit.services.rooms.missing_events(visit.origin()?, &room_id, &query).await?)
}

async fn event(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let id = event_id(visit.request.param(0)?)?;
    ok(visit.services.rooms.event_for(visit.origin()?, &id).await?)
}

fn room_and_event(visit: &Visit<RawRequest>) -> Result<(OwnedRoomId, OwnedEventId), Error> {
    let missing = || Error::new(Kind::MissingParam, "The parameter event_id is missing.");
    let id = visit.request.query("event_id").ok_or_else(missing)?;
    Ok((room_of(visit)?, event_id(&id)?))
}

async fn state(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, id) = room_and_event(&visit)?;
    ok(visit.services.rooms.state_for(visit.origin()?, &room_id, &id).await?)
}

async fn state_ids(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, id) = room_and_event(&visit)?;
    ok(visit.services.rooms.state_ids_for(visit.origin()?, &room_id, &id).await?)
}

async fn event_auth(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, id) = (room_of(&visit)?, event_id(visit.request.param(1)?)?);
    ok(visit.services.rooms.event_auth_for(visit.origin()?, &room_id, &id).await?)
}

async fn backfill(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = room_of(&visit)?;
    let from: Result<Vec<_>, Error> = repeated(&visit, "v").iter().map(|id| event_id(id)).collect();
    let limit = visit.request.query("limit").and_then(|limit| limit.parse().ok());
    let limit: usize =
        limit.ok_or_else(|| Error::new(Kind::MissingParam, "The parameter limit is missing."))?;
    ok(visit.services.rooms.backfill_for(visit.origin()?, &room_id, &from?, limit).await?)
}

async fn timestamp(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = room_of(&visit)?;
    let at_ms = visit.request.query("ts").and_then(|ts| ts.parse().ok());
    let at_ms: u64 = at_ms
        .ok_or_else(|| Error::invalid_param("The parameter ts is no time in milliseconds."))?;
    let direction = match visit.request.query("dir").as_deref() {
        Some("f") => Direction::Forward,
        Some("b") => Direction::Backward,
        _ => return Err(Error::invalid_param("The parameter dir is \"f\" or \"b\".")),
    };
    ok(visit.services.rooms.timestamp_for(visit.origin()?, &room_id, at_ms, direction).await?)
}
