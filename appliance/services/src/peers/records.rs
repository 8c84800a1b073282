//! The administrator's list of peers: who they are, and whether anything is exchanged with them. A
//! change takes effect at once, in both directions.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use appliance_ledger::keyspaces::{OUTBOX, OUTBOX_EDUS, PEER_KEYS, PEERS};
use appliance_ledger::rows::peers::{PeerKeysRow, PeerRow};
use appliance_ledger::{Commit, Direction};
use appliance_model::ruma::{OwnedRoomId, OwnedServerName, ServerName};
use appliance_model::{Error, Kind};
use appliance_rules::Permit;

use super::{PeerChange, Peers, QueueState, Standing};

/// Hospitals that one talks with; the gematik's list of all of Germany's is shorter.
const PEERS_MAX: usize = 10_000;

/// What of the queue is counted before it is called long.
pub const BACKLOG_COUNTED_MAX: usize = 10_000;

/// Rows of a queue deleted in one commit.
const PAGE: usize = 1_000;

/// What came of describing peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Were not on the list before.
    pub added: usize,
    /// Are described otherwise now.
    pub changed: usize,
    /// Were described like that before.
    pub unchanged: usize,
}

/// A peer and how things stand with it.
#[derive(Clone, Debug)]
pub struct PeerReport {
    /// The name of its server.
    pub server_name: OwnedServerName,
    /// What the administrator says of it; none: the settings name it.
    pub peer: Option<Arc<PeerRow>>,
    /// Whether anything is exchanged.
    pub standing: Standing,
    /// Where that is said, in one word.
    pub source: &'static str,
    /// What it is owed.
    pub queue: QueueState,
    /// Events and messages that wait, up to [`BACKLOG_COUNTED_MAX`] each.
    pub backlog: (usize, usize),
    /// Its keys, as far as they are known.
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
        self.load_list().await
    }

    /// Puts a peer on the list, or changes what it says of one. Returns what it says then.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::InvalidParam`]: it is this server, a text is too long, or a key, a
    ///   date or an address is none.
    /// * [`appliance_model::Kind::TooLarge`]: the list is full.
    pub async fn describe(
        &self,
        server: &ServerName,
        change: PeerChange,
        by: &str,
    ) -> Result<PeerRow, Error> {
        let _turn = self.doors.enter(0).await;
        let (known, peer) = self.changed(server, |old| change.apply(old)).await?;
        let verb = match &known {
            None => "peer.added",
            Some(known) if peer.suspended && !known.suspended => "peer.suspended",
            Some(known) if known.suspended && !peer.suspended => "peer.resumed",
            Some(_) => "peer.changed",
        };
        let commit = self.house.ledger.begin(Permit::administration(verb, by, server));
        self.put_down(commit, server, (known, peer)).await
    }

    /// The same with whatever is done to the record, under a name of its own in the audit trail.
    pub(super) async fn describe_as(
        &self,
        verb: &'static str,
        server: &ServerName,
        change: impl FnOnce(PeerRow) -> Result<PeerRow, Error>,
        by: &str,
    ) -> Result<PeerRow, Error> {
        let _turn = self.doors.enter(0).await;
        let (known, peer) = self.changed(server, change).await?;
        let commit = self.house.ledger.begin(Permit::administration(verb, by, server));
        self.put_down(commit, server, (known, peer)).await
    }

    /// Writes a record with whatever else is in the commit, and lets everybody know.
    pub(super) async fn put_down(
        &self,
        mut commit: Commit,
        server: &ServerName,
        (known, peer): (Option<PeerRow>, PeerRow),
    ) -> Result<PeerRow, Error> {
        self.check_room_for(usize::from(known.is_none())).await?;
        self.write(server, (known.as_ref(), &peer), &mut commit);
        self.house.ledger.commit(commit).await?;
        self.take_note(server, known.as_ref(), &peer);
        Ok(peer)
    }

    /// Describes many at once: all of them, or none if one makes no sense. Those on the list that are
    /// not among them stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Peers::describe`]; the sentence begins with the peer's name.
    pub async fn import(
        &self,
        peers: BTreeMap<OwnedServerName, PeerChange>,
        by: &str,
    ) -> Result<Described, Error> {
        let _turn = self.doors.enter(0).await;
        let mut described = Described::default();
        let mut rows = Vec::with_capacity(peers.len().min(PEERS_MAX));
        for (server, change) in peers {
            let (known, peer) = self
                .changed(&server, |old| change.apply(old))
                .await
                .map_err(|error| Error::new(error.kind, format!("{server}: {}", error.message)))?;
            match &known {
                None => described.added += 1,
                Some(known) if PeerChange::of(known) == PeerChange::of(&peer) => {
                    described.unchanged += 1;
                    continue;
                }
                Some(_) => described.changed += 1,
            }
            rows.push((server, known, peer));
        }
        if rows.is_empty() {
            return Ok(described);
        }
        self.check_room_for(described.added).await?;
        let what = format!("{} added, {} changed", described.added, described.changed);
        let mut commit = self.house.ledger.begin(Permit::administration("peer.imported", by, what));
        for (server, known, peer) in &rows {
            self.write(server, (known.as_ref(), peer), &mut commit);
        }
        self.house.ledger.commit(commit).await?;
        for (server, known, peer) in &rows {
            self.take_note(server, known.as_ref(), peer);
        }
        Ok(described)
    }

    /// The record as it is and as it would be.
    pub(super) async fn changed(
        &self,
        server: &ServerName,
        change: impl FnOnce(PeerRow) -> Result<PeerRow, Error>,
    ) -> Result<(Option<PeerRow>, PeerRow), Error> {
        if *server == *self.house.server_name {
            return Err(Error::invalid_param("This server is no peer of its own."));
        }
        let known = self.house.ledger.get(&PEERS, &self.house.server_digest(server)).await?;
        let new = || PeerRow { server_name: server.to_string(), ..PeerRow::default() };
        let peer = change(known.clone().unwrap_or_else(new))?;
        let changed_ms = self.house.clock.now_ms();
        Ok((known, PeerRow { changed_ms, ..peer }))
    }

    async fn check_room_for(&self, added: usize) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&PEERS, &(), Direction::Forward, PEERS_MAX).await?;
        if added > 0 && rows.len() + added > PEERS_MAX {
            let full = format!("The list is full: it has room for {PEERS_MAX} peers.");
            return Err(Error::new(Kind::TooLarge, full));
        }
        Ok(())
    }

    fn write(
        &self,
        server: &ServerName,
        (known, peer): (Option<&PeerRow>, &PeerRow),
        commit: &mut Commit,
    ) {
        let digest = self.house.server_digest(server);
        commit.put(&PEERS, &digest, peer);
        if pinned_of(known) != pinned_of(Some(peer)) {
            // Keys that were believed before may be others than those pinned now.
            commit.delete(&PEER_KEYS, &digest);
        }
    }

    /// After the commit: from here on every request in either direction meets the new record.
    fn take_note(&self, server: &ServerName, known: Option<&PeerRow>, peer: &PeerRow) {
        if pinned_of(known) != pinned_of(Some(peer)) {
            self.asked.remove(&self.house.server_digest(server));
        }
        self.house.roll.describe(server.to_owned(), Some(peer.clone()));
        self.house.remote.look_again(server);
        self.house.outbox.wake(&[server.to_owned()]);
    }

    /// Wakes the queues of those whose first day has come, and says in the journal whose last day is
    /// over. A job calls this; the list itself looks at the clock at every request.
    pub fn look_at_dates(&self) {
        let now: BTreeMap<_, _> = self.house.roll.dated().into_iter().collect();
        let mut before = self.dated.lock().unwrap_or_else(PoisonError::into_inner);
        for (server, standing) in &now {
            if before.get(server) == Some(standing) {
                continue;
            }
            match standing {
                Standing::Active => self.house.outbox.wake(std::slice::from_ref(server)),
                Standing::Over => tracing::warn!(
                    kind = "peers.expired", %server,
                    "the last day of a peer is over: nothing is exchanged with it any more"
                ),
                _ => {}
            }
        }
        *before = now;
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
        self.forget_stranger(server).await
    }

    /// Forgets what waits for a server that is not on the list.
    pub(crate) async fn forget_stranger(&self, server: &ServerName) -> Result<(), Error> {
        match self.house.roll.allows(server) {
            true => Ok(()),
            false => self.forget_queue(server).await,
        }
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
            standing: self.house.roll.standing(server),
            source: self.house.roll.source(server),
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
}

