//! Hospitals that speak to each other: Wardstones and Synapses with certificates of one authority. All
//! are called `localhost`, each with a port of its own, so that nobody's `/etc/hosts` is touched.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use appliance_acceptance::authority::certify;
use appliance_acceptance::http::Http;
use appliance_acceptance::server::{
    SHARED_SECRET, configure, free_port, log_of, order, prepared, spawn, wardstone,
};
use appliance_acceptance::wait::until;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::resident::Resident;

/// A peer to which files are given.
pub const FRIEND: [&str; 2] = ["--media", "yes"];

/// What runs at a hospital.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Wardstone,
    /// The reference.
    Synapse,
}

/// The authority that everybody in town trusts.
#[derive(Clone, Debug)]
pub struct Town {
    tls: Arc<TempDir>,
}

/// One hospital's server.
#[derive(Debug)]
pub struct Hospital {
    /// `localhost:port`.
    pub name: String,
    /// Where its people's devices connect, `127.0.0.1:port`.
    pub address: String,
    kind: Kind,
    town: Town,
    folder: TempDir,
    process: Mutex<Child>,
}

impl Town {
    /// A town with nobody in it.
    pub fn found() -> Self {
        let tls = tempfile::Builder::new().prefix("town-").tempdir().expect("a folder");
        certify(tls.path()).expect("an authority and a certificate");
        Self { tls: Arc::new(tls) }
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> std::path::PathBuf {
        self.tls.path().join("ca.pem")
    }

    /// Opens a hospital and waits until it answers.
    pub async fn open(&self, kind: Kind) -> Arc<Hospital> {
        let folder = tempfile::Builder::new().prefix("hospital-").tempdir().expect("a folder");
        let (clients, servers) = (free_port(), free_port());
        let name = format!("localhost:{servers}");
        let address = format!("127.0.0.1:{clients}");
        if kind == Kind::Wardstone {
            let settings = settings(folder.path(), self.tls.path(), &name, &address);
            configure(folder.path(), &name, &settings);
        }
        let process = Mutex::new(launch(kind, folder.path(), self.tls.path(), &name, &address));
        let hospital = Hospital { name, address, kind, town: self.clone(), folder, process };
        hospital.wait_ready().await;
        Arc::new(hospital)
    }

    /// A Wardstone and a Synapse that are on each other's list.
    pub async fn open_both(&self) -> (Arc<Hospital>, Arc<Hospital>) {
        let (ours, theirs) = tokio::join!(self.open(Kind::Wardstone), self.open(Kind::Synapse));
        ours.befriend(&theirs).await;
        (ours, theirs)
    }

    /// Two Wardstones, each of which has the other on its list with the words `flags` beside its name.
    pub async fn open_sisters(&self, flags: &[&str]) -> [Arc<Hospital>; 2] {
        let sisters = tokio::join!(self.open(Kind::Wardstone), self.open(Kind::Wardstone));
        sisters.0.describe(&sisters.1, flags).await;
        sisters.1.describe(&sisters.0, flags).await;
        sisters.into()
    }

    /// Two Wardstones as of [`Town::open_sisters`], and a Synapse that both have with `theirs`.
    pub async fn open_three(&self, ours: &[&str], theirs: &[&str]) -> [Arc<Hospital>; 3] {
        let ([one, other], synapse) =
            tokio::join!(self.open_sisters(ours), self.open(Kind::Synapse));
        for hospital in [&one, &other] {
            hospital.describe(&synapse, theirs).await;
        }
        [one, other, synapse]
    }
}

impl Hospital {
    /// What its people type in as their server.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// A raw client of it.
    pub fn http(&self) -> Http {
        Http::new(&self.address)
    }

    /// Somebody with an account and a session.
    pub async fn hire(self: &Arc<Self>, localpart: &str) -> Resident {
        let password = format!("password-of-{localpart}");
        self.enrol(localpart, &password).await;
        Resident::log_in(self, localpart, &password).await
    }

    /// An account, and no session yet.
    pub async fn enrol(&self, localpart: &str, password: &str) {
        if self.kind == Kind::Wardstone {
            self.order_with(&["user", "create", localpart], password).await;
        } else {
            let body = json!({
                "username": localpart, "password": password, "inhibit_login": true,
                "auth": { "type": "m.login.dummy" },
            });
            let path = "/_matrix/client/v3/register";
            let answer = self.http().call(http::Method::POST, path, None, Some(&body)).await;
            answer.expect("an answer").ok();
        }
    }

