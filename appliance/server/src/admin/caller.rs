//! The command's side of the admin socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::door::PATH;
use super::{Order, Reason, Refusal};
use crate::net::Stream;

/// The longest answer: a list of a hundred thousand accounts.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A check of a large store takes minutes; beyond this the server is stuck.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What came of calling the server.
#[derive(Debug)]
pub enum Called {
    /// It answered.
    Answered(Result<Value, Refusal>),
    /// No server listens on the socket.
    NobodyThere,
    /// The socket is there, but the call failed.
    Failed(String),
}

/// Gives an order to the server behind `socket`.
pub async fn call(socket: &Path, order: &Order) -> Called {
    let stream = match Stream::connect_unix(socket).await {
        Ok(stream) => stream,
        Err(error) => return unreachable(socket, &error),
    };
    match tokio::time::timeout(PATIENCE, exchange(stream, order)).await {
        Ok(Ok(answer)) => Called::Answered(answer),
        Ok(Err(reason)) => Called::Failed(format!("{}: {reason}", socket.display())),
        Err(_) => Called::Failed(format!("{}: no answer", socket.display())),
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> Called {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Called::NobodyThere,
        io::ErrorKind::PermissionDenied => Called::Failed(format!(
            "{}: only root and the server's own user may give orders; try sudo",
            socket.display()
        )),
        _ => Called::Failed(format!("{}: {error}", socket.display())),
    }
}

async fn exchange(stream: Stream, order: &Order) -> Result<Result<Value, Refusal>, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let body = serde_json::to_vec(order).map_err(|error| text(&error))?;
    let request = Request::post(PATH)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| text(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| text(&error))?;
    // The connection moves only while it is polled; it ends when the answer was read.
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        read_answer(status, &bytes)
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

fn read_answer(status: StatusCode, bytes: &[u8]) -> Result<Result<Value, Refusal>, String> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|_| format!("unexpected answer ({status})"))?;
    if status.is_success() {
        return Ok(Ok(value));
    }
    let refusal = serde_json::from_value(value.clone());
    Ok(Err(refusal.unwrap_or(Refusal { reason: Reason::Failed, message: value.to_string() })))
}
