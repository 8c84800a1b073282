//! One device of one person, whatever SDK plays it.
//!
//! A device obeys commands: a name and JSON, answered by JSON. matrix-js-sdk and matrix-nio live in
//! processes of their own ([`Process`]) and speak one line each way; matrix-sdk lives in the test.
//! [`Device`] gives the commands their types, so that a scenario reads like what people do.

use std::path::Path;
use std::process::Stdio;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Duration, timeout};

use crate::person::Person;
use crate::server::{Server, prepared};

/// Longer than any wait inside a driver, so that the driver's own words win.
const COMMAND_WAIT: Duration = Duration::from_secs(180);

/// What carries out commands.
#[async_trait(?Send)]
pub trait Sdk {
    /// Carries out one command.
    ///
    /// # Errors
    ///
    /// What the SDK or the server said against it.
    async fn command(&mut self, name: &str, given: Value) -> Result<Value, String>;
}

/// An SDK in a process of its own.
#[derive(Debug)]
pub struct Process {
    // Kept for its `kill_on_drop`.
    _child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// matrix-nio.
    pub fn nio() -> Self {
        let mut command = Command::new(prepared("nio/bin/python"));
        Self::spawn(command.arg(source("py/driver.py")))
    }

    /// mautrix, as an application service.
    pub fn bridge() -> Self {
        let mut command = Command::new(prepared("mautrix/bin/python"));
        Self::spawn(command.arg(source("py/bridge.py")))
    }

    /// matrix-js-sdk that forgets by itself what is over (MSC1763), as a lab of Element Web does, with its store
    /// in an IndexedDB and a clock that can be moved.
    pub fn js_that_forgets() -> Self {
        Self::spawn(js_command().env("DRIVER_FORGETS", "yes"))
    }

    /// matrix-js-sdk.
    pub fn js() -> Self {
        Self::spawn(&mut js_command())
    }

    fn spawn(command: &mut Command) -> Self {
        // The SDKs' own chatter helps only when a driver is being written.
        let chatter = match std::env::var_os("WARDSTONE_TEST_SDK_LOG") {
            Some(_) => Stdio::inherit(),
            None => Stdio::null(),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(chatter).kill_on_drop(true);
        let mut child = command.spawn().expect("start an SDK's driver");
        let commands = child.stdin.take().expect("a pipe to the driver");
        let answers = BufReader::new(child.stdout.take().expect("a pipe from the driver")).lines();
        Self { _child: child, commands, answers }
    }
}

fn js_command() -> Command {
    let modules = source("js/node_modules/matrix-js-sdk/package.json");
    assert!(modules.exists(), "matrix-js-sdk is missing: run appliance/acceptance/prepare");
    let mut command = Command::new("node");
    command.arg(source("js/driver.mjs"));
    command
}

fn source(what: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(what)
}

#[async_trait(?Send)]
impl Sdk for Process {
    async fn command(&mut self, name: &str, mut given: Value) -> Result<Value, String> {
        given["do"] = name.into();
        let line = format!("{given}\n");
        self.commands.write_all(line.as_bytes()).await.map_err(|e| format!("driver: {e}"))?;
        let answer = timeout(COMMAND_WAIT, self.answers.next_line())
            .await
            .map_err(|_| format!("driver: no answer to {name} within {COMMAND_WAIT:?}"))?
            .map_err(|e| format!("driver: {e}"))?
            .ok_or_else(|| format!("driver: ended during {name}"))?;
        let mut answer: Value =
            serde_json::from_str(&answer).map_err(|e| format!("driver: {e}"))?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["ok"].take()),
        }
    }
}

/// A logged-in device.
pub struct Device {
    /// Whose it is.
    pub person: Person,
    /// `@localpart:server`.
    pub user_id: String,
    /// Chosen by the server.
    pub device_id: String,
    /// Its access token.
    pub token: String,
    sdk: Box<dyn Sdk>,
}

/// A photo that was sent.
#[derive(Clone, Debug)]
pub struct Photo {
    /// The event that shows it.
    pub event_id: String,
    /// Where its bytes are.
    pub mxc: String,
}

impl Device {
    /// Registers a new account as a client does, and starts syncing.
    pub async fn register(sdk: Box<dyn Sdk>, person: &Person, server: &Server) -> Self {
        Self::enter("register", sdk, person, &server.base_url()).await
    }

    /// Logs in with the password, and starts syncing.
    pub async fn log_in(sdk: Box<dyn Sdk>, person: &Person, server: &Server) -> Self {
        Self::enter("login", sdk, person, &server.base_url()).await
    }

    /// The same at any server's URL.
    pub async fn log_in_at(sdk: Box<dyn Sdk>, person: &Person, base_url: &str) -> Self {
        Self::enter("login", sdk, person, base_url).await
    }

