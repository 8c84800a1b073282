//! Somebody in a room who has said something: what the variables of a path stand for.

use std::sync::atomic::{AtomicUsize, Ordering};

use appliance_acceptance::endpoints::{Endpoint, Field};
use appliance_acceptance::person::{Person, Session};
use appliance_acceptance::server::{SERVER_NAME, Server};
use serde_json::{Value, json};

/// A fresh user, a room of theirs, and an event in it.
pub struct Stage {
    /// Who sends nonsense.
    pub session: Session,
    room_id: String,
    event_id: String,
    /// A transaction ID used twice would get the first answer again.
    transactions: AtomicUsize,
}

impl Stage {
    /// Sets the stage for the `number`th time.
    pub async fn set(server: &Server, number: usize) -> Self {
        let person = Person::named(&format!("sweeper{number}"));
        let session = person.sign_up(server).await;
        let room = session.post("/_matrix/client/v3/createRoom", json!({})).await;
        let room_id = room["room_id"].as_str().expect("a room").to_owned();
        let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/1");
        let event = session.put(&path, json!({ "msgtype": "m.text", "body": "words" })).await;
        let event_id = event["event_id"].as_str().expect("an event").to_owned();
        Self { session, room_id, event_id, transactions: AtomicUsize::new(0) }
    }

    /// The endpoint's path with true names in it.
    pub fn path(&self, endpoint: &Endpoint) -> String {
        endpoint.path_with(|name| self.name_for(name))
    }

    /// The endpoint's path with one variable as given and true names in the others.
    pub fn path_with(&self, endpoint: &Endpoint, variable: &str, encoded: &str) -> String {
        let mark = "0variable0";
        let path = endpoint
            .path_with(|name| if name == variable { mark.to_owned() } else { self.name_for(name) });
        path.replace(mark, encoded)
    }

    fn name_for(&self, variable: &str) -> String {
        let name = match variable {
            "roomId" | "roomIdOrAlias" => &self.room_id,
            "eventId" | "threadRoot" => &self.event_id,
            "userId" => &self.session.user_id,
            "deviceId" => &self.session.device_id,
            "txnId" => {
                let number = self.transactions.fetch_add(1, Ordering::Relaxed);
                return format!("sweep{number}");
            }
            "roomAlias" => return format!("#sweep:{SERVER_NAME}"),
            "serverName" => SERVER_NAME,
            "eventType" => "m.room.topic",
            "receiptType" => "m.read",
            "relType" => "m.thread",
            "tag" => "m.favourite",
            "keyName" => "displayname",
            "kind" => "override",
            "type" => "io.example.sweep",
            _ => "sweep",
        };
        name.to_owned()
    }

    /// A value of the declared type that makes sense often enough.
    pub fn value_for(&self, field: &Field) -> Value {
        if let Some(first) = &field.one_of {
            return first.clone();
        }
        let name = field.name.rsplit('/').next().unwrap_or_default();
        match field.kind.as_str() {
            "integer" | "number" => json!(1),
            "boolean" => json!(true),
            "array" => json!([]),
            "object" => json!({}),
            _ => match name {
                "user_id" | "user" => json!(self.session.user_id),
                "room_id" => json!(self.room_id),
                "event_id" => json!(self.event_id),
                _ => json!("sweep"),
            },
        }
    }

    /// A body that ought to be fine.
    pub fn body(&self, endpoint: &Endpoint) -> Value {
        endpoint.valid_body(|field| self.value_for(field))
    }
}

/// Whether one good call ends the session or the stay in the room, so that the next case needs a
/// stage of its own.
pub fn is_last_act(endpoint: &Endpoint) -> bool {
    const LAST: &[&str] = &[
        "/logout",
        "/logout/all",
        "/account/deactivate",
        "/account/password",
        "/delete_devices",
        "/devices/{deviceId}",
        "/leave",
        "/forget",
        "/upgrade",
    ];
    endpoint.method != http::Method::GET && LAST.iter().any(|end| endpoint.path.ends_with(end))
}
