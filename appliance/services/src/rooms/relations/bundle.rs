//! What relates to an event, in sum, as it is served with the event ([aggregations]).
//!
//! [aggregations]: https://spec.matrix.org/v1.19/client-server-api/#aggregations-of-child-events

use std::collections::BTreeSet;
use std::sync::Arc;

use appliance_ledger::keyspaces::{RELATED, RELATIONS, THREAD_SENDERS, USER_ROOMS};
use appliance_ledger::rows::TimelineRow;
use appliance_ledger::rows::relations::RelatedRow;
use appliance_ledger::{Digest, Direction, Event, membership};
use appliance_model::ruma::OwnedEventId;
use appliance_model::{Caller, Error, EventNid, RoomNid, UserNid};

use super::{How, Relation, digest_of, is_valid_edit, recency};
use crate::rooms::Rooms;
use crate::rooms::client_events::Shown;

/// References served with an event: a poll in a large ward has that many votes.
const REFERENCES_MAX: usize = 500;
/// Events of a thread looked at for the newest that its reader may see.
const THREAD_LOOKED_AT_MAX: usize = 200;

/// What relates to one event.
#[derive(Default)]
pub(in crate::rooms) struct Bundle {
    /// The most recent edit.
    pub edit: Option<Box<Shown>>,
    /// Its thread.
    pub thread: Option<Thread>,
    /// Events that refer to it, oldest first.
    pub references: Vec<OwnedEventId>,
}

/// A thread in short.
pub(in crate::rooms) struct Thread {
    pub latest: Box<Shown>,
    pub count: u64,
    pub participated: bool,
}

impl Bundle {
    fn is_empty(&self) -> bool {
        self.edit.is_none() && self.thread.is_none() && self.references.is_empty()
    }
}

/// Who reads what.
struct Reader<'a> {
    caller: &'a Caller,
    room: RoomNid,
    ignored: BTreeSet<u64>,
}

