//! Thread subscriptions (MSC4306) and catching up with them (MSC4308).

use appliance_model::ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use appliance_model::{Error, Position};
use appliance_services::personal::Cause;
use appliance_services::sync::Token;
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::json::read_json;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

const PATH: &str =
    "/_matrix/client/unstable/io.element.msc4306/rooms/{room_id}/thread/{thread_root}/subscription";
const LIST: &str = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";
/// "Defaults to 100, if not provided. Servers may impose a smaller limit than requested."
const LIMIT_DEFAULT: usize = 100;

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw(Method::PUT, PATH, Access::SignedIn, subscribe);
    routes.serve_raw(Method::GET, PATH, Access::SignedIn, get);
    routes.serve_raw(Method::DELETE, PATH, Access::SignedIn, unsubscribe);
    routes.serve_raw(Method::GET, LIST, Access::SignedIn, list);
}

fn thread_of(request: &RawRequest) -> Result<(OwnedRoomId, OwnedEventId), Error> {
    let room_id = RoomId::parse(request.param(0)?)
        .map_err(|_| Error::invalid_param("This is not a room ID."))?;
    let root = EventId::parse(request.param(1)?)
        .map_err(|_| Error::invalid_param("This is not an event ID."))?;
    Ok((room_id, root))
}

/// The first drafts said whether, the present one says for which event.
#[derive(Deserialize)]
#[serde(untagged)]
enum Automatic {
    Said(bool),
    For(OwnedEventId),
}

#[derive(Deserialize)]
struct Body {
    automatic: Option<Automatic>,
}

async fn subscribe(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: Body = read_json(&mut visit.request).await?;
    let cause = match body.automatic {
        None | Some(Automatic::Said(false)) => Cause::Manual,
        Some(Automatic::Said(true)) => Cause::Automatic,
        Some(Automatic::For(event_id)) => Cause::Event(event_id),
    };
    let (room_id, root) = thread_of(&visit.request)?;
    let caller = visit.caller()?;
    visit.services.personal.subscribe_thread(caller, (&room_id, &root), cause).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

async fn get(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, root) = thread_of(&visit.request)?;
    let personal = &visit.services.personal;
    let automatic = personal.thread_subscription(visit.caller()?, (&room_id, &root)).await?;
    Ok(json_response(StatusCode::OK, json!({ "automatic": automatic }).to_string()))
}

async fn unsubscribe(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, root) = thread_of(&visit.request)?;
    let personal = &visit.services.personal;
    personal.unsubscribe_thread(visit.caller()?, (&room_id, &root)).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

fn place(request: &RawRequest, name: &str) -> Result<Option<Position>, Error> {
    let token = request.query(name).map(|token| Token::parse(&token)).transpose()?;
    Ok(token.map(|token| token.position))
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    if visit.request.query("dir").is_some_and(|dir| dir != "b") {
        return Err(Error::invalid_param("Thread subscriptions are read backwards: `dir` is `b`."));
    }
    let newest = visit.services.house.ledger.position();
    let upto = place(&visit.request, "from")?.unwrap_or(newest);
    let after = place(&visit.request, "to")?.unwrap_or_default();
    let limit = match visit.request.query("limit").map(|limit| limit.parse::<usize>()) {
        None => LIMIT_DEFAULT,
        Some(Ok(limit)) => limit.clamp(1, LIMIT_DEFAULT),
        Some(Err(_)) => return Err(Error::invalid_param("`limit` is a number.")),
    };
    let user = visit.caller()?.user;
    let personal = &visit.services.personal;
    let (changes, more) = personal.subscription_changes(user, (after, upto), limit).await?;
    let mut answer = Map::new();
    for change in &changes {
        let (list, shown) = match change.subscribed {
            Some(automatic) => {
                ("subscribed", json!({ "automatic": automatic, "bump_stamp": change.position.0 }))
            }
            None => ("unsubscribed", json!({ "bump_stamp": change.position.0 })),
        };
        let rooms = answer.entry(list).or_insert_with(|| json!({}));
        rooms[change.room_id.as_str()][change.root.as_str()] = shown;
    }
    if let (true, Some(last)) = (more, changes.last()) {
        // What comes next is older than the last one.
        let position = Position(last.position.0.saturating_sub(1));
        let end = Token { position, typing: 0, to_device: position };
        answer.insert("end".to_owned(), end.text().into());
    }
    Ok(json_response(StatusCode::OK, Value::Object(answer).to_string()))
}
