//! What holds for every route there is for servers: strangers are turned away before anything is read,
//! forgeries are seen, nonsense is answered.

use axum::body::Body;
use futures_util::stream;
use http::Request;
use http::header::AUTHORIZATION;
use serde_json::Value;

use crate::town::Town;
use crate::{Access, Route};

/// `c.example` is on nobody's list.
async fn town() -> (Town, Vec<Route>) {
    let lists = [
        ("a.example", vec!["b.example"]),
        ("b.example", vec!["a.example"]),
        ("c.example", vec!["a.example"]),
    ];
    let town = Town::with_lists(&lists).await;
    let (_, routes) = crate::peer_router(town.desk(0).services.clone());
    (town, routes)
}

fn path(route: &Route) -> String {
    let fill = |part: &str| match part.trim_matches(['{', '}', '*']) {
        name if name == part => part.to_owned(),
        "user_id" => "@nurse:a.example".to_owned(),
        "room_id" => "!ward:a.example".to_owned(),
        "event_id" => "$event".to_owned(),
        "server_name" => "b.example".to_owned(),
        _ => "x".to_owned(),
    };
    route.path.split('/').map(fill).collect::<Vec<_>>().join("/")
}

/// A request of one of the town's servers to `a.example`.
fn signed(town: &Town, from: usize, route: &Route, body: &str) -> Request<Body> {
    town.signed(from, "a.example", route.method.as_str(), &path(route), body)
}

async fn ring(town: &Town, request: Request<Body>) -> (u16, String, Value) {
    let (status, json) = town.ring("a.example", request).await;
    let errcode = json["errcode"].as_str().unwrap_or_default().to_owned();
    (status, errcode, json)
}

/// A body that must not be read.
fn untouchable() -> Body {
    Body::from_stream(stream::once(async {
        panic!("the body was read") as Result<&str, std::io::Error>
    }))
}

#[tokio::test]
async fn strangers_are_turned_away_before_anything_is_read() {
    let (town, routes) = town().await;
    let guarded: Vec<_> = routes.iter().filter(|route| route.access == Access::Peer).collect();
    for route in &routes {
        assert!(
            route.access == Access::Peer
                || route.path.starts_with("/_matrix/key/v2/")
                || route.path == "/_matrix/federation/v1/version"
                || route.path == "/_matrix/federation/v1/openid/userinfo"
                // Identity servers cannot sign; what they say is not read.
                || route.path == "/_matrix/federation/v1/3pid/onbind",
            "{route:?} is open to everybody"
        );
    }
    assert!(!guarded.is_empty());
    for route in guarded {
        let unsigned = Request::builder()
            .method(route.method.clone())
            .uri(path(route))
            .body(untouchable())
            .unwrap();
        let (status, errcode, _) = ring(&town, unsigned).await;
        assert_eq!((status, errcode.as_str()), (401, "M_UNAUTHORIZED"), "{route:?}");
        let stranger = signed(&town, 2, route, "").map(|_| untouchable());
        let (status, errcode, _) = ring(&town, stranger).await;
        assert_eq!((status, errcode.as_str()), (403, "M_FORBIDDEN"), "{route:?}");
    }
}

#[tokio::test]
async fn forgeries_are_seen() {
    let (town, routes) = town().await;
    for route in routes.iter().filter(|route| route.access == Access::Peer) {
        let of_c =
            signed(&town, 2, route, "").headers()[AUTHORIZATION].to_str().unwrap().to_owned();
        let as_b = of_c.replace("origin=c.example", "origin=b.example");
        let mut forged = signed(&town, 1, route, "");
        forged.headers_mut().insert(AUTHORIZATION, as_b.parse().unwrap());
        let (status, errcode, _) = ring(&town, forged).await;
        assert_eq!((status, errcode.as_str()), (401, "M_UNAUTHORIZED"), "{route:?}");

        let mut elsewhere = signed(&town, 1, route, "");
        let header = elsewhere.headers()[AUTHORIZATION].to_str().unwrap();
        let header = header.replace("destination=a.example", "destination=b.example");
        elsewhere.headers_mut().insert(AUTHORIZATION, header.parse().unwrap());
        assert_eq!(ring(&town, elsewhere).await.0, 401, "{route:?}");

        let changed = signed(&town, 1, route, "{}").map(|_| Body::from("{\"a\":1}"));
        assert_eq!(ring(&town, changed).await.0, 401, "{route:?}");
    }
}

#[tokio::test]
async fn nonsense_is_answered_everywhere() {
    let (town, routes) = town().await;
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let bodies = ["", "{", "null", "[]", "{}", "{\"a\":1.5}", "{\"pdus\":7,\"edus\":{}}", &deep];
    for route in &routes {
        for body in bodies {
            let request = signed(&town, 1, route, body);
            let (status, errcode, json) = ring(&town, request).await;
            assert!(status < 500, "{route:?} with {body:.40}: {json}");
            assert!(status < 400 || !errcode.is_empty(), "{route:?} with {body:.40}: {json}");
        }
    }
}
