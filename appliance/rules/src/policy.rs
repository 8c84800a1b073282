//! The house's policy about media: how long a file may live, and what in an event refers to one.
//!
//! The strictest scope wins: the server's own limit is the floor, a room can only be stricter. A room
//! says so in the state event [`POLICY_TYPE`], e.g. `{"media": {"ttl_ms": 86400000}}`.

use std::collections::BTreeMap;

use appliance_model::ruma::{ServerName, UserId};
use serde_json::{Map, Value};

use crate::Permit;

/// The state event that holds a room's policy; its state key is empty.
pub const POLICY_TYPE: &str = "io.wardstone.policy";
/// Shorter than this nobody could fetch the file.
pub const TTL_MS_MIN: u64 = 1_000;
/// References of one event that are followed. More would let one event cost as much as sixty.
const REFERENCES_MAX: usize = 64;

/// What a room's policy says about media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomPolicy {
    /// How long a file lives after it was sent, in milliseconds.
    pub media_ttl_ms: Option<u64>,
}

impl RoomPolicy {
    /// Reads the content of a policy event.
    ///
    /// # Errors
    ///
    /// A sentence, if it cannot be kept as written. A server that guesses would promise what it does
    /// not do.
    pub fn parse(content: &str) -> Result<Self, &'static str> {
        const MALFORMED: &str = "The policy must be like {\"media\": {\"ttl_ms\": 86400000}}, with a \
             whole number of milliseconds.";
        let content: Map<String, Value> = serde_json::from_str(content).map_err(|_| MALFORMED)?;
        let media_ttl_ms = match content.get("media") {
            None => None,
            Some(Value::Object(media)) => match media.get("ttl_ms") {
                None => None,
                Some(ttl_ms) => Some(ttl_ms.as_u64().ok_or(MALFORMED)?),
            },
            Some(_) => return Err(MALFORMED),
        };
        if media_ttl_ms.is_some_and(|ttl_ms| ttl_ms < TTL_MS_MIN) {
            return Err("`media.ttl_ms` must be at least 1000 milliseconds.");
        }
        Ok(Self { media_ttl_ms })
    }
}

/// How long a file lives, in milliseconds: the strictest of the server's limit and the room's. A room
/// that asks for longer than the server gets the server's.
pub fn media_ttl_ms(server_ttl_ms: u64, room: Option<RoomPolicy>) -> u64 {
    let room_ttl_ms = room.and_then(|policy| policy.media_ttl_ms);
    room_ttl_ms.map_or(server_ttl_ms, |ttl_ms| ttl_ms.min(server_ttl_ms))
}

/// How an event uses a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// As what it says: the file's deadline hangs on it.
    Content,
    /// As a sticker or reaction: as content, unless the file is kept for that.
    Ornament,
    /// As an avatar or in an image pack: outside the policy of messages.
    Kept,
}

/// The media IDs of `server_name` that an event refers to in the clear, and how. Any string of the
/// content that is an `mxc://` URI counts, so that no spelling of attachments is forgotten.
pub fn references(
    kind: &str,
    is_state: bool,
    content: &str,
    server_name: &str,
) -> BTreeMap<String, Use> {
    let mut found = BTreeMap::new();
    let as_what = match (kind, is_state) {
        ("m.room.avatar" | "m.room.member", true) => Use::Kept,
        ("im.ponies.room_emotes" | "m.room.image_pack", true) => Use::Kept,
        // Other state shows no photos; what it refers to lives by the server's own limit.
        (_, true) => return found,
        ("m.sticker" | "m.reaction", false) => Use::Ornament,
        (_, false) => Use::Content,
    };
    // Almost every event ends here, unparsed. JSON may escape the slashes.
    if !content.contains("mxc:") {
        return found;
    }
    if let Ok(value) = serde_json::from_str::<Value>(content) {
        collect(&value, server_name, as_what, &mut found);
    }
    found
}

