//! `io.wardstone`, between hospitals of our kind: what this server promises about files, and files that are
//! lent for one look.

use appliance_model::Error;
use appliance_services::media::elsewhere::LEASE_PATH;
use appliance_services::media::lease::{LEASE_MS, Wish};
use appliance_services::peers::PROMISE_PATH;
use axum::response::Response;
use http::Method;
use serde_json::json;

use crate::json::{answer, read_json};
use crate::route::{Access, RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw(Method::GET, PROMISE_PATH, Access::Peer, promise);
    routes.serve_raw(Method::POST, LEASE_PATH, Access::Peer, lend);
}

async fn promise(visit: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&visit.services.house.own_promise()?)
}

async fn lend(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let wish: Wish = read_json(&mut visit.request).await?;
    let (services, origin) = (visit.services.clone(), visit.origin()?.to_owned());
    let lease = services.media.lend(&origin, wish).await?;
    answer(&json!({
        "lease": lease.token, "expires_at": lease.until_ms, "expires_in_ms": LEASE_MS,
    }))
}

#[cfg(test)]
mod tests {
    mod crash;

    use axum::body::Body;
    use http::Request;
    use http::header::AUTHORIZATION;
    use serde_json::{Value, json};

    use crate::town::Town;

    const LEASE: &str = "/_matrix/federation/unstable/io.wardstone/media/lease";

    /// A small red picture, which a server can read.
    fn photo() -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let red = image::RgbImage::from_pixel(64, 48, image::Rgb([200, 20, 30]));
        red.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    /// Two hospitals with a room of both, a photo in it, and a third hospital that is in no room.
    struct Play {
        town: Town,
        nurse: String,
        doctor: String,
        room: String,
        file: String,
    }

    impl Play {
        async fn with(policy: Value) -> Self {
            let town = Town::of(&["a.example", "b.example", "c.example"]).await;
            let nurse = town.desk(0).sign_up("nurse").await;
            let doctor = town.desk(1).sign_up("doctor").await;
            for (at, other) in [(0, "b.example"), (0, "c.example"), (1, "a.example")] {
                town.allow_media(at, other).await;
            }
            let room = town.share(&nurse, &doctor, policy).await;
            let mut play = Self { town, nurse, doctor, room, file: String::new() };
            play.file = play.upload().await;
            let shown = format!("a.example/{}", play.file);
            play.town.show(&play.nurse, &play.room, &shown).await;
            play
        }

        async fn upload(&self) -> String {
            self.upload_as("image/png", photo()).await
        }

        async fn upload_as(&self, content_type: &str, bytes: Vec<u8>) -> String {
            let request = Request::post("/_matrix/media/v3/upload?filename=wound.png")
                .header(AUTHORIZATION, format!("Bearer {}", self.nurse))
                .header("content-type", content_type)
                .body(Body::from(bytes))
                .unwrap();
            let (status, _, body) = self.town.desk(0).ring(request).await;
            assert_eq!(status, 200);
            let answer: Value = serde_json::from_slice(&body).unwrap();
            answer["content_uri"]
                .as_str()
                .unwrap()
                .trim_start_matches("mxc://a.example/")
                .to_owned()
        }

        /// What the doctor gets at home.
        async fn look(&self, what: &str, query: &str) -> (u16, bytes::Bytes) {
            let path = format!("/_matrix/client/v1/media/{what}/a.example/{}{query}", self.file);
            let request = Request::get(path)
                .header(AUTHORIZATION, format!("Bearer {}", self.doctor))
                .body(Body::empty())
                .unwrap();
            let (status, headers, body) = self.town.desk(1).ring(request).await;
            assert_eq!(headers["cache-control"], "no-store, private");
            (status, body)
        }

        /// b asks for a lease as it should.
        fn wish(&self) -> Value {
            json!({
                "media_id": self.file, "user_id": "@doctor:b.example",
                "device_class": "managed", "mode": "original",
            })
        }

