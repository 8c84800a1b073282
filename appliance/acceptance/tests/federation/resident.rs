//! Somebody with a session at one of the hospitals, and what they do by plain HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use appliance_acceptance::http::{Answer, Http};
use appliance_acceptance::wait::until;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::town::Hospital;

/// Somebody with a session.
#[derive(Debug)]
pub struct Resident {
    /// `@localpart:server`.
    pub user_id: String,
    /// Where they work.
    pub hospital: Arc<Hospital>,
    /// The access token of their session.
    pub token: String,
    http: Http,
    sent: AtomicU64,
}

impl Resident {
    /// Logs in.
    pub async fn log_in(hospital: &Arc<Hospital>, localpart: &str, password: &str) -> Self {
        let http = hospital.http();
        let body = json!({
            "type": "m.login.password", "password": password,
            "identifier": { "type": "m.id.user", "user": localpart },
        });
        let path = "/_matrix/client/v3/login";
        let answer = http.call(Method::POST, path, None, Some(&body)).await.expect("an answer");
        let answer = answer.ok();
        let text = |name: &str| answer[name].as_str().expect("a text").to_owned();
        Self {
            user_id: text("user_id"),
            hospital: hospital.clone(),
            token: text("access_token"),
            http,
            sent: AtomicU64::default(),
        }
    }

