//! The index of relations: written with the event, cleared with its redaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use appliance_ledger::keyspaces::{ANNOTATIONS, RELATED, RELATIONS, THREAD_SENDERS, THREADS};
use appliance_ledger::rows::relations::{RelatedRow, RelationRow, ThreadRow};
use appliance_ledger::{Commit, Digest, Direction, Event, Rows};
use appliance_model::ruma::{EventId, UserId};
use appliance_model::{Error, EventNid, Pdu, RoomNid, UserNid};

use super::{How, Relation, digest_of, is_valid_edit, recency};
use crate::rooms::OpenRoom;

/// Edits looked at for the most recent valid one; people edit a message a few times.
const EDITS_LOOKED_AT_MAX: usize = 100;

/// The sums of this visit, as its commit will leave them: several events may relate to one.
#[derive(Default)]
pub(in crate::rooms) struct RelatedNow(HashMap<Digest, Arc<Mutex<Sums>>>);

/// A sum, and what each sender has in the thread.
#[derive(Default)]
struct Sums {
    row: RelatedRow,
    senders: HashMap<UserNid, u64>,
}

/// What is written with the event, once its place is known.
struct Entry {
    room: RoomNid,
    number: EventNid,
    /// A place the event has already: it is older than what is here.
    at: Option<i64>,
    digest: Digest,
    relation: Relation,
    row: RelationRow,
    sums: Arc<Mutex<Sums>>,
    annotation: Option<Digest>,
    /// It is the most recent valid edit.
    is_newest_edit: bool,
}

