//! The photo page: a plain browser looks at governed photos and takes new ones, and keeps neither.
//! It lives on an origin of its own, on a listener of kind `photo_page`.
//!
//! * Every `GET` is inert: it shows a page and reads nothing, so that no link preview opens a photo.
//! * Everything else is a request of these very pages: it carries a header that no other site can
//!   send, and a cookie that no script can read and no other site makes the browser send.
//! * Nothing may be kept: `no-store` on every answer, no script but ours, `Clear-Site-Data` when a
//!   photo is closed and when its reader signs out.
//!
//! | Request | What it does |
//! |---|---|
//! | `GET /`, `/photo/{server}/{id}` | the pages |
//! | `POST /session`, `DELETE /session` | sign in (a session of class `browser-kiosk`) and out |
//! | `POST /rooms`, `POST /rooms/{room}/photos` | the caller's rooms; a room's newest photos |
//! | `POST /look/{server}/{id}` | one look, with the reader's name in the picture |
//! | `POST /close` | the picture is gone from the screen: the browser forgets what it loaded |
//! | `POST /rooms/{room}/camera`, `POST /rooms/{room}/capture` | what to tell; a photo to the room |

mod camera;
mod look;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use appliance_model::{Caller, Error, Kind};
use appliance_services::Services;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::header::{X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::ClientAddr;
use crate::error::refuse;

/// Signing in, and other small things.
const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;
/// What only a page of this origin can send: other sites may not add headers to their requests.
const OWN_PAGE: HeaderName = HeaderName::from_static("x-wardstone-page");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
pub(super) const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

pub(crate) fn router(services: Arc<Services>) -> Router {
    let page =
        || get(|| async { asset("text/html; charset=utf-8", include_str!("assets/page.html")) });
    let script = "text/javascript; charset=utf-8";
    let unknown =
        || async { refuse(&Error::new(Kind::Unrecognized, "There is no such page here.")) };
    Router::new()
        .route("/", page())
        .route("/photo/{server_name}/{media_id}", page())
        .route("/page.css", get(|| async { asset("text/css", include_str!("assets/page.css")) }))
        .route(
            "/page.js",
            get(move || async move { asset(script, include_str!("assets/page.js")) }),
        )
        .route(
            "/camera.js",
            get(move || async move { asset(script, include_str!("assets/camera.js")) }),
        )
        .route("/session", post(session::open).delete(session::close))
        .route("/rooms", post(look::rooms))
        .route("/rooms/{room_id}/photos", post(look::photos))
        .route("/look/{server_name}/{media_id}", post(look::look))
        .route("/close", post(look::closed))
        .route("/rooms/{room_id}/camera", post(camera::rules))
        .route("/rooms/{room_id}/capture", post(camera::capture))
        .fallback(unknown)
        .layer(map_response(unstored))
        .with_state(services)
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// What every answer carries: nobody keeps it, nothing foreign runs beside it, nobody frames it.
async fn unstored(mut response: Response) -> Response {
    for (name, value) in [
        (CACHE_CONTROL, "no-store, private"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
        (PERMISSIONS_POLICY, "camera=(self), geolocation=(), microphone=()"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob:; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A request of one of our pages.
struct Asked {
    services: Arc<Services>,
    address: Option<ClientAddr>,
    headers: HeaderMap,
}

impl Asked {
    /// # Errors
    ///
    /// [`Kind::Forbidden`] if another site makes the browser ask.
    fn read(
        State(services): State<Arc<Services>>,
        request: Request,
    ) -> Result<(Self, Body), Error> {
        let (parts, body) = request.into_parts();
        let site = parts.headers.get(SEC_FETCH_SITE);
        if !parts.headers.contains_key(OWN_PAGE) || site.is_some_and(|site| site != "same-origin") {
            return Err(Error::forbidden("Only this server's own pages may ask that."));
        }
        let address = parts.extensions.get::<ClientAddr>().copied();
        Ok((Self { services, address, headers: parts.headers }, body))
    }
}

/// The same of somebody who is signed in: what almost every handler begins with.
struct Signed {
    services: Arc<Services>,
    caller: Caller,
    body: Body,
}

impl Signed {
    /// # Errors
    ///
    /// As [`Asked::read`] and [`Asked::caller`].
    async fn read(state: State<Arc<Services>>, request: Request) -> Result<Self, Error> {
        let (asked, body) = Asked::read(state, request)?;
        let caller = asked.caller().await?;
        Ok(Self { services: asked.services, caller, body })
    }
}

/// What a page is answered.
type Answer = Result<Response, Refusal>;

/// An error, as pages read it: the same status and JSON as everywhere.
struct Refusal(Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        refuse(&self.0)
    }
}

fn empty() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The path's variables.
type Names = Path<(String, String)>;