fn pinned_of(row: Option<&PeerRow>) -> &[(String, String)] {
    row.map_or(&[], |row| &row.pinned_keys)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use appliance_model::ruma::server_name;

    use super::*;
    use crate::peers::{MediaMode, NoRemote, Roll};
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
        let with_port = server_name!("c.example:8448");
        peers.describe(with_port, PeerChange::default(), "uid 0").await.unwrap();
        assert!(roll.allows_host("c.example") && !roll.allows_host("b.example"));
        peers.remove(with_port, "uid 0").await.unwrap();
        assert!(!roll.allows_host("c.example"));
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

    /// A contract has a first and a last day. Nobody has to be there when they come.
    #[tokio::test]
    async fn a_record_outside_its_dates_is_as_good_as_suspended() {
        let ward = Ward::with_peers(Roll::default(), Arc::new(NoRemote)).await;
        let (peers, roll) = (&ward.services.peers, &ward.services.house.roll);
        let b = server_name!("b.example");
        // The ward's clock stands at 2023-11-14T22:13:20Z.
        let change = PeerChange {
            valid_from: Some("2023-11-15".to_owned()),
            valid_until: Some("2023-11-16".to_owned()),
            media: Some(MediaMode::Allow),
            ..Default::default()
        };
        peers.describe(b, change, "uid 0").await.unwrap();
        assert_eq!(roll.standing(b), Standing::NotYet);
        assert!(!roll.allows(b) && !roll.allows_media(b) && roll.may_be_owed(b));
        peers.look_at_dates();
        ward.services.house.outbox.change(b, |queue| queue.is_owed = false);

        ward.clock.pass_ms(2 * 60 * 60 * 1_000);
        assert!(roll.allows(b) && roll.allows_media(b), "at once, whatever the jobs do");
        peers.look_at_dates();
        let is_owed = || ward.services.house.outbox.state(b).unwrap().is_owed;
        assert!(is_owed(), "what waited goes on its way");

        ward.clock.pass_ms(48 * 60 * 60 * 1_000 - 2 * 60 * 60 * 1_000);
        assert_eq!(roll.standing(b), Standing::Active, "the last day counts whole");
        ward.clock.pass_ms(2 * 60 * 60 * 1_000);
        assert_eq!(roll.standing(b), Standing::Over);
        assert!(!roll.allows(b) && !roll.allows_media(b));
        let longer = PeerChange { valid_until: Some(String::new()), ..Default::default() };
        peers.describe(b, longer, "uid 0").await.unwrap();
        assert!(roll.allows(b));
    }

    #[tokio::test]
    async fn many_are_described_at_once_or_none() {
        let ward = Ward::with_peers(Roll::default(), Arc::new(NoRemote)).await;
        let (peers, roll) = (&ward.services.peers, &ward.services.house.roll);
        let name = |name: &str| ServerName::parse(name).unwrap();
        let named =
            |legal: &str| PeerChange { legal_name: Some(legal.to_owned()), ..Default::default() };
        let wrong = PeerChange { address: Some("//".to_owned()), ..Default::default() };
        let both = BTreeMap::from([(name("b.example"), named("B")), (name("c.example"), wrong)]);
        let refused = peers.import(both, "uid 0").await.unwrap_err();
        assert!(refused.message.starts_with("c.example: "), "{}", refused.message);
        assert!(!roll.allows(&name("b.example")), "none of them");

        let both =
            || BTreeMap::from([(name("b.example"), named("B")), (name("c.example"), named("C"))]);
        let all = Described { added: 2, ..Described::default() };
        assert_eq!(peers.import(both(), "uid 0").await.unwrap(), all);
        assert!(roll.allows(&name("b.example")) && roll.allows(&name("c.example")));
        let one =
            BTreeMap::from([(name("b.example"), named("B")), (name("c.example"), named("D"))]);
        let one = peers.import(one, "uid 0").await.unwrap();
        assert_eq!(one, Described { added: 0, changed: 1, unchanged: 1 });
        let own = BTreeMap::from([(name("hospital.example"), named("us"))]);
        assert!(peers.import(own, "uid 0").await.is_err());
        let facts = ward.audit().await;
        assert!(facts.iter().any(|fact| fact.contains("peer.imported")), "{facts:?}");
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
        let pinned = Some([("ed25519:a".to_owned(), "c2hvcnQ".to_owned())].into());
        let change = PeerChange { pinned_keys: pinned, ..Default::default() };
        assert!(peers.describe(b, change, "uid 0").await.is_err());
    }
}