impl OpenRoom<'_> {
    /// Prepares the index rows of an event that is being added: to be given the event's place, with
    /// its own rows. `at` is for events whose place is fixed already.
    pub(in crate::rooms) async fn index_relation(
        &mut self,
        pdu: &Pdu,
        number: EventNid,
        at: Option<i64>,
        commit: &mut Commit,
    ) -> Result<impl FnOnce(i64, &mut Rows) + Send + Sync + use<>, Error> {
        let entry = self.entry(pdu, number, at, commit).await?;
        Ok(move |place: i64, rows: &mut Rows| {
            if let Some(entry) = entry {
                entry.write(place, rows);
            }
        })
    }

    async fn entry(
        &mut self,
        pdu: &Pdu,
        number: EventNid,
        at: Option<i64>,
        commit: &mut Commit,
    ) -> Result<Option<Entry>, Error> {
        let Some(relation) = Relation::of(pdu.content.get()) else { return Ok(None) };
        let (ledger, room) = (self.rooms.house.ledger.clone(), self.room);
        let digest = digest_of(&ledger, room, &relation.event_id);
        let sender = ledger.user_in(&pdu.sender, commit).await?;
        let sums = self.sums(digest, sender).await?;
        let kind = pdu.kind.to_string();
        let annotation = (relation.how() == How::Annotation)
            .then(|| self.annotation(&pdu.sender, kind.clone(), &relation));
        let is_newest_edit =
            relation.how() == How::Replace && self.is_newest_edit(pdu, &relation, &sums).await?;
        let row = RelationRow { rel_type: relation.rel_type.clone(), kind, sender: sender.0 };
        let entry =
            Entry { room, number, at, digest, relation, row, sums, annotation, is_newest_edit };
        Ok(Some(entry))
    }

    async fn sums(&mut self, digest: Digest, sender: UserNid) -> Result<Arc<Mutex<Sums>>, Error> {
        let ledger = &self.rooms.house.ledger;
        let sums = match self.related.0.get(&digest) {
            Some(sums) => sums.clone(),
            None => {
                let row = ledger.get(&RELATED, &digest).await?.unwrap_or_default();
                let sums = Arc::new(Mutex::new(Sums { row, senders: HashMap::new() }));
                self.related.0.insert(digest, sums.clone());
                sums
            }
        };
        let known = lock(&sums).senders.contains_key(&sender);
        if !known {
            let count = ledger.get(&THREAD_SENDERS, &(digest, sender)).await?.unwrap_or_default();
            lock(&sums).senders.insert(sender, count);
        }
        Ok(sums)
    }

    /// Whether an edit is valid and more recent than those before, as far as can be told now.
    async fn is_newest_edit(
        &self,
        pdu: &Pdu,
        relation: &Relation,
        sums: &Mutex<Sums>,
    ) -> Result<bool, Error> {
        let ledger = &self.rooms.house.ledger;
        let Ok(original) = EventId::parse(&relation.event_id) else { return Ok(false) };
        let Some(original) = ledger.event_by_id(&original).await? else { return Ok(false) };
        let edit = Arc::new(unplaced(pdu, self.room));
        if !is_valid_edit(&original, &edit) {
            return Ok(false);
        }
        let last = lock(sums).row.edit;
        match last {
            Some(last) => Ok(recency(&edit) > recency(&ledger.event(EventNid(last)).await?)),
            None => Ok(true),
        }
    }

    /// Takes an event that is being redacted out of the index.
    pub(in crate::rooms) async fn drop_relation(
        &mut self,
        target: &Event,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let Some(relation) = Relation::of(target.content()) else { return Ok(()) };
        let Some(place) = target.position else { return Ok(()) };
        let sender: &str = target.part(target.spans.sender).trim_matches('"');
        let Ok(sender) = UserId::parse(sender) else { return Ok(()) };
        let ledger = self.rooms.house.ledger.clone();
        let digest = digest_of(&ledger, self.room, &relation.event_id);
        let user = ledger.user_in(&sender, commit).await?;
        let key = (digest, relation.how().code(), place, target.number);
        if ledger.get(&RELATIONS, &key).await?.is_none() {
            return Ok(());
        }
        commit.delete(&RELATIONS, &key);
        let sums = self.sums(digest, user).await?;
        match relation.how() {
            How::Annotation => {
                let digest = self.annotation(&sender, target.kind().to_owned(), &relation);
                if ledger.get(&ANNOTATIONS, &digest).await? == Some(target.number.0) {
                    commit.delete(&ANNOTATIONS, &digest);
                }
                return Ok(());
            }
            How::Other => return Ok(()),
            How::Reference => {
                let row = &mut lock(&sums).row;
                row.references = row.references.saturating_sub(1);
            }
            How::Replace => {
                let newest = self.newest_edit_but(&relation.event_id, target.number).await?;
                let row = &mut lock(&sums).row;
                row.edits = row.edits.saturating_sub(1);
                if row.edit == Some(target.number.0) {
                    row.edit = newest;
                }
            }
            How::Thread => {
                self.shorten_thread(
                    (digest, user),
                    &relation.event_id,
                    target.number,
                    &sums,
                    commit,
                )
                .await?;
            }
        }
        put_or_delete(digest, &lock(&sums).row, commit);
        Ok(())
    }

    async fn shorten_thread(
        &self,
        (digest, user): (Digest, UserNid),
        root: &str,
        gone: EventNid,
        sums: &Mutex<Sums>,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        // Two, because one of them goes.
        let prefix = (digest, How::Thread.code());
        let view = self.rooms.house.ledger.newest();
        let (rows, _) = view.scan(&RELATIONS, &prefix, Direction::Backward, 2).await?;
        let latest = rows.into_iter().map(|((_, _, place, number), _)| (place, number.0));
        let latest = latest.into_iter().find(|(_, number)| *number != gone.0);
        let mut sums = lock(sums);
        sums.row.thread = sums.row.thread.saturating_sub(1);
        let count = sums.senders.entry(user).or_default();
        *count = count.saturating_sub(1);
        match *count {
            0 => commit.delete(&THREAD_SENDERS, &(digest, user)),
            count => commit.put(&THREAD_SENDERS, &(digest, user), &count),
        }
        if let Some((place, number)) = sums.row.thread_latest
            && number == gone.0
        {
            commit.delete(&THREADS, &(self.room, place, EventNid(number)));
            if let Some((place, number)) = latest {
                let row = ThreadRow { root: root.to_owned() };
                commit.put(&THREADS, &(self.room, place, EventNid(number)), &row);
            }
            sums.row.thread_latest = latest;
        }
        Ok(())
    }

    async fn newest_edit_but(&self, original: &str, gone: EventNid) -> Result<Option<u64>, Error> {
        let Ok(original) = EventId::parse(original) else { return Ok(None) };
        let ledger = &self.rooms.house.ledger;
        let Some(original) = ledger.event_by_id(&original).await? else { return Ok(None) };
        let edits = self.rooms.valid_edits(&original).await?;
        let newest = edits.into_iter().filter(|edit| edit.number != gone).max_by_key(recency);
        Ok(newest.map(|edit| edit.number.0))
    }
}

