//! `POST /_matrix/policy/v1/sign`: does this server, as the policy server of a room, recommend an event?

use appliance_model::Error;
use appliance_model::ruma::api::federation::policy::sign_event;
use axum::response::Response;
use http::StatusCode;
use serde_json::value::RawValue;

use crate::json::read_json;
use crate::route::{RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<sign_event::v1::Request, _, _>(sign);
}

async fn sign(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let event: Box<RawValue> = read_json(&mut visit.request).await?;
    let rooms = &visit.services.rooms;
    let signatures = rooms.sign_as_policy_server(visit.origin()?, &event).await?;
    Ok(json_response(StatusCode::OK, signatures))
}
