//! What an app asks for: all of the client-server API, for one device that it names.

/// The scopes of the specification, and those that released apps send.
const API: [&str; 2] = ["urn:matrix:client:api:*", "urn:matrix:org.matrix.msc2967.client:api:*"];
const DEVICE: [&str; 2] =
    ["urn:matrix:client:device:", "urn:matrix:org.matrix.msc2967.client:device:"];

/// A device ID of our own has ten letters; the longest that a key of the store has room for.
const DEVICE_ID_BYTES_MAX: usize = 255;

/// What is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// The device.
    pub device_id: String,
    /// What is said to the app: what it asked for, without what this server does not know.
    pub said: String,
}

/// Reads what an app asks for.
///
/// # Errors
///
/// A sentence: what is missing.
pub(super) fn read(text: &str) -> Result<Scope, &'static str> {
    let mut known = Vec::new();
    let mut devices = Vec::new();
    for token in text.split(' ').filter(|token| !token.is_empty()) {
        if let Some(device_id) = DEVICE.iter().find_map(|prefix| token.strip_prefix(prefix)) {
            if !devices.contains(&device_id) {
                devices.push(device_id);
            }
            known.push(token);
        } else if API.contains(&token) {
            known.push(token);
        }
    }
    if !known.iter().any(|token| API.contains(token)) {
        return Err("Ask for `urn:matrix:client:api:*`: this server gives nothing less.");
    }
    let [device_id] = devices[..] else {
        return Err("Name one device: `urn:matrix:client:device:` and its ID.");
    };
    // "Unreserved characters": what stands in a scope without being encoded.
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let is_usable = (1..=DEVICE_ID_BYTES_MAX).contains(&device_id.len())
        && device_id.bytes().all(is_unreserved);
    if !is_usable {
        return Err("A device ID has 1 to 255 of A-Z a-z 0-9 - . _ ~.");
    }
    Ok(Scope { device_id: device_id.to_owned(), said: known.join(" ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_understood_and_the_rest_is_not_granted() {
        for (text, said) in [
            ("urn:matrix:client:api:* urn:matrix:client:device:ABC", None),
            (
                "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:ABC",
                None,
            ),
            (
                "openid urn:matrix:client:api:* urn:matrix:client:device:ABC urn:synapse:admin:*",
                Some("urn:matrix:client:api:* urn:matrix:client:device:ABC"),
            ),
            (
                "urn:matrix:client:device:ABC  urn:matrix:org.matrix.msc2967.client:device:ABC urn:matrix:client:api:*",
                Some(
                    "urn:matrix:client:device:ABC urn:matrix:org.matrix.msc2967.client:device:ABC urn:matrix:client:api:*",
                ),
            ),
        ] {
            let scope = read(text).unwrap();
            assert_eq!((scope.device_id.as_str(), &*scope.said), ("ABC", said.unwrap_or(text)));
        }
        let long = format!("urn:matrix:client:api:* urn:matrix:client:device:{}", "A".repeat(256));
        for text in [
            "",
            "openid",
            "urn:matrix:client:api:*",
            "urn:matrix:client:device:ABC",
            "urn:matrix:client:api:read urn:matrix:client:device:ABC",
            "urn:matrix:client:api:* urn:matrix:client:device:",
            "urn:matrix:client:api:* urn:matrix:client:device:A/B",
            "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B",
            "urn:matrix:client:api:*\turn:matrix:client:device:A",
            &long,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
