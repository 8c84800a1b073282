//! The one door out: every connection that this server opens goes through an [`Egress`].
//!
//! Nothing is allowed by default. Each request says what it is for; the door knows whom the operator
//! named for that, looks at the addresses behind the name, and remembers every destination that was
//! contacted or refused.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use appliance_model::ruma::OwnedServerName;
use appliance_model::{Error, Kind};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method, StatusCode, Uri};

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Another server of the federation.
    Peer(OwnedServerName),
    /// Finding out where another server of the federation is. What is pinned of it counts there, not
    /// here: its website may be somebody else's machine.
    PeerPlace(OwnedServerName),
    /// A push gateway, by the URL that a pusher names.
    PushGateway,
    /// An application service, by the URL of its registration.
    AppService,
    /// A page that somebody's message points at, for a preview.
    Preview,
    /// The federation list, at the URL that the settings name.
    FederationList,
}

impl Purpose {
    /// One word for lists and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Peer(_) | Self::PeerPlace(_) => "peer",
            Self::PushGateway => "push_gateway",
            Self::AppService => "app_service",
            Self::Preview => "preview",
            Self::FederationList => "federation_list",
        }
    }
}

/// How much one request may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first packet to the last byte of the answer.
    pub total: Duration,
    /// The longest body taken.
    pub answer_bytes_max: u64,
}

/// A request to somebody else.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// What for.
    pub purpose: Purpose,
    /// The method.
    pub method: Method,
    /// Scheme, host, path and query. The certificate must be for this host, and the other side is
    /// told this host and port.
    pub uri: Uri,
    /// Connect here instead of to the host of `uri`: a name or an address, and a port.
    pub connect_to: Option<(String, u16)>,
    /// Headers, without `Host`.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How much it may cost.
    pub limits: Limits,
}

/// The pieces of an answer's body. Ends with a failure if it is too long, stalls, or breaks off.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// An answer whose body is still to come.
pub struct Opened {
    /// The status. Redirects are answers like others: nothing follows them.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Pieces,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// A host that serves a service ([RFC 2782]).
///
/// [RFC 2782]: https://www.rfc-editor.org/rfc/rfc2782
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Lower is tried first.
    pub priority: u16,
    /// Among equals, how often.
    pub weight: u16,
    /// The host.
    pub target: String,
    /// Its port.
    pub port: u16,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The operator has not allowed it. Nothing was sent.
    Refused(String),
    /// No connection, or one that broke off.
    Unreachable(String),
    /// The other side took too long.
    TimedOut,
    /// The answer is longer than the limit.
    TooLarge(u64),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "not allowed: {why}"),
            Self::Unreachable(why) => write!(f, "no connection: {why}"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::TooLarge(max) => write!(f, "an answer of more than {max} bytes"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(_) => {
                Self::forbidden("This server may not talk with that one. Ask the administrator.")
            }
            Failure::Unreachable(_) | Failure::TimedOut => {
                Self::new(Kind::RemoteUnavailable, "The other server does not answer.")
            }
            Failure::TooLarge(_) => {
                Self::new(Kind::RemoteUnavailable, "The other server's answer is too long.")
            }
        }
    }
}

/// A destination that was contacted or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// [`Purpose::as_str`], and for peers their name.
    pub purpose: String,
    /// Host and port.
    pub host: String,
    /// The address last connected to.
    pub address: Option<String>,
    /// Connections opened.
    pub connected: u64,
    /// Requests and connections refused.
    pub refused: u64,
    /// Why the last one was refused.
    pub why_refused: Option<String>,
    /// When it was first seen, in milliseconds since the Unix epoch.
    pub first_ms: u64,
    /// When it was last seen, in milliseconds since the Unix epoch.
    pub last_ms: u64,
}

/// The door out.
#[async_trait]
pub trait Egress: Send + Sync + 'static {
    /// Sends a request; returns when the head of the answer is here.
    async fn open(&self, request: Outgoing) -> Result<Opened, Failure>;

    /// The hosts that serve a service of a peer, best first; empty if DNS names none.
    async fn find_services(
        &self,
        purpose: &Purpose,
        name: &str,
    ) -> Result<Vec<ServiceRecord>, Failure>;

    /// The operator has registered an application service at this URL.
    fn allow_app_service(&self, url: &Uri);

    /// What was contacted and refused since the last call, newest first.
    fn take_seen(&self) -> Vec<Destination>;

    /// Sends a request and reads the whole answer.
    async fn send(&self, request: Outgoing) -> Result<Answer, Failure> {
        let Opened { status, headers, mut body } = self.open(request).await?;
        let mut whole = BytesMut::new();
        while let Some(piece) = body.next().await {
            whole.extend_from_slice(&piece?);
        }
        Ok(Answer { status, headers, body: whole.freeze() })
    }
}

/// A wall where the door would be: for tools and tests that must contact nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWayOut;

#[async_trait]
impl Egress for NoWayOut {
    async fn open(&self, _: Outgoing) -> Result<Opened, Failure> {
        Err(Failure::Refused("there is no way out".to_owned()))
    }

    async fn find_services(&self, _: &Purpose, _: &str) -> Result<Vec<ServiceRecord>, Failure> {
        Err(Failure::Refused("there is no way out".to_owned()))
    }

    fn allow_app_service(&self, _: &Uri) {}

    fn take_seen(&self) -> Vec<Destination> {
        Vec::new()
    }
}
