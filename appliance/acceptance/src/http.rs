//! Raw requests: the client of tests that must see every byte of an answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// An answer longer than this is a fault of the server.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A request unanswered for so long is a hang.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// One kept-alive connection to the server under test, opened again when needed.
#[derive(Debug)]
pub struct Http {
    address: String,
    kept: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    // What moves the bytes; ends with this.
    _pump: JoinSet<hyper::Result<()>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer: the server is gone, closed the connection, or is silent.
#[derive(Debug)]
pub struct NoAnswer(pub String);

impl Http {
    /// A client of the server at `address` (`127.0.0.1:port`); connects with the first request.
    pub fn new(address: &str) -> Self {
        Self { address: address.into(), kept: Mutex::new(None) }
    }

    /// Sends `request` as it is; adds only `Host`.
    ///
    /// # Errors
    ///
    /// [`NoAnswer`] when the connection breaks or nothing comes within a minute. The request may
    /// or may not have been carried out.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, NoAnswer> {
        let host = self.address.parse().map_err(|e| NoAnswer(format!("bad address: {e}")))?;
        request.headers_mut().entry(HOST).or_insert(host);
        let mut kept = self.kept.lock().await;
        match timeout(ANSWER_WAIT, exchange(&self.address, &mut kept, request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                *kept = None;
                Err(error)
            }
            Err(_) => {
                *kept = None;
                Err(NoAnswer(format!("no answer within {ANSWER_WAIT:?}")))
            }
        }
    }

    /// Sends JSON (or nothing) with an access token (or none).
    ///
    /// # Errors
    ///
    /// As [`Http::send`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Answer, NoAnswer> {
        let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(bytes)).map_err(|e| NoAnswer(e.to_string()))?;
        self.send(request).await
    }
}

async fn exchange(
    address: &str,
    kept: &mut Option<Connection>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, NoAnswer> {
    let broken = |what: &str, e: &dyn std::fmt::Display| NoAnswer(format!("{what}: {e}"));
    let usable = match kept.as_mut() {
        // A server may close an idle connection at any time; one that it closed is not used again.
        Some(connection) => connection.sender.ready().await.is_ok(),
        None => false,
    };
    if !usable {
        let stream = TcpStream::connect(address).await.map_err(|e| broken("connect", &e))?;
        stream.set_nodelay(true).map_err(|e| broken("connect", &e))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken("connect", &e))?;
        let mut pump = JoinSet::new();
        pump.spawn(connection);
        *kept = Some(Connection { sender, _pump: pump });
    }
    let connection = kept.as_mut().ok_or_else(|| NoAnswer("not connected".into()))?;
    let answer =
        connection.sender.send_request(request).await.map_err(|e| broken("request", &e))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| broken("answer", &e))?
        .to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

impl Answer {
    /// The body as JSON, or `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body of a success.
    ///
    /// # Panics
    ///
    /// On any other status, showing the answer.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{}", self.summary());
        self.json()
    }

    /// The `errcode` of a refusal.
    pub fn errcode(&self) -> Option<String> {
        Some(self.json().get("errcode")?.as_str()?.to_owned())
    }

    /// Status and the start of the body, for messages of failed assertions.
    pub fn summary(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        format!("{} {}", self.status, text.chars().take(300).collect::<String>())
    }
}
