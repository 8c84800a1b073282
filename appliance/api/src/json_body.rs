//! The form of a JSON body, judged before anything is read from it.
//!
//! Ruma skips what it does not know and reads what it keeps as it comes. So what is no text, no
//! JSON, no object or nested without end is refused here, for all endpoints alike.

use std::fmt;

use appliance_model::{Error, Kind};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

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
    let text = std::str::from_utf8(body)
        .map_err(|_| Error::new(Kind::NotJson, "The request's body is no UTF-8."))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = Within(DEPTH_MAX).deserialize(&mut reader).and_then(|()| reader.end());
    read.map_err(|error| match error.classify() {
        Category::Data => {
            let message = format!("The request's body is nested deeper than {DEPTH_MAX} levels.");
            Error::new(Kind::BadJson, message)
        }
        _ => Error::new(Kind::NotJson, "The request's body is no JSON."),
    })?;
    if !text.trim_start().starts_with('{') {
        return Err(Error::new(Kind::BadJson, "The request's body is no JSON object."));
    }
    Ok(())
}

/// A value of at most so many levels, of which nothing is kept. Unlike what skips a value, it reads
/// every string and number: half a surrogate pair or `1e999` that was stored as it came would be read
/// by nobody again.
#[derive(Clone, Copy)]
struct Within(usize);

impl Within {
    fn one_deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("nested too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Within {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Within {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let within = self.one_deeper()?;
        while items.next_element_seed(within)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let within = self.one_deeper::<A::Error>()?;
        while entries.next_key_seed(within)?.is_some() {
            entries.next_value_seed(within)?;
        }
        Ok(())
    }
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
            br#"{"a\ud800":1}"#,
            br#"{"a":["\udc00\ud800"]}"#,
            b"{\"a\":1e999}",
        ] {
            assert_eq!(kind(no_json), Some(Kind::NotJson), "{no_json:?}");
        }
        for no_object in [&b"[]"[..], b"\"a\"", b" 5", b"null"] {
            assert_eq!(kind(no_object), Some(Kind::BadJson), "{no_object:?}");
        }
        assert_eq!(kind(b" {\"a\": [1, {\"b\": null}]} "), None);
        assert_eq!(kind(br#"{"\ud83c\udfe5": [1e30, -5, 18446744073709551615, true]}"#), None);
    }

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        let nested = |levels: usize| {
            let body = format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
            kind(body.as_bytes())
        };
        assert_eq!(kind(format!("{{\"a\":\"{}\"}}", "[".repeat(1_000)).as_bytes()), None);
        assert_eq!(nested(DEPTH_MAX - 1), None);
        assert_eq!(nested(DEPTH_MAX), Some(Kind::BadJson));
        assert_eq!(nested(10_000), Some(Kind::BadJson));
    }
}