    /// Any request below `/_matrix/client`.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let path = format!("/_matrix/client{path}");
        let answer = self.http.call(method.clone(), &path, Some(&self.token), body.as_ref()).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {}", error.0))
    }

    /// The same; none if the server is gone before it has answered.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Option<Answer> {
        let path = format!("/_matrix/client{path}");
        self.http.call(method, &path, Some(&self.token), body.as_ref()).await.ok()
    }

    /// `GET` that succeeds.
    pub async fn get(&self, path: &str) -> Value {
        self.expect(Method::GET, path, None).await
    }

    /// `POST` that succeeds.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.expect(Method::POST, path, Some(body)).await
    }

    /// `PUT` that succeeds.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.expect(Method::PUT, path, Some(body)).await
    }

    async fn expect(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let answer = self.call(method.clone(), path, body).await;
        let summary = answer.summary();
        assert!(answer.status.is_success(), "{} {method} {path}: {summary}", self.user_id);
        answer.json()
    }

    /// Creates a room of this version; `more` is laid over the request.
    pub async fn create_room(&self, version: &str, more: Value) -> String {
        let mut body = json!({ "room_version": version, "preset": "private_chat" });
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        let made = self.post("/v3/createRoom", body).await;
        made["room_id"].as_str().expect("a room ID").to_owned()
    }

    /// Does something to somebody in a room: `invite`, `kick`, `ban`, `unban`.
    pub async fn act(&self, what: &str, room_id: &str, on: &Self) {
        let body = json!({ "user_id": on.user_id });
        self.post(&format!("/v3/rooms/{room_id}/{what}"), body).await;
    }

    /// Joins through a hospital.
    pub async fn join(&self, room_id: &str, via: &Hospital) {
        let path = format!("/v3/join/{room_id}?via={}&server_name={}", via.name, via.name);
        self.post(&path, json!({})).await;
    }

    /// Waits until the invite is here, and accepts it.
    pub async fn accept(&self, room_id: &str) {
        self.wait_membership("invite", room_id).await;
        self.post(&format!("/v3/rooms/{room_id}/join"), json!({})).await;
    }

    /// Invites somebody, who comes in.
    pub async fn bring(&self, room_id: &str, guest: &Self) {
        self.act("invite", room_id, guest).await;
        guest.accept(room_id).await;
        self.wait_is(room_id, guest, "join").await;
    }

    /// Leaves, or turns an invite down.
    pub async fn leave(&self, room_id: &str) {
        self.post(&format!("/v3/rooms/{room_id}/leave"), json!({})).await;
    }

    /// Waits until a full sync shows the room in this section: `invite`, `join`, `leave`, `knock`.
    pub async fn wait_membership(&self, section: &str, room_id: &str) -> Value {
        let what = format!("{}'s room in {section}", self.user_id);
        until(&what, async || {
            let filter = r#"{"room":{"include_leave":true,"timeline":{"limit":5}}}"#;
            let filter: String = form_urlencoded::byte_serialize(filter.as_bytes()).collect();
            let sync = self.get(&format!("/v3/sync?filter={filter}")).await;
            sync["rooms"][section].get(room_id).cloned()
        })
        .await
    }

    /// Sends an event of a room; returns its ID.
    pub async fn send(&self, room_id: &str, kind: &str, content: Value) -> String {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let path = format!("/v3/rooms/{room_id}/send/{kind}/t{number}");
        let sent = self.put(&path, content).await;
        sent["event_id"].as_str().expect("an event ID").to_owned()
    }

    /// Says something in a room.
    pub async fn say(&self, room_id: &str, body: &str) -> String {
        self.send(room_id, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
    }

    /// Sets a state event.
    pub async fn set(&self, room_id: &str, kind: &str, key: &str, content: Value) -> String {
        let path = format!("/v3/rooms/{room_id}/state/{kind}/{key}");
        let sent = self.put(&path, content).await;
        sent["event_id"].as_str().expect("an event ID").to_owned()
    }

    /// The content of a state event; none if there is none.
    pub async fn state(&self, room_id: &str, kind: &str, key: &str) -> Option<Value> {
        let path = format!("/v3/rooms/{room_id}/state/{kind}/{key}");
        let answer = self.call(Method::GET, &path, None).await;
        answer.status.is_success().then(|| answer.json())
    }

    /// The IDs of all state events, by type and key, as `type|key|id`, sorted.
    pub async fn all_state(&self, room_id: &str) -> Vec<String> {
        let state = self.get(&format!("/v3/rooms/{room_id}/state")).await;
        let events = state.as_array().expect("a list").iter();
        let mut lines: Vec<_> = events
            .map(|event| format!("{}|{}|{}", event["type"], event["state_key"], event["event_id"]))
            .collect();
        lines.sort_unstable();
        lines
    }

    /// Waits until the room's history shows the event; returns it.
    pub async fn wait_event(&self, room_id: &str, event_id: &str) -> Value {
        let what = format!("{} sees {event_id}", self.user_id);
        until(&what, async || self.find_event(room_id, event_id).await).await
    }

    /// The event, if it is among the newest of the room.
    pub async fn find_event(&self, room_id: &str, event_id: &str) -> Option<Value> {
        let path = format!("/v3/rooms/{room_id}/messages?dir=b&limit=50");
        let answer = self.call(Method::GET, &path, None).await;
        let page = answer.status.is_success().then(|| answer.json())?;
        page["chunk"].as_array()?.iter().find(|event| event["event_id"] == event_id).cloned()
    }

    /// Uploads a file; returns its `mxc:` URI.
    pub async fn upload(&self, kind: &str, bytes: Bytes) -> String {
        let request = Request::post("/_matrix/media/v3/upload")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", kind)
            .body(Full::new(bytes))
            .expect("a request");
        let answer = self.http.send(request).await.expect("an answer").ok();
        answer["content_uri"].as_str().expect("a URI").to_owned()
    }

    /// What somebody is in a room, as this one sees it.
    pub async fn membership_of(&self, room_id: &str, who: &Self) -> Option<String> {
        let content = self.state(room_id, "m.room.member", &who.user_id).await?;
        content["membership"].as_str().map(ToOwned::to_owned)
    }

    /// Waits until somebody is that in a room, as this one sees it.
    pub async fn wait_is(&self, room_id: &str, who: &Self, membership: &str) {
        let what = format!("{} sees that {} is {membership}", self.user_id, who.user_id);
        until(&what, async || {
            let now = self.membership_of(room_id, who).await;
            (now.as_deref() == Some(membership)).then_some(())
        })
        .await;
    }
}

/// A small picture, which no other is like.
pub fn a_photo() -> Bytes {
    let (width, height) = (96, 64);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().expect("a header");
    let pixels: Vec<u8> = (0..width * height).map(|at| (at * 7 % 251) as u8).collect();
    writer.write_image_data(&pixels).expect("pixels");
    writer.finish().expect("a picture");
    bytes.into()
}
