//! The steps of the specification, with an internet of our own.

use std::collections::HashMap;
use std::sync::Mutex;

use appliance_services::egress::{Destination, Opened, ServiceRecord};
use async_trait::async_trait;
use futures_util::stream;
use http::StatusCode;

use super::*;

/// Pages and service records.
#[derive(Default)]
struct Internet {
    pages: HashMap<String, (u16, &'static str, &'static str)>,
    services: HashMap<&'static str, Vec<ServiceRecord>>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Egress for Internet {
    async fn open(&self, request: Outgoing) -> Result<Opened, Failure> {
        let uri = request.uri.to_string();
        self.asked.lock().unwrap().push(uri.clone());
        let page = self.pages.get(&uri).ok_or(Failure::TimedOut)?;
        let (status, header, body) = *page;
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header.split_once(": ") {
            let name = http::HeaderName::try_from(name).unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        let body = Box::pin(stream::iter([Ok(Bytes::from(body))]));
        Ok(Opened { status: StatusCode::from_u16(status).unwrap(), headers, body })
    }

    async fn find_services(&self, _: &Purpose, name: &str) -> Result<Vec<ServiceRecord>, Failure> {
        self.asked.lock().unwrap().push(name.to_owned());
        Ok(self.services.get(name).cloned().unwrap_or_default())
    }

    fn allow_app_service(&self, _: &Uri) {}

    fn take_seen(&self) -> Vec<Destination> {
        Vec::new()
    }
}

fn srv(target: &str, port: u16) -> Vec<ServiceRecord> {
    vec![ServiceRecord { priority: 10, weight: 5, target: target.to_owned(), port }]
}

async fn find_in(internet: Internet, server: &str) -> (String, String, u64, Vec<String>) {
    let internet = Arc::new(internet);
    let egress: Arc<dyn Egress> = internet.clone();
    let place = find(&egress, &ServerName::parse(server).unwrap()).await.unwrap();
    let target = place.targets.iter().map(|(host, port)| format!("{host}:{port}"));
    let asked = internet.asked.lock().unwrap().clone();
    (place.authority, target.collect::<Vec<_>>().join(" "), place.lifetime_ms, asked)
}

fn with_page(status: u16, header: &'static str, body: &'static str) -> Internet {
    let page = "https://b.example/.well-known/matrix/server".to_owned();
    Internet { pages: [(page, (status, header, body))].into(), ..Internet::default() }
}

#[tokio::test]
async fn literals_and_ports_ask_nobody() {
    for (server, target) in [
        ("192.0.2.7", "192.0.2.7:8448"),
        ("192.0.2.7:443", "192.0.2.7:443"),
        ("[2001:db8::7]", "[2001:db8::7]:8448"),
        ("[2001:db8::7]:443", "[2001:db8::7]:443"),
        ("b.example:8080", "b.example:8080"),
    ] {
        let (authority, found, _, asked) = find_in(Internet::default(), server).await;
        assert_eq!((authority.as_str(), found.as_str()), (server, target));
        assert!(asked.is_empty());
    }
}

#[tokio::test]
async fn a_server_may_delegate_to_a_name_a_port_or_a_literal() {
    for (said, authority, target) in [
        (r#"{"m.server": "192.0.2.7"}"#, "192.0.2.7", "192.0.2.7:8448"),
        (r#"{"m.server": "hs.b.example:443"}"#, "hs.b.example:443", "hs.b.example:443"),
        (r#"{"m.server": "hs.b.example"}"#, "hs.b.example", "hs.b.example:8448"),
    ] {
        let found = find_in(with_page(200, "", said), "b.example").await;
        assert_eq!((found.0.as_str(), found.1.as_str()), (authority, target));
    }
    let mut internet = with_page(200, "", r#"{"m.server": "hs.b.example"}"#);
    internet.services.insert("_matrix-fed._tcp.hs.b.example.", srv("h1.b.example", 8449));
    let (authority, target, _, asked) = find_in(internet, "b.example").await;
    assert_eq!((authority.as_str(), target.as_str()), ("hs.b.example", "h1.b.example:8449"));
    assert_eq!(asked.len(), 2, "{asked:?}");
}

#[tokio::test]
async fn without_a_delegation_srv_is_asked_and_then_8448() {
    let mut internet = Internet::default();
    internet.services.insert("_matrix._tcp.b.example.", srv("old.b.example", 8450));
    let (authority, target, _, asked) = find_in(internet, "b.example").await;
    assert_eq!((authority.as_str(), target.as_str()), ("b.example", "old.b.example:8450"));
    assert_eq!(
        asked,
        [
            "https://b.example/.well-known/matrix/server",
            "_matrix-fed._tcp.b.example.",
            "_matrix._tcp.b.example."
        ]
    );
    for nonsense in ["", "[]", r#"{"m.server": "no name"}"#, r#"{"m.server": 7}"#] {
        let (authority, target, ..) = find_in(with_page(200, "", nonsense), "b.example").await;
        assert_eq!((authority.as_str(), target.as_str()), ("b.example", "b.example:8448"));
    }
    let refused = find_in(with_page(404, "", r#"{"m.server": "x.example"}"#), "b.example").await;
    assert_eq!(refused.1, "b.example:8448");
}

#[tokio::test]
async fn redirects_lead_nowhere_else() {
    let away = with_page(302, "location: https://c.example/x", "");
    let (_, target, _, asked) = find_in(away, "b.example").await;
    assert_eq!(target, "b.example:8448");
    assert!(asked.iter().all(|asked| !asked.contains("c.example")), "{asked:?}");
    let mut here = with_page(301, "location: /there", "");
    here.pages.insert(
        "https://b.example/there".to_owned(),
        (200, "", r#"{"m.server": "hs.b.example:1"}"#),
    );
    assert_eq!(find_in(here, "b.example").await.1, "hs.b.example:1");
    let circle = with_page(301, "location: /.well-known/matrix/server", "");
    let (_, target, _, asked) = find_in(circle, "b.example").await;
    assert_eq!((target.as_str(), asked.len()), ("b.example:8448", 4 + 2));
}

#[tokio::test]
async fn a_delegation_lives_as_long_as_it_says_within_reason() {
    for (header, minutes) in [
        ("", 24 * 60),
        ("cache-control: max-age=3600", 60),
        ("cache-control: public, Max-Age=99999999", 48 * 60),
        ("cache-control: max-age=0", 5),
        ("cache-control: no-store", 5),
    ] {
        let page = with_page(200, header, r#"{"m.server": "hs.b.example:443"}"#);
        let (_, _, lifetime_ms, _) = find_in(page, "b.example").await;
        assert_eq!(lifetime_ms, (minutes * MINUTE_MS).min(LITERAL_MS), "{header}");
    }
}

/// Whatever a host says of where its server is, it is read, and the name is one.
#[test]
fn fuzz_well_known() {
    let seeds: [&[u8]; 3] =
        [br#"{"m.server":"a.example:443"}"#, br#"{"m.server":"[2001:db8::1]:8448"}"#, b"[]"];
    let folder = env!("CARGO_MANIFEST_DIR");
    let mut inputs = appliance_model::scenario::fuzz::Inputs::of("well-known", folder, &seeds);
    while let Some(input) = inputs.next() {
        let mut headers = HeaderMap::new();
        if let Ok(value) = http::HeaderValue::from_bytes(input) {
            headers.insert(CACHE_CONTROL, value);
        }
        let lifetime_ms = lifetime_ms(&headers);
        assert!((WELL_KNOWN_MS_MIN..=WELL_KNOWN_MS_MAX).contains(&lifetime_ms));
        let body = bytes::Bytes::copy_from_slice(input);
        let answer = Answer { status: StatusCode::OK, headers, body };
        if let Some(name) = read_well_known(&answer) {
            assert!(ServerName::parse(name.as_str()).is_ok());
        }
    }
}
