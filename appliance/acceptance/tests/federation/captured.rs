//! What really goes over the wire: a Wardstone alone in a network namespace, with somebody who listens to
//! its one cable. One peer is on its list; a client and a stranger try everything to have it speak to
//! others too.
//!
//! Needs root and Linux's namespaces. Where they cannot be had the test says so and does nothing; where
//! they can, nothing excuses it.

use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use appliance_acceptance::authority::certify_as;
use appliance_acceptance::http::Http;
use appliance_acceptance::server::{configure, free_port, log_of, order, spawn, wardstone};
use appliance_acceptance::wait::until;
use http::Method;
use serde_json::{Value, json};

/// Who may have a byte of us.
const PORT: u16 = 8448;

/// A namespace with one cable to this machine, taken down when dropped.
struct Cell {
    name: String,
    /// The first three numbers of its addresses.
    net: String,
}

/// A program of the system's; `Err` is why it did not do it.
fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(words).output();
    let done = done.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(format!("{program} {words:?}: {said}")) }
}

impl Cell {
    /// `None` if this machine does not let us make one, after saying why.
    fn build() -> Option<Self> {
        let number = std::process::id() % 200 + 20;
        let cell = Self { name: format!("wardstone{number}"), net: format!("10.213.{number}") };
        match cell.wire(number) {
            Ok(()) => Some(cell),
            Err(why) => {
                eprintln!(
                    "NOT TRIED: no network of its own can be made here (root, `ip netns`): {why}"
                );
                None
            }
        }
    }

    fn wire(&self, number: u32) -> Result<(), String> {
        let name = &self.name;
        let ip = |words: &str| run("ip", &words.split(' ').collect::<Vec<_>>());
        ip(&format!("netns add {name}"))?;
        let (outer, inner) = (format!("wso{number}"), format!("wsi{number}"));
        ip(&format!("link add {outer} type veth peer name {inner} netns {name}"))?;
        for host in [1, 3] {
            ip(&format!("addr add {}/24 dev {outer}", self.at(host)))?;
        }
        ip(&format!("link set {outer} up"))?;
        // What the kernel says by itself, to find out about IPv6, is not of our saying. A kernel without
        // IPv6 has no such switch.
        let _ = ip(&format!("netns exec {name} sysctl -q -w net.ipv6.conf.all.disable_ipv6=1"));
        let within = format!("-n {name}");
        ip(&format!("{within} addr add {}/24 dev {inner}", self.at(2)))?;
        ip(&format!("{within} link set {inner} up"))?;
        ip(&format!("{within} link set lo up"))?;
        ip(&format!("{within} route add default via {}", self.at(1)))?;
        // A name that is looked up is heard too.
        let folder = PathBuf::from("/etc/netns").join(name);
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let resolver = format!("nameserver {}\n", self.at(1));
        fs::write(folder.join("resolv.conf"), resolver).map_err(|error| error.to_string())
    }

    fn at(&self, host: u8) -> String {
        format!("{}.{host}", self.net)
    }

    fn server(&self, host: u8) -> String {
        format!("{}:{PORT}", self.at(host))
    }

    /// A command inside.
    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // The cable goes with it.
        let _ = run("ip", &["netns", "del", &self.name]);
        let _ = fs::remove_dir_all(PathBuf::from("/etc/netns").join(&self.name));
    }
}

/// A program that writes lines until its input ends.
struct Ears {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Ears {
    fn open(mut command: Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("start python3");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut first = String::new();
        lines.read_line(&mut first).expect("a line");
        assert!(first.contains("ready"), "{first}");
        Self { child, lines }
    }

    /// All that was heard.
    fn close(mut self) -> Vec<Value> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.lines.read_to_string(&mut text).expect("lines");
        self.child.wait().expect("it ends");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("py/capture.py")
}

fn python() -> Command {
    let mut command = Command::new("python3");
    command.arg(script());
    command
}

/// Makes requests; returns their statuses.
fn ask(mut command: Command, requests: &Value) -> Vec<u64> {
    let mut child = command
        .arg("ask")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start python3");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(requests.to_string().as_bytes()).expect("a pipe");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    serde_json::from_slice(&output.stdout).expect("statuses")
}

/// A server of its own folder; killed when dropped.
struct Server {
    folder: tempfile::TempDir,
    _process: tokio::process::Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", log_of(self.folder.path()));
        }
    }
}

