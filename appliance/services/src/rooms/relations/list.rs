//! `GET /rooms/{roomId}/relations/{eventId}` ([spec]): the events that relate to one.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventid

use std::collections::BTreeSet;
use std::sync::Arc;

use appliance_ledger::keyspaces::RELATIONS;
use appliance_ledger::rows::TimelineRow;
use appliance_ledger::rows::relations::RelationRow;
use appliance_ledger::{Digest, Direction, Event};
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::{EventId, RoomId};
use appliance_model::{Caller, Error, EventNid, RoomNid};

use super::{How, digest_of};
use crate::rooms::{ClientEvents, Rooms};

/// More at once is asked for in pages.
const LIMIT_MAX: usize = 500;
/// Rows read at once.
const STRIDE: usize = 100;
/// Relations looked at for one page, when few may be seen or are of the kind asked for.
const LOOKED_AT_MAX: usize = 5_000;
/// How far relations of relations are followed ("the server … should apply a limit"): a reaction to
/// an edit of a thread's event is three away.
const DEPTH_MAX: u64 = 3;

/// Which relations.
#[derive(Clone, Debug)]
pub struct RelationsQuery<'a> {
    /// Of which type.
    pub rel_type: Option<&'a str>,
    /// And of which event type.
    pub kind: Option<&'a str>,
    /// Which way.
    pub direction: Direction,
    /// How many.
    pub limit: usize,
    /// Where to begin.
    pub from: Option<i64>,
    /// Where to stop at the latest.
    pub to: Option<i64>,
    /// Also those that relate to these, and so on.
    pub recurse: bool,
}

/// A page of relations.
pub struct Related {
    /// The events, in the order asked.
    pub chunk: ClientEvents,
    /// Where the next page begins; none if there is no more.
    pub next: Option<i64>,
    /// How far relations of relations were followed.
    pub depth: Option<u64>,
}

type Row = ((Digest, u8, i64, EventNid), RelationRow);
type Seen = (Arc<Event>, Option<MembershipState>);

/// What is being read.
struct Walk<'a> {
    caller: &'a Caller,
    room: RoomNid,
    query: &'a RelationsQuery<'a>,
    ignored: BTreeSet<u64>,
    limit: usize,
    found: Vec<Seen>,
}

impl Rooms {
    /// A page of the events that relate to one.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: there is no such event for the caller to see.
    /// * [`appliance_model::Kind::Forbidden`]: the caller was never in the room.
    pub async fn relations(
        &self,
        caller: &Caller,
        (room_id, event_id): (&RoomId, &EventId),
        query: &RelationsQuery<'_>,
    ) -> Result<Related, Error> {
        let room = self.readable(caller, room_id).await?;
        self.seen_event(caller, room, event_id).await?;
        let ignored = self.ignored_numbers(caller.user).await?;
        let limit = query.limit.clamp(1, LIMIT_MAX);
        let mut walk = Walk { caller, room, query, ignored, limit, found: Vec::new() };
        let (next, depth) = if query.recurse {
            let depth = self.related_at_any_distance(&mut walk, event_id).await?;
            (walk.cut(), Some(depth))
        } else {
            (self.related(&mut walk, event_id).await?, None)
        };
        let chunk = self.client_events(caller, room, walk.found).await?;
        Ok(Related { chunk, next, depth })
    }

    /// Reads stride by stride until the page is full; returns where the next begins.
    async fn related(&self, walk: &mut Walk<'_>, event_id: &EventId) -> Result<Option<i64>, Error> {
        let digest = digest_of(&self.house.ledger, walk.room, event_id.as_str());
        let (mut low, mut high) = walk.range();
        let mut looked_at = 0;
        loop {
            let (rows, more) = self.stride(walk, digest, (low, high)).await?;
            looked_at += rows.len();
            let Some(((_, _, last, _), _)) = rows.last() else { return Ok(None) };
            match walk.query.direction {
                Direction::Backward => high = *last,
                Direction::Forward => low = last.saturating_add(1),
            }
            self.take(walk, rows).await?;
            if let Some(next) = walk.cut() {
                return Ok(Some(next));
            }
            let goes_on = if walk.query.direction == Direction::Backward { high } else { low };
            match more {
                false => return Ok(None),
                true if looked_at >= LOOKED_AT_MAX => return Ok(Some(goes_on)),
                true => {}
            }
        }
    }