    async fn enter(how: &str, mut sdk: Box<dyn Sdk>, person: &Person, base_url: &str) -> Self {
        let given = json!({
            "base_url": base_url,
            "user": person.localpart,
            "password": person.password,
        });
        let answer = sdk.command(how, given).await;
        let answer = answer.unwrap_or_else(|e| panic!("{}: {e}", person.localpart));
        let text = |name: &str| answer[name].as_str().expect("text in the answer").to_owned();
        Self {
            person: person.clone(),
            user_id: text("user_id"),
            device_id: text("device_id"),
            token: text("access_token"),
            sdk,
        }
    }

    /// Carries out a command that must succeed.
    ///
    /// # Panics
    ///
    /// Naming the person and what was said, if it does not.
    pub async fn command(&mut self, name: &str, given: Value) -> Value {
        match self.sdk.command(name, given).await {
            Ok(answer) => answer,
            Err(error) => panic!("{}'s device: {error}", self.person.localpart),
        }
    }

    async fn text(&mut self, name: &str, given: Value, field: &str) -> String {
        let answer = self.command(name, given).await;
        answer[field].as_str().unwrap_or_else(|| panic!("{name}: no {field}")).to_owned()
    }

    /// Makes a private room, and returns its ID once the device sees it in `/sync`.
    pub async fn create_room(&mut self, encrypted: bool, invite: &[&str]) -> String {
        let given = json!({ "name": "Ward 4", "encrypted": encrypted, "invite": invite });
        self.text("create_room", given, "room_id").await
    }

    /// Waits for an invitation and accepts it.
    pub async fn join(&mut self, room_id: &str) {
        self.command("join", json!({ "room_id": room_id })).await;
    }

    /// Waits until everyone is in the room and, if it is encrypted, their device keys are known.
    pub async fn wait_members(&mut self, room_id: &str, users: &[&str]) {
        self.command("wait_members", json!({ "room_id": room_id, "users": users })).await;
    }

    /// Says something; returns the event's ID.
    pub async fn send(&mut self, room_id: &str, body: &str) -> String {
        self.text("send", json!({ "room_id": room_id, "body": body }), "event_id").await
    }

    /// Waits for somebody's words, decrypted; returns whether they were encrypted on the way.
    pub async fn hear(&mut self, room_id: &str, body: &str, sender: &str) -> bool {
        let given = json!({ "room_id": room_id, "body": body, "sender": sender });
        self.command("wait_message", given).await["encrypted"].as_bool().expect("a truth value")
    }

    /// Uploads and shows a photo.
    pub async fn send_photo(&mut self, room_id: &str, path: &Path, encrypted: bool) -> Photo {
        let given = json!({ "room_id": room_id, "path": path, "encrypted": encrypted });
        let answer = self.command("send_photo", given).await;
        let text = |name: &str| answer[name].as_str().expect("text in the answer").to_owned();
        Photo { event_id: text("event_id"), mxc: text("mxc") }
    }

    /// Waits for a photo's event, downloads and decrypts it; returns the SHA-256 of the picture.
    pub async fn see_photo(&mut self, room_id: &str, photo: &Photo) -> String {
        let given = json!({ "room_id": room_id, "event_id": photo.event_id });
        self.text("wait_photo", given, "sha256").await
    }

    /// Asks for a file; returns the status and, of a refusal, the errcode.
    pub async fn download(&mut self, mxc: &str) -> (u64, Option<String>) {
        let answer = self.command("download", json!({ "mxc": mxc })).await;
        let status = answer["status"].as_u64().expect("a status code");
        (status, answer["errcode"].as_str().map(str::to_owned))
    }

    /// Waits until somebody else has ended the session: the errcode, and whether softly.
    pub async fn wait_ended(&mut self) -> (String, bool) {
        let how = self.command("wait_ended", json!({})).await;
        let errcode = how["errcode"].as_str().expect("an errcode").to_owned();
        (errcode, how["soft_logout"].as_bool().expect("softly or not"))
    }

    /// Waits until the client has forgotten an event by itself (matrix-js-sdk).
    pub async fn wait_forgotten(&mut self, room_id: &str, event_id: &str) {
        let given = json!({ "room_id": room_id, "event_id": event_id });
        self.command("wait_forgotten", given).await;
    }

    /// Lets the client's clock go on by so much (matrix-js-sdk that forgets).
    pub async fn let_pass(&mut self, ms: u64) {
        self.command("let_pass", json!({ "ms": ms })).await;
    }

