//! `GET /_matrix/client/v1/media/preview_url` ([spec]): what a page says of itself, and its picture.
//!
//! Off unless the operator names hosts (`egress.preview_hosts`): whoever is asked for a page learns
//! that somebody here talks about it. Asking goes through the one door out, which lets only those hosts
//! pass, over TLS, and no address inside that nobody named; a redirect is followed on the same host
//! alone. The picture becomes a file of whoever asked, with its deadline.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use appliance_model::{Caller, Error, Kind};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Method, StatusCode, Uri};
use image::{ImageFormat, ImageReader};
use quick_cache::sync::Cache;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use url::Url;

use super::Media;
use super::page::properties;
use super::upload::NewFile;
use crate::egress::{Limits, Outgoing, Purpose};

/// As long as browsers take.
const URL_BYTES_MAX: usize = 2_048;
/// Somebody waits for it with a message half written.
const TOTAL: Duration = Duration::from_secs(10);
/// The head of a page lies at its beginning; the rest is not read.
const PAGE_BYTES_MAX: usize = 512 * 1024;
/// A larger picture is no preview.
const PICTURE_BYTES_MAX: u64 = 5 * 1024 * 1024;
/// From http to https does not count: only https is asked.
const REDIRECTS_MAX: usize = 3;
/// Pages are asked at once; each may hold a page or a picture in memory.
pub(super) const PREVIEWS_AT_ONCE_MAX: usize = 8;
/// Previews remembered, a few KB each.
const REMEMBERED_MAX: usize = 500;
/// "Clients … the server may cache": a page says the same for an hour.
const REMEMBERED_MS: u64 = 60 * 60 * 1_000;

/// Until when it is remembered, and what a page says of itself.
type Known = Arc<(u64, Map<String, Value>)>;

/// What was found out lately.
pub(super) struct Previews {
    known: Cache<String, Known>,
    places: Semaphore,
}

impl Previews {
    pub fn new() -> Self {
        Self { known: Cache::new(REMEMBERED_MAX), places: Semaphore::new(PREVIEWS_AT_ONCE_MAX) }
    }
}

/// An answer of a web server.
struct Fetched {
    url: Url,
    content_type: String,
    body: Bytes,
}

impl Media {
    /// What a page says of itself, with an `mxc:` URI in the place of its picture. Empty if it says
    /// nothing.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: this server makes no previews.
    /// * [`Kind::InvalidParam`]: no `https:` URL, or one with a password in it.
    /// * [`Kind::Forbidden`]: the operator has not named that host.
    /// * [`Kind::RemoteUnavailable`]: it does not answer.
    pub async fn preview(&self, caller: &Caller, url: &str) -> Result<Map<String, Value>, Error> {
        if !self.0.house.options.previews {
            return Err(Error::not_found("This server makes no URL previews."));
        }
        let url = self.asked_for(url)?;
        let now_ms = self.now_ms();
        let known = self.0.previews.known.get(url.as_str());
        if let Some(known) = known.filter(|known| known.0 > now_ms) {
            return Ok(known.1.clone());
        }
        self.count(caller)?;
        let busy = |_| Error::new(Kind::Unavailable, "Too many previews are made. Try again.");
        let place = self.0.previews.places.try_acquire().map_err(busy)?;
        let preview = self.make_preview(caller, url.clone()).await?;
        drop(place);
        let entry = Arc::new((now_ms.saturating_add(REMEMBERED_MS), preview.clone()));
        self.0.previews.known.insert(url.to_string(), entry);
        Ok(preview)
    }

    /// A URL that a preview can be made of.
    fn asked_for(&self, text: &str) -> Result<Url, Error> {
        if text.len() > URL_BYTES_MAX {
            return Err(no_url());
        }
        let mut url = Url::parse(text).map_err(|_| no_url())?;
        let plain = self.0.house.options.for_suites.plain_previews && url.scheme() == "http";
        let is_fit = (url.scheme() == "https" || plain)
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none();
        if !is_fit {
            return Err(no_url());
        }
        url.set_fragment(None);
        Ok(url)
    }

