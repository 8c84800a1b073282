//! The administrator's list of peers: who they are, and whether anything is exchanged with them. A
//! change takes effect at once, in both directions.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{OUTBOX, OUTBOX_EDUS, PEER_KEYS, PEERS};
use appliance_ledger::rows::peers::{PeerKeysRow, PeerRow};
use appliance_model::Error;
use appliance_model::ruma::api::federation::discovery::get_server_version;
use appliance_model::ruma::{OwnedRoomId, OwnedServerName, ServerName};
use appliance_rules::Permit;

use super::{ASK, Peers, QueueState};

/// Hospitals that one talks with; the gematik's list of all of Germany's is shorter.
const PEERS_MAX: usize = 10_000;

/// A legal name or a contact fits on a line.
const TEXT_BYTES_MAX: usize = 500;

/// Keys that are pinned of one server.
const PINNED_MAX: usize = 16;

/// What of the queue is counted before it is called long.
pub const BACKLOG_COUNTED_MAX: usize = 10_000;

/// Rows of a queue deleted in one commit.
const PAGE: usize = 1_000;

/// What the administrator says of a peer; what is none stays as it is.
#[derive(Clone, Debug, Default)]
pub struct PeerChange {
    /// Its name as an organisation.
    pub legal_name: Option<String>,
    /// Whom to call there.
    pub contact: Option<String>,
    /// Nothing is exchanged for now.
    pub suspended: Option<bool>,
    /// Files may be given to it.
    pub media: Option<bool>,
    /// Key IDs and public keys in unpadded Base64.
    pub pinned_keys: Option<Vec<(String, String)>>,
}

/// A peer and how things stand with it.
#[derive(Clone, Debug)]
pub struct PeerReport {
    /// The name of its server.
    pub server_name: OwnedServerName,
    /// What the administrator says of it; none: the settings name it.
    pub peer: Option<PeerRow>,
    /// Whether anything is exchanged.
    pub is_allowed: bool,
    /// What it is owed.
    pub queue: QueueState,
    /// Events and messages that wait, up to [`BACKLOG_COUNTED_MAX`] each.
    pub backlog: (usize, usize),
    /// Its keys, as far as they are known.
    pub keys: Option<PeerKeysRow>,
}

/// What came of asking a peer who it is.
#[derive(Clone, Debug)]
pub struct PeerCheck {
    /// What runs there, and its version; or why it did not answer.
    pub version: Result<(String, String), String>,
    /// How long the answer took, in milliseconds.
    pub took_ms: u64,
    /// Its keys, fetched now if they could be.
    pub keys: Option<PeerKeysRow>,
}

