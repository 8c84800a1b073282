//! The list of all endpoints, and the proof that each answers as specified, for good input and bad.
//!
//! `coverage/endpoints.txt` has every endpoint of the specification, `coverage/unstable.txt` what
//! released clients call besides. Below the line that names an endpoint stand its cases:
//!
//! ```text
//! given WHO METHOD PATH [BODY] [-> NAME=/POINTER]    what has to be done first
//! good [METHOD] WHO [NAME=VALUE ...] [?QUERY] [BODY] -> STATUS [/POINTER[=JSON] ...]
//! bad  [METHOD] WHO [NAME=VALUE ...] [?QUERY] [BODY] -> STATUS ERRCODE [: why]
//! not yet                                            nobody has written it
//! ```
//!
//! WHO is somebody of the scene, `-` for nobody, `guess` for a token that is none. Variables of the
//! path have the scene's values unless the case sets them; `<name>` stands for one anywhere. Each
//! endpoint has a scene of its own. Endpoints for those signed in are asked without a token besides.

#![cfg(test)]

use std::collections::BTreeMap;

use appliance_services::accounts::OAuthOptions;
use appliance_services::{Options, Registration, Support, Turn};
use http::Method;
use serde_json::{Value, json};

use crate::scenario::{Desk, SERVER, open_house};
use crate::{Access, Route};

const STABLE: &str = include_str!("coverage/endpoints.txt");
const UNSTABLE: &str = include_str!("coverage/unstable.txt");
/// Client-server endpoints of v1.19.
const ENDPOINTS: usize = 166;

struct Endpoint {
    method: String,
    path: String,
    cases: Vec<String>,
}

impl Endpoint {
    fn is_missing(&self) -> bool {
        self.cases == ["not yet"]
    }
}

fn endpoints(list: &str) -> Vec<Endpoint> {
    let mut found: Vec<Endpoint> = Vec::new();
    for line in list.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if matches!(first, "given" | "good" | "bad" | "not") {
            found.last_mut().unwrap().cases.push(line.to_owned());
        } else {
            // What follows the path tells two uses of one path apart.
            let path = rest.split(' ').next().unwrap();
            let (method, path) = (first.to_owned(), path.to_owned());
            found.push(Endpoint { method, path, cases: Vec::new() });
        }
    }
    found
}

/// People, a room with a message, a picture: what the variables of paths stand for.
struct Scene {
    desk: Desk,
    tokens: BTreeMap<String, String>,
    values: BTreeMap<String, String>,
}

impl Scene {
    async fn new() -> Self {
        let desk = Desk::with(Options {
            registration: Registration::Open,
            public_base_url: Some("https://matrix.hospital.example".to_owned()),
            federation_address: Some("matrix.hospital.example:8448".to_owned()),
            presence: true,
            support: Support {
                page: Some("https://intranet.hospital.example/help".to_owned()),
                ..Support::default()
            },
            turn: Some(Turn::new(vec!["turn:turn.hospital.example".to_owned()], "sesame")),
            oauth: Some(OAuthOptions {
                sign_in_url: "https://login.hospital.example".to_owned(),
                api_url: "https://matrix.hospital.example".to_owned(),
                app_hosts: Vec::new(),
            }),
            rtc_livekit_url: Some("https://calls.hospital.example".to_owned()),
            ..open_house()
        })
        .await;
        let mut tokens = BTreeMap::from([
            ("-".to_owned(), String::new()),
            ("guess".to_owned(), "guess".to_owned()),
        ]);
        for name in ["nurse", "doctor", "visitor"] {
            tokens.insert(name.to_owned(), desk.sign_up(name).await);
        }
        tokens.insert("chief".to_owned(), desk.chief().await);
        let registration = json!({
            "id": "bridge", "url": null, "as_token": "as-secret-token",
            "hs_token": "hs-secret-token", "sender_localpart": "bridgebot",
            "protocols": ["pager"], "namespaces": {},
        });
        desk.services.appservices.register(registration, "chief").await.unwrap();
        tokens.insert("bridge".to_owned(), "as-secret-token".to_owned());
        let mut scene = Self { desk, tokens, values: BTreeMap::new() };
        scene.furnish().await;
        scene
    }

