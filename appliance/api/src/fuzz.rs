//! Fuzz targets at the front desk: whatever is sent, the answer is an answer, and no server error. See
//! [`appliance_model::scenario::fuzz`].

#![cfg(test)]

use appliance_model::scenario::fuzz::Inputs;
use http::Request;
use http::header::{AUTHORIZATION, HeaderValue, RANGE};
use serde_json::{Value, json};

use crate::client::media::range::range_for_tests;
use crate::scenario::Desk;
use crate::town::Town;

fn inputs(target: &'static str, seeds: &[&str]) -> Inputs {
    let seeds: Vec<_> = seeds.iter().map(|seed| seed.as_bytes()).collect();
    Inputs::of(target, env!("CARGO_MANIFEST_DIR"), &seeds)
}

/// A nurse and a doctor in a room with a message.
struct Scene {
    desk: Desk,
    nurse: String,
    doctor: String,
    room: String,
}

impl Scene {
    async fn new() -> Self {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let body = json!({ "preset": "public_chat" });
        let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
        desk.post(&format!("/v3/join/{room}"), &doctor, json!({})).await.ok();
        let scene = Self { desk, nurse, doctor, room };
        scene.say("first").await;
        scene
    }

    async fn say(&self, txn: &str) {
        let path = format!("/v3/rooms/{}/send/m.room.message/{txn}", self.room);
        let body = json!({ "msgtype": "m.text", "body": "Bed 4 is free, Nurse" });
        self.desk.call("PUT", &path, &self.doctor, body).await.ok();
    }

    async fn takes(&self, method: &str, path: &str, body: String) -> u16 {
        let answer = self.desk.call_raw(method, path, &self.nurse, body).await;
        assert!(answer.status < 500, "{method} {path}: {answer:?}");
        answer.status
    }
}

