//! A server of its own for each test: started, killed, started again, its log kept.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::http::Http;
use crate::wait::until;

/// The name after the colon in every user ID of the suite.
pub const SERVER_NAME: &str = "ward.example";

/// The secret of Synapse's shared-secret registration, which both kinds of server offer.
pub const SHARED_SECRET: &str = "planted-registration-secret-6a1f";

/// Where a server's words go.
const LOGS: [&str; 2] = ["stdout.log", "stderr.log"];

/// Which server runs behind the scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Wardstone,
    /// The reference, to check the suite itself.
    Synapse,
}

impl Kind {
    /// What `WARDSTONE_TEST_TARGET` asks for; Wardstone unless it says `synapse`.
    ///
    /// # Panics
    ///
    /// On any other value.
    pub fn wanted() -> Self {
        match std::env::var("WARDSTONE_TEST_TARGET").as_deref() {
            Err(_) | Ok("wardstone") => Self::Wardstone,
            Ok("synapse") => Self::Synapse,
            Ok(other) => panic!("WARDSTONE_TEST_TARGET: wardstone or synapse, not {other}"),
        }
    }
}

/// How the server under test differs from its defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engine under the ledger: `lmdb` or `sled`.
    pub engine: &'static str,
    /// How long an uploaded file lives.
    pub media_ttl_ms: u64,
    /// `info`, `trace`, ...
    pub log_level: &'static str,
    /// Registrations of application services, as they are written in a file.
    pub appservices: Vec<Value>,
}

impl Default for Options {
    fn default() -> Self {
        let media_ttl_ms = 7 * 24 * 3_600_000;
        Self { engine: "lmdb", media_ttl_ms, log_level: "info", appservices: Vec::new() }
    }
}

/// A running server and its folder; dropping it ends both.
#[derive(Debug)]
pub struct Server {
    /// What runs.
    pub kind: Kind,
    /// How it was set up.
    pub options: Options,
    /// `127.0.0.1:port`, the same after a restart, so that clients find it again.
    pub address: String,
    folder: TempDir,
    process: Child,
}

impl Server {
    /// Starts a server with an empty store and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn start(options: Options) -> Self {
        let kind = Kind::wanted();
        let folder = tempfile::Builder::new().prefix("acceptance-").tempdir().expect("a folder");
        let address = format!("127.0.0.1:{}", free_port());
        if kind == Kind::Wardstone {
            let settings = settings(folder.path(), &address, &options);
            configure(folder.path(), SERVER_NAME, &settings);
        }
        let process = launch(kind, folder.path(), &address);
        let mut server = Self { kind, options, address, folder, process };
        server.wait_ready().await;
        server
    }

    /// The URL clients are given.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A new raw client.
    pub fn http(&self) -> Http {
        Http::new(&self.address)
    }

    /// Runs an order of the command line (ours only); returns what it says as JSON.
    pub async fn order(&self, words: &[&str]) -> Value {
        order(&self.folder.path().join("wardstone.toml"), words, "").await
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the process as a power cut would end it: without a word. Returns when it is gone.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("kill the server");
    }

    /// Starts it again with the same folder and address, and waits until it answers.
    pub async fn start_again(&mut self) {
        self.process = launch(self.kind, self.folder.path(), &self.address);
        self.wait_ready().await;
    }

    /// Starts it and kills it again before it is ready: recovery itself may be interrupted.
    /// `step` chooses how soon.
    pub async fn start_and_kill(&mut self, step: u64) {
        self.process = launch(self.kind, self.folder.path(), &self.address);
        sleep(Duration::from_millis(step % 40)).await;
        self.kill().await;
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Everything the server wrote to standard output and error, over all its lives.
    pub fn log(&self) -> String {
        log_of(self.folder.path())
    }

    /// Resident memory in bytes.
    ///
    /// # Panics
    ///
    /// If the process is gone.
    pub fn resident_bytes(&self) -> u64 {
        let id = self.process.id().expect("the server runs");
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("the server runs");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS in status");
        let kib = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
        kib.expect("a number of KiB") * 1024
    }

    async fn wait_ready(&mut self) {
        let http = self.http();
        until("the server's first answer", async || {
            if let Ok(Some(status)) = self.process.try_wait() {
                panic!("the server ended at once with {status}:\n{}", self.log_tail());
            }
            let path = "/_matrix/client/versions";
            let answer = http.call(http::Method::GET, path, None, None).await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await;
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The child is killed on drop; a failed test is easier to understand with its log.
        if std::thread::panicking() {
            eprintln!("--- the server's last lines ---\n{}", self.log_tail());
        }
    }
}

/// A port nobody listens on. Another process could take it before the server does; the server then
/// fails to start, loudly.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    listener.local_addr().expect("a bound port").port()
}

/// Prepares a server as an operator does, and lays what a test needs over its settings.
///
/// # Panics
///
/// If it cannot be prepared, saying why.
pub fn configure(folder: &Path, name: &str, settings: &Value) {
    let prepared = std::process::Command::new(wardstone())
        .args(["init", "--name", name, "--config"])
        .arg(folder.join("wardstone.toml"))
        .arg("--data-dir")
        .arg(folder.join("data"))
        .output()
        .expect("run `wardstone init`");
    assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
    let over = folder.join("conf.d");
    fs::create_dir_all(&over).expect("conf.d");
    let text = toml::to_string(settings).expect("settings as TOML");
    fs::write(over.join("test.toml"), text).expect("the test's settings");
}

/// Starts a server, whose words go to files in its folder: [`log_of`] reads them.
///
/// # Panics
///
/// If it cannot be started.
pub fn spawn(mut command: Command, folder: &Path) -> Child {
    let log = |name: &str| {
        let file = File::options().create(true).append(true).open(folder.join(name));
        Stdio::from(file.expect("a log file"))
    };
    let program = command.as_std().get_program().to_owned();
    command
        .stdin(Stdio::null())
        .stdout(log(LOGS[0]))
        .stderr(log(LOGS[1]))
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("start {program:?}: {e}; run `make test` once, it prepares all"))
}

