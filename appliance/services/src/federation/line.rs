//! What is asked of other servers, as the wire sees it: a method, a path, a body.

use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};

use appliance_model::ruma::signatures::PublicKeySet;
use appliance_model::ruma::{
    OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomVersionId, ServerName,
};
use appliance_model::{Error, Kind, RoomNid};
use async_trait::async_trait;
use serde_json::value::RawValue;

/// Other servers, within reach.
#[async_trait]
pub trait OtherServers: Send + Sync + 'static {
    /// Whether this server has to do with that one at all. In memory: asked for every event.
    fn allows(&self, server: &ServerName) -> bool;

    /// Asks; returns the body of a good answer.
    ///
    /// # Errors
    ///
    /// What the other server said ([`Kind::Forbidden`], [`Kind::NotFound`], ...), or
    /// [`Kind::RemoteUnavailable`] if it said nothing that can be understood.
    async fn ask(&self, server: &ServerName, ask: Ask) -> Result<Box<RawValue>, Error>;

    /// Sends what a server is owed now, rather than in its turn. Returns whether it has all events of that
    /// room then which were owed when this began.
    ///
    /// # Errors
    ///
    /// If the store fails.
    async fn settle(&self, server: &ServerName, room: RoomNid) -> Result<bool, Error>;

    /// Those of a server's keys, by ID, with which it could sign at `at_ms` (milliseconds since the Unix
    /// epoch). Keys it does not have are not there.
    ///
    /// # Errors
    ///
    /// [`Kind::RemoteUnavailable`] if the keys are not known and cannot be fetched now.
    async fn keys(
        &self,
        server: &ServerName,
        key_ids: &[String],
        at_ms: u64,
    ) -> Result<PublicKeySet, Error>;

    /// Whether a server promises to lend its files and to keep none of others'.
    ///
    /// # Errors
    ///
    /// [`Kind::RemoteUnavailable`] if it cannot be asked now.
    async fn lends(&self, server: &ServerName) -> Result<bool, Error>;
}

/// What can be asked.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is a parameter of the endpoint its variant names")]
pub enum Ask {
    /// `GET /make_join`.
    MakeJoin { room_id: OwnedRoomId, user_id: OwnedUserId, versions: Vec<RoomVersionId> },
    /// `PUT /v2/send_join`.
    SendJoin { room_id: OwnedRoomId, event_id: OwnedEventId, event: String },
    /// `GET /make_leave`.
    MakeLeave { room_id: OwnedRoomId, user_id: OwnedUserId },
    /// `PUT /v2/send_leave`.
    SendLeave { room_id: OwnedRoomId, event_id: OwnedEventId, event: String },
    /// `GET /make_knock`.
    MakeKnock { room_id: OwnedRoomId, user_id: OwnedUserId, versions: Vec<RoomVersionId> },
    /// `PUT /send_knock`.
    SendKnock { room_id: OwnedRoomId, event_id: OwnedEventId, event: String },
    /// `PUT /v2/invite`; the body holds the room version, the event and what the room shows of itself.
    Invite { room_id: OwnedRoomId, event_id: OwnedEventId, body: String },
    /// `POST /get_missing_events`.
    MissingEvents { room_id: OwnedRoomId, body: String },
    /// `GET /event`.
    Event { event_id: OwnedEventId },
    /// `GET /state`.
    State { room_id: OwnedRoomId, event_id: OwnedEventId },
    /// `GET /state_ids`.
    StateIds { room_id: OwnedRoomId, event_id: OwnedEventId },
    /// `GET /event_auth`.
    EventAuth { room_id: OwnedRoomId, event_id: OwnedEventId },
    /// `GET /backfill`.
    Backfill { room_id: OwnedRoomId, from: Vec<OwnedEventId>, limit: usize },
    /// `GET /timestamp_to_event`.
    Timestamp { room_id: OwnedRoomId, at_ms: u64, backward: bool },
    /// `GET /query/directory`.
    Alias { alias: OwnedRoomAliasId },
    /// `GET /hierarchy`.
    Hierarchy { room_id: OwnedRoomId },
    /// `POST /_matrix/policy/v1/sign`.
    Sign { event: String },
}

