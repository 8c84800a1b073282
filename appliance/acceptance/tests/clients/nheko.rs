//! Nheko, a desktop app that people use, on a screen of its own: what it shows is read off the screen, what it
//! keeps is looked for in its folders.
//!
//! Debian 12 has 0.11.3, which asks for files without its token: the server runs as for conformance suites, and
//! this says nothing of who is given what.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use appliance_acceptance::device::{Device, Process};
use appliance_acceptance::person::{Person, Session};
use appliance_acceptance::server::{Options, Server};
use appliance_acceptance::wait::until;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::ward::picture;

/// Long enough to look at a photo on the busiest machine, short enough to wait for.
const MEDIA_TTL_MS: u64 = 10_000;
const RED: [u8; 3] = [200, 20, 30];
const BLUE: [u8; 3] = [20, 60, 200];
/// The bar that says that encryption is not set up: it can be seen when nothing is before it.
const REMINDER: [u8; 3] = [252, 190, 5];
/// Some of a photo's pixels; nothing else on the screen has its colour.
const PIXELS_SEEN: usize = 1_000;

/// Honest residue, and what encryption is good for: the app's cache keeps the very bytes that were fetched. Of a
/// plain photo they are the photo. Of an encrypted one they are nothing without the key, which went with its event.
#[tokio::test]
async fn nheko_keeps_a_plain_photo_and_of_an_encrypted_one_nothing_that_can_be_read() {
    let options = Options { media_ttl_ms: MEDIA_TTL_MS, ..Options::default() };
    let server = Server::start(options).await;
    let nurse = Person::named("nurse").sign_up(&server).await;
    let nio = Box::new(Process::nio());
    let mut doctor = Device::register(nio, &Person::named("doctor"), &server).await;
    let plain_room = meet(&mut doctor, &nurse, false).await;
    let sealed_room = meet(&mut doctor, &nurse, true).await;
    let nheko = Nheko::open(&server, &nurse).await;
    // Its keys are there, so that a photo can be encrypted for it.
    doctor.wait_members(&sealed_room, &[&nurse.user_id]).await;

    let (plain, sealed) = (picture(RED), picture(BLUE));
    let [plain_file, sealed_file] = [("plain.png", &plain), ("sealed.png", &sealed)].map(|file| {
        let path = server.scratch().join(file.0);
        std::fs::write(&path, file.1).expect("a photo");
        path
    });
    nheko.opens(&sealed_room).await;
    let shown = doctor.send_photo(&sealed_room, &sealed_file, true).await;
    until("the encrypted photo", async || nheko.shows(BLUE).await.then_some(())).await;
    // The server cannot tell which event shows an encrypted file: its author takes it back.
    doctor.redact(&sealed_room, &shown.event_id).await;
    until("its end", async || (!nheko.shows(BLUE).await).then_some(())).await;

    nheko.opens(&plain_room).await;
    doctor.send_photo(&plain_room, &plain_file, false).await;
    until("the plain photo", async || nheko.shows(RED).await.then_some(())).await;
    until("its end", async || (!nheko.shows(RED).await).then_some(())).await;

    let kept = nheko.kept();
    let of = |photo: &[u8]| -> Vec<&PathBuf> {
        let holds = |bytes: &[u8]| bytes.windows(photo.len()).any(|part| part == photo);
        kept.iter().filter(|(_, bytes)| holds(bytes)).map(|(path, _)| path).collect()
    };
    let in_cache = |path: &Path| path.components().any(|part| part.as_os_str() == "media_cache");
    let plain_copies = of(&plain);
    assert_eq!(plain_copies.len(), 1, "the photo itself: {plain_copies:?}");
    assert!(in_cache(plain_copies[0]), "{plain_copies:?}");
    assert_eq!(of(&sealed), Vec::<&PathBuf>::new(), "what was encrypted is nowhere in clear");
    let cached: Vec<_> = kept.iter().filter(|(path, _)| in_cache(path)).collect();
    assert!(
        cached.iter().any(|(_, bytes)| bytes.len() == sealed.len() && *bytes != plain),
        "and is there, encrypted: {:?}",
        cached.iter().map(|(path, _)| path).collect::<Vec<_>>()
    );
}

async fn meet(host: &mut Device, guest: &Session, encrypted: bool) -> String {
    let room = host.create_room(encrypted, &[&guest.user_id]).await;
    guest.post(&format!("/_matrix/client/v3/join/{room}"), json!({})).await;
    room
}