impl crate::rooms::Rooms {
    /// The valid edits of an event, those that came last.
    pub(super) async fn valid_edits(&self, original: &Event) -> Result<Vec<Arc<Event>>, Error> {
        let ledger = &self.house.ledger;
        let digest = digest_of(ledger, original.room, original.event_id.as_str());
        let prefix = (digest, How::Replace.code());
        let view = ledger.newest();
        let (rows, _) =
            view.scan(&RELATIONS, &prefix, Direction::Backward, EDITS_LOOKED_AT_MAX).await?;
        let numbers: Vec<_> = rows.into_iter().map(|((.., number), _)| number).collect();
        let mut edits = ledger.events(&numbers).await?;
        edits.retain(|edit| is_valid_edit(original, edit));
        Ok(edits)
    }
}

impl Entry {
    fn write(self, place: i64, rows: &mut Rows) {
        let Self { room, number, digest, relation, row, sums, annotation, .. } = self;
        let (how, sender) = (relation.how(), UserNid(row.sender));
        let place = self.at.unwrap_or(place);
        rows.put(&RELATIONS, &(digest, how.code(), place, number), &row);
        if let Some(annotation) = annotation {
            rows.put(&ANNOTATIONS, &annotation, &number.0);
        }
        let mut sums = lock(&sums);
        match how {
            // Reactions are not served in sum, but one by one.
            How::Annotation | How::Other => return,
            How::Reference => sums.row.references += 1,
            How::Replace => {
                sums.row.edits += 1;
                if self.is_newest_edit {
                    sums.row.edit = Some(number.0);
                }
            }
            How::Thread => {
                sums.row.thread += 1;
                let count = sums.senders.entry(sender).or_default();
                *count += 1;
                rows.put(&THREAD_SENDERS, &(digest, sender), count);
                let latest = sums.row.thread_latest;
                if latest.is_none_or(|(latest, _)| latest < place) {
                    if let Some((place, number)) = latest {
                        rows.delete(&THREADS, &(room, place, EventNid(number)));
                    }
                    let row = ThreadRow { root: relation.event_id };
                    rows.put(&THREADS, &(room, place, number), &row);
                    sums.row.thread_latest = Some((place, number.0));
                }
            }
        }
        rows.put(&RELATED, &digest, &sums.row);
    }
}

fn put_or_delete(digest: Digest, row: &RelatedRow, commit: &mut Commit) {
    if *row == RelatedRow::default() {
        commit.delete(&RELATED, &digest);
    } else {
        commit.put(&RELATED, &digest, row);
    }
}

/// An event that is not in the store yet, in the form in which edits are compared.
fn unplaced(pdu: &Pdu, room: RoomNid) -> Event {
    Event {
        number: EventNid::default(),
        event_id: pdu.event_id.clone(),
        room,
        position: None,
        json: pdu.json.clone(),
        spans: pdu.spans,
        state_before: appliance_ledger::Root::default(),
        rejected: false,
        redacted_by: None,
        txn: None,
        replaces: None,
        state_after: appliance_ledger::Root::default(),
        soft_failed: false,
        outlier: false,
        erased: false,
    }
}

fn lock(sums: &Mutex<Sums>) -> std::sync::MutexGuard<'_, Sums> {
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}
