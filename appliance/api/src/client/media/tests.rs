//! What clients and browsers see of files.

use appliance_services::Options;
use appliance_services::media::MediaOptions;
use axum::body::Body;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request};
use serde_json::Value;

use crate::scenario::{Desk, SERVER, open_house};

struct Seen {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn error(&self) -> (u16, String) {
        (self.status, self.json()["errcode"].as_str().unwrap_or_default().to_owned())
    }

    /// Nobody on the way keeps it, no browser runs it.
    fn is_guarded(&self) {
        assert_eq!(self.header("cache-control"), "no-store, private");
        assert_eq!(self.header("x-content-type-options"), "nosniff");
        assert_eq!(self.header("cross-origin-resource-policy"), "cross-origin");
        assert!(self.header("content-security-policy").starts_with("sandbox; default-src 'none'"));
        assert_eq!(self.header("access-control-allow-origin"), "*");
        assert!(!self.headers.contains_key("etag"));
    }
}

struct Client {
    desk: Desk,
    token: String,
}

impl Client {
    async fn new() -> Self {
        let desk = Desk::new().await;
        let token = desk.sign_up("nurse").await;
        Self { desk, token }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Seen {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(AUTHORIZATION, format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, headers, body) = self.desk.ring(request.body(body.into()).unwrap()).await;
        Seen { status, headers, body }
    }

    async fn get(&self, path: &str) -> Seen {
        self.send("GET", path, &[], Body::empty()).await
    }

    /// Uploads; returns `server/id`.
    async fn upload(&self, query: &str, content_type: &str, bytes: &'static [u8]) -> String {
        let path = format!("/_matrix/media/v3/upload{query}");
        let seen = self.send("POST", &path, &[("content-type", content_type)], bytes).await;
        assert_eq!(seen.status, 200);
        let uri = seen.json()["content_uri"].as_str().unwrap().to_owned();
        uri.strip_prefix("mxc://").unwrap().to_owned()
    }
}

fn download(media: &str) -> String {
    format!("/_matrix/client/v1/media/download/{media}")
}

#[tokio::test]
async fn a_picture_is_shown_in_place_and_a_page_is_not() {
    let client = Client::new().await;
    let picture =
        client.upload("?filename=leg%20%C3%A4.jpg", "image/jpeg", b"\xff\xd8 bytes").await;
    let seen = client.get(&download(&picture)).await;
    assert_eq!((seen.status, seen.body.as_ref()), (200, b"\xff\xd8 bytes".as_slice()));
    assert_eq!(seen.header("content-type"), "image/jpeg");
    assert_eq!(seen.header("content-length"), "8");
    assert_eq!(seen.header("content-disposition"), "inline; filename*=utf-8''leg%20%C3%A4.jpg");
    seen.is_guarded();
    let renamed = client.get(&format!("{}/x.png", download(&picture))).await;
    assert_eq!(renamed.header("content-disposition"), "inline; filename=x.png");

    for active in ["text/html", "image/svg+xml", "application/javascript"] {
        let page = client.upload("", active, b"<script>").await;
        let seen = client.get(&download(&page)).await;
        assert_eq!(seen.header("content-disposition"), "attachment", "{active}");
        assert_eq!(seen.header("content-type"), active);
        seen.is_guarded();
    }
}

/// What says that it is a picture and is a page is not shown in place.
#[tokio::test]
async fn nothing_in_disguise_is_shown_in_place() {
    let client = Client::new().await;
    for (announced, bytes, shown) in [
        ("image/png", b"<svg onload=alert(1)>".as_slice(), "attachment"),
        ("text/plain", b" <!doctype html><script>", "attachment"),
        ("image/jpeg", b"%PDF-1.7 ", "attachment"),
        ("image/png", b"\x89PNG\r\n\x1a\n", "inline"),
        ("text/plain", b"Bed 4 < bed 5", "inline"),
    ] {
        let media = client.upload("", announced, bytes).await;
        let seen = client.get(&download(&media)).await;
        assert_eq!(seen.header("content-disposition"), shown, "{announced} {bytes:?}");
        assert_eq!(seen.header("content-type"), announced);
        seen.is_guarded();
    }
}

#[tokio::test]
async fn who_has_enough_here_is_told_whom_to_ask() {
    let media = MediaOptions { user_bytes_max: 3, ..MediaOptions::default() };
    let desk = Desk::with(Options { media, ..open_house() }).await;
    let token = desk.sign_up("nurse").await;
    let client = Client { desk, token };
    let seen = client.send("POST", "/_matrix/media/v3/upload", &[], "four").await;
    assert_eq!(seen.error(), (403, "M_RESOURCE_LIMIT_EXCEEDED".to_owned()));
    let contact = "https://hospital.example/.well-known/matrix/support";
    assert_eq!(seen.json()["admin_contact"], contact);
}

#[tokio::test]
async fn a_player_gets_the_range_it_asks_for() {
    let client = Client::new().await;
    let film = client.upload("", "video/mp4", b"0123456789").await;
    let of = async |range: &str| {
        client.send("GET", &download(&film), &[("range", range)], Body::empty()).await
    };
    let seen = of("bytes=2-4").await;
    assert_eq!((seen.status, seen.body.as_ref()), (206, b"234".as_slice()));
    assert_eq!(seen.header("content-range"), "bytes 2-4/10");
    assert_eq!(seen.header("content-length"), "3");
    seen.is_guarded();
    assert_eq!(of("bytes=-3").await.body.as_ref(), b"789");
    let seen = of("bytes=10-").await;
    assert_eq!(seen.error().0, 416);
    assert_eq!(seen.header("content-range"), "bytes */10");
    assert_eq!(of("bytes=0-1,4-5").await.status, 200, "the whole, which is allowed");
    let empty = client.upload("", "video/mp4", b"").await;
    let seen = client.get(&download(&empty)).await;
    assert_eq!((seen.status, seen.body.len()), (200, 0));
}

#[tokio::test]
async fn strangers_and_old_routes_get_nothing() {
    let client = Client::new().await;
    let media = client.upload("", "image/png", b"x").await;
    for path in [
        format!("/_matrix/media/v3/download/{media}"),
        format!("/_matrix/media/v3/download/{media}/name.png"),
        format!("/_matrix/media/r0/download/{media}"),
        format!("/_matrix/media/v1/download/{media}"),
        format!("/_matrix/media/v3/thumbnail/{media}?width=10&height=10"),
        format!("/_matrix/media/r0/thumbnail/{media}?width=10&height=10"),
        "/_matrix/client/v1/media/preview_url?url=https://example.org".to_owned(),
        "/_matrix/media/v3/preview_url?url=https://example.org".to_owned(),
    ] {
        let seen = client.get(&path).await;
        assert_eq!(seen.error(), (404, "M_NOT_FOUND".to_owned()), "{path}");
    }
    let signed_out = Client { desk: client.desk, token: "nonsense".to_owned() };
    for path in [
        download(&media),
        format!("/_matrix/client/v1/media/thumbnail/{media}?width=10&height=10"),
        "/_matrix/client/v1/media/config".to_owned(),
        "/_matrix/media/v3/config".to_owned(),
    ] {
        let seen = signed_out.get(&path).await;
        assert_eq!(seen.error(), (401, "M_UNKNOWN_TOKEN".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn the_limit_is_told_and_kept() {
    let client = Client::new().await;
    let limit = 52_428_800_u64;
    for path in ["/_matrix/client/v1/media/config", "/_matrix/media/v3/config"] {
        assert_eq!(client.get(path).await.json()["m.upload.size"], limit);
    }
    let announced = (limit + 1).to_string();
    let headers = [("content-length", announced.as_str())];
    let seen = client.send("POST", "/_matrix/media/v3/upload", &headers, Body::empty()).await;
    assert_eq!(seen.error(), (413, "M_TOO_LARGE".to_owned()));
}

#[tokio::test]
async fn a_reserved_id_waits_for_its_file() {
    let client = Client::new().await;
    let made = client.send("POST", "/_matrix/media/v1/create", &[], "{}").await.json();
    assert_eq!(made["unused_expires_at"], 1_700_000_000_000_u64 + 86_400_000);
    let media = made["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let not_yet = client.get(&format!("{}?timeout_ms=0", download(&media))).await;
    assert_eq!(not_yet.error(), (504, "M_NOT_YET_UPLOADED".to_owned()));
    not_yet.is_guarded();
    let path = format!("/_matrix/media/v3/upload/{media}");
    let put = client.send("PUT", &path, &[("content-type", "image/png")], "x").await;
    assert_eq!((put.status, put.json()), (200, serde_json::json!({})));
    let again = client.send("PUT", &path, &[], "y").await;
    assert_eq!(again.error(), (409, "M_CANNOT_OVERWRITE_MEDIA".to_owned()));
    assert_eq!(client.get(&download(&media)).await.body.as_ref(), b"x");
}

#[tokio::test]
async fn thumbnails_are_of_pictures_only() {
    let client = Client::new().await;
    let mut png = Vec::new();
    let picture = image::RgbImage::from_pixel(300, 200, image::Rgb([1, 2, 3]));
    picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    let media = client.upload("", "image/png", png.leak()).await;
    let of =
        |media: &str, query: &str| format!("/_matrix/client/v1/media/thumbnail/{media}?{query}");
    let seen = client.get(&of(&media, "width=96&height=96&method=crop")).await;
    assert_eq!((seen.status, seen.header("content-type")), (200, "image/jpeg"));
    assert_eq!(seen.header("content-disposition"), "inline; filename=thumbnail.jpg");
    seen.is_guarded();
    let small = image::load_from_memory(&seen.body).unwrap();
    assert_eq!((small.width(), small.height()), (96, 96));

    let sealed = client.upload("", "application/octet-stream", b"ciphertext").await;
    let seen = client.get(&of(&sealed, "width=96&height=96")).await;
    assert_eq!(seen.error(), (400, "M_UNKNOWN".to_owned()));
    for (query, errcode) in [
        ("width=96", "M_MISSING_PARAM"),
        ("width=a&height=5", "M_INVALID_PARAM"),
        ("width=-1&height=5", "M_INVALID_PARAM"),
        ("width=0&height=5", "M_INVALID_PARAM"),
        ("width=5&height=5&method=stretch", "M_INVALID_PARAM"),
        ("width=5&height=5&animated=perhaps", "M_INVALID_PARAM"),
        ("width=5&height=5&timeout_ms=x", "M_INVALID_PARAM"),
    ] {
        assert_eq!(client.get(&of(&media, query)).await.error(), (400, errcode.to_owned()));
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_there_in_the_same_words() {
    let client = Client::new().await;
    let media = client.upload("", "image/png", b"x").await;
    let id = media.split('/').nth(1).unwrap();
    client.desk.clock.pass_ms(7 * 86_400_000);
    let expired = client.get(&download(&media)).await;
    expired.is_guarded();
    for other in [
        format!("{SERVER}/unknown"),
        format!("other.example/{id}"),
        format!("{SERVER}/..%2f..%2fetc"),
        format!("{SERVER}/%00"),
    ] {
        let seen = client.get(&download(&other)).await;
        assert_eq!((seen.status, seen.json()), (404, expired.json()), "{other}");
    }
}
