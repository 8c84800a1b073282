//! The form of a JSON body, judged before anything is read from it.
//!
//! Ruma skips what it does not know and reads what it keeps as it comes. So what is no text, no
//! JSON, no object or nested without end is refused here, for all endpoints alike.

use appliance_model::{Error, Kind};
use serde::de::IgnoredAny;

/// Deeper than any event of a released client. What is kept is handed on, and a client that reads it
/// recursively would fall.
const DEPTH_MAX: usize = 100;

/// Judges a body that is there.
///
/// # Errors
///
/// * [`Kind::NotJson`]: "Request did not contain valid JSON."
/// * [`Kind::BadJson`]: JSON, but no object, or one that is nested too deep.
pub(crate) fn check(body: &[u8]) -> Result<(), Error> {
    let no_json = |_| Error::new(Kind::NotJson, "The request's body is no JSON.");
    let text = std::str::from_utf8(body)
        .map_err(|_| Error::new(Kind::NotJson, "The request's body is no UTF-8."))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(no_json)?;
    if !text.trim_start().starts_with('{') {
        return Err(Error::new(Kind::BadJson, "The request's body is no JSON object."));
    }
    if depth(body) > DEPTH_MAX {
        let message = format!("The request's body is nested deeper than {DEPTH_MAX} levels.");
        return Err(Error::new(Kind::BadJson, message));
    }
    Ok(())
}

/// How deep valid JSON is nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(body: &[u8]) -> Option<Kind> {
        check(body).err().map(|error| error.kind)
    }

    #[test]
    fn what_is_no_json_is_told_from_what_is_no_object() {
        for no_json in [
            &b"{\"a\":"[..],
            b"words",
            b"{}{}",
            b"{\"a\":\"\xff\xfe\"}",
            b"[[[[",
            b"",
            b"\xef\xbb\xbf{}",
        ] {
            assert_eq!(kind(no_json), Some(Kind::NotJson), "{no_json:?}");
        }
        for no_object in [&b"[]"[..], b"\"a\"", b" 5", b"null"] {
            assert_eq!(kind(no_object), Some(Kind::BadJson), "{no_object:?}");
        }
        assert_eq!(kind(b" {\"a\": [1, {\"b\": null}]} "), None);
    }

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        assert_eq!(depth(br#"{"a":[{"}]\"[[":"[{\\"}]}"#), 3);
        let nested = |levels: usize| {
            let body = format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
            kind(body.as_bytes())
        };
        assert_eq!(nested(DEPTH_MAX - 1), None);
        assert_eq!(nested(DEPTH_MAX), Some(Kind::BadJson));
        assert_eq!(nested(10_000), Some(Kind::BadJson));
    }
}