/// Everything that a server of this folder wrote to standard output and error, over all its lives.
pub fn log_of(folder: &Path) -> String {
    let mut bytes = Vec::new();
    for stream in LOGS {
        if let Ok(mut file) = File::open(folder.join(stream)) {
            file.read_to_end(&mut bytes).expect("read the server's log");
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn settings(folder: &Path, address: &str, options: &Options) -> Value {
    let registrations = folder.join("appservices");
    fs::create_dir_all(&registrations).expect("a folder of registrations");
    for (index, registration) in options.appservices.iter().enumerate() {
        // JSON is YAML.
        let file = registrations.join(format!("{index}.yaml"));
        fs::write(file, registration.to_string()).expect("a registration");
    }
    json!({
        "server": { "public_base_url": format!("http://{address}") },
        "listeners": [{ "kind": "client", "address": address }],
        "store": { "engine": options.engine },
        "registration": { "shared_secret": SHARED_SECRET },
        "media": { "ttl_ms": options.media_ttl_ms },
        "log": { "level": options.log_level },
        "admin": { "socket": folder.join("admin.sock") },
        "appservices": { "registrations_dir": registrations },
    })
}

fn launch(kind: Kind, folder: &Path, address: &str) -> Child {
    let command = match kind {
        Kind::Wardstone => {
            let mut command = Command::new(wardstone());
            command.args(["serve", "--conformance", "--config"]).arg(folder.join("wardstone.toml"));
            command
        }
        Kind::Synapse => {
            let port = address.rsplit(':').next().expect("host:port");
            let mut command = Command::new(prepared("synapse/bin/python"));
            command
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("py/synapse.py"))
                .args(["--name", SERVER_NAME, "--port", port, "--dir"])
                .arg(folder.join("synapse"))
                .env("SYNAPSE_SHARED_SECRET", SHARED_SECRET);
            command
        }
    };
    spawn(command, folder)
}

/// The binary under test: `WARDSTONE_BIN`, or the one Cargo built beside this test.
pub fn wardstone() -> PathBuf {
    if let Some(given) = std::env::var_os("WARDSTONE_BIN") {
        return given.into();
    }
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let binary = profile.join("wardstone");
    assert!(
        binary.exists(),
        "{} is missing: `cargo build -p appliance-server`, or set WARDSTONE_BIN",
        binary.display()
    );
    binary
}

/// Runs an order of the command line, with `input` on its standard input; returns what it says as JSON.
///
/// # Panics
///
/// If the order is refused, saying why.
pub async fn order(config: &Path, words: &[&str], input: &str) -> Value {
    let mut child = Command::new(wardstone())
        .args(words)
        .args(["--json", "--config"])
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run an order");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(format!("{input}\n").as_bytes()).await.expect("a pipe");
    drop(stdin);
    let output = child.wait_with_output().await.expect("an order ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "wardstone {words:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The folder that `prepare` installs into, and reports go to.
pub fn tools() -> PathBuf {
    let folder = std::env::var_os("WARDSTONE_TEST_TOOLS").map(PathBuf::from);
    folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/acceptance"))
}

/// Something that `prepare` installed.
///
/// # Panics
///
/// If it is not there, saying what to run.
pub fn prepared(what: &str) -> PathBuf {
    let path = tools().join(what);
    assert!(path.exists(), "{} is missing: run appliance/acceptance/prepare first", path.display());
    path
}
