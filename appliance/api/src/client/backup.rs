//! Backups of room keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use appliance_model::ruma::OwnedRoomId;
use appliance_model::ruma::api::client::backup;
use appliance_model::{Caller, Error, Kind};
use appliance_services::Services;
use appliance_services::keys::RawJson;
use appliance_services::keys::backup::{BackedUpKey, BackupState, NewBackup, Place, RoomKeys};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::json::{answer, read_json};
use crate::route::{RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<backup::create_backup_version::v3::Request, _, _>(create);
    routes.serve_raw_as::<backup::get_latest_backup_info::v3::Request, _, _>(latest);
    routes.serve_raw_as::<backup::get_backup_info::v3::Request, _, _>(info);
    routes.serve_raw_as::<backup::update_backup_version::v3::Request, _, _>(update);
    routes.serve_raw_as::<backup::delete_backup_version::v3::Request, _, _>(delete);
    routes.serve_raw_as::<backup::add_backup_keys::v3::Request, _, _>(store_all);
    routes.serve_raw_as::<backup::add_backup_keys_for_room::v3::Request, _, _>(store_room);
    routes.serve_raw_as::<backup::add_backup_keys_for_session::v3::Request, _, _>(store_one);
    routes.serve_raw_as::<backup::get_backup_keys::v3::Request, _, _>(fetch_all);
    routes.serve_raw_as::<backup::get_backup_keys_for_room::v3::Request, _, _>(fetch_room);
    routes.serve_raw_as::<backup::get_backup_keys_for_session::v3::Request, _, _>(fetch_one);
    routes.serve_raw_as::<backup::delete_backup_keys::v3::Request, _, _>(delete_all);
    routes.serve_raw_as::<backup::delete_backup_keys_for_room::v3::Request, _, _>(delete_room);
    routes.serve_raw_as::<backup::delete_backup_keys_for_session::v3::Request, _, _>(delete_one);
}

type Answer = Result<Response, Error>;

async fn create(mut visit: Visit<RawRequest>) -> Answer {
    let caller = visit.caller()?.clone();
    let new: NewBackup = read_json(&mut visit.request).await?;
    let version = visit.services.keys.create_backup(&caller, new).await?;
    answer(&json!({ "version": version }))
}

async fn latest(visit: Visit<RawRequest>) -> Answer {
    answer(&visit.services.keys.backup_info(visit.caller()?, None).await?)
}

async fn info(visit: Visit<RawRequest>) -> Answer {
    let version = visit.request.param(0)?;
    answer(&visit.services.keys.backup_info(visit.caller()?, Some(version)).await?)
}

async fn update(mut visit: Visit<RawRequest>) -> Answer {
    let caller = visit.caller()?.clone();
    let new: NewBackup = read_json(&mut visit.request).await?;
    let version = visit.request.param(0)?;
    visit.services.keys.update_backup(&caller, version, new).await?;
    answer(&json!({}))
}

async fn delete(visit: Visit<RawRequest>) -> Answer {
    let version = visit.request.param(0)?;
    visit.services.keys.delete_backup(visit.caller()?, version).await?;
    answer(&json!({}))
}

#[derive(Deserialize)]
struct Rooms {
    rooms: BTreeMap<OwnedRoomId, Sessions>,
}

#[derive(Deserialize)]
struct Sessions {
    sessions: BTreeMap<String, RawJson>,
}

async fn store_all(mut visit: Visit<RawRequest>) -> Answer {
    let body: Rooms = read_json(&mut visit.request).await?;
    let keys = body.rooms.into_iter().map(|(room_id, room)| (room_id, room.sessions)).collect();
    store(visit, keys).await
}

async fn store_room(mut visit: Visit<RawRequest>) -> Answer {
    let body: Sessions = read_json(&mut visit.request).await?;
    let keys = [(room_id(&visit)?, body.sessions)].into();
    store(visit, keys).await
}

async fn store_one(mut visit: Visit<RawRequest>) -> Answer {
    let key: RawJson = read_json(&mut visit.request).await?;
    let session = [(visit.request.param(1)?.to_owned(), key)].into();
    let keys = [(room_id(&visit)?, session)].into();
    store(visit, keys).await
}

