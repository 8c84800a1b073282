//! Asking another server.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use appliance_model::ruma::api::auth_scheme::{AuthScheme, NoAuthentication};
use appliance_model::ruma::api::federation::authentication::{
    ServerSignatures, XMatrix, XMatrixSigningInput,
};
use appliance_model::ruma::api::path_builder::{PathBuilder, SinglePath, VersionHistory};
use appliance_model::ruma::api::{
    IncomingResponse, MatrixVersion, OutgoingRequest, OutgoingRequestExt, SupportedVersions,
};
use appliance_model::ruma::serde::Base64;
use appliance_model::ruma::signatures::KeyPair;
use appliance_model::ruma::{OwnedServerSigningKeyId, ServerName};
use appliance_model::{Error, Kind};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Request, Response, StatusCode};

use crate::House;
use crate::egress::{Failure, Limits, Opened};

/// Questions that somebody waits for.
pub const ASK: Limits =
    Limits { total: Duration::from_secs(60), answer_bytes_max: 16 * 1024 * 1024 };

/// The state of a large room, in answer to a join: 100,000 members at 1 KB.
pub const JOIN: Limits =
    Limits { total: Duration::from_secs(300), answer_bytes_max: 256 * 1024 * 1024 };

/// The way to other servers: finds out where one is, and sends.
#[async_trait]
pub trait Remote: Send + Sync + 'static {
    /// Sends a request to a server, at the place where the server says it is. The request has a path
    /// and a query, and is signed already.
    async fn send(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Opened, Failure>;

    /// Forgets where a server was and how it failed: it was just heard of.
    fn look_again(&self, server: &ServerName);

    /// Where a server is, for an administrator who wants to know; none if there is nothing to find.
    async fn locate(&self, _: &ServerName) -> Result<Option<Located>, Failure> {
        Ok(None)
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Whom its certificate must name, with a port where it matters.
    pub authority: String,
    /// Hosts and ports that are tried.
    pub targets: Vec<String>,
    /// How that was found out, in a few words.
    pub how: &'static str,
}

/// Nobody is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRemote;

#[async_trait]
impl Remote for NoRemote {
    async fn send(&self, _: &ServerName, _: Request<Bytes>, _: Limits) -> Result<Opened, Failure> {
        Err(Failure::Refused("there is no way out".to_owned()))
    }

    fn look_again(&self, _: &ServerName) {}
}

/// Why another server gave no good answer.
#[derive(Clone, Debug)]
pub enum RemoteError {
    /// No answer.
    Failure(Failure),
    /// It said no.
    Refused {
        /// The status.
        status: StatusCode,
        /// The errcode, empty if there was none.
        errcode: String,
        /// The whole body, if it was JSON.
        body: serde_json::Map<String, serde_json::Value>,
    },
    /// An answer of the wrong form.
    Nonsense(String),
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure(failure) => failure.fmt(f),
            Self::Refused { status, errcode, body } => {
                let said = body.get("error").and_then(serde_json::Value::as_str);
                write!(f, "{status} {errcode}: {}", said.unwrap_or_default())
            }
            Self::Nonsense(why) => write!(f, "an answer of the wrong form: {why}"),
        }
    }
}

impl std::error::Error for RemoteError {}

impl From<Failure> for RemoteError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<RemoteError> for Error {
    fn from(error: RemoteError) -> Self {
        let RemoteError::Refused { status, .. } = &error else {
            return match error {
                RemoteError::Failure(failure) => failure.into(),
                _ => Self::new(
                    Kind::RemoteUnavailable,
                    "The other server's answer has the wrong form.",
                ),
            };
        };
        match *status {
            StatusCode::FORBIDDEN => Self::forbidden("The other server does not allow this."),
            StatusCode::NOT_FOUND => Self::not_found("The other server does not have this."),
            _ => Self::new(Kind::RemoteUnavailable, "The other server refused."),
        }
    }
}

/// What Ruma wants to know before it chooses a path.
pub trait PeerPath: PathBuilder {
    /// The newest stable path.
    fn newest() -> Self::Input<'static>;
}

impl PeerPath for SinglePath {
    fn newest() -> Self::Input<'static> {}
}

impl PeerPath for VersionHistory {
    fn newest() -> Self::Input<'static> {
        let versions = [MatrixVersion::V1_11].into();
        Cow::Owned(SupportedVersions { versions, features: [].into() })
    }
}

/// What Ruma wants to know before it signs a request.
pub trait PeerAuth: AuthScheme {
    /// This server's side of it.
    fn of<'a>(house: &'a House, destination: &ServerName) -> Self::Input<'a>;
}

impl PeerAuth for ServerSignatures {
    fn of<'a>(house: &'a House, destination: &ServerName) -> Self::Input<'a> {
        let origin = house.server_name.clone();
        XMatrixSigningInput::new(origin, destination.to_owned(), &house.signing_key)
    }
}

impl PeerAuth for NoAuthentication {
    fn of<'a>(_: &'a House, _: &ServerName) -> Self::Input<'a> {}
}

