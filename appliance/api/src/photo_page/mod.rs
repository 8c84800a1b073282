//! The photo page: a plain browser looks at governed photos and takes new ones, and keeps neither.
//! It lives on an origin of its own, on a listener of kind `photo_page`.
//!
//! * Every `GET` is inert: it shows a page and reads nothing, so that no link preview opens a photo.
//! * Everything else is a request of these very pages ([`crate::own_page`]), with a cookie that no
//!   script can read and no other site makes the browser send.
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
use axum::response::Response;
use axum::routing::{get, post};
use http::HeaderName;

use crate::error::refuse;
use crate::own_page::{Answer, Asked, asset, empty, harden};

/// Signing in, and other small things.
const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;
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

/// What every answer carries beside what those of all pages do.
async fn unstored(mut response: Response) -> Response {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob:; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    harden(&mut response, policy, "camera=(self), geolocation=(), microphone=()");
    response
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

/// The path's variables.
type Names = Path<(String, String)>;
