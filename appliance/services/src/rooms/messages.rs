//! Reading a room's history: `GET /messages`, `GET /context/{eventId}`, `GET /event/{eventId}`
//! ([spec]). What a reader may not see is left out before the limit is counted.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#syncing

use std::collections::BTreeSet;
use std::sync::Arc;

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::rows::TimelineRow;
use appliance_ledger::{Direction, Event, Root, membership};
use appliance_model::ruma::api::client::filter::{LazyLoadOptions, RoomEventFilter};
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::{EventId, OwnedRoomId, RoomId};
use appliance_model::{Caller, Error, EventNid, RoomNid};

use super::{ClientEvents, Rooms};
use crate::event_filter::{wants, wants_all};

/// "limit … default 10"; more than this at once is asked for in pages.
const LIMIT_MAX: usize = 500;
/// Events looked at for one page when a filter lets few through, or few may be seen.
const LOOKED_AT_MAX: usize = 5_000;

/// Events read at once; more would hold 500 KB.
const STRIDE_MAX: usize = 500;

/// Which stretch of history.
#[derive(Clone, Debug)]
pub struct HistoryQuery<'a> {
    /// Where to begin; none is the end of the timeline, or its beginning when going forward.
    pub from: Option<i64>,
    /// Where to stop at the latest.
    pub to: Option<i64>,
    /// Which way.
    pub direction: Direction,
    /// How many events.
    pub limit: usize,
    /// Which events.
    pub filter: &'a RoomEventFilter,
}

/// A page of history.
pub struct History {
    /// The events, in the order asked.
    pub chunk: ClientEvents,
    /// Where the page begins.
    pub start: i64,
    /// Where the next page begins; none if there is no more.
    pub end: Option<i64>,
    /// Member events of the senders, under lazy loading.
    pub state: ClientEvents,
}

/// An event with what is around it.
pub struct Context {
    /// The event.
    pub event: ClientEvents,
    /// Before it, newest first.
    pub before: ClientEvents,
    /// After it, oldest first.
    pub after: ClientEvents,
    /// Where paging back begins.
    pub start: i64,
    /// Where paging on begins.
    pub end: i64,
    /// The state at the last event.
    pub state: ClientEvents,
}

type Seen = (Arc<Event>, Option<MembershipState>);

/// What a walk through the timeline found.
struct Walked {
    seen: Vec<Seen>,
    /// The place at which to go on.
    next: i64,
    more: bool,
    /// The state at the newest event.
    newest: Option<Root>,
}

/// What lies around an event.
struct Around {
    before: Walked,
    after: Walked,
    start: i64,
    end: i64,
    /// The last of all.
    last: Arc<Event>,
}

impl Rooms {
    /// A page of a room's history.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] for those who were never in the room, unless the world
    /// may read it.
    pub async fn history(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        query: &HistoryQuery<'_>,
    ) -> Result<History, Error> {
        let room = self.readable(caller, room_id).await?;
        let end_of_time = self.house.ledger.position().0.cast_signed() + 1;
        let from = match (query.from, query.direction) {
            (Some(from), _) => from.min(end_of_time),
            (None, Direction::Backward) => end_of_time,
            (None, Direction::Forward) => i64::MIN,
        };
        let range = match query.direction {
            Direction::Backward => (query.to.unwrap_or(i64::MIN), from),
            Direction::Forward => (from, query.to.unwrap_or(end_of_time).min(end_of_time)),
        };
        let in_filter =
            query.filter.rooms.as_ref().is_none_or(|ids| ids.iter().any(|id| id == room_id))
                && !query.filter.not_rooms.iter().any(|id| id == room_id);
        let limit = if in_filter { query.limit.min(LIMIT_MAX) } else { 0 };
        let walked = self.walk(caller, room, range, (query.direction, limit), query.filter).await?;
        let state = match (&query.filter.lazy_load_options, walked.newest) {
            (LazyLoadOptions::Enabled { .. }, Some(root)) => {
                let senders = senders(walked.seen.iter().map(|(event, _)| &**event));
                self.members_of(room, root, senders).await?
            }
            _ => Vec::new(),
        };
        Ok(History {
            start: from,
            end: (walked.more || left_out(&walked, query)).then_some(walked.next),
            chunk: self.client_events(caller, room, walked.seen).await?,
            state: self.plain(caller, room, state).await?,
        })
    }