    async fn furnish(&mut self) {
        let nurse = self.tokens["nurse"].clone();
        let body = json!({ "preset": "public_chat", "room_alias_name": "ward" });
        let room = self.desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
        let doctor = &self.tokens["doctor"];
        self.desk.post(&format!("/v3/join/{room}"), doctor, json!({})).await.ok();
        let path = format!("/v3/rooms/{room}/send/m.room.message/furnish");
        let body = json!({ "msgtype": "m.text", "body": "Bed 4 is free" });
        let event = self.desk.call("PUT", &path, &nurse, body).await.text("event_id");
        let media = self.picture(&nurse).await;
        let reserved = self.reserved(&nurse).await;
        let reserved2 = self.reserved(&nurse).await;
        for (name, value) in [
            ("roomId", room.as_str()),
            ("room", &room),
            ("roomIdOrAlias", &room),
            ("roomAlias", "%23ward:hospital.example"),
            ("eventId", &event),
            ("event", &event),
            ("threadRoot", &event),
            ("userId", "@nurse:hospital.example"),
            ("deviceId", "PHONE"),
            ("serverName", SERVER),
            ("mediaId", &media),
            ("media", &media),
            ("reserved", &reserved),
            ("reserved2", &reserved2),
            ("fileName", "leg.png"),
            ("eventType", "m.room.message"),
            ("stateKey", ""),
            ("txnId", "txn"),
            ("receiptType", "m.read"),
            ("relType", "m.thread"),
            ("kind", "override"),
            ("ruleId", ".m.rule.master"),
            ("sessionId", "s1"),
            ("tag", "m.favourite"),
            ("protocol", "irc"),
            ("networkId", "irc"),
            ("appserviceId", "bridge"),
            ("idpId", "hospital"),
        ] {
            self.values.insert(name.to_owned(), value.to_owned());
        }
    }

    async fn picture(&self, token: &str) -> String {
        let mut png = std::io::Cursor::new(Vec::new());
        image::DynamicImage::new_rgb8(64, 64).write_to(&mut png, image::ImageFormat::Png).unwrap();
        let request = http::Request::post("/_matrix/media/v3/upload")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "image/png")
            .body(png.into_inner().into())
            .unwrap();
        let (_, _, body) = self.desk.ring(request).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        media_id(&answer)
    }

    async fn reserved(&self, token: &str) -> String {
        media_id(&self.desk.post("/_matrix/media/v1/create", token, Value::Null).await.ok())
    }

    /// `text` with the scene's values in it.
    fn fill(&self, text: &str, own: &[(&str, &str)]) -> String {
        let mut text = text.to_owned();
        for (name, value) in own {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        for (name, value) in &self.values {
            text = text.replace(&format!("<{name}>"), value);
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }

    /// Does what a case asks; says what is wrong with the answer.
    async fn play(&mut self, endpoint: &Endpoint, line: &str) -> Result<(), String> {
        let (kind, rest) = line.split_once(' ').unwrap();
        let (asked, wanted) = match rest.rsplit_once("->") {
            Some((asked, wanted)) => (asked.trim(), wanted.trim()),
            None => (rest, ""),
        };
        let (words, body) = split_body(asked);
        let mut words: Vec<&str> = words.split(' ').filter(|word| !word.is_empty()).collect();
        if kind == "given" {
            let (who, method, path) = (words[0], words[1], self.fill(words[2], &[]));
            let answer = self.ring(method, &path, who, body).await?;
            if let Some((name, pointer)) = wanted.split_once('=') {
                let value = answer.json.pointer(pointer).ok_or(format!("no {pointer}: {answer:?}"));
                self.values.insert(name.to_owned(), value?.as_str().unwrap().to_owned());
            }
            return Ok(());
        }
        let is_method = |word: &str| word.bytes().all(|byte| byte.is_ascii_uppercase());
        let method = if is_method(words[0]) { words.remove(0) } else { &endpoint.method };
        let who = words.remove(0);
        let query = match words.last() {
            Some(last) if last.starts_with('?') => words.pop().unwrap(),
            _ => "",
        };
        let own: Vec<_> = words.iter().map(|word| word.split_once('=').unwrap()).collect();
        let own: Vec<_> = own.iter().map(|(name, value)| (*name, self.fill(value, &[]))).collect();
        let own: Vec<_> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let path = self.fill(&format!("{}{query}", endpoint.path), &own);
        let answer = self.ring(method, &path, who, body).await?;
        let (status, more) = wanted.split_once(' ').unwrap_or((wanted, ""));
        if answer.status.to_string() != status {
            return Err(format!("is no {status}: {answer:?}"));
        }
        let more = more.split(" : ").next().unwrap();
        for check in more.split(' ').filter(|check| !check.is_empty()) {
            self.check(&answer, check)?;
        }
        match kind {
            "bad" if answer.status < 400 => Err(format!("is no error: {answer:?}")),
            "good" if answer.status >= 400 => Err(format!("is an error: {answer:?}")),
            "good" if !more.contains('*') && answer.json.is_null() => {
                Err(format!("is no JSON: {answer:?}"))
            }
            _ => Ok(()),
        }
    }

    fn check(&self, answer: &crate::scenario::Answer, check: &str) -> Result<(), String> {
        if check == "*" {
            return Ok(());
        }
        if !check.starts_with('/') {
            let has = answer.errcode() == check && answer.json["error"].is_string();
            return if has { Ok(()) } else { Err(format!("is no {check}: {answer:?}")) };
        }
        let (pointer, wanted) = match check.split_once('=') {
            Some((pointer, wanted)) => (pointer, Some(self.fill(wanted, &[]))),
            None => (check, None),
        };
        let Some(value) = answer.json.pointer(&self.fill(pointer, &[])) else {
            return Err(format!("has no {pointer}: {answer:?}"));
        };
        let is = |wanted: &str| {
            serde_json::from_str::<Value>(wanted).unwrap_or_else(|_| wanted.into()) == *value
        };
        match wanted {
            Some(wanted) if !is(&wanted) => Err(format!("{pointer} is not {wanted}: {answer:?}")),
            _ => Ok(()),
        }
    }

    async fn ring(
        &self,
        method: &str,
        path: &str,
        who: &str,
        body: &str,
    ) -> Result<crate::scenario::Answer, String> {
        let token = self.tokens.get(who).ok_or(format!("nobody is called {who}"))?;
        Ok(self.desk.call_raw(method, path, token, self.fill(body, &[])).await)
    }
}

fn media_id(answer: &Value) -> String {
    answer["content_uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
}

/// The body is what starts with the first brace that is not a part of a word.
fn split_body(asked: &str) -> (&str, &str) {
    match asked.find(" {") {
        Some(at) => (&asked[..at], asked[at..].trim()),
        None => (asked, ""),
    }
}

/// A path whose variables have no names.
fn shape(path: &str) -> String {
    let nameless = |part: &str| if part.contains('{') { "{}".to_owned() } else { part.to_owned() };
    path.split('/').map(nameless).collect::<Vec<_>>().join("/")
}

fn route_of<'a>(routes: &'a [Route], endpoint: &Endpoint) -> Option<&'a Route> {
    let wanted = (Method::from_bytes(endpoint.method.as_bytes()).unwrap(), shape(&endpoint.path));
    routes.iter().find(|route| (route.method.clone(), shape(route.path)) == wanted)
}

