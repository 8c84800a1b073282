//! Stopping: what was begun is finished, and what was answered is kept.

use std::io::Write;

use serde_json::Value;

use crate::world::{Folder, connect, get, read_answer, request, stdout, wait_for_close};

#[test]
fn a_request_in_flight_is_finished_and_the_exit_code_is_0() {
    let mut server = Folder::new("").start();
    let body = b"{\"type\":\"m.login.password\"}";
    let mut stream = connect(server.client());
    let head = format!(
        "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..10]).unwrap();
    let mut idle = connect(server.client());
    idle.write_all(b"GET /_wardstone/health/live HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    read_answer(&mut idle);

    server.signal("TERM");
    server.wait_for("server.stopping");
    assert!(wait_for_close(&mut idle).is_empty(), "an idle connection is closed at once");
    stream.write_all(&body[10..]).unwrap();
    let answer = read_answer(&mut stream);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(wait_for_close(&mut stream).is_empty(), "and no further request is taken");

    let (status, _) = server.wait();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut server = Folder::new("[server]\ndrain_ms = 600000\n").start();
    let mut stream = connect(server.client());
    stream
        .write_all(
            b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{",
        )
        .unwrap();
    // Until the request was taken up, it is not in flight.
    let open = "wardstone_connections_open{listeners=\"public\"} 1";
    while !get(server.metrics(), "/metrics").body.contains(open) {
        std::thread::yield_now();
    }
    server.signal("INT");
    server.wait_for("server.stopping");
    server.signal("INT");
    let (status, _) = server.wait();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_long_poll_is_told_to_finish() {
    let server = Folder::new("").start();
    server.run(&["user", "create", "nurse"], "pass phrase\n");
    let login = "{\"type\":\"m.login.password\",\"identifier\":{\"type\":\"m.id.user\",\"user\":\
                 \"nurse\"},\"password\":\"pass phrase\"}";
    let answer = request(server.client(), "POST", "/_matrix/client/v3/login", "", login);
    let answer: Value = serde_json::from_str(&answer.body).unwrap();
    let token = format!("Authorization: Bearer {}\r\n", answer["access_token"].as_str().unwrap());
    let sync = request(server.client(), "GET", "/_matrix/client/v3/sync", &token, "");
    let sync: Value = serde_json::from_str(&sync.body).unwrap();
    let since = sync["next_batch"].as_str().unwrap();

    let mut poll = connect(server.client());
    let head = format!(
        "GET /_matrix/client/v3/sync?timeout=600000&since={since} HTTP/1.1\r\nHost: h\r\n{token}\r\n"
    );
    poll.write_all(head.as_bytes()).unwrap();
    poll.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let mut byte = [0];
    let waiting = std::io::Read::read(&mut poll, &mut byte);
    assert!(waiting.is_err(), "the poll waits: {waiting:?}");
    poll.set_read_timeout(Some(crate::world::PATIENCE)).unwrap();

    server.signal("TERM");
    assert_eq!(read_answer(&mut poll).status, 200);
    let (status, _) = server.wait();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn what_was_answered_is_there_after_kill_9() {
    let server = Folder::new("").start();
    assert!(server.run(&["user", "create", "nurse"], "pw\n").status.success());
    server.signal("KILL");
    let folder = server.into_folder();
    let list = folder.run(&["user", "list"], "");
    assert!(stdout(&list).contains("@nurse:hospital.example"), "{list:?}");
}