    /// An event and what is around it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if the caller may not see the event.
    pub async fn context(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        event_id: &EventId,
        (limit, filter): (usize, &RoomEventFilter),
    ) -> Result<Context, Error> {
        let room = self.readable(caller, room_id).await?;
        let (event, reader) = self.seen_event(caller, room, event_id).await?;
        // "limit: the maximum number of context events", both sides together.
        let limit = limit.min(LIMIT_MAX);
        let sides = (limit / 2, limit - limit / 2);
        let around = self.around(caller, (room, &event), sides, filter).await?;
        let root = self.root_after(room, &around.last).await?;
        let walks = [&around.before, &around.after];
        let state = self.state_shown(room, root, filter, walks, &event).await?;
        Ok(Context {
            start: around.start,
            end: around.end,
            event: self.client_events(caller, room, vec![(event, reader)]).await?,
            before: self.client_events(caller, room, around.before.seen).await?,
            after: self.client_events(caller, room, around.after.seen).await?,
            state: self.plain(caller, room, state).await?,
        })
    }

    /// What the caller may see around an event: at most so many before it and after it.
    async fn around(
        &self,
        caller: &Caller,
        (room, event): (RoomNid, &Arc<Event>),
        (earlier, later): (usize, usize),
        filter: &RoomEventFilter,
    ) -> Result<Around, Error> {
        let at = event.position.unwrap_or_default();
        let end_of_time = self.house.ledger.position().0.cast_signed() + 1;
        let back = (Direction::Backward, earlier);
        let before = self.walk(caller, room, (i64::MIN, at), back, filter).await?;
        let on = (Direction::Forward, later);
        let after = self.walk(caller, room, (at + 1, end_of_time), on, filter).await?;
        let last = after.seen.last().map_or(event, |(event, _)| event).clone();
        Ok(Around {
            start: before.seen.last().and_then(|(event, _)| event.position).unwrap_or(at),
            end: last.position.unwrap_or(at) + 1,
            before,
            after,
            last,
        })
    }