    async fn make_preview(&self, caller: &Caller, url: Url) -> Result<Map<String, Value>, Error> {
        let fetched = self.fetch_page(url).await?;
        let mut preview = Map::new();
        let essence = fetched.content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "text/html" | "application/xhtml+xml" => {
                let page = String::from_utf8_lossy(&fetched.body);
                for (name, value) in properties(&page) {
                    preview.insert(name, value.into());
                }
                let picture = preview.remove("og:image");
                // What is said of the picture is found out here.
                preview.retain(|name, _| !name.starts_with("og:image"));
                let picture = picture.as_ref().and_then(Value::as_str);
                let picture = picture.and_then(|text| fetched.url.join(text).ok());
                if let Some(picture) = picture.and_then(|url| self.asked_for(url.as_str()).ok()) {
                    // A page without its picture is a preview, too.
                    if let Ok(fetched) = self.fetch_page(picture).await {
                        self.add_picture(caller, &fetched.body, &mut preview).await;
                    }
                }
            }
            kind if kind.starts_with("image/") => {
                self.add_picture(caller, &fetched.body, &mut preview).await;
            }
            _ => {}
        }
        Ok(preview)
    }

    /// Asks for a page or a picture, and again where that host says it is now.
    async fn fetch_page(&self, mut url: Url) -> Result<Fetched, Error> {
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static("text/html, image/*;q=0.9"));
            let uri: Uri = url.as_str().parse().map_err(|_| no_url())?;
            let request = Outgoing {
                purpose: Purpose::Preview,
                method: Method::GET,
                uri,
                connect_to: None,
                headers,
                body: Bytes::new(),
                limits: Limits { total: TOTAL, answer_bytes_max: PICTURE_BYTES_MAX },
            };
            let opened = self.0.house.egress.open(request).await?;
            let text = |name| opened.headers.get(name).and_then(|value| value.to_str().ok());
            if opened.status.is_redirection() {
                let next = text(LOCATION).and_then(|text| url.join(text).ok());
                let next = next.and_then(|next| self.asked_for(next.as_str()).ok());
                // Elsewhere is where nobody has asked.
                let origin = |url: &Url| (url.host_str().map(str::to_owned), url.port());
                let next = next.filter(|next| origin(next) == origin(&url));
                url = next.ok_or_else(unavailable)?;
                continue;
            }
            if opened.status != StatusCode::OK {
                return Err(unavailable());
            }
            let content_type = text(CONTENT_TYPE).unwrap_or_default().to_owned();
            let is_picture = content_type.trim_start().to_ascii_lowercase().starts_with("image/");
            let mut pieces = opened.body;
            let mut body = BytesMut::new();
            while let Some(piece) = pieces.next().await {
                body.extend_from_slice(&piece?);
                if !is_picture && body.len() >= PAGE_BYTES_MAX {
                    break;
                }
            }
            return Ok(Fetched { url, content_type, body: body.freeze() });
        }
        Err(unavailable())
    }

    /// Keeps a picture as a file of whoever asked. What is none, or is too large, is left out.
    async fn add_picture(&self, caller: &Caller, body: &Bytes, preview: &mut Map<String, Value>) {
        use ImageFormat::{Gif, Jpeg, Png, WebP};
        // By its bytes, not by what the other server says.
        let Ok(format @ (Jpeg | Png | Gif | WebP)) = image::guess_format(body) else { return };
        let reader = ImageReader::with_format(Cursor::new(&body[..]), format);
        let Ok((width, height)) = reader.into_dimensions() else { return };
        if u64::from(width) * u64::from(height) > self.options().pixels_max {
            return;
        }
        let content_type = format.to_mime_type();
        let bytes = body.len() as u64;
        let new = NewFile {
            content_type: Some(content_type.to_owned()),
            filename: None,
            announced_bytes: Some(bytes),
            is_captured: false,
        };
        let pieces = stream::iter([Ok::<_, std::convert::Infallible>(body.clone())]);
        match self.upload(caller, new, pieces).await {
            Ok(uri) => {
                for (name, value) in [
                    ("og:image", Value::from(uri)),
                    ("og:image:type", content_type.into()),
                    ("og:image:width", width.into()),
                    ("og:image:height", height.into()),
                    ("matrix:image:size", bytes.into()),
                ] {
                    preview.insert(name.to_owned(), value);
                }
            }
            Err(error) => tracing::debug!(kind = "media.no_preview", %error, "no picture kept"),
        }
    }
}

fn no_url() -> Error {
    Error::invalid_param("`url` is an `https:` URL of at most 2048 bytes, without a password.")
}

