//! The gate itself: judge, then send through the destination's own pool of connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use appliance_model::Clock;
use appliance_services::egress::{
    Destination, Egress, Failure, Limits, Opened, Outgoing, Pieces, Purpose, ServiceRecord,
};
use appliance_services::peers::Roll;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http::header::{HeaderValue, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::ServerName as TlsName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::connect::{Connector, NotAllowed};
use crate::judge::{Judge, Named, Terms, port};
use crate::seen::SeenList;
use crate::services::Services;
use crate::trust::Trust;

/// Requests under way to one destination. More would be a burden for it, and wait here.
const REQUESTS_PER_DESTINATION_MAX: usize = 16;

/// Destinations with a pool; the one used longest ago goes. A pool without connections is small.
const POOLS_MAX: usize = 512;

/// Connections nobody uses are closed after this; servers commonly wait a minute or more.
const IDLE: Duration = Duration::from_secs(45);

/// Kept open to one destination while nobody uses them.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// Between two pieces of a body.
const STALL_MAX: Duration = Duration::from_secs(20);

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("Wardstone/", env!("CARGO_PKG_VERSION")));

/// The one door out.
pub struct Gate {
    judge: Judge,
    trust: Trust,
    clock: Arc<dyn Clock>,
    seen: Arc<SeenList>,
    pools: Mutex<HashMap<PoolKey, Pool>>,
    services: Services,
}

/// Connections are shared only by requests that would open the very same one, on the same terms.
type PoolKey = (Purpose, Terms, Uri, String, u16);

type Https = Client<Connector, Full<Bytes>>;

struct Pool {
    client: Https,
    room: Arc<Semaphore>,
    used_ms: u64,
}

impl Pool {
    fn new(connector: Connector, now_ms: u64) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        let room = Arc::new(Semaphore::new(REQUESTS_PER_DESTINATION_MAX));
        Self { client, room, used_ms: now_ms }
    }
}

impl Gate {
    /// A gate that knows what the operator named.
    pub fn new(named: Named, peers: Arc<Roll>, trust: Trust, clock: Arc<dyn Clock>) -> Self {
        Self {
            judge: Judge::new(named, peers),
            trust,
            clock,
            seen: Arc::default(),
            pools: Mutex::default(),
            services: Services::default(),
        }
    }

    fn refuse(&self, purpose: &Purpose, host: &str, why: String) -> Failure {
        if self.seen.refused(purpose, host, &why, self.clock.now_ms()) {
            let purpose = purpose.as_str();
            tracing::warn!(kind = "egress.refused", purpose, host, why, "not let out");
        }
        Failure::Refused(why)
    }

    /// The pool of a destination, made if there is none.
    fn pool(
        &self,
        request: &Outgoing,
        terms: Terms,
        (host, port): (String, u16),
    ) -> Result<(Https, Arc<Semaphore>), Failure> {
        let origin = origin(&request.uri)?;
        let is_tls = request.uri.scheme() == Some(&Scheme::HTTPS);
        let tls = is_tls.then(|| tls_name(&request.uri)).transpose()?;
        let key = (request.purpose.clone(), terms.clone(), origin, host.clone(), port);
        let now_ms = self.clock.now_ms();
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= POOLS_MAX && !pools.contains_key(&key) {
            let oldest = pools.iter().min_by_key(|(_, pool)| pool.used_ms);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                pools.remove(&oldest);
            }
        }
        let pool = match pools.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let pins = terms.pins.clone();
                let config = self.trust.config(pins.as_deref()).map_err(Failure::Refused)?;
                let connector = Connector {
                    purpose: request.purpose.clone(),
                    terms,
                    host,
                    port,
                    tls: tls.map(|name| (name, config)),
                    seen: self.seen.clone(),
                    clock: self.clock.clone(),
                };
                place.insert(Pool::new(connector, now_ms))
            }
        };
        pool.used_ms = now_ms;
        Ok((pool.client.clone(), pool.room.clone()))
    }

    async fn open_in_time(&self, request: Outgoing) -> Result<(Incoming, Head), Failure> {
        let target = match &request.connect_to {
            Some(target) => target.clone(),
            None => (request.uri.host().unwrap_or_default().to_owned(), port(&request.uri)),
        };
        let shown = format!("{}:{}", target.0, target.1);
        let judged = self.judge.judge(&request.purpose, &request.uri);
        let terms = judged.map_err(|why| self.refuse(&request.purpose, &shown, why))?;
        let (client, room) = self.pool(&request, terms, target)?;
        let place = room.acquire_owned().await.map_err(|_| Failure::TimedOut)?;
        let purpose = request.purpose.clone();
        let answer = client.request(http_request(request)?).await.map_err(|error| {
            match find::<NotAllowed>(&error) {
                Some(NotAllowed(why)) => self.refuse(&purpose, &shown, why.clone()),
                None => failure(&error),
            }
        })?;
        let (parts, body) = answer.into_parts();
        Ok((body, Head { parts, place }))
    }
}

