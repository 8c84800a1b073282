//! Every route of the specification, one after the other.

use appliance_acceptance::endpoints::{self, Endpoint};
use appliance_acceptance::http::Http;
use appliance_acceptance::server::{self, Options, Server};
use http::{Method, Request};
use http_body_util::Full;

use crate::cases::{self, Case};
use crate::stage::{Stage, is_last_act};
use crate::verdict::{Demand, fault, is_unknown_route};

/// What the server may hold in memory at the end. An idle one holds a tenth of it.
const RESIDENT_BYTES_MAX: u64 = 400 * 1024 * 1024;

/// How many of the specification's routes the server must know; more only with each release.
const ROUTES_MIN: usize = 90;

/// How many faults are shown.
const FAULTS_SHOWN: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_at_every_route_is_refused_in_good_order() {
    let mut server = Server::start(Options::default()).await;
    let http = server.http();
    let (mut faults, mut absent, mut asked) = (Vec::new(), Vec::new(), 0);
    for (number, endpoint) in endpoints::all().into_iter().enumerate() {
        if !is_known(&http, &endpoint).await {
            absent.push(endpoint.name());
            continue;
        }
        let found = sweep(&server, &endpoint, number * 10_000, &mut asked).await;
        faults.extend(found.into_iter().map(|fault| format!("{}: {fault}", endpoint.name())));
        assert!(server.is_running(), "alive after {}", endpoint.name());
    }

    eprintln!("{asked} requests; not served: {absent:#?}");
    let report = server::tools().join("sweep-faults.txt");
    std::fs::write(&report, faults.join("\n")).expect("the report");
    let resident = server.resident_bytes();
    let shown = faults.iter().take(FAULTS_SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(
        faults.is_empty(),
        "{} faults in {asked} requests, all in {}:\n{shown}",
        faults.len(),
        report.display()
    );
    assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes resident after {asked} requests");
    let known = endpoints::all().len() - absent.len();
    assert!(known >= ROUTES_MIN, "only {known} routes are served");
}

async fn sweep(
    server: &Server,
    endpoint: &Endpoint,
    first: usize,
    asked: &mut usize,
) -> Vec<String> {
    let from_a_page = !endpoint.path.starts_with("/_matrix/federation")
        && !endpoint.path.starts_with("/_matrix/key")
        && !endpoint.path.starts_with("/_matrix/policy");
    let mut faults = Vec::new();
    let mut stage = Stage::set(server, first).await;
    let mut cases = cases::of(endpoint, &stage);
    for number in 0..cases.len() {
        let Case { what, request, demand } = &cases[number];
        let mut answer = stage.session.http.send(request.clone()).await;
        if answer.is_err() {
            // A server may close a connection whose last body it did not care to read; a request
            // that meets the closing door is sent again. What hangs or breaks does so again.
            answer = stage.session.http.send(request.clone()).await;
        }
        *asked += 1;
        if let Some(fault) = fault(&answer, demand, from_a_page) {
            faults.push(format!("{what}: {fault}"));
        }
        if is_last_act(endpoint) {
            stage = Stage::set(server, first + number + 1).await;
            cases = cases::of(endpoint, &stage);
        }
    }
    faults
}

/// Asks without a token and with names that are none: only the router can answer `M_UNRECOGNIZED`.
async fn is_known(http: &Http, endpoint: &Endpoint) -> bool {
    let path = endpoint.path_with(|_| "x".to_owned());
    let request = Request::builder().method(&endpoint.method).uri(path);
    let request = request.body(Full::default()).expect("a request");
    !is_unknown_route(&http.send(request).await.expect("an answer"))
}

/// "Servers MUST respond with 404 M_UNRECOGNIZED to unknown endpoints, 405 M_UNRECOGNIZED to a known
/// endpoint with another method", and `OPTIONS` needs no token.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_routes_and_methods_are_told_apart() {
    let server = Server::start(Options::default()).await;
    let http = server.http();
    let unknown = [
        "/_matrix/client/v3/nothing",
        "/_matrix/client/v99/sync",
        "/_matrix/client/unstable/io.example/x",
        "/_matrix/media/v3/nothing",
        "/_matrix/nothing",
        "/_matrix",
        "/_matrix/client/v3/rooms/!r:ward.example/nothing",
    ];
    let mut faults = Vec::new();
    for path in unknown {
        let answer = http.call(Method::GET, path, None, None).await;
        faults.extend(fault(&answer, &Demand::Exactly(404, "M_UNRECOGNIZED"), true));
    }
    let other_method = [
        (Method::DELETE, "/_matrix/client/v3/sync"),
        (Method::PATCH, "/_matrix/client/v3/login"),
        (Method::PUT, "/_matrix/client/versions"),
        (Method::POST, "/_matrix/client/v3/account/whoami"),
    ];
    for (method, path) in other_method {
        let answer = http.call(method, path, None, None).await;
        faults.extend(fault(&answer, &Demand::Exactly(405, "M_UNRECOGNIZED"), true));
    }
    for endpoint in endpoints::all().iter().filter(|e| e.path.starts_with("/_matrix/client")) {
        let path = endpoint.path_with(|_| "x".to_owned());
        let answer = http.call(Method::OPTIONS, &path, None, None).await.expect("an answer");
        let allowed = answer.headers.contains_key("access-control-allow-methods");
        if !answer.status.is_success() || !allowed {
            faults.push(format!("OPTIONS {path}: {}", answer.summary()));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
