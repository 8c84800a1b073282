//! Events as they travel between servers: parsed once, kept as the bytes that were signed.

use std::sync::Arc;

use bytes::Bytes;
use ruma::events::{StateEventType, TimelineEventType};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a state event is the state of.
pub type StateKey = (StateEventType, String);

/// An event that this server built or checked.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// The event's ID: from room version 3 on, its reference hash.
    pub event_id: OwnedEventId,
    /// The room. From room version 12 on the create event has none of its own: it is derived.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its type.
    pub kind: TimelineEventType,
    /// Its state key, if it is a state event.
    pub state_key: Option<String>,
    /// When the sender's server says it was sent.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The events before it.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that allow it.
    pub auth_events: Vec<OwnedEventId>,
    /// Its depth in the graph.
    pub depth: u64,
    /// The event it redacts, wherever its room version keeps that.
    pub redacts: Option<OwnedEventId>,
    /// Its content.
    pub content: Arc<RawValue>,
    /// The whole event: canonical JSON with hashes and signatures, without `event_id`.
    pub json: Bytes,
    /// Where in `json` the parts lie that clients see.
    pub spans: Spans,
    /// It failed the authorization rules on the events it names.
    pub rejected: bool,
    /// The event names its room itself: all but the create events of room version 12 and later do.
    pub names_room: bool,
}

/// Byte ranges in an event's JSON, so that the form for clients is cut out, not parsed again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// The `content` object.
    pub content: (u32, u32),
    /// The `sender` string, with its quotes.
    pub sender: (u32, u32),
    /// The `type` string, with its quotes.
    pub kind: (u32, u32),
    /// The `origin_server_ts` number.
    pub origin_server_ts: (u32, u32),
    /// The `state_key` string, with its quotes; empty if there is none.
    pub state_key: (u32, u32),
    /// The top-level `redacts` string, with its quotes; empty if there is none.
    pub redacts: (u32, u32),
}

/// The bytes are not an event.
#[derive(Debug, thiserror::Error)]
#[error("not a well-formed event: {0}")]
pub struct MalformedPdu(String);

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    sender: &'a RawValue,
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    #[serde(borrow)]
    origin_server_ts: &'a RawValue,
    #[serde(borrow)]
    state_key: Option<&'a RawValue>,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
    #[serde(borrow)]
    room_id: Option<&'a RawValue>,
    #[serde(default)]
    prev_events: Vec<OwnedEventId>,
    #[serde(default)]
    auth_events: Vec<OwnedEventId>,
    #[serde(default)]
    depth: u64,
}

#[derive(Deserialize)]
struct RedactsInContent {
    redacts: Option<OwnedEventId>,
}

impl Pdu {
    /// Reads an event from its canonical JSON.
    ///
    /// `redacts_in_content` is the room version's rule (version 11 moved the field).
    ///
    /// # Errors
    ///
    /// If a field is missing or of the wrong type.
    pub fn parse(
        event_id: OwnedEventId,
        room_id: OwnedRoomId,
        json: Bytes,
        redacts_in_content: bool,
    ) -> Result<Self, MalformedPdu> {
        let wrong = |error: serde_json::Error| MalformedPdu(error.to_string());
        let parts: Parts<'_> = serde_json::from_slice(&json).map_err(wrong)?;
        let span = |raw: &RawValue| span_of(&json, raw.get());
        let spans = Spans {
            content: span(parts.content),
            sender: span(parts.sender),
            kind: span(parts.kind),
            origin_server_ts: span(parts.origin_server_ts),
            state_key: parts.state_key.map(span).unwrap_or_default(),
            redacts: parts.redacts.map(span).unwrap_or_default(),
        };
        let kind: TimelineEventType = serde_json::from_str(parts.kind.get()).map_err(wrong)?;
        let redacts = match kind {
            TimelineEventType::RoomRedaction if redacts_in_content => {
                serde_json::from_str::<RedactsInContent>(parts.content.get())
                    .ok()
                    .and_then(|content| content.redacts)
            }
            TimelineEventType::RoomRedaction => {
                parts.redacts.and_then(|raw| serde_json::from_str(raw.get()).ok())
            }
            _ => None,
        };
        Ok(Self {
            event_id,
            room_id,
            sender: serde_json::from_str(parts.sender.get()).map_err(wrong)?,
            kind,
            state_key: parts
                .state_key
                .map(|raw| serde_json::from_str(raw.get()))
                .transpose()
                .map_err(wrong)?,
            origin_server_ts: serde_json::from_str(parts.origin_server_ts.get()).map_err(wrong)?,
            prev_events: parts.prev_events,
            auth_events: parts.auth_events,
            depth: parts.depth,
            redacts,
            content: Arc::from(parts.content.to_owned()),
            spans,
            json: json.clone(),
            rejected: false,
            names_room: parts.room_id.is_some(),
        })
    }

    /// The state this event sets, if it is a state event.
    pub fn state_pair(&self) -> Option<StateKey> {
        let key = self.state_key.clone()?;
        Some((StateEventType::from(self.kind.to_string()), key))
    }
}

/// Where `part`, a slice of `whole`, lies in it: start and end.
fn span_of(whole: &[u8], part: &str) -> (u32, u32) {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    let at = |offset: usize| u32::try_from(offset).unwrap_or(0);
    (at(start), at(start + part.len()))
}

impl ruma::state_res::Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }
    fn room_id(&self) -> Option<&RoomId> {
        self.names_room.then_some(&*self.room_id)
    }
    fn sender(&self) -> &UserId {
        &self.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }
    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// Lets an event be found by a borrowed ID.
impl std::borrow::Borrow<EventId> for Pdu {
    fn borrow(&self) -> &EventId {
        &self.event_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_point_at_the_parts() {
        let json = r#"{"content":{"body":"x"},"depth":3,"origin_server_ts":5,"sender":"@a:h","type":"m.room.message"}"#;
        let pdu = Pdu::parse(
            EventId::parse("$e").unwrap(),
            RoomId::parse("!r:h").unwrap(),
            Bytes::from_static(json.as_bytes()),
            true,
        )
        .unwrap();
        let cut = |(start, end): (u32, u32)| &json[start as usize..end as usize];
        assert_eq!(cut(pdu.spans.content), r#"{"body":"x"}"#);
        assert_eq!(cut(pdu.spans.sender), r#""@a:h""#);
        assert_eq!(cut(pdu.spans.kind), r#""m.room.message""#);
        assert_eq!(cut(pdu.spans.origin_server_ts), "5");
        assert_eq!(pdu.spans.state_key, (0, 0));
        assert_eq!(pdu.depth, 3);
    }
}
