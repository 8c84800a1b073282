//! Every endpoint of the server-server API of Matrix v1.19: what it answers to input as it is meant, and
//! to input as it is not.

use std::collections::BTreeSet;

use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::signatures::{hash_and_sign_event, reference_hash};
use appliance_model::ruma::{CanonicalJsonObject, RoomVersionId};
use serde_json::{Value, json};

use crate::town::Town;

/// Method, path, and what comes back: the status of good input; the path and the body of bad input, its
/// status and its errcode. What `~` begins is below `/_matrix/federation/v1`.
type Line = (&'static str, &'static str, u16, (&'static str, &'static str, u16, &'static str));

const R: &str = "M_FORBIDDEN";
const N: &str = "M_NOT_FOUND";
const P: &str = "M_INVALID_PARAM";
const M: &str = "M_MISSING_PARAM";
const J: &str = "M_NOT_JSON";
const B: &str = "M_BAD_JSON";

/// `#` in a path of bad input is a room of `a.example` that `b.example` is in.
#[rustfmt::skip]
const ENDPOINTS: &[Line] = &[
    ("GET", "/_matrix/key/v2/server", 200, ("/_matrix/key/v2/query/a%20b", "", 400, P)),
    ("GET", "/_matrix/key/v2/query/{}", 200, ("/_matrix/key/v2/query/a%20b", "", 400, P)),
    ("POST", "/_matrix/key/v2/query", 200, ("/_matrix/key/v2/query", "[", 400, J)),
    ("GET", "~/version", 200, ("~/event/x", "", 400, P)),
    ("PUT", "~/send/{}", 200, ("~/send/1", r#"{"pdus":7}"#, 400, B)),
    ("GET", "~/event_auth/{}/{}", 200, ("~/event_auth/#/$none", "", 404, N)),
    ("GET", "~/backfill/{}", 200, ("~/backfill/#?v=$none", "", 400, M)),
    ("POST", "~/get_missing_events/{}", 200, ("~/get_missing_events/#", "{}", 400, B)),
    ("GET", "~/event/{}", 200, ("~/event/$none", "", 404, N)),
    ("GET", "~/state/{}", 200, ("~/state/#", "", 400, M)),
    ("GET", "~/state_ids/{}", 200, ("~/state_ids/#?event_id=$none", "", 404, N)),
    ("GET", "~/timestamp_to_event/{}", 200, ("~/timestamp_to_event/#?ts=x&dir=f", "", 400, P)),
    ("GET", "~/make_join/{}/{}", 200, ("~/make_join/#/@nurse:a.example?ver=11", "", 403, R)),
    ("PUT", "~/send_join/{}/{}", 200, ("~/send_join/#/$none", "[", 400, J)),
    ("PUT", "/_matrix/federation/v2/send_join/{}/{}", 200,
        ("/_matrix/federation/v2/send_join/#/$none", "{}", 400, P)),
    ("GET", "~/make_knock/{}/{}", 200, ("~/make_knock/!none:a.example/@doctor:b.example?ver=11", "", 404, N)),
    ("PUT", "~/send_knock/{}/{}", 200, ("~/send_knock/#/$none", "{}", 400, P)),
    ("PUT", "~/invite/{}/{}", 400, ("~/invite/#/$none", "{}", 400, "M_INCOMPATIBLE_ROOM_VERSION")),
    ("PUT", "/_matrix/federation/v2/invite/{}/{}", 200,
        ("/_matrix/federation/v2/invite/#/$none", "{}", 400, B)),
    ("GET", "~/make_leave/{}/{}", 200, ("~/make_leave/#/@nobody:b.example", "", 403, R)),
    ("PUT", "~/send_leave/{}/{}", 200, ("~/send_leave/#/$none", "{}", 400, P)),
    ("PUT", "/_matrix/federation/v2/send_leave/{}/{}", 200,
        ("/_matrix/federation/v2/send_leave/#/$none", "{}", 400, P)),
    ("PUT", "~/3pid/onbind", 403, ("~/3pid/onbind", "{}", 403, R)),
    ("PUT", "~/exchange_third_party_invite/{}", 403, ("~/exchange_third_party_invite/#", "{}", 403, R)),
    ("GET", "~/publicRooms", 200, ("~/publicRooms?limit=x", "", 400, P)),
    ("POST", "~/publicRooms", 200, ("~/publicRooms", "[", 400, J)),
    ("GET", "~/hierarchy/{}", 200, ("~/hierarchy/!none:a.example", "", 404, N)),
    ("GET", "~/query/directory", 200, ("~/query/directory?room_alias=x", "", 400, P)),
    ("GET", "~/query/profile", 200, ("~/query/profile?user_id=@nobody:a.example", "", 404, N)),
    ("GET", "~/openid/userinfo", 200, ("~/openid/userinfo?access_token=x", "", 401, "M_UNKNOWN_TOKEN")),
    ("GET", "~/user/devices/{}", 200, ("~/user/devices/@nurse:c.example", "", 404, N)),
    ("POST", "~/user/keys/claim", 200, ("~/user/keys/claim", "[", 400, J)),
    ("POST", "~/user/keys/query", 200, ("~/user/keys/query", "[", 400, J)),
    ("POST", "/_matrix/policy/v1/sign", 200, ("/_matrix/policy/v1/sign", "[]", 400, B)),
    ("GET", "~/media/download/{}", 200, ("~/media/download/none", "", 404, N)),
    ("GET", "~/media/thumbnail/{}", 200, ("~/media/thumbnail/none?width=8&height=8", "", 404, N)),
];

fn whole(path: &str) -> String {
    match path.strip_prefix('~') {
        Some(rest) => format!("/_matrix/federation/v1{rest}"),
        None => path.to_owned(),
    }
}

/// `{room_id}` and what stands for it in the list are the same.
fn nameless(path: &str) -> String {
    let part = |part: &str| match part.starts_with('{') {
        true => "{}".to_owned(),
        false => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn is_of(path: &str, template: &str) -> bool {
    let (path, template): (Vec<_>, Vec<_>) =
        (path.split('/').collect(), template.split('/').collect());
    path.len() == template.len()
        && path.iter().zip(&template).all(|(part, wanted)| *wanted == "{}" || part == wanted)
}

struct Play {
    town: Town,
    nurse: String,
    doctor: String,
    room: String,
}

impl Play {
    /// A room that both are in.
    async fn begin() -> Self {
        let town = Town::of(&["a.example", "b.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let doctor = town.desk(1).sign_up("doctor").await;
        let body = json!({
            "preset": "public_chat", "visibility": "public", "room_alias_name": "ward",
        });
        let room = town.desk(0).post("/v3/createRoom", &nurse, body).await.text("room_id");
        let path = format!("/v3/join/{room}?via=a.example");
        town.desk(1).post(&path, &doctor, json!({})).await.ok();
        Self { town, nurse, doctor, room }
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.town.ask(1, "a.example", method, &whole(path), body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    /// Sends a member event by the endpoint of version 1.
    async fn member_by_v1(&self, what: &str) {
        let room = &self.room;
        let path = format!("~/make_{what}/{room}/@doctor:b.example?ver=11");
        let made = self.ask("GET", &path, Value::Null).await;
        let mut event: CanonicalJsonObject = serde_json::from_value(made["event"].clone()).unwrap();
        let house = &self.town.desk(1).services.house;
        let rules: RoomVersionRules = RoomVersionId::V11.rules().unwrap();
        hash_and_sign_event("b.example", &house.signing_key, &mut event, &rules.redaction).unwrap();
        let id = reference_hash(&event, &rules).unwrap();
        let path = format!("~/send_{what}/{room}/${id}");
        let answer = self.ask("PUT", &path, serde_json::to_value(&event).unwrap()).await;
        assert_eq!(answer[0], 200, "{answer}");
        assert!(answer[1].is_object(), "{answer}");
    }
}

/// Everything that two hospitals do with each other.
async fn everything(play: &Play) {
    let Play { town, nurse, doctor, room } = play;
    let (a, b) = (town.desk(0), town.desk(1));
    // From now on `a.example` is asked about everything that is said.
    let named = a.get("/.well-known/matrix/policy_server", "").await.ok();
    let named = json!({ "via": "a.example", "public_keys": named["public_keys"] });
    a.call("PUT", &format!("/v3/rooms/{room}/state/m.room.policy"), nurse, named).await.ok();
    let to_b = appliance_model::ruma::server_name!("b.example");
    a.services.peers.drain(to_b).await.unwrap();
    let path = format!("/v3/rooms/{room}/send/m.room.message/1");
    let said = b.call("PUT", &path, doctor, json!({ "body": "hello" })).await.text("event_id");
    let to_a = appliance_model::ruma::server_name!("a.example");
    b.services.peers.drain(to_a).await.unwrap();
    for path in [
        "/_matrix/key/v2/server".to_owned(),
        "/_matrix/key/v2/query/b.example".to_owned(),
        "~/version".to_owned(),
        format!("~/event_auth/{room}/{said}"),
        format!("~/backfill/{room}?v={said}&limit=5"),
        format!("~/event/{said}"),
        format!("~/state/{room}?event_id={said}"),
        format!("~/state_ids/{room}?event_id={said}"),
        format!("~/timestamp_to_event/{room}?ts=0&dir=f"),
        "~/publicRooms".to_owned(),
        format!("~/hierarchy/{room}"),
        "~/query/directory?room_alias=%23ward:a.example".to_owned(),
        "~/query/profile?user_id=@nurse:a.example".to_owned(),
        "~/user/devices/@nurse:a.example".to_owned(),
    ] {
        play.ask("GET", &path, Value::Null).await;
    }
    let missing = json!({ "earliest_events": [], "latest_events": [said], "limit": 5 });
    play.ask("POST", &format!("~/get_missing_events/{room}"), missing).await;
    play.ask("POST", "~/publicRooms", json!({ "limit": 3 })).await;
    let keys = json!({ "device_keys": { "@nurse:a.example": [] } });
    play.ask("POST", "~/user/keys/query", keys).await;
    play.ask("POST", "~/user/keys/claim", json!({ "one_time_keys": {} })).await;
    play.ask("POST", "/_matrix/key/v2/query", json!({ "server_keys": { "b.example": {} } })).await;
    let path = "/v3/user/@nurse:a.example/openid/request_token";
    let token = a.post(path, nurse, json!({})).await.text("access_token");
    play.ask("GET", &format!("~/openid/userinfo?access_token={token}"), Value::Null).await;

    // Out by version 1, in again by version 1, out by version 2.
    play.member_by_v1("leave").await;
    play.member_by_v1("join").await;
    // An invite that is turned down, and a knock.
    let rule = json!([{ "type": "m.room.join_rules", "state_key": "",
        "content": { "join_rule": "knock" } }]);
    let other = a.post("/v3/createRoom", nurse, json!({ "initial_state": rule })).await;
    let other = other.text("room_id");
    let invite = json!({ "user_id": "@doctor:b.example" });
    a.post(&format!("/v3/rooms/{other}/invite"), nurse, invite).await.ok();
    b.post(&format!("/v3/rooms/{other}/leave"), doctor, json!({})).await.ok();
    b.post(&format!("/v3/knock/{other}?via=a.example"), doctor, json!({})).await.ok();
}

#[tokio::test]
async fn every_endpoint_of_the_specification_does_what_it_is_for() {
    let play = Play::begin().await;
    let (_, routes) = crate::peer_router(play.town.desk(0).services.clone());
    let served: BTreeSet<_> = routes
        .iter()
        .map(|route| (route.method.to_string(), nameless(route.path)))
        .filter(|(_, path)| !path.contains("/unstable/"))
        .collect();
    let listed: BTreeSet<_> =
        ENDPOINTS.iter().map(|line| (line.0.to_owned(), whole(line.1))).collect();
    let unlisted: Vec<_> = served.difference(&listed).collect();
    let unserved: Vec<_> = listed.difference(&served).collect();
    assert!(unserved.is_empty() && unlisted.is_empty(), "{unserved:?} {unlisted:?}");

    everything(&play).await;
    let rung = play.town.line.rung.lock().unwrap().clone();
    // Files have tests of their own, with bytes in them.
    for (method, path, good, _) in ENDPOINTS.iter().filter(|line| !line.1.contains("/media/")) {
        let path = whole(path);
        let of_it = rung.iter().filter(|(m, p, _)| m == method && is_of(p, &path));
        let statuses: BTreeSet<_> = of_it.map(|(_, _, status)| *status).collect();
        assert!(*good != 200 || statuses.contains(&200), "{method} {path}: {statuses:?}");
    }
}

#[tokio::test]
async fn every_endpoint_says_what_is_wrong() {
    let play = Play::begin().await;
    for (method, _, _, (path, body, status, errcode)) in ENDPOINTS {
        let path = whole(path).replace('#', &play.room);
        let request = play.town.signed(1, "a.example", method, &path, body);
        let (got, answer) = play.town.ring("a.example", request).await;
        let said = answer["errcode"].as_str().unwrap_or_default();
        assert_eq!((got, said), (*status, *errcode), "{method} {path}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|why| !why.is_empty()), "{path}: {answer}");
    }
}
