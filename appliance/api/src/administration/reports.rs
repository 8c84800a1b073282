//! What people have reported.

use std::sync::Arc;

use appliance_model::{Error, Position};
use appliance_services::Services;
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::{Desk, answer, page_of};
use crate::route::{RawRequest, Visit};

/// Reports looked through for one page.
const REPORTS_MAX: usize = 10_000;

pub(super) fn add(desk: &mut Desk<'_>) {
    let path = "/_synapse/admin/v1/event_reports";
    desk.serve(Method::GET, path, "admin.reports_listed", events);
    let path = "/_synapse/admin/v1/user_reports";
    desk.serve(Method::GET, path, "admin.reports_listed", users);
    let path = "/_synapse/admin/v1/event_reports/{report_id}";
    desk.serve(Method::GET, path, "admin.report_read", event);
}

/// The newest first: of one room or by one person, if they are named.
async fn reports(
    services: Arc<Services>,
    (room_id, user_id): (Option<String>, Option<String>),
) -> Result<Vec<Value>, Error> {
    let rows = services.rooms.reports(Position(u64::MAX), REPORTS_MAX).await?;
    let shown = rows.into_iter().map(|(position, row)| {
        json!({
            "id": position.0,
            "received_ts": row.at_ms,
            "user_id": row.by,
            "reason": row.reason,
            "score": row.score,
            "room_id": row.room_id,
            "event_id": row.event_id,
            "target_user_id": row.user_id,
            "sender": null,
            "name": null,
            "canonical_alias": null,
        })
    });
    let is = |value: &Value, wanted: &Option<String>| {
        wanted.as_ref().is_none_or(|wanted| value.as_str() == Some(wanted))
    };
    Ok(shown.filter(|one| is(&one["room_id"], &room_id) && is(&one["user_id"], &user_id)).collect())
}

fn page(name: &str, all: &[&Value], (from, limit): (usize, usize)) -> Value {
    let shown: Vec<_> = all.iter().skip(from).take(limit).collect();
    let mut body = json!({ name: shown, "total": all.len() });
    if from.saturating_add(limit) < all.len() {
        body["next_token"] = (from + limit).into();
    }
    body
}

async fn events(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let span = page_of(&visit.request)?;
    let services = visit.services.clone();
    let (room_id, user_id) = (visit.request.query("room_id"), visit.request.query("user_id"));
    let all = reports(services, (room_id, user_id)).await?;
    let all: Vec<_> = all.iter().filter(|one| !one["event_id"].is_null()).collect();
    answer(&page("event_reports", &all, span))
}

async fn users(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let span = page_of(&visit.request)?;
    let all = reports(visit.services.clone(), (None, visit.request.query("user_id"))).await?;
    let all: Vec<_> = all.iter().filter(|one| !one["target_user_id"].is_null()).collect();
    answer(&page("user_reports", &all, span))
}

async fn event(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let all = reports(visit.services.clone(), (None, None)).await?;
    let wanted: u64 = visit.request.param(0)?.parse().unwrap_or_default();
    let found = all.into_iter().find(|one| one["id"] == wanted);
    answer(&found.ok_or_else(|| Error::not_found("Event report not found"))?)
}
