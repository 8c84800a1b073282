//! Who is on the list now. In memory, because every request in either direction asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use appliance_ledger::rows::peers::PeerRow;
use appliance_model::Clock;
use appliance_model::ruma::{OwnedServerName, ServerName};

use super::MediaMode;
use super::certificate::ClientPins;
use super::list::Listed;

/// The list: the servers that the settings name, those that the administrator described, and those on the
/// signed list if there is one. A description says more than a name, and comes before it.
#[derive(Default)]
pub struct Roll {
    anyone: bool,
    named: BTreeSet<OwnedServerName>,
    described: RwLock<BTreeMap<OwnedServerName, Arc<PeerRow>>>,
    listed: RwLock<Arc<Listed>>,
    /// Somebody was looked up who is nowhere.
    missed: AtomicBool,
    clock: OnceLock<Arc<dyn Clock>>,
}

/// Whether anything is exchanged with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Active,
    /// No: the administrator says so.
    Suspended,
    /// Not yet: its first day is still to come.
    NotYet,
    /// No more: its last day is over.
    Over,
    /// It is not on the list.
    Unknown,
}

/// Why the servers that this one talks with cannot be counted up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncounted {
    /// It is anyone: for conformance suites only.
    Anyone,
    /// The signed list holds digests of their names.
    Hidden,
    /// There are more than whoever asks can do with.
    TooMany,
}

/// What is pinned of a peer's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pins {
    /// The only authorities that count, in PEM; none: the usual ones.
    pub authorities: Option<String>,
    /// SHA-256 of the only public keys that the certificate may have; empty: any.
    pub keys: Vec<Vec<u8>>,
    /// It is shown this server's own certificate.
    pub shows_own: bool,
}

impl Standing {
    /// One word for lists.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::NotYet => "not_yet_valid",
            Self::Over => "expired",
            Self::Unknown => "unknown",
        }
    }
}

impl Roll {
    /// The servers that the settings name.
    pub fn of(named: impl IntoIterator<Item = OwnedServerName>) -> Self {
        Self { named: named.into_iter().collect(), ..Self::default() }
    }

    /// Everybody: for conformance suites only.
    pub fn of_anyone() -> Self {
        Self { anyone: true, ..Self::default() }
    }

    /// By which clock records begin and end. Without one, a record with dates is not in force.
    pub(super) fn keep_time(&self, clock: &Arc<dyn Clock>) {
        // Whoever comes second brings the same clock.
        let _ = self.clock.set(clock.clone());
    }

    /// Whether this server talks with nobody.
    pub fn is_empty(&self) -> bool {
        let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
        !self.anyone
            && self.named.is_empty()
            && described.is_empty()
            && self.listed().names.is_empty()
    }

    /// How a server stands on the list now.
    pub fn standing(&self, server_name: &ServerName) -> Standing {
        match self.described(server_name) {
            Some(peer) => self.standing_of(&peer),
            None if self.anyone || self.named.contains(server_name) => Standing::Active,
            None => self.standing_on_list(server_name),
        }
    }

    fn standing_on_list(&self, server_name: &ServerName) -> Standing {
        let listed = self.listed();
        let now_ms = self.clock.get().map(|clock| clock.now_ms());
        match listed.has(server_name) {
            true if now_ms.is_some_and(|now_ms| now_ms < listed.until_ms) => Standing::Active,
            true => Standing::Over,
            false => {
                self.missed.store(true, Ordering::Relaxed);
                Standing::Unknown
            }
        }
    }

