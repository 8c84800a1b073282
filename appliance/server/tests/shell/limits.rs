//! Peers that are slow, silent or too many.

use std::io::Write;
use std::time::Duration;

use crate::world::{Folder, PATIENCE, connect, connect_from, get, read_answer, wait_for_close};

const LIVE: &[u8] = b"GET /_wardstone/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Runs `wait` and says whether it took at least `least`, and much less than patience.
fn took_at_least(least: Duration, wait: impl FnOnce()) {
    let began = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    wait();
    let took = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() - began;
    assert!(took >= least && took < PATIENCE / 2, "{took:?}");
}

#[test]
fn a_head_that_trickles_in_is_cut_off() {
    let server = Folder::new("[limits]\nheader_ms = 500\nidle_ms = 60000\n").start();
    // Nothing at all.
    let mut silent = connect(server.client());
    // A head that never ends.
    let mut slow = connect(server.client());
    slow.write_all(b"GET / HTTP/1.1\r\nHost: local").unwrap();
    // A second head that never ends, on a connection that was fine before.
    let mut second = connect(server.client());
    second.write_all(LIVE).unwrap();
    assert_eq!(read_answer(&mut second).status, 200);
    second.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    for stream in [&mut silent, &mut slow, &mut second] {
        let rest = wait_for_close(stream);
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(get(server.client(), "/_wardstone/health/live").status, 200);
}

#[test]
fn an_idle_connection_is_kept_for_a_while_and_then_closed() {
    let server = Folder::new("[limits]\nheader_ms = 100\nidle_ms = 1000\n").start();
    let mut stream = connect(server.client());
    stream.write_all(LIVE).unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
    took_at_least(Duration::from_millis(900), || {
        assert!(wait_for_close(&mut stream).is_empty());
    });
}

#[test]
fn a_body_that_does_not_come_ends_the_request() {
    let server = Folder::new("[limits]\nbody_ms = 300\n").start();
    let mut stream = connect(server.client());
    stream
        .write_all(
            b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{",
        )
        .unwrap();
    let rest = wait_for_close(&mut stream);
    let answer = String::from_utf8_lossy(&rest);
    assert!(!answer.starts_with("HTTP/1.1 2") && !answer.starts_with("HTTP/1.1 5"), "{answer}");
}

#[test]
fn a_handshake_that_does_not_come_is_cut_off() {
    let folder = Folder::new(
        "[limits]\nhandshake_ms = 300\n[[listeners]]\nkind = \"client\"\naddress = \
         \"127.0.0.1:0\"\ntls = { certificate_file = \"cert.pem\", key_file = \"key.pem\" }\n",
    );
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    folder.write("cert.pem", &params.self_signed(&key).unwrap().pem());
    folder.write("key.pem", &key.serialize_pem());
    let server = folder.start();
    let mut stream = connect(server.client());
    stream.write_all(&[22, 3, 1]).unwrap();
    took_at_least(Duration::from_millis(250), || {
        wait_for_close(&mut stream);
    });
}

#[test]
fn one_address_gets_only_so_many_connections() {
    let server = Folder::new("[limits]\nconnections_per_ip_max = 3\n").start();
    let mut open: Vec<_> = (0..3).map(|_| connect(server.client())).collect();
    for stream in &mut open {
        stream.write_all(LIVE).unwrap();
        assert_eq!(read_answer(stream).status, 200);
    }
    let mut one_too_many = connect(server.client());
    let _ = one_too_many.write_all(LIVE);
    assert!(wait_for_close(&mut one_too_many).is_empty());

    drop(open.pop());
    // The server needs a moment to see that the connection went.
    let again = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let mut stream = connect(server.client());
        let _ = stream.write_all(LIVE);
        !wait_for_answer_or_close(&mut stream).is_empty()
    });
    assert!(again, "a closed connection makes room");
}

/// A peer that holds the door for servers open: a head and a body that come byte by byte, and more
/// connections than one address gets. All of it ends, and a peer at another address notices nothing.
#[test]
fn a_peer_that_dawdles_holds_up_only_itself() {
    let server = Folder::new(
        "federation = { allowed_servers = [\"slow.example\"] }\n[limits]\nheader_ms = 500\n\
         body_ms = 300\nrequest_ms = 1500\nconnections_per_ip_max = 3\n[[listeners]]\n\
         kind = \"federation\"\naddress = \"127.0.0.1:0\"\n[[listeners]]\nkind = \"client\"\n\
         address = \"127.0.0.1:0\"\n",
    )
    .start();
    let door = server.federation();
    let head = "PUT /_matrix/federation/v1/send/t HTTP/1.1\r\nHost: h\r\nContent-Length: 50000\r\n\
                Authorization: X-Matrix origin=slow.example,destination=hospital.example,\
                key=\"ed25519:a\",sig=\"AAAA\"\r\n\r\n";
    let mut slow: Vec<_> = (0..3).map(|_| connect(door)).collect();
    slow[0].write_all(&head.as_bytes()[..40]).unwrap();
    slow[1].write_all(head.as_bytes()).unwrap();
    slow[2].write_all(head.as_bytes()).unwrap();
    let mut one_too_many = connect(door);
    let _ = one_too_many.write_all(b"GET / HTTP/1.1\r\n");
    assert!(wait_for_close(&mut one_too_many).is_empty());
    let mut other = connect_from([127, 0, 0, 2].into(), door);
    other.write_all(b"GET /_matrix/federation/v1/version HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut other).status, 200, "others are served meanwhile");
    // Never silent for as long as a body may be, and never done.
    let trickling = slow[2].try_clone().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut trickling = trickling;
            while !stop.load(std::sync::atomic::Ordering::Relaxed)
                && trickling.write_all(b" ").is_ok()
            {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        took_at_least(Duration::ZERO, || {
            for stream in &mut slow {
                let answer = wait_for_close(stream);
                let answer = String::from_utf8_lossy(&answer);
                let is_no = |answer: &str| answer.is_empty() || answer.starts_with("HTTP/1.1 4");
                assert!(is_no(&answer), "{answer}");
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(get(door, "/_matrix/federation/v1/version").status, 200);
}

/// The first byte that comes, if one does.
fn wait_for_answer_or_close(stream: &mut std::net::TcpStream) -> Vec<u8> {
    use std::io::Read;
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(1) => byte.to_vec(),
        _ => vec![],
    }
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let server = Folder::new("[limits]\nheader_bytes_max = 8192\n").start();
    let mut stream = connect(server.client());
    let head = format!("GET / HTTP/1.1\r\nHost: h\r\nX-Long: {}\r\n\r\n", "a".repeat(20_000));
    let _ = stream.write_all(head.as_bytes());
    let answer = String::from_utf8_lossy(&wait_for_close(&mut stream)).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(get(server.client(), "/_wardstone/health/live").status, 200);
}

#[test]
fn metrics_are_on_the_internal_listener_alone() {
    let server = Folder::new("").start();
    let text = get(server.metrics(), "/metrics").body;
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "wardstone_uptime_seconds",
        "wardstone_conformance_mode 0",
        "wardstone_connections_open",
        "wardstone_build_info{version=",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert_eq!(get(server.client(), "/metrics").status, 404);
    for listener in [server.client(), server.metrics()] {
        assert_eq!(get(listener, "/_wardstone/health/live").body, "live");
        assert_eq!(get(listener, "/_wardstone/health/ready").body, "ready");
    }
    assert_eq!(get(server.metrics(), "/_matrix/client/versions").status, 404);
}
