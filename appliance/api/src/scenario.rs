//! A front desk to ring at: the whole API on one router, the memory engine below, a clock that
//! stands still until moved, seeded dice.

#![cfg(test)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use appliance_engine::Memory;
use appliance_ledger::{Blobs, Openers, SecretKey};
use appliance_model::ruma::OwnedServerName;
use appliance_model::ruma::signatures::Ed25519KeyPair;
use appliance_model::scenario::{SeededDice, StillClock};
use appliance_services::accounts::NewAccount;
use appliance_services::egress::NoWayOut;
use appliance_services::peers::{NoRemote, Outbox, Remote, Roll};
use appliance_services::sync::Waiters;
use appliance_services::{House, Options, Registration, Services};
use axum::Router;
use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::ClientAddr;

/// The server's name in every scene.
pub const SERVER: &str = "hospital.example";

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Answer {
    /// The errcode, empty if there is none.
    pub fn errcode(&self) -> &str {
        self.json["errcode"].as_str().unwrap_or_default()
    }

    /// Status and errcode.
    pub fn error(&self) -> (u16, &str) {
        (self.status, self.errcode())
    }

    /// A text of the answer.
    pub fn text(&self, name: &str) -> String {
        self.json[name].as_str().unwrap_or_else(|| panic!("no {name} in {self:?}")).to_owned()
    }

    /// The answer's JSON, which must be that of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.json);
        self.json
    }
}

/// The desk.
pub struct Desk {
    pub services: Arc<Services>,
    pub clock: Arc<StillClock>,
    /// Its disk, with a switch for everything that can go wrong.
    pub engine: Arc<Memory>,
    router: Router,
    parts: Parts,
    /// The lane lives as long as the desk.
    _lane: JoinSet<()>,
}

/// What a desk is opened with again.
struct Parts {
    server_name: String,
    master: SecretKey,
    dice: Arc<SeededDice>,
    /// A PKCS#8 document.
    signing: Vec<u8>,
    options: Options,
    roll: Arc<Roll>,
    remote: Arc<dyn Remote>,
    folder: Arc<tempfile::TempDir>,
}

/// What the operator of most scenes chose.
pub fn open_house() -> Options {
    Options {
        registration: Registration::Open,
        cheap_password_hash: true,
        rate_limits: None,
        ..Options::default()
    }
}

impl Desk {
    /// A desk where everybody may sign up.
    pub async fn new() -> Self {
        Self::with(open_house()).await
    }

    /// A desk of an operator who chose otherwise.
    pub async fn with(options: Options) -> Self {
        Self::of(SERVER, options, Arc::default(), Arc::new(NoRemote)).await
    }

    /// A desk of another hospital, with the servers that it talks with, and the way there.
    pub async fn of(
        server_name: &str,
        options: Options,
        roll: Arc<Roll>,
        remote: Arc<dyn Remote>,
    ) -> Self {
        let dice = Arc::new(SeededDice::new(1));
        let parts = Parts {
            server_name: server_name.to_owned(),
            master: SecretKey::random(&*dice),
            dice,
            signing: Ed25519KeyPair::generate().to_vec(),
            options,
            roll,
            remote,
            folder: Arc::new(tempfile::tempdir().unwrap()),
        };
        let clock = Arc::new(StillClock::at_ms(1_700_000_000_000));
        Self::start(Arc::new(Memory::new()), clock, parts).await
    }

