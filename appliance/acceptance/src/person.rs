//! People: accounts made the way the test needs them, and what they know that no log may show.

use aws_lc_rs::{digest, hmac};
use http::Method;
use serde_json::{Value, json};

use crate::http::Http;
use crate::server::{SERVER_NAME, SHARED_SECRET, Server};

/// Somebody with an account.
#[derive(Clone, Debug)]
pub struct Person {
    /// The part before the colon.
    pub localpart: String,
    /// Theirs alone.
    pub password: String,
}

impl Person {
    /// A name and a password that occur nowhere else, so that a log can be searched for them.
    pub fn named(localpart: &str) -> Self {
        Self { localpart: localpart.into(), password: format!("planted-password-of-{localpart}") }
    }

    /// `@localpart:server`.
    pub fn user_id(&self) -> String {
        format!("@{}:{SERVER_NAME}", self.localpart)
    }

    /// Makes the account and a first device, without an SDK.
    pub async fn sign_up(&self, server: &Server) -> Session {
        let http = server.http();
        let body = json!({
            "username": self.localpart,
            "password": self.password,
            "auth": { "type": "m.login.dummy" },
        });
        let path = "/_matrix/client/v3/register";
        let answer = http.call(Method::POST, path, None, Some(&body)).await.expect("an answer");
        Session::from(http, answer.ok())
    }

    /// Makes the account with the registration secret, as an operator's script does.
    pub async fn hire(&self, server: &Server, admin: bool) -> Session {
        let http = server.http();
        let path = "/_synapse/admin/v1/register";
        let nonce = http.call(Method::GET, path, None, None).await.expect("an answer").ok();
        let nonce = nonce["nonce"].as_str().expect("a nonce").to_owned();
        let body = json!({
            "nonce": nonce,
            "username": self.localpart,
            "password": self.password,
            "admin": admin,
            "mac": self.registration_mac(&nonce, admin),
        });
        let answer = http.call(Method::POST, path, None, Some(&body)).await.expect("an answer");
        Session::from(http, answer.ok())
    }

    /// Logs in with the password, as a new device.
    pub async fn log_in(&self, server: &Server) -> Session {
        let http = server.http();
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": self.localpart },
            "password": self.password,
        });
        let path = "/_matrix/client/v3/login";
        let answer = http.call(Method::POST, path, None, Some(&body)).await.expect("an answer");
        Session::from(http, answer.ok())
    }

    /// HMAC-SHA1 over nonce, name, password and role, as Synapse's documentation defines it.
    fn registration_mac(&self, nonce: &str, admin: bool) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, SHARED_SECRET.as_bytes());
        let role = if admin { "admin" } else { "notadmin" };
        let message = [nonce, &self.localpart, &self.password, role].join("\0");
        hex(hmac::sign(&key, message.as_bytes()).as_ref())
    }
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A logged-in device without an SDK: raw requests with its token.
#[derive(Debug)]
pub struct Session {
    /// `@localpart:server`.
    pub user_id: String,
    /// The device.
    pub device_id: String,
    /// Its access token.
    pub token: String,
    /// Its connection.
    pub http: Http,
}

impl Session {
    fn from(http: Http, answer: Value) -> Self {
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        let session = Self {
            user_id: text("user_id"),
            device_id: text("device_id"),
            token: text("access_token"),
            http,
        };
        assert!(!session.token.is_empty(), "no access token in the answer to a log-in");
        session
    }

    /// `GET`, expecting success.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.http.call(Method::GET, path, Some(&self.token), None).await;
        answer.unwrap_or_else(|e| panic!("GET {path}: {}", e.0)).ok()
    }

    /// `POST`, expecting success.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.http.call(Method::POST, path, Some(&self.token), Some(&body)).await;
        answer.unwrap_or_else(|e| panic!("POST {path}: {}", e.0)).ok()
    }

    /// `PUT`, expecting success.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        let answer = self.http.call(Method::PUT, path, Some(&self.token), Some(&body)).await;
        answer.unwrap_or_else(|e| panic!("PUT {path}: {}", e.0)).ok()
    }
}