impl Peers {
    /// Reads the list. Called once, before anybody is let in or out.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn load(&self) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&PEERS, &(), Direction::Forward, PEERS_MAX).await?;
        for (_, row) in rows {
            let name = ServerName::parse(&row.server_name).map_err(Error::internal)?;
            self.house.roll.describe(name, Some(row));
        }
        Ok(())
    }

    /// Puts a peer on the list, or changes what it says of one. Returns what it says then.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::InvalidParam`]: it is this server, a text is too long, or a key is
    ///   none.
    /// * [`appliance_model::Kind::TooLarge`]: the list is full.
    pub async fn describe(
        &self,
        server: &ServerName,
        change: PeerChange,
        by: &str,
    ) -> Result<PeerRow, Error> {
        if *server == *self.house.server_name {
            return Err(Error::invalid_param("This server is no peer of its own."));
        }
        check(&change)?;
        let _turn = self.doors.enter(0).await;
        let digest = self.house.server_digest(server);
        let known = self.house.ledger.get(&PEERS, &digest).await?;
        let verb = match (&known, change.suspended) {
            (None, _) => "peer.added",
            (Some(_), Some(true)) => "peer.suspended",
            (Some(_), _) => "peer.changed",
        };
        let old = known
            .unwrap_or_else(|| PeerRow { server_name: server.to_string(), ..PeerRow::default() });
        let peer = PeerRow {
            legal_name: change.legal_name.unwrap_or(old.legal_name),
            contact: change.contact.unwrap_or(old.contact),
            suspended: change.suspended.unwrap_or(old.suspended),
            media: change.media.unwrap_or(old.media),
            pinned_keys: change.pinned_keys.unwrap_or(old.pinned_keys),
            changed_ms: self.house.clock.now_ms(),
            server_name: old.server_name,
        };
        let mut commit = self.house.ledger.begin(Permit::administration(verb, by, server));
        commit.put(&PEERS, &digest, &peer);
        // Keys that were believed before may be others than those pinned now.
        commit.delete(&PEER_KEYS, &digest);
        self.house.ledger.commit(commit).await?;
        self.asked.remove(&digest);
        self.house.roll.describe(server.to_owned(), Some(peer.clone()));
        self.house.outbox.wake(&[server.to_owned()]);
        Ok(peer)
    }

    /// Takes a peer off the list, and what it was owed. Whom the settings name stays named.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`]
    pub async fn remove(&self, server: &ServerName, by: &str) -> Result<(), Error> {
        let _turn = self.doors.enter(0).await;
        let digest = self.house.server_digest(server);
        let known = self.house.ledger.get(&PEERS, &digest).await?;
        known.ok_or_else(|| Error::not_found("There is no such peer on the list."))?;
        let mut commit =
            self.house.ledger.begin(Permit::administration("peer.removed", by, server));
        commit.delete(&PEERS, &digest);
        commit.delete(&PEER_KEYS, &digest);
        self.house.ledger.commit(commit).await?;
        self.house.roll.describe(server.to_owned(), None);
        if !self.house.roll.allows(server) {
            self.forget_queue(server).await?;
        }
        Ok(())
    }

    async fn forget_queue(&self, server: &ServerName) -> Result<(), Error> {
        let digest = self.house.server_digest(server);
        // What is under way to it ends first.
        let _turn = self.turns.enter(super::keys::door(&digest)).await;
        self.house.outbox.take_pending(server);
        loop {
            let view = self.house.ledger.newest();
            let (events, _) = view.scan(&OUTBOX, &digest, Direction::Forward, PAGE).await?;
            let (edus, _) = view.scan(&OUTBOX_EDUS, &digest, Direction::Forward, PAGE).await?;
            if events.is_empty() && edus.is_empty() {
                return Ok(());
            }
            let mut commit = self.house.ledger.begin(Permit::housekeeping());
            events.iter().for_each(|(key, _)| commit.delete(&OUTBOX, key));
            edus.iter().for_each(|(key, _)| commit.delete(&OUTBOX_EDUS, key));
            self.house.ledger.commit(commit).await?;
        }
    }

    /// All peers and how things stand with them.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn list(&self) -> Result<Vec<PeerReport>, Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&PEERS, &(), Direction::Forward, PEERS_MAX).await?;
        let described =
            rows.into_iter().filter_map(|(_, row)| ServerName::parse(row.server_name).ok());
        let mut servers: Vec<_> = self.house.roll.named().cloned().chain(described).collect();
        servers.sort_unstable();
        servers.dedup();
        let mut reports = Vec::with_capacity(servers.len());
        for server in servers {
            reports.push(self.report(&server).await?);
        }
        Ok(reports)
    }

    /// How things stand with a server, on the list or not.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn report(&self, server: &ServerName) -> Result<PeerReport, Error> {
        Ok(PeerReport {
            server_name: server.to_owned(),
            peer: self.house.roll.described(server),
            is_allowed: self.house.roll.allows(server),
            queue: self.house.outbox.state(server).unwrap_or_default(),
            backlog: self.backlog(server, BACKLOG_COUNTED_MAX).await?,
            keys: self.known_keys(server).await?,
        })
    }

    /// The rooms in which users of that server are: those that a suspension or a removal affects.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn rooms_with(&self, server: &ServerName) -> Result<Vec<OwnedRoomId>, Error> {
        self.house.rooms_with(server).await
    }

    /// Asks a peer who it is, over the same way on which everything else goes.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn check(&self, server: &ServerName) -> Result<PeerCheck, Error> {
        let started_ms = self.house.clock.now_ms();
        let request = get_server_version::v1::Request::new();
        let answer = self.house.call(server, request, ASK).await;
        let took_ms = self.house.clock.now_ms().saturating_sub(started_ms);
        let version = answer.map_err(|error| error.to_string()).map(|answer| {
            let said = answer.server;
            let name = said.as_ref().and_then(|server| server.name.clone());
            let version = said.and_then(|server| server.version);
            (name.unwrap_or_default(), version.unwrap_or_default())
        });
        self.asked.remove(&self.house.server_digest(server));
        let keys = self.fetch_keys(server).await?;
        Ok(PeerCheck { version, took_ms, keys })
    }
}

