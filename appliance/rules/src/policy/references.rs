//! What in an event refers to a file.

use std::collections::BTreeMap;

use serde_json::Value;

/// References of one event that are followed. More would let one event cost as much as sixty.
const REFERENCES_MAX: usize = 64;

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
    found_in(kind, is_state, content, &|uri| media_id_of(uri, server_name).map(str::to_owned))
}

/// The `mxc://` URIs that an event refers to in the clear, wherever they lead, and how; none if there may
/// be more than are followed.
pub fn shown_uris(kind: &str, is_state: bool, content: &str) -> Option<BTreeMap<String, Use>> {
    let whole = |uri: &str| {
        let (server, _) = uri.strip_prefix("mxc://")?.split_once('/')?;
        Some(format!("mxc://{server}/{}", media_id_of(uri, server)?))
    };
    let found = found_in(kind, is_state, content, &whole);
    (found.len() < REFERENCES_MAX).then_some(found)
}

fn found_in(
    kind: &str,
    is_state: bool,
    content: &str,
    name: &dyn Fn(&str) -> Option<String>,
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
        collect(&value, name, as_what, &mut found);
    }
    found
}

fn collect(
    value: &Value,
    name: &dyn Fn(&str) -> Option<String>,
    as_what: Use,
    found: &mut BTreeMap<String, Use>,
) {
    if found.len() >= REFERENCES_MAX {
        return;
    }
    match value {
        Value::String(text) => {
            if let Some(name) = name(text) {
                found.insert(name, as_what);
            }
        }
        Value::Array(values) => {
            values.iter().for_each(|value| collect(value, name, as_what, found));
        }
        Value::Object(fields) => {
            fields.values().for_each(|value| collect(value, name, as_what, found));
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn files_of_all_servers_are_found_or_too_many() {
        let content = r#"{"url":"mxc://a.example/1#x","file":{"url":"mxc:\/\/b.example:8448\/2"},
            "body":"mxc://c.example/3 is","odd":"mxc://d.example/4/5"}"#;
        let found = shown_uris("m.room.message", false, content).unwrap();
        let uris: Vec<_> = found.into_keys().collect();
        assert_eq!(uris, ["mxc://a.example/1", "mxc://b.example:8448/2"]);
        let many =
            |count| (0..count).map(|n| format!("\"mxc://h.example/{n}\"")).collect::<Vec<_>>();
        let many = |count| format!("{{\"x\":[{}]}}", many(count).join(","));
        assert!(shown_uris("m.room.message", false, &many(REFERENCES_MAX - 1)).is_some());
        assert_eq!(shown_uris("m.room.message", false, &many(REFERENCES_MAX)), None);
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
}
