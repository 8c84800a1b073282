//! Sends requests to servers by their names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use appliance_model::Clock;
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_services::egress::{Egress, Failure, Limits, Opened, Outgoing, Purpose};
use appliance_services::peers::{Located, Remote, Roll};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Uri};

use crate::names::{self, Place};

/// Servers whose place is remembered; about 200 bytes each. The gate lets out to far fewer.
const PLACES_MAX: usize = 2_048;

/// A place where nobody answered is looked for again after this.
const FAILED_MS: u64 = 60_000;

/// Places of one server that are tried.
const TARGETS_MAX: usize = 4;

/// The way to other servers.
pub struct Client {
    egress: Arc<dyn Egress>,
    roll: Arc<Roll>,
    clock: Arc<dyn Clock>,
    places: Mutex<HashMap<OwnedServerName, Known>>,
}

#[derive(Clone)]
struct Known {
    place: Place,
    found_ms: u64,
    until_ms: u64,
}

impl Client {
    /// Through this door, to those on this list.
    pub fn new(egress: Arc<dyn Egress>, roll: Arc<Roll>, clock: Arc<dyn Clock>) -> Self {
        Self { egress, roll, clock, places: Mutex::default() }
    }

    async fn place(&self, server: &ServerName) -> Result<Place, Failure> {
        // What the administrator wrote down counts at once and comes before what anybody says.
        if let Some(place) = self.written_down(server) {
            return Ok(place);
        }
        let now_ms = self.clock.now_ms();
        let known = self.with_places(|places| places.get(server).cloned());
        if let Some(known) = known.filter(|known| now_ms < known.until_ms) {
            return Ok(known.place);
        }
        let place = names::find(&self.egress, server).await?;
        let until_ms = now_ms.saturating_add(place.lifetime_ms);
        let known = Known { place: place.clone(), found_ms: now_ms, until_ms };
        self.with_places(|places| {
            if places.len() >= PLACES_MAX {
                places.retain(|_, known| now_ms < known.until_ms);
            }
            if places.len() < PLACES_MAX {
                places.insert(server.to_owned(), known);
            }
        });
        Ok(place)
    }

    /// The place of a server whose address the administrator wrote down, for names that mean something
    /// else inside the house than outside.
    fn written_down(&self, server: &ServerName) -> Option<Place> {
        let peer = self.roll.described(server)?;
        let address = ServerName::parse(peer.address.as_deref()?).ok()?;
        let authority = peer.tls_name.clone().unwrap_or_else(|| server.to_string());
        let target = (address.host().to_owned(), address.port().unwrap_or(names::PORT));
        Some(Place { authority, targets: vec![target], lifetime_ms: 0 })
    }

    /// Nobody answered there: the server may have moved.
    fn failed(&self, server: &ServerName) {
        self.with_places(|places| {
            if let Some(known) = places.get_mut(server) {
                known.until_ms = known.until_ms.min(known.found_ms.saturating_add(FAILED_MS));
            }
        });
    }

    fn with_places<T>(&self, with: impl FnOnce(&mut HashMap<OwnedServerName, Known>) -> T) -> T {
        with(&mut self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Remote for Client {
    async fn send(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Opened, Failure> {
        let place = self.place(server).await?;
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri: Uri = format!("https://{}{path}", place.authority)
            .parse()
            .map_err(|_| Failure::Refused(format!("{server} has a name that is no host")))?;
        let mut outgoing = Outgoing {
            purpose: Purpose::Peer(server.to_owned()),
            method: parts.method,
            uri,
            connect_to: None,
            headers: parts.headers,
            body,
            limits,
        };
        let mut last = Failure::TimedOut;
        for target in place.targets.into_iter().take(TARGETS_MAX) {
            outgoing.connect_to = Some(target);
            match self.egress.open(outgoing.clone()).await {
                // Every request between servers may be sent twice.
                Err(failure @ Failure::Unreachable(_)) => last = failure,
                Err(Failure::TimedOut) => {
                    last = Failure::TimedOut;
                    break;
                }
                other => return other,
            }
        }
        self.failed(server);
        Err(last)
    }

    fn look_again(&self, server: &ServerName) {
        let now_ms = self.clock.now_ms();
        self.with_places(|places| {
            let has_failed = |known: &Known| {
                known.until_ms <= known.found_ms.saturating_add(FAILED_MS)
                    && known.place.lifetime_ms > FAILED_MS
            };
            if let Some(known) = places.get_mut(server).filter(|known| has_failed(known)) {
                known.until_ms = now_ms;
            }
        });
    }

    async fn locate(&self, server: &ServerName) -> Result<Option<Located>, Failure> {
        let (place, how) = match self.written_down(server) {
            Some(place) => (place, "as the list says"),
            None => (names::find(&self.egress, server).await?, "as the server says itself"),
        };
        let targets = place.targets.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        Ok(Some(Located { authority: place.authority, targets, how }))
    }
}