impl House {
    /// Asks another server and reads the answer.
    ///
    /// # Errors
    ///
    /// [`RemoteError`]
    pub async fn call<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, RemoteError>
    where
        R: OutgoingRequest,
        R::Authentication: PeerAuth,
        R::PathBuilder: PeerPath,
    {
        let answer = self.call_raw(server, request, limits).await?;
        let (parts, body) = answer.into_parts();
        let answer = Response::from_parts(parts, body.as_ref());
        R::IncomingResponse::try_from_http_response_inner(answer)
            .map_err(|error| RemoteError::Nonsense(error.to_string()))
    }

    /// The same, for those that read the answer's body themselves.
    ///
    /// # Errors
    ///
    /// [`RemoteError`]
    pub async fn call_raw<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<Response<Bytes>, RemoteError>
    where
        R: OutgoingRequest,
        R::Authentication: PeerAuth,
        R::PathBuilder: PeerPath,
    {
        let opened = self.call_open(server, request, limits).await?;
        read(opened).await
    }

    /// The same, before the body is here.
    ///
    /// # Errors
    ///
    /// [`RemoteError`]
    pub async fn call_open<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<Opened, RemoteError>
    where
        R: OutgoingRequest,
        R::Authentication: PeerAuth,
        R::PathBuilder: PeerPath,
    {
        let auth = R::Authentication::of(self, server);
        // The base is cut off again: what is signed is the path.
        let made = request.try_into_http_request::<Vec<u8>>("", auth, R::PathBuilder::newest());
        let request = made.map_err(|error| RemoteError::Nonsense(error.to_string()))?;
        self.send_to(server, request.map(Bytes::from), limits).await
    }

    /// Sends a request whose path (with its query) and body are written already, signed here.
    ///
    /// # Errors
    ///
    /// [`RemoteError`]
    pub async fn ask_json(
        &self,
        server: &ServerName,
        (method, path): (&str, &str),
        body: Option<&str>,
        limits: Limits,
    ) -> Result<Response<Bytes>, RemoteError> {
        read(self.ask_open(server, (method, path), body, limits).await?).await
    }

    /// The same, before the answer's body is here.
    ///
    /// # Errors
    ///
    /// [`RemoteError`]
    pub async fn ask_open(
        &self,
        server: &ServerName,
        (method, path): (&str, &str),
        body: Option<&str>,
        limits: Limits,
    ) -> Result<Opened, RemoteError> {
        let nonsense = |error: &dyn fmt::Display| RemoteError::Nonsense(error.to_string());
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        let body = body.unwrap_or_default().as_bytes().to_vec();
        let mut request = request.body(body).map_err(|error| nonsense(&error))?;
        let auth = ServerSignatures::of(self, server);
        ServerSignatures::add_authentication(&mut request, auth)
            .map_err(|error| nonsense(&error))?;
        self.send_to(server, request.map(Bytes::from), limits).await
    }

    /// Sends a `PUT` whose body is canonical JSON already. `path` has no character that JSON escapes.
    ///
    /// # Errors
    ///
    /// [`RemoteError`]
    pub async fn put_canonical(
        &self,
        server: &ServerName,
        path: &str,
        body: &str,
        limits: Limits,
    ) -> Result<Response<Bytes>, RemoteError> {
        let signed = format!(
            "{{\"content\":{body},\"destination\":\"{server}\",\"method\":\"PUT\",\
             \"origin\":\"{}\",\"uri\":\"{path}\"}}",
            self.server_name
        );
        let signature = self.signing_key.sign(signed.as_bytes());
        let key_id = format!("ed25519:{}", self.signing_key.version());
        let nonsense = |error: &dyn fmt::Display| RemoteError::Nonsense(error.to_string());
        let key_id = OwnedServerSigningKeyId::try_from(key_id).map_err(|error| nonsense(&error))?;
        let signature = Base64::new(signature.into_parts().1);
        let header = XMatrix::new(self.server_name.clone(), server.to_owned(), key_id, signature);
        let request = Request::put(path)
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, header.to_string())
            .body(Bytes::from(body.to_owned()))
            .map_err(|error| nonsense(&error))?;
        read(self.send_to(server, request, limits).await?).await
    }

    async fn send_to(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Opened, RemoteError> {
        let opened = self.remote.send(server, request, limits).await?;
        if opened.status.is_success() {
            return Ok(opened);
        }
        let status = opened.status;
        let said = read(Opened { status: StatusCode::OK, ..opened }).await?;
        let body: serde_json::Map<_, _> = serde_json::from_slice(said.body()).unwrap_or_default();
        let errcode = body.get("errcode").and_then(serde_json::Value::as_str).unwrap_or_default();
        Err(RemoteError::Refused { status, errcode: errcode.to_owned(), body })
    }
}

async fn read(opened: Opened) -> Result<Response<Bytes>, RemoteError> {
    let Opened { status, headers, mut body } = opened;
    let mut whole = BytesMut::new();
    while let Some(piece) = body.next().await {
        whole.extend_from_slice(&piece?);
    }
    let mut response = Response::new(whole.freeze());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}
