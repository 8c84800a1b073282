//! Telling other servers that a file they were given is erased, until they confirm it.
//!
//! Servers of our kind pass files through and keep none; others are told all the same, by a message that
//! waits in the queue until they take it. Whoever does not confirm is told again each hour for a day, and
//! is listed (`wardstone media unconfirmed`) until an administrator or a confirmation ends it: a promise
//! between servers is on trust, and this is the account of it.

use appliance_ledger::keyspaces::{ERASE_NOTICES, PEER_COPIES};
use appliance_ledger::rows::policy::{EraseNoticeRow, PeerCopyRow};
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::ruma::ServerName;
use appliance_model::{Error, MediaNid};
use appliance_rules::{Permit, policy};
use serde_json::json;

use super::{Media, media_digest};
use crate::house::House;

/// "This file of mine is erased; erase what you have of it, and say so."
pub(crate) const ERASED: &str = "io.wardstone.media_erased";
/// "Nothing of that file of yours is here."
pub(crate) const CONFIRMED: &str = "io.wardstone.media_erased_here";

/// Servers that were given one file. A room has fewer hospitals.
const SERVERS_MAX: usize = 1_000;
/// Told again after so long without a confirmation.
const AGAIN_MS: u64 = 60 * 60 * 1_000;
/// A server that has not confirmed in a day will not: it is listed, and not asked any more.
const TIMES_MAX: u64 = 24;
/// Notices looked at in one trip, and listed.
const PAGE: usize = 1_000;

/// A server that has not confirmed that a file is erased there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Its `mxc://` URI.
    pub uri: String,
    /// The server that was given it.
    pub server_name: String,
    /// Since when nobody gets it here: milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How often that server was told.
    pub times: u64,
}

/// Server and file, and how it stands.
type Notice = ((Digest, Digest), EraseNoticeRow);

/// Notes in the commit of a delivery that a server was given a file.
pub(super) fn note_given(
    house: &House,
    server: &ServerName,
    number: MediaNid,
    commit: &mut Commit,
) {
    let row = PeerCopyRow { server_name: server.to_string(), at_ms: house.clock.now_ms() };
    commit.put(&PEER_COPIES, &(number, house.server_digest(server)), &row);
}

/// Owes a notice to all that were given a file, in the commit that condemns it.
pub(super) async fn owe_notices(
    house: &House,
    (number, media_id): (MediaNid, &str),
    commit: &mut Commit,
) -> Result<(), Error> {
    let view = house.ledger.newest();
    let (rows, _) = view.scan(&PEER_COPIES, &number, Direction::Forward, SERVERS_MAX).await?;
    let rows: Vec<((MediaNid, Digest), PeerCopyRow)> = rows;
    for ((number, digest), row) in rows {
        commit.delete(&PEER_COPIES, &(number, digest));
        let now_ms = house.clock.now_ms();
        let notice = EraseNoticeRow {
            server_name: row.server_name,
            media_id: media_id.to_owned(),
            since_ms: now_ms,
            told_ms: now_ms,
            times: 1,
        };
        tell(house, &notice, commit);
        commit.put(&ERASE_NOTICES, &(digest, media_digest(&house.ledger, media_id)), &notice);
    }
    Ok(())
}

fn tell(house: &House, notice: &EraseNoticeRow, commit: &mut Commit) {
    let Ok(server) = ServerName::parse(&notice.server_name) else { return };
    let uri = format!("mxc://{}/{}", house.server_name, notice.media_id);
    house.owe_edu(vec![server], ERASED, &json!({ "uri": uri }), commit);
}

impl Media {
    /// Another server erased a file of its own. Nothing of it is kept here, so nothing is left once it
    /// was passed on: that is confirmed, and on record.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] for a file that is not that server's.
    pub(crate) async fn erased_there(&self, origin: &ServerName, uri: &str) -> Result<(), Error> {
        if policy::media_id_of(uri, origin.as_str()).is_none() {
            return Err(Error::forbidden("A server speaks for its own files."));
        }
        let mut commit = self.ledger().begin(policy::erased_elsewhere(origin.as_str(), uri));
        let confirmed = json!({ "uri": uri });
        self.0.house.owe_edu(vec![origin.to_owned()], CONFIRMED, &confirmed, &mut commit);
        self.ledger().commit(commit).await.map(drop)
    }

    /// Another server confirms that nothing of a file of ours is left there.
    ///
    /// # Errors
    ///
    /// If the store fails. A confirmation that nobody waits for says nothing.
    pub(crate) async fn confirmed_there(
        &self,
        origin: &ServerName,
        uri: &str,
    ) -> Result<(), Error> {
        let house = &self.0.house;
        let Some(media_id) = policy::media_id_of(uri, house.server_name.as_str()) else {
            return Ok(());
        };
        let key = (house.server_digest(origin), media_digest(self.ledger(), media_id));
        if self.ledger().get(&ERASE_NOTICES, &key).await?.is_none() {
            return Ok(());
        }
        let mut commit = self.ledger().begin(policy::erasure_confirmed(origin.as_str(), uri));
        commit.delete(&ERASE_NOTICES, &key);
        self.ledger().commit(commit).await.map(drop)
    }

    /// Those that have not confirmed yet; the first thousand, and whether there are more.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn unconfirmed(&self) -> Result<(Vec<Unconfirmed>, bool), Error> {
        let (rows, more) = self.notices((Digest::default(), Digest::default())).await?;
        let unconfirmed = rows.into_iter().map(|(_, row)| Unconfirmed {
            uri: self.uri(&row.media_id),
            server_name: row.server_name,
            since_ms: row.since_ms,
            times: row.times,
        });
        Ok((unconfirmed.collect(), more))
    }

    async fn notices(&self, from: (Digest, Digest)) -> Result<(Vec<Notice>, bool), Error> {
        let end = ([u8::MAX; 16], [u8::MAX; 16]);
        let view = self.ledger().newest();
        view.scan_between(&ERASE_NOTICES, (&from, &end), Direction::Forward, PAGE).await
    }

    /// Tells those again that have not confirmed. To be called now and then.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn repeat_notices(&self) -> Result<usize, Error> {
        let now_ms = self.now_ms();
        let (mut from, mut told) = ((Digest::default(), Digest::default()), 0);
        loop {
            let (rows, more) = self.notices(from).await?;
            let mut commit = self.ledger().begin(Permit::housekeeping());
            let before = told;
            for (key, row) in rows {
                from = key;
                let is_due = now_ms.saturating_sub(row.told_ms) >= AGAIN_MS;
                if is_due && row.times < TIMES_MAX {
                    let row = EraseNoticeRow { told_ms: now_ms, times: row.times + 1, ..row };
                    tell(&self.0.house, &row, &mut commit);
                    commit.put(&ERASE_NOTICES, &key, &row);
                    told += 1;
                }
            }
            if told > before {
                self.ledger().commit(commit).await?;
            }
            if !more {
                return Ok(told);
            }
        }
    }
}
