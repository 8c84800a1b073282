//! What no HTTP library would send.

use std::time::Duration;

use appliance_acceptance::person::Person;
use appliance_acceptance::server::{Options, Server};
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a server may think about garbage. It must end the connection by itself: its own limits
/// (10 s for a head, 30 s between pieces of a body) are below this.
const GARBAGE_WAIT: Duration = Duration::from_secs(90);

/// The first bytes of an answer; no refusal is longer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Sends bytes and listens until the server closes or has said enough.
async fn exchange(server: &Server, bytes: &[u8]) -> String {
    let stream = TcpStream::connect(&server.address).await.expect("a connection");
    let (read, mut write) = stream.into_split();
    let mut said = Vec::new();
    // A server may answer and close before it has read everything; then the rest cannot be written.
    let talk = async {
        tokio::join!(
            async {
                let _ = write.write_all(bytes).await;
            },
            async {
                let _ = read.take(ANSWER_BYTES_MAX).read_to_end(&mut said).await;
            }
        )
    };
    timeout(GARBAGE_WAIT, talk).await.expect("the server ends what makes no sense");
    String::from_utf8_lossy(&said).into_owned()
}

fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

fn is_refusal_or_silence(answer: &str) -> bool {
    answer.is_empty() || status(answer).is_some_and(|status| (400..500).contains(&status))
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_or_hung_up_on() {
    let mut server = Server::start(Options::default()).await;
    let line = "GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let many: String = (0..2_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    let wide = format!("x-wide: {}\r\n", "a".repeat(200_000));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000));
    let put = "PUT /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\n";
    let garbage: Vec<(&str, Vec<u8>)> = vec![
        ("nothing but noise", (0..=255).cycle().take(5_000).collect()),
        ("the start of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50)),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()),
        ("no version", b"GET /\r\n\r\n".to_vec()),
        ("version 9.9", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_vec()),
        ("a method that is none", b"\0\0\0 / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a path with raw bytes", b"GET /\xff\xfe\x00 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a header without a colon", format!("{line}nonsense\r\n\r\n").into_bytes()),
        ("2,000 headers", format!("{line}{many}\r\n").into_bytes()),
        ("a header of 200,000 bytes", format!("{line}{wide}\r\n").into_bytes()),
        ("a path of 200,000 bytes", long.into_bytes()),
        ("a length that is no number", format!("{put}Content-Length: many\r\n\r\n").into_bytes()),
        ("a negative length", format!("{put}Content-Length: -1\r\n\r\n").into_bytes()),
        (
            "two lengths",
            format!("{put}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab").into_bytes(),
        ),
        (
            "a length beyond all",
            format!("{put}Content-Length: 99999999999999999999\r\n\r\n").into_bytes(),
        ),
        (
            "a chunk that is none",
            format!("{put}Transfer-Encoding: chunked\r\n\r\nzz\r\n").into_bytes(),
        ),
        (
            "a chunk beyond all",
            format!("{put}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n").into_bytes(),
        ),
    ];
    let mut faults = Vec::new();
    for (what, bytes) in garbage {
        let answer = exchange(&server, &bytes).await;
        if !is_refusal_or_silence(&answer) {
            faults.push(format!("{what}: {}", answer.chars().take(200).collect::<String>()));
        }
        assert!(server.is_running(), "alive after {what}");
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A body that is too large is refused, whether its length is told before or not.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_without_end_are_refused() {
    let mut server = Server::start(Options::default()).await;
    let session = Person::named("pusher").sign_up(&server).await;
    let before = server.resident_bytes();
    let token = &session.token;
    // The default limits: 1 MiB for JSON, 50 MiB for a file.
    let routes = [
        ("POST /_matrix/client/v3/createRoom", 40 * 1024 * 1024),
        (
            "PUT /_matrix/client/v3/user/@pusher:ward.example/account_data/io.example.x",
            40 * 1024 * 1024,
        ),
        ("POST /_matrix/client/v3/keys/upload", 40 * 1024 * 1024),
        ("POST /_matrix/client/v3/login", 40 * 1024 * 1024),
        ("POST /_matrix/media/v3/upload", 60 * 1024 * 1024),
    ];
    let mut faults = Vec::new();
    for (route, length) in routes {
        let head = format!(
            "{route} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nConnection: close\r\n"
        );
        let told = format!("{head}Content-Length: {length}\r\n\r\n");
        let mut told = told.into_bytes();
        told.resize(told.len() + length, b' ');
        let mut untold = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        let piece = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
        for _ in 0..length / 0x10000 {
            untold.extend_from_slice(&piece);
        }
        untold.extend_from_slice(b"0\r\n\r\n");
        for (how, bytes) in [("with its length", told), ("without its length", untold)] {
            let answer = exchange(&server, &bytes).await;
            let refused = status(&answer) == Some(413) && answer.contains("M_TOO_LARGE");
            // Who is hung up on while still sending may lose the answer: that is TCP's way.
            if !refused && !answer.is_empty() {
                let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                faults.push(format!("{route} {how}: {:?} {body}", status(&answer)));
            }
            if answer.is_empty() {
                eprintln!("{route} {how}: hung up on without an answer");
            }
        }
    }
    assert!(server.is_running(), "alive");
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 200 * 1024 * 1024, "{grown} bytes more than before");
    assert!(faults.is_empty(), "{faults:#?}");
    let whoami =
        session.http.call(Method::GET, "/_matrix/client/v3/account/whoami", Some(token), None);
    assert_eq!(whoami.await.expect("an answer").ok()["user_id"], json!(session.user_id));
}

/// Clients that never finish a request are hung up on, and do not keep others waiting.
#[tokio::test(flavor = "multi_thread")]
async fn half_requests_keep_nobody_waiting() {
    let server = Server::start(Options::default()).await;
    let halves = [
        "GET /_matrix/client/versions HTT",
        "GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\nx-slow: ",
        "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"type\"",
    ];
    let mut open = Vec::new();
    for _ in 0..50 {
        for half in halves {
            let mut stream = TcpStream::connect(&server.address).await.expect("a connection");
            stream.write_all(half.as_bytes()).await.expect("half a request");
            open.push(stream);
        }
    }
    let answer = server.http().call(Method::GET, "/_matrix/client/versions", None, None).await;
    answer.expect("others are served meanwhile").ok();
    for mut stream in open {
        let mut said = Vec::new();
        let hung_up = timeout(GARBAGE_WAIT, stream.read_to_end(&mut said)).await;
        assert!(hung_up.is_ok(), "a client that never finishes is hung up on");
    }
}
