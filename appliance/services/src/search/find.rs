//! `POST /search` ([spec]): finding what was said, in the rooms and at the times that the reader may
//! see.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3search

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::rows::TimelineRow;
use appliance_ledger::{Direction, Event, membership};
use appliance_model::ruma::OwnedRoomId;
use appliance_model::ruma::api::client::filter::RoomEventFilter;
use appliance_model::{Caller, Error, EventNid, Kind, RoomNid};

use super::index::{Part, TextIndex, Wanted, words_of};
use super::{CATCH_UP_EVENTS, Search};
use crate::event_filter::wants;
use crate::rooms::{Context, Ignored};

/// Results on a page, and how many without being asked for a number.
const LIMIT_MAX: usize = 100;
const LIMIT_DEFAULT: usize = 10;
/// Hits looked at for one page, when the reader may see few of them.
const LOOKED_AT_MAX: usize = 1_000;
/// Events around a result, on either side.
const AROUND_MAX: usize = 50;
/// Rooms of one person that are searched.
const ROOMS_MAX: usize = 20_000;

/// In which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SearchOrder {
    /// The best match first.
    #[default]
    Rank,
    /// The newest first.
    Recent,
}

/// What to show around a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// How many events before it.
    pub before: usize,
    /// How many after it.
    pub after: usize,
    /// And who said all that.
    pub profiles: bool,
}

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct SearchRequest {
    /// All of these words.
    pub term: String,
    /// In `content.body`, `content.name`, `content.topic`; none is all.
    pub keys: Option<Vec<String>>,
    /// Which events, in which rooms, how many.
    pub filter: RoomEventFilter,
    /// In which order.
    pub order: SearchOrder,
    /// What to show around.
    pub around: Option<Surroundings>,
    /// Show the present state of the rooms.
    pub state: bool,
    /// Where to go on: what an earlier page gave out.
    pub from: Option<String>,
}

/// A page of results.
pub struct Found {
    /// About how many there are in all.
    pub count: usize,
    /// What to highlight.
    pub words: Vec<String>,
    /// The results, in order.
    pub results: Vec<FoundEvent>,
    /// The present state of their rooms, as JSON, if it was asked for.
    pub state: BTreeMap<OwnedRoomId, String>,
    /// Where to go on.
    pub next: Option<String>,
}

/// A result.
pub struct FoundEvent {
    /// Its room.
    pub room_id: OwnedRoomId,
    /// Itself.
    pub event: Arc<Event>,
    /// The event in client form, with what is around it.
    pub context: Context,
    /// How well it matches.
    pub rank: Option<f32>,
}

/// The page being filled.
struct Page<'a> {
    caller: &'a Caller,
    request: &'a SearchRequest,
    ignored: Ignored,
    found: Vec<(Arc<Event>, Option<f32>)>,
}

impl Search {
    /// Finds what was said.
    ///
    /// # Errors
    ///
    /// * [`Kind::InvalidParam`]: a key or token of no use.
    /// * [`Kind::Unavailable`]: the index is damaged beyond this request; it is made anew.
    pub async fn find(&self, caller: &Caller, request: &SearchRequest) -> Result<Found, Error> {
        self.rooms.limits.message(caller.user)?;
        match self.find_once(caller, request).await {
            // A damaged index is thrown away when it is noticed: now there is a new one.
            Err(error) if error.kind == Kind::Unavailable => self.find_once(caller, request).await,
            found => found,
        }
    }

