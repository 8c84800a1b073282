//! A full run's log holds no secret.

use std::process::Command;

use serde_json::{Value, json};

use crate::world::{BINARY, Folder, is_root, request, stdout};

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

/// Under systemd, entries go to the journal with their fields; standard error stays empty.
#[test]
fn the_journal_gets_fields() {
    if !is_root() {
        // The journal's socket has a fixed place; only root can have a file system of its own there.
        return;
    }
    let folder = Folder::new("[log]\nformat = \"auto\"\n");
    let output = Command::new("unshare")
        .args(["--mount", "python3", "-c", JOURNAL, BINARY, "serve", "--config"])
        .arg(folder.path("wardstone.toml"))
        .output()
        .unwrap();
    let entries = stdout(&output);
    assert!(entries.contains("SYSLOG_IDENTIFIER=wardstone"), "{output:?}");
    let ready = entries.split("--\n").find(|entry| entry.contains("server.ready")).unwrap();
    for part in ["PRIORITY=5", "MESSAGE=ready", "KIND=server.ready", "TARGET=wardstone::lifecycle"]
    {
        assert!(ready.contains(part), "{part} in {ready}");
    }
    assert!(ready.contains("MESSAGE_ID=c6826e3e61e7f320dd6d1f03c2887f31"), "{ready}");
    let opened = entries.split("--\n").filter(|entry| entry.contains("KIND=listener.open"));
    assert_eq!(opened.count(), 3);
    assert!(entries.ends_with("standard error: \n"), "{entries}");
}

/// A journal that prints what it is told, in a mount namespace of its own.
const JOURNAL: &str = r#"
import os, socket, struct, subprocess, sys
subprocess.check_call(["mount", "-t", "tmpfs", "tmpfs", "/run"])
os.makedirs("/run/systemd/journal")
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind("/run/systemd/journal/socket")
journal.settimeout(60)
ours, theirs = socket.socketpair()
place = os.fstat(theirs.fileno())
stream = f"{place.st_dev}:{place.st_ino}"
server = subprocess.Popen(sys.argv[1:], stderr=theirs, env=dict(os.environ, JOURNAL_STREAM=stream))
entry = b""
try:
    while b"server.ready" not in entry:
        entry = rest = journal.recv(65536)
        while rest:
            line, rest = rest.split(b"\n", 1)
            if b"=" not in line:
                length = struct.unpack("<Q", rest[:8])[0]
                line, rest = line + b"=" + rest[8:8 + length], rest[9 + length:]
            print(line.decode())
        print("--")
finally:
    server.terminate()
    server.wait()
ours.setblocking(False)
try:
    print("standard error:", ours.recv(65536))
except BlockingIOError:
    print("standard error: ")
"#;
