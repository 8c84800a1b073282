use std::io::Cursor;

use appliance_services::policy::PolicyOptions;
use axum::Router;
use axum::body::Body;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::CLEAR_SITE_DATA;
use crate::scenario::{Desk, open_house};

/// A browser at the photo page.
struct Browser {
    router: Router,
    cookie: String,
}

struct Page {
    status: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Page {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
}

impl Browser {
    fn at(desk: &Desk) -> Self {
        Self { router: crate::photo_page(desk.services.clone()), cookie: String::new() }
    }

    async fn send(&self, request: Request<Body>) -> Page {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Page { status: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    async fn get(&self, path: &str) -> Page {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn ask(&self, method: &str, path: &str, body: impl Into<Body>) -> Page {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-wardstone-page", "1")
            .header("sec-fetch-site", "same-origin")
            .header(COOKIE, &self.cookie)
            .body(body.into());
        self.send(request.unwrap()).await
    }

    async fn sign_in(&mut self, name: &str) {
        let body = json!({ "user": name, "password": name }).to_string();
        let page = self.ask("POST", "/session", body).await;
        assert_eq!(page.status, 200, "{}", page.json());
        let cookie = page.headers[SET_COOKIE].to_str().unwrap().to_owned();
        for part in ["Secure", "HttpOnly", "SameSite=Strict", "Path=/", "__Host-"] {
            assert!(cookie.contains(part), "{part}: {cookie}");
        }
        self.cookie = cookie.split(';').next().unwrap().to_owned();
    }
}

/// A house where private phones are unmanaged, a doctor's room with this policy, and its path.
async fn ward(policy: Value) -> (Desk, String, String) {
    let options = open_house();
    let policy_options =
        PolicyOptions { session_class: appliance_model::SessionClass::Unmanaged, is_off: false };
    let options = appliance_services::Options {
        policy: policy_options,
        photo_page_url: Some("https://photos.hospital.example".to_owned()),
        ..options
    };
    let desk = Desk::with(options).await;
    let token = desk.sign_up("doctor").await;
    let body = json!({
        "name": "Ward 4",
        "initial_state": [{ "type": "io.wardstone.policy", "content": policy }],
    });
    let room = desk.post("/v3/createRoom", &token, body).await.ok();
    let room = room["room_id"].as_str().unwrap().to_owned();
    (desk, token, room)
}

fn path_of(room: &str) -> String {
    room.replace('!', "%21").replace(':', "%3A").replace('$', "%24")
}

/// A JPEG with a place in its EXIF data, as cameras write it.
fn photo() -> Vec<u8> {
    let picture = RgbImage::from_fn(64, 48, |x, y| {
        image::Rgb([u8::try_from(x * 4).unwrap(), u8::try_from(y * 5).unwrap(), 90])
    });
    let mut jpeg = Vec::new();
    picture.write_to(&mut Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
    let secret = b"Exif\0\0GPS 51.5007 N 0.1246 W";
    let length = u16::try_from(secret.len() + 2).unwrap().to_be_bytes();
    let marker = [&[0xff, 0xe1][..], &length, secret].concat();
    [&jpeg[..2], &marker, &jpeg[2..]].concat()
}

fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[tokio::test]
async fn a_page_reads_nothing_and_nothing_is_kept() {
    let (desk, _, _) = ward(json!({})).await;
    let browser = Browser::at(&desk);
    for path in ["/", "/photo/hospital.example/abc", "/page.css", "/page.js", "/camera.js"] {
        let page = browser.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        assert!(!page.bytes.is_empty());
        assert_eq!(page.headers["cache-control"], "no-store, private", "{path}");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(page.headers["x-frame-options"], "DENY");
        assert!(page.headers.get(SET_COOKIE).is_none());
    }
    assert_eq!(browser.get("/elsewhere").await.status, 404);
    assert_eq!(browser.get("/look/hospital.example/abc").await.status, 405, "a look is no GET");
}

#[tokio::test]
async fn strangers_and_other_sites_get_nothing() {
    let (desk, _, room) = ward(json!({})).await;
    let mut browser = Browser::at(&desk);
    let room = path_of(&room);
    let asked = [
        ("POST", "/rooms".to_owned()),
        ("POST", format!("/rooms/{room}/photos")),
        ("POST", "/look/hospital.example/abc".to_owned()),
        ("POST", format!("/rooms/{room}/camera")),
        ("POST", format!("/rooms/{room}/capture?txn_id=a")),
    ];
    for (method, path) in &asked {
        let page = browser.ask(method, path, "").await;
        assert_eq!(page.status, 401, "{path}");
    }
    browser.sign_in("doctor").await;
    for (method, path) in &asked {
        for (name, value) in [("sec-fetch-site", "cross-site"), ("x-other", "1")] {
            let mut request = Request::builder().method(*method).uri(path);
            request = request.header(COOKIE, &browser.cookie).header(name, value);
            if name == "sec-fetch-site" {
                request = request.header("x-wardstone-page", "1");
            }
            let page = browser.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(page.status, 403, "{path} {name}");
        }
    }
    let wrong = json!({ "user": "doctor", "password": "guess" }).to_string();
    assert_eq!(browser.ask("POST", "/session", wrong).await.status, 403);
    for bad in ["", "{", "[]", "{\"user\": 1}"] {
        assert_eq!(browser.ask("POST", "/session", bad).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_photo_goes_from_the_camera_to_the_room_and_is_looked_at_in_place() {
    let policy = json!({
        "class": "clinical-photo",
        "device": { "upload_from_unmanaged": "capture-page-only" },
    });
    let (desk, phone, room) = ward(policy).await;
    let gallery =
        json!({ "msgtype": "m.image", "body": "x", "url": "mxc://hospital.example/none" });
    let mut browser = Browser::at(&desk);
    browser.sign_in("doctor").await;
    let rooms = browser.ask("POST", "/rooms", "").await.json();
    assert_eq!(rooms["rooms"][0]["name"], "Ward 4");

    let path = format!("/rooms/{}/capture?txn_id=t1&reference=MRN-7", path_of(&room));
    let sent = browser.ask("POST", &path, photo()).await;
    assert_eq!(sent.status, 200, "{}", sent.json());
    let again = browser.ask("POST", &path, photo()).await;
    assert_eq!(again.json(), sent.json(), "sent twice, it is there once");

    let listed = browser.ask("POST", &format!("/rooms/{}/photos", path_of(&room)), "").await.json();
    assert_eq!(listed["photos"].as_array().unwrap().len(), 1);
    let entry = &listed["photos"][0];
    assert_eq!(
        (&entry["reference"], &entry["sender"]),
        (&json!("MRN-7"), &json!("@doctor:hospital.example"))
    );
    let media_id = entry["media_id"].as_str().unwrap();
    let seen = browser.ask("POST", &format!("/look/hospital.example/{media_id}"), "").await;
    assert_eq!((seen.status, &seen.headers["content-type"]), (200, &"image/jpeg".parse().unwrap()));
    assert!(!has(&seen.bytes, b"GPS") && !has(&seen.bytes, b"Exif"), "the picture alone");
    let original = image::load_from_memory(&photo()).unwrap().to_rgb8();
    let marked = image::load_from_memory(&seen.bytes).unwrap().to_rgb8();
    assert_eq!(marked.dimensions(), original.dimensions());
    let differs = original.pixels().zip(marked.pixels()).filter(|(one, other)| {
        one.0.iter().zip(other.0).any(|(one, other)| one.abs_diff(other) > 40)
    });
    assert!(differs.count() > 50, "the reader's name is in it");

    // The private phone gets a picture that says where to look, and may not send from its gallery.
    let path = format!("/_matrix/client/v1/media/download/hospital.example/{media_id}");
    let request = Request::get(&path).header("authorization", format!("Bearer {phone}"));
    let (_, _, placeholder) = desk.ring(request.body(Body::empty()).unwrap()).await;
    assert!(placeholder.starts_with(b"\x89PNG"), "no photo on the phone");
    let upload = Request::post("/_matrix/media/v3/upload")
        .header("authorization", format!("Bearer {phone}"))
        .header("content-type", "image/jpeg")
        .body(Body::from(photo()));
    let (_, _, uploaded) = desk.ring(upload.unwrap()).await;
    let uploaded: Value = serde_json::from_slice(&uploaded).unwrap();
    let mut content = gallery;
    content["url"] = uploaded["content_uri"].clone();
    let path = format!("/v3/rooms/{}/send/m.room.message/g1", path_of(&room));
    let refused = desk.call("PUT", &path, &phone, content).await;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN"));
    let why = refused.text("error");
    assert!(
        why.contains("camera page") && why.contains("https://photos.hospital.example"),
        "{why}"
    );

    let closed = browser.ask("POST", "/close", "").await;
    assert_eq!(closed.headers[CLEAR_SITE_DATA], "\"cache\", \"storage\"");
    let out = browser.ask("DELETE", "/session", "").await;
    assert!(out.headers[CLEAR_SITE_DATA].to_str().unwrap().contains("cookies"));
    assert_eq!(browser.ask("POST", "/rooms", "").await.status, 401, "signed out");
    assert_eq!(browser.ask("DELETE", "/session", "").await.status, 204, "twice is fine");
    assert!(desk.is_in(&phone).await, "the phone's session is another one");
}

#[tokio::test]
async fn a_session_at_a_shared_machine_ends_when_nobody_is_there() {
    let (desk, _, _) = ward(json!({})).await;
    let mut browser = Browser::at(&desk);
    browser.sign_in("doctor").await;
    assert_eq!(browser.ask("POST", "/rooms", "").await.status, 200);
    desk.clock.pass_ms(31 * 60 * 1_000);
    assert_eq!(browser.ask("POST", "/rooms", "").await.status, 401);
}

#[tokio::test]
async fn a_room_says_what_must_be_told_with_a_photo() {
    let policy = json!({ "camera": { "consent": "required", "reference": "required" } });
    let (desk, phone, room) = ward(policy).await;
    let mut browser = Browser::at(&desk);
    browser.sign_in("doctor").await;
    let base = format!("/rooms/{}", path_of(&room));
    let rules = browser.ask("POST", &format!("{base}/camera"), "").await.json();
    assert_eq!(rules, json!({ "needs_consent": true, "needs_reference": true }));
    let capture = |more: &str| format!("{base}/capture?txn_id=t{}{more}", more.len());
    for (more, body, status) in [
        ("&reference=MRN-7", photo(), 400),
        ("&consent=true", photo(), 400),
        ("&consent=true&reference=%0A", photo(), 400),
        (&format!("&consent=true&reference={}", "x".repeat(65)), photo(), 400),
        ("&consent=true&reference=MRN-7", b"no picture".to_vec(), 400),
        ("&consent=true&reference=MRN-7", photo()[..200].to_vec(), 400),
        ("&consent=true&reference=MRN-7", photo(), 200),
    ] {
        let page = browser.ask("POST", &capture(more), body).await;
        assert_eq!(page.status, status, "{more} {}", page.json());
    }
    let nameless = browser.ask("POST", &format!("{base}/capture"), photo()).await;
    assert_eq!(nameless.status, 400);

    let encrypted = json!({
        "initial_state": [{
            "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
        }],
    });
    let other = desk.post("/v3/createRoom", &phone, encrypted).await.ok();
    let other = path_of(other["room_id"].as_str().unwrap());
    let page = browser.ask("POST", &format!("/rooms/{other}/camera"), "").await;
    assert_eq!(page.status, 403);
    let elsewhere = browser.ask("POST", "/rooms/%21none%3Ahospital.example/camera", "").await;
    assert_eq!(elsewhere.status, 404);
}

/// Whatever the jobs have done so far.
#[tokio::test]
async fn a_photo_whose_time_is_over_is_on_no_path() {
    const TTL_MS: u64 = 60_000;
    let (desk, phone, room) = ward(json!({ "media": { "ttl_ms": TTL_MS } })).await;
    let mut browser = Browser::at(&desk);
    browser.sign_in("doctor").await;
    let path = format!("/rooms/{}/capture?txn_id=t1", path_of(&room));
    assert_eq!(browser.ask("POST", &path, photo()).await.status, 200);
    let photos = format!("/rooms/{}/photos", path_of(&room));
    let listed = browser.ask("POST", &photos, "").await.json();
    let media_id = listed["photos"][0]["media_id"].as_str().unwrap().to_owned();
    let chief = desk.chief().await;
    let paths = async || {
        let mut open = Vec::new();
        for (token, path) in [
            (&phone, format!("download/hospital.example/{media_id}")),
            (&phone, format!("download/hospital.example/{media_id}/leg.jpg")),
            (
                &phone,
                format!("thumbnail/hospital.example/{media_id}?width=32&height=32&method=crop"),
            ),
            (&chief, format!("download/hospital.example/{media_id}")),
        ] {
            let request = Request::get(format!("/_matrix/client/v1/media/{path}"));
            let request = request.header("authorization", format!("Bearer {token}"));
            let (status, ..) = desk.ring(request.body(Body::empty()).unwrap()).await;
            open.push(status);
        }
        let look = browser.ask("POST", &format!("/look/hospital.example/{media_id}"), "").await;
        open.push(look.status);
        open
    };
    desk.clock.pass_ms(TTL_MS - 1);
    assert_eq!(paths().await, [200; 5]);
    let listed = browser.ask("POST", &photos, "").await.json();
    assert_eq!(listed["photos"].as_array().unwrap().len(), 1);
    desk.clock.pass_ms(1);
    assert_eq!(paths().await, [404; 5], "by the clock alone");
    let listed = browser.ask("POST", &photos, "").await.json();
    assert_eq!(listed["photos"], json!([]), "nor is it listed");
    desk.services.media.activate().await.unwrap();
    assert_eq!(paths().await, [404; 5]);
    let listed = browser.ask("POST", &photos, "").await.json();
    assert_eq!(listed["photos"], json!([]), "its event is redacted");
    let path = format!("/v3/rooms/{}/messages?dir=b", path_of(&room));
    let said = desk.get(&path, &phone).await.ok().to_string();
    assert!(!said.contains(&media_id), "nor does an event name it: {said}");
}
