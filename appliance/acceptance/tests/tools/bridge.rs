//! A small bridge, played by mautrix, and the people it meets.

use appliance_acceptance::device::{Process, Sdk};
use appliance_acceptance::server::{Kind, Options, SERVER_NAME, Server, free_port};
use http::Method;
use serde_json::{Value, json};

const AS_TOKEN: &str = "planted-as-token-52c1";
const HS_TOKEN: &str = "planted-hs-token-77ab";

/// What the bridge is asked, and what it answers.
struct Bridge(Process);

impl Bridge {
    async fn asks(&mut self, name: &str, given: Value) -> Value {
        self.0.command(name, given).await.expect("the bridge does as it is asked")
    }
}

async fn open() -> (Server, Bridge) {
    let port = free_port();
    let registration = json!({
        "id": "bridge", "url": format!("http://127.0.0.1:{port}"), "as_token": AS_TOKEN,
        "hs_token": HS_TOKEN, "sender_localpart": "bridgebot", "rate_limited": false,
        "receive_ephemeral": true, "org.matrix.msc3202": true, "io.element.msc4190": true,
        "namespaces": { "users": [{ "regex": "@pager_.*", "exclusive": true }] },
    });
    let options =
        Options { appservices: vec![registration], log_level: "trace", ..Options::default() };
    let server = Server::start(options).await;
    let mut bridge = Bridge(Process::bridge());
    let given = json!({
        "base_url": server.base_url(), "domain": SERVER_NAME, "port": port,
        "as_token": AS_TOKEN, "hs_token": HS_TOKEN,
    });
    let who = bridge.asks("start", given).await;
    assert_eq!(who["user_id"], format!("@bridgebot:{SERVER_NAME}"));
    (server, bridge)
}

/// Asks the server as somebody.
async fn call(server: &Server, token: &str, (method, path): (Method, &str), body: Value) -> Value {
    let answer = server.http().call(method, path, Some(token), Some(&body)).await;
    let answer = answer.expect("an answer");
    assert!(answer.status.is_success(), "{path}: {}", answer.summary());
    answer.json()
}

async fn sign_up(server: &Server, name: &str) -> (String, String) {
    let body = json!({
        "username": name, "password": "planted-password", "auth": { "type": "m.login.dummy" },
    });
    let path = (Method::POST, "/_matrix/client/v3/register");
    let made = call(server, "", path, body).await;
    let text = |key: &str| made[key].as_str().expect("a text").to_owned();
    (text("user_id"), text("access_token"))
}

/// A pager that somebody writes to: the ghost is made, invited, joins, answers; what was sent long ago
/// keeps its date; the bridge sees who types and who has read; and a restart loses nothing.
#[tokio::test]
async fn a_bridge_brings_its_ghosts() {
    if Kind::wanted() != Kind::Wardstone {
        return;
    }
    let (mut server, mut bridge) = open().await;
    let (nurse_id, nurse) = sign_up(&server, "nurse").await;
    let ghost = bridge.asks("ghost", json!({ "name": "pager_7", "displayname": "Pager 7" })).await;
    let ghost = ghost["user_id"].as_str().expect("a user ID").to_owned();
    let body = json!({ "invite": [ghost], "name": "Ward 4" });
    let path = (Method::POST, "/_matrix/client/v3/createRoom");
    let room = call(&server, &nurse, path, body).await["room_id"].as_str().unwrap().to_owned();
    let given = json!({ "room_id": room, "user_id": ghost, "membership": "invite" });
    bridge.asks("wait_member", given).await;
    bridge.asks("join", json!({ "name": "pager_7", "room_id": room })).await;

    let say = |n: u32| format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{n}");
    let text = |body: &str| json!({ "msgtype": "m.text", "body": body });
    call(&server, &nurse, (Method::PUT, &say(1)), text("call me")).await;
    let given = json!({ "room_id": room, "body": "call me", "sender": nurse_id });
    bridge.asks("wait_message", given).await;
    let given = json!({
        "name": "pager_7", "room_id": room, "body": "beep", "timestamp": 1_500_000_000_000_u64,
    });
    let beep = bridge.asks("send", given).await["event_id"].as_str().unwrap().to_owned();
    let path = format!("/_matrix/client/v3/rooms/{room}/event/{beep}");
    let shown = call(&server, &nurse, (Method::GET, &path), Value::Null).await;
    assert_eq!(shown["sender"], ghost.as_str());
    assert_eq!(shown["origin_server_ts"], 1_500_000_000_000_u64);

    let path = format!("/_matrix/client/v3/rooms/{room}/typing/{nurse_id}");
    let typing = json!({ "typing": true, "timeout": 30_000 });
    call(&server, &nurse, (Method::PUT, &path), typing).await;
    bridge.asks("wait_typing", json!({ "room_id": room, "user_id": nurse_id })).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{beep}");
    call(&server, &nurse, (Method::POST, &path), json!({})).await;
    let given = json!({ "room_id": room, "event_id": beep, "user_id": nurse_id });
    bridge.asks("wait_receipt", given).await;

    server.kill().await;
    server.start_again().await;
    call(&server, &nurse, (Method::PUT, &say(2)), text("still there?")).await;
    let given = json!({ "room_id": room, "body": "still there?", "sender": nurse_id });
    bridge.asks("wait_message", given).await;
    bridge.asks("stop", json!({})).await;
    let log = server.log();
    assert!(!log.contains(AS_TOKEN) && !log.contains(HS_TOKEN), "a token is in the log");
}

/// A room of the bridge and of somebody with matrix-nio, encrypted from end to bridge.
#[tokio::test]
async fn a_bridge_in_an_encrypted_room() {
    if Kind::wanted() != Kind::Wardstone {
        return;
    }
    let (server, mut bridge) = open().await;
    let device = bridge.asks("start_encryption", json!({})).await;
    assert_eq!(device["device_id"], "BRIDGE");
    let bot = format!("@bridgebot:{SERVER_NAME}");
    let mut doctor = Process::nio();
    let given = json!({
        "base_url": server.base_url(), "user": "doctor", "password": "planted-password",
    });
    let who = doctor.command("register", given).await.expect("the doctor registers");
    let doctor_id = who["user_id"].as_str().expect("a user ID").to_owned();
    let given = json!({ "name": "Ward 4", "encrypted": true, "invite": [bot] });
    let room = doctor.command("create_room", given).await.expect("a room");
    let room = room["room_id"].as_str().expect("a room ID").to_owned();
    let given = json!({ "room_id": room, "user_id": bot, "membership": "invite" });
    bridge.asks("wait_member", given).await;
    bridge.asks("join", json!({ "name": "bridgebot", "room_id": room })).await;
    let given = json!({ "room_id": room, "users": [bot] });
    doctor.command("wait_members", given).await.expect("the bridge's device keys");
    let given = json!({ "room_id": room, "body": "to the bridge" });
    doctor.command("send", given).await.expect("an encrypted message");
    let given = json!({ "room_id": room, "body": "to the bridge", "sender": doctor_id });
    bridge.asks("wait_encrypted", given).await;
    bridge.asks("send_encrypted", json!({ "room_id": room, "body": "from the bridge" })).await;
    let given = json!({ "room_id": room, "body": "from the bridge", "sender": bot });
    let seen = doctor.command("wait_message", given).await.expect("the bridge's message");
    assert_eq!(seen["encrypted"], true);
}
