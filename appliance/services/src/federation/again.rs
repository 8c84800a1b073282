//! Events that were sent to this server and could not be judged when they came: a line broke while what comes
//! before them was fetched, somebody's keys could not be had. Whoever sent them has done so and does not come
//! again; what is said next in the room leads back to them, but the last word of an evening has nothing after it.
//! So they are asked for again.
//!
//! Of each room and server one is kept, the last: what came before it is fetched with it.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{Digest, UNJUDGED};
use appliance_ledger::rows::peers::UnjudgedRow;
use appliance_model::ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName};
use appliance_model::{Error, Kind};
use appliance_rules::Permit;
use appliance_rules::inbound::Standing;

use super::fetch::{Errand, Source};
use super::receive::{Inflow, only_this_one};
use super::resident::turn_of;
use crate::rooms::Rooms;

/// Rows looked at in one round: one for each room and server that a line broke with.
const ROWS_MAX: usize = 1_000;
/// Events asked for in one round: each may wait for a server that does not answer.
const ASKED_MAX: usize = 20;
/// The first time is after a minute, each further one after twice the time, in milliseconds.
const RETRY_MS: u64 = 60 * 1_000;
/// The longest wait, in milliseconds.
const RETRY_MS_MAX: u64 = 60 * 60 * 1_000;
/// What could not be had for so long, in milliseconds, is left to what is said next.
const KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

impl Rooms {
    /// Notes that an event of a server could not be judged.
    pub(super) async fn note_unjudged(
        &self,
        source: Source<'_>,
        event_id: &EventId,
    ) -> Result<(), Error> {
        let (ledger, now_ms) = (&self.house.ledger, self.house.clock.now_ms());
        let parts: [&[u8]; 3] = [b"unjudged", source.room_id.as_bytes(), source.server.as_bytes()];
        let row = UnjudgedRow {
            room_id: source.room_id.to_string(),
            server_name: source.server.to_string(),
            event_id: event_id.to_string(),
            since_ms: now_ms,
            tries: 0,
            retry_ms: now_ms.saturating_add(RETRY_MS),
        };
        let mut commit = ledger.begin(Permit::housekeeping());
        commit.put(&UNJUDGED, &ledger.digest(&parts), &row);
        ledger.commit(commit).await.map(drop)
    }

    /// Asks again for events that could not be judged when they came; a reconciler, to be called every minute
    /// or so. Returns how many are waited for no more.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn ask_again(&self) -> Result<usize, Error> {
        let (ledger, now_ms) = (&self.house.ledger, self.house.clock.now_ms());
        let view = ledger.newest();
        let (rows, _) = view.scan(&UNJUDGED, &(), Direction::Forward, ROWS_MAX).await?;
        let rows: Vec<(Digest, UnjudgedRow)> = rows;
        // A clock that was set back makes nobody wait longer.
        let is_due =
            |row: &UnjudgedRow| row.retry_ms <= now_ms || row.retry_ms - now_ms > RETRY_MS_MAX;
        let mut due: Vec<_> = rows.into_iter().filter(|(_, row)| is_due(row)).collect();
        due.sort_by_key(|(_, row)| row.retry_ms);
        let mut done = 0;
        for (digest, row) in due.into_iter().take(ASKED_MAX) {
            let is_done = self.is_settled(&row).await?;
            // Another may have come meanwhile.
            if ledger.get(&UNJUDGED, &digest).await?.as_ref() != Some(&row) {
                continue;
            }
            let mut commit = ledger.begin(Permit::housekeeping());
            match is_done {
                true => commit.delete(&UNJUDGED, &digest),
                false => {
                    let wait_ms = RETRY_MS << row.tries.saturating_add(1).min(16);
                    let retry_ms = now_ms.saturating_add(wait_ms.min(RETRY_MS_MAX));
                    let tries = row.tries.saturating_add(1);
                    commit.put(&UNJUDGED, &digest, &UnjudgedRow { tries, retry_ms, ..row });
                }
            }
            ledger.commit(commit).await?;
            done += usize::from(is_done);
        }
        Ok(done)
    }

    /// Whether an event need not be asked for any more; asks for it if it is not there.
    async fn is_settled(&self, row: &UnjudgedRow) -> Result<bool, Error> {
        let room_id = OwnedRoomId::try_from(row.room_id.as_str()).map_err(Error::internal)?;
        let server =
            OwnedServerName::try_from(row.server_name.as_str()).map_err(Error::internal)?;
        let event_id = OwnedEventId::try_from(row.event_id.as_str()).map_err(Error::internal)?;
        let is_old = self.house.clock.now_ms().saturating_sub(row.since_ms) > KEPT_MS;
        if is_old || !self.line.allows(&server) || self.is_placed(&event_id).await? {
            return Ok(true);
        }
        let _turn = self.receiving.enter(turn_of(self, &room_id, &server)).await;
        let open = match self.enter(&room_id).await {
            Ok(open) => open,
            // An administrator has taken the room away since.
            Err(error) => return only_this_one(error).map(|_| true),
        };
        let is_heard = open.is_resident() && open.admits(&server).await?;
        let rules = open.rules.clone();
        drop(open);
        if !is_heard {
            return Ok(true);
        }
        let errand = Errand::begin(&self.house);
        let source = Source::new(&server, &room_id, &rules, &errand);
        match self.take_in_late(source, &event_id).await {
            Ok(_) => Ok(true),
            // What the other server will not give is no longer waited for.
            Err(error) => Ok(only_this_one(error)?.kind != Kind::RemoteUnavailable),
        }
    }

    async fn take_in_late(
        &self,
        source: Source<'_>,
        event_id: &EventId,
    ) -> Result<Option<Standing>, Error> {
        let Some(pdu) = self.one_event_of(source, event_id).await? else {
            // It came; either it is not what it is called, or it still cannot be checked.
            return match source.errand.is_unsure_of(event_id) {
                true => Err(Error::new(Kind::RemoteUnavailable, "It cannot be checked yet.")),
                false => Ok(None),
            };
        };
        let mut inflow = Inflow::new(self, source);
        let standing = inflow.live(pdu).await;
        inflow.flush().await?;
        standing.map(Some)
    }
}