    /// Puts another hospital on this one's list.
    pub async fn befriend(&self, other: &Self) {
        self.describe(other, &FRIEND).await;
    }

    /// Says of another hospital what the flags of `peers add` say.
    pub async fn describe(&self, other: &Self, flags: &[&str]) {
        self.order(&[&["peers", "add", &other.name], flags].concat()).await;
    }

    /// Runs an order of the command line; returns what it says as JSON.
    pub async fn order(&self, words: &[&str]) -> Value {
        self.order_with(words, "").await
    }

    async fn order_with(&self, words: &[&str], input: &str) -> Value {
        order(&self.folder.path().join("wardstone.toml"), words, input).await
    }

    /// The ID of its process.
    pub async fn pid(&self) -> u32 {
        self.process.lock().await.id().expect("it runs")
    }

    /// Ends it as a power cut would.
    pub async fn kill(&self) {
        self.process.lock().await.kill().await.expect("kill the server");
    }

    /// Starts it again with what it had.
    pub async fn start_again(&self) {
        let tls = self.town.tls.path();
        let process = launch(self.kind, self.folder.path(), tls, &self.name, &self.address);
        *self.process.lock().await = process;
        self.wait_ready().await;
    }

    /// Everything it wrote to standard output and error.
    pub fn log(&self) -> String {
        log_of(self.folder.path())
    }

    async fn wait_ready(&self) {
        let http = self.http();
        until("a hospital's first answer", async || {
            if let Ok(Some(status)) = self.process.lock().await.try_wait() {
                panic!("{:?} ended at once with {status}:\n{}", self.kind, tail(&self.log()));
            }
            let path = "/_matrix/client/versions";
            let answer = http.call(http::Method::GET, path, None, None).await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await;
    }
}

impl Drop for Hospital {
    fn drop(&mut self) {
        // A failed test is easier to understand with what its servers said.
        if std::thread::panicking() || std::env::var("WARDSTONE_TEST_LOGS").is_ok() {
            eprintln!("--- last lines of {:?} {} ---\n{}", self.kind, self.name, tail(&self.log()));
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(150)..].join("\n")
}

fn settings(folder: &Path, tls: &Path, name: &str, address: &str) -> Value {
    // What it shows to peers that are to see a certificate comes from an authority of its own.
    let identity = folder.join("identity");
    fs::create_dir_all(&identity).expect("a folder");
    certify(&identity).expect("a certificate for clients");
    let port = name.rsplit(':').next().expect("a port");
    let pair = json!({
        "certificate_file": tls.join("server.pem"), "key_file": tls.join("server.key"),
    });
    let plenty = json!({ "per_second": 10_000.0, "burst": 10_000 });
    json!({
        "server": { "public_base_url": format!("http://{address}") },
        "listeners": [
            { "kind": "client", "address": address },
            { "kind": "federation", "address": format!("127.0.0.1:{port}"), "tls": pair },
        ],
        "federation": {
            "extra_ca_file": tls.join("ca.pem"),
            "client_certificate_file": identity.join("server.pem"),
            "client_key_file": identity.join("server.key"),
        },
        "egress": { "networks": ["127.0.0.0/8", "::1/128"] },
        "rate_limits": {
            "message": plenty, "login": plenty, "failed_login": plenty, "room": plenty,
            "media": plenty,
        },
        "log": { "level": "info" },
        "admin": { "socket": folder.join("admin.sock") },
    })
}

fn launch(kind: Kind, folder: &Path, tls: &Path, name: &str, address: &str) -> Child {
    let port = |address: &str| address.rsplit(':').next().expect("a port").to_owned();
    let command = match kind {
        Kind::Wardstone => {
            let mut command = Command::new(wardstone());
            command.args(["serve", "--config"]).arg(folder.join("wardstone.toml"));
            command
        }
        Kind::Synapse => {
            let mut command = Command::new(prepared("synapse/bin/python"));
            command
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("py/synapse.py"))
                .args(["--name", name, "--port", &port(address)])
                .args(["--federation-port", &port(name), "--presence", "--tls"])
                .arg(tls)
                .arg("--dir")
                .arg(folder.join("synapse"))
                .env("SYNAPSE_SHARED_SECRET", SHARED_SECRET);
            command
        }
    };
    spawn(command, folder)
}
