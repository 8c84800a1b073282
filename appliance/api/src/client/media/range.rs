//! `Range` ([RFC 9110]), as video players send it: one range of bytes.
//!
//! [RFC 9110]: https://www.rfc-editor.org/rfc/rfc9110#name-range-requests

use http::HeaderMap;
use http::header::{IF_RANGE, RANGE};

/// What part of a file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// From `from` (included) to `to` (excluded).
    Bytes {
        /// The first byte.
        from: u64,
        /// After the last byte.
        to: u64,
        /// No range was asked for, or one that is not to be heeded.
        is_whole: bool,
    },
    /// A range that the file does not have.
    Unsatisfiable,
}

/// The part that a request wants of a file of `bytes` bytes.
pub(super) fn wanted(headers: &HeaderMap, bytes: u64) -> Part {
    let whole = Part::Bytes { from: 0, to: bytes, is_whole: true };
    // There are no validators here, so `If-Range` never matches: "ignore the Range header field".
    if headers.contains_key(IF_RANGE) {
        return whole;
    }
    // "A server MAY ignore the Range header field": what is not one range of bytes.
    let text = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let Some((first, last)) = text.and_then(one_range) else { return whole };
    let range = match (first, last) {
        // "bytes=-500": the last 500 bytes.
        (None, Some(suffix)) if suffix > 0 => Some((bytes.saturating_sub(suffix), bytes)),
        (None, _) => None,
        (Some(first), None) => Some((first, bytes)),
        (Some(first), Some(last)) if last < first => return whole,
        (Some(first), Some(last)) => Some((first, last.saturating_add(1).min(bytes))),
    };
    match range {
        Some((from, to)) if from < to => Part::Bytes { from, to, is_whole: false },
        _ => Part::Unsatisfiable,
    }
}

fn one_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| -> Option<Option<u64>> {
        let text = text.trim();
        if text.is_empty() {
            return Some(None);
        }
        let is_digits = text.bytes().all(|b| b.is_ascii_digit());
        is_digits.then(|| Some(text.parse().unwrap_or(u64::MAX)))
    };
    let (first, last) = (number(first)?, number(last)?);
    let is_range = unit.eq_ignore_ascii_case("bytes") && (first.is_some() || last.is_some());
    is_range.then_some((first, last))
}

/// The bytes asked for, if some can be given.
#[cfg(test)]
pub(crate) fn range_for_tests(headers: &HeaderMap, bytes: u64) -> Option<(u64, u64)> {
    match wanted(headers, bytes) {
        Part::Bytes { from, to, .. } => Some((from, to)),
        Part::Unsatisfiable => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(range: &'static str) -> Part {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
        wanted(&headers, 1_000)
    }

    #[test]
    fn ranges_are_what_the_rfc_says() {
        let part = |from, to| Part::Bytes { from, to, is_whole: false };
        assert_eq!(of("bytes=0-499"), part(0, 500));
        assert_eq!(of("bytes=500-"), part(500, 1_000));
        assert_eq!(of("bytes=-200"), part(800, 1_000));
        assert_eq!(of("bytes=-5000"), part(0, 1_000));
        assert_eq!(of("bytes=999-99999999999999999999999"), part(999, 1_000));
        assert_eq!(of("BYTES = 0-0"), whole(), "no space before the sign");
        assert_eq!(of("bytes=1000-"), Part::Unsatisfiable);
        assert_eq!(of("bytes=-0"), Part::Unsatisfiable);
        for ignored in ["bytes=5-2", "bytes=0-1,5-6", "lines=0-1", "bytes=a-b", "bytes=-", "x"] {
            assert_eq!(of(ignored), whole(), "{ignored}");
        }
    }

    fn whole() -> Part {
        Part::Bytes { from: 0, to: 1_000, is_whole: true }
    }

    #[test]
    fn a_validator_never_matches_and_an_empty_file_has_no_range() {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(wanted(&headers, 0), Part::Unsatisfiable);
        headers.insert(IF_RANGE, HeaderValue::from_static("\"x\""));
        assert_eq!(wanted(&headers, 1_000), whole());
        assert_eq!(wanted(&HeaderMap::new(), 0), Part::Bytes { from: 0, to: 0, is_whole: true });
    }
}