impl Server {
    /// Starts the server called `address:8448`, whose clients come by loopback.
    fn start(cell: &Cell, tls: &Path, host: u8, clients: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("captured-").tempdir().expect("a folder");
        let path = folder.path();
        let pair = json!({
            "certificate_file": tls.join("server.pem"), "key_file": tls.join("server.key"),
        });
        let settings = json!({
            "listeners": [
                { "kind": "client", "address": format!("127.0.0.1:{clients}") },
                { "kind": "federation", "address": cell.server(host), "tls": pair },
            ],
            "federation": { "extra_ca_file": tls.join("ca.pem") },
            // The network is open, so that nothing but the list keeps the stranger out.
            "egress": { "networks": [format!("{}.0/24", cell.net)] },
            "admin": { "socket": path.join("admin.sock") },
        });
        configure(path, &cell.server(host), &settings);
        let mut command = match host {
            2 => cell.inside(&wardstone()),
            _ => Command::new(wardstone()),
        };
        command.args(["serve", "--config"]).arg(path.join("wardstone.toml"));
        let process = spawn(command.into(), path);
        Self { folder, _process: process }
    }

    async fn order(&self, words: &[&str], input: &str) {
        order(&self.folder.path().join("wardstone.toml"), words, input).await;
    }

    async fn ready(&self) {
        let socket = self.folder.path().join("admin.sock");
        until("a server's admin socket", async || socket.exists().then_some(())).await;
    }
}

/// What a client asks for, to have its server speak to a stranger: every way there is to name a server.
fn lures(cell: &Cell, url: &str, token: &str, room: &str) -> Value {
    let mut requests = Vec::new();
    for stranger in [cell.server(3), cell.at(3), "evil.example".to_owned()] {
        let user = format!("@guest:{stranger}");
        let mut add = |method: &str, path: String, body: Value| {
            let body = if method == "GET" { Value::Null } else { body };
            let path = path.replace('#', "%23");
            let url = format!("{url}/_matrix/client{path}");
            requests.push(json!({ "method": method, "url": url, "token": token, "body": body }));
        };
        let none = || json!({});
        add("GET", format!("/v3/directory/room/#open:{stranger}"), none());
        add("POST", format!("/v3/join/#open:{stranger}"), none());
        add("POST", format!("/v3/join/!room:{stranger}?via={stranger}"), none());
        add("POST", format!("/v3/join/!room:elsewhere.example?server_name={stranger}"), none());
        add("POST", format!("/v3/knock/!room:{stranger}?via={stranger}"), none());
        add("POST", format!("/v3/rooms/{room}/invite"), json!({ "user_id": user }));
        add("POST", "/v3/createRoom".to_owned(), json!({ "invite": [user] }));
        add("GET", format!("/v3/profile/{user}"), none());
        add("GET", format!("/v3/profile/{user}/displayname"), none());
        add("GET", format!("/v3/publicRooms?server={stranger}"), none());
        add("POST", format!("/v3/publicRooms?server={stranger}"), none());
        add("GET", format!("/v1/rooms/!room:{stranger}/hierarchy"), none());
        add("GET", format!("/v1/room_summary/!room:{stranger}?via={stranger}"), none());
        add("GET", format!("/v1/media/download/{stranger}/abc"), none());
        add("GET", format!("/v1/media/thumbnail/{stranger}/abc?width=8&height=8"), none());
        add("GET", format!("/v3/user_directory/search?term={user}"), none());
        let devices = json!({ (user.as_str()): [] });
        add("POST", "/v3/keys/query".to_owned(), json!({ "device_keys": devices }));
        let claimed = json!({ (user.as_str()): { "PHONE": "signed_curve25519" } });
        add("POST", "/v3/keys/claim".to_owned(), json!({ "one_time_keys": claimed }));
        let messages = json!({ "messages": { (user.as_str()): { "*": { "a": 1 } } } });
        add("PUT", "/v3/sendToDevice/m.dummy/1".to_owned(), messages);
        for scheme in ["http", "https"] {
            let page = format!("{scheme}%3A%2F%2F{stranger}%2Fpage");
            add("GET", format!("/v1/media/preview_url?url={page}"), none());
            let gateway = format!("{scheme}://{stranger}/_matrix/push/v1/notify");
            add(
                "POST",
                "/v3/pushers/set".to_owned(),
                json!({
                    "app_id": "example.app", "app_display_name": "App", "device_display_name": "Phone",
                    "kind": "http", "lang": "en", "pushkey": gateway, "data": { "url": gateway },
                }),
            );
        }
        let message =
            json!({ "msgtype": "m.text", "body": format!("{user} see https://{stranger}/page") });
        add("PUT", format!("/v3/rooms/{room}/send/m.room.message/{stranger}"), message);
        let picture =
            json!({ "msgtype": "m.image", "body": "x", "url": format!("mxc://{stranger}/abc") });
        add("PUT", format!("/v3/rooms/{room}/send/m.room.message/x{stranger}"), picture);
        let child = json!({ "via": [stranger] });
        add("PUT", format!("/v3/rooms/{room}/state/m.space.child/!room:{stranger}"), child);
        add("GET", format!("/v1/rooms/{room}/hierarchy"), none());
    }
    Value::Array(requests)
}

