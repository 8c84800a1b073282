//! synadm, the operator's tool for Synapse, unmodified, at the administrators' desk.

use std::path::PathBuf;
use std::process::Stdio;

use appliance_acceptance::person::{Person, Session};
use appliance_acceptance::server::{Options, SERVER_NAME, Server, prepared};
use appliance_acceptance::wait::until;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::process::Command;

/// The tool on an administrator's computer.
struct Synadm {
    home: PathBuf,
}

impl Synadm {
    /// Set up as its manual says, with a file of settings.
    fn of(server: &Server, chief: &Session) -> Self {
        let home = server.scratch().join("chief");
        std::fs::create_dir_all(&home).expect("a home");
        let settings = json!({
            "user": chief.user_id, "token": chief.token, "protocol": "http",
            "base_url": server.base_url(), "admin_path": "/_synapse/admin",
            "matrix_path": "/_matrix", "format": "minified", "timeout": 60,
            "server_discovery": "well-known", "homeserver": SERVER_NAME, "ssl_verify": true,
        });
        // JSON is YAML.
        std::fs::write(home.join("synadm.yaml"), settings.to_string()).expect("its settings");
        Self { home }
    }

    /// Runs a command; returns what it shows.
    async fn shows(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(prepared("synadm/bin/synadm"));
        command
            .args(["--batch", "--output", "minified", "--config-file"])
            .arg(self.home.join("synadm.yaml"))
            .args(arguments)
            .env("HOME", &self.home)
            .stdin(Stdio::null());
        let output = command.output().await.expect("run synadm");
        let (shown, said) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "synadm {arguments:?}: {shown}\n{said}");
        assert!(!said.contains("Traceback"), "synadm {arguments:?}: {said}");
        shown
    }

    /// Runs a command; returns the last thing that it shows.
    async fn run(&self, arguments: &[&str]) -> Value {
        let shown = self.shows(arguments).await;
        let last = shown.lines().rev().find_map(|line| serde_json::from_str(line).ok());
        assert!(last.is_some(), "synadm {arguments:?} shows no JSON: {shown}");
        last.unwrap_or_default()
    }

    /// Runs a command that the server does as it is told.
    async fn does(&self, arguments: &[&str]) -> Value {
        let shown = self.run(arguments).await;
        assert!(shown.get("errcode").is_none(), "synadm {arguments:?}: {shown}");
        shown
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn upload(session: &Session, name: &str, bytes: &'static [u8]) -> String {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/_matrix/media/v3/upload?filename={name}"))
        .header(AUTHORIZATION, format!("Bearer {}", session.token))
        .header(CONTENT_TYPE, "text/plain")
        .body(Full::new(Bytes::from_static(bytes)))
        .expect("a request");
    let answer = session.http.send(request).await.expect("an answer").ok();
    answer["content_uri"].as_str().expect("an mxc URI").to_owned()
}

async fn ward() -> (Server, Synadm, Session) {
    let server = Server::start(Options::default()).await;
    let chief = Person::named("chief").hire(&server, true).await;
    let synadm = Synadm::of(&server, &chief);
    (server, synadm, chief)
}

#[tokio::test]
async fn synadm_keeps_the_accounts() {
    let (server, synadm, _) = ward().await;
    let who = synadm.does(&["matrix", "raw", "client/v3/account/whoami"]).await;
    assert_eq!(who["user_id"], format!("@chief:{SERVER_NAME}"));
    assert!(synadm.does(&["version"]).await["server_version"].is_string());

    let nurse = format!("@nurse:{SERVER_NAME}");
    let made = ["user", "modify", "nurse", "--password", "planted", "--display-name", "Nurse Joy"];
    let made = synadm.does(&made).await;
    assert_eq!((&made["name"], &made["displayname"]), (&json!(nurse), &json!("Nurse Joy")));
    let phone = Person { localpart: "nurse".into(), password: "planted".into() };
    let phone = phone.log_in(&server).await;
    let details = synadm.does(&["user", "details", "nurse"]).await;
    assert_eq!(details["admin"], false);
    assert!(details["creation_ts"].is_u64() && details["threepids"] == json!([]), "{details}");
    let list = synadm.does(&["user", "list", "--name", "joy"]).await;
    assert_eq!((&list["total"], &list["users"][0]["name"]), (&json!(1), &json!(nurse)));
    synadm.does(&["user", "modify", "nurse", "--admin"]).await;
    let list = synadm.does(&["user", "list", "--admins"]).await;
    assert_eq!(list["total"], 2);
    synadm.does(&["user", "modify", "nurse", "--no-admin", "--user-type", "bot"]).await;
    let list = synadm.does(&["user", "list", "--exclude-user-type", "bot"]).await;
    assert_eq!(list["total"], 1, "{list}");
    synadm.does(&["user", "modify", "nurse", "--user-type", "regular"]).await;
    let whois = synadm.does(&["user", "whois", "nurse"]).await;
    assert_eq!(whois["user_id"], nurse.as_str());
    let found = synadm.run(&["user", "search", "nurse"]).await;
    assert_eq!(found["users"][0]["name"], nurse.as_str());

    // To be someone else, an administrator says why; the tool cannot by itself, and is told how.
    let refused = synadm.run(&["user", "login", "nurse"]).await;
    assert_eq!(refused["errcode"], "M_FORBIDDEN");
    assert!(refused["error"].as_str().expect("a sentence").contains("synadm raw"), "{refused}");
    let path = format!("v1/users/{}/login", nurse.replace(':', "%3A").replace('@', "%40"));
    let entered = ["raw", "--method", "post", "--data", r#"{"reason": "ticket 4711"}"#, &path];
    let entered = synadm.does(&entered).await["access_token"].as_str().map(str::to_owned);
    assert!(entered.is_some_and(|token| !token.is_empty()));
    let asked = format!("{path}?reason=ticket%204712");
    assert!(synadm.does(&["raw", "--method", "post", &asked]).await["access_token"].is_string());

    synadm.does(&["user", "password", "nurse", "--password", "another", "--no-logout"]).await;
    phone.get("/_matrix/client/v3/account/whoami").await;
    synadm.does(&["user", "suspend", "nurse"]).await;
    assert_eq!(synadm.does(&["user", "details", "nurse"]).await["suspended"], true);
    synadm.does(&["user", "deactivate", "nurse"]).await;
    assert_eq!(synadm.does(&["user", "details", "nurse"]).await["deactivated"], true);
    let path = "/_matrix/client/v3/account/whoami";
    let gone = phone.http.call(Method::GET, path, Some(&phone.token), None).await;
    assert_eq!(gone.expect("an answer").status, 401, "its sessions ended");
    assert_eq!(synadm.does(&["user", "list"]).await["total"], 1);
    assert_eq!(synadm.does(&["user", "list", "--deactivated"]).await["total"], 2);
    let missing = synadm.run(&["user", "details", "nobody"]).await;
    assert_eq!(missing["errcode"], "M_NOT_FOUND");
}

#[tokio::test]
async fn synadm_gives_out_registration_tokens() {
    let (_server, synadm, _) = ward().await;
    let made = ["regtok", "new", "--token", "spring-intake", "--uses-allowed", "2"];
    let made = synadm.does(&made).await;
    assert_eq!((&made["token"], &made["uses_allowed"]), (&json!("spring-intake"), &json!(2)));
    let random = synadm.does(&["regtok", "new", "--length", "24"]).await;
    assert_eq!(random["token"].as_str().map(str::len), Some(24), "{random}");
    let list = synadm.does(&["regtok", "list", "--valid"]).await;
    assert_eq!(list["registration_tokens"].as_array().map(Vec::len), Some(2), "{list}");
    let spent = ["regtok", "update", "spring-intake", "--uses-allowed", "-1", "--expiry-ts", "1"];
    let past = synadm.run(&spent).await;
    assert_eq!(past["errcode"], "M_INVALID_PARAM", "a time that is over: {past}");
    let changed = synadm.does(&["regtok", "update", "spring-intake", "--uses-allowed", "-1"]).await;
    assert_eq!(changed["uses_allowed"], Value::Null, "without end: {changed}");
    let details = synadm.does(&["regtok", "details", "spring-intake"]).await;
    assert_eq!((&details["completed"], &details["pending"]), (&json!(0), &json!(0)));
    let gone = synadm.shows(&["regtok", "delete", "spring-intake"]).await;
    assert!(gone.contains("successfully deleted"), "{gone}");
    let missing = synadm.run(&["regtok", "details", "spring-intake"]).await;
    assert_eq!(missing["errcode"], "M_NOT_FOUND");
}

#[tokio::test]
async fn synadm_keeps_rooms_and_files() {
    let (server, synadm, _) = ward().await;
    let nurse = Person::named("nurse").hire(&server, false).await;
    let doctor = Person::named("doctor").hire(&server, false).await;
    let body = json!({
        "name": "Ward 4", "preset": "public_chat", "room_alias_name": "ward",
        "room_version": "11",
    });
    let room = nurse.post("/_matrix/client/v3/createRoom", body).await;
    let room = room["room_id"].as_str().expect("a room").to_owned();
    let list = synadm.does(&["room", "list", "--name", "ward"]).await;
    assert_eq!((&list["total_rooms"], &list["rooms"][0]["room_id"]), (&json!(1), &json!(room)));
    let details = synadm.does(&["room", "details", &room]).await;
    assert_eq!((&details["name"], &details["version"]), (&json!("Ward 4"), &json!("11")));
    let alias = format!("#ward:{SERVER_NAME}");
    let resolved = synadm.does(&["room", "resolve", &alias]).await;
    assert_eq!(resolved, room.as_str());
    synadm.does(&["room", "join", &alias, "doctor"]).await;
    let members = synadm.does(&["room", "members", &room]).await;
    assert_eq!(members["total"], 2);
    let state = synadm.does(&["room", "state", &room]).await;
    let state = state["state"].as_array().expect("state").clone();
    assert!(state.iter().any(|event| event["type"] == "m.room.create"));
    let powers = synadm.does(&["room", "power-levels", "--room-id", &room]).await;
    assert_eq!(powers["rooms"][0]["power_levels"][&nurse.user_id], 100, "{powers}");
    let of_doctor = synadm.does(&["user", "membership", "doctor"]).await;
    assert_eq!(of_doctor["total"], 1);

    let refused = synadm.run(&["room", "make-admin", &room, "--user-id", "doctor"]).await;
    assert_eq!(refused["errcode"], "M_FORBIDDEN");
    assert!(refused["error"].as_str().expect("a sentence").contains("?reason="), "{refused}");
    let path = room.replace('!', "%21").replace(':', "%3A");
    let path = format!("v1/rooms/{path}/make_room_admin?reason=the%20nurse%20left");
    let body = json!({ "user_id": doctor.user_id }).to_string();
    synadm.does(&["raw", "--method", "post", "--data", &body, &path]).await;
    let powers = synadm.does(&["room", "power-levels", "--room-id", &room]).await;
    assert_eq!(powers["rooms"][0]["power_levels"][&doctor.user_id], 100, "{powers}");

    let mxc = upload(&nurse, "plan.txt", b"wash your hands").await;
    let id = mxc.rsplit('/').next().expect("a media ID").to_owned();
    let files = synadm.does(&["user", "media", "nurse"]).await;
    assert_eq!((&files["total"], &files["media"][0]["media_id"]), (&json!(1), &json!(id)));
    assert_eq!(files["media"][0]["media_length"], 15);
    let image = json!({ "msgtype": "m.file", "body": "plan.txt", "url": mxc });
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    nurse.put(&path, image).await;
    let listed = synadm.does(&["media", "list", "--room-id", &room]).await;
    assert_eq!(listed["local"], json!([mxc]), "{listed}");
    synadm.does(&["media", "quarantine", "--media-id", &id]).await;
    let path = format!("/_matrix/client/v1/media/download/{SERVER_NAME}/{id}");
    let hidden = doctor.http.call(Method::GET, &path, Some(&doctor.token), None).await;
    assert_eq!(hidden.expect("an answer").status, 404);
    synadm.does(&["media", "unquarantine", "--media-id", &id]).await;
    doctor.get(&path).await;
    let gone = synadm.does(&["media", "delete", "--media-id", &id]).await;
    assert_eq!(gone["deleted_media"], json!([id]), "{gone}");

    let ordered = synadm.does(&["room", "delete", &room]).await;
    let ordered = ordered["delete_id"].as_str().expect("a number").to_owned();
    until("the end of the room", async || {
        let status = synadm.does(&["room", "delete-status", "--delete-id", &ordered]).await;
        (status["status"] == "complete").then_some(())
    })
    .await;
    let rooms = doctor.get("/_matrix/client/v3/joined_rooms").await;
    assert_eq!(rooms["joined_rooms"], json!([]));
    let history = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b");
    let history = doctor.http.call(Method::GET, &history, Some(&doctor.token), None).await;
    assert_eq!(history.expect("an answer").status, 403, "nobody reads it any more");
    assert_eq!(synadm.does(&["room", "list", "--not-empty"]).await["total_rooms"], 0);
}
