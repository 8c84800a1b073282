//! What the README promises a new user: start it as printed, sign in with a client that people use
//! (WeeChat in a terminal), and write to a colleague. The terminal's screen is read as a person reads it.

use std::path::{Path, PathBuf};
use std::process::Command;

use appliance_acceptance::wait::{found, until};
use http::Method;
use serde_json::json;

use crate::demo::Demo;

const NURSE: &str = "nurse.amara";
const DOCTOR: &str = "dr.osei";

#[tokio::test]
async fn a_new_user_writes_to_a_colleague_from_a_terminal() {
    let demo = Demo::start().await;
    let nurse = demo.sign_in(NURSE).await;
    let invited = json!({ "name": "Ward 7", "invite": [format!("@{DOCTOR}:localhost")] });
    let made = demo.call(Method::POST, "/createRoom", &nurse, Some(invited)).await;
    let room = made["room_id"].as_str().unwrap().to_owned();

    // On the doctor's phone: the terminal is their second device.
    let phone = demo.sign_in(DOCTOR).await;
    demo.call(Method::POST, &format!("/join/{room}"), &phone, Some(json!({}))).await;

    let mut doctor = Terminal::open(&demo).await;
    // On a busy machine several lines arrive at once: they are no paste to be asked about.
    doctor.types("/set weechat.look.paste_max_lines -1");
    doctor.sees("paste_max_lines = -1").await;
    doctor.types("/script load /usr/share/weechat/python/matrix.py");
    doctor.sees("registered script \"matrix\"").await;
    doctor.types(&format!("/matrix server add ward localhost:{}", demo.tls_port));
    doctor.types(&format!("/set matrix.server.ward.username {DOCTOR}"));
    doctor.types(&format!("/set matrix.server.ward.password {}", demo.password(DOCTOR)));
    doctor.types("/matrix connect ward");
    doctor.sees(&format!("Logged in as @{DOCTOR}:localhost")).await;
    doctor.sees("Ward 7").await;

    let path = format!("/rooms/{room}/send/m.room.message/1");
    let words = json!({ "msgtype": "m.text", "body": "Bed 4 is free, says the nurse" });
    demo.call(Method::PUT, &path, &nurse, Some(words)).await;
    // The first is the client's own.
    doctor.types("/buffer 2");
    doctor.sees("Bed 4 is free, says the nurse").await;

    doctor.types("I will be there in five minutes");
    doctor.sees("I will be there in five minutes").await;
    until("the doctor's words to reach the nurse", async || {
        let path = format!("/rooms/{room}/messages?dir=b");
        let page = demo.call(Method::GET, &path, &nurse, None).await;
        let newest = page["chunk"]
            .as_array()?
            .iter()
            .find(|event| event["content"]["body"] == "I will be there in five minutes")?;
        assert_eq!(newest["sender"], format!("@{DOCTOR}:localhost"));
        Some(())
    })
    .await;
}

/// WeeChat in a terminal of its own.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    async fn open(demo: &Demo) -> Self {
        let home = demo.folder().join("weechat");
        let terminal = Self { socket: demo.folder().join("tmux") };
        terminal
            .tmux()
            .args([
                "-f",
                "/dev/null",
                "new-session",
                "-d",
                "-x",
                "160",
                "-y",
                "50",
                "weechat",
                "-d",
            ])
            .arg(&home)
            // The client trusts the demo's authority and no other.
            .env("SSL_CERT_FILE", demo.authority())
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "screen")
            .status()
            .expect("run tmux");
        terminal.sees("[core]").await;
        terminal
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(Path::new(&self.socket));
        command
    }

    fn types(&mut self, line: &str) {
        let keys = self.tmux().args(["send-keys", "-l", "--", line]).status().expect("run tmux");
        let enter = self.tmux().args(["send-keys", "Enter"]).status().expect("run tmux");
        assert!(keys.success() && enter.success(), "the client ended:\n{}", self.screen());
    }

    fn screen(&self) -> String {
        let seen = self.tmux().args(["capture-pane", "-p"]).output().expect("run tmux");
        String::from_utf8_lossy(&seen.stdout).into_owned()
    }

    /// Waits until `words` are on the screen.
    async fn sees(&self, words: &str) {
        let seen = found(async || self.screen().contains(words).then_some(())).await;
        assert!(seen.is_some(), "{words:?} is not on the screen:\n{}", self.screen());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").status();
    }
}
