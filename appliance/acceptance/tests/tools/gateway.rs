//! A push gateway on a socket of its own, and a phone that is told.

use appliance_acceptance::server::{Kind, Options, Server};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, timeout};

/// A push comes within moments; a hang ends the test.
const WAIT: Duration = Duration::from_secs(60);

/// Takes one request, answers it, and returns its body.
async fn take(gateway: &TcpListener, status: &str, answer: Value) -> (String, Value) {
    let (mut stream, _) =
        timeout(WAIT, gateway.accept()).await.expect("a push in time").expect("a connection");
    let (line, body) = timeout(WAIT, read(&mut stream)).await.expect("a whole request");
    let answer = answer.to_string();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close");
    let text = format!("{head}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
    stream.write_all(text.as_bytes()).await.expect("an answer");
    (line, body)
}

async fn read(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.expect("a request");
        assert!(count > 0, "the request broke off");
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().to_owned())
        });
        let length: usize = length.expect("a length").parse().expect("a number");
        if body.len() >= length {
            let line = head.lines().next().unwrap_or_default().to_owned();
            return (line, serde_json::from_str(body).expect("JSON"));
        }
    }
}

#[tokio::test]
async fn a_gateway_is_told_again_until_it_answers_and_not_after_it_rejects() {
    if Kind::wanted() != Kind::Wardstone {
        return;
    }
    let server = Server::start(Options::default()).await;
    let gateway = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/_matrix/push/v1/notify", gateway.local_addr().expect("a port"));
    let call = async |token: &str, method: Method, path: &str, body: Value| {
        let path = format!("/_matrix/client/v3/{path}");
        let token = (!token.is_empty()).then_some(token);
        server.http().call(method, &path, token, Some(&body)).await.expect("an answer").ok()
    };
    let mut tokens = Vec::new();
    for name in ["nurse", "doctor"] {
        let body =
            json!({ "username": name, "password": "x", "auth": { "type": "m.login.dummy" } });
        let made = call("", Method::POST, "register", body).await;
        tokens.push(made["access_token"].as_str().expect("a token").to_owned());
    }
    let (nurse, doctor) = (&tokens[0], &tokens[1]);
    let body = json!({ "preset": "public_chat" });
    let room = call(nurse, Method::POST, "createRoom", body).await;
    let room = room["room_id"].as_str().expect("a room").to_owned();
    call(doctor, Method::POST, &format!("join/{room}"), json!({})).await;
    let pusher = json!({
        "app_id": "example.app", "pushkey": "phone", "kind": "http", "lang": "en",
        "app_display_name": "App", "device_display_name": "Phone",
        "data": { "url": url, "format": "event_id_only" },
    });
    call(doctor, Method::POST, "pushers/set", pusher).await;
    let say = async |n: u32| {
        let path = format!("rooms/{room}/send/m.room.message/{n}");
        let text = json!({ "msgtype": "m.text", "body": "planted words" });
        let said = call(nurse, Method::PUT, &path, text).await;
        said["event_id"].as_str().expect("an event").to_owned()
    };
    let first = say(1).await;
    let (line, failed) = take(&gateway, "503 Service Unavailable", json!({})).await;
    assert_eq!(line, "POST /_matrix/push/v1/notify HTTP/1.1");
    let (_, taken) = take(&gateway, "200 OK", json!({ "rejected": [] })).await;
    assert_eq!(failed, taken, "the same again");
    assert_eq!(taken["notification"]["event_id"], first.as_str());
    assert_eq!(taken["notification"]["counts"]["unread"], 1);
    assert!(!taken.to_string().contains("planted words"));
    say(2).await;
    take(&gateway, "200 OK", json!({ "rejected": ["phone"] })).await;
    let gone = appliance_acceptance::wait::until("the pusher's end", async || {
        let left = call(doctor, Method::GET, "pushers", Value::Null).await;
        (left["pushers"] == json!([])).then_some(())
    });
    gone.await;
}
