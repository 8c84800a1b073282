//! What pages of this server's own have in common: they are inert until somebody presses a button, whatever
//! changes anything is a request of these very pages, and nobody keeps or frames them.

use std::sync::Arc;

use appliance_model::Error;
use appliance_services::Services;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::header::{X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::error::refuse;
use crate::{ClientAddr, DoorClass};

/// What only a page of this origin can send: other sites may not add headers to their requests.
const OWN_PAGE: HeaderName = HeaderName::from_static("x-wardstone-page");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// A file of a page.
pub(crate) fn asset(content_type: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// What every answer carries: nobody keeps it, nothing foreign runs beside it, nobody frames it.
pub(crate) fn harden(response: &mut Response, policy: &'static str, permissions: &'static str) {
    for (name, value) in [
        (CACHE_CONTROL, "no-store, private"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
        (PERMISSIONS_POLICY, permissions),
        (CONTENT_SECURITY_POLICY, policy),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

/// A request of one of our pages.
pub(crate) struct Asked {
    pub services: Arc<Services>,
    pub address: Option<ClientAddr>,
    /// The class of sessions that begin here, if the listener vouches for one.
    pub door: Option<DoorClass>,
    pub headers: HeaderMap,
}

impl Asked {
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if another site makes the browser ask.
    pub fn read(
        State(services): State<Arc<Services>>,
        request: Request,
    ) -> Result<(Self, Body), Error> {
        let (parts, body) = request.into_parts();
        let site = parts.headers.get(SEC_FETCH_SITE);
        if !parts.headers.contains_key(OWN_PAGE) || site.is_some_and(|site| site != "same-origin") {
            return Err(Error::forbidden("Only this server's own pages may ask that."));
        }
        let address = parts.extensions.get::<ClientAddr>().copied();
        let door = parts.extensions.get::<DoorClass>().copied();
        Ok((Self { services, address, door, headers: parts.headers }, body))
    }
}

/// What a page is answered.
pub(crate) type Answer = Result<Response, Refusal>;

/// An error, as pages read it: the same status and JSON as everywhere.
pub(crate) struct Refusal(Error);

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

/// Done, and nothing to say.
pub(crate) fn empty() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
