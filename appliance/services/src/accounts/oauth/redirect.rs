//! Where a browser may be sent back to. "The redirect URI plays a critical role in validating the authenticity
//! of the client": a code that goes elsewhere is somebody else's.
//!
//! URIs are read as browsers read them (the URL standard), so that no address means one host here and
//! another there.

use url::{Host, Url};

/// Longer ones fit into no address bar.
pub(super) const URI_BYTES_MAX: usize = 2_000;

/// The machine itself.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// An absolute URI of printable ASCII, without what browsers repair silently.
pub(super) fn parse(uri: &str) -> Option<Url> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte);
    if uri.len() > URI_BYTES_MAX || !uri.bytes().all(is_plain) {
        return None;
    }
    let url = Url::parse(uri).ok()?;
    let has_user = !url.username().is_empty() || url.password().is_some();
    (url.fragment().is_none() && !has_user).then_some(url)
}

/// "This URI is a common base for all the other URIs in the metadata: those MUST be either on the same host or on
/// a subdomain of the host of the `client_uri`", and all have the scheme `https`.
pub(super) fn shares_base(url: &Url, client_uri: &Url) -> bool {
    let is_below = match (url.host(), client_uri.host()) {
        (Some(Host::Domain(name)), Some(Host::Domain(base))) => {
            let rest = name.strip_suffix(base);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
        (Some(host), Some(base)) => host == base,
        _ => false,
    };
    url.scheme() == "https" && is_below
}

/// Whether an app whose page is `client_uri` may name this address.
///
/// # Errors
///
/// A sentence: why not.
pub(super) fn check(uri: &str, client_uri: &Url, is_native: bool) -> Result<(), &'static str> {
    let url = parse(uri)
        .ok_or("A redirect URI is an absolute URI without a fragment, a user or a password.")?;
    match url.scheme() {
        "https" if shares_base(&url, client_uri) => Ok(()),
        "https" => Err("A redirect URI is on the host of `client_uri` or below it."),
        "http" if is_native => check_loopback(&url),
        _ if is_native => check_private(&url, client_uri),
        _ => Err("A redirect URI of a web app has the scheme https."),
    }
}

/// "The host part MUST be `localhost`, `127.0.0.1`, or `[::1]`; it MUST have no port in the registered redirect
/// URI".
fn check_loopback(url: &Url) -> Result<(), &'static str> {
    if !is_loopback(url) {
        return Err("A redirect URI with the scheme http is on localhost, 127.0.0.1 or [::1].");
    }
    if url.port().is_some() {
        return Err("Register a redirect URI on this machine without a port: any will do.");
    }
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    url.scheme() == "http" && url.host_str().is_some_and(|host| LOOPBACK.contains(&host))
}

/// "The scheme MUST be prefixed with the client URI hostname in reverse-DNS notation … The URI MUST NOT have an
/// authority component". A name without a dot could be a scheme that browsers act upon (`javascript`).
fn check_private(url: &Url, client_uri: &Url) -> Result<(), &'static str> {
    let Some(Host::Domain(host)) = client_uri.host() else {
        return Err("An app whose `client_uri` has no name has no scheme of its own.");
    };
    let labels: Vec<&str> = host.split('.').rev().collect();
    let rest = url.scheme().strip_prefix(&labels.join("."));
    let is_own =
        labels.len() > 1 && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    if !is_own {
        return Err("A scheme of the app's own begins with the host of `client_uri`, backwards.");
    }
    if url.has_authority() {
        return Err(
            "A redirect URI with a scheme of the app's own has no host: one slash or none.",
        );
    }
    Ok(())
}

/// Whether `asked` is the address that was registered: the very same text, but "the homeserver MUST then accept
/// any port number during the authorization flow" on the machine itself.
pub(super) fn is_same(registered: &str, asked: &str) -> bool {
    if registered == asked {
        return true;
    }
    let (Some((host, path)), Some((place, asked_path))) = (at_host(registered), at_host(asked))
    else {
        return false;
    };
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let port = place.strip_prefix(host).and_then(|rest| rest.strip_prefix(':'));
    LOOPBACK.contains(&host) && path == asked_path && port.is_some_and(is_port)
}

/// Host and port of an address with the scheme http, and what follows.
fn at_host(uri: &str) -> Option<(&str, &str)> {
    let rest = uri.strip_prefix("http://")?;
    Some(rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
}

/// How an answer travels in the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Behind the question mark.
    Query,
    /// Behind the number sign.
    Fragment,
}

