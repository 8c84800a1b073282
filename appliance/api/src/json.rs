//! JSON in, JSON out, for endpoints whose answers Ruma's types would thin out: they leave empty maps
//! away, and some clients need them.

use appliance_model::Error;
use appliance_model::ruma::api::error::{DeserializationError, FromHttpRequestError};
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::respond_to_bad_request;
use crate::json_body;
use crate::route::{JSON_BODY_BYTES_MAX, RawRequest, json_response, read_body};

/// The request's body.
pub(crate) async fn read_json<T: DeserializeOwned>(request: &mut RawRequest) -> Result<T, Error> {
    let body = read_body(std::mem::take(&mut request.body), JSON_BODY_BYTES_MAX).await?;
    parsed(&body)
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if !body.is_empty() {
        json_body::check(body)?;
    }
    serde_json::from_slice(body).map_err(|error| {
        respond_to_bad_request(FromHttpRequestError::Deserialization(DeserializationError::Json(
            error,
        )))
    })
}

/// The same, where a body may be missing.
pub(crate) async fn read_json_or_nothing<T: DeserializeOwned>(
    request: &mut RawRequest,
) -> Result<Option<T>, Error> {
    let body = read_body(std::mem::take(&mut request.body), JSON_BODY_BYTES_MAX).await?;
    if body.is_empty() {
        return Ok(None);
    }
    parsed(&body).map(Some)
}

/// An answer.
pub(crate) fn answer(body: &impl Serialize) -> Result<Response, Error> {
    let body = serde_json::to_vec(body).map_err(Error::internal)?;
    Ok(json_response(StatusCode::OK, body))
}
