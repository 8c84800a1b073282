//! The ward the scenarios play in: who carries which phone, and what the log may never show.

use std::path::PathBuf;

use appliance_acceptance::device::{Device, Process, Sdk};
use appliance_acceptance::person::{Person, sha256};
use appliance_acceptance::server::{Kind, Options, SHARED_SECRET, Server};
use http::Method;
use serde_json::json;

use crate::rust_sdk::RustSdk;

/// Long enough to look at a photo on the busiest machine, short enough to wait for.
const MEDIA_TTL_MS: u64 = 30_000;

/// Which SDK plays a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brand {
    /// matrix-sdk.
    Rust,
    /// matrix-js-sdk.
    Js,
    /// matrix-nio.
    Nio,
}

impl Brand {
    /// matrix-nio has neither cross-signing nor key backup.
    pub fn cross_signs(self) -> bool {
        self != Self::Nio
    }

    /// matrix-nio writes the commitment of a verification in hexadecimal digits, where the
    /// specification wants base64: it agrees only with itself.
    pub fn compares_emoji_with(self, other: Self) -> bool {
        (self == Self::Nio) == (other == Self::Nio)
    }

    /// A new device of it.
    pub fn sdk(self) -> Box<dyn Sdk> {
        match self {
            Self::Rust => Box::new(RustSdk::default()),
            Self::Js => Box::new(Process::js()),
            Self::Nio => Box::new(Process::nio()),
        }
    }
}

/// A server and the secrets of everyone on it.
pub struct Ward {
    /// The server under test.
    pub server: Server,
    /// The SHA-256 of the photo.
    pub photo_sha256: String,
    secrets: Vec<String>,
}

impl Ward {
    /// Opens a ward whose photos live half a minute.
    pub async fn open() -> Self {
        let options =
            Options { media_ttl_ms: MEDIA_TTL_MS, log_level: "trace", ..Options::default() };
        let server = Server::start(options).await;
        let photo = picture([200, 20, 30]);
        std::fs::write(server.scratch().join("wound.png"), &photo).expect("a photo");
        Self { server, photo_sha256: sha256(&photo), secrets: vec![SHARED_SECRET.into()] }
    }

    /// The photo everybody sends.
    pub fn photo(&self) -> PathBuf {
        self.server.scratch().join("wound.png")
    }

    /// Words that occur nowhere else, so that a log can be searched for them.
    pub fn secret(&mut self, words: &str) -> String {
        let secret = format!("planted words: {words}");
        self.secrets.push(secret.clone());
        secret
    }

    /// Something else that no log may show.
    pub fn remember_secret(&mut self, secret: &str) {
        self.secrets.push(secret.into());
    }

    /// A new account, registered by its first device itself.
    pub async fn newcomer(&mut self, brand: Brand, name: &str) -> Device {
        let person = Person::named(name);
        let device = Device::register(brand.sdk(), &person, &self.server).await;
        self.remember_device(&device);
        device
    }

    /// A new account made by the operator, and its first device.
    pub async fn employee(&mut self, brand: Brand, name: &str) -> Device {
        let person = Person::named(name);
        let session = person.hire(&self.server, false).await;
        self.secrets.push(session.token);
        self.another_device(brand, &person).await
    }

    /// One more device of somebody with an account.
    pub async fn another_device(&mut self, brand: Brand, person: &Person) -> Device {
        let device = Device::log_in(brand.sdk(), person, &self.server).await;
        self.remember_device(&device);
        device
    }

    fn remember_device(&mut self, device: &Device) {
        self.secrets.push(device.token.clone());
        self.secrets.push(device.person.password.clone());
    }

    /// Lets a photo's time run out.
    ///
    /// Wardstone needs only patience. Synapse does not know such a time, so an administrator and
    /// the author do by hand what Wardstone does: it proves that the suite notices.
    pub async fn outlive(&mut self, author: &Device, room_id: &str, event_id: &str, mxc: &str) {
        if self.server.kind == Kind::Wardstone {
            return;
        }
        let admin = Person::named(&format!("admin-{}", &event_id[1..7].to_lowercase()));
        let admin = admin.hire(&self.server, true).await;
        let path = mxc.replacen("mxc://", "/_synapse/admin/v1/media/", 1);
        let token = Some(admin.token.as_str());
        admin.http.call(Method::DELETE, &path, token, None).await.expect("an answer").ok();
        let path = format!("/_matrix/client/v3/rooms/{room_id}/redact/{event_id}/gone");
        let token = Some(author.token.as_str());
        let body = Some(json!({}));
        admin.http.call(Method::PUT, &path, token, body.as_ref()).await.expect("an answer").ok();
    }

    /// The last word of every scenario: a full run's log, at its most talkative, kept all secrets.
    pub fn close(mut self) {
        assert!(self.server.is_running(), "the server outlived the scenario");
        let log = self.server.log();
        assert!(!log.trim().is_empty(), "there is a log to search");
        for secret in &self.secrets {
            assert!(!log.contains(secret.as_str()), "the log shows a secret: {secret}");
        }
    }
}

/// A small PNG: 64 x 64 pixels of one colour, so that a server may well try to make a thumbnail of it.
pub fn picture(color: [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 64, 64);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().expect("a PNG header");
    writer.write_image_data(&color.repeat(64 * 64)).expect("PNG pixels");
    writer.finish().expect("a PNG");
    bytes
}