/// As a query or a part of a path carries it, cut to what an address can have: 64 KiB, for eight tokens.
fn escaped(text: &str) -> String {
    let text: String = text.chars().take(2_000).collect();
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[tokio::test]
async fn fuzz_sync_filter() {
    let scene = Scene::new().await;
    let mut inputs = inputs(
        "sync-filter",
        &[
            r#"{"room":{"timeline":{"limit":5,"types":["m.room.*"],"not_senders":["@x:y"]}}}"#,
            r#"{"room":{"state":{"lazy_load_members":true},"rooms":["!a:b"],"include_leave":true}}"#,
            r#"{"event_format":"federation","presence":{"not_types":["*"]},"account_data":{"limit":0}}"#,
        ],
    );
    while let Some(filter) = inputs.next_text() {
        let path = format!("/v3/sync?filter={}", escaped(&filter));
        scene.takes("GET", &path, String::new()).await;
        let path = "/v3/user/@nurse:hospital.example/filter";
        scene.takes("POST", path, filter).await;
    }
}

#[tokio::test]
async fn fuzz_sliding_sync() {
    let scene = Scene::new().await;
    let mut inputs = inputs(
        "sliding-sync",
        &[
            r#"{"conn_id":"a","lists":{"all":{"ranges":[[0,20]],"required_state":[["m.room.member","$LAZY"],["*","*"]],"timeline_limit":3,"filters":{"is_dm":false,"spaces":["!a:b"],"room_types":[null]}}},"extensions":{"e2ee":{"enabled":true},"to_device":{"enabled":true,"limit":5},"typing":{"enabled":true,"lists":["*"]}}}"#,
            r#"{"lists":{"all":{"range":[0,9],"required_state":{"include":[{"type":"m.room.name"}],"lazy_members":true},"timeline_limit":1}},"room_subscriptions":{"!a:b":{"timeline_limit":5}},"pos":"p1_1_1","timeout":0}"#,
        ],
    );
    while let Some(body) = inputs.next_text() {
        for path in ["/unstable/org.matrix.simplified_msc3575/sync", "/v4/sync"] {
            // A timeout in the body must not hold up the test.
            if !body.contains("timeout\":1") {
                scene.takes("POST", path, body.clone()).await;
            }
        }
    }
}

/// What is taken can be read again, in all the forms in which events are shown.
#[tokio::test]
async fn fuzz_send_content() {
    let scene = Scene::new().await;
    let mut inputs = inputs(
        "send-content",
        &[
            r#"{"msgtype":"m.text","body":"hello","m.mentions":{"user_ids":["@a:b"]}}"#,
            r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$x","m.in_reply_to":{"event_id":"$y"}}}"#,
            r#"{"url":"mxc://hospital.example/AbC","info":{"thumbnail_url":"mxc://a/b","w":1}}"#,
            r#"{"membership":"join","displayname":"x","a":[1,2,{"b":-9007199254740991}]}"#,
        ],
    );
    let mut number = 0;
    while let Some(body) = inputs.next_text() {
        number += 1;
        for (kind, key) in [("send", "m.room.message"), ("state", "m.room.topic")] {
            let end = if kind == "send" { format!("/{number}") } else { String::new() };
            let path = format!("/v3/rooms/{}/{kind}/{key}{end}", scene.room);
            let answer = scene.desk.call_raw("PUT", &path, &scene.nurse, body.clone()).await;
            assert!(answer.status < 500, "{answer:?}");
            if answer.status == 200 {
                let event_id = answer.text("event_id");
                let path = format!("/v3/rooms/{}/event/{event_id}", scene.room);
                let shown = scene.desk.get(&path, &scene.nurse).await.ok();
                // A body that is left out is an empty one.
                let sent = if body.is_empty() { "{}" } else { &body };
                let sent: Value = serde_json::from_str(sent).unwrap();
                assert_eq!(shown["content"], sent, "{body}");
            }
        }
    }
    assert_eq!(scene.takes("GET", "/v3/sync", String::new()).await, 200);
}

#[test]
fn fuzz_range_header() {
    let seeds = ["bytes=0-499", "bytes=-500", "bytes=9-", "bytes=0-0,-1", "items=1-2"];
    let mut inputs = inputs("range-header", &seeds);
    while let Some(input) = inputs.next() {
        let Ok(value) = HeaderValue::from_bytes(input) else { continue };
        let headers = [(RANGE, value)].into_iter().collect();
        for bytes in [0, 1, 500, u64::MAX] {
            if let Some((from, to)) = range_for_tests(&headers, bytes) {
                assert!(from <= to && to <= bytes, "{from} {to} of {bytes}");
            }
        }
    }
}

#[tokio::test]
async fn fuzz_search() {
    let scene = Scene::new().await;
    let mut inputs = inputs(
        "search",
        &[
            "bed free",
            "\"bed 4\" AND -nurse* OR body:bed^3 ~2 [a TO z]",
            r#"{"search_categories":{"room_events":{"search_term":"bed","order_by":"recent","filter":{"limit":3},"event_context":{"before_limit":1,"include_profile":true},"groupings":{"group_by":[{"key":"room_id"}]}}}}"#,
        ],
    );
    while let Some(input) = inputs.next_text() {
        let whole = input.starts_with('{');
        let words = json!({ "search_categories": { "room_events": { "search_term": input } } });
        scene.takes("POST", "/v3/search", words.to_string()).await;
        let people = json!({ "search_term": input });
        scene.takes("POST", "/v3/user_directory/search", people.to_string()).await;
        if whole {
            scene.takes("POST", "/v3/search", input).await;
        }
    }
}

#[tokio::test]
async fn fuzz_tokens() {
    let scene = Scene::new().await;
    let mut inputs =
        inputs("tokens", &["s17", "s17_3_9", "t-4", "t12", "p9_1_1f", "n1_2", "12345"]);
    while let Some(token) = inputs.next_text() {
        let (token, room) = (escaped(&token), &scene.room);
        for path in [
            format!("/v3/sync?since={token}"),
            format!("/v3/events?from={token}"),
            format!("/v3/rooms/{room}/messages?dir=b&from={token}&to={token}"),
            format!("/v1/rooms/{room}/threads?from={token}"),
            format!("/v1/rooms/{room}/hierarchy?from={token}"),
            format!("/v3/keys/changes?from={token}&to={token}"),
            format!("/v3/notifications?from={token}"),
            format!("/v3/publicRooms?since={token}"),
        ] {
            scene.takes("GET", &path, String::new()).await;
        }
    }
}

/// Rules that are taken are held against a message.
#[tokio::test]
async fn fuzz_push_rules() {
    let scene = Scene::new().await;
    let mut inputs = inputs(
        "push-rules",
        &[
            r#"{"actions":["notify",{"set_tweak":"sound","value":"x"}],"conditions":[{"kind":"event_match","key":"content.body","pattern":"*be?*"}]}"#,
            r#"{"actions":[],"conditions":[{"kind":"room_member_count","is":">=2"},{"kind":"contains_display_name"},{"kind":"sender_notification_permission","key":"room"}]}"#,
            r#"{"actions":["notify"],"conditions":[{"kind":"event_property_is","key":"content.m\\.x","value":1},{"kind":"event_property_contains","key":"a.b","value":null}]}"#,
            r#"{"actions":["notify"],"pattern":"n?rse*"}"#,
        ],
    );
    let mut number = 0;
    while let Some(body) = inputs.next_text() {
        number += 1;
        let kind = if body.contains("\"pattern\":") { "content" } else { "override" };
        let path = format!("/v3/pushrules/global/{kind}/rule");
        if scene.takes("PUT", &path, body).await == 200 {
            scene.say(&format!("rule{number}")).await;
            let filter = escaped(r#"{"room":{"timeline":{"limit":1}}}"#);
            let path = format!("/v3/sync?filter={filter}");
            scene.takes("GET", &path, String::new()).await;
        }
    }
}

#[tokio::test]
async fn fuzz_names() {
    let scene = Scene::new().await;
    let mut inputs = inputs(
        "names",
        &[
            "@nurse:hospital.example",
            "!room:hospital.example",
            "#ward:hospital.example:8448",
            "$event",
            "@a:[2001:db8::1]:8448",
            "mxc://hospital.example/AbC",
        ],
    );
    while let Some(name) = inputs.next_text() {
        let escaped = escaped(&name);
        for path in [
            format!("/v3/profile/{escaped}"),
            format!("/v3/rooms/{escaped}/state"),
            format!("/v3/directory/room/{escaped}"),
            format!("/v3/rooms/{}/event/{escaped}", scene.room),
            format!("/v1/room_summary/{escaped}"),
            format!("/v1/media/download/{escaped}/AbC?timeout_ms=0"),
            format!("/v1/media/download/hospital.example/{escaped}?timeout_ms=0"),
            format!("/v1/mutual_rooms?user_id={escaped}"),
        ] {
            let answer = scene.desk.get(&path, &scene.nurse).await;
            // Another server that does not answer is no trouble of this one.
            assert!(answer.status < 500 || answer.status == 502, "{path}: {answer:?}");
        }
        let invite = json!({ "user_id": name }).to_string();
        let path = format!("/v3/rooms/{}/invite", scene.room);
        let answer = scene.desk.call_raw("POST", &path, &scene.nurse, invite).await;
        assert!(answer.status < 500 || answer.status == 502, "{answer:?}");
    }
}

#[tokio::test]
async fn fuzz_keys() {
    let scene = Scene::new().await;
    let mut inputs = inputs(
        "keys",
        &[
            r#"{"device_keys":{"user_id":"@nurse:hospital.example","device_id":"PHONE","algorithms":["m.olm"],"keys":{"ed25519:PHONE":"AAAA"},"signatures":{"@nurse:hospital.example":{"ed25519:PHONE":"AAAA"}}}}"#,
            r#"{"one_time_keys":{"signed_curve25519:AAAA":{"key":"AAAA","fallback":true,"signatures":{}}},"fallback_keys":{}}"#,
            r#"{"master_key":{"user_id":"@nurse:hospital.example","usage":["master"],"keys":{"ed25519:AA":"AA"}}}"#,
            r#"{"device_keys":{"@doctor:hospital.example":[]},"timeout":1}"#,
            r#"{"messages":{"@doctor:hospital.example":{"*":{"a":1}}}}"#,
        ],
    );
    let mut number = 0;
    while let Some(body) = inputs.next_text() {
        number += 1;
        for path in ["/v3/keys/upload", "/v3/keys/query", "/v3/keys/signatures/upload"] {
            scene.takes("POST", path, body.clone()).await;
        }
        let path = "/v3/keys/device_signing/upload";
        scene.takes("POST", path, body.clone()).await;
        let path = format!("/v3/sendToDevice/m.test/{number}");
        scene.takes("PUT", &path, body).await;
    }
}

#[tokio::test]
async fn fuzz_x_matrix_header() {
    let town = Town::of(&["a.example", "b.example"]).await;
    let mut inputs = inputs(
        "x-matrix",
        &[
            r#"X-Matrix origin="a.example",destination="b.example",key="ed25519:a_1",sig="AAAA""#,
            r#"X-Matrix origin=a.example,key=ed25519:a_1,sig=AAAA"#,
            "X-Matrix origin=\"a.ex\\\"ample\" , sig=\"=\"",
        ],
    );
    while let Some(input) = inputs.next() {
        let Ok(value) = HeaderValue::from_bytes(input) else { continue };
        let request = Request::get("/_matrix/federation/v1/query/profile?user_id=@a:b.example");
        let request = request.header(AUTHORIZATION, value).body(String::new().into()).unwrap();
        let (status, answer) = town.ring("b.example", request).await;
        assert!(matches!(status, 400..500), "{status} {answer}");
    }
}

#[tokio::test]
async fn fuzz_transaction() {
    let town = Town::of(&["a.example", "b.example"]).await;
    let mut inputs = inputs(
        "transaction",
        &[
            r#"{"origin":"a.example","origin_server_ts":1,"pdus":[{"type":"m.room.message","room_id":"!a:b.example","sender":"@a:a.example","content":{},"depth":1,"prev_events":["$x"],"auth_events":[],"hashes":{"sha256":"AA"},"signatures":{"a.example":{"ed25519:a_1":"AA"}},"origin_server_ts":1}],"edus":[]}"#,
            r#"{"origin":"a.example","origin_server_ts":1,"pdus":[],"edus":[{"edu_type":"m.typing","content":{"room_id":"!a:b","user_id":"@a:a.example","typing":true}},{"edu_type":"m.receipt","content":{"!a:b":{"m.read":{"@a:a.example":{"event_ids":["$x"],"data":{"ts":1}}}}}}]}"#,
            r#"{"origin":"a.example","origin_server_ts":1,"pdus":[],"edus":[{"edu_type":"m.device_list_update","content":{"user_id":"@a:a.example","device_id":"X","stream_id":5,"prev_id":[4]}},{"edu_type":"m.direct_to_device","content":{"sender":"@a:a.example","type":"m.x","message_id":"1","messages":{"@b:b.example":{"*":{}}}}},{"edu_type":"m.presence","content":{"push":[{"user_id":"@a:a.example","presence":"online","last_active_ago":1}]}},{"edu_type":"m.signing_key_update","content":{"user_id":"@a:a.example"}}]}"#,
        ],
    );
    let mut number = 0;
    while let Some(body) = inputs.next_text() {
        number += 1;
        let path = format!("/_matrix/federation/v1/send/{number}");
        let request = town.signed(0, "b.example", "PUT", &path, &body);
        let (status, answer) = town.ring("b.example", request).await;
        assert!(status < 500, "{status} {answer}");
    }
    let (status, _) = town.ask(0, "b.example", "GET", "/version", Value::Null).await;
    assert_eq!(status, 200, "it still answers");
}

/// What an app says of itself, and what it sends its user to the sign-in page with: nobody is sent where no
/// registered app is at home.
#[tokio::test]
async fn fuzz_apps_that_sign_people_in() {
    let oauth = appliance_services::accounts::OAuthOptions {
        sign_in_url: "https://login.hospital.example".to_owned(),
        api_url: "https://matrix.hospital.example".to_owned(),
        app_hosts: Vec::new(),
    };
    let options =
        appliance_services::Options { oauth: Some(oauth), ..crate::scenario::open_house() };
    let desk = Desk::with(options).await;
    let page = crate::sign_in(desk.services.clone());
    let path = "/_matrix/client/unstable/io.wardstone/oauth";
    let app = r#"{"client_name":"a","client_uri":"https://b.example/","application_type":"native","redirect_uris":["example.b:/","http://[::1]/x","https://c.b.example:8443/?y=z"],"response_types":["code"],"grant_types":["authorization_code","refresh_token"],"token_endpoint_auth_method":"none","tos_uri":"https://b.example/t"}"#;
    let registered = desk.call_raw("POST", &format!("{path}/register"), "", app.to_owned()).await;
    let client_id = registered.text("client_id");
    let query = format!(
        "client_id={client_id}&redirect_uri=http%3A%2F%2F%5B%3A%3A1%5D%3A1%2Fx&response_type=code&response_mode=\
         fragment&state=s&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256\
         &scope=urn%3Amatrix%3Aclient%3Aapi%3A%2A+urn%3Amatrix%3Aclient%3Adevice%3AX"
    );
    let mut inputs =
        inputs("apps", &[app, &query, "grant_type=refresh_token&refresh_token=x&client_id=y"]);
    while let Some(input) = inputs.next_text() {
        for endpoint in ["register", "token", "revoke"] {
            let answer =
                desk.call_raw("POST", &format!("{path}/{endpoint}"), "", input.clone()).await;
            assert!(answer.status < 500, "{endpoint}: {answer:?}");
            // Whatever is registered is on the app's own host, on the machine itself, or a scheme with a dot.
            let uris = answer.json["redirect_uris"].as_array().cloned().unwrap_or_default();
            for uri in uris.iter().filter_map(Value::as_str) {
                let (scheme, _) = uri.split_once(':').unwrap();
                assert!(scheme.contains('.') || scheme.to_lowercase().starts_with("http"), "{uri}");
            }
        }
        let request = Request::post("/authorize/app").header("x-wardstone-page", "1");
        let request = request.body(axum::body::Body::from(input.clone())).unwrap();
        let answer = tower::ServiceExt::oneshot(page.clone(), request).await.unwrap();
        assert!(answer.status().as_u16() < 500);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        if let Some(back) = answer["back"].as_str() {
            let homes = ["example.b:/", "http://[::1]", "https://c.b.example:8443/?y=z"];
            assert!(homes.iter().any(|home| back.starts_with(home)), "{back}");
        }
    }
}
