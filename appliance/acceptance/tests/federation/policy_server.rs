//! A room that a Wardstone looks after as its policy server, with another Wardstone and a Synapse in it: what
//! the clinical policy does not want is refused where it is said, and what comes in without having been asked
//! about is shown to nobody.

use std::process::Stdio;
use std::sync::Arc;

use appliance_acceptance::server::prepared;
use appliance_acceptance::wait::until;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::resident::Resident;
use crate::scenes::Scenes;
use crate::town::Town;

/// Where the room is looked after, where else one of its kind is, and the Synapse.
#[derive(Clone)]
struct Three {
    town: Town,
    nurse: Arc<Resident>,
    doctor: Arc<Resident>,
    visitor: Arc<Resident>,
    room: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_with_a_policy_server() {
    let town = Town::found();
    let (lease, allow) = (["--media", "lease"], ["--media", "allow"]);
    let [home, guest, other] = town.open_three(&lease, &allow).await;
    let nurse = Arc::new(home.hire("nurse").await);
    let doctor = Arc::new(guest.hire("doctor").await);
    let visitor = Arc::new(other.hire("visitor").await);
    let room = guarded(&nurse, [&doctor, &visitor]).await;
    let three = Three { town, nurse, doctor, visitor, room };
    let mut scenes = Scenes::default();
    scenes.play("all speak in a guarded room", speak(three.clone())).await;
    scenes.play("a Synapse's image is refused", image(three.clone())).await;
    scenes.play("an unsigned event is soft-failed", unsigned(three.clone())).await;
    scenes.play("the policy server is away", away(three.clone())).await;
    scenes.play("the policy server is taken off", taken_off(three.clone())).await;
    scenes.end();
}

/// As a client does it: ask for the key, set the state.
async fn guarded(nurse: &Resident, others: [&Arc<Resident>; 2]) -> String {
    let class = json!({ "type": "io.wardstone.policy", "content": { "class": "clinical-shared" } });
    let room = nurse.create_room("11", json!({ "initial_state": [class] })).await;
    let http = nurse.hospital.http();
    let path = "/.well-known/matrix/policy_server";
    let named = http.call(Method::GET, path, None, None).await.expect("an answer").ok();
    let content = json!({ "via": nurse.hospital.name, "public_keys": named["public_keys"] });
    nurse.set(&room, "m.room.policy", "", content).await;
    for other in others {
        nurse.bring(&room, other).await;
    }
    room
}

async fn speak(three: Three) {
    let Three { nurse, doctor, visitor, room, .. } = &three;
    for speaker in [nurse, doctor, visitor] {
        let said = speaker.say(room, "hello").await;
        for hearer in [nurse, doctor, visitor] {
            hearer.wait_event(room, &said).await;
        }
    }
    // State, too, from everybody who may set it.
    visitor.post(&format!("/v3/rooms/{room}/leave"), json!({})).await;
    nurse.wait_is(room, visitor, "leave").await;
    nurse.act("invite", room, visitor).await;
    visitor.accept(room).await;
    for hearer in [nurse, doctor] {
        hearer.wait_is(room, visitor, "join").await;
    }
}

fn photo(of: &Resident) -> Value {
    let url = format!("mxc://{}/abcdefghijklmnopqrstuvwx", of.hospital.name);
    json!({ "msgtype": "m.image", "body": "wound.png", "url": url })
}

async fn image(three: Three) {
    let Three { nurse, doctor, visitor, room, .. } = &three;
    let path = format!("/v3/rooms/{room}/send/m.room.message/image");
    let answer = visitor.call(Method::PUT, &path, Some(photo(visitor))).await;
    assert_eq!(answer.status, 400, "{}", answer.summary());
    assert_eq!(answer.errcode().as_deref(), Some("M_FORBIDDEN"));
    let why = answer.json()["error"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("takes no files from servers that keep them"), "{why}");
    // The same in the mouth of somebody of the other Wardstone, and their own instead.
    let path = format!("/v3/rooms/{room}/send/m.room.message/forward");
    let answer = doctor.call(Method::PUT, &path, Some(photo(visitor))).await;
    assert_eq!(answer.status, 400, "{}", answer.summary());
    let own = doctor.send(room, "m.room.message", photo(doctor)).await;
    nurse.wait_event(room, &own).await;
    let after = visitor.say(room, "only words, then").await;
    for hearer in [nurse, doctor] {
        hearer.wait_event(room, &after).await;
    }
}

/// An event of the Synapse's user, sent to a Wardstone by hand.
async fn raw_event(three: &Three, to: &Resident, content: Value) -> String {
    let Three { town, visitor, room, .. } = three;
    let state = to.get(&format!("/v3/rooms/{room}/state")).await;
    let of = |kind: &str, key: &str| {
        let mut events = state.as_array().expect("a list").iter();
        let event = events.find(|event| event["type"] == kind && event["state_key"] == key);
        event.expect("a state event")["event_id"].clone()
    };
    let newest = to.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=1")).await;
    let event = json!({
        "auth_events": [of("m.room.create", ""), of("m.room.power_levels", ""),
            of("m.room.member", &visitor.user_id)],
        "prev_events": [newest["chunk"][0]["event_id"]],
        "content": content, "depth": 100, "origin_server_ts": 1_795_000_000_000_u64,
        "room_id": room, "sender": visitor.user_id, "type": "m.room.message",
    });
    let mut script = Command::new(prepared("synapse/bin/python"))
        // Beside the script lies one that is called as Synapse's package is.
        .arg("-P")
        .arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("py/raw_event.py"))
        .args(["--name", &visitor.hospital.name, "--to", &to.hospital.name, "--version", "11"])
        .arg("--key")
        .arg(visitor.hospital.scratch().join("synapse/signing.key"))
        .arg("--ca")
        .arg(town.authority())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start Synapse's Python");
    let mut input = script.stdin.take().expect("a pipe");
    input.write_all(event.to_string().as_bytes()).await.expect("the event goes in");
    drop(input);
    let output = script.wait_with_output().await.expect("it ends");
    assert!(output.status.success(), "raw_event.py failed");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let event_id = said["event_id"].as_str().expect("an ID").to_owned();
    assert_eq!(said["answer"]["pdus"][&event_id], json!({}), "{said}");
    event_id
}