        async fn lease(&self, from: usize, wish: Value) -> (u16, String) {
            let (status, said) = self.town.ask(from, "a.example", "POST", LEASE, wish).await;
            (status, said["lease"].as_str().unwrap_or_default().to_owned())
        }

        /// b uses a lease.
        async fn fetch(&self, from: usize, what: &str, lease: &str) -> u16 {
            let path =
                format!("/media/{what}/{}?width=8&height=8&io.wardstone.lease={lease}", self.file);
            self.town.ask(from, "a.example", "GET", &path, Value::Null).await.0
        }
    }

    #[tokio::test]
    async fn a_lent_photo_is_seen_as_often_as_the_room_allows_and_dies_with_its_deadline() {
        const WINDOW_MS: u64 = 120_000;
        let play = Play::with(json!({ "federation": { "ours": "lease" }, "media": {
            "ttl_ms": 3_600_000, "max_opens_per_user": 2,
        }}))
        .await;
        let (status, body) = play.look("download", "").await;
        assert_eq!(status, 200);
        assert!(body.starts_with(b"\x89PNG"), "the original, by way of b");
        assert_eq!(play.look("download", "").await.0, 200, "within the window it is the same look");
        let (status, small) = play.look("thumbnail", "?width=32&height=32").await;
        assert_eq!((status, small.is_empty()), (200, false));
        let pass_ms = |ms| [0, 1].map(|at| play.town.desk(at).clock.pass_ms(ms));
        pass_ms(WINDOW_MS);
        assert_eq!(play.look("download", "").await.0, 200);
        pass_ms(WINDOW_MS);
        assert_eq!(play.look("download", "").await.0, 403, "the third look");
        pass_ms(3_600_000);
        assert_eq!(play.look("download", "").await.0, 404, "and nothing of it stayed");
        let rung = play.town.line.rung.lock().unwrap().clone();
        let leases = rung.iter().filter(|(_, path, _)| path == LEASE).count();
        let promises = rung.iter().filter(|(_, path, _)| path.ends_with("io.wardstone/policy"));
        assert_eq!(leases, 6, "each look has one");
        assert!(promises.count() <= 4, "each asks the other once an hour");
    }

    #[tokio::test]
    async fn a_lease_is_for_one_attempt_of_one_server_within_a_minute() {
        let play = Play::with(json!({ "federation": { "ours": "lease" } })).await;
        assert_eq!(play.fetch(1, "download", "none").await, 403);
        let path = format!("/media/download/{}", play.file);
        let plain = play.town.ask(1, "a.example", "GET", &path, Value::Null).await.0;
        assert_eq!(plain, 404, "without one there is nothing");

        let (status, lease) = play.lease(1, play.wish()).await;
        assert_eq!(status, 200);
        assert_eq!(play.fetch(1, "download", &lease).await, 200);
        assert_eq!(play.fetch(1, "download", &lease).await, 403, "used");
        let (_, lease) = play.lease(1, play.wish()).await;
        assert_eq!(play.fetch(2, "download", &lease).await, 403, "somebody else's");
        assert_eq!(play.fetch(1, "download", &lease).await, 403, "one attempt, whosever");
        let (_, lease) = play.lease(1, play.wish()).await;
        assert_eq!(
            play.fetch(1, "thumbnail", &lease).await,
            403,
            "for the file, not a picture of it"
        );
        let (_, lease) = play.lease(1, play.wish()).await;
        play.town.desk(0).clock.pass_ms(59_999);
        assert_eq!(play.fetch(1, "download", &lease).await, 200);
        let (_, lease) = play.lease(1, play.wish()).await;
        play.town.desk(0).clock.pass_ms(60_000);
        assert_eq!(play.fetch(1, "download", &lease).await, 403, "over");
    }