fn check(change: &PeerChange) -> Result<(), Error> {
    for text in [&change.legal_name, &change.contact].into_iter().flatten() {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::invalid_param("A name or a contact is longer than 500 bytes."));
        }
    }
    let pinned = change.pinned_keys.as_deref().unwrap_or_default();
    let is_key = |(key_id, public): &(String, String)| {
        let bytes = super::keys::decode(public);
        key_id.starts_with("ed25519:") && bytes.is_ok_and(|bytes| bytes.len() == 32)
    };
    if pinned.len() > PINNED_MAX || !pinned.iter().all(is_key) {
        let message = "A pinned key is an ID such as ed25519:abc and a public key in Base64.";
        return Err(Error::invalid_param(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use appliance_model::ruma::server_name;

    use super::*;
    use crate::peers::{NoRemote, Roll};
    use crate::scenario::Ward;

    #[tokio::test]
    async fn a_peer_is_talked_with_from_the_moment_it_is_added_until_it_is_suspended_or_removed() {
        let ward = Ward::with_peers(Roll::default(), Arc::new(NoRemote)).await;
        let (peers, roll) = (&ward.services.peers, &ward.services.house.roll);
        let b = server_name!("b.example");
        assert!(!roll.allows(b) && roll.is_empty());
        let named = PeerChange { legal_name: Some("Hospital B".to_owned()), ..Default::default() };
        peers.describe(b, named, "uid 0").await.unwrap();
        assert!(roll.allows(b) && !roll.allows_media(b));
        let suspended = PeerChange { suspended: Some(true), ..Default::default() };
        let row = peers.describe(b, suspended, "uid 0").await.unwrap();
        assert_eq!(row.legal_name, "Hospital B", "what is not said stays");
        assert!(!roll.allows(b) && roll.may_be_owed(b), "what it misses waits");

        let facts = ward.audit().await;
        let ward = ward.power_cut_and_restart().await;
        let (peers, roll) = (&ward.services.peers, &ward.services.house.roll);
        peers.load().await.unwrap();
        assert!(!roll.allows(b), "a restart forgets nothing");
        assert_eq!(peers.list().await.unwrap().len(), 1);
        peers.remove(b, "uid 0").await.unwrap();
        assert!(peers.list().await.unwrap().is_empty());
        assert!(peers.remove(b, "uid 0").await.is_err());
        assert!(!roll.may_be_owed(b), "who is off the list is owed nothing");
        assert!(facts.iter().any(|fact| fact.contains("peer.suspended")), "{facts:?}");
    }

    #[tokio::test]
    async fn suspending_overrules_the_settings_and_nonsense_is_refused() {
        let b = server_name!("b.example");
        let roll = Roll::of([b.to_owned()]);
        let ward = Ward::with_peers(roll, Arc::new(NoRemote)).await;
        let peers = &ward.services.peers;
        assert!(ward.services.house.roll.allows(b));
        let suspended = PeerChange { suspended: Some(true), ..Default::default() };
        peers.describe(b, suspended, "uid 0").await.unwrap();
        assert!(!ward.services.house.roll.allows(b));
        let own = server_name!("hospital.example");
        assert!(peers.describe(own, PeerChange::default(), "uid 0").await.is_err());
        let pinned = Some(vec![("ed25519:a".to_owned(), "c2hvcnQ".to_owned())]);
        let change = PeerChange { pinned_keys: pinned, ..Default::default() };
        assert!(peers.describe(b, change, "uid 0").await.is_err());
    }
}
