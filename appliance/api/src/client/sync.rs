//! `GET /sync`: query and filter in, JSON out.

use std::sync::Arc;
use std::time::Duration;

use appliance_model::ruma::api::client::filter::FilterDefinition;
use appliance_model::ruma::presence::PresenceState;
use appliance_model::{Error, Kind};
use appliance_services::personal::Personal;
use appliance_services::sync::{StateForm, SyncRequest, Token};
use axum::response::Response;
use http::{Method, StatusCode};

use crate::route::{Access, RawRequest, Routes, Visit, json_response, token};

pub(crate) fn add(routes: &mut Routes) {
    for path in ["/_matrix/client/r0/sync", "/_matrix/client/v3/sync"] {
        routes.serve_raw(Method::GET, path, Access::SignedIn, get);
    }
}

/// Ruma's type knows only the stable spelling of `use_state_after` and leaves out empty key counts,
/// so the query is read and the answer written by hand.
async fn get(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let caller = visit.caller()?;
    let query = visit.request.uri.query().unwrap_or_default();
    let mut request = read_query(query, &visit.services.personal)?;
    if let Some(filter_id) = &request.filter_id {
        let filter = visit.services.personal.filter(caller.user, filter_id).await;
        request.sync.filter = filter.map_err(|error| match error.kind {
            Kind::NotFound => Error::invalid_param("There is no filter with this ID."),
            _ => error,
        })?;
    }
    let token = token(&visit.headers, &visit.request.uri).unwrap_or_default();
    let json = visit.services.sync.sync(caller, &token, &request.sync).await?;
    Ok(json_response(StatusCode::OK, json))
}

struct Query {
    sync: SyncRequest,
    filter_id: Option<String>,
}

fn read_query(query: &str, personal: &Personal) -> Result<Query, Error> {
    let mut filter_id = None;
    let mut request = SyncRequest {
        since: None,
        filter: Arc::default(),
        full_state: false,
        timeout: Duration::ZERO,
        state_form: StateForm::Before,
        presence: PresenceState::Online,
    };
    for pair in query.split('&') {
        // Nearly every sync carries the same filter as the one before, and it is most of the query.
        if let Some(said) = whole_filter(pair) {
            request.filter = personal.said_filter(said, || filter(pair))?;
            continue;
        }
        let Some((name, value)) = form_urlencoded::parse(pair.as_bytes()).next() else { continue };
        match &*name {
            "since" if !value.is_empty() => request.since = Some(Token::parse(&value)?),
            "timeout" => request.timeout = Duration::from_millis(number(&value)?),
            "full_state" => request.full_state = flag(&value)?,
            "filter" if value.starts_with('{') => request.filter = filter(pair)?.into(),
            "filter" => filter_id = Some(value.into_owned()),
            "set_presence" => request.presence = presence(&value)?,
            "use_state_after" if flag(&value)? => request.state_form = StateForm::After,
            "org.matrix.msc4222.use_state_after" if flag(&value)? => {
                request.state_form = StateForm::AfterUnstable;
            }
            _ => {}
        }
    }
    Ok(Query { sync: request, filter_id })
}

pub(super) fn number(value: &str) -> Result<u64, Error> {
    value.parse().map_err(|_| Error::invalid_param("`timeout` must be a number of milliseconds."))
}

/// "The default is online".
pub(super) fn presence(value: &str) -> Result<PresenceState, Error> {
    match value {
        "online" => Ok(PresenceState::Online),
        "unavailable" => Ok(PresenceState::Unavailable),
        "offline" => Ok(PresenceState::Offline),
        _ => Err(Error::invalid_param(
            "`set_presence` must be `online`, `unavailable` or `offline`.",
        )),
    }
}

pub(super) fn flag(value: &str) -> Result<bool, Error> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::invalid_param("A flag must be `true` or `false`.")),
    }
}

/// "filter … The ID of a filter created using the filter API or a filter JSON object encoded as a
/// string": the latter, still encoded, if this pair spells it as clients do.
fn whole_filter(pair: &str) -> Option<&str> {
    let value = pair.strip_prefix("filter=")?;
    ["%7B", "%7b", "{"].iter().any(|brace| value.starts_with(brace)).then_some(value)
}

/// The filter of `filter={…}`.
fn filter(pair: &str) -> Result<FilterDefinition, Error> {
    let value = form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value);
    serde_json::from_str(&value.unwrap_or_default())
        .map_err(|error| Error::invalid_param(format!("`filter` is not a filter: {error}")))
}