    #[tokio::test]
    async fn nothing_is_lent_to_those_whom_it_is_not_shown_to() {
        let play = Play::with(json!({ "federation": { "ours": "lease" } })).await;
        let with = |key: &str, value: Value| {
            let mut wish = play.wish();
            wish[key] = value;
            wish
        };
        let hidden = play.upload().await;
        for (from, wish, expected) in [
            (2, with("user_id", json!("@doctor:b.example")), 403),
            (2, with("user_id", json!("@spy:c.example")), 404),
            (1, with("user_id", json!("@porter:b.example")), 404),
            (1, with("user_id", json!("@nurse:a.example")), 403),
            (1, with("media_id", json!("none")), 404),
            (1, with("media_id", json!("../x")), 404),
            (1, with("media_id", json!(hidden)), 404),
            (1, with("device_class", json!("trusted")), 400),
            (1, with("mode", json!("everything")), 400),
            (1, with("mode", json!("deny")), 403),
            (1, with("thumbnail", json!("no")), 400),
            (1, json!({}), 400),
        ] {
            assert_eq!(play.lease(from, wish.clone()).await, (expected, String::new()), "{wish}");
        }
        // b has not heard of the photo: there are two branches, and of events of one instant their IDs decide.
        play.town.desk(1).clock.pass_ms(1);
        let path = format!("/v3/rooms/{}/leave", play.room);
        play.town.desk(1).post(&path, &play.doctor, json!({})).await.ok();
        let a = appliance_model::ruma::ServerName::parse("a.example").unwrap();
        play.town.desk(1).services.peers.drain(&a).await.unwrap();
        assert_eq!(play.lease(1, play.wish()).await.0, 404, "who has left is shown nothing");
    }

    #[tokio::test]
    async fn the_stricter_policy_of_two_hospitals_holds() {
        let play = Play::with(json!({ "federation": { "ours": "lease" } })).await;
        let (status, original) = play.look("download", "").await;
        assert!(status == 200 && original.starts_with(b"\x89PNG"));
        // b is stricter: the picture comes marked with the reader's name, whatever a would give.
        let house = json!({ "server": { "device": { "unmanaged": "thumbnail" } } });
        play.town.desk(1).services.policy.set(&house, "uid 0").await.unwrap();
        let (status, marked) = play.look("download", "").await;
        assert_eq!(status, 200);
        assert!(marked.starts_with(b"\xff\xd8") && marked != original, "a JPEG with a name in it");
        let house = json!({ "server": { "device": { "unmanaged": "deny" } } });
        play.town.desk(1).services.policy.set(&house, "uid 0").await.unwrap();
        assert_eq!(play.look("download", "").await.0, 403);

        // a is stricter: nothing of this room leaves.
        let play = Play::with(json!({ "federation": { "ours": "deny" } })).await;
        assert_eq!(play.look("download", "").await.0, 403);
        // Of a private phone b may not see more than of a's own: the placeholder.
        let play = Play::with(json!({ "class": "clinical-shared" })).await;
        let (status, placeholder) = play.look("download", "").await;
        assert_eq!(status, 200);
        assert!(!placeholder.is_empty() && placeholder != original);
    }

    #[tokio::test]
    async fn only_a_signed_promise_of_the_server_itself_counts() {
        let play = Play::with(json!({ "federation": { "ours": "lease" } })).await;
        let path = "/_matrix/federation/unstable/io.wardstone/policy";
        let (status, promise) = play.town.ask(1, "a.example", "GET", path, Value::Null).await;
        assert_eq!(status, 200);
        assert_eq!(promise["server_name"], "a.example");
        assert_eq!(promise["foreign_media"], "stream");
        assert!(promise["signatures"]["a.example"].is_object(), "{promise}");
        let b = appliance_model::ruma::ServerName::parse("b.example").unwrap();
        let peers = &play.town.desk(0).services.peers;
        assert!(peers.promise_of(&b).await.unwrap().lends);
        // After an hour it is asked for again; who cannot be asked is lent nothing.
        play.town.desk(0).clock.pass_ms(3_600_000);
        play.town.line.set_up("b.example", false);
        assert!(peers.promise_of(&b).await.is_err());
        assert_eq!(play.lease(1, play.wish()).await.0, 502);
    }
}