    async fn start(engine: Arc<Memory>, clock: Arc<StillClock>, parts: Parts) -> Self {
        let waiters = Arc::new(Waiters::default());
        let openers = Openers {
            server_name: &parts.server_name,
            master_key: &parts.master,
            clock: clock.clone(),
            dice: parts.dice.clone(),
            observer: waiters.clone(),
            folder: None,
        };
        let (ledger, lane) = appliance_ledger::open(engine.clone(), openers).await.unwrap();
        let mut running = JoinSet::new();
        running.spawn(async move {
            // A lane that stops at a power cut is part of the scene.
            let _ = lane.run().await;
        });
        let blobs = Blobs::open(parts.folder.path(), &parts.master, parts.dice.clone());
        let house = Arc::new(House {
            ledger,
            blobs: blobs.unwrap(),
            clock: clock.clone(),
            dice: parts.dice.clone(),
            roll: parts.roll.clone(),
            egress: Arc::new(NoWayOut),
            remote: parts.remote.clone(),
            outbox: Outbox::default(),
            server_name: OwnedServerName::try_from(parts.server_name.as_str()).unwrap(),
            signing_key: Ed25519KeyPair::from_der(&parts.signing, "a_1".to_owned()).unwrap(),
            options: parts.options.clone(),
            appservices: Arc::default(),
            policy: Arc::default(),
        });
        let services = Arc::new(Services::new(house, waiters));
        let (router, _) = crate::router(services.clone());
        Self { services, clock, engine, router, parts, _lane: running }
    }

    /// The power goes and comes back; so many of the batches that were in doubt have reached the disk.
    pub async fn power_cut_keeping_and_restart(self, batches: usize) -> Self {
        let engine = Arc::new(self.engine.power_cut_keeping(batches));
        Self::start(engine, self.clock, self.parts).await
    }

    /// Rings. `path` is what follows `/_matrix/client`, or a whole path.
    pub async fn call(&self, method: &str, path: &str, token: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.call_raw(method, path, token, body).await
    }

    /// Rings with a body that may be anything.
    pub async fn call_raw(&self, method: &str, path: &str, token: &str, body: String) -> Answer {
        let path = match path {
            whole if whole.starts_with("/_") || whole.starts_with("/.") => whole.to_owned(),
            rest => format!("/_matrix/client{rest}"),
        };
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let address = ClientAddr(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
        let request = request.extension(address).body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status.as_u16(), headers: parts.headers, json }
    }

    /// Rings with a request of one's own; returns what came back as it is.
    pub async fn ring(&self, request: Request<Body>) -> (u16, HeaderMap, bytes::Bytes) {
        let (parts, body) = self.open(request).await.into_parts();
        (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes())
    }

    /// The same with the body still to come.
    pub async fn open(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path, token, Value::Null).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call("POST", path, token, body).await
    }

    /// Signs somebody up whose password is their name, on a device `PHONE`; returns the token.
    pub async fn sign_up(&self, name: &str) -> String {
        let body = json!({
            "username": name, "password": name, "device_id": "PHONE",
            "auth": { "type": "m.login.dummy" },
        });
        self.post("/v3/register", "", body).await.ok()["access_token"].as_str().unwrap().to_owned()
    }

    /// A desk with an administrator, whose token comes along.
    pub async fn with_chief() -> (Self, String) {
        let desk = Self::new().await;
        let token = desk.chief().await;
        (desk, token)
    }

    /// Makes an administrator called `chief`; returns the token.
    pub async fn chief(&self) -> String {
        let chief = NewAccount {
            localpart: Some("chief".to_owned()),
            password: Some("chief".to_owned()),
            administrator: true,
            ..NewAccount::default()
        };
        self.services.accounts.open_account(chief, "root").await.unwrap();
        self.sign_in("chief", "DESK").await
    }

    /// Signs somebody in on another device; returns the token.
    pub async fn sign_in(&self, name: &str, device_id: &str) -> String {
        let body = login_body(name, json!({ "device_id": device_id }));
        self.post("/v3/login", "", body).await.ok()["access_token"].as_str().unwrap().to_owned()
    }

    /// Whether a token still opens the door.
    pub async fn is_in(&self, token: &str) -> bool {
        self.get("/v3/account/whoami", token).await.status == 200
    }
}

/// A login with the password of [`Desk::sign_up`], and more.
pub fn login_body(name: &str, more: Value) -> Value {
    let mut body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": name },
        "password": name,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The `auth` of somebody of [`Desk::sign_up`].
pub fn own_password(name: &str, session: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": name },
        "password": name,
        "session": session,
    })
}
