//! Telling other servers that a file they were given is erased, until they confirm it ([MSC4322]).
//!
//! Servers of our kind pass files through and keep none; others are told all the same. The commit that
//! condemns a file owes a notice to each server that was given it; a worker asks them, each in its own time,
//! until they answer 200: nothing of it is left there. Whoever answers something else is asked again for a
//! day; whoever does not answer, for a day, and whenever it is heard from. Who has not confirmed is listed
//! (`wardstone media unconfirmed`): a promise between servers is on trust, and this is the account of it.
//! A suspended peer is told when it is resumed, one that was taken off the list if it comes back on it.
//!
//! [MSC4322]: https://github.com/matrix-org/matrix-spec-proposals/pull/4322

use std::collections::BTreeSet;
use std::time::Duration;

use appliance_ledger::keyspaces::{ERASE_NOTICES, NOTICES_DUE, PEER_COPIES};
use appliance_ledger::rows::policy::{EraseNoticeRow, PeerCopyRow};
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::ruma::ServerName;
use appliance_model::{Error, MediaNid};
use appliance_rules::{Permit, policy};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use super::{Media, media_digest};
use crate::egress::Limits;
use crate::house::House;
use crate::peers::{Attempts, DAY_MS, RemoteError, wait_ms};

/// Where a server is told.
pub const REDACT_PATH: &str =
    "/_matrix/federation/unstable/uk.timedout.msc4322/media/redact/{server_name}/{media_id}";

/// Servers that were given one file. A room has fewer hospitals.
const SERVERS_MAX: usize = 1_000;
/// Notices looked at in one trip, and listed.
const PAGE: usize = 1_000;
/// Whoever takes longer is asked again; the answer is `{}`.
const LIMITS: Limits = Limits { total: Duration::from_secs(20), answer_bytes_max: 64 * 1024 };
/// Servers asked side by side. Each costs a request under way.
const SERVERS_AT_ONCE_MAX: usize = 16;
/// The longest sleep while something is to be asked later: the clock may have stepped.
const NAP_MAX: Duration = Duration::from_secs(60);
/// The store is in trouble; it is asked again, but not at once.
const TROUBLE_WAIT: Duration = Duration::from_secs(1);

/// A server that has not confirmed that a file is erased there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Its `mxc://` URI.
    pub uri: String,
    /// The server that was given it.
    pub server_name: String,
    /// Since when nobody gets it here: milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How often that server was told, or there was an attempt to.
    pub times: u64,
}

/// Server, time, file.
type Due = (Digest, u64, Digest);

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// Nothing of it is left there.
    Confirmed,
    /// Something else.
    Other,
    /// Nothing, or that it cannot say now.
    Nothing,
}

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
    let (file, now_ms) = (media_digest(&house.ledger, media_id), house.clock.now_ms());
    for ((number, digest), PeerCopyRow { server_name, .. }) in rows {
        commit.delete(&PEER_COPIES, &(number, digest));
        let Ok(server) = ServerName::parse(&server_name) else { continue };
        commit.put(&NOTICES_DUE, &(digest, now_ms, file), &server_name);
        let notice = EraseNoticeRow {
            server_name,
            media_id: media_id.to_owned(),
            since_ms: now_ms,
            told_ms: 0,
            times: 0,
        };
        commit.put(&ERASE_NOTICES, &(digest, file), &notice);
        commit.hold(house.outbox.notices().ring(server));
    }
    Ok(())
}

