//! Island mode: the line to another hospital is down, and the ward goes on. Whoever shares a room with that
//! hospital is told once that what they write waits, and once that it is delivered. Nobody is told of a
//! short break, and a line that comes and goes is not told of each time.
//!
//! Who was told is in the store: a restart in the middle of an outage tells nobody twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use appliance_ledger::keyspaces::{ACCOUNTS, AWAY, AWAY_TOLD, Digest, HEADS, ROOMS};
use appliance_ledger::rows::peers::AwayRow;
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::{OwnedServerName, OwnedUserId, RoomId, ServerName};
use appliance_model::{Error, Kind, RoomNid, UserNid};
use appliance_rules::Permit;
use serde_json::json;

use super::{Administration, Notice};
use crate::media::moment;

/// People told in one look, each half minute: a house of three thousand within the hour, and it writes
/// meanwhile.
const TOLD_MAX: usize = 30;

/// A line that was back for less than this is not told of anew.
const QUIET_MS: u64 = 30 * 60 * 1_000;

/// Servers that are away at the same time, and rows read at once.
const PAGE: usize = 1_000;

/// Rooms that a notice names; the others are counted.
const NAMED_MAX: usize = 5;

/// Who wrote the notices, for the audit trail.
const BY: &str = "federation";

/// The outages of which nobody is left to be told, as long as nobody comes into a room or leaves one: all
/// rooms and all who are in them are not read each half minute of a long night. In memory: the first look
/// after a start reads them.
#[derive(Default)]
pub(super) struct Told(Mutex<Option<(Outages, u64)>>);

/// Servers that are away, and since when.
type Outages = Vec<(Digest, u64)>;