impl Ask {
    /// The HTTP method.
    pub fn method(&self) -> &'static str {
        match self {
            Self::SendJoin { .. }
            | Self::SendLeave { .. }
            | Self::SendKnock { .. }
            | Self::Invite { .. } => "PUT",
            Self::MissingEvents { .. } | Self::Sign { .. } => "POST",
            _ => "GET",
        }
    }

    /// Path and query, encoded.
    pub fn path(&self) -> String {
        const V1: &str = "/_matrix/federation/v1";
        const V2: &str = "/_matrix/federation/v2";
        let room = |prefix: &str, name: &str, room_id: &str, other: &str| {
            let mut path = format!("{prefix}/{name}/{}", encoded(room_id));
            if !other.is_empty() {
                path.push('/');
                path.push_str(&encoded(other));
            }
            path
        };
        let with_versions = |path: String, versions: &[RoomVersionId]| {
            let versions =
                versions.iter().map(|version| format!("ver={}", encoded(version.as_str())));
            format!("{path}?{}", versions.collect::<Vec<_>>().join("&"))
        };
        match self {
            Self::MakeJoin { room_id, user_id, versions } => {
                let path = room(V1, "make_join", room_id.as_str(), user_id.as_str());
                with_versions(path, versions)
            }
            Self::MakeKnock { room_id, user_id, versions } => {
                let path = room(V1, "make_knock", room_id.as_str(), user_id.as_str());
                with_versions(path, versions)
            }
            Self::MakeLeave { room_id, user_id } => {
                room(V1, "make_leave", room_id.as_str(), user_id.as_str())
            }
            Self::SendJoin { room_id, event_id, .. } => {
                room(V2, "send_join", room_id.as_str(), event_id.as_str())
            }
            Self::SendLeave { room_id, event_id, .. } => {
                room(V2, "send_leave", room_id.as_str(), event_id.as_str())
            }
            Self::SendKnock { room_id, event_id, .. } => {
                room(V1, "send_knock", room_id.as_str(), event_id.as_str())
            }
            Self::Invite { room_id, event_id, .. } => {
                room(V2, "invite", room_id.as_str(), event_id.as_str())
            }
            Self::MissingEvents { room_id, .. } => {
                room(V1, "get_missing_events", room_id.as_str(), "")
            }
            Self::Event { event_id } => room(V1, "event", event_id.as_str(), ""),
            Self::State { room_id, event_id } => {
                at_event(room(V1, "state", room_id.as_str(), ""), event_id)
            }
            Self::StateIds { room_id, event_id } => {
                at_event(room(V1, "state_ids", room_id.as_str(), ""), event_id)
            }
            Self::EventAuth { room_id, event_id } => {
                room(V1, "event_auth", room_id.as_str(), event_id.as_str())
            }
            Self::Backfill { room_id, from, limit } => {
                let mut path = room(V1, "backfill", room_id.as_str(), "");
                let _ = write!(path, "?limit={limit}");
                for id in from {
                    let _ = write!(path, "&v={}", encoded(id.as_str()));
                }
                path
            }
            Self::Timestamp { room_id, at_ms, backward } => {
                let dir = if *backward { "b" } else { "f" };
                let path = room(V1, "timestamp_to_event", room_id.as_str(), "");
                format!("{path}?ts={at_ms}&dir={dir}")
            }
            Self::Alias { alias } => {
                format!("{V1}/query/directory?room_alias={}", encoded(alias.as_str()))
            }
            Self::Hierarchy { room_id } => room(V1, "hierarchy", room_id.as_str(), ""),
            Self::Sign { .. } => "/_matrix/policy/v1/sign".to_owned(),
        }
    }

    /// The body, as JSON.
    pub fn body(&self) -> Option<&str> {
        match self {
            Self::SendJoin { event, .. }
            | Self::SendLeave { event, .. }
            | Self::SendKnock { event, .. }
            | Self::Sign { event } => Some(event),
            Self::Invite { body, .. } | Self::MissingEvents { body, .. } => Some(body),
            _ => None,
        }
    }
}

fn at_event(path: String, event_id: &OwnedEventId) -> String {
    format!("{path}?event_id={}", encoded(event_id.as_str()))
}

/// Everything but what RFC 3986 leaves alone, as `%XX`.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// The way to other servers, once there is one.
#[derive(Default)]
pub struct Line(RwLock<Option<Arc<dyn OtherServers>>>);

impl Line {
    /// Connects; what was connected before no longer counts.
    pub fn connect(&self, servers: Arc<dyn OtherServers>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(servers);
    }

    /// Other servers.
    ///
    /// # Errors
    ///
    /// [`Kind::Forbidden`] if this server speaks to nobody.
    pub fn servers(&self) -> Result<Arc<dyn OtherServers>, Error> {
        let servers = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        servers.ok_or_else(|| {
            Error::new(Kind::Forbidden, "This server does not exchange rooms with other servers.")
        })
    }

    /// Whether this server has to do with that one.
    pub fn allows(&self, server: &ServerName) -> bool {
        self.servers().is_ok_and(|servers| servers.allows(server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_become_path_segments() {
        let ask = Ask::MakeJoin {
            room_id: "!a/b?c:one.example".try_into().unwrap(),
            user_id: "@nurse:two.example".try_into().unwrap(),
            versions: vec![RoomVersionId::V11, RoomVersionId::V12],
        };
        let expected = "/_matrix/federation/v1/make_join/%21a%2Fb%3Fc%3Aone.example/\
                        %40nurse%3Atwo.example?ver=11&ver=12";
        assert_eq!((ask.method(), ask.path().as_str(), ask.body()), ("GET", expected, None));
        let from = vec!["$a".try_into().unwrap(), "$b".try_into().unwrap()];
        let room_id = "!r:one.example".try_into().unwrap();
        let path = Ask::Backfill { room_id, from, limit: 50 }.path();
        assert!(path.ends_with("?limit=50&v=%24a&v=%24b"), "{path}");
    }
}