    /// Whether the client's store holds some words (matrix-js-sdk that forgets).
    pub async fn stores(&mut self, words: &str) -> bool {
        let answer = self.command("stores", json!({ "body": words })).await;
        answer["stored"].as_bool().expect("yes or no")
    }

    /// Says something if it can; what the app says against it otherwise.
    ///
    /// # Errors
    ///
    /// The app's or the server's words.
    pub async fn try_to_send(&mut self, room_id: &str, body: &str) -> Result<String, String> {
        let said = self.sdk.command("send", json!({ "room_id": room_id, "body": body })).await?;
        Ok(said["event_id"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits for an event that this device has no key for.
    pub async fn wait_unreadable(&mut self, room_id: &str, event_id: &str) {
        let given = json!({ "room_id": room_id, "event_id": event_id });
        self.command("wait_unreadable", given).await;
    }

    /// Waits until this device knows another no more.
    pub async fn wait_device_gone(&mut self, user_id: &str, device_id: &str) {
        let given = json!({ "user_id": user_id, "device_id": device_id });
        self.command("wait_device_gone", given).await;
    }

    /// Takes an event back.
    pub async fn redact(&mut self, room_id: &str, event_id: &str) {
        self.command("redact", json!({ "room_id": room_id, "event_id": event_id })).await;
    }

    /// Waits until the event's redaction arrived.
    pub async fn wait_redacted(&mut self, room_id: &str, event_id: &str) {
        self.command("wait_redacted", json!({ "room_id": room_id, "event_id": event_id })).await;
    }

    /// Whether this device trusts another, and whether the other's owner cross-signed it.
    pub async fn trusts(&mut self, user_id: &str, device_id: &str) -> Trust {
        let given = json!({ "user_id": user_id, "device_id": device_id });
        let answer = self.command("trust", given).await;
        let truth = |name: &str| answer[name].as_bool().unwrap_or_default();
        Trust { verified: truth("verified"), cross_signed: truth("cross_signed") }
    }

    /// Makes and uploads cross-signing keys. The first upload must not ask for authentication.
    pub async fn bootstrap_cross_signing(&mut self) {
        self.command("bootstrap_cross_signing", json!({})).await;
    }

    /// Makes a key backup, uploads every room key to it, and returns the recovery key.
    pub async fn enable_backup(&mut self) -> String {
        self.text("enable_backup", json!({}), "recovery_key").await
    }

    /// Fetches secrets and room keys with the recovery key.
    pub async fn restore_backup(&mut self, recovery_key: &str, room_id: &str) {
        let given = json!({ "recovery_key": recovery_key, "room_id": room_id });
        self.command("restore_backup", given).await;
    }

    /// Fetches an old event and decrypts it; returns its words.
    pub async fn read_history(&mut self, room_id: &str, event_id: &str) -> String {
        let given = json!({ "room_id": room_id, "event_id": event_id });
        self.text("read_history", given, "body").await
    }

    /// Where this device's `/sync` stands.
    pub async fn sync_token(&mut self) -> String {
        self.text("sync_token", json!({}), "next_batch").await
    }

    /// Ends the session on the server.
    pub async fn log_out(&mut self) {
        self.command("logout", json!({})).await;
    }
}

/// What one device holds of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// By emoji, directly or through its owner's identity.
    pub verified: bool,
    /// By its owner's own keys.
    pub cross_signed: bool,
}

/// One makes a room and invites, the other joins, and each knows the other is there.
///
/// # Panics
///
/// If either does not see both in the room.
pub async fn meet(host: &mut Device, guest: &mut Device, encrypted: bool) -> String {
    let room = host.create_room(encrypted, &[&guest.user_id]).await;
    guest.join(&room).await;
    let both = [host.user_id.clone(), guest.user_id.clone()];
    let both = [both[0].as_str(), both[1].as_str()];
    host.wait_members(&room, &both).await;
    guest.wait_members(&room, &both).await;
    room
}

/// Two people compare emoji: `first` asks, `second` accepts, both confirm.
///
/// # Panics
///
/// If the emoji differ, or either device gives up.
pub async fn verify_by_emoji(first: &mut Device, second: &mut Device) {
    let given = json!({ "user_id": second.user_id, "device_id": second.device_id });
    first.command("verify_start", given).await;
    second.command("verify_accept", json!({ "user_id": first.user_id })).await;

    let (ours, theirs) = tokio::join!(
        first.command("verify_emoji", json!({})),
        second.command("verify_emoji", json!({}))
    );
    assert_eq!(ours["emoji"].as_array().map(Vec::len), Some(7), "seven emoji: {ours}");
    assert_eq!(ours["emoji"], theirs["emoji"], "both see the same emoji");

    tokio::join!(
        first.command("verify_confirm", json!({})),
        second.command("verify_confirm", json!({}))
    );
}