impl Told {
    fn lock(&self) -> MutexGuard<'_, Option<(Outages, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server and how it is away.
type Away = (Digest, AwayRow);

/// What somebody is to be told of one server: the rooms they share with it.
type Shared = BTreeMap<Digest, BTreeSet<RoomNid>>;

impl Administration {
    /// Tells people of outages and of their end; a reconciler, to be called every few seconds. Returns how
    /// many were told.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn tell_of_outages(&self) -> Result<usize, Error> {
        let Some(after_ms) = self.house.options.away_notice_ms else { return Ok(0) };
        self.note_outages(after_ms).await?;
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&AWAY, &(), Direction::Forward, PAGE).await?;
        let rows: Vec<Away> = rows;
        let (away, back): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(_, row)| row.back_ms.is_none());
        let mut told = 0;
        for one in &back {
            told += self.tell_of_return(one, TOLD_MAX - told).await?;
        }
        if !away.is_empty() && told < TOLD_MAX {
            told += self.tell_of_absence(&away, TOLD_MAX - told).await?;
        }
        Ok(told)
    }

    /// Writes down who is away since long enough, and who is back.
    async fn note_outages(&self, after_ms: u64) -> Result<(), Error> {
        let (ledger, now_ms) = (&self.house.ledger, self.house.clock.now_ms());
        let failing: BTreeMap<_, _> = self.house.outbox.failing().into_iter().collect();
        for (server, since_ms) in &failing {
            if now_ms.saturating_sub(*since_ms) < after_ms || !self.house.roll.allows(server) {
                continue;
            }
            let digest = self.house.server_digest(server);
            match ledger.get(&AWAY, &digest).await? {
                Some(AwayRow { back_ms: None, .. }) => continue,
                Some(AwayRow { back_ms: Some(back_ms), .. }) if now_ms < back_ms + QUIET_MS => {
                    continue;
                }
                _ => {}
            }
            let row =
                AwayRow { server_name: server.to_string(), since_ms: *since_ms, back_ms: None };
            self.put_away(&digest, &row).await?;
            tracing::warn!(kind = "peers.island", %server,
                "a peer cannot be reached: people who share rooms with it are told");
        }
        let (rows, _) = ledger.newest().scan(&AWAY, &(), Direction::Forward, PAGE).await?;
        let rows: Vec<Away> = rows;
        for (digest, mut row) in rows.into_iter().filter(|(_, row)| row.back_ms.is_none()) {
            let Ok(server) = ServerName::parse(&row.server_name) else { continue };
            if !failing.contains_key(&server) && self.is_back(&server, row.since_ms).await? {
                row.back_ms = Some(now_ms);
                self.put_away(&digest, &row).await?;
            }
        }
        Ok(())
    }

    async fn put_away(&self, digest: &Digest, row: &AwayRow) -> Result<(), Error> {
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.put(&AWAY, digest, row);
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// Something was delivered since, or nothing waits any more (also because nothing may go there).
    async fn is_back(&self, server: &ServerName, since_ms: u64) -> Result<bool, Error> {
        let delivered_ms = self.house.outbox.state(server).and_then(|queue| queue.delivered_ms);
        let is_idle = self.peers.backlog(server, 1).await? == (0, 0);
        let is_allowed = self.house.roll.allows(server);
        Ok(is_idle || !is_allowed || delivered_ms.is_some_and(|at_ms| at_ms >= since_ms))
    }

    /// Tells those who do not know it yet, at most `limit`: each gets one notice about all that are away.
    async fn tell_of_absence(&self, away: &[Away], limit: usize) -> Result<usize, Error> {
        let outages: Outages = away.iter().map(|(digest, row)| (*digest, row.since_ms)).collect();
        // Counted before the rooms are read.
        let told_of = (outages, self.moves.count());
        if self.outages.lock().as_ref() == Some(&told_of) {
            return Ok(0);
        }
        let rows: BTreeMap<_, _> = away.iter().cloned().collect();
        let mut told = 0;
        for (user, mut shared) in self.sharing_with(away).await? {
            for digest in rows.keys() {
                let key = (*digest, user);
                if self.house.ledger.get(&AWAY_TOLD, &key).await?.is_some() {
                    shared.remove(digest);
                }
            }
            if shared.is_empty() {
                continue;
            }
            if told == limit {
                return Ok(told);
            }
            let mut lines = Vec::new();
            for (digest, rooms) in &shared {
                let Some(row) = rows.get(digest) else { continue };
                lines.push(self.absence(row, rooms).await?);
            }
            lines.push(
                "What you write there is kept, and delivered when the line is back.".to_owned(),
            );
            let txn_id = txn_of("away", shared.keys(), &rows);
            if !self.tell(user, lines.join("\n"), &txn_id).await? {
                return Ok(told);
            }
            let mut commit = self.house.ledger.begin(Permit::housekeeping());
            shared.keys().for_each(|digest| commit.put(&AWAY_TOLD, &(*digest, user), &()));
            self.house.ledger.commit(commit).await?;
            told += 1;
        }
        *self.outages.lock() = Some(told_of);
        Ok(told)
    }

    /// Tells those who were told of an outage that it is over, at most `limit`.
    async fn tell_of_return(&self, (digest, row): &Away, limit: usize) -> Result<usize, Error> {
        let Ok(server) = ServerName::parse(&row.server_name) else { return Ok(0) };
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&AWAY_TOLD, digest, Direction::Forward, limit).await?;
        let rows: Vec<((Digest, UserNid), ())> = rows;
        let mut told = 0;
        for (key, ()) in rows {
            // Whom this server no longer talks with is not back.
            if self.house.roll.allows(&server) {
                let at = moment(row.back_ms.unwrap_or_default());
                let text = format!(
                    "{} can be reached again since {at}. What was written meanwhile is delivered.",
                    self.called(&server)
                );
                let txn_id = format!("back-{}-{}", row.server_name, row.since_ms);
                if !self.tell(key.1, text, &txn_id).await? {
                    break;
                }
                told += 1;
            }
            let mut commit = self.house.ledger.begin(Permit::housekeeping());
            commit.delete(&AWAY_TOLD, &key);
            self.house.ledger.commit(commit).await?;
        }
        Ok(told)
    }

    /// Our people who are in rooms with servers that are away, and which rooms.
    async fn sharing_with(&self, away: &[Away]) -> Result<BTreeMap<UserNid, Shared>, Error> {
        let ledger = &self.house.ledger;
        let (mut found, mut from) = (BTreeMap::<UserNid, Shared>::new(), RoomNid(0));
        loop {
            let range = (&from, &RoomNid(u64::MAX));
            let (rooms, more) =
                ledger.newest().scan_between(&ROOMS, range, Direction::Forward, PAGE).await?;
            for (room, _) in &rooms {
                let Some(head) = ledger.get(&HEADS, room).await? else { continue };
                let others: Vec<_> = head.servers.iter().flatten().collect();
                let is_in = |row: &AwayRow| others.iter().any(|(name, _)| *name == row.server_name);
                let missing: Vec<_> = away.iter().filter(|(_, row)| is_in(row)).collect();
                if missing.is_empty() {
                    continue;
                }
                for user_id in self.house.members_of(*room, membership::JOIN).await? {
                    let Some(user) = self.reader(&user_id).await? else { continue };
                    for (digest, _) in &missing {
                        found.entry(user).or_default().entry(*digest).or_default().insert(*room);
                    }
                }
            }
            match rooms.last() {
                Some((room, _)) if more => from = RoomNid(room.0 + 1),
                _ => return Ok(found),
            }
        }
    }

    /// Somebody of ours who reads notices: neither a program's user nor the house itself.
    async fn reader(&self, user_id: &OwnedUserId) -> Result<Option<UserNid>, Error> {
        let house = &self.house;
        let is_reader = house.is_ours(user_id)
            && user_id.localpart() != house.options.notices_localpart
            && house.appservices.check_user(user_id, None).is_ok();
        if !is_reader {
            return Ok(None);
        }
        let Some(user) = house.ledger.user(user_id).await? else { return Ok(None) };
        let account = house.ledger.get(&ACCOUNTS, &user).await?;
        Ok(account.filter(|account| !account.deactivated).map(|_| user))
    }

    async fn absence(&self, row: &AwayRow, rooms: &BTreeSet<RoomNid>) -> Result<String, Error> {
        let mut names = Vec::new();
        for room in rooms.iter().take(NAMED_MAX) {
            let face = self.rooms.face(*room).await?;
            names.extend(face.and_then(|face| face.name.or(face.canonical_alias)));
        }
        let others = rooms.len() - names.len();
        let places = match (names.is_empty(), others) {
            (true, 1) => "1 room".to_owned(),
            (true, others) => format!("{others} rooms"),
            (false, 0) => names.join(", "),
            (false, others) => format!("{} and {others} more", names.join(", ")),
        };
        let called = match ServerName::parse(&row.server_name) {
            Ok(server) => self.called(&server),
            Err(_) => row.server_name.clone(),
        };
        Ok(format!("{called} cannot be reached since {}: {places}.", moment(row.since_ms)))
    }

    /// What people call that hospital.
    fn called(&self, server: &ServerName) -> String {
        let peer = self.house.roll.described(server);
        match peer.map(|peer| peer.legal_name.clone()).filter(|name| !name.is_empty()) {
            Some(name) => format!("{name} ({server})"),
            None => server.to_string(),
        }
    }

    /// Whether that was done, or can never be; otherwise the house says too much at once for now.
    async fn tell(&self, user: UserNid, text: String, txn_id: &str) -> Result<bool, Error> {
        let user_id = self.house.ledger.user_id(user).await?;
        let content = json!({ "msgtype": "m.text", "body": text });
        let notice = Notice::new(None, &content, Some(txn_id.to_owned()));
        match self.notify(BY, &user_id, notice).await {
            Err(Error { kind: Kind::Limited { .. }, .. }) => Ok(false),
            // Somebody who blocks invites, or whose account was closed just now.
            Err(error) if !matches!(error.kind, Kind::Internal | Kind::Unavailable) => {
                tracing::info!(kind = "peers.island", user.id = %user_id, %error,
                    "somebody could not be told of an outage");
                Ok(true)
            }
            told => told.map(|_| true),
        }
    }

    /// The servers of a room that cannot be reached now.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if this server does not know the room.
    pub async fn unreachable_in(&self, room_id: &RoomId) -> Result<Vec<OwnedServerName>, Error> {
        let (room, _) = self.rooms.known(room_id).await?;
        let head = self.house.ledger.get(&HEADS, &room).await?.unwrap_or_default();
        let failing: BTreeMap<_, _> = self.house.outbox.failing().into_iter().collect();
        let others = head.servers.iter().flatten();
        let others = others.filter_map(|(name, _)| ServerName::parse(name.as_str()).ok());
        Ok(others.filter(|server| failing.contains_key(server)).collect())
    }
}

/// The same for the same outages: whoever is told twice by a crash reads it once.
fn txn_of<'a>(
    word: &str,
    digests: impl Iterator<Item = &'a Digest>,
    rows: &BTreeMap<Digest, AwayRow>,
) -> String {
    let parts = digests.filter_map(|digest| rows.get(digest));
    let parts: Vec<_> = parts.map(|row| format!("{}-{}", row.server_name, row.since_ms)).collect();
    let (first, rest) = (parts.first().cloned().unwrap_or_default(), parts.len());
    format!("{word}-{first}-{rest}")
}
