//! Who is on the list now. In memory, because every request in either direction asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

use appliance_ledger::rows::peers::PeerRow;
use appliance_model::ruma::{OwnedServerName, ServerName};

/// The list: the servers that the settings name, and those that the administrator described. A
/// description says more than a name, and comes before it.
#[derive(Debug, Default)]
pub struct Roll {
    anyone: bool,
    named: BTreeSet<OwnedServerName>,
    described: RwLock<BTreeMap<OwnedServerName, PeerRow>>,
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

    /// Whether this server talks with nobody.
    pub fn is_empty(&self) -> bool {
        let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
        !self.anyone && self.named.is_empty() && described.is_empty()
    }

    /// Whether this server talks with that one.
    pub fn allows(&self, server_name: &ServerName) -> bool {
        match self.described(server_name) {
            Some(peer) => !peer.suspended,
            None => self.anyone || self.named.contains(server_name),
        }
    }

    /// Whether that server gets, now or once its suspension is over, what is said in rooms it is in.
    pub fn may_be_owed(&self, server_name: &ServerName) -> bool {
        let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
        self.anyone || self.named.contains(server_name) || described.contains_key(server_name)
    }

    /// Whether files may be given to that server, and taken from it.
    pub fn allows_media(&self, server_name: &ServerName) -> bool {
        match self.described(server_name) {
            Some(peer) => !peer.suspended && peer.media,
            None => self.anyone,
        }
    }

    /// What the administrator says of a server.
    pub fn described(&self, server_name: &ServerName) -> Option<PeerRow> {
        let described = self.described.read().unwrap_or_else(PoisonError::into_inner);
        described.get(server_name).cloned()
    }

    /// The servers that the settings name.
    pub fn named(&self) -> impl Iterator<Item = &OwnedServerName> {
        self.named.iter()
    }

    /// Takes note of a description, or of its end.
    pub(super) fn describe(&self, server_name: OwnedServerName, peer: Option<PeerRow>) {
        let mut described = self.described.write().unwrap_or_else(PoisonError::into_inner);
        match peer {
            Some(peer) => described.insert(server_name, peer),
            None => described.remove(&server_name),
        };
    }
}