impl Rooms {
    /// Adds to each of the events what relates to it.
    pub(in crate::rooms) async fn bundle(
        &self,
        caller: &Caller,
        room: RoomNid,
        shown: &mut [Shown],
        with_threads: bool,
    ) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let digests: Vec<_> = shown
            .iter()
            .map(|shown| digest_of(ledger, room, shown.event.event_id.as_str()))
            .collect();
        let rows = ledger.newest().get_many(&RELATED, &digests).await?;
        if rows.iter().all(Option::is_none) {
            return Ok(());
        }
        let ignored = self.ignored_numbers(caller.user).await?;
        let reader = Reader { caller, room, ignored };
        for ((shown, row), digest) in shown.iter_mut().zip(rows).zip(digests) {
            let Some(mut row) = row else { continue };
            if shown.event.is_state() || is_edit_or_reaction(&shown.event) {
                continue;
            }
            if !with_threads {
                row.thread = 0;
            }
            let bundle = self.bundle_of(&reader, &shown.event, digest, &row).await?;
            shown.bundle = (!bundle.is_empty()).then(|| Box::new(bundle));
        }
        Ok(())
    }

    async fn bundle_of(
        &self,
        reader: &Reader<'_>,
        event: &Arc<Event>,
        digest: Digest,
        row: &RelatedRow,
    ) -> Result<Bundle, Error> {
        let mut bundle = Bundle::default();
        // "If the original event is redacted, any m.replace relationship should not be bundled".
        if row.edits > 0 && event.redacted_by.is_none() {
            let edit = self.latest_edit(reader, event, row).await?;
            bundle.edit = match edit {
                Some(edit) => self.shown_one(reader, edit).await?.map(Box::new),
                None => None,
            };
        }
        if row.references > 0 {
            bundle.references = self.references(reader, digest).await?;
        }
        if row.thread > 0 {
            bundle.thread = self.thread(reader, event, digest, row).await?;
        }
        Ok(bundle)
    }

    async fn latest_edit(
        &self,
        reader: &Reader<'_>,
        original: &Arc<Event>,
        row: &RelatedRow,
    ) -> Result<Option<Arc<Event>>, Error> {
        if let Some(number) = row.edit {
            let edit = self.house.ledger.event(EventNid(number)).await?;
            if is_valid_edit(original, &edit) && self.sees(reader, &edit).await? {
                return Ok(Some(edit));
            }
        }
        // The original came later than its edits, or the reader left before the last of them.
        let mut edits = self.valid_edits(original).await?;
        edits.sort_by_key(recency);
        while let Some(edit) = edits.pop() {
            if self.sees(reader, &edit).await? {
                return Ok(Some(edit));
            }
        }
        Ok(None)
    }

    async fn references(
        &self,
        reader: &Reader<'_>,
        digest: Digest,
    ) -> Result<Vec<OwnedEventId>, Error> {
        let prefix = (digest, How::Reference.code());
        let ledger = &self.house.ledger;
        let (mut rows, _) =
            ledger.newest().scan(&RELATIONS, &prefix, Direction::Backward, REFERENCES_MAX).await?;
        rows.reverse();
        // Only IDs are told, so that of those who are in the room nothing else is asked.
        let place = ledger.get(&USER_ROOMS, &(reader.caller.user, reader.room)).await?;
        let until = match place {
            Some(row) if row.membership == membership::JOIN => i64::MAX,
            row => row.and_then(|row| row.joined_until).map_or(i64::MIN, u64::cast_signed),
        };
        let told = rows
            .into_iter()
            .filter(|((_, _, place, _), row)| {
                *place < until && !reader.ignored.contains(&row.sender)
            })
            .map(|((.., number), _)| number);
        let events = ledger.events(&told.collect::<Vec<_>>()).await?;
        Ok(events.iter().map(|event| event.event_id.clone()).collect())
    }

    async fn thread(
        &self,
        reader: &Reader<'_>,
        root: &Event,
        digest: Digest,
        row: &RelatedRow,
    ) -> Result<Option<Thread>, Error> {
        let Some((latest, is_newest)) = self.latest_in_thread(reader, digest, row).await? else {
            return Ok(None);
        };
        let mut count = row.thread;
        for ignored in &reader.ignored {
            // "It does not include events sent by ignored users."
            let key = (digest, UserNid(*ignored));
            let theirs = self.house.ledger.get(&THREAD_SENDERS, &key).await?;
            count = count.saturating_sub(theirs.unwrap_or_default());
        }
        if !is_newest {
            count = count.min(self.seen_in_thread(reader, digest).await?);
        }
        let own = (digest, reader.caller.user);
        let participated = root.part(root.spans.sender).trim_matches('"')
            == reader.caller.user_id.as_str()
            || self.house.ledger.get(&THREAD_SENDERS, &own).await?.is_some_and(|count| count > 0);
        let Some(latest) = self.shown_one(reader, latest).await? else { return Ok(None) };
        let mut latest = [latest];
        // "child events of the latest_event should themselves be aggregated".
        Box::pin(self.bundle(reader.caller, reader.room, &mut latest, false)).await?;
        let [latest] = latest;
        Ok(Some(Thread { latest: Box::new(latest), count, participated }))
    }

    /// "the most recent event (topologically to the server) in the thread sent by an un-ignored
    /// user", and whether the reader sees all that came since.
    async fn latest_in_thread(
        &self,
        reader: &Reader<'_>,
        digest: Digest,
        row: &RelatedRow,
    ) -> Result<Option<(Arc<Event>, bool)>, Error> {
        if let Some((_, number)) = row.thread_latest
            && reader.ignored.is_empty()
        {
            let latest = self.house.ledger.event(EventNid(number)).await?;
            if self.sees(reader, &latest).await? {
                return Ok(Some((latest, true)));
            }
        }
        let mut all_seen = true;
        for (latest, sender) in self.thread_events(digest).await? {
            if reader.ignored.contains(&sender) {
                continue;
            }
            if self.sees(reader, &latest).await? {
                return Ok(Some((latest, all_seen)));
            }
            all_seen = false;
        }
        Ok(None)
    }

    async fn seen_in_thread(&self, reader: &Reader<'_>, digest: Digest) -> Result<u64, Error> {
        let mut count = 0;
        for (event, sender) in self.thread_events(digest).await? {
            let seen = !reader.ignored.contains(&sender) && self.sees(reader, &event).await?;
            count += u64::from(seen);
        }
        Ok(count)
    }

    /// The newest events of a thread and who sent them, newest first.
    async fn thread_events(&self, digest: Digest) -> Result<Vec<(Arc<Event>, u64)>, Error> {
        let prefix = (digest, How::Thread.code());
        let ledger = &self.house.ledger;
        let (rows, _) = ledger
            .newest()
            .scan(&RELATIONS, &prefix, Direction::Backward, THREAD_LOOKED_AT_MAX)
            .await?;
        let numbers: Vec<_> = rows.iter().map(|((.., number), _)| *number).collect();
        let events = ledger.events(&numbers).await?;
        Ok(events.into_iter().zip(rows.into_iter().map(|(_, row)| row.sender)).collect())
    }

    async fn sees(&self, reader: &Reader<'_>, event: &Arc<Event>) -> Result<bool, Error> {
        let one = [(event.clone(), TimelineRow::default())];
        let seen = self.visible(reader.caller.user, reader.room, &one).await?;
        Ok(seen.into_iter().flatten().next().is_some())
    }

    async fn shown_one(
        &self,
        reader: &Reader<'_>,
        event: Arc<Event>,
    ) -> Result<Option<Shown>, Error> {
        Ok(self.shown(reader.caller, reader.room, vec![(event, None)]).await?.pop())
    }
}

/// Nothing relates to edits and reactions in a way that clients would show.
fn is_edit_or_reaction(event: &Event) -> bool {
    Relation::of(event.content())
        .is_some_and(|own| matches!(own.how(), How::Replace | How::Annotation))
}
