//! The server itself: its version, what runs in the background, whom it talks to.

use appliance_model::Error;
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::{Desk, answer, does_not};
use crate::route::{RawRequest, Visit};

pub(super) fn add(desk: &mut Desk<'_>) {
    use Method as M;
    desk.serve(M::GET, "/_synapse/admin/v1/server_version", "admin.server_read", version);
    let path = "/_synapse/admin/v1/background_updates/status";
    desk.serve(M::GET, path, "admin.server_read", updates);
    let path = "/_synapse/admin/v1/background_updates/enabled";
    desk.serve(M::GET, path, "admin.server_read", updates_enabled);
    desk.serve(M::POST, path, "admin.server_changed", no_updates);
    let path = "/_synapse/admin/v1/background_updates/start_job";
    desk.serve(M::POST, path, "admin.server_changed", no_updates);
    let path = "/_synapse/admin/v1/scheduled_tasks";
    desk.serve(M::GET, path, "admin.tasks_listed", tasks);
    let path = "/_synapse/admin/v1/experimental_features/{user_id}";
    desk.serve(M::GET, path, "admin.server_read", features);
}

async fn version(_: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&json!({ "server_version": concat!("Wardstone ", env!("CARGO_PKG_VERSION")) }))
}

/// Nothing of the kind runs here: a new binary reads what the old one wrote.
async fn updates(_: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&json!({ "enabled": true, "current_updates": {} }))
}

async fn updates_enabled(_: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&json!({ "enabled": true }))
}

async fn no_updates(_: Visit<RawRequest>) -> Result<Response, Error> {
    Err(does_not("This server has no background updates to start or to stop."))
}

async fn features(_: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&json!({ "features": {} }))
}

async fn tasks(visit: Visit<RawRequest>) -> Result<Response, Error> {
    use appliance_services::administration::TaskState;
    let tasks = visit.services.administration.tasks().await?;
    let shown = tasks.iter().map(|task| {
        let status = match task.state {
            TaskState::Active => "active",
            TaskState::Complete => "complete",
            TaskState::Failed => "failed",
        };
        json!({
            "id": task.task_id,
            "action": task.kind,
            "status": status,
            "timestamp_ms": task.ended_ms.unwrap_or(task.at_ms),
            "resource_id": task.object,
            "result": task.result.as_deref().and_then(|r| serde_json::from_str::<Value>(r).ok()),
            "error": task.error,
        })
    });
    answer(&json!({ "scheduled_tasks": shown.collect::<Vec<_>>() }))
}
