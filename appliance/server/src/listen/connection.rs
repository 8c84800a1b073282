//! One connection: hyper with small buffers, and a watch over silence.
//!
//! A quiet connection is normal while a long-poll waits and an attack while a head trickles in. So
//! the watch knows three states: *waiting for a head* (limit: `header`), *idle* between requests
//! (limit: `idle`), and *busy* with at least one request (limit: `request` for the oldest).

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use appliance_services::peers::PeerCertificate;
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, Response, Version};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::ServiceExt;

use crate::lifecycle::{Tasks, moment};
use crate::log::REQUEST_ID;
use crate::net::Peer;
use crate::wiring::ClientAddr;

mod body;
mod stream;

use body::{CountedBody, TimedBody};
use stream::Watched;

/// hyper reads and writes through buffers that grow to this; a head must fit.
const HTTP1_BUFFER_BYTES_MIN: usize = 8_192;
/// What one HTTP/2 stream may send before we read it: enough for every JSON body in one piece.
const H2_STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// What all streams of one HTTP/2 connection may send together.
const H2_CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
/// A client has one long-poll and a handful of requests; browsers open up to 100.
const H2_STREAMS_MAX: u32 = 100;
/// Answers waiting for a slow HTTP/2 reader, for each stream.
const H2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// How long each part of a connection may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// The TLS handshake.
    pub handshake: Duration,
    /// A request's head, from its first byte.
    pub header: Duration,
    /// Between two pieces of a request's body.
    pub body: Duration,
    /// Between two requests; also a peer that does not read what we write.
    pub idle: Duration,
    /// One request, from head to the end of the answer.
    pub request: Duration,
    /// The size of a request's head, in bytes.
    pub header_bytes_max: usize,
    /// The size of any request's body, in bytes; routes have lower limits of their own.
    pub body_bytes_max: usize,
}

/// The proxies whose `X-Forwarded-For` is believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    /// Addresses, as they connect to us.
    pub addresses: Vec<IpAddr>,
    /// Whether whoever comes through a Unix socket is a proxy.
    pub unix: bool,
}

impl TrustedProxies {
    /// Whether `peer` is one of them.
    pub fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Ip(address) => self.trusts_ip(address.ip()),
            Peer::Unix { .. } => self.unix,
        }
    }

    fn trusts_ip(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip.to_canonical())
    }

    /// The address of the person behind `peer`. Each proxy appends the address it saw, so the last
    /// entry that is not itself a trusted proxy is the only one a stranger could not have written.
    fn client(&self, peer: Peer, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer.ip();
        }
        let mut client = peer.ip();
        let values = headers.get_all("x-forwarded-for");
        let hops: Vec<&str> = values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        for hop in hops.iter().rev() {
            let Ok(ip) = hop.trim().parse::<IpAddr>() else { break };
            client = ip.to_canonical();
            if !self.trusts_ip(client) {
                break;
            }
        }
        client
    }
}

/// A connection that is about to be served.
pub struct Connection {
    /// Who connected.
    pub peer: Peer,
    /// The certificate that they showed, if they were asked for one.
    pub certificate: Option<PeerCertificate>,
    /// What is served.
    pub router: Router,
    /// Where HTTP/2 streams are spawned and when to finish.
    pub tasks: Tasks,
    /// How long each part may take.
    pub timeouts: Timeouts,
    /// Whose `X-Forwarded-For` is believed.
    pub proxies: Arc<TrustedProxies>,
}

/// What the connection is doing, seen from outside of hyper.
#[derive(Clone)]
struct Activity(Arc<Mutex<State>>);

struct State {
    in_flight: usize,
    /// When the present state began: accepted, first byte of a head, last answer, oldest request.
    since: Instant,
    phase: Phase,
    is_h2: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Head,
    Idle,
    Busy,
}

