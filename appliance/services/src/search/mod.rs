//! Search: the words of unencrypted messages, found again.
//!
//! The index is made from the store and can be made again: where its files are missing or damaged, or
//! of another version, it is. It follows the log of events and keeps, with each of its own commits,
//! the position it has reached, so that a kill loses nothing and adds nothing twice. Whoever searches
//! first has it catch up, so that what was answered is found.
//!
//! It lies in files, since a year of a hospital's messages fits no memory, and the files are sealed
//! ([`appliance_ledger::SealedFolder`]): no plain text rests on the disk. It holds words and numbers of
//! events; what is shown comes from the store, judged there and then: what was redacted, erased or is
//! not for the reader to see is never shown, whatever the index still holds.
//!
//! Nothing of it is in memory before the first search, and little while nobody has searched for some
//! minutes.

mod directory;
mod extract;
mod find;
mod index;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use appliance_ledger::keyspaces::{ERASED_EVENTS, EVENT_LOG, EVENTS};
use appliance_ledger::{Direction, Event, SealedFolder};
use appliance_model::ruma::EventId;
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Error, EventNid, Kind, Position};
use appliance_rules::Permit;
use tantivy::TantivyError;
use tantivy::directory::error::OpenReadError;
use tokio::sync::{Mutex, OwnedMutexGuard};

pub use find::{Found, FoundEvent, SearchOrder, SearchRequest, Surroundings};

use self::index::{Change, TextIndex};
use crate::house::House;
use crate::rooms::Rooms;

/// Events read at once.
const STRIDE: usize = 500;
/// Events between two commits of the index: a crash costs no more than reading these again.
const COMMIT_EVENTS: usize = 10_000;
/// What one search waits for: a second or two of work. The rest follows in the background.
const CATCH_UP_EVENTS: usize = 20_000;
/// What one visit of the job does at most: a stop of the server waits for no more.
const JOB_EVENTS: usize = 50_000;
/// The index gives its memory back after so long without a search.
const IDLE_MS: u64 = 5 * 60 * 1_000;
/// Redacted words are out of the files within so long.
const FORGET_MS: u64 = 60 * 60 * 1_000;

const REBUILT: &str = "the search index does not open; it is made anew from the store";

/// Finding what was said.
pub struct Search {
    house: Arc<House>,
    rooms: Arc<Rooms>,
    shelf: Arc<Mutex<Shelf>>,
}

/// The index, while it is in use. One at a time works with it, which bounds its memory and threads.
#[derive(Default)]
struct Shelf {
    index: Option<TextIndex>,
    /// When it was last used, and last freed of what was removed: milliseconds since the Unix epoch.
    used_ms: u64,
    tidied_ms: u64,
}

type Place = OwnedMutexGuard<Shelf>;

impl Search {
    pub(crate) fn new(house: Arc<House>, rooms: Arc<Rooms>) -> Self {
        Self { house, rooms, shelf: Arc::default() }
    }

    fn folder_path(&self) -> Option<&PathBuf> {
        self.house.options.search_folder.as_ref()
    }

    fn folder(&self) -> Result<Option<SealedFolder>, Error> {
        let Some(path) = self.folder_path() else { return Ok(None) };
        self.house.ledger.sealed_folder(path, "search").map(Some).map_err(Error::internal)
    }

