//! The gate against a server of its own on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};

use appliance_ledger::rows::peers::PeerRow;
use appliance_model::SystemClock;
use appliance_model::ruma::server_name;
use aws_lc_rs::digest::{SHA256, digest};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, PublicKeyData, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::trust::trust;

/// A server for `localhost` that says what it was asked.
struct Other {
    port: u16,
    connections: Arc<AtomicUsize>,
    gate: Gate,
    /// Its certificate and the SHA-256 of its public key.
    pem: String,
    key: Vec<u8>,
    roll: Arc<Roll>,
    _tasks: JoinSet<()>,
}

async fn other(named: Named, alpn: &'static [u8]) -> Other {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let spki = signing_key.subject_public_key_info();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            served.spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let service = service_fn(answer);
                let _ = server.serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, cert.pem()).unwrap();
    let tls = trust(Some(&file), None).unwrap();
    let roll = Arc::new(Roll::of([server_name!("b.example").to_owned()]));
    let gate = Gate::new(named, roll.clone(), tls, Arc::new(SystemClock));
    let key = digest(&SHA256, &spki).as_ref().to_vec();
    Other { port, connections, gate, pem: cert.pem(), key, roll, _tasks: tasks }
}

type Body = BoxBody<Bytes, std::io::Error>;

/// A byte now and then, for ever.
fn drip() -> Body {
    let drops = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"x"))), ()))
    });
    BodyExt::boxed(StreamBody::new(drops))
}

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let text = match request.uri().path() {
        "/long" => "x".repeat(10_000),
        "/away" => String::new(),
        "/never" => std::future::pending().await,
        _ => format!("{:?} {}", request.version(), authority.or(host).unwrap_or_default()),
    };
    let is_drip = request.uri().path() == "/drip";
    let mut response = Response::new(if is_drip { drip() } else { whole(text) });
    if request.uri().path() == "/away" {
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert("location", HeaderValue::from_static("https://c.example/"));
    }
    Ok(response)
}

fn loopback() -> Named {
    Named { networks: vec!["127.0.0.0/8".parse().unwrap()], ..Named::default() }
}

impl Other {
    fn request(&self, path: &str) -> Outgoing {
        Outgoing {
            purpose: Purpose::Peer(server_name!("b.example").to_owned()),
            method: Method::GET,
            uri: format!("https://localhost:{}{path}", self.port).parse().unwrap(),
            connect_to: Some(("127.0.0.1".to_owned(), self.port)),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            limits: Limits { total: Duration::from_secs(5), answer_bytes_max: 5_000 },
        }
    }

