//! Web clients live on other origins: "servers MUST … these headers on all responses" ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue,
};
use http::{Method, StatusCode};

/// Adds the headers; answers preflights itself, "without authentication".
pub(crate) async fn allow(request: Request, next: Next) -> Response {
    let preflight = request.method() == Method::OPTIONS;
    let mut response =
        if preflight { StatusCode::OK.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE, PATCH, OPTIONS"),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            "X-Requested-With, Content-Type, Authorization, Date, Range",
        ),
        (ACCESS_CONTROL_EXPOSE_HEADERS, "Content-Range, Content-Length, Retry-After"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