    async fn find_once(&self, caller: &Caller, request: &SearchRequest) -> Result<Found, Error> {
        let limit = request.filter.limit.map_or(LIMIT_DEFAULT, |limit| {
            usize::try_from(u64::from(limit)).unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX)
        });
        let from = request.from.as_deref().map(read_token).transpose()?;
        let mut skip = from.map_or(0, |(skip, _)| skip);
        let wanted = Wanted {
            words: words_of(&request.term),
            parts: parts_of(request.keys.as_deref())?,
            rooms: self.searched_rooms(caller, &request.filter).await?,
            upto: from.map(|(_, upto)| upto),
            newest_first: request.order == SearchOrder::Recent,
            skip,
            limit,
        };
        let words = wanted.words.clone();
        let mut place = self.shelf.clone().lock_owned().await;
        place.used_ms = self.house.clock.now_ms();
        let reached;
        (place, reached) = self.caught_up(place, CATCH_UP_EVENTS).await?;
        // A first page looks at all there is; the pages after it at no more than that.
        let upto = wanted.upto.unwrap_or(reached.0.cast_signed());
        let ignored = self.rooms.ignored(caller.user).await?;
        let mut page = Page { caller, request, ignored, found: Vec::new() };
        let (mut count, mut looked_at, mut next) = (0, 0, None);
        while looked_at < LOOKED_AT_MAX {
            let more = Wanted { skip, ..wanted.clone() };
            let (again, hits) =
                self.work(place, move |index: &mut TextIndex| index.find(&more)).await?;
            place = again;
            count = hits.count;
            let taken = self.take(&mut page, hits.events, limit).await?;
            skip += taken;
            looked_at += taken;
            let is_full = page.found.len() == limit;
            // A full page is not called the last one: suites and old clients read on until a page
            // is empty.
            next = (is_full || skip < count).then(|| format!("n{skip}_{upto}"));
            if is_full || next.is_none() || taken == 0 {
                break;
            }
        }
        drop(place);
        let results = self.shown(&page).await?;
        let state = self.states(caller, request, &results).await?;
        Ok(Found { count, words, results, state, next })
    }

    /// Those rooms of the caller's that the filter lets through.
    async fn searched_rooms(
        &self,
        caller: &Caller,
        filter: &RoomEventFilter,
    ) -> Result<Vec<u64>, Error> {
        let ledger = &self.house.ledger;
        let (rows, _) =
            ledger.newest().scan(&USER_ROOMS, &caller.user, Direction::Forward, ROOMS_MAX).await?;
        let was_in = rows.into_iter().filter(|(_, row)| {
            let code = row.membership;
            !row.forgotten
                && (code == membership::JOIN
                    || code == membership::LEAVE
                    || code == membership::BAN)
        });
        let own: BTreeSet<RoomNid> = was_in.map(|((_, room), _)| room).collect();
        let mut barred = BTreeSet::new();
        for room_id in &filter.not_rooms {
            barred.extend(ledger.room(room_id).await?);
        }
        let mut rooms = Vec::new();
        match &filter.rooms {
            None => rooms.extend(own.difference(&barred).map(|room| room.0)),
            Some(asked) => {
                for room_id in asked {
                    let room = ledger.room(room_id).await?;
                    let open = room.filter(|room| own.contains(room) && !barred.contains(room));
                    rooms.extend(open.map(|room| room.0));
                }
            }
        }
        Ok(rooms)
    }

    /// Adds hits that the reader may see; returns how many hits were looked at.
    async fn take(
        &self,
        page: &mut Page<'_>,
        hits: Vec<(u64, Option<f32>)>,
        limit: usize,
    ) -> Result<usize, Error> {
        let numbers = hits.iter().map(|(number, _)| EventNid(*number)).collect();
        let events = self.present(numbers).await?;
        let mut events: BTreeMap<_, _> =
            events.into_iter().map(|event| (event.number.0, event)).collect();
        let mut taken = 0;
        for (number, rank) in hits {
            if page.found.len() == limit {
                break;
            }
            taken += 1;
            let Some(event) = events.remove(&number) else { continue };
            if self.is_to_be_shown(page, &event).await? {
                page.found.push((event, rank));
            }
        }
        Ok(taken)
    }

    /// The index may lag behind, and knows nothing of readers: the store decides.
    async fn is_to_be_shown(&self, page: &Page<'_>, event: &Arc<Event>) -> Result<bool, Error> {
        let gone = super::extract::text_of(event).is_none();
        if gone || page.ignored.hides(event) || !wants(&page.request.filter, event) {
            return Ok(false);
        }
        let one = [(event.clone(), TimelineRow::default())];
        let seen = self.rooms.visible(page.caller.user, event.room, &one).await?;
        Ok(seen.into_iter().flatten().next().is_some())
    }

    async fn shown(&self, page: &Page<'_>) -> Result<Vec<FoundEvent>, Error> {
        let around = page.request.around;
        let sides = around
            .map_or((0, 0), |around| (around.before.min(AROUND_MAX), around.after.min(AROUND_MAX)));
        let profiles = around.is_some_and(|around| around.profiles);
        let mut results = Vec::with_capacity(page.found.len());
        for (event, rank) in &page.found {
            let room_id = self.house.ledger.room_id(event.room).await?;
            let here = (event.room, event);
            let context = self.rooms.surroundings(page.caller, here, sides, profiles).await?;
            results.push(FoundEvent { room_id, event: event.clone(), context, rank: *rank });
        }
        Ok(results)
    }

    async fn states(
        &self,
        caller: &Caller,
        request: &SearchRequest,
        results: &[FoundEvent],
    ) -> Result<BTreeMap<OwnedRoomId, String>, Error> {
        let mut states = BTreeMap::new();
        for result in results.iter().filter(|_| request.state) {
            if !states.contains_key(&result.room_id) {
                let state = self.rooms.full_state(caller, &result.room_id).await?;
                states.insert(result.room_id.clone(), state);
            }
        }
        Ok(states)
    }
}

/// "keys: The keys to search. Defaults to all."
fn parts_of(keys: Option<&[String]>) -> Result<Vec<Part>, Error> {
    const ALL: [(&str, Part); 3] = [
        ("content.body", Part::Body),
        ("content.name", Part::Name),
        ("content.topic", Part::Topic),
    ];
    let Some(keys) = keys else { return Ok(ALL.iter().map(|(_, part)| *part).collect()) };
    let part = |key: &String| ALL.iter().find(|(name, _)| name == key).map(|(_, part)| *part);
    keys.iter().map(part).collect::<Option<_>>().ok_or_else(|| {
        Error::invalid_param("`keys` are `content.body`, `content.name` and `content.topic`.")
    })
}

/// How many hits earlier pages looked at, of those up to a place: what is said meanwhile moves
/// nothing.
fn read_token(token: &str) -> Result<(usize, i64), Error> {
    let invalid = || Error::invalid_param("`next_batch` is not a token that this server gave out.");
    let (skip, upto) =
        token.strip_prefix('n').and_then(|rest| rest.split_once('_')).ok_or_else(invalid)?;
    let skip: usize = skip.parse().map_err(|_| invalid())?;
    // Deeper pages cost more and more, and nobody reads them.
    if skip > 100_000 {
        return Err(invalid());
    }
    Ok((skip, upto.parse().map_err(|_| invalid())?))
}
