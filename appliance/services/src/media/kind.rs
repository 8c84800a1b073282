//! What a file is by its first bytes, whatever its uploader says: markup and scripts are never shown in
//! place, nor what is announced as something else than it is.

/// Bytes looked at. Signatures lie at the beginning.
pub(super) const HEAD_BYTES: usize = 1_024;

const HTML: &str = "text/html";
const SVG: &str = "image/svg+xml";
const XML: &str = "text/xml";

/// The type that the first bytes of a file show; none if they show none, as those of encrypted files.
pub(super) fn of_bytes(head: &[u8]) -> Option<&'static str> {
    markup(head).or_else(|| infer::get(head).map(|kind| kind.mime_type()))
}

/// Whatever begins like a tag could be made to run by a browser that guesses.
fn markup(head: &[u8]) -> Option<&'static str> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let [b'<', next, ..] = text else { return None };
    if !next.is_ascii_alphabetic() && !matches!(next, b'!' | b'?' | b'/') {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let has = |tag: &[u8]| lower.windows(tag.len()).any(|part| part == tag);
    Some(match () {
        () if has(b"<svg") => SVG,
        () if has(b"<?xml") && !has(b"<html") => XML,
        () => HTML,
    })
}

/// Whether what the bytes show allows a browser to show them in place as `announced`.
pub fn agrees(announced: &str, sniffed: Option<&str>) -> bool {
    let Some(sniffed) = sniffed else { return true };
    if matches!(sniffed, HTML | SVG | XML) {
        return false;
    }
    let family = |kind: &str| match kind.split('/').next().unwrap_or_default().trim() {
        // One container carries either.
        "audio" | "video" => "media".to_owned(),
        family => family.to_ascii_lowercase(),
    };
    family(announced) == family(sniffed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_found_behind_blanks_and_marks() {
        for (text, kind) in [
            ("<!DOCTYPE html><p>", HTML),
            ("\u{feff} \n<HTML>", HTML),
            ("<script>alert(1)</script>", HTML),
            ("<!-- a --><svg onload=x>", SVG),
            ("<?xml version='1.0'?><svg xmlns='x'/>", SVG),
            ("<?xml version='1.0'?><a/>", XML),
            ("<p>text", HTML),
        ] {
            assert_eq!(of_bytes(text.as_bytes()), Some(kind), "{text}");
        }
        for plain in ["", "<", "< 5 beds", "<3", "Bed 4 is free", "{\"a\":1}"] {
            assert_eq!(of_bytes(plain.as_bytes()), None, "{plain}");
        }
        assert_eq!(of_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF"), Some("image/jpeg"));
        assert_eq!(of_bytes(b"%PDF-1.7"), Some("application/pdf"));
    }

    #[test]
    fn what_says_one_thing_and_is_another_does_not_agree() {
        assert!(agrees("image/png", Some("image/png")));
        assert!(agrees("image/png", Some("image/jpeg")));
        assert!(agrees("audio/ogg", Some("video/ogg")));
        assert!(agrees("text/plain", None));
        for (announced, sniffed) in [
            ("image/png", HTML),
            ("text/plain", HTML),
            ("image/svg+xml", SVG),
            ("text/css", "application/pdf"),
            ("image/jpeg", "application/zip"),
        ] {
            assert!(!agrees(announced, Some(sniffed)), "{announced} {sniffed}");
        }
    }
}
