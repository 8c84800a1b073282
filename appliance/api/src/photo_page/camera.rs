//! Taking a photo for a room.

use std::sync::Arc;

use appliance_model::Error;
use appliance_services::Services;
use appliance_services::media::capture::{Capture, PHOTO_BYTES_MAX};
use axum::extract::{Path, Request, State};
use http::StatusCode;
use serde_json::json;

use super::look::room_id_of;
use super::{Answer, Signed};
use crate::query;
use crate::route::{json_response, read_body};

/// A transaction ID of the page's, and of nobody else's.
const TXN_BYTES_MAX: usize = 64;

pub(super) async fn rules(
    state: State<Arc<Services>>,
    Path(room_id): Path<String>,
    request: Request,
) -> Answer {
    let Signed { services, caller, .. } = Signed::read(state, request).await?;
    let rules = services.media.camera_rules(&caller, &room_id_of(&room_id)?).await?;
    let answer = json!({
        "needs_consent": rules.needs_consent,
        "needs_reference": rules.needs_reference,
    });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

pub(super) async fn capture(
    state: State<Arc<Services>>,
    Path(room_id): Path<String>,
    request: Request,
) -> Answer {
    let uri = request.uri().clone();
    let Signed { services, caller, body } = Signed::read(state, request).await?;
    let txn_id = query::value(&uri, "txn_id").unwrap_or_default();
    let is_sane = (1..=TXN_BYTES_MAX).contains(&txn_id.len())
        && txn_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_sane {
        return Err(Error::invalid_param("`txn_id` has 1 to 64 letters, digits or `-`.").into());
    }
    let picture = read_body(body, PHOTO_BYTES_MAX).await?;
    let taken = Capture {
        room_id: room_id_of(&room_id)?,
        txn_id,
        has_consent: query::value(&uri, "consent").as_deref() == Some("true"),
        reference: query::value(&uri, "reference"),
        picture,
    };
    let event_id = services.media.capture(&caller, taken).await?;
    Ok(json_response(StatusCode::OK, json!({ "event_id": event_id }).to_string()))
}
