//! What must never be written: fields by their names, tokens by the words before them.

use std::borrow::Cow;

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// A field whose name has one of these as a part (between `.`, `_` and `-`) is a secret.
const SECRET_PARTS: [&str; 16] = [
    "authorization",
    "bearer",
    "body",
    "content",
    "cookie",
    "credential",
    "credentials",
    "mrn",
    "passphrase",
    "passwd",
    "password",
    "plaintext",
    "private",
    "secret",
    "secrets",
    "topic",
];

/// A field whose name contains one of these anywhere is a secret.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "signingkey"];

/// Measures of a secret are not secret: `body_bytes`, `token_count`.
const MEASURES: [&str; 4] = ["_bytes", "_count", "_max", "_ms"];

/// After one of these, everything up to a separator is a secret, wherever it stands.
/// `wst_` begins every token that this server gives out.
const SECRET_PREFIXES: [&str; 4] = ["access_token=", "Bearer ", "refresh_token=", "wst_"];

/// Whether a field's value must not be written.
pub fn is_secret(field: &str) -> bool {
    let name = field.to_ascii_lowercase();
    if MEASURES.iter().any(|measure| name.ends_with(measure)) {
        return false;
    }
    SECRET_WORDS.iter().any(|word| name.contains(word))
        || name.split(['.', '_', '-']).any(|part| SECRET_PARTS.contains(&part))
}

/// `text` without what follows `access_token=` and its like.
pub fn scrub(text: &str) -> Cow<'_, str> {
    if !SECRET_PREFIXES.iter().any(|prefix| text.contains(prefix)) {
        return Cow::Borrowed(text);
    }
    let mut scrubbed = text.to_owned();
    for prefix in SECRET_PREFIXES {
        scrubbed = scrub_after(&scrubbed, prefix);
    }
    Cow::Owned(scrubbed)
}

fn scrub_after(text: &str, prefix: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(prefix) {
        let (before, after) = rest.split_at(start + prefix.len());
        result.push_str(before);
        result.push_str(REDACTED);
        let end = after.find(|c: char| c.is_whitespace() || "&\"',;)}".contains(c));
        rest = &after[end.unwrap_or(after.len())..];
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known() {
        for name in [
            "body",
            "event.body",
            "content",
            "password",
            "new_password",
            "Authorization",
            "access_token",
            "token",
            "registration.shared_secret",
            "client_secret",
            "mrn",
            "patient.mrn",
            "cookie",
            "x-token",
            "http.request.body",
            "loginToken",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "room.id",
            "user.id",
            "body_bytes",
            "duration_ms",
            "kind",
            "status",
            "somebody",
            "content_bytes_max",
            "token_count",
            "error",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn tokens_in_texts_are_scrubbed() {
        assert_eq!(
            scrub("GET /sync?access_token=abc123&since=4 (Bearer xyz) access_token=q"),
            "GET /sync?access_token=[redacted]&since=4 (Bearer [redacted]) access_token=[redacted]"
        );
        assert_eq!(scrub("{\"t\":\"wst_abc\"}"), "{\"t\":\"wst_[redacted]\"}");
        assert!(matches!(scrub("nothing here"), Cow::Borrowed(_)));
    }
}