/// What a stranger asks, to be asked back: who signs it, where the room is, where the event is.
fn calls(cell: &Cell) -> Value {
    let (ours, stranger) = (cell.server(2), cell.server(3));
    let signed = format!(
        "X-Matrix origin=\"{stranger}\",destination=\"{ours}\",key=\"ed25519:1\",sig=\"AAAA\""
    );
    let v1 = "/_matrix/federation/v1";
    let event =
        json!({ "sender": format!("@guest:{stranger}"), "room_id": format!("!r:{stranger}") });
    let requests = [
        ("GET", format!("{v1}/version"), Value::Null),
        ("GET", "/_matrix/key/v2/server".to_owned(), Value::Null),
        ("GET", format!("/_matrix/key/v2/query/{stranger}"), Value::Null),
        (
            "POST",
            "/_matrix/key/v2/query".to_owned(),
            json!({ "server_keys": { (stranger.as_str()): {} } }),
        ),
        ("PUT", format!("{v1}/send/1"), json!({ "origin": stranger, "pdus": [event], "edus": [] })),
        ("GET", format!("{v1}/make_join/!r:{ours}/@guest:{stranger}?ver=11"), Value::Null),
        (
            "PUT",
            format!("/_matrix/federation/v2/invite/!r:{stranger}/$e"),
            json!({
            "room_version": "11", "event": event, "invite_room_state": [event] }),
        ),
        ("GET", format!("{v1}/query/profile?user_id=@nurse:{ours}"), Value::Null),
        ("GET", format!("{v1}/query/directory?room_alias=%23open:{stranger}"), Value::Null),
        ("GET", format!("{v1}/openid/userinfo?access_token=x"), Value::Null),
    ];
    let requests = requests.into_iter().map(|(method, path, body)| {
        let (url, source) = (format!("https://{ours}{path}"), cell.at(3));
        let headers = json!({ "Authorization": signed, "Content-Type": "application/json" });
        json!({ "method": method, "url": url, "body": body, "source": source, "headers": headers })
    });
    Value::Array(requests.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_for_whoever_is_not_on_the_list() {
    let Some(cell) = Cell::build() else { return };
    let tls = tempfile::tempdir().expect("a folder");
    certify_as(tls.path(), &[&cell.at(1), &cell.at(2)]).expect("certificates");
    let mut command = cell.inside(Path::new("python3"));
    let inner = format!("wsi{}", std::process::id() % 200 + 20);
    command.arg(script()).args(["sniff", &inner, &cell.at(2)]);
    let ears = Ears::open(command);
    let mut command = python();
    command.args(["listen", &cell.at(3), "8448", "443", "80"]);
    let door = Ears::open(command);

    let peers_clients = free_port();
    let ours = Server::start(&cell, tls.path(), 2, 8008);
    let peer = Server::start(&cell, tls.path(), 1, peers_clients);
    for (server, other) in [(&ours, cell.server(1)), (&peer, cell.server(2))] {
        server.ready().await;
        server.order(&["peers", "add", &other, "--media", "yes"], "").await;
        server.order(&["user", "create", "nurse"], "password-of-nurse").await;
    }
    // The peer's room is found by its alias, and joined: who is on the list is spoken to.
    let login = json!({
        "type": "m.login.password", "password": "password-of-nurse",
        "identifier": { "type": "m.id.user", "user": "nurse" },
    });
    let http = Http::new(&format!("127.0.0.1:{peers_clients}"));
    let call = async |path: &str, token: &str, body: &Value| {
        let token = Some(token).filter(|token| !token.is_empty());
        let path = format!("/_matrix/client{path}");
        http.call(Method::POST, &path, token, Some(body)).await.expect("an answer").ok()
    };
    let session = call("/v3/login", "", &login).await;
    let open = json!({ "preset": "public_chat", "room_alias_name": "open" });
    call("/v3/createRoom", session["access_token"].as_str().expect("a token"), &open).await;

    let url = "http://127.0.0.1:8008";
    let (token, room) = at_home(&cell, url, &login);
    let friendly = json!([{ "method": "POST", "token": token, "body": {},
        "url": format!("{url}/_matrix/client/v3/join/%23open:{}", cell.server(1)) }]);
    assert_eq!(ask(inside(&cell), &friendly), [200], "the peer's room is joined");
    let lures = lures(&cell, url, &token, &room);
    let answers = ask(inside(&cell), &lures);
    let count = answers.iter().filter(|status| **status != 0).count();
    assert_eq!(count, answers.len(), "every question is answered: {answers:?}");
    let answers = ask(python(), &calls(&cell));
    // Its version and its own keys a server tells everybody; the rest is refused.
    assert!(answers[4..].iter().all(|status| matches!(status, 401 | 403)), "{answers:?}");
    // What was said is owed to nobody off the list; whatever would be sent late is sent by now.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    drop((ours, peer));
    judge(&cell, &ears.close(), &door.close());
}

fn inside(cell: &Cell) -> Command {
    let mut command = cell.inside(Path::new("python3"));
    command.arg(script());
    command
}

/// Logs in by the loopback of the namespace, and makes a room; returns the token and the room's ID.
fn at_home(cell: &Cell, url: &str, login: &Value) -> (String, String) {
    let post = |path: &str, token: &str, body: &Value| -> Value {
        let output = cell
            .inside(Path::new("curl"))
            .args([
                "-sS",
                "--retry",
                "20",
                "--retry-connrefused",
                "--retry-delay",
                "1",
                "-X",
                "POST",
            ])
            .args(["-H", &format!("Authorization: Bearer {token}"), "-d", &body.to_string()])
            .arg(format!("{url}/_matrix/client{path}"))
            .output()
            .expect("run curl");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let session = post("/v3/login", "", login);
    let token = session["access_token"].as_str().expect("a token").to_owned();
    let room = post("/v3/createRoom", &token, &json!({ "preset": "public_chat" }));
    (token, room["room_id"].as_str().expect("a room").to_owned())
}

/// What went out: connections to the peer, and answers to those who came.
fn judge(cell: &Cell, packets: &[Value], visits: &[Value]) {
    assert!(visits.is_empty(), "somebody went to the stranger: {visits:?}");
    let (listed, stranger) = (cell.at(1), cell.at(3));
    let begun = packets.iter().filter(|packet| packet["begins"] == true);
    let (friendly, others): (Vec<_>, Vec<_>) =
        begun.partition(|packet| packet["to"] == *listed && packet["port"] == PORT);
    assert!(!friendly.is_empty(), "the sniffer heard nothing of {} packets", packets.len());
    assert!(others.is_empty(), "it spoke to others first: {others:?}");
    for packet in packets.iter().filter(|packet| packet["to"] != *listed) {
        let is_answer = packet["to"] == *stranger && packet["source"] == PORT;
        assert!(is_answer, "{packet}");
    }
    let answers = packets.iter().filter(|packet| packet["to"] == *stranger).count();
    assert!(answers > 0, "the stranger's questions were heard, and answered");
}
