//! `/_wardstone/health/{live,ready}` on every listener: for load balancers and monitoring.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

use crate::wiring::House;

/// The health routes.
///
/// `live`: the process answers. `ready`: it can also read and write; 503 and a reason if not.
pub fn router(house: Arc<House>) -> Router {
    Router::new()
        .route("/_wardstone/health/live", get(|| async { answer(StatusCode::OK, "live") }))
        .route("/_wardstone/health/ready", get(move || ready(house.clone())))
}

async fn ready(house: Arc<House>) -> Response {
    match house.ready().await {
        Ok(()) => answer(StatusCode::OK, "ready"),
        Err(reason) => {
            // The reason is for operators; strangers on a public listener learn only the fact.
            tracing::warn!(kind = "server.not_ready", reason, "not ready");
            answer(StatusCode::SERVICE_UNAVAILABLE, "not ready")
        }
    }
}

fn answer(status: StatusCode, text: &'static str) -> Response {
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_TYPE, "text/plain")];
    (status, headers, text).into_response()
}