fn collect(value: &Value, server_name: &str, as_what: Use, found: &mut BTreeMap<String, Use>) {
    if found.len() >= REFERENCES_MAX {
        return;
    }
    match value {
        Value::String(text) => {
            if let Some(media_id) = media_id_of(text, server_name) {
                found.insert(media_id.to_owned(), as_what);
            }
        }
        Value::Array(values) => {
            values.iter().for_each(|value| collect(value, server_name, as_what, found));
        }
        Value::Object(fields) => {
            fields.values().for_each(|value| collect(value, server_name, as_what, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The media ID of an `mxc://` URI of `server_name`.
pub fn media_id_of<'a>(uri: &'a str, server_name: &str) -> Option<&'a str> {
    let (server, media_id) = uri.strip_prefix("mxc://")?.split_once('/')?;
    // Clients add "#…" or "?…" at times; the ID ends there.
    let media_id = media_id.split(['#', '?']).next().unwrap_or_default();
    (server == server_name && is_media_id(media_id)).then_some(media_id)
}

/// Whether a text can be a media ID: "MUST NOT … characters other than A-Z, a-z, 0-9, _ and -".
pub fn is_media_id(text: &str) -> bool {
    const MEDIA_ID_BYTES_MAX: usize = 255;
    (1..=MEDIA_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Everyone with an account may upload; the limits are the service's.
pub fn may_upload(who: &UserId, uri: &str) -> Permit {
    Permit::audited("media.uploaded", who, uri)
}

/// Everyone with an account may reserve an ID.
pub fn may_reserve(who: &UserId, uri: &str) -> Permit {
    Permit::audited("media.reserved", who, uri)
}

/// Nobody gets a file, or a rendering of it, at or after its deadline.
///
/// `deadline_ms` is none for what is kept. `form` says what was given out, e.g. `original`.
pub fn may_deliver(
    who: &UserId,
    device_id: &str,
    (uri, form): (&str, &str),
    deadline_ms: Option<u64>,
    now_ms: u64,
) -> Option<Permit> {
    if deadline_ms.is_some_and(|deadline_ms| now_ms >= deadline_ms) {
        return None;
    }
    let object = format!("{uri} {form}");
    Some(Permit::audited("media.delivered", format!("{who} {device_id}"), object))
}

/// The same for another server, which asks for one of its users. Whether it gets files at all is the
/// list of peers' to say.
pub fn may_deliver_to_server(
    server: &ServerName,
    (uri, form): (&str, &str),
    deadline_ms: Option<u64>,
    now_ms: u64,
) -> Option<Permit> {
    let is_over = deadline_ms.is_some_and(|deadline_ms| now_ms >= deadline_ms);
    (!is_over).then(|| Permit::audited("media.delivered", server, format!("{uri} {form}")))
}

/// A person here may see a file of another server; nothing of it stays on this one.
pub fn may_fetch(who: &UserId, device_id: &str, uri: &str) -> Permit {
    Permit::audited("media.fetched", format!("{who} {device_id}"), uri)
}

/// The house erases what is due, redacted, or purged by its administrator.
pub fn must_purge(server_name: &str, uri: &str, reason: &str) -> Permit {
    Permit::audited("media.purging", server_name, format!("{uri} {reason}"))
}

/// The last trace is gone from this server.
pub fn has_purged(server_name: &str, uri: &str) -> Permit {
    Permit::audited("media.purged", server_name, uri)
}

/// An event whose file is gone could not be redacted as its author.
pub fn could_not_redact(server_name: &str, event: &str) -> Permit {
    Permit::audited("media.not_redacted", server_name, event)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttl(content: &str) -> Result<Option<u64>, &'static str> {
        RoomPolicy::parse(content).map(|policy| policy.media_ttl_ms)
    }

    #[test]
    fn a_policy_is_kept_as_written_or_refused() {
        assert_eq!(ttl(r#"{"media":{"ttl_ms":86400000}}"#), Ok(Some(86_400_000)));
        assert_eq!(ttl(r#"{"media":{"ttl_ms":1000},"class":"clinical-photo"}"#), Ok(Some(1_000)));
        assert_eq!(ttl("{}"), Ok(None));
        assert_eq!(ttl(r#"{"media":{}}"#), Ok(None));
        for bad in [
            r#"{"media":{"ttl_ms":999}}"#,
            r#"{"media":{"ttl_ms":-5}}"#,
            r#"{"media":{"ttl_ms":"1 day"}}"#,
            r#"{"media":[]}"#,
            "[]",
        ] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_strictest_wins_and_no_room_can_loosen() {
        let room = |ttl_ms| Some(RoomPolicy { media_ttl_ms: ttl_ms });
        assert_eq!(media_ttl_ms(10_000, None), 10_000);
        assert_eq!(media_ttl_ms(10_000, room(None)), 10_000);
        assert_eq!(media_ttl_ms(10_000, room(Some(2_000))), 2_000);
        assert_eq!(media_ttl_ms(10_000, room(Some(20_000))), 10_000);
    }

    fn refers(kind: &str, is_state: bool, content: &str) -> Vec<(String, Use)> {
        references(kind, is_state, content, "h.example").into_iter().collect()
    }

    #[test]
    fn every_spelling_of_an_attachment_is_found() {
        let image = r#"{"msgtype":"m.image","body":"leg","url":"mxc://h.example/a1",
            "info":{"thumbnail_url":"mxc://h.example/b2","thumbnail_file":{"url":"mxc:\/\/h.example\/c3"}},
            "m.new_content":{"file":{"url":"mxc://h.example/d4?x"}},"other":["mxc://h.example/e5#z"]}"#;
        let ids: Vec<_> = refers("m.room.message", false, image).into_iter().map(|r| r.0).collect();
        assert_eq!(ids, ["a1", "b2", "c3", "d4", "e5"]);
        for none in [
            r#"{"body":"see mxc://h.example/a1 there"}"#,
            r#"{"url":"mxc://other.example/a1"}"#,
            r#"{"url":"mxc://h.example/"}"#,
            r#"{"url":"mxc://h.example/a/b"}"#,
            r#"{"url":"mxc://h.example/..%2f"}"#,
        ] {
            assert_eq!(refers("m.room.message", false, none), [], "{none}");
        }
    }

    #[test]
    fn avatars_and_packs_are_outside_and_other_state_shows_nothing() {
        let url = r#"{"url":"mxc://h.example/a1"}"#;
        let one = |as_what| vec![("a1".to_owned(), as_what)];
        assert_eq!(refers("m.room.avatar", true, url), one(Use::Kept));
        assert_eq!(refers("m.room.avatar", false, url), one(Use::Content), "a message in disguise");
        assert_eq!(refers("m.sticker", false, url), one(Use::Ornament));
        assert_eq!(refers("org.example.widget", true, url), []);
        let many: Vec<_> = (0..100).map(|n| format!("\"mxc://h.example/{n}\"")).collect();
        let many = format!("{{\"x\":[{}]}}", many.join(","));
        assert_eq!(refers("m.room.message", false, &many).len(), REFERENCES_MAX);
    }

    #[test]
    fn the_deadline_itself_is_too_late() {
        let who = <&UserId>::try_from("@nurse:h.example").unwrap();
        let at = |deadline, now| may_deliver(who, "A", ("mxc://h/1", "original"), deadline, now);
        assert!(at(Some(5), 4).is_some());
        assert!(at(Some(5), 5).is_none());
        assert!(at(None, u64::MAX).is_some());
    }
}
