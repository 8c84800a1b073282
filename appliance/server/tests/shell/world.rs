//! A server in a folder of its own, and the simplest of clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

pub const BINARY: &str = env!("CARGO_BIN_EXE_wardstone");

/// Long enough for a busy machine; only failures wait that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A prepared server that does not run yet.
pub struct Folder {
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    through: Vec<String>,
}

impl Folder {
    /// `wardstone init`, listeners on free ports, `extra` appended to the settings.
    pub fn new(extra: &str) -> Self {
        Self::named("hospital.example", extra)
    }

    /// The same for a server of another name.
    pub fn named(name: &str, extra: &str) -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
            environment: vec![],
            arguments: vec![],
            through: vec![],
        };
        let config = folder.path("wardstone.toml");
        let data = folder.path("data");
        let output = Command::new(BINARY)
            .args(["init", "--name", name, "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(&data)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let listeners = "[[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:0\"\n\
                         [[listeners]]\nkind = \"metrics\"\naddress = \"127.0.0.1:0\"\n\
                         [log]\nformat = \"json\"\n";
        folder.write("conf.d/10-test.toml", listeners);
        folder.write("conf.d/20-extra.toml", extra);
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts the server through another program, which gets the binary's path and arguments.
    pub fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(ToString::to_string).collect();
        self
    }

    /// `wardstone WORDS --config ...`, with `input` on standard input.
    pub fn run(&self, words: &[&str], input: &str) -> Output {
        let mut child = Command::new(BINARY)
            .args(words)
            .arg("--config")
            .arg(self.path("wardstone.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that refuses at once does not read what it was given.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Starts the server and waits until it says that it is ready.
    pub fn start(self) -> Server {
        let mut words = self.through.clone();
        words.push(BINARY.into());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .arg("serve")
            .arg("--config")
            .arg(self.path("wardstone.toml"))
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut server = Server { child, folder: Arc::new(self), log, lines: vec![] };
        server.wait_for("server.ready");
        server
    }
}

/// A server that runs. Killed when dropped.
pub struct Server {
    child: Child,
    pub folder: Arc<Folder>,
    log: Receiver<String>,
    lines: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Waits for a line of `kind` in the log.
    pub fn wait_for(&mut self, kind: &str) -> Value {
        loop {
            let line = match self.log.recv_timeout(PATIENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => panic!("no {kind} in {:#?}", self.lines),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended before {kind}: {:#?}", self.lines)
                }
            };
            let parsed: Value = serde_json::from_str(&line).unwrap_or_default();
            self.lines.push(line);
            if parsed["kind"] == kind {
                return parsed;
            }
        }
    }

    fn address_of(&self, listener: &str) -> SocketAddr {
        let parsed = self.lines.iter().filter_map(|line| serde_json::from_str(line).ok());
        let mut opened = parsed
            .filter(|line: &Value| line["kind"] == "listener.open" && line["listener"] == listener);
        opened.next().unwrap()["address"].as_str().unwrap().parse().unwrap()
    }

    pub fn client(&self) -> SocketAddr {
        self.address_of("client")
    }

    pub fn sign_in(&self) -> SocketAddr {
        self.address_of("sign_in")
    }

    pub fn federation(&self) -> SocketAddr {
        self.address_of("federation")
    }

    pub fn metrics(&self) -> SocketAddr {
        self.address_of("metrics")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for the end; returns how it ended and everything it ever logged.
    pub fn wait(mut self) -> (ExitStatus, String) {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("still runs: {:#?}", self.lines),
            }
        }
        (self.child.wait().unwrap(), self.lines.join("\n"))
    }

    /// Waits for the end; returns what stays.
    pub fn into_folder(self) -> Arc<Folder> {
        let folder = self.folder.clone();
        self.wait();
        folder
    }

    pub fn stop(self) -> (ExitStatus, String) {
        self.signal("TERM");
        self.wait()
    }

    /// `wardstone WORDS --config ...`
    pub fn run(&self, words: &[&str], input: &str) -> Output {
        self.folder.run(words, input)
    }
}

/// Opens a connection on which reads give up.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The same, from an address of ours.
pub fn connect_from(from: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One answer: status and body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Reads one answer with a `Content-Length`.
pub fn read_answer(stream: &mut impl Read) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.trim().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, body: String::from_utf8(body).unwrap() }
}

/// Sends one request with a body on a new connection.
pub fn request(address: SocketAddr, method: &str, path: &str, head: &str, body: &str) -> Answer {
    let mut stream = connect(address);
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).unwrap();
    read_answer(&mut stream)
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, "", "")
}

/// Reads until the peer closes; how long that took.
pub fn wait_for_close(stream: &mut impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is a close too.
    let _ = stream.read_to_end(&mut rest);
    rest
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The mode of a file.
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
