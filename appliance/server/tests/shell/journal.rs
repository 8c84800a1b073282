//! A full run's log holds no secret.

use serde_json::{Value, json};

use crate::world::{Folder, request, stdout};

#[test]
fn no_planted_secret_reaches_the_log() {
    let server = Folder::new(
        "[log]\nlevel = \"trace\"\n[registration]\nmode = \"token\"\ntokens = [\"planted-token\"]\n",
    )
    .environment("WARDSTONE__REGISTRATION__SHARED_SECRET", "planted-shared-secret")
    .start();
    let made = stdout(&server.run(&["user", "create", "ada", "--generate", "--json"], ""));
    let made: Value = serde_json::from_str(&made).unwrap();
    assert!(server.run(&["user", "create", "nurse"], "planted-password\n").status.success());
    let call = |method: &str, path: &str, token: &str, body: &Value| {
        let head = match token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let path = format!("/_matrix/client/v3/{path}");
        request(server.client(), method, &path, &head, &body.to_string())
    };
    let login = |password: &str| {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "nurse" },
            "password": password,
        });
        call("POST", "login", "", &body)
    };
    assert_eq!(login("planted-wrong-password").status, 403);
    let answer: Value = serde_json::from_str(&login("planted-password").body).unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let room = call("POST", "createRoom", token, &json!({ "name": "planted-room-name" }));
    let room: Value = serde_json::from_str(&room.body).unwrap();
    let room = room["room_id"].as_str().unwrap();
    let message = json!({ "msgtype": "m.text", "body": "planted-message" });
    let sent = call("PUT", &format!("rooms/{room}/send/m.room.message/1"), token, &message);
    assert_eq!(sent.status, 200, "{sent:?}");
    // Broken on purpose: errors like to repeat what they choke on.
    call("PUT", &format!("rooms/{room}/send/m.room.message/2"), token, &json!("planted-broken"));
    call("GET", &format!("sync?access_token={token}"), "", &json!({}));
    call("GET", "sync?since=planted-since", token, &json!({}));
    call("POST", "register", "", &json!({ "auth": { "token": "planted-token" } }));
    call("POST", "nowhere/planted-path", "", &json!({}));

    let (_, log) = server.stop();
    assert!(log.matches("http.answered").count() >= 10, "every request is there: {log}");
    let generated = made["password"].as_str().unwrap();
    for secret in [token, generated, "planted-token", "planted-shared-secret"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    for line in log.lines() {
        for planted in ["planted-pass", "planted-wrong", "planted-message", "planted-room-name"] {
            assert!(!line.contains(planted), "{planted} is in the log: {line}");
        }
        assert!(!line.contains("planted-broken"), "{line}");
    }
}