    fn listed(&self) -> Arc<Listed> {
        self.listed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes another signed list.
    pub(super) fn list(&self, listed: Arc<Listed>) {
        *self.listed.write().unwrap_or_else(PoisonError::into_inner) = listed;
    }

    /// Whether somebody was looked up who is nowhere, since that was last forgotten.
    pub(super) fn was_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed)
    }

    /// Forgets who was missed.
    pub(super) fn forget_missed(&self) {
        self.missed.store(false, Ordering::Relaxed);
    }

    fn standing_of(&self, peer: &PeerRow) -> Standing {
        if peer.suspended {
            return Standing::Suspended;
        }
        if peer.valid_from_ms.is_none() && peer.valid_until_ms.is_none() {
            return Standing::Active;
        }
        let Some(now_ms) = self.clock.get().map(|clock| clock.now_ms()) else {
            return Standing::NotYet;
        };
        if peer.valid_from_ms.is_some_and(|from_ms| now_ms < from_ms) {
            return Standing::NotYet;
        }
        if peer.valid_until_ms.is_some_and(|until_ms| now_ms >= until_ms) {
            return Standing::Over;
        }
        Standing::Active
    }

    /// Where it says how a server stands, in one word for lists.
    pub fn source(&self, server_name: &ServerName) -> &'static str {
        match self.described(server_name) {
            Some(_) => "record",
            None if self.anyone || self.named.contains(server_name) => "settings",
            None if self.listed().has(server_name) => "signed_list",
            None => "nowhere",
        }
    }

    /// Whether a server that has a record is on the list without it, too.
    pub fn is_named_elsewhere(&self, server_name: &ServerName) -> bool {
        let is_named = self.anyone || self.named.contains(server_name);
        is_named || self.standing_on_list(server_name) == Standing::Active
    }

    /// Whether this server talks with that one.
    pub fn allows(&self, server_name: &ServerName) -> bool {
        self.standing(server_name) == Standing::Active
    }

    /// The servers that this one talks with now.
    ///
    /// # Errors
    ///
    /// Why they cannot be counted up; there may be `count_max`.
    pub fn active(&self, count_max: usize) -> Result<Vec<OwnedServerName>, Uncounted> {
        let listed = self.listed();
        if self.anyone {
            return Err(Uncounted::Anyone);
        }
        if listed.is_hashed && !listed.names.is_empty() {
            return Err(Uncounted::Hidden);
        }
        let mut all: BTreeSet<OwnedServerName> = {
            let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
            self.named.iter().chain(described.keys()).cloned().collect()
        };
        all.extend(listed.names.iter().filter_map(|name| ServerName::parse(name.as_str()).ok()));
        all.retain(|server| self.allows(server));
        match all.len() <= count_max {
            true => Ok(all.into_iter().collect()),
            false => Err(Uncounted::TooMany),
        }
    }

    /// Whether this server talks with one on that host, whatever its port.
    pub fn allows_host(&self, host: &str) -> bool {
        let described: Vec<_> = {
            let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
            described.keys().filter(|name| name.host() == host).cloned().collect()
        };
        let named = self.named.iter().filter(|name| name.host() == host);
        let listed = ServerName::parse(host).ok();
        let mut all = named.chain(&described).chain(&listed);
        self.anyone || all.any(|name| self.allows(name))
    }

    /// Whether that server gets, now or once its suspension is over, what is said in rooms it is in.
    pub fn may_be_owed(&self, server_name: &ServerName) -> bool {
        let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
        self.anyone
            || self.named.contains(server_name)
            || described.contains_key(server_name)
            || self.listed().has(server_name)
    }

    /// Whether files may be given to that server, and taken from it.
    pub fn allows_media(&self, server_name: &ServerName) -> bool {
        self.media_mode(server_name) != MediaMode::Deny
    }

    /// How files are given to that server.
    pub fn media_mode(&self, server_name: &ServerName) -> MediaMode {
        match self.described(server_name) {
            Some(peer) if self.standing_of(&peer) == Standing::Active => MediaMode::of(&peer),
            None if self.anyone => MediaMode::Allow,
            _ => MediaMode::Deny,
        }
    }

    /// Whether rooms of a class are shared with that server, if they are shared at all.
    pub fn allows_room_kind(&self, server_name: &ServerName, kind: &str) -> bool {
        let kinds = self.described(server_name).and_then(|peer| peer.room_kinds.clone());
        kinds.is_none_or(|kinds| kinds.iter().any(|named| named == kind))
    }

    /// Whether people of that server may invite people of this one.
    pub fn may_invite(&self, server_name: &ServerName) -> bool {
        let peer = self.described(server_name);
        peer.is_none_or(|peer| peer.may_invite.unwrap_or(true))
    }

    /// Whether people of this server may invite people of that one.
    pub fn may_be_invited(&self, server_name: &ServerName) -> bool {
        let peer = self.described(server_name);
        peer.is_none_or(|peer| peer.may_be_invited.unwrap_or(true))
    }

    /// What is pinned of that server's certificate, if anything is.
    pub fn pins(&self, server_name: &ServerName) -> Option<Arc<Pins>> {
        let peer = self.described(server_name)?;
        let keys = peer.certificate_pins.iter().flatten().map(|pin| pin.to_vec()).collect();
        let shows_own = peer.show_certificate.unwrap_or_default();
        let pins = Pins { authorities: peer.authorities.clone(), keys, shows_own };
        let says = pins.authorities.is_some() || !pins.keys.is_empty() || shows_own;
        says.then(|| Arc::new(pins))
    }

    /// What certificate that server must show when it connects here; none: any, or none.
    pub fn client_pins(&self, server_name: &ServerName) -> Option<ClientPins> {
        let peer = self.described(server_name).filter(|peer| wants_certificate(peer))?;
        let keys = peer.client_pins.iter().flatten().map(|pin| pin.to_vec()).collect();
        Some(ClientPins { authorities: peer.client_authorities.clone(), keys })
    }

    /// Whether any peer must show a certificate: only then is anybody asked for one.
    pub fn asks_for_certificates(&self) -> bool {
        let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
        described.values().any(|peer| wants_certificate(peer))
    }

    /// What the administrator says of a server.
    pub fn described(&self, server_name: &ServerName) -> Option<Arc<PeerRow>> {
        let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
        described.get(server_name).cloned()
    }

    /// The servers that the settings name.
    pub fn named(&self) -> impl Iterator<Item = &OwnedServerName> {
        self.named.iter()
    }

    /// The servers whose records have a first or a last day, and how they stand.
    pub(super) fn dated(&self) -> Vec<(OwnedServerName, Standing)> {
        let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
        let is_dated =
            |peer: &PeerRow| peer.valid_from_ms.is_some() || peer.valid_until_ms.is_some();
        let dated = described.iter().filter(|(_, peer)| is_dated(peer));
        dated.map(|(server, peer)| (server.clone(), self.standing_of(peer))).collect()
    }

    /// Takes note of a description, or of its end. The store has it before: [`super::Peers::describe`].
    pub fn describe(&self, server_name: OwnedServerName, peer: Option<PeerRow>) {
        let mut described = self.described.write().unwrap_or_else(PoisonError::into_inner);
        match peer {
            Some(peer) => described.insert(server_name, Arc::new(peer)),
            None => described.remove(&server_name),
        };
    }
}

fn wants_certificate(peer: &PeerRow) -> bool {
    peer.client_authorities.is_some() || peer.client_pins.is_some()
}