/// The address with an answer in it. A query that the app registered "MUST be retained when adding additional
/// query parameters".
pub(super) fn with_answer(uri: &str, mode: Mode, answer: &[(&str, &str)]) -> String {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    pairs.extend_pairs(answer);
    let separator = match mode {
        Mode::Fragment => "#",
        Mode::Query if !uri.contains('?') => "?",
        Mode::Query if uri.ends_with(['?', '&']) => "",
        Mode::Query => "&",
    };
    format!("{uri}{separator}{}", pairs.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(uri: &str, client_uri: &str, is_native: bool) -> bool {
        check(uri, &Url::parse(client_uri).unwrap(), is_native).is_ok()
    }

    /// The examples of the specification, and what strangers make of them.
    #[test]
    fn an_app_is_sent_back_to_where_it_is_at_home() {
        let base = "https://example.com/";
        for uri in [
            "https://example.com/callback",
            "https://app.example.com/callback",
            "https://example.com:5173/?query=value",
        ] {
            assert!(allowed(uri, base, false) && allowed(uri, base, true), "{uri}");
        }
        for uri in [
            "com.example.app:/callback",
            "com.example:/",
            "com.example:callback",
            "http://localhost/callback",
            "http://127.0.0.1/callback",
            "http://[::1]/callback",
        ] {
            assert!(allowed(uri, base, true), "{uri}");
            assert!(!allowed(uri, base, false), "{uri} is no web page");
        }
        for uri in [
            "https://example.com/callback#fragment",
            "https://example.com/callback#",
            "http://example.com/callback",
            "https://localhost/",
            "https://example.com.evil.example/",
            "https://evilexample.com/",
            "https://com/",
            "https://user@example.com/",
            "https://example.com:pass@evil.example/",
            "https://evil.example\\@example.com/",
            "https://example.com/\n",
            " https://example.com/",
            "https://ex\u{e4}mple.com/",
            "example:/callback",
            "com.example.app://callback",
            "com.example.app:///callback",
            "com.examples:/callback",
            "com:/callback",
            "http://localhost:1234/callback",
            "http://localhost.evil.example/",
            "http://127.0.0.2/",
            "http://user@localhost/",
            "javascript:alert(1)",
            "data:text/html,x",
            "/callback",
            "",
        ] {
            assert!(!allowed(uri, base, true) && !allowed(uri, base, false), "{uri}");
        }
        let long = format!("https://example.com/{}", "x".repeat(URI_BYTES_MAX));
        assert!(!allowed(&long, base, false));
    }

    /// A `client_uri` can be chosen so that its host is a scheme.
    #[test]
    fn no_host_becomes_a_scheme_that_browsers_act_upon() {
        assert!(!allowed("javascript:alert(1)", "https://javascript/", true));
        assert!(!allowed("data:text/html,x", "https://data/", true));
        assert!(!allowed("1.0.0.127:/", "https://127.0.0.1/", true));
    }

    #[test]
    fn the_address_is_the_very_same_but_for_a_port_on_the_machine_itself() {
        let registered = "http://127.0.0.1/callback?a=b";
        assert!(is_same(registered, "http://127.0.0.1:49152/callback?a=b"));
        assert!(is_same(registered, registered));
        for asked in [
            "http://127.0.0.1:49152/callback",
            "http://127.0.0.1:49152/other?a=b",
            "http://127.0.0.2:49152/callback?a=b",
            "http://localhost:49152/callback?a=b",
            "https://127.0.0.1:49152/callback?a=b",
            "http://127.0.0.1:49152/callback?a=b#c",
            "http://x@127.0.0.1:49152/callback?a=b",
            "http:////127.0.0.1:49152/callback?a=b",
            "http://127.0.0.1:/callback?a=b",
            "http://127.0.0.1:+1/callback?a=b",
            "http://127.0.0.1:65536/callback?a=b",
            "http://127.0.0.1:1/../callback?a=b",
            "HTTP://127.0.0.1:1/callback?a=b",
        ] {
            assert!(!is_same(registered, asked), "{asked}");
        }
        let registered = "https://example.com/callback";
        for asked in [
            "https://example.com:443/callback",
            "https://example.com/callback/",
            "https://example.com/callback?",
            "https://EXAMPLE.com/callback",
            "https://example.com:8443/callback",
        ] {
            assert!(!is_same(registered, asked), "{asked}");
        }
    }

    #[test]
    fn the_answer_stands_beside_what_was_there() {
        let answer = [("code", "a b"), ("state", "&=#")];
        for (uri, mode, whole) in [
            ("https://a.example/", Mode::Query, "https://a.example/?code=a+b&state=%26%3D%23"),
            (
                "https://a.example/?x=1",
                Mode::Query,
                "https://a.example/?x=1&code=a+b&state=%26%3D%23",
            ),
            ("https://a.example/?", Mode::Query, "https://a.example/?code=a+b&state=%26%3D%23"),
            (
                "https://a.example/?x=1",
                Mode::Fragment,
                "https://a.example/?x=1#code=a+b&state=%26%3D%23",
            ),
            ("com.example:/", Mode::Query, "com.example:/?code=a+b&state=%26%3D%23"),
        ] {
            assert_eq!(with_answer(uri, mode, &answer), whole);
        }
    }
}