    /// An event that was found, with what is around it, and, if wanted, who those were that said it
    /// all, by the state after the last of it.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn surroundings(
        &self,
        caller: &Caller,
        (room, event): (RoomNid, &Arc<Event>),
        sides: (usize, usize),
        with_members: bool,
    ) -> Result<Context, Error> {
        let around = self.around(caller, (room, event), sides, &RoomEventFilter::default()).await?;
        let state = if with_members {
            let root = self.root_after(room, &around.last).await?;
            let seen = around.before.seen.iter().chain(&around.after.seen);
            let senders = senders(seen.map(|(event, _)| &**event).chain([&**event]));
            self.members_of(room, root, senders).await?
        } else {
            Vec::new()
        };
        Ok(Context {
            start: around.start,
            end: around.end,
            event: self.client_events(caller, room, vec![(event.clone(), None)]).await?,
            before: self.client_events(caller, room, around.before.seen).await?,
            after: self.client_events(caller, room, around.after.seen).await?,
            state: self.plain(caller, room, state).await?,
        })
    }

    /// One event.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is none, or none for the caller to see.
    pub async fn one_event(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<ClientEvents, Error> {
        let room = self.house.ledger.room(room_id).await?.ok_or_else(no_event)?;
        let seen = self.seen_event(caller, room, event_id).await?;
        self.client_events(caller, room, vec![seen]).await
    }

    /// One event, whatever room it is in, and the ID of that room.
    ///
    /// # Errors
    ///
    /// As [`Rooms::one_event`].
    pub async fn event_anywhere(
        &self,
        caller: &Caller,
        event_id: &EventId,
    ) -> Result<(OwnedRoomId, ClientEvents), Error> {
        let event = self.house.ledger.event_by_id(event_id).await?.ok_or_else(no_event)?;
        let room_id = self.house.ledger.room_id(event.room).await?;
        let shown = self.one_event(caller, &room_id, event_id).await?;
        Ok((room_id, shown))
    }

    pub(super) async fn seen_event(
        &self,
        caller: &Caller,
        room: RoomNid,
        event_id: &EventId,
    ) -> Result<Seen, Error> {
        let event = self.house.ledger.event_by_id(event_id).await?;
        let event = event.filter(|event| event.room == room).ok_or_else(no_event)?;
        let one = [(event.clone(), TimelineRow::default())];
        let reader = self.visible(caller.user, room, &one).await?.pop().flatten();
        reader.map(|reader| (event, Some(reader))).ok_or_else(no_event)
    }

    /// The number of a room whose history the caller may read at all.
    pub(crate) async fn readable(
        &self,
        caller: &Caller,
        room_id: &RoomId,
    ) -> Result<RoomNid, Error> {
        let not_in = || Error::forbidden("You are not in this room.");
        let room = self.house.ledger.room(room_id).await?.ok_or_else(not_in)?;
        let row = self.house.ledger.get(&USER_ROOMS, &(caller.user, room)).await?;
        let was_in = row.filter(|row| !row.forgotten).is_some_and(|row| {
            row.membership == membership::JOIN
                || row.membership == membership::LEAVE
                || row.membership == membership::BAN
        });
        if was_in || self.is_world_readable(room).await? { Ok(room) } else { Err(not_in()) }
    }

    async fn walk(
        &self,
        caller: &Caller,
        room: RoomNid,
        (mut low, mut high): (i64, i64),
        (direction, limit): (Direction, usize),
        filter: &RoomEventFilter,
    ) -> Result<Walked, Error> {
        let start = if direction == Direction::Backward { high } else { low };
        let mut walked = Walked { seen: Vec::new(), next: start, more: false, newest: None };
        let mut view = self.house.ledger.view().await?;
        let ignored = self.ignored(caller.user).await?;
        let (mut looked_at, mut page) = (0, limit);
        while walked.seen.len() < limit && looked_at < LOOKED_AT_MAX && low < high {
            let stretch = view.timeline(room, (low, high), direction, page).await?;
            looked_at += stretch.events.len();
            if direction == Direction::Backward && self.filled(room, &stretch, high).await? {
                // What other servers had is there now: look again.
                view = self.house.ledger.view().await?;
                continue;
            }
            walked.more = stretch.more;
            let readers = self.visible(caller.user, room, &stretch.events).await?;
            for ((event, row), reader) in stretch.events.into_iter().zip(readers) {
                if walked.seen.len() == limit {
                    walked.more = true;
                    break;
                }
                let at = event.position.unwrap_or(walked.next);
                match direction {
                    Direction::Backward => (high, walked.next) = (at, at),
                    Direction::Forward => (low, walked.next) = (at + 1, at + 1),
                }
                let wanted = (wants_all(filter) || wants(filter, &event)) && !ignored.hides(&event);
                if let Some(reader) = reader.filter(|_| wanted) {
                    // Of what the reader sees only: later state is not theirs.
                    walked.newest = walked.newest.max(Some(Root(row.state_after)));
                    walked.seen.push((event, Some(reader)));
                }
            }
            if !walked.more {
                break;
            }
            // Few are wanted or to be seen: longer strides find them sooner.
            page = (page * 2).min(STRIDE_MAX).max(limit);
        }
        Ok(walked)
    }

    /// Fills a gap that lies in a stretch, or at its beginning, from other servers. The gap belongs to
    /// the event above it, which may be the last of the page before.
    async fn filled(
        &self,
        room: RoomNid,
        stretch: &appliance_ledger::Stretch,
        high: i64,
    ) -> Result<bool, Error> {
        let oldest = stretch.events.last().and_then(|(event, _)| event.position);
        let low = if stretch.more { oldest.unwrap_or(high) } else { i64::MIN };
        let room_id = self.house.ledger.room_id(room).await?;
        self.fill_gap(room, &room_id, (low, high)).await
    }

    /// The state once an event was in.
    async fn root_after(&self, room: RoomNid, event: &Event) -> Result<Root, Error> {
        let at = event.position.unwrap_or_default();
        let stretch = self.house.ledger.recent(room, (at, at + 1), 1).await?;
        let row = stretch.events.first().map(|(_, row)| Root(row.state_after));
        Ok(row.unwrap_or(event.state_before))
    }

    async fn state_shown(
        &self,
        room: RoomNid,
        root: Root,
        filter: &RoomEventFilter,
        around: [&Walked; 2],
        event: &Event,
    ) -> Result<Vec<EventNid>, Error> {
        let all = self.house.ledger.states(room).all(root).await?;
        if filter.lazy_load_options.is_disabled() {
            return Ok(all.into_iter().map(|(_, number)| number).collect());
        }
        let others = all.into_iter().filter(|(key, _)| !key.is_member());
        let mut state: Vec<_> = others.map(|(_, number)| number).collect();
        let around = around.into_iter().flat_map(|walked| &walked.seen).map(|(event, _)| &**event);
        let senders = senders(around.chain([event]));
        state.extend(self.members_of(room, root, senders).await?);
        Ok(state)
    }

    /// The member events of `senders`.
    async fn members_of(
        &self,
        room: RoomNid,
        root: Root,
        senders: BTreeSet<String>,
    ) -> Result<Vec<EventNid>, Error> {
        let ledger = &self.house.ledger;
        let mut members = Vec::with_capacity(senders.len());
        for sender in senders {
            let key = ledger.state_key(&StateEventType::RoomMember, &sender).await?;
            let Some(key) = key else { continue };
            members.extend(ledger.states(room).get(root, key).await?);
        }
        Ok(members)
    }

    /// State events as they are shown beside a timeline.
    async fn plain(
        &self,
        caller: &Caller,
        room: RoomNid,
        numbers: Vec<EventNid>,
    ) -> Result<ClientEvents, Error> {
        let events = self.house.ledger.events(&numbers).await?;
        let events = events.into_iter().map(|event| (event, None)).collect();
        self.client_events(caller, room, events).await
    }
}

