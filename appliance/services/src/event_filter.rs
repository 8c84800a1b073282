//! Which events a client wants ([filtering]).
//!
//! [filtering]: https://spec.matrix.org/v1.19/client-server-api/#filtering

use appliance_ledger::Event;
use appliance_model::ruma::api::client::filter::{RoomEventFilter, UrlFilter};
use serde::Deserialize;

/// Whether `event` is wanted by the parts of `filter` that speak of single events.
pub fn wants(filter: &RoomEventFilter, event: &Event) -> bool {
    let kind = event.kind();
    let sender = event.part(event.spans.sender).trim_matches('"');
    wants_type(filter.types.as_deref(), &filter.not_types, kind)
        && filter.senders.as_ref().is_none_or(|wanted| wanted.iter().any(|id| id == sender))
        && !filter.not_senders.iter().any(|id| id == sender)
        && filter
            .url_filter
            .is_none_or(|wanted| has_url(event) == (wanted == UrlFilter::EventsWithUrl))
}

/// "types … A '*' can be used as a wildcard to match any sequence of characters"; "not_types … even
/// if listed in 'types'".
pub fn wants_type(types: Option<&[String]>, not_types: &[String], kind: &str) -> bool {
    types.is_none_or(|types| types.iter().any(|pattern| matches(pattern, kind)))
        && !not_types.iter().any(|pattern| matches(pattern, kind))
}

/// Whether the filter lets every event through, so that a page of the timeline is an answer.
pub fn wants_all(filter: &RoomEventFilter) -> bool {
    filter.types.is_none()
        && filter.not_types.is_empty()
        && filter.senders.is_none()
        && filter.not_senders.is_empty()
        && filter.url_filter.is_none()
}

/// "contains_url … events with a url key in their content".
fn has_url(event: &Event) -> bool {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        url: Option<&'a serde_json::value::RawValue>,
    }
    serde_json::from_str::<Content<'_>>(event.content())
        .is_ok_and(|content| content.url.is_some_and(|url| url.get().starts_with('"')))
}

fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_run() {
        for (pattern, text, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("m.room.*", "m.room.name", true),
            ("*", "anything", true),
            ("m.*.message", "m.room.message", true),
            ("*message", "m.room.message", true),
            ("a*b*c", "axbyc", true),
            ("a*b*c", "acb", false),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
