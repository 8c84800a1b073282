//! The server that the README promises a new user, started as printed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use appliance_acceptance::http::Http;
use appliance_acceptance::server::{free_port, wardstone};
use appliance_acceptance::wait::until;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// `wardstone quickstart`, as a new user starts it.
pub struct Demo {
    folder: TempDir,
    /// Where the photo page is.
    pub photo_port: u16,
    /// Where clients connect over TLS.
    pub tls_port: u16,
    http: Http,
    process: Child,
}

impl Demo {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("demo-").tempdir().expect("a folder");
        let [tls_port, http_port, metrics_port, photo_port] = [(); 4].map(|()| free_port());
        let process = Command::new(wardstone())
            .args(["quickstart", "--folder"])
            .arg(folder.path().join("wardstone-data"))
            .args(["--port", &tls_port.to_string(), "--http-port", &http_port.to_string()])
            .args(["--metrics-port", &metrics_port.to_string()])
            .args(["--photo-port", &photo_port.to_string()])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(folder.path().join("page")).expect("the page"))
            .stderr(std::fs::File::create(folder.path().join("log")).expect("the log"))
            .spawn()
            .expect("start the demo");
        let http = Http::new(&format!("127.0.0.1:{http_port}"));
        let demo = Self { folder, photo_port, tls_port, http, process };
        until("the demo's first answer", async || {
            demo.http.call(Method::GET, "/_matrix/client/versions", None, None).await.ok()
        })
        .await;
        demo
    }

    /// Its folder, for the test's own files too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn page(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("page")).expect("the page")
    }

    /// The password that the page prints beside an account.
    pub fn password(&self, localpart: &str) -> String {
        let page = self.page();
        let line = page.lines().find(|line| line.contains(&format!("@{localpart}:localhost ")));
        let password = line.and_then(|line| line.split_whitespace().nth(1));
        password.expect("a password on the page").to_owned()
    }

    pub fn authority(&self) -> PathBuf {
        let page = self.page();
        let line = page.lines().find_map(|line| line.split_once("certificate authority: "));
        PathBuf::from(line.expect("an authority on the page").1.trim())
    }

    pub async fn sign_in(&self, localpart: &str) -> String {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": localpart },
            "password": self.password(localpart),
        });
        let answer = self.call(Method::POST, "/login", "", Some(body)).await;
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Value {
        let token = Some(token).filter(|token| !token.is_empty());
        let path = format!("/_matrix/client/v3{path}");
        self.http.call(method, &path, token, body.as_ref()).await.expect("an answer").ok()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- the server ---\n{log}");
        }
    }
}
