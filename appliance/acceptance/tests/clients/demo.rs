//! The server that the README promises a new user, started as printed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use appliance_acceptance::http::{Answer, Http};
use appliance_acceptance::server::{free_port, order, wardstone};
use appliance_acceptance::wait::until;
use bytes::Bytes;
use http::Method;
use http_body_util::Full;
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
    http_port: u16,
    metrics_port: u16,
    process: Child,
}

impl Demo {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("demo-").tempdir().expect("a folder");
        let [tls_port, http_port, metrics_port, photo_port] = [(); 4].map(|()| free_port());
        let ports = [tls_port, http_port, metrics_port, photo_port];
        let process = launch(folder.path(), ports, "page");
        let http = Http::new(&format!("127.0.0.1:{http_port}"));
        let demo = Self { folder, photo_port, tls_port, http, http_port, metrics_port, process };
        demo.wait_ready().await;
        demo
    }

    async fn wait_ready(&self) {
        until("the demo's first answer", async || {
            self.http.call(Method::GET, "/_matrix/client/versions", None, None).await.ok()
        })
        .await;
    }

    /// Ends the process as a power cut would end it.
    pub fn kill(&mut self) {
        self.process.kill().expect("kill the demo");
        self.process.wait().expect("its end");
    }

    /// Starts it again with the same folder and ports.
    pub async fn start_again(&mut self) {
        let ports = [self.tls_port, self.http_port, self.metrics_port, self.photo_port];
        self.process = launch(self.folder.path(), ports, "page-again");
        self.wait_ready().await;
    }

    /// Adds a listener to the settings; a restart opens it.
    pub fn also_listens(&self, listener: &Value) {
        let dir = self.folder.path().join("wardstone-data/conf.d");
        let written = std::fs::read_to_string(dir.join("quickstart.toml")).expect("settings");
        let mut settings: toml::Value = toml::from_str(&written).expect("settings");
        let listeners = settings["listeners"].as_array_mut().expect("listeners");
        listeners.push(toml::Value::try_from(listener).expect("a listener"));
        let mut more = toml::Table::new();
        more.insert("listeners".to_owned(), settings["listeners"].clone());
        // After that of the quickstart, which is written anew at every start.
        std::fs::write(dir.join("test.toml"), more.to_string()).expect("settings");
    }

    /// Adds settings; a restart reads them.
    pub fn also_sets(&self, settings: &str) {
        let dir = self.folder.path().join("wardstone-data/conf.d");
        std::fs::write(dir.join("test-more.toml"), settings).expect("settings");
    }

    /// Where clients connect without TLS.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// Where it keeps everything.
    pub fn data_folder(&self) -> PathBuf {
        self.folder.path().join("wardstone-data/data")
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

    /// Runs an order of the command line; returns what it says as JSON.
    pub async fn order(&self, words: &[&str]) -> Value {
        order(&self.folder.path().join("wardstone-data/wardstone.toml"), words, "").await
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
        self.ask(method, &format!("/_matrix/client/v3{path}"), token, body).await.ok()
    }

    /// Uploads a picture; returns its `mxc:` URI.
    pub async fn upload(&self, token: &str, picture: Vec<u8>) -> String {
        let request = http::Request::post("/_matrix/media/v3/upload")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "image/png")
            .body(Full::new(Bytes::from(picture)))
            .expect("a request");
        let answer = self.http.send(request).await.expect("an answer").ok();
        answer["content_uri"].as_str().expect("a URI").to_owned()
    }

    /// Any request; whatever is answered.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Answer {
        let token = Some(token).filter(|token| !token.is_empty());
        self.http.call(method, path, token, body.as_ref()).await.expect("an answer")
    }
}

/// Starts the demo; what it prints goes into a file of that name, its log behind what is there.
fn launch(folder: &Path, [tls, http, metrics, photo]: [u16; 4], page: &str) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log"));
    Command::new(wardstone())
        .args(["quickstart", "--folder"])
        .arg(folder.join("wardstone-data"))
        .args(["--port", &tls.to_string(), "--http-port", &http.to_string()])
        .args(["--metrics-port", &metrics.to_string()])
        .args(["--photo-port", &photo.to_string()])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(folder.join(page)).expect("the page"))
        .stderr(log.expect("the log"))
        .spawn()
        .expect("start the demo")
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
