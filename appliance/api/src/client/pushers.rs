//! Pushers, and what rang.

use appliance_model::Error;
use appliance_model::ruma::api::client::push::{get_notifications, get_pushers, set_pusher};
use appliance_services::push::{NewPusher, Pusher};
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::form::Form;
use crate::route::{RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<get_pushers::v3::Request, _, _>(list);
    routes.serve_form::<set_pusher::v3::Request, _, _, _>(set);
    routes.serve_raw_as::<get_notifications::v3::Request, _, _>(notifications);
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let pushers = visit.services.push.pushers(visit.caller()?).await?;
    let pushers: Vec<_> = pushers.into_iter().map(in_json).collect();
    Ok(json_response(StatusCode::OK, json!({ "pushers": pushers }).to_string()))
}

#[derive(Deserialize)]
struct SetBody {
    app_id: String,
    pushkey: String,
    #[serde(deserialize_with = "Option::deserialize")]
    kind: Option<String>,
    #[serde(default)]
    append: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A pusher, as its owner and administrators see it.
pub(crate) fn in_json(pusher: Pusher) -> Value {
    let mut shown = pusher.rest;
    shown.insert("app_id".to_owned(), pusher.app_id.into());
    shown.insert("pushkey".to_owned(), pusher.pushkey.into());
    Value::Object(shown)
}

/// What is kept of a pusher beside app and key; the rest of the body is no part of it.
const KEPT: [&str; 5] = ["app_display_name", "device_display_name", "profile_tag", "lang", "data"];

async fn set(visit: Visit<Form<SetBody>>) -> Result<Response, Error> {
    let (push, body) = (&visit.services.push, &visit.request.body);
    match &body.kind {
        // "If set to null, the pusher is deleted."
        None => {
            let pusher = (body.app_id.as_str(), body.pushkey.as_str());
            push.remove_pusher(visit.caller()?, pusher).await?;
        }
        Some(kind) => {
            let kept = body.rest.iter().filter(|(name, _)| KEPT.contains(&name.as_str()));
            let mut rest: Map<String, Value> =
                kept.map(|(name, value)| (name.clone(), value.clone())).collect();
            rest.insert("kind".to_owned(), kind.as_str().into());
            let (app_id, pushkey) = (body.app_id.clone(), body.pushkey.clone());
            let new = NewPusher { app_id, pushkey, rest, append: body.append };
            push.set_pusher(visit.caller()?, new).await?;
        }
    }
    Ok(json_response(StatusCode::OK, "{}"))
}

async fn notifications(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let request = &visit.request;
    let (from, limit) = (request.query("from"), request.query("limit"));
    let not_a_number = |_| Error::invalid_param("`limit` is a number.");
    let limit = limit.map(|limit| limit.parse::<usize>().map_err(not_a_number)).transpose()?;
    let highlights = match request.query("only").as_deref() {
        None => false,
        Some(only) => only.split(',').any(|only| only == "highlight"),
    };
    let part = (from.as_deref().filter(|from| !from.is_empty()), limit);
    let page = visit.services.push.notifications(visit.caller()?, part, highlights).await?;
    let mut answer = json!({ "notifications": page.notifications });
    if let Some(next_token) = page.next_token {
        answer["next_token"] = next_token.into();
    }
    Ok(json_response(StatusCode::OK, answer.to_string()))
}
