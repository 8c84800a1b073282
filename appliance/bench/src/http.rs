//! A small HTTP/1.1 client: one [`Connection`] is one TCP connection, so the number of connections
//! is exactly what a scenario says it is, and the client's own cost stays small.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// Longer than any long-poll asked for here.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// No answer measured here comes near it; a runaway one must not take the machine's memory.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Whether it is a success.
    pub(crate) fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON; `null` if it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A short name for a refusal, such as `429 M_LIMIT_EXCEEDED`.
    pub(crate) fn label(&self) -> String {
        let json = self.json();
        let code = json["errcode"].as_str().unwrap_or("-");
        let words: String = json["error"].as_str().unwrap_or("").chars().take(80).collect();
        format!("{} {code} {words}", self.status)
    }

    /// The answer, or its label as an error if it is a refusal.
    pub(crate) fn check(self) -> Result<Self> {
        if self.is_ok() { Ok(self) } else { Err(anyhow!(self.label())) }
    }
}

/// One virtual client's connection, opened when first used and again when the server closed it.
#[derive(Clone)]
pub(crate) struct Connection {
    address: SocketAddr,
    sender: Arc<Mutex<Option<SendRequest<Full<Bytes>>>>>,
}

impl Connection {
    /// A connection to `address`, not opened yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, sender: Arc::default() }
    }

    /// One request and its whole answer.
    ///
    /// # Errors
    ///
    /// When the connection breaks or the answer takes longer than two minutes.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        token: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Answer> {
        let exchange = self.exchange(method, path, token, content_type, body);
        match tokio::time::timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                *self.sender.lock().await = None;
                bail!("no answer in {} s", REQUEST_TIMEOUT.as_secs())
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        token: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Answer> {
        let mut sender = self.sender.lock().await;
        // A kept connection may have been closed by the server meanwhile: then once more, on a new one.
        for is_last in [false, true] {
            let was_open = sender.as_ref().is_some_and(|sender| !sender.is_closed());
            if !was_open {
                *sender = Some(connect(self.address).await?);
            }
            let Some(open) = sender.as_mut() else { bail!("no connection") };
            let mut request = Request::builder()
                .method(method.clone())
                .uri(path)
                .header("host", self.address.to_string())
                .header("user-agent", "wardstone-bench");
            if !token.is_empty() {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if !body.is_empty() {
                request = request.header("content-type", content_type);
            }
            match send(open, request.body(Full::new(body.clone()))?).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    *sender = None;
                    if is_last || !was_open {
                        return Err(error);
                    }
                }
            }
        }
        bail!("no connection")
    }

    /// `GET path`.
    pub(crate) async fn get(&self, path: &str, token: &str) -> Result<Answer> {
        self.request(Method::GET, path, token, "", Bytes::new()).await
    }

    /// `POST path` with JSON.
    pub(crate) async fn post(&self, path: &str, token: &str, json: &Value) -> Result<Answer> {
        let body = Bytes::from(serde_json::to_vec(json)?);
        self.request(Method::POST, path, token, "application/json", body).await
    }

    /// `PUT path` with JSON.
    pub(crate) async fn put(&self, path: &str, token: &str, json: &Value) -> Result<Answer> {
        let body = Bytes::from(serde_json::to_vec(json)?);
        self.request(Method::PUT, path, token, "application/json", body).await
    }
}

#[expect(clippy::disallowed_methods, reason = "ends with the connection it moves bytes for")]
async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer> {
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow!("{error}"))?
        .to_bytes();
    Ok(Answer { status, body })
}

/// Percent-encodes one path segment or query value.
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len() + 8), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_ids_survive_a_path() {
        assert_eq!(encode("!a:h.example"), "%21a%3Ah.example");
        assert_eq!(encode("ü"), "%C3%BC");
    }
}