impl Activity {
    fn new() -> Self {
        // A new connection owes us a head at once.
        let state = State { in_flight: 0, since: moment(), phase: Phase::Head, is_h2: false };
        Self(Arc::new(Mutex::new(state)))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Bytes arrived: between requests they are the beginning of a head. HTTP/2 also sends pings
    /// and window updates there.
    fn bytes_read(&self) {
        self.change(|state| {
            if state.phase == Phase::Idle && !state.is_h2 {
                (state.phase, state.since) = (Phase::Head, moment());
            }
        });
    }

    fn request_began(&self, version: Version) {
        self.change(|state| {
            state.is_h2 = version == Version::HTTP_2;
            state.in_flight += 1;
            if state.phase != Phase::Busy {
                (state.phase, state.since) = (Phase::Busy, moment());
            }
        });
    }

    fn request_ended(&self) {
        self.change(|state| {
            state.in_flight -= 1;
            if state.in_flight == 0 {
                (state.phase, state.since) = (Phase::Idle, moment());
            }
        });
    }

    fn deadline(&self, timeouts: &Timeouts) -> Instant {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.since
            + match state.phase {
                Phase::Head => timeouts.header,
                Phase::Idle => timeouts.idle,
                Phase::Busy => timeouts.request,
            }
    }
}

/// One request in flight; it ends when the answer's body is gone.
pub(super) struct InFlight(Activity);

impl InFlight {
    fn begin(activity: &Activity, version: Version) -> Self {
        activity.request_began(version);
        Self(activity.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

impl Connection {
    /// Serves requests until the peer goes, is silent for too long, or the server stops.
    pub async fn serve<S>(self, stream: S, is_tls: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let stream = Watched::new(stream, activity.clone(), self.timeouts.idle);
        let builder = builder(&self.tasks, &self.timeouts);
        let service = self.service(&activity);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut silence = pin!(sleep_until(activity.deadline(&self.timeouts)));
        let mut stopping = pin!(self.tasks.soft().cancelled());
        let mut is_stopping = false;
        let ended = poll_fn(|cx| {
            if !is_stopping && stopping.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            poll_silence(silence.as_mut(), activity.deadline(&self.timeouts), cx).map(|()| None)
        });
        match ended.await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, peer = %self.peer.ip(), is_tls, "connection ended");
            }
            None => metrics::counter!("wardstone_connections_timed_out_total").increment(1),
        }
    }

    /// What hyper calls for each request: note who asks, watch the body, count the request.
    fn service(
        &self,
        activity: &Activity,
    ) -> impl hyper::service::Service<
        Request<Incoming>,
        Response = Response<CountedBody>,
        Error = std::convert::Infallible,
        Future: Send,
    > + 'static {
        let router = self.router.clone();
        let activity = activity.clone();
        let proxies = self.proxies.clone();
        let peer = self.peer;
        let certificate = self.certificate.clone();
        let (body_timeout, body_bytes_max) = (self.timeouts.body, self.timeouts.body_bytes_max);
        TowerToHyperService::new(tower::service_fn(move |request: Request<Incoming>| {
            let in_flight = InFlight::begin(&activity, request.version());
            let client = ClientAddr(proxies.client(peer, request.headers()));
            let mut request = request.map(|body| {
                let body = TimedBody::new(body, body_timeout);
                Body::new(http_body_util::Limited::new(body, body_bytes_max))
            });
            request.extensions_mut().insert(client);
            request.extensions_mut().insert(peer);
            if let Some(certificate) = &certificate {
                request.extensions_mut().insert(certificate.clone());
            }
            let began = moment();
            let method = request.method().clone();
            let answer = router.clone().oneshot(request);
            REQUEST_ID.scope(next_request_id(), async move {
                let answer = answer.await?;
                // Neither path nor query: they name rooms and people, and some hold tokens.
                let (status, took) = (answer.status().as_u16(), moment() - began);
                tracing::debug!(kind = "http.answered", %method, status,
                    duration_ms = took.as_millis(), "answered");
                metrics::counter!("wardstone_requests_total", "status" => class(status))
                    .increment(1);
                Ok(answer.map(|body| CountedBody::new(body, in_flight)))
            })
        }))
    }
}

fn next_request_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// `2xx`, `4xx` and so on: few enough to count each.
fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// Moves the alarm when the deadline moved, then asks whether it rang.
fn poll_silence(mut silence: Pin<&mut Sleep>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
    if silence.deadline() != deadline {
        silence.as_mut().reset(deadline);
    }
    silence.poll(cx)
}

fn builder(tasks: &Tasks, timeouts: &Timeouts) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(tasks.clone());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The watch above knows idle from trickling; hyper's own clock does not.
        .header_read_timeout(None)
        .max_buf_size(timeouts.header_bytes_max.max(HTTP1_BUFFER_BYTES_MIN));
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(timeouts.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        headers
    }

    fn peer(ip: &str) -> Peer {
        Peer::Ip((ip.parse::<IpAddr>().unwrap(), 1).into())
    }

    #[test]
    fn a_stranger_cannot_choose_an_address() {
        let proxies = TrustedProxies { addresses: vec!["10.0.0.1".parse().unwrap()], unix: false };
        let client =
            |ip: &str, values: &[&str]| proxies.client(peer(ip), &forwarded(values)).to_string();
        assert_eq!(client("192.0.2.9", &["198.51.100.1"]), "192.0.2.9");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "198.51.100.1, 10.0.0.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn a_unix_socket_is_a_proxy_only_if_said_so() {
        let headers = forwarded(&["198.51.100.1"]);
        let unix = Peer::Unix { uid: 33 };
        let client = |unix_trusted| {
            TrustedProxies { addresses: vec![], unix: unix_trusted }
                .client(unix, &headers)
                .to_string()
        };
        assert_eq!(client(false), "127.0.0.1");
        assert_eq!(client(true), "198.51.100.1");
    }
}