    /// The next rows in the order of the timeline, of all the kinds asked for.
    async fn stride(
        &self,
        walk: &Walk<'_>,
        digest: Digest,
        (low, high): (i64, i64),
    ) -> Result<(Vec<Row>, bool), Error> {
        let (mut all, mut more) = (Vec::new(), false);
        let view = self.house.ledger.newest();
        let asked = walk.query.rel_type.map(How::of);
        for how in How::ALL.into_iter().filter(|how| asked.is_none_or(|asked| asked == *how)) {
            let (from, to) = ((digest, how.code(), low), (digest, how.code(), high));
            let (rows, rest) =
                view.scan_between(&RELATIONS, (&from, &to), walk.query.direction, STRIDE).await?;
            all.extend(rows);
            more |= rest;
        }
        walk.sort_by_place(&mut all);
        // Each kind was read for so many: of all together only that many are sure to be the next.
        more |= all.len() > STRIDE;
        all.truncate(STRIDE);
        Ok((all, more))
    }

    async fn related_at_any_distance(
        &self,
        walk: &mut Walk<'_>,
        event_id: &EventId,
    ) -> Result<u64, Error> {
        let ledger = &self.house.ledger;
        let mut parents = vec![event_id.to_owned()];
        let (mut all, mut depth, mut known) = (Vec::<Row>::new(), 0, BTreeSet::new());
        while !parents.is_empty() && depth < DEPTH_MAX && all.len() < LOOKED_AT_MAX {
            depth += 1;
            let mut children = Vec::new();
            for parent in &parents {
                let digest = digest_of(ledger, walk.room, parent.as_str());
                let missing = LOOKED_AT_MAX.saturating_sub(all.len() + children.len());
                let (rows, _) = ledger
                    .newest()
                    .scan(&RELATIONS, &digest, Direction::Backward, missing.max(1))
                    .await?;
                // Events cannot name what comes after them, but a server that lies may try.
                children.extend(rows.into_iter().filter(|((.., child), _)| known.insert(*child)));
            }
            let numbers: Vec<_> = children.iter().map(|((.., number), _)| *number).collect();
            let events = ledger.events(&numbers).await?;
            parents = events.iter().map(|event| event.event_id.clone()).collect();
            all.extend(children);
        }
        walk.sort_by_place(&mut all);
        let (low, high) = walk.range();
        all.retain(|((_, _, place, _), _)| (low..high).contains(place));
        self.take(walk, all).await?;
        Ok(depth)
    }

    /// Adds those of the rows that are asked for and may be seen.
    async fn take(&self, walk: &mut Walk<'_>, mut rows: Vec<Row>) -> Result<(), Error> {
        rows.retain(|(_, row)| walk.wants(row));
        let numbers: Vec<_> = rows.into_iter().map(|((.., number), _)| number).collect();
        let events = self.house.ledger.events(&numbers).await?;
        let events: Vec<_> =
            events.into_iter().map(|event| (event, TimelineRow::default())).collect();
        let readers = self.visible(walk.caller.user, walk.room, &events).await?;
        let seen = events.into_iter().zip(readers);
        walk.found.extend(seen.filter_map(|((event, _), reader)| Some((event, Some(reader?)))));
        Ok(())
    }
}

impl Walk<'_> {
    /// From and to, as places in the timeline.
    fn range(&self) -> (i64, i64) {
        let (from, to) = (self.query.from, self.query.to);
        match self.query.direction {
            Direction::Backward => (to.unwrap_or(i64::MIN), from.unwrap_or(i64::MAX)),
            Direction::Forward => (from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX)),
        }
    }

    fn wants(&self, row: &RelationRow) -> bool {
        self.query.rel_type.is_none_or(|rel_type| rel_type == row.rel_type)
            && self.query.kind.is_none_or(|kind| kind == row.kind)
            && !self.ignored.contains(&row.sender)
    }

    fn sort_by_place(&self, rows: &mut [Row]) {
        rows.sort_by_key(|((_, _, place, number), _)| (*place, *number));
        if self.query.direction == Direction::Backward {
            rows.reverse();
        }
    }

    /// Cuts the page to its limit; returns where the next begins, if there is more.
    fn cut(&mut self) -> Option<i64> {
        if self.found.len() <= self.limit {
            return None;
        }
        self.found.truncate(self.limit);
        let last = self.found.last().and_then(|(event, _)| event.position).unwrap_or_default();
        match self.query.direction {
            Direction::Backward => Some(last),
            Direction::Forward => Some(last.saturating_add(1)),
        }
    }
}