async fn unsigned(three: Three) {
    let Three { nurse, doctor, visitor, room, .. } = &three;
    for to in [nurse, doctor] {
        let hidden = raw_event(&three, to, photo(visitor)).await;
        let content = json!({ "msgtype": "m.text", "body": "nobody was asked about this" });
        // What the policy server would have signed, it signs now.
        let shown = raw_event(&three, to, content).await;
        to.wait_event(room, &shown).await;
        assert!(to.find_event(room, &hidden).await.is_none(), "at {}", to.hospital.name);
        let page = to.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=50")).await;
        assert!(!page.to_string().contains(&hidden), "{page}");
        let sync = to.get("/v3/sync").await;
        assert!(!sync.to_string().contains(&hidden), "{sync}");
    }
}

async fn away(three: Three) {
    let Three { nurse, doctor, visitor, room, .. } = &three;
    nurse.hospital.kill().await;
    for (who, status) in [(doctor, 502), (visitor, 403)] {
        let path = format!("/v3/rooms/{room}/send/m.room.message/away");
        let body = json!({ "msgtype": "m.text", "body": "is anybody there?" });
        let answer = who.call(Method::PUT, &path, Some(body)).await;
        // What a Synapse says then is its own business, as long as it is no.
        let is_no = answer.status.as_u16() == status || who.user_id == visitor.user_id;
        assert!(is_no && !answer.status.is_success(), "{}", answer.summary());
        if who.user_id == doctor.user_id {
            assert!(answer.summary().contains(&nurse.hospital.name), "{}", answer.summary());
        }
    }
    nurse.hospital.start_again().await;
    for who in [doctor, visitor] {
        let number = until("the room to speak again", async || {
            let path = format!("/v3/rooms/{room}/send/m.room.message/back");
            let body = json!({ "msgtype": "m.text", "body": "there you are" });
            let answer = who.call(Method::PUT, &path, Some(body)).await;
            answer.status.is_success().then(|| answer.json()["event_id"].clone())
        })
        .await;
        nurse.wait_event(room, number.as_str().expect("an ID")).await;
    }
}

async fn taken_off(three: Three) {
    let Three { nurse, doctor, visitor, room, .. } = &three;
    nurse.set(room, "m.room.policy", "", json!({})).await;
    until("the Synapse to know", async || {
        let state = visitor.state(room, "m.room.policy", "").await?;
        (state == json!({})).then_some(())
    })
    .await;
    let shown = visitor.send(room, "m.room.message", photo(visitor)).await;
    for hearer in [nurse, doctor] {
        hearer.wait_event(room, &shown).await;
    }
}