fn unavailable() -> Error {
    Error::new(Kind::RemoteUnavailable, "There is no preview of that page.")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::egress::{Destination, Egress, Failure, Opened, ServiceRecord};
    use crate::scenario::Ward;

    /// A web of a few pages: path, status, type or place, body.
    struct Web {
        pages: Vec<(&'static str, u16, &'static str, Vec<u8>)>,
        asked: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Egress for Web {
        async fn open(&self, request: Outgoing) -> Result<Opened, Failure> {
            assert_eq!(request.purpose, Purpose::Preview);
            let uri = request.uri.to_string();
            self.asked.lock().unwrap().push(uri.clone());
            if request.uri.host() != Some("wiki.example") {
                return Err(Failure::Refused("not named".to_owned()));
            }
            let page = self.pages.iter().find(|(path, ..)| uri.ends_with(path));
            let (_, status, word, body) = page.unwrap();
            let mut headers = HeaderMap::new();
            let name = if *status == 302 { LOCATION } else { CONTENT_TYPE };
            headers.insert(name, HeaderValue::from_static(word));
            let pieces: Vec<_> =
                body.chunks(1_000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
            let status = StatusCode::from_u16(*status).unwrap();
            Ok(Opened { status, headers, body: Box::pin(stream::iter(pieces)) })
        }

        async fn find_services(&self, _: &Purpose, _: &str) -> Result<Vec<ServiceRecord>, Failure> {
            Err(Failure::Refused("no".to_owned()))
        }

        fn allow_app_service(&self, _: &Uri) {}

        fn take_seen(&self) -> Vec<Destination> {
            Vec::new()
        }
    }

    fn png() -> Vec<u8> {
        let mut out = Vec::new();
        let picture = image::RgbImage::new(30, 20);
        picture.write_to(&mut Cursor::new(&mut out), ImageFormat::Png).unwrap();
        out
    }

    fn page(image: &str) -> Vec<u8> {
        format!(
            "<title>Bed plan</title><meta property=og:image content='{image}'>\
             <meta property=og:image:width content=9999></head>{}",
            " ".repeat(2 * PAGE_BYTES_MAX)
        )
        .into_bytes()
    }

    async fn ward() -> (Ward, Caller, Arc<Web>) {
        let web = Arc::new(Web {
            pages: vec![
                ("/page", 200, "text/html; charset=utf-8", page("/leg.png")),
                ("/inside", 200, "text/html", page("https://10.0.0.1/leg.png")),
                ("/leg.png", 200, "image/png", png()),
                ("/moved", 302, "/page", Vec::new()),
                ("/away", 302, "https://evil.example/", Vec::new()),
                ("/round", 302, "/round", Vec::new()),
                ("/svg", 200, "image/svg+xml", b"<svg/>".to_vec()),
                ("/file", 200, "application/zip", b"PK".to_vec()),
            ],
            asked: Mutex::default(),
        });
        let options = crate::Options { previews: true, ..crate::scenario::options() };
        let ward = Ward::with_options_and_egress(options, web.clone()).await;
        let nurse = ward.member("nurse").await;
        (ward, nurse, web)
    }

    #[tokio::test]
    async fn a_page_is_shown_with_its_picture_once() {
        let (ward, nurse, web) = ward().await;
        let media = &ward.services.media;
        let shown = media.preview(&nurse, "https://wiki.example/page#top").await.unwrap();
        assert_eq!(shown["og:title"], "Bed plan");
        assert_eq!((&shown["og:image:width"], &shown["og:image:height"]), (&30.into(), &20.into()));
        let uri = shown["og:image"].as_str().unwrap();
        let media_id = uri.rsplit('/').next().unwrap();
        let found = media.find("hospital.example", media_id, 0).await.unwrap();
        assert_eq!(found.bytes(), png().len() as u64);
        assert_eq!(media.usage(nurse.user).await.unwrap().files, 1);
        media.preview(&nurse, "https://wiki.example/page").await.unwrap();
        assert_eq!(web.asked.lock().unwrap().len(), 2, "page and picture, once");
        let moved = media.preview(&nurse, "https://wiki.example/moved").await.unwrap();
        assert_eq!(moved["og:title"], "Bed plan");
    }

    #[tokio::test]
    async fn nothing_is_asked_where_nobody_pointed() {
        let (ward, nurse, web) = ward().await;
        let media = &ward.services.media;
        let kind = async |url: &str| media.preview(&nurse, url).await.map_err(|error| error.kind);
        for bad in ["", "x", "http://wiki.example/page", "https://a:b@wiki.example/", "file:///x"] {
            assert_eq!(kind(bad).await, Err(Kind::InvalidParam), "{bad}");
        }
        assert_eq!(web.asked.lock().unwrap().len(), 0);
        assert_eq!(kind("https://evil.example/").await, Err(Kind::Forbidden));
        assert_eq!(kind("https://wiki.example/away").await, Err(Kind::RemoteUnavailable));
        assert!(!web.asked.lock().unwrap().iter().any(|url| url == "https://evil.example/x"));
        assert_eq!(kind("https://wiki.example/round").await, Err(Kind::RemoteUnavailable));
        let inside = kind("https://wiki.example/inside").await.unwrap();
        assert!(!inside.contains_key("og:image"), "the door let nobody in: {inside:?}");
        assert_eq!(kind("https://wiki.example/svg").await, Ok(Map::new()));
        assert_eq!(kind("https://wiki.example/file").await, Ok(Map::new()));
        let off = Ward::new().await;
        let nurse = off.member("nurse").await;
        let none = off.services.media.preview(&nurse, "https://wiki.example/page").await;
        assert_eq!(none.unwrap_err().kind, Kind::NotFound);
    }
}
