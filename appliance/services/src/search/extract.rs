//! What of an event can be found: "content.body, content.name, content.topic" ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3search

use appliance_ledger::Event;
use serde::Deserialize;

use super::index::Part;

/// The words of a novel are not looked at: an event has 64 KB at most, a message hardly 4.
const TEXT_BYTES_MAX: usize = 16_384;

/// The text of an event that can be found, and where it stands.
pub(super) fn text_of(event: &Event) -> Option<(Part, String)> {
    #[derive(Deserialize)]
    struct Content {
        body: Option<String>,
        name: Option<String>,
        topic: Option<String>,
    }
    let part = match (event.kind(), event.is_state()) {
        ("m.room.message", false) => Part::Body,
        ("m.room.name", true) => Part::Name,
        ("m.room.topic", true) => Part::Topic,
        _ => return None,
    };
    if event.redacted_by.is_some() {
        return None;
    }
    let content: Content = serde_json::from_str(event.content()).ok()?;
    let text = match part {
        Part::Body => content.body,
        Part::Name => content.name,
        Part::Topic => content.topic,
    };
    let mut text = text.filter(|text| !text.is_empty())?;
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or_default());
    Some((part, text))
}

/// The event that a redaction takes back, wherever its room version keeps that.
pub(super) fn redacted_by(event: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        redacts: Option<String>,
    }
    if event.kind() != "m.room.redaction" {
        return None;
    }
    if event.spans.redacts.1 > 0 {
        return serde_json::from_str(event.part(event.spans.redacts)).ok();
    }
    serde_json::from_str::<Content>(event.content()).ok()?.redacts
}
