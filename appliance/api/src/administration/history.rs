//! Taking a room's past out of the store.

use appliance_model::ruma::OwnedEventId;
use appliance_model::{Error, Kind};
use appliance_services::administration::Task;
use axum::response::Response;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::rooms::status_of;
use super::{Desk, answer, does_not, room_at};
use crate::json::read_json;
use crate::route::{RawRequest, Visit};

pub(super) fn add(desk: &mut Desk<'_>) {
    let path = "/_synapse/admin/v1/purge_history/{room_id}";
    desk.serve(Method::POST, path, "admin.history_purge", purge);
    let path = "/_synapse/admin/v1/purge_history/{room_id}/{event_id}";
    desk.serve(Method::POST, path, "admin.history_purge", purge);
    let path = "/_synapse/admin/v1/purge_history_status/{purge_id}";
    desk.serve(Method::GET, path, "admin.history_purge_read", status);
}

#[derive(Deserialize)]
struct PurgeBody {
    #[serde(default)]
    delete_local_events: bool,
    purge_up_to_event_id: Option<OwnedEventId>,
    /// Milliseconds since the Unix epoch.
    purge_up_to_ts: Option<u64>,
}

/// "By default, events sent by local users are not deleted": here whatever was said up to a time goes,
/// or nothing, so the caller has to say that it wants that. An event that is named stays.
async fn purge(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: PurgeBody = read_json(&mut visit.request).await?;
    let room_id = room_at(&visit.request, 0)?;
    let (desk, by) = (&visit.services.administration, visit.caller()?);
    let named =
        match visit.request.param(1) {
            Ok(event_id) => Some(OwnedEventId::try_from(event_id).map_err(|_| {
                Error::invalid_param("The last part of the path must be an event ID.")
            })?),
            Err(_) => body.purge_up_to_event_id,
        };
    let upto_ms = match (named, body.purge_up_to_ts) {
        (Some(event_id), _) => desk.before(&room_id, &event_id).await?,
        (None, Some(upto_ms)) => upto_ms,
        (None, None) => {
            let what =
                "Say up to when: `purge_up_to_event_id`, or `purge_up_to_ts` in milliseconds.";
            return Err(Error::bad_json(what));
        }
    };
    if upto_ms > visit.services.house.clock.now_ms() {
        return Err(Error::new(Kind::InvalidParam, "What has not been said yet cannot be purged."));
    }
    if !body.delete_local_events {
        return Err(does_not(
            "This server purges all that was said up to a time, or nothing: say \
             `delete_local_events: true` if you want that.",
        ));
    }
    desk.room(&room_id).await?;
    let purge_id = desk.order(by, &Task::PurgeHistory(room_id, upto_ms)).await?;
    answer(&json!({ "purge_id": purge_id }))
}

async fn status(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let purge_id = visit.request.param(0)?;
    let tasks = visit.services.administration.tasks().await?;
    let task = tasks
        .into_iter()
        .find(|task| task.kind == "history.purge" && task.task_id == purge_id)
        .ok_or_else(|| Error::not_found("No history was purged under that ID."))?;
    let mut shown = json!({ "status": status_of(task.state) });
    if let Some(error) = task.error {
        shown["error"] = error.into();
    }
    answer(&shown)
}