/// Whether a filter let something through, but not the oldest event: then the chunk alone does not tell
/// that the beginning is reached, and clients that look for the first event are told where to go on.
fn left_out(walked: &Walked, query: &HistoryQuery<'_>) -> bool {
    let oldest = walked.seen.last().and_then(|(event, _)| event.position);
    query.direction == Direction::Backward
        && !wants_all(query.filter)
        && oldest.is_some_and(|oldest| oldest > walked.next)
}

fn senders<'a>(events: impl Iterator<Item = &'a Event>) -> BTreeSet<String> {
    events.map(|event| event.part(event.spans.sender).trim_matches('"').to_owned()).collect()
}

fn no_event() -> Error {
    Error::not_found("There is no such event, or it is not for you to see.")
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::scenario::Ward;

    fn bodies(page: &ClientEvents) -> Vec<String> {
        let events: Value = serde_json::from_str(&page.to_json(None)).unwrap();
        let bodies = events.as_array().unwrap().iter();
        bodies
            .filter_map(|event| event["content"]["body"].as_str().map(ToOwned::to_owned))
            .collect()
    }

    /// Pages through with the given sizes; the last size repeats.
    async fn page_through(
        ward: &Ward,
        who: &Caller,
        room_id: &RoomId,
        direction: Direction,
        sizes: &[usize],
    ) -> Vec<String> {
        let filter = RoomEventFilter::default();
        let (mut from, mut found) = (None, Vec::new());
        for size in sizes.iter().chain(std::iter::repeat(sizes.last().unwrap())) {
            let query = HistoryQuery { from, to: None, direction, limit: *size, filter: &filter };
            let page = ward.services.rooms.history(who, room_id, &query).await.unwrap();
            found.extend(bodies(&page.chunk));
            from = page.end;
            if from.is_none() {
                return found;
            }
        }
        unreachable!("the sizes repeat for ever")
    }

    #[test]
    fn pages_of_any_size_are_the_timeline_without_hole_or_duplicate() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (ward, [nurse], room, said) = runtime.block_on(async {
            let (ward, people) = Ward::with_members(["nurse"]).await;
            let room = ward.room(&people[0]).await;
            let mut said = Vec::new();
            for number in 0..40 {
                ward.say(&people[0], &room, &number.to_string()).await;
                said.push(number.to_string());
            }
            (ward, people, room, said)
        });
        let sizes = prop::collection::vec(1_usize..15, 1..6);
        proptest!(ProptestConfig::with_cases(40), |(sizes in sizes, on in any::<bool>())| {
            let direction = if on { Direction::Forward } else { Direction::Backward };
            let mut found =
                runtime.block_on(page_through(&ward, &nurse, &room, direction, &sizes));
            if !on {
                found.reverse();
            }
            prop_assert_eq!(&found, &said);
        });
    }

    /// The doctor is in the room by turns, and the room shows what is said to those who are in it.
    #[test]
    fn pages_have_no_hole_where_something_is_hidden() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (ward, doctor, room, said) = runtime.block_on(async {
            let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
            let room = ward.room(&nurse).await;
            crate::scenario::visibility(&ward, &nurse, &room, "joined").await;
            let (mut said, mut is_in) = (Vec::new(), false);
            for number in 0..60 {
                if number % 7 == 3 {
                    let (by, to) = if is_in { (&doctor, M::Leave) } else { (&nurse, M::Invite) };
                    ward.set(by, &room, &doctor.user_id, to).await;
                    if !is_in {
                        ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
                    }
                    is_in = !is_in;
                }
                ward.say(&nurse, &room, &number.to_string()).await;
                if is_in {
                    said.push(number.to_string());
                }
            }
            (ward, doctor, room, said)
        });
        assert!(said.len() > 20 && said.len() < 40, "{said:?}");
        let sizes = prop::collection::vec(1_usize..15, 1..6);
        proptest!(ProptestConfig::with_cases(40), |(sizes in sizes, on in any::<bool>())| {
            let direction = if on { Direction::Forward } else { Direction::Backward };
            let mut found =
                runtime.block_on(page_through(&ward, &doctor, &room, direction, &sizes));
            if !on {
                found.reverse();
            }
            prop_assert_eq!(&found, &said);
        });
    }

    /// Lazy members are those of the reader's time: a leaver hears of no later name.
    #[tokio::test]
    async fn filters_and_lazy_members() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        ward.say(&nurse, &room, "hello").await;
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        let key = ("m.room.member", nurse.user_id.as_str());
        let renamed = json!({ "membership": "join", "displayname": "Mrs Later" });
        ward.state(&nurse, &room, key, renamed).await;
        let page = async |who: &Caller, filter: Value| {
            let filter: RoomEventFilter = serde_json::from_value(filter).unwrap();
            let (direction, limit) = (Direction::Backward, 50);
            let query = HistoryQuery { from: None, to: None, direction, limit, filter: &filter };
            let page = ward.services.rooms.history(who, &room, &query).await.unwrap();
            (page.chunk.len(), page.state.to_json(None))
        };
        let lazy = json!({ "lazy_load_members": true, "types": ["m.room.message"] });
        let (count, state) = page(&doctor, lazy.clone()).await;
        assert_eq!(count, 1);
        assert!(state.contains(r#""displayname":"nurse""#) && !state.contains("Mrs Later"));
        let (_, state) = page(&nurse, lazy).await;
        assert!(!state.contains("Mrs Later"), "the name at the newest event shown: {state}");
        assert_eq!(page(&nurse, json!({ "not_rooms": [room] })).await.0, 0);
        assert_eq!(page(&nurse, json!({ "rooms": [] })).await.0, 0);
        assert_eq!(page(&nurse, json!({ "senders": [doctor.user_id] })).await.0, 2);
        let not_nurse = json!({ "rooms": [room], "not_senders": [nurse.user_id] });
        assert_eq!(page(&nurse, not_nurse).await.0, 2);
    }

    #[tokio::test]
    async fn a_stranger_reads_nothing_and_a_leaver_what_they_saw() {
        let (ward, [nurse, doctor, visitor]) =
            Ward::with_members(["nurse", "doctor", "visitor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        ward.say(&nurse, &room, "before").await;
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        let after = ward.say(&nurse, &room, "after").await;

        let seen = page_through(&ward, &doctor, &room, Direction::Backward, &[3]).await;
        assert_eq!(seen, ["before"]);
        let after: &EventId = after.as_str().try_into().unwrap();
        let hidden = ward.services.rooms.one_event(&doctor, &room, after).await.err().unwrap();
        assert_eq!(hidden.kind, Kind::NotFound);
        let filter = RoomEventFilter::default();
        let query = HistoryQuery {
            from: None,
            to: None,
            direction: Direction::Backward,
            limit: 10,
            filter: &filter,
        };
        let refused = ward.services.rooms.history(&visitor, &room, &query).await.err().unwrap();
        assert_eq!(refused.kind, Kind::Forbidden);
    }

    #[tokio::test]
    async fn context_lies_around_its_event() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let room = ward.room_as(&nurse, json!({ "name": "Ward 4" })).await;
        let mut ids = Vec::new();
        for number in 0..9 {
            ids.push(ward.say(&nurse, &room, &number.to_string()).await);
        }
        let event_id: &EventId = ids[4].as_str().try_into().unwrap();
        let filter = RoomEventFilter::default();
        let context =
            ward.services.rooms.context(&nurse, &room, event_id, (4, &filter)).await.unwrap();
        assert_eq!(bodies(&context.event), ["4"]);
        assert_eq!(bodies(&context.before), ["3", "2"]);
        assert_eq!(bodies(&context.after), ["5", "6"]);
        assert!(context.state.to_json(None).contains("m.room.name"));
        let query = |from, direction| HistoryQuery {
            from: Some(from),
            to: None,
            direction,
            limit: 1,
            filter: &filter,
        };
        let rooms = &ward.services.rooms;
        let back = query(context.start, Direction::Backward);
        let back = rooms.history(&nurse, &room, &back).await.unwrap();
        assert_eq!(bodies(&back.chunk), ["1"]);
        let on = query(context.end, Direction::Forward);
        let on = rooms.history(&nurse, &room, &on).await.unwrap();
        assert_eq!(bodies(&on.chunk), ["7"]);
    }
}
