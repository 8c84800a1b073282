//! Hospitals in one town, for tests: a desk each, and a line between them that can be cut.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use appliance_model::ruma::api::federation::authentication::{XMatrix, XMatrixSigningInput};
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_services::egress::{Failure, Limits, Opened};
use appliance_services::peers::{MediaMode, PeerChange, Remote, Roll};
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http::Request;
use http::header::AUTHORIZATION;
use serde_json::Value;
use tower::ServiceExt;

use crate::scenario::{Desk, open_house};

/// The line: whoever is connected can be reached by name.
#[derive(Default)]
pub struct Line {
    routers: Mutex<HashMap<OwnedServerName, Router>>,
    down: Mutex<HashSet<OwnedServerName>>,
    /// Method, path and status of every request so far.
    pub rung: Mutex<Vec<(String, String, u16)>>,
}

impl Line {
    /// A server is up or down.
    pub fn set_up(&self, server: &str, is_up: bool) {
        let server = ServerName::parse(server).unwrap();
        let mut down = self.down.lock().unwrap();
        if is_up {
            down.remove(&server)
        } else {
            down.insert(server)
        };
    }

    /// From now on this desk answers under its name.
    fn connect(&self, desk: &Desk) {
        let (router, _) = crate::peer_router(desk.services.clone());
        let name = desk.services.house.server_name.clone();
        self.routers.lock().unwrap().insert(name, router);
    }

    /// Rings at the server's door for servers.
    pub async fn ring(&self, server: &ServerName, request: Request<Body>) -> Option<Opened> {
        if self.down.lock().unwrap().contains(server) {
            return None;
        }
        let router = self.routers.lock().unwrap().get(server).cloned()?;
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        self.rung.lock().unwrap().push((method, path, parts.status.as_u16()));
        // It comes as it is read, and breaks off where it does.
        let broken = |error: axum::Error| Failure::Unreachable(format!("{error}"));
        let body = Box::pin(body.into_data_stream().map_err(broken));
        Some(Opened { status: parts.status, headers: parts.headers, body })
    }
}

/// One hospital's end of the line.
struct End(Arc<Line>);

#[async_trait]
impl Remote for End {
    async fn send(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        _: Limits,
    ) -> Result<Opened, Failure> {
        let answer = self.0.ring(server, request.map(Body::from)).await;
        answer.ok_or_else(|| Failure::Unreachable("the line is cut".to_owned()))
    }

    fn look_again(&self, _: &ServerName) {}
}

/// The town.
pub struct Town {
    pub line: Arc<Line>,
    desks: Vec<Desk>,
}

impl Town {
    /// Hospitals that all have each other on their lists.
    pub async fn of(servers: &[&str]) -> Self {
        let lists: Vec<_> = servers.iter().map(|server| (*server, servers.to_vec())).collect();
        Self::with_lists(&lists).await
    }

    /// Hospitals and whom each has on its list.
    pub async fn with_lists(lists: &[(&str, Vec<&str>)]) -> Self {
        let line = Arc::new(Line::default());
        let mut desks = Vec::new();
        for (server, list) in lists {
            let roll = Roll::of(list.iter().map(|name| ServerName::parse(*name).unwrap()));
            let end = Arc::new(End(line.clone()));
            let desk = Desk::of(server, open_house(), Arc::new(roll), end).await;
            line.connect(&desk);
            desks.push(desk);
        }
        Self { line, desks }
    }

    /// The power goes at a hospital and comes back; so many of the batches that were in doubt have reached its
    /// disk.
    pub async fn power_cut(&mut self, index: usize, batches: usize) {
        let desk = self.desks.remove(index).power_cut_keeping_and_restart(batches).await;
        self.line.connect(&desk);
        self.desks.insert(index, desk);
    }

    /// The desk of a hospital.
    pub fn desk(&self, index: usize) -> &Desk {
        &self.desks[index]
    }

    /// A request of a hospital to a server, signed.
    pub fn signed(
        &self,
        from: usize,
        to: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> Request<Body> {
        let house = &self.desks[from].services.house;
        let body = body.to_owned();
        let mut request = Request::builder().method(method).uri(path).body(body).unwrap();
        let to = ServerName::parse(to).unwrap();
        let input = XMatrixSigningInput::new(house.server_name.clone(), to, &house.signing_key);
        // What is no JSON cannot be signed; the signature of nothing is as good there.
        let header = XMatrix::sign_http_request(&request, input.clone())
            .or_else(|_| XMatrix::sign_http_request(&Request::new(""), input))
            .unwrap();
        request.headers_mut().insert(AUTHORIZATION, (&header).into());
        request.map(Body::from)
    }

    /// Rings at a server's door for servers: status and JSON.
    pub async fn ring(&self, server: &str, request: Request<Body>) -> (u16, Value) {
        let server = ServerName::parse(server).unwrap();
        let mut opened = self.line.ring(&server, request).await.expect("the line is up");
        let mut bytes = Vec::new();
        while let Some(piece) = opened.body.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        (opened.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// One hospital asks another. `path` is what follows `/_matrix/federation/v1`, or a whole path.
    pub async fn ask(
        &self,
        from: usize,
        to: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let path = match path {
            whole if whole.starts_with("/_") => whole.to_owned(),
            rest => format!("/_matrix/federation/v1{rest}"),
        };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.ring(to, self.signed(from, to, method, &path, &body)).await
    }

    /// A room of the first hospital, with somebody of the second in it.
    pub async fn share(&self, host: &str, guest: &str, policy: Value) -> String {
        let body = serde_json::json!({
            "preset": "public_chat",
            "initial_state": [{ "type": "io.wardstone.policy", "content": policy }],
        });
        let room = self.desks[0].post("/v3/createRoom", host, body).await.text("room_id");
        let via = &self.desks[0].services.house.server_name;
        let path = format!("/v3/join/{room}?via={via}");
        self.desks[1].post(&path, guest, serde_json::json!({})).await.ok();
        room
    }

    /// Shows a file (`server/id`) of the first hospital in a room.
    pub async fn show(&self, token: &str, room: &str, file: &str) {
        let url = format!("mxc://{file}");
        let content = serde_json::json!({ "msgtype": "m.image", "body": "wound.png", "url": url });
        let txn_id = file.replace('/', "-");
        let path = format!("/v3/rooms/{room}/send/m.room.message/{txn_id}");
        self.desks[0].call("PUT", &path, token, content).await.ok();
    }

    /// A hospital exchanges files with another.
    pub async fn allow_media(&self, index: usize, server: &str) {
        let server = ServerName::parse(server).unwrap();
        let change = PeerChange { media: Some(MediaMode::Allow), ..PeerChange::default() };
        self.desks[index].services.peers.describe(&server, change, "uid 0").await.unwrap();
    }
}