    /// What the administrator says of the other side.
    fn describe(&self, peer: PeerRow) {
        self.roll.describe(server_name!("b.example").to_owned(), Some(peer));
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_is_remembered() {
    for (alpn, version) in [(b"http/1.1".as_slice(), "HTTP/1.1"), (b"h2", "HTTP/2.0")] {
        let other = other(loopback(), alpn).await;
        for _ in 0..3 {
            let answer = other.gate.send(other.request("/")).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            let text = String::from_utf8(answer.body.to_vec()).unwrap();
            assert_eq!(text, format!("{version} localhost:{}", other.port));
        }
        assert_eq!(other.connections(), 1);
        let seen = other.gate.take_seen();
        assert_eq!((seen.len(), seen[0].connected, seen[0].refused), (1, 1, 0));
        assert_eq!(seen[0].purpose, "peer b.example");
        assert_eq!(seen[0].host, format!("127.0.0.1:{}", other.port));
    }
}

#[tokio::test]
async fn nobody_is_contacted_whom_the_operator_did_not_name() {
    let other = other(Named::default(), b"http/1.1").await;
    let inside = other.gate.send(other.request("/")).await.unwrap_err();
    assert!(
        matches!(&inside, Failure::Refused(why) if why.contains("egress.networks")),
        "{inside}"
    );
    let mut by_name = other.request("/");
    by_name.connect_to = None;
    assert!(matches!(other.gate.send(by_name).await, Err(Failure::Refused(_))), "resolved");
    let mut stranger = other.request("/");
    stranger.purpose = Purpose::Peer(server_name!("c.example").to_owned());
    assert!(matches!(other.gate.send(stranger).await, Err(Failure::Refused(_))));
    assert_eq!(other.connections(), 0);
    let refused: u64 = other.gate.take_seen().iter().map(|seen| seen.refused).sum();
    assert_eq!(refused, 3);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_believed() {
    let other = other(loopback(), b"http/1.1").await;
    let mut request = other.request("/");
    request.uri = "https://b.example/".parse().unwrap();
    let failure = other.gate.send(request).await.unwrap_err();
    assert!(
        matches!(&failure, Failure::Unreachable(why) if why.contains("certificate")),
        "{failure}"
    );
}

fn pinned(key: &[u8]) -> PeerRow {
    PeerRow { certificate_pins: Some(vec![key.to_vec().into()]), ..PeerRow::default() }
}

/// Whoever else gets a certificate for the peer's name, from whatever authority, is not the peer. And
/// what was begun before the pin changed is not gone on with.
#[tokio::test]
async fn a_pinned_certificate_is_the_only_one_believed_from_the_next_request_on() {
    for alpn in [b"http/1.1".as_slice(), b"h2"] {
        let other = other(loopback(), alpn).await;
        other.describe(pinned(&other.key));
        for _ in 0..2 {
            let answer = other.gate.send(other.request("/")).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
        }
        assert_eq!(other.connections(), 1);
        other.describe(pinned(&[7; 32]));
        let failure = other.gate.send(other.request("/")).await.unwrap_err();
        let hex: String = other.key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(
            matches!(&failure, Failure::Unreachable(why) if why.contains(&hex)),
            "the sentence names the key that is there: {failure}"
        );
        let mut place = other.request("/");
        place.purpose = Purpose::PeerPlace(server_name!("b.example").to_owned());
        assert!(other.gate.send(place).await.is_ok(), "a website may have another certificate");
        other.describe(PeerRow::default());
        assert!(other.gate.send(other.request("/")).await.is_ok());
    }
}

#[tokio::test]
async fn pinned_authorities_take_the_place_of_the_usual_ones() {
    let other = other(loopback(), b"http/1.1").await;
    let somebody = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let authorities = |pem: String| PeerRow { authorities: Some(pem), ..PeerRow::default() };
    other.describe(authorities(somebody.cert.pem()));
    let failure = other.gate.send(other.request("/")).await.unwrap_err();
    assert!(
        matches!(&failure, Failure::Unreachable(why) if why.contains("certificate")),
        "{failure}"
    );
    other.describe(authorities("nonsense".to_owned()));
    assert!(matches!(other.gate.send(other.request("/")).await, Err(Failure::Refused(_))));
    other.describe(authorities(other.pem.clone()));
    assert!(other.gate.send(other.request("/")).await.is_ok());
}

/// The operator wrote down where the peer is: that address, and no other, may lie inside.
#[tokio::test]
async fn an_address_on_the_list_may_lie_inside() {
    let other = other(Named::default(), b"http/1.1").await;
    assert!(matches!(other.gate.send(other.request("/")).await, Err(Failure::Refused(_))));
    let at = |address: &str| PeerRow { address: Some(address.to_owned()), ..PeerRow::default() };
    other.describe(at("127.0.0.2:8448"));
    assert!(matches!(other.gate.send(other.request("/")).await, Err(Failure::Refused(_))));
    other.describe(at(&format!("127.0.0.1:{}", other.port)));
    assert!(other.gate.send(other.request("/")).await.is_ok());
    let mut place = other.request("/");
    place.purpose = Purpose::PeerPlace(server_name!("b.example").to_owned());
    assert!(matches!(other.gate.send(place).await, Err(Failure::Refused(_))));
    let suspended = PeerRow { suspended: true, ..at("127.0.0.1:1") };
    other.describe(suspended);
    let failure = other.gate.send(other.request("/")).await.unwrap_err();
    assert!(matches!(&failure, Failure::Refused(why) if why.contains("suspended")), "{failure}");
}

#[tokio::test]
async fn answers_have_an_end() {
    let other = other(loopback(), b"h2").await;
    assert_eq!(
        other.gate.send(other.request("/long")).await.unwrap_err(),
        Failure::TooLarge(5_000)
    );
    let mut never = other.request("/never");
    never.limits.total = Duration::from_millis(300);
    assert_eq!(other.gate.send(never).await.unwrap_err(), Failure::TimedOut);
    let mut long = other.request("/long");
    long.limits.answer_bytes_max = 10_000;
    let mut opened = other.gate.open(long).await.unwrap();
    let mut length = 0;
    while let Some(piece) = opened.body.next().await {
        length += piece.unwrap().len();
    }
    assert_eq!(length, 10_000);
}

/// Who gives a byte now and then, or does not even shake hands, is not waited for longer than a request
/// may take, and takes nobody else's place meanwhile.
#[tokio::test]
async fn who_drips_is_not_waited_for() {
    for alpn in [b"http/1.1".as_slice(), b"h2"] {
        let other = other(loopback(), alpn).await;
        let mut dripping = other.request("/drip");
        dripping.limits.total = Duration::from_millis(400);
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut no_hands = dripping.clone();
        let port = silent.local_addr().unwrap().port();
        no_hands.uri = format!("https://localhost:{port}/").parse().unwrap();
        no_hands.connect_to = Some(("127.0.0.1".to_owned(), port));
        // As many as there are places for one destination, all at once.
        let all = (0..REQUESTS_PER_DESTINATION_MAX).map(|_| other.gate.send(dripping.clone()));
        let asked = async {
            tokio::join!(
                futures_util::future::join_all(all),
                other.gate.send(no_hands),
                other.gate.send(other.request("/")),
            )
        };
        let (all, no_hands, fine) =
            tokio::time::timeout(Duration::from_secs(4), asked).await.expect("nobody waits longer");
        assert!(all.into_iter().all(|answer| answer.unwrap_err() == Failure::TimedOut));
        assert_eq!(no_hands.unwrap_err(), Failure::TimedOut);
        assert!(fine.is_ok(), "whoever waited behind them: {fine:?}");
        let mut few = other.request("/drip");
        few.limits.answer_bytes_max = 3;
        assert_eq!(other.gate.send(few).await.unwrap_err(), Failure::TooLarge(3));
    }
}

#[tokio::test]
async fn nothing_follows_a_redirect() {
    let other = other(loopback(), b"http/1.1").await;
    let answer = other.gate.send(other.request("/away")).await.unwrap();
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(other.gate.take_seen().len(), 1);
}

/// A page for a preview: the host must be named with its port, and what lies inside is not reached
/// though the name is on the list, unless its network is, too.
#[tokio::test]
async fn a_preview_reaches_a_named_host_and_nothing_inside() {
    let mut other = other(Named::default(), b"http/1.1").await;
    let asked = |other: &Other| {
        let request = other.request("/");
        Outgoing { purpose: Purpose::Preview, connect_to: None, ..request }
    };
    let refused = |result: Result<_, Failure>| matches!(result, Err(Failure::Refused(_)));
    assert!(refused(other.gate.send(asked(&other)).await.map(drop)), "nobody named it");
    let named = Named { previews: vec![format!("localhost:{}", other.port)], ..Named::default() };
    let roll = || Arc::new(Roll::default());
    other.gate.judge = Judge::new(named.clone(), roll());
    assert!(refused(other.gate.send(asked(&other)).await.map(drop)), "it lies inside");
    assert_eq!(other.connections.load(Ordering::SeqCst), 0);
    let networks = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let open = Named { networks, ..named };
    // A pool remembers on which terms it was made.
    other.gate.pools = Mutex::default();
    other.gate.judge = Judge::new(open, roll());
    let answer = other.gate.send(asked(&other)).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let away = Outgoing { uri: other.request("/away").uri, ..asked(&other) };
    assert_eq!(other.gate.send(away).await.unwrap().status, StatusCode::FOUND, "not followed");
}