async fn store(visit: Visit<RawRequest>, keys: RoomKeys) -> Answer {
    let version = version(&visit)?;
    let state = visit.services.keys.store_room_keys(visit.caller()?, &version, keys).await?;
    state_answer(&state)
}

async fn fetch_one(visit: Visit<RawRequest>) -> Answer {
    let (version, room_id) = (version(&visit)?, room_id(&visit)?);
    let session_id = visit.request.param(1)?;
    let keys = &visit.services.keys;
    answer(&keys.room_key(visit.caller()?, &version, &room_id, session_id).await?)
}

async fn fetch_room(visit: Visit<RawRequest>) -> Answer {
    let room_id = room_id(&visit)?;
    fetch(visit, Some(room_id)).await
}

async fn fetch_all(visit: Visit<RawRequest>) -> Answer {
    fetch(visit, None).await
}

async fn delete_all(visit: Visit<RawRequest>) -> Answer {
    let version = version(&visit)?;
    let keys = &visit.services.keys;
    state_answer(&keys.delete_room_keys(visit.caller()?, &version, None).await?)
}

async fn delete_room(visit: Visit<RawRequest>) -> Answer {
    let (version, room_id) = (version(&visit)?, room_id(&visit)?);
    let keys = &visit.services.keys;
    state_answer(&keys.delete_room_keys(visit.caller()?, &version, Some(&room_id)).await?)
}

async fn delete_one(visit: Visit<RawRequest>) -> Answer {
    let (version, room_id) = (version(&visit)?, room_id(&visit)?);
    let session_id = visit.request.param(1)?;
    let keys = &visit.services.keys;
    state_answer(&keys.delete_room_key(visit.caller()?, &version, &room_id, session_id).await?)
}

fn state_answer(state: &BackupState) -> Answer {
    answer(&json!({ "count": state.count, "etag": state.etag }))
}

fn version(visit: &Visit<RawRequest>) -> Result<String, Error> {
    let missing = || Error::new(Kind::MissingParam, "`version` must name a key backup.");
    visit.request.query("version").ok_or_else(missing)
}

fn room_id(visit: &Visit<RawRequest>) -> Result<OwnedRoomId, Error> {
    let room_id = visit.request.param(0)?;
    OwnedRoomId::try_from(room_id).map_err(|_| Error::invalid_param("This is not a room ID."))
}

/// A backup may be larger than the memory that one request may take: it is sent page by page, as
/// the store gives it.
async fn fetch(visit: Visit<RawRequest>, room_id: Option<OwnedRoomId>) -> Answer {
    let version = version(&visit)?;
    let caller = visit.caller()?.clone();
    let mut pages = Pages { services: visit.services, caller, version, room_id, open: None };
    // The first page before the status: a backup that is not there is an error, not a broken answer.
    let first = pages.read(None).await?;
    let body = stream::try_unfold((pages, Some(first)), |(mut pages, page)| async move {
        let Some((text, next)) = page else { return Ok::<_, Error>(None) };
        let page = match next {
            Some(next) => Some(pages.read(Some(next)).await?),
            None => None,
        };
        Ok(Some((Bytes::from(text), (pages, page))))
    });
    Ok(json_response(StatusCode::OK, Body::from_stream(body)))
}

/// The JSON of a backup, or of one room in it, in pieces.
struct Pages {
    services: Arc<Services>,
    caller: Caller,
    version: String,
    room_id: Option<OwnedRoomId>,
    /// The room whose sessions are being listed.
    open: Option<String>,
}

impl Pages {
    async fn read(&mut self, from: Option<Place>) -> Result<(String, Option<Place>), Error> {
        let is_first = from.is_none();
        let room_id = self.room_id.as_deref();
        let keys = &self.services.keys;
        let (keys, next) = keys.room_keys(&self.caller, &self.version, room_id, from).await?;
        let mut out = String::new();
        let is_one_room = self.room_id.is_some();
        if is_first {
            out.push_str(if is_one_room { "{\"sessions\":{" } else { "{\"rooms\":{" });
        }
        for key in keys {
            self.write(&mut out, key)?;
        }
        if next.is_none() {
            let is_room_open = self.open.is_some() && !is_one_room;
            out.push_str(if is_room_open { "}}}}" } else { "}}" });
        }
        Ok((out, next))
    }

