//! Events that relate to others ([spec]): edits, reactions, threads, references.
//!
//! The index is written with the event and cleared with its redaction, in the same commit. An event
//! may relate to one that this server does not have (yet), so the index goes by ID.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events

mod bundle;
mod check;
mod index;
mod list;
#[cfg(test)]
mod tests;
mod threads;

use std::sync::Arc;

use appliance_ledger::{Digest, Event, Ledger};
use appliance_model::RoomNid;
use serde::Deserialize;

pub(super) use bundle::Bundle;
pub(super) use index::RelatedNow;
pub use list::{Related, RelationsQuery};
pub use threads::{ThreadsPage, ThreadsQuery};

/// How an event relates to another, as the index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// `m.replace`: an edit.
    Replace = 1,
    /// `m.annotation`: a reaction.
    Annotation = 2,
    /// `m.thread`.
    Thread = 3,
    /// `m.reference`.
    Reference = 4,
    /// Anything else.
    Other = 5,
}

impl How {
    pub const ALL: [Self; 5] =
        [Self::Replace, Self::Annotation, Self::Thread, Self::Reference, Self::Other];

    pub fn of(rel_type: &str) -> Self {
        match rel_type {
            "m.replace" => Self::Replace,
            "m.annotation" => Self::Annotation,
            "m.thread" => Self::Thread,
            "m.reference" => Self::Reference,
            _ => Self::Other,
        }
    }

    pub fn code(self) -> u8 {
        self as u8
    }
}

/// What an event's content says of its relation to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    /// The `rel_type`.
    pub rel_type: String,
    /// The event it relates to.
    pub event_id: String,
    /// The reaction.
    pub key: Option<String>,
}

impl Relation {
    /// Reads `m.relates_to`. A plain reply has no `rel_type` and is no such relation; a malformed
    /// one is none either.
    pub fn of(content: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: Option<RelatesTo>,
        }
        #[derive(Deserialize)]
        struct RelatesTo {
            rel_type: String,
            event_id: String,
            key: Option<String>,
        }
        if !content.contains("m.relates_to") {
            return None;
        }
        let RelatesTo { rel_type, event_id, key } =
            serde_json::from_str::<Content>(content).ok()?.relates_to?;
        // "Event IDs … 255 bytes", and types likewise: longer ones name nothing.
        let sensible = rel_type.len() <= 255 && event_id.len() <= 255;
        sensible.then_some(Self { rel_type, event_id, key })
    }

    pub fn how(&self) -> How {
        How::of(&self.rel_type)
    }
}

/// Under which key the relations of an event are kept: "the original event and replacement event
/// must have the same room_id", and so for all.
pub(super) fn digest_of(ledger: &Ledger, room: RoomNid, event_id: &str) -> Digest {
    ledger.digest(&[b"related", &room.0.to_be_bytes(), event_id.as_bytes()])
}

/// Whether `edit` may replace `original` ([validity]).
///
/// [validity]: https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events
fn is_valid_edit(original: &Event, edit: &Event) -> bool {
    let same =
        |part: fn(&Event) -> (u32, u32)| original.part(part(original)) == edit.part(part(edit));
    // "must have the same sender", "the same type", "must not have a state_key".
    original.room == edit.room
        && same(|event| event.spans.sender)
        && same(|event| event.spans.kind)
        && !original.is_state()
        && !edit.is_state()
        && edit.redacted_by.is_none()
        // "The original event must not, itself, have a rel_type of m.replace".
        && Relation::of(original.content()).is_none_or(|own| own.how() != How::Replace)
        && has_new_content(edit)
}

/// "The replacement event (once decrypted, if appropriate) must have an m.new_content property."
fn has_new_content(edit: &Event) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.new_content")]
        _new_content: serde_json::Map<String, serde_json::Value>,
    }
    edit.kind() == "m.room.encrypted" || serde_json::from_str::<Content>(edit.content()).is_ok()
}

/// "comparing origin_server_ts; if two or more … are identical, the lexicographically largest
/// event_id is treated as more recent".
fn recency(event: &Arc<Event>) -> (u64, String) {
    let at = event.part(event.spans.origin_server_ts).parse().unwrap_or_default();
    (at, event.event_id.to_string())
}
