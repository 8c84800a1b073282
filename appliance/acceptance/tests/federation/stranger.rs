//! A Synapse that is not on the list: refused everywhere, never contacted, in no room of ours. And a
//! peer that is suspended: nothing goes either way until it is resumed.

use std::sync::Arc;

use appliance_acceptance::wait::until;
use http::Method;
use serde_json::{Value, json};

use crate::resident::{Resident, a_photo};
use crate::rooms::{Host, Pair};
use crate::scenes::Scenes;
use crate::town::{Kind, Town};

/// The pair, and somebody at the Synapse off the list.
#[derive(Clone)]
struct Three {
    pair: Pair,
    stranger: Arc<Resident>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synapse_off_the_list() {
    let town = Town::found();
    let ((ours, theirs), other) = tokio::join!(town.open_both(), town.open(Kind::Synapse));
    let three = Three {
        pair: Pair {
            nurse: Arc::new(ours.hire("nurse").await),
            doctor: Arc::new(theirs.hire("doctor").await),
        },
        stranger: Arc::new(other.hire("stranger").await),
    };
    let mut scenes = Scenes::default();
    scenes.play("what the stranger asks is refused", refused(three.clone())).await;
    scenes.play("nobody of ours reaches the stranger", unreached(three.clone())).await;
    scenes.play("a room with a stranger is not entered", not_entered(three.clone())).await;
    scenes.play("a stranger's history stays outside", outside(three.clone())).await;
    scenes.play("the stranger was never contacted", never_contacted(three.clone())).await;
    scenes.play("a peer is suspended and resumed", suspended(three.pair.clone())).await;
    scenes.end();
}

async fn refused(three: Three) {
    let (nurse, stranger) = (&three.pair.nurse, &three.stranger);
    let ours = &nurse.hospital.name;
    let more = json!({
        "preset": "public_chat", "visibility": "public", "room_alias_name": "open",
    });
    let room_id = nurse.create_room("11", more).await;
    let uri = nurse.upload("image/png", a_photo()).await;
    let place = uri.strip_prefix("mxc://").expect("an mxc URI");
    let requests = [
        (Method::POST, format!("/v3/join/{room_id}?via={ours}&server_name={ours}"), json!({})),
        (Method::POST, format!("/v3/knock/{room_id}?via={ours}&server_name={ours}"), json!({})),
        (Method::POST, format!("/v3/join/%23open:{ours}"), json!({})),
        (Method::GET, format!("/v3/directory/room/%23open:{ours}"), Value::Null),
        (Method::GET, format!("/v3/publicRooms?server={ours}"), Value::Null),
        (Method::GET, format!("/v3/profile/{}", nurse.user_id), Value::Null),
        (Method::GET, format!("/v1/media/download/{place}"), Value::Null),
        (Method::GET, format!("/v1/media/thumbnail/{place}?width=32&height=32"), Value::Null),
        (Method::GET, format!("/v1/rooms/{room_id}/hierarchy"), Value::Null),
    ];
    for (method, path, body) in requests {
        let body = Some(body).filter(|body| !body.is_null());
        let answer = stranger.call(method, &path, body).await;
        assert!(!answer.status.is_success(), "{path}: {}", answer.summary());
    }
    let own = stranger.create_room("11", json!({})).await;
    let body = json!({ "user_id": nurse.user_id });
    let answer = stranger.call(Method::POST, &format!("/v3/rooms/{own}/invite"), Some(body)).await;
    assert!(!answer.status.is_success(), "{}", answer.summary());
    let body = json!({ "device_keys": { (nurse.user_id.clone()): [] } });
    let keys = stranger.post("/v3/keys/query", body).await;
    assert!(keys["device_keys"][&nurse.user_id].is_null(), "{keys}");
    let sync = nurse.get("/v3/sync").await;
    assert!(sync["rooms"]["invite"].get(&own).is_none(), "{sync}");
}

async fn unreached(three: Three) {
    let (nurse, stranger) = (&three.pair.nurse, &three.stranger);
    let theirs = &stranger.hospital.name;
    let more = json!({
        "preset": "public_chat", "visibility": "public", "room_alias_name": "theirs",
    });
    let room_id = stranger.create_room("11", more).await;
    let own = nurse.create_room("11", json!({})).await;
    let invite = json!({ "user_id": stranger.user_id });
    let requests = [
        (Method::POST, format!("/v3/join/{room_id}?via={theirs}&server_name={theirs}"), json!({})),
        (Method::POST, format!("/v3/join/%23theirs:{theirs}"), json!({})),
        (Method::GET, format!("/v3/directory/room/%23theirs:{theirs}"), Value::Null),
        (Method::GET, format!("/v3/publicRooms?server={theirs}"), Value::Null),
        (Method::GET, format!("/v3/profile/{}", stranger.user_id), Value::Null),
        (Method::GET, format!("/v1/media/download/{theirs}/abcdefgh"), Value::Null),
        (Method::GET, format!("/v1/rooms/{room_id}/hierarchy"), Value::Null),
        (Method::POST, format!("/v3/rooms/{own}/invite"), invite.clone()),
    ];
    for (method, path, body) in requests {
        let body = Some(body).filter(|body| !body.is_null());
        let answer = nurse.call(method, &path, body).await;
        assert!(!answer.status.is_success(), "{path}: {}", answer.summary());
        assert!(answer.errcode().is_some(), "{path}: {}", answer.summary());
    }
    let body = json!({ "device_keys": { (stranger.user_id.clone()): [] } });
    let keys = nurse.post("/v3/keys/query", body).await;
    assert!(keys["device_keys"][&stranger.user_id].is_null(), "{keys}");
    let to = json!({ "messages": { (stranger.user_id.clone()): { "*": { "secret": 1 } } } });
    nurse.put("/v3/sendToDevice/m.example/t1", to).await;
}

async fn not_entered(three: Three) {
    let Three { pair: Pair { nurse, doctor }, stranger } = &three;
    let room_id = doctor.create_room("11", json!({ "preset": "public_chat" })).await;
    stranger.join(&room_id, &doctor.hospital).await;
    doctor.wait_is(&room_id, stranger, "join").await;
    let there = &doctor.hospital.name;
    let path = format!("/v3/join/{room_id}?via={there}&server_name={there}");
    let answer = nurse.call(Method::POST, &path, Some(json!({}))).await;
    assert_eq!(answer.status, 403, "{}", answer.summary());
    assert!(answer.summary().contains(&stranger.hospital.name), "{}", answer.summary());
    // And is out again where the peer let us in.
    until("the nurse is out", async || {
        let now = doctor.membership_of(&room_id, nurse).await;
        (now.as_deref() != Some("join")).then_some(())
    })
    .await;
    let joined = nurse.get("/v3/joined_rooms").await;
    assert!(!joined.to_string().contains(&room_id), "{joined}");
}

async fn outside(three: Three) {
    let Three { pair: Pair { nurse, doctor }, stranger } = &three;
    let room_id = doctor.create_room("11", json!({ "preset": "public_chat" })).await;
    nurse.join(&room_id, &doctor.hospital).await;
    doctor.wait_is(&room_id, nurse, "join").await;
    // The peer's server lets the stranger in: it has a list of its own.
    stranger.join(&room_id, &doctor.hospital).await;
    doctor.wait_is(&room_id, stranger, "join").await;
    let said = stranger.say(&room_id, "let me in").await;
    doctor.wait_event(&room_id, &said).await;
    let after = doctor.say(&room_id, "do you hear me?").await;
    nurse.wait_event(&room_id, &after).await;
    assert!(nurse.find_event(&room_id, &said).await.is_none(), "the stranger was heard");
    assert_ne!(nurse.membership_of(&room_id, stranger).await.as_deref(), Some("join"));
    let answer = nurse.call(Method::GET, &format!("/v3/rooms/{room_id}/event/{said}"), None).await;
    assert_eq!(answer.status, 404, "{}", answer.summary());
}

async fn never_contacted(three: Three) {
    let Three { pair: Pair { nurse, .. }, stranger } = &three;
    let (ours, theirs) = (&nurse.hospital.name, &stranger.hospital.name);
    let log = stranger.hospital.log();
    assert!(log.contains("synapse.access.https"), "the stranger writes no access log");
    let signed = format!("{{{ours}}}");
    let came: Vec<_> =
        log.lines().filter(|l| l.contains("\"Wardstone/") || l.contains(&signed)).collect();
    assert!(came.is_empty(), "{came:?}");
    let seen = nurse.hospital.order(&["egress", "list"]).await;
    for destination in seen["destinations"].as_array().expect("a list") {
        if destination.to_string().contains(theirs) {
            assert_eq!(destination["connected"], 0, "{destination}");
        }
    }
}

async fn suspended(pair: Pair) {
    let (nurse, doctor) = (&pair.nurse, &pair.doctor);
    let room_id = pair.room(Host::Wardstone, "11").await;
    let uri = nurse.upload("image/png", a_photo()).await;
    let peer = doctor.hospital.name.as_str();
    let stopped = nurse.hospital.order(&["peers", "suspend", peer]).await;
    assert_eq!(stopped["state"], "suspended", "{stopped}");
    let rooms = stopped["rooms"].as_array().expect("a list");
    assert!(rooms.contains(&json!(room_id)), "{stopped}");

    let ours = nurse.say(&room_id, "is this still private?").await;
    let theirs = doctor.say(&room_id, "hello?").await;
    let place = uri.strip_prefix("mxc://").expect("an mxc URI");
    let file = doctor.call(Method::GET, &format!("/v1/media/download/{place}"), None).await;
    assert!(!file.status.is_success(), "{}", file.summary());
    let body = json!({ "user_id": doctor.user_id });
    let other = nurse.create_room("11", json!({})).await;
    let answer = nurse.call(Method::POST, &format!("/v3/rooms/{other}/invite"), Some(body)).await;
    assert_eq!(answer.status, 403, "{}", answer.summary());
    // Long enough for several attempts of the peer.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert!(nurse.find_event(&room_id, &theirs).await.is_none(), "a suspended peer was heard");
    assert!(doctor.find_event(&room_id, &ours).await.is_none(), "a suspended peer was told");

    let resumed = nurse.hospital.order(&["peers", "resume", peer]).await;
    assert_eq!(resumed["state"], "active", "{resumed}");
    nurse.wait_event(&room_id, &theirs).await;
    doctor.wait_event(&room_id, &ours).await;
    let again = doctor.say(&room_id, "there you are").await;
    nurse.wait_event(&room_id, &again).await;
}
