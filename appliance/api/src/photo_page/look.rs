//! Finding a photo, and looking at it once.

use std::sync::Arc;

use appliance_model::ruma::api::client::filter::{RoomEventFilter, UrlFilter};
use appliance_model::ruma::{EventId, MxcUri, OwnedRoomId, RoomId};
use appliance_model::{Caller, Error};
use appliance_services::rooms::HistoryQuery;
use appliance_services::{Direction, Services};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Asked, CLEAR_SITE_DATA, Names, Signed, empty};
use crate::route::json_response;

/// More rooms than anyone scrolls through; each costs a few reads.
const ROOMS_MAX: usize = 200;
/// The newest photos of a room.
const PHOTOS_MAX: usize = 50;

pub(super) async fn rooms(state: State<Arc<Services>>, request: Request) -> Answer {
    let Signed { services, caller, .. } = Signed::read(state, request).await?;
    let rooms = &services.rooms;
    let mut list = Vec::new();
    for room_id in rooms.joined_rooms(&caller).await?.into_iter().take(ROOMS_MAX) {
        let face = rooms.face_for(Some(&caller), &room_id, &[]).await?.face;
        if face.room_type.as_deref() == Some("m.space") {
            continue;
        }
        let name = match face.name.or(face.canonical_alias) {
            Some(name) => name,
            None => called_after_members(&services, &caller, &room_id).await?,
        };
        list.push(json!({
            "room_id": room_id, "name": name, "is_encrypted": face.encryption.is_some(),
        }));
    }
    let answer = json!({ "user_id": caller.user_id, "rooms": list });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

/// A room without a name is called after those in it.
async fn called_after_members(
    services: &Services,
    caller: &Caller,
    room_id: &RoomId,
) -> Result<String, Error> {
    let (room, _) = services.rooms.known(room_id).await?;
    let heroes = services.rooms.summary(room, caller.user).await?.heroes.unwrap_or_default();
    let names: Vec<&str> = heroes.iter().map(|user_id| user_id.localpart()).collect();
    Ok(if names.is_empty() { "Empty room".to_owned() } else { names.join(", ") })
}

pub(super) async fn photos(
    state: State<Arc<Services>>,
    Path(room_id): Path<String>,
    request: Request,
) -> Answer {
    let Signed { services, caller, .. } = Signed::read(state, request).await?;
    let room_id = room_id_of(&room_id)?;
    let mut filter = RoomEventFilter::default();
    filter.types = Some(vec!["m.room.message".to_owned()]);
    filter.url_filter = Some(UrlFilter::EventsWithUrl);
    let query = HistoryQuery {
        from: None,
        to: None,
        direction: Direction::Backward,
        limit: PHOTOS_MAX,
        filter: &filter,
    };
    let history = services.rooms.history(&caller, &room_id, &query).await?;
    let events: Vec<Value> =
        serde_json::from_str(&history.chunk.to_json(None)).map_err(Error::internal)?;
    let mut photos = Vec::new();
    for event in &events {
        let Some(shown) = photo(event) else { continue };
        // Whether or not its event is redacted already.
        if !is_over(&services, event, &shown).await? {
            photos.push(shown);
        }
    }
    Ok(json_response(StatusCode::OK, json!({ "photos": photos }).to_string()))
}

async fn is_over(services: &Services, event: &Value, shown: &Value) -> Result<bool, Error> {
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    let event_id = EventId::parse(text(&event["event_id"])).map_err(Error::internal)?;
    let (server_name, media_id) = (text(&shown["server_name"]), text(&shown["media_id"]));
    services.media.is_no_more(&event_id, (&server_name, &media_id)).await
}

/// What the list shows of an event with a picture in it.
fn photo(event: &Value) -> Option<Value> {
    let content = &event["content"];
    if content["msgtype"] != "m.image" {
        return None;
    }
    let url: &MxcUri = content["url"].as_str()?.into();
    let (server_name, media_id) = url.parts().ok()?;
    Some(json!({
        "server_name": server_name,
        "media_id": media_id,
        "sender": event["sender"],
        "sent_ms": event["origin_server_ts"],
        "reference": content["io.wardstone.capture"]["patient_reference"],
    }))
}

pub(super) async fn look(
    state: State<Arc<Services>>,
    Path((server_name, media_id)): Names,
    request: Request,
) -> Answer {
    let Signed { services, caller, .. } = Signed::read(state, request).await?;
    let media = &services.media;
    let found = media.find(&server_name, &media_id, 0).await?;
    let seen = media.look(&caller, &found).await?;
    let mut response = Response::new(Body::from(seen.bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(seen.content_type));
    Ok(response)
}

/// The page has taken the picture off the screen.
pub(super) async fn closed(state: State<Arc<Services>>, request: Request) -> Answer {
    let _ = Asked::read(state, request)?;
    let mut response = empty();
    let all = HeaderValue::from_static("\"cache\", \"storage\"");
    response.headers_mut().insert(CLEAR_SITE_DATA, all);
    Ok(response)
}

pub(super) fn room_id_of(text: &str) -> Result<OwnedRoomId, Error> {
    RoomId::parse(text).map_err(|_| Error::invalid_param("That is no room ID."))
}
