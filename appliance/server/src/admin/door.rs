//! The server's side of the admin socket: who may give orders, and what they hear.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::{StatusCode, header};

use super::{Admin, Reason, Refusal};
use crate::net::Peer;
use crate::wiring::House;

/// Where orders are posted.
pub const PATH: &str = "/_wardstone/admin/v1/order";

/// The longest order: the records of ten thousand peers.
const ORDER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The mode of the socket's file. The peer is asked for besides: whoever runs as our user could
/// change the mode.
pub const SOCKET_MODE: u32 = 0o600;

/// The router of the admin socket.
pub fn router(house: Arc<House>) -> Router {
    Router::new().route(PATH, post(order)).with_state(Arc::new(Admin::new(house)))
}

async fn order(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Response {
    let uid = match peer {
        Peer::Unix { uid } if may_order(uid) => uid,
        peer => {
            tracing::warn!(kind = "admin.refused", ?peer, "a stranger knocked at the admin socket");
            let message = "only root and the server's own user may give orders";
            return answer(StatusCode::FORBIDDEN, Err(refused(message.into())));
        }
    };
    let body = to_bytes(body, ORDER_BYTES_MAX).await.unwrap_or_default();
    let Ok(order) = serde_json::from_slice(&body) else {
        // What does not parse may still hold a password: the error's words are not repeated.
        let message = "this server does not know that order; is the command of another release?";
        return answer(StatusCode::BAD_REQUEST, Err(refused(message.into())));
    };
    let result = admin.carry_out(order, &format!("uid {uid}")).await;
    let status = match &result {
        Ok(_) => StatusCode::OK,
        Err(Refusal { reason: Reason::Refused, .. }) => StatusCode::BAD_REQUEST,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    answer(status, result)
}

fn may_order(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn refused(message: String) -> Refusal {
    Refusal { reason: Reason::Refused, message }
}

fn answer(status: StatusCode, result: Result<serde_json::Value, Refusal>) -> Response {
    let body = match result {
        Ok(value) => value,
        Err(refusal) => serde_json::json!(refusal),
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