    fn write(&mut self, out: &mut String, key: BackedUpKey) -> Result<(), Error> {
        if self.open.as_ref() == Some(&key.room_id) {
            out.push(',');
        } else {
            if self.room_id.is_none() {
                out.push_str(if self.open.is_some() { "}}," } else { "" });
                out.push_str(&text(&key.room_id)?);
                out.push_str(":{\"sessions\":{");
            }
            self.open = Some(key.room_id);
        }
        out.push_str(&text(&key.session_id)?);
        out.push(':');
        out.push_str(key.json.get());
        Ok(())
    }
}

fn text(text: &str) -> Result<String, Error> {
    serde_json::to_string(text).map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::scenario::{Answer, Desk};

    fn new_backup() -> Value {
        let auth_data = json!({ "public_key": "abc", "signatures": {} });
        json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": auth_data })
    }

    fn key(first_message_index: u64) -> Value {
        json!({
            "first_message_index": first_message_index,
            "forwarded_count": 0,
            "is_verified": true,
            "session_data": { "ciphertext": "abc" },
        })
    }

    async fn put(desk: &Desk, path: &str, token: &str, body: Value) -> Answer {
        desk.call("PUT", &format!("/v3/room_keys{path}"), token, body).await
    }

    #[tokio::test]
    async fn a_backup_lives_from_creation_to_deletion() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let none = desk.get("/v3/room_keys/version", &nurse).await;
        assert_eq!(none.error(), (404, "M_NOT_FOUND"));
        let made = desk.post("/v3/room_keys/version", &nurse, new_backup()).await.ok();
        assert_eq!(made, json!({ "version": "1" }));
        let mut expected = new_backup();
        for (name, value) in [("count", json!(0)), ("etag", json!("0")), ("version", json!("1"))] {
            expected[name] = value;
        }
        for path in ["/v3/room_keys/version", "/v3/room_keys/version/1"] {
            assert_eq!(desk.get(path, &nurse).await.ok(), expected);
        }
        let mut changed = new_backup();
        changed["auth_data"]["more"] = json!(true);
        assert_eq!(put(&desk, "/version/1", &nurse, changed.clone()).await.ok(), json!({}));
        let now = desk.get("/v3/room_keys/version", &nurse).await.ok();
        assert_eq!(now["auth_data"], changed["auth_data"]);
        changed["version"] = json!("2");
        let wrong = put(&desk, "/version/1", &nurse, changed).await;
        assert_eq!(wrong.error(), (400, "M_INVALID_PARAM"));

        desk.post("/v3/room_keys/version", &nurse, new_backup()).await.ok();
        let old = put(&desk, "/keys/!r:h/s?version=1", &nurse, key(0)).await;
        assert_eq!(old.error(), (403, "M_WRONG_ROOM_KEYS_VERSION"));
        assert_eq!(old.json["current_version"], "2");
        for _ in 0..2 {
            let gone = desk.call("DELETE", "/v3/room_keys/version/2", &nurse, Value::Null).await;
            assert_eq!(gone.ok(), json!({}));
        }
        let never = desk.call("DELETE", "/v3/room_keys/version/3", &nurse, Value::Null).await;
        assert_eq!(never.error(), (404, "M_NOT_FOUND"));
        assert_eq!(desk.get("/v3/room_keys/version", &nurse).await.text("version"), "1");
    }

    #[tokio::test]
    async fn keys_go_in_by_three_doors_and_come_out_by_three() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        desk.post("/v3/room_keys/version", &nurse, new_backup()).await.ok();
        let empty = desk.get("/v3/room_keys/keys?version=1", &nurse).await.ok();
        assert_eq!(empty, json!({ "rooms": {} }));
        let empty = desk.get("/v3/room_keys/keys/!r:h?version=1", &nurse).await.ok();
        assert_eq!(empty, json!({ "sessions": {} }));
        let none = desk.get("/v3/room_keys/keys/!r:h/s?version=1", &nurse).await;
        assert_eq!(none.error(), (404, "M_NOT_FOUND"));

        let state = put(&desk, "/keys/!r:h/a%2Fb?version=1", &nurse, key(0)).await.ok();
        assert_eq!(state, json!({ "count": 1, "etag": "1" }));
        let again = put(&desk, "/keys/!r:h/a%2Fb?version=1", &nurse, key(1)).await.ok();
        assert_eq!(again, state, "a worse key is no change");
        let sessions = json!({ "sessions": { "c": key(0) } });
        let state = put(&desk, "/keys/!r:h?version=1", &nurse, sessions).await.ok();
        assert_eq!(state, json!({ "count": 2, "etag": "2" }));
        let rooms = json!({ "rooms": { "!s:h": { "sessions": { "d": key(3), "e": key(4) } } } });
        let state = put(&desk, "/keys?version=1", &nurse, rooms).await.ok();
        assert_eq!(state, json!({ "count": 4, "etag": "3" }));

        let of_r = json!({ "sessions": { "a/b": key(0), "c": key(0) } });
        let of_s = json!({ "sessions": { "d": key(3), "e": key(4) } });
        let all = desk.get("/v3/room_keys/keys?version=1", &nurse).await.ok();
        assert_eq!(all, json!({ "rooms": { "!r:h": of_r, "!s:h": of_s } }));
        assert_eq!(desk.get("/v3/room_keys/keys/!r:h?version=1", &nurse).await.ok(), of_r);
        let one = desk.get("/v3/room_keys/keys/!r:h/a%2Fb?version=1", &nurse).await.ok();
        assert_eq!(one, key(0));

        for (path, count, etag) in [
            ("/keys/!r:h/c?version=1", 3, "4"),
            ("/keys/!r:h?version=1", 2, "5"),
            ("/keys?version=1", 0, "6"),
            ("/keys?version=1", 0, "6"),
        ] {
            let path = format!("/v3/room_keys{path}");
            let state = desk.call("DELETE", &path, &nurse, Value::Null).await.ok();
            assert_eq!(state, json!({ "count": count, "etag": etag }), "{path}");
        }
    }

    #[tokio::test]
    async fn a_large_backup_comes_in_one_piece_of_json() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        desk.post("/v3/room_keys/version", &nurse, new_backup()).await.ok();
        let sessions = |count: u64| {
            let sessions = (0..count).map(|n| (n.to_string(), key(n)));
            json!({ "sessions": sessions.collect::<serde_json::Map<_, _>>() })
        };
        let body = json!({ "rooms": { "!r:h": sessions(800), "!s:h": sessions(700) } });
        put(&desk, "/keys?version=1", &nurse, body.clone()).await.ok();
        assert_eq!(desk.get("/v3/room_keys/keys?version=1", &nurse).await.ok(), body);
        let room = desk.get("/v3/room_keys/keys/!r:h?version=1", &nurse).await.ok();
        assert_eq!(room, body["rooms"]["!r:h"]);
    }

    #[tokio::test]
    async fn what_is_missing_or_malformed_is_named() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        desk.post("/v3/room_keys/version", &nurse, new_backup()).await.ok();
        let no_version = desk.get("/v3/room_keys/keys", &nurse).await;
        assert_eq!(no_version.error(), (400, "M_MISSING_PARAM"));
        let no_room = desk.get("/v3/room_keys/keys/room?version=1", &nurse).await;
        assert_eq!(no_room.error(), (400, "M_INVALID_PARAM"));
        for path in ["/keys?version=1", "/keys/!r:h?version=1", "/keys/!r:h/s?version=1"] {
            let bad = put(&desk, path, &nurse, json!({})).await;
            assert_eq!(bad.error(), (400, "M_BAD_JSON"), "{path}");
            let others = desk.get(&format!("/v3/room_keys{path}"), &doctor).await;
            assert_eq!(others.error(), (404, "M_NOT_FOUND"), "{path}");
        }
        let bad = json!({ "algorithm": "a", "auth_data": "x" });
        let bad = desk.post("/v3/room_keys/version", &nurse, bad).await;
        assert_eq!(bad.error(), (400, "M_BAD_JSON"));
    }
}