/// The app, its screen and its folders.
struct Nheko {
    home: PathBuf,
    display: String,
    // End with this.
    _screen: Child,
    _app: Child,
}

impl Nheko {
    /// Opens the app for somebody who has signed in before.
    async fn open(server: &Server, session: &Session) -> Self {
        let home = server.scratch().join("nheko");
        for folder in ["screen", "config/nheko", "cache", "data", "run"] {
            std::fs::create_dir_all(home.join(folder)).expect("a folder");
        }
        // There is no keyring to keep its secrets in.
        let settings = format!(
            "[General]\nrun_without_secure_secrets_service=true\n\n[auth]\naccess_token={}\n\
             device_id={}\nhome_server={}\nuser_id={}\n\n[user]\ndesktop_notifications=false\n\
             theme=light\n",
            session.token,
            session.device_id,
            server.base_url(),
            session.user_id,
        );
        std::fs::write(home.join("config/nheko/nheko.conf"), settings).expect("settings");
        let (screen, display) = screen(&home.join("screen")).await;
        let app = command(&home, &display).spawn().expect("run nheko");
        let nheko = Self { home, display, _screen: screen, _app: app };
        until("the app's first sync", async || {
            let said = std::fs::read_to_string(nheko.home.join("said")).ok()?;
            said.contains("initial sync completed").then_some(())
        })
        .await;
        nheko
    }

    /// Opens a room in the app that runs, as a link to it does.
    async fn opens(&self, room: &str) {
        let link = format!("matrix:roomid/{}", room.trim_start_matches('!'));
        let opened = command(&self.home, &self.display).arg(link).status().await;
        assert!(opened.expect("run nheko").success());
    }

    /// Whether there is a photo of that colour on the screen.
    async fn shows(&self, color: [u8; 3]) -> bool {
        // It asks whether to set up encryption, in a dialogue over all: no, for now.
        until("the app without a dialogue", async || {
            let is_free = self.has_on_screen(REMINDER);
            if !is_free {
                self.press_cancel().await;
            }
            is_free.then_some(())
        })
        .await;
        self.has_on_screen(color)
    }

    async fn press_cancel(&self) {
        let mut pressing = Command::new("xdotool");
        let at = ["mousemove", "1000", "561", "click", "1"];
        let pressed = pressing.args(at).env("DISPLAY", &self.display).status().await;
        assert!(pressed.expect("run xdotool").success());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    fn has_on_screen(&self, [red, green, blue]: [u8; 3]) -> bool {
        let pixels = std::fs::read(self.home.join("screen/Xvfb_screen0")).expect("the screen");
        let seen = pixels.chunks_exact(4).filter(|pixel| pixel[..3] == [blue, green, red]);
        seen.count() >= PIXELS_SEEN
    }

    /// All that the app has written.
    fn kept(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut folders = ["cache", "config", "data"].map(|name| self.home.join(name)).to_vec();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder of the app") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push((path.clone(), std::fs::read(&path).expect("a file"))),
                }
            }
        }
        files
    }
}

/// A screen in memory, and its name. Its pixels are the end of a file: blue, green, red, and one byte unused.
async fn screen(folder: &Path) -> (Child, String) {
    let mut screen = Command::new("Xvfb")
        .args(["-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp", "-fbdir"])
        .arg(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("run Xvfb; appliance/acceptance/prepare installs it");
    let said = BufReader::new(screen.stdout.take().expect("a pipe")).lines().next_line().await;
    let number = said.expect("the screen's number").expect("the screen's number");
    (screen, format!(":{number}"))
}

/// The app, with all that it keeps below one folder.
fn command(home: &Path, display: &str) -> Command {
    let said = std::fs::File::options().create(true).append(true).open(home.join("said"));
    let said = said.expect("a file");
    let mut command = Command::new("nheko");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C.UTF-8")
        .env("DISPLAY", display)
        .env("QT_QUICK_BACKEND", "software")
        .env("NHEKO_LOG_LEVEL", "info")
        .env("HOME", home)
        .env("TMPDIR", home.join("run"))
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_DATA_HOME", home.join("data"))
        .stdin(Stdio::null())
        .stdout(said.try_clone().expect("a file"))
        .stderr(said)
        .kill_on_drop(true);
    command
}