/// Plays all cases of a list; returns what is wrong, and how many endpoints are there.
async fn play_all(list: &str) -> (Vec<String>, usize) {
    let (mut wrong, mut served) = (Vec::new(), 0);
    for endpoint in endpoints(list) {
        let name = format!("{} {}", endpoint.method, endpoint.path);
        if endpoint.is_missing() {
            say(&format!("not yet: {name}"));
            continue;
        }
        served += 1;
        let mut scene = Scene::new().await;
        let (_, routes) = crate::router(scene.desk.services.clone());
        if endpoint.cases.iter().all(|case| !case.starts_with("bad")) {
            wrong.push(format!("{name}: has no case of bad input"));
        }
        if route_of(&routes, &endpoint).is_some_and(|route| route.access == Access::SignedIn) {
            let stranger = "bad - -> 401 M_MISSING_TOKEN";
            if let Err(error) = scene.play(&endpoint, stranger).await {
                wrong.push(format!("{name}: {stranger}: {error}"));
            }
        }
        let is_given = |case: &&String| case.starts_with("given");
        let (given, asked): (Vec<_>, Vec<_>) = endpoint.cases.iter().partition(is_given);
        // What is bad first: what is good may end the session that asks.
        let (bad, good): (Vec<_>, Vec<_>) = asked.iter().partition(|case| case.starts_with("bad"));
        for case in given.into_iter().chain(bad).chain(good) {
            if let Err(error) = scene.play(&endpoint, case).await {
                wrong.push(format!("{name}: {case}: {error}"));
            }
        }
    }
    (wrong, served)
}

#[expect(clippy::print_stdout, reason = "what is missing is for people to read")]
fn say(what: &str) {
    println!("{what}");
}

#[test]
fn the_list_has_every_endpoint_once() {
    let all = endpoints(STABLE);
    assert_eq!(all.len(), ENDPOINTS);
    let of = |endpoint: &Endpoint| format!("{} {}", endpoint.method, endpoint.path);
    let mut names: Vec<_> = all.iter().map(of).collect();
    names.sort();
    let twice: Vec<_> =
        names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].as_str()).collect();
    // The specification describes these two twice, with different parameters.
    let invite = "POST /_matrix/client/v3/rooms/{roomId}/invite";
    assert_eq!(twice, ["GET /_matrix/client/v3/events", invite]);
}

#[tokio::test]
async fn every_endpoint_answers_as_specified() {
    let (wrong, served) = play_all(STABLE).await;
    say(&format!("{served}/{ENDPOINTS} endpoints of v1.19"));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn every_unstable_path_answers_as_proposed() {
    let (wrong, served) = play_all(UNSTABLE).await;
    say(&format!("{served}/{} unstable paths", endpoints(UNSTABLE).len()));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
