//! What holds for every route there is: strangers are turned away, nonsense is answered, browsers may
//! read the answer.

#![cfg(test)]

use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use serde_json::Value;

use crate::scenario::{Answer, Desk};
use crate::{Access, Route};

fn routes(desk: &Desk) -> Vec<Route> {
    crate::router(desk.services.clone()).1
}

/// The path with something in the place of each variable.
fn path(route: &Route, user: &str) -> String {
    let fill = |part: &str| match part.trim_matches(['{', '}', '*']) {
        name if name == part => part.to_owned(),
        "user_id" => user.to_owned(),
        "room_id" | "room_id_or_alias" => "!ward:hospital.example".to_owned(),
        "room_alias" => "%23ward:hospital.example".to_owned(),
        "event_id" => "$event:hospital.example".to_owned(),
        "server_name" => "hospital.example".to_owned(),
        _ => "x".to_owned(),
    };
    route.path.split('/').map(fill).collect::<Vec<_>>().join("/")
}

fn is_an_error(route: &Route, answer: &Answer) {
    let (status, errcode) = answer.error();
    assert!((400..500).contains(&status), "{route:?}: {answer:?}");
    // Where proof is asked for, the answer is the list of ways to give it.
    let explained = !errcode.is_empty() && answer.json["error"].is_string();
    assert!(explained || answer.json["flows"].is_array(), "{route:?}: {answer:?}");
    assert_eq!(answer.headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*", "{route:?}");
}

#[tokio::test]
async fn strangers_are_turned_away_everywhere() {
    let desk = Desk::new().await;
    let routes = routes(&desk);
    let guarded: Vec<_> = routes.iter().filter(|r| r.access == Access::SignedIn).collect();
    assert!(guarded.len() > 100, "{} routes ask who is there", guarded.len());
    for route in guarded {
        let (method, path) = (route.method.as_str(), path(route, "@nurse:hospital.example"));
        let without = desk.call(method, &path, "", Value::Null).await;
        assert_eq!(without.error(), (401, "M_MISSING_TOKEN"), "{route:?}");
        is_an_error(route, &without);
        let wrong = desk.call(method, &path, "not-a-token", Value::Null).await;
        assert_eq!(wrong.error(), (401, "M_UNKNOWN_TOKEN"), "{route:?}");
        is_an_error(route, &wrong);
    }
}

#[tokio::test]
async fn nonsense_is_answered_everywhere() {
    let desk = Desk::new().await;
    let token = desk.sign_up("nurse").await;
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let bodies = [
        "",
        "{",
        "null",
        "[]",
        "\"text\"",
        "1e400",
        "{\"a\":1.5}",
        "{\"limit\":-1,\"timeout\":1e99}",
        deep.as_str(),
    ];
    for route in routes(&desk) {
        // Ending the session would make the rest of the sweep a stranger's.
        if route.path.contains("logout") || route.path.contains("deactivate") {
            continue;
        }
        let path = path(&route, "@nurse:hospital.example");
        for body in bodies {
            let method = route.method.as_str();
            let answer = desk.call_raw(method, &path, &token, body.to_owned()).await;
            assert!(answer.status < 500, "{route:?} with {body:.40}: {answer:?}");
            if answer.status >= 400 {
                is_an_error(&route, &answer);
            }
        }
    }
    assert!(desk.is_in(&token).await);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_so() {
    let desk = Desk::new().await;
    for path in ["/_matrix/client/v3/nothing", "/_matrix/client/unstable/x", "/_matrix/nothing"] {
        let answer = desk.get(path, "").await;
        assert_eq!(answer.error(), (404, "M_UNRECOGNIZED"), "{path}");
        assert_eq!(answer.headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
    let answer = desk.post("/versions", "", Value::Null).await;
    assert_eq!(answer.error(), (405, "M_UNRECOGNIZED"));
}