impl Media {
    /// Those that have not confirmed yet; the first thousand, and whether there are more.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn unconfirmed(&self) -> Result<(Vec<Unconfirmed>, bool), Error> {
        let view = self.ledger().newest();
        let (rows, more) = view.scan(&ERASE_NOTICES, &(), Direction::Forward, PAGE).await?;
        let rows: Vec<((Digest, Digest), EraseNoticeRow)> = rows;
        let unconfirmed = rows.into_iter().map(|(_, row)| Unconfirmed {
            uri: self.uri(&row.media_id),
            server_name: row.server_name,
            since_ms: row.since_ms,
            times: row.times,
        });
        Ok((unconfirmed.collect(), more))
    }

    /// Tells servers of erasures until it is dropped: each server in its own time, so that one that is slow
    /// or away holds up nobody else.
    pub async fn tell_of_erasures(&self) {
        let notices = self.notices();
        while let Err(error) = self.find_those_owed().await {
            tracing::error!(kind = "notices.failed", %error, "nobody knows who is to be told");
            tokio::time::sleep(TROUBLE_WAIT).await;
        }
        let (mut working, mut busy) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            let now_ms = self.now_ms();
            let (due, later_ms) = notices.due(now_ms);
            for server in due {
                if busy.len() < SERVERS_AT_ONCE_MAX && busy.insert(server.clone()) {
                    working.push(async move {
                        let told = self.tell_of_erased(&server).await;
                        (server, told)
                    });
                }
            }
            let nap = later_ms.map(|ms| Duration::from_millis(ms.saturating_sub(now_ms)));
            tokio::select! {
                // In order, not by chance, so that it replays.
                biased;
                Some((server, told)) = working.next(), if !working.is_empty() => {
                    busy.remove(&server);
                    if let Err(error) = told {
                        tracing::error!(kind = "notices.failed", %server, %error,
                            "a server was not told of erasures");
                        notices.failed(&server, self.now_ms());
                    }
                }
                () = notices.rung() => {}
                () = tokio::time::sleep(nap.unwrap_or(NAP_MAX).min(NAP_MAX)), if nap.is_some() => {}
            }
        }
    }

    /// Tells one server of all erasures of which it is to hear now, one after the other, until it does not
    /// answer.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn tell_of_erased(&self, server: &ServerName) -> Result<(), Error> {
        let (notices, digest) = (self.notices(), self.0.house.server_digest(server));
        notices.begin(server);
        loop {
            let end = (digest, self.now_ms().saturating_add(1), Digest::default());
            let range = (&(digest, 0, Digest::default()), &end);
            let view = self.ledger().newest();
            let (due, _): (Vec<(Due, String)>, _) =
                view.scan_between(&NOTICES_DUE, range, Direction::Forward, PAGE).await?;
            if due.is_empty() {
                break;
            }
            for (due, _) in due {
                // A suspended peer gets nothing. When it is resumed, it is looked for what it is to hear.
                if !self.0.house.roll.allows(server) {
                    return Ok(());
                }
                if self.tell_one(server, due).await? == Said::Nothing {
                    notices.failed(server, self.now_ms());
                    return Ok(());
                }
                notices.answered(server);
            }
        }
        let view = self.ledger().newest();
        let (next, _): (Vec<(Due, String)>, _) =
            view.scan(&NOTICES_DUE, &digest, Direction::Forward, 1).await?;
        if let Some(((_, due_ms, _), _)) = next.first() {
            notices.is_owed(server, *due_ms);
        }
        Ok(())
    }

    fn notices(&self) -> &Attempts {
        self.0.house.outbox.notices()
    }

    /// Who was owed a notice when the last run ended.
    pub(super) async fn find_those_owed(&self) -> Result<(), Error> {
        let end = ([u8::MAX; 16], u64::MAX, [u8::MAX; 16]);
        let mut from = (Digest::default(), 0, Digest::default());
        loop {
            let view = self.ledger().newest();
            let (first, _): (Vec<(Due, String)>, _) =
                view.scan_between(&NOTICES_DUE, (&from, &end), Direction::Forward, 1).await?;
            let Some(((digest, due_ms, _), server)) = first.into_iter().next() else {
                return Ok(());
            };
            if let Ok(server) = ServerName::parse(server) {
                self.notices().is_owed(&server, due_ms);
            }
            from = (digest, u64::MAX, [u8::MAX; 16]);
        }
    }

    /// Tells a server of one erasure, and writes down what came of it.
    async fn tell_one(&self, server: &ServerName, due: Due) -> Result<Said, Error> {
        let key = (due.0, due.2);
        let Some(row) = self.ledger().get(&ERASE_NOTICES, &key).await? else {
            let mut commit = self.ledger().begin(Permit::housekeeping());
            commit.delete(&NOTICES_DUE, &due);
            self.ledger().commit(commit).await?;
            return Ok(Said::Other);
        };
        // Nothing is held while the other server thinks: not a door, not a view of the store.
        let said = self.ask_to_erase(server, &row.media_id).await;
        let now_ms = self.now_ms();
        let row = EraseNoticeRow { told_ms: now_ms, times: row.times.saturating_add(1), ..row };
        let permit = match said {
            Said::Confirmed => policy::erasure_confirmed(server.as_str(), &self.uri(&row.media_id)),
            Said::Other | Said::Nothing => Permit::housekeeping(),
        };
        let mut commit = self.ledger().begin(permit);
        match said {
            Said::Confirmed => {
                commit.delete(&ERASE_NOTICES, &key);
                commit.delete(&NOTICES_DUE, &due);
            }
            Said::Other => {
                commit.put(&ERASE_NOTICES, &key, &row);
                commit.delete(&NOTICES_DUE, &due);
                // Whoever does not confirm in a day will not: it is listed, and not asked any more.
                if now_ms.saturating_sub(row.since_ms) < DAY_MS {
                    let again_ms = now_ms.saturating_add(wait_ms(row.times));
                    commit.put(&NOTICES_DUE, &(due.0, again_ms, due.2), &row.server_name);
                }
            }
            // When it is asked again is the server's matter, and not this notice's.
            Said::Nothing => commit.put(&ERASE_NOTICES, &key, &row),
        }
        self.ledger().commit(commit).await?;
        Ok(said)
    }

    async fn ask_to_erase(&self, server: &ServerName, media_id: &str) -> Said {
        let house = &self.0.house;
        let path = REDACT_PATH.replace("{server_name}", house.server_name.as_str());
        let path = path.replace("{media_id}", media_id);
        match house.ask_json(server, ("POST", &path), Some("{}"), LIMITS).await {
            Ok(answer) if is_confirmation(&answer) => Said::Confirmed,
            Ok(_) => Said::Other,
            Err(RemoteError::Refused { status, .. })
                if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS =>
            {
                Said::Other
            }
            Err(error) => {
                tracing::debug!(kind = "notices.unheard", %server, %error, "no answer to a notice");
                Said::Nothing
            }
        }
    }
}

/// "A `200 OK` response, and an empty body": some server's page for whatever it does not know is none.
fn is_confirmation(answer: &Response<Bytes>) -> bool {
    let body = answer.body();
    let is_empty = body.is_empty() || serde_json::from_slice::<Map<String, Value>>(body).is_ok();
    answer.status() == StatusCode::OK && is_empty
}
