//! Looking up users and places of other networks, which application services know ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#third-party-lookups

use appliance_model::Error;
use appliance_model::ruma::api::client::thirdparty::{
    get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols,
    get_user_for_protocol, get_user_for_user_id,
};
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use crate::route::{RawRequest, Routes, Visit, json_response};

/// Fields of one question.
const FIELDS_MAX: usize = 32;

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<get_protocols::v3::Request, _, _>(protocols);
    routes.serve_raw_as::<get_protocol::v3::Request, _, _>(protocol);
    routes.serve_raw_as::<get_location_for_protocol::v3::Request, _, _>(locations);
    routes.serve_raw_as::<get_user_for_protocol::v3::Request, _, _>(users);
    routes.serve_raw_as::<get_location_for_room_alias::v3::Request, _, _>(locations_of_alias);
    routes.serve_raw_as::<get_user_for_user_id::v3::Request, _, _>(users_of_id);
}

async fn protocols(visit: Visit<RawRequest>) -> Result<Response, Error> {
    visit.caller()?;
    let protocols = visit.services.appservices.protocols(None).await;
    Ok(json_response(StatusCode::OK, Value::Object(protocols).to_string()))
}

async fn protocol(visit: Visit<RawRequest>) -> Result<Response, Error> {
    visit.caller()?;
    let name = visit.request.param(0)?;
    let mut protocols = visit.services.appservices.protocols(Some(name)).await;
    let protocol = protocols.remove(name).ok_or_else(no_protocol)?;
    Ok(json_response(StatusCode::OK, protocol.to_string()))
}

async fn locations(visit: Visit<RawRequest>) -> Result<Response, Error> {
    of_protocol(visit, "location").await
}

async fn users(visit: Visit<RawRequest>) -> Result<Response, Error> {
    of_protocol(visit, "user").await
}

async fn of_protocol(visit: Visit<RawRequest>, kind: &'static str) -> Result<Response, Error> {
    visit.caller()?;
    let protocol = visit.request.param(0)?.to_owned();
    let is_known = visit.services.house.appservices.all();
    let is_known = is_known.iter().any(|one| one.registration.protocols.contains(&protocol));
    if !is_known {
        return Err(no_protocol());
    }
    let fields = fields(&visit.request)?;
    let found = visit.services.appservices.third_party(kind, Some(&protocol), &fields).await;
    Ok(json_response(StatusCode::OK, Value::Array(found).to_string()))
}

async fn locations_of_alias(visit: Visit<RawRequest>) -> Result<Response, Error> {
    of_name(visit, "location", "alias").await
}

async fn users_of_id(visit: Visit<RawRequest>) -> Result<Response, Error> {
    of_name(visit, "user", "userid").await
}

async fn of_name(
    visit: Visit<RawRequest>,
    kind: &'static str,
    name: &'static str,
) -> Result<Response, Error> {
    visit.caller()?;
    let missing = || Error::invalid_param(format!("`{name}` is missing."));
    let value = visit.request.query(name).ok_or_else(missing)?;
    let query = [(name.to_owned(), value)];
    let found = visit.services.appservices.third_party(kind, None, &query).await;
    if found.is_empty() {
        return Err(Error::not_found("No application service knows of it."));
    }
    Ok(json_response(StatusCode::OK, Value::Array(found).to_string()))
}

/// What the client asks for, without what is between it and this server.
fn fields(request: &RawRequest) -> Result<Vec<(String, String)>, Error> {
    let query = request.uri.query().unwrap_or_default();
    let fields: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| !matches!(&**name, "access_token" | "user_id" | "device_id"))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .take(FIELDS_MAX + 1)
        .collect();
    if fields.len() > FIELDS_MAX {
        return Err(Error::invalid_param("At most 32 fields can be asked for."));
    }
    Ok(fields)
}

fn no_protocol() -> Error {
    Error::not_found("No application service speaks this protocol.")
}
