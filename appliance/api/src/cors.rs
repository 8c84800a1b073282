//! Web clients live on other origins: "servers MUST … these headers on all responses" ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients

use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue,
};

/// Adds the headers.
pub(crate) fn allow(mut response: Response) -> Response {
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