struct Head {
    parts: http::response::Parts,
    place: OwnedSemaphorePermit,
}

#[async_trait]
impl Egress for Gate {
    async fn open(&self, request: Outgoing) -> Result<Opened, Failure> {
        let limits = request.limits;
        let mut deadline = Box::pin(tokio::time::sleep(limits.total));
        let (body, Head { parts, place }) = tokio::select! {
            opened = self.open_in_time(request) => opened?,
            () = &mut deadline => return Err(Failure::TimedOut),
        };
        let body = pieces(Reading {
            body,
            limits,
            left: limits.answer_bytes_max,
            deadline,
            _place: place,
        });
        Ok(Opened { status: parts.status, headers: parts.headers, body })
    }

    async fn find_services(
        &self,
        purpose: &Purpose,
        name: &str,
    ) -> Result<Vec<ServiceRecord>, Failure> {
        self.judge.judge_name(purpose).map_err(|why| self.refuse(purpose, name, why))?;
        self.services.find(name).await
    }

    fn allow_app_service(&self, url: &Uri) {
        self.judge.allow_app_service(url);
    }

    fn take_seen(&self) -> Vec<Destination> {
        self.seen.take()
    }
}

fn origin(uri: &Uri) -> Result<Uri, Failure> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    Uri::from_parts(parts).map_err(|_| Failure::Refused("not a whole URL".to_owned()))
}

fn tls_name(uri: &Uri) -> Result<TlsName<'static>, Failure> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    TlsName::try_from(host.to_owned())
        .map_err(|_| Failure::Refused(format!("{host} can have no certificate")))
}

fn http_request(request: Outgoing) -> Result<Request<Full<Bytes>>, Failure> {
    let mut http = Request::new(Full::new(request.body));
    *http.method_mut() = request.method;
    *http.uri_mut() = request.uri;
    *http.headers_mut() = request.headers;
    http.headers_mut().entry(USER_AGENT).or_insert(AGENT);
    Ok(http)
}

/// A body that is being read. The place in the destination's queue is taken until it is through.
struct Reading {
    body: Incoming,
    limits: Limits,
    left: u64,
    deadline: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

fn pieces(reading: Reading) -> Pieces {
    Box::pin(stream::try_unfold(Some(reading), |reading| async move {
        let Some(mut reading) = reading else { return Ok(None) };
        Ok(reading.next().await?.map(|piece| (piece, Some(reading))))
    }))
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::select! {
                frame = tokio::time::timeout(STALL_MAX, self.body.frame()) => {
                    frame.map_err(|_| Failure::TimedOut)?
                }
                () = &mut self.deadline => return Err(Failure::TimedOut),
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| Failure::Unreachable(error.to_string()))?;
            // Trailers say nothing to us.
            let Ok(piece) = frame.into_data() else { continue };
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            let too_large = Failure::TooLarge(self.limits.answer_bytes_max);
            self.left = self.left.checked_sub(length).ok_or(too_large)?;
            return Ok(Some(piece));
        }
    }
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // What an `io::Error` wraps is not among its sources.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref::<E>()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The innermost reason is the one that says something.
fn failure(error: &(dyn StdError + 'static)) -> Failure {
    let is_timeout = find::<std::io::Error>(error)
        .is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut);
    if is_timeout {
        return Failure::TimedOut;
    }
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Failure::Unreachable(innermost.to_string())
}

#[cfg(test)]
mod tests;
