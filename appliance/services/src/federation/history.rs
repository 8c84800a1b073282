//! History that other servers have and this one has not ([backfilling]): fetched when somebody here pages
//! back to where it is missing.
//!
//! A gap is known by the event above it. The places below that event were left free when it came, so that
//! what is found stands where it belongs.
//!
//! [backfilling]: https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::GAPS;
use appliance_ledger::rows::GapRow;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::{OwnedEventId, OwnedServerName, RoomId};
use appliance_model::{Error, EventNid, RoomNid};
use appliance_rules::Permit;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fetch::{Errand, Source, in_order};
use super::line::Ask;
use super::receive::{How, Inflow, only_this_one};
use super::resident::turn_of;
use crate::rooms::Rooms;

/// Events asked for at once.
const PAGE: usize = 100;
/// Servers asked for one page.
const SERVERS_ASKED_MAX: usize = 3;
/// Pages fetched for one look at a time: two thousand events. What lies further back is found when
/// somebody has read back to it.
const PAGES_MAX: usize = 20;
/// Gaps in one stretch of history that are looked at.
const GAPS_MAX: usize = 8;

/// A gap: the place of the event above it, that event, and what is known of it.
type Gap = (i64, EventNid, GapRow);

impl Rooms {
    /// Fills gaps of a room's history whose upper end lies from `low` to `high` (both included), the
    /// highest first, by one page. Returns whether anything was found.
    ///
    /// # Errors
    ///
    /// If the store fails. Other servers that fail are written to the journal.
    pub(crate) async fn fill_gap(
        &self,
        room: RoomNid,
        room_id: &RoomId,
        (low, high): (i64, i64),
    ) -> Result<bool, Error> {
        if self.gaps(room, (low, high)).await?.is_empty() || !self.is_resident(room).await? {
            return Ok(false);
        }
        let own = self.house.server_name.clone();
        let _turn = self.receiving.enter(turn_of(self, room_id, &own)).await;
        // Somebody else may have been here while we waited.
        let Some(gap) = self.gaps(room, (low, high)).await?.into_iter().next() else {
            return Ok(true);
        };
        for server in self.who_has_history(room_id).await? {
            match self.fill_from(&server, (room, room_id), &gap).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => {
                    let error = only_this_one(error)?;
                    tracing::info!(kind = "federation.history", %server, room.id = %room_id, %error,
                        "history could not be fetched from a server");
                }
            }
        }
        Ok(false)
    }

    /// Whom to ask for a room's history.
    async fn who_has_history(&self, room_id: &RoomId) -> Result<Vec<OwnedServerName>, Error> {
        let open = self.enter(room_id).await?;
        let mut servers: Vec<OwnedServerName> = open.servers().collect();
        // Where the room was made all of its history is, as a rule.
        let create = open.state(&StateEventType::RoomCreate, "").await?;
        drop(open);
        let maker = create.map(|create| create.sender.server_name().to_owned());
        servers.sort_by_key(|server| Some(server) != maker.as_ref());
        servers.retain(|server| self.line.allows(server));
        servers.truncate(SERVERS_ASKED_MAX);
        Ok(servers)
    }

    /// Fetches history until this server has the event closest to a time (milliseconds since the Unix
    /// epoch), if that time lies in a gap: "it can use the corresponding federation endpoint to ask other
    /// servers for a suitable event". Returns whether anything was fetched.
    ///
    /// # Errors
    ///
    /// As [`Rooms::fill_gap`].
    pub(crate) async fn fill_gap_at(
        &self,
        (room, room_id): (RoomNid, &RoomId),
        range: (i64, i64),
        (at_ms, backward): (u64, bool),
    ) -> Result<bool, Error> {
        if self.gaps(room, range).await?.is_empty() || !self.is_resident(room).await? {
            return Ok(false);
        }
        let mut filled = false;
        for server in self.who_has_history(room_id).await? {
            #[derive(Deserialize)]
            struct Closest {
                event_id: OwnedEventId,
            }
            let ask = Ask::Timestamp { room_id: room_id.to_owned(), at_ms, backward };
            let closest = match self.ask::<Closest>(&server, ask).await {
                Ok(closest) => closest,
                Err(error) => {
                    only_this_one(error)?;
                    continue;
                }
            };
            for _ in 0..PAGES_MAX {
                if self
                    .unplaced(slice::from_ref(&closest.event_id), &BTreeMap::new())
                    .await?
                    .is_empty()
                    || !self.fill_gap(room, room_id, range).await?
                {
                    break;
                }
                filled = true;
            }
            // One that has the history has told where to look; the others would say the same.
            break;
        }
        Ok(filled)
    }

    async fn gaps(&self, room: RoomNid, (low, high): (i64, i64)) -> Result<Vec<Gap>, Error> {
        let range = (&(room, low), &(room, high.saturating_add(1)));
        let newest = self.house.ledger.newest();
        let (rows, _) = newest.scan_between(&GAPS, range, Direction::Backward, GAPS_MAX).await?;
        Ok(rows.into_iter().map(|((_, at, number), row)| (at, number, row)).collect())
    }

    async fn fill_from(
        &self,
        server: &OwnedServerName,
        (room, room_id): (RoomNid, &RoomId),
        (at, number, gap): &Gap,
    ) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Answer {
            pdus: Vec<Box<RawValue>>,
        }
        let (_, room_id, rules) = self.known_room(room_id).await?;
        let errand = Errand::begin(&self.house);
        let source = Source::new(server, &room_id, &rules, &errand);
        let from: Vec<OwnedEventId> =
            gap.missing.iter().filter_map(|id| id.as_str().try_into().ok()).collect();
        let ask = Ask::Backfill { room_id: room_id.clone(), from: from.clone(), limit: PAGE };
        let answer: Answer = self.ask(server, ask).await?;
        let raws: Vec<_> = answer.pdus.into_iter().take(PAGE).collect();
        let mut found = self.checked_all(source, raws).await?;
        // Of what was sent, what this server lacks and what leads to the gap.
        let mut wanted: BTreeSet<OwnedEventId> = from.iter().cloned().collect();
        let mut open: Vec<_> = from;
        let mut belongs = BTreeSet::new();
        while let Some(id) = open.pop() {
            let Some(event) = found.get(&id) else { continue };
            belongs.insert(id);
            let before = event.prev_events.iter().filter(|id| wanted.insert((*id).clone()));
            open.extend(before.cloned());
        }
        found.retain(|id, _| belongs.contains(id));
        let events = in_order(found, |pdu| &pdu.prev_events);
        let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
        if events.is_empty() || gap.next - count < gap.lowest {
            return Ok(false);
        }
        let mut inflow = Inflow::new(self, source);
        let (mut missing, mut placed, mut lowest) = (BTreeSet::new(), BTreeSet::new(), None);
        for (index, event) in (0..).zip(events) {
            let place = gap.next - count + 1 + index;
            let (id, before) = (event.event_id.clone(), event.prev_events.clone());
            match inflow.place(event, How::Past(place)).await {
                Ok(_) => {
                    lowest.get_or_insert((place, id.clone()));
                    placed.insert(id);
                    missing.extend(before);
                }
                Err(error) => {
                    let error = only_this_one(error)?;
                    tracing::info!(kind = "federation.history", event.id = %id, %error,
                        "an event of the past could not be placed");
                }
            }
        }
        inflow.flush().await?;
        let Some((place, lowest)) = lowest else { return Ok(false) };
        // What was missing and did not come stays missing; what it builds on is missing now.
        missing.extend(gap.missing.iter().filter_map(|id| id.as_str().try_into().ok()));
        let mut still = Vec::new();
        for id in missing.iter().filter(|id| !placed.contains(*id)) {
            let known = self.house.ledger.event_by_id(id).await?;
            if known.is_none_or(|event| event.outlier) {
                still.push(id.to_string());
            }
        }
        let lowest = self.house.ledger.event_number(&lowest).await?;
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.delete(&GAPS, &(room, *at, *number));
        if let Some(lowest) = lowest.filter(|_| !still.is_empty()) {
            let row = GapRow { missing: still, next: place - 1, lowest: gap.lowest };
            commit.put(&GAPS, &(room, place, lowest), &row);
        }
        self.house.ledger.commit(commit).await?;
        Ok(true)
    }
}