    /// Looks after the index: catches up where much is waiting, has it forget what was redacted, and
    /// gives memory back. To be called every minute.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub async fn activate(&self) -> Result<(), Error> {
        let now_ms = self.house.clock.now_ms();
        let mut place = self.shelf.clone().lock_owned().await;
        if place.index.is_none() {
            // A store in which nobody has searched, and which is small, has no index to look after.
            let position = self.house.ledger.position();
            let Some(path) = self.folder_path() else { return self.forget_erased(position).await };
            let is_large = position.0 > CATCH_UP_EVENTS as u64;
            if !path.is_dir() && !is_large {
                return self.forget_erased(position).await;
            }
            if now_ms.saturating_sub(place.tidied_ms) < FORGET_MS {
                return Ok(());
            }
        }
        let tidy = now_ms.saturating_sub(place.tidied_ms) >= FORGET_MS;
        let (again, reached) = self.caught_up(place, JOB_EVENTS).await?;
        place = again;
        if tidy {
            place = self.work(place, TextIndex::forget_removed).await?.0;
            place.tidied_ms = now_ms;
            self.forget_erased(reached).await?;
        }
        if now_ms.saturating_sub(place.used_ms) >= IDLE_MS {
            place.index = None;
        }
        Ok(())
    }

    /// Brings the index up to now, or as far as `events_max` events go; says how far it reaches then.
    async fn caught_up(
        &self,
        mut place: Place,
        events_max: usize,
    ) -> Result<(Place, Position), Error> {
        let upto = self.house.ledger.position();
        let mut done = 0;
        loop {
            // Only the first to come opens files: what is open is asked where it stands.
            let reached = match &place.index {
                Some(index) => index.reached(),
                None => {
                    let (opened, reached) = self.work(place, |index| Ok(index.reached())).await?;
                    place = opened;
                    reached
                }
            };
            if reached >= upto.0 || done >= events_max {
                return Ok((place, Position(reached)));
            }
            let (changes, next, count) = self.changes(Position(reached), upto).await?;
            done += count.max(1);
            place = self.work(place, move |index| index.apply(changes, next.0)).await?.0;
        }
    }

    /// What the events after `reached` change, up to where that goes.
    async fn changes(
        &self,
        reached: Position,
        upto: Position,
    ) -> Result<(Vec<Change>, Position, usize), Error> {
        let view = self.house.ledger.newest();
        let (mut changes, mut at, mut count) = (Vec::new(), reached, 0);
        while count < COMMIT_EVENTS {
            let range = (Position(at.0 + 1), Position(upto.0 + 1));
            let (rows, more) = view
                .scan_between(&EVENT_LOG, (&range.0, &range.1), Direction::Forward, STRIDE)
                .await?;
            count += rows.len();
            let numbers: Vec<_> = rows.iter().map(|(_, row)| EventNid(row.event)).collect();
            for event in self.present(numbers).await? {
                changes.extend(self.change_by(&event).await?);
            }
            match rows.last() {
                Some((last, _)) if more => at = *last,
                _ => {
                    at = upto;
                    break;
                }
            }
        }
        changes.extend(self.erased((reached, at)).await?);
        Ok((changes, at, count))
    }

    /// The events whose time was over between two positions: their words go.
    async fn erased(&self, (reached, upto): (Position, Position)) -> Result<Vec<Change>, Error> {
        let (mut changes, mut from, end) =
            (Vec::new(), Position(reached.0 + 1), Position(upto.0 + 1));
        loop {
            let view = self.house.ledger.newest();
            let (rows, more): (Vec<(Position, u64)>, _) = view
                .scan_between(&ERASED_EVENTS, (&from, &end), Direction::Forward, STRIDE)
                .await?;
            for (position, event) in rows {
                from = Position(position.0 + 1);
                changes.push(Change::Remove { event });
            }
            if !more {
                return Ok(changes);
            }
        }
    }

    /// What the index has followed, or what was erased before there was one, need not be known.
    async fn forget_erased(&self, upto: Position) -> Result<(), Error> {
        let end = Position(upto.0 + 1);
        loop {
            let ledger = &self.house.ledger;
            let range = (&Position(0), &end);
            let (rows, more): (Vec<(Position, u64)>, _) = ledger
                .newest()
                .scan_between(&ERASED_EVENTS, range, Direction::Forward, STRIDE)
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut commit = ledger.begin(Permit::housekeeping());
            for (position, _) in rows {
                commit.delete(&ERASED_EVENTS, &position);
            }
            ledger.commit(commit).await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Those of the events that are still there: rooms can be erased.
    async fn present(&self, mut numbers: Vec<EventNid>) -> Result<Vec<Arc<Event>>, Error> {
        let ledger = &self.house.ledger;
        let rows = ledger.newest().get_many(&EVENTS, &numbers).await?;
        let mut rows = rows.into_iter();
        numbers.retain(|_| rows.next().flatten().is_some());
        ledger.events(&numbers).await
    }

    async fn change_by(&self, event: &Event) -> Result<Option<Change>, Error> {
        let ledger = &self.house.ledger;
        if let Some(target) = extract::redacted_by(event) {
            let Ok(target) = EventId::parse(target) else { return Ok(None) };
            let target = ledger.event_by_id(&target).await?;
            let gone = target.filter(|target| target.redacted_by.is_some());
            return Ok(gone.map(|target| Change::Remove { event: target.number.0 }));
        }
        let Some((part, text)) = extract::text_of(event) else { return Ok(None) };
        // What is said in the clear in an encrypted room was not meant to be found by a server.
        let kind = StateEventType::RoomEncryption;
        let encryption = self.rooms.state_at(event.room, event.state_before, &kind, "").await?;
        let Some(place) = event.position.filter(|_| encryption.is_none()) else { return Ok(None) };
        Ok(Some(Change::Add { event: event.number.0, room: event.room.0, place, part, text }))
    }

    /// Works with the index where blocking is allowed. An index that is damaged is made anew, empty.
    async fn work<T: Send + 'static>(
        &self,
        mut place: Place,
        work: impl FnOnce(&mut TextIndex) -> Result<T, TantivyError> + Send + 'static,
    ) -> Result<(Place, T), Error> {
        let folder = self.folder()?;
        let cleared = folder.clone();
        let job = move || {
            let worked = match opened(&mut place.index, folder) {
                Ok(index) => work(index),
                Err(error) => Err(error),
            };
            if let Err(error) = &worked {
                // Whatever it was, the next to come opens it again, from the disk.
                place.index = None;
                if is_damage(error) {
                    tracing::warn!(kind = "search.rebuilt", %error, "{REBUILT}");
                    let _ = cleared.map(|folder| folder.clear());
                }
            }
            (place, worked)
        };
        #[expect(clippy::disallowed_methods, reason = "one at a time: whoever has the place")]
        let worked = tokio::task::spawn_blocking(job).await;
        let (place, worked) = worked.map_err(Error::internal)?;
        let failed = |error: TantivyError| match is_damage(&error) {
            true => Error::new(Kind::Unavailable, "The search is being made anew. Try again."),
            false => Error::internal(error),
        };
        Ok((place, worked.map_err(failed)?))
    }
}

/// Whether an error says that the files are not what was written.
fn is_damage(error: &TantivyError) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    let damage = |error: &std::io::Error| {
        matches!(error.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof)
    };
    match error {
        TantivyError::DataCorruption(_)
        | TantivyError::SchemaError(_)
        | TantivyError::IncompatibleIndex(_)
        | TantivyError::DeserializeError(_) => true,
        TantivyError::IoError(error) => damage(error),
        TantivyError::OpenReadError(OpenReadError::IoError { io_error, .. }) => damage(io_error),
        TantivyError::OpenReadError(_) => true,
        _ => false,
    }
}

fn opened(
    index: &mut Option<TextIndex>,
    folder: Option<SealedFolder>,
) -> Result<&mut TextIndex, TantivyError> {
    match index {
        Some(index) => Ok(index),
        none => {
            let opened = TextIndex::open(folder.clone()).or_else(|error| {
                tracing::warn!(kind = "search.rebuilt", %error, "{REBUILT}");
                if let Some(folder) = &folder {
                    folder.clear()?;
                }
                TextIndex::open(folder)
            })?;
            Ok(none.insert(opened))
        }
    }
}
