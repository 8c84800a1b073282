//! The administration API that Synapse's tools speak (synadm, Ketesa, Draupnir), in Synapse's shapes, and what
//! they have no words for ([`governance`]).
//!
//! Every route goes through [`Desk::serve`]: a session of an administrator, and an entry in the audit
//! trail before anything is done or shown. What this server does not do it says; it does not pretend.

mod devices;
mod federation;
pub mod governance;
mod history;
mod media;
mod registration_tokens;
mod reports;
mod rooms;
mod server;
#[cfg(test)]
mod tests;
mod users;

use std::future::Future;

use appliance_model::ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use appliance_model::{Error, Kind};
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::route::{Access, RawRequest, Routes, Visit, json_response};

/// Rows of a list, if the tool does not say how many.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;

pub(crate) fn add(routes: &mut Routes) {
    let mut desk = Desk { routes, names_object: true };
    users::add(&mut desk);
    devices::add(&mut desk);
    federation::add(&mut desk);
    rooms::add(&mut desk);
    history::add(&mut desk);
    media::add(&mut desk);
    governance::add(&mut desk);
    registration_tokens::add(&mut desk);
    reports::add(&mut desk);
    server::add(&mut desk);
}

/// Where administrators ring.
struct Desk<'a> {
    routes: &'a mut Routes,
    /// The audit trail says what was asked about.
    names_object: bool,
}

impl Desk<'_> {
    /// The same desk where paths hold secrets: the trail says only that one was asked for.
    fn unnamed(&mut self) -> Desk<'_> {
        Desk { routes: self.routes, names_object: false }
    }

    /// Serves an endpoint to administrators; `verb` is what the audit trail calls it.
    fn serve<F, Answer>(
        &mut self,
        method: Method,
        path: &'static str,
        verb: &'static str,
        handler: F,
    ) where
        F: Fn(Visit<RawRequest>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Result<Response, Error>> + Send + 'static,
    {
        let names_object = self.names_object;
        self.routes.serve_raw(method, path, Access::SignedIn, move |visit| {
            let handler = handler.clone();
            async move {
                let object =
                    if names_object { visit.request.params.join(" ") } else { String::new() };
                let by = visit.caller()?.clone();
                visit.services.administration.admit(&by, verb, &object).await?;
                handler(visit).await
            }
        });
    }
}

fn answer(body: &Value) -> Result<Response, Error> {
    Ok(json_response(StatusCode::OK, body.to_string()))
}

fn user_at(request: &RawRequest, index: usize) -> Result<OwnedUserId, Error> {
    UserId::parse(request.param(index)?).map_err(|_| Error::invalid_param("This is not a user ID."))
}

fn room_at(request: &RawRequest, index: usize) -> Result<OwnedRoomId, Error> {
    RoomId::parse(request.param(index)?).map_err(|_| Error::invalid_param("This is not a room ID."))
}

fn flag(request: &RawRequest, name: &str) -> Result<Option<bool>, Error> {
    match request.query(name).as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Error::invalid_param(format!("`{name}` is `true` or `false`."))),
    }
}

/// Why something is done: said in the body, or in the query by a tool whose bodies cannot be changed.
fn reason_of(request: &RawRequest, in_body: Option<String>) -> Option<String> {
    in_body.filter(|reason| !reason.trim().is_empty()).or_else(|| request.query("reason"))
}

fn number(request: &RawRequest, name: &str) -> Result<Option<u64>, Error> {
    let Some(text) = request.query(name) else { return Ok(None) };
    let wrong = |_| Error::invalid_param(format!("`{name}` is a whole number, not negative."));
    text.parse().map(Some).map_err(wrong)
}

/// The part of a list that a tool asks for: from where, and how many.
fn page_of(request: &RawRequest) -> Result<(usize, usize), Error> {
    let from = number(request, "from")?.unwrap_or(0);
    let limit = number(request, "limit")?.unwrap_or(LIMIT_DEFAULT as u64);
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    Ok((from, usize::try_from(limit).unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX)))
}

/// Whether a list is to be turned over.
fn is_backward(request: &RawRequest) -> Result<bool, Error> {
    match request.query("dir").as_deref() {
        None | Some("f") => Ok(false),
        Some("b") => Ok(true),
        Some(_) => Err(Error::invalid_param("`dir` is `f` or `b`.")),
    }
}

/// What this server does not do, said plainly.
fn does_not(what: &'static str) -> Error {
    Error::new(Kind::InvalidParam, what)
}
