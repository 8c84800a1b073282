//! Reading for one device what a stretch of commits brought: what every form of sync shares.

use std::collections::BTreeSet;
use std::sync::Arc;

use appliance_ledger::keyspaces::TIMELINE;
use appliance_ledger::rows::{MembershipRow, TimelineRow};
use appliance_ledger::{Direction, Event, Root};
use appliance_model::ruma::api::client::filter::RoomEventFilter;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::{Caller, Error, EventNid, Position, RoomNid, UserNid};
use serde_json::json;

use super::Sync;
use super::wait::{Memberships, News, joined_rooms};
use super::write::List;
use crate::client_event::{self, Unsigned};
use crate::event_filter::{wants, wants_all};
use crate::personal::AccountDatum;
use crate::rooms::membership_set_by;

/// Events looked at for a filter that most do not pass.
const LOOKED_AT_MAX: usize = 1_000;

/// One look at the store for one device.
#[derive(Clone)]
pub(super) struct Look<'a> {
    pub sync: &'a Sync,
    pub caller: &'a Caller,
    /// The client knows everything up to here; none means nothing.
    pub since: Option<Position>,
    /// The answer covers everything up to here.
    pub upto: Position,
}

/// What a room's part covers.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// The client knows everything up to here; none means nothing.
    pub since: Option<Position>,
    /// Up to here.
    pub upto: Position,
}

/// Of so many whom one sync meets at once the presence is told; that of others when it changes.
const MET_MAX: usize = 1_000;
/// Account data that holds even before it is set.
const PUSH_RULES: &str = "m.push_rules";

/// What changed of account data.
#[derive(Default)]
pub(super) struct DataNews {
    /// Global and of all rooms, push rules excepted.
    pub data: Vec<AccountDatum>,
    /// The event with the push rules, predefined ones included.
    pub push_rules: Option<AccountDatum>,
}

/// Which events of a timeline.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    /// At most so many.
    pub limit: usize,
    /// Only these; none is all.
    pub filter: Option<&'a RoomEventFilter>,
}

type Placed = (Arc<Event>, TimelineRow);

/// The stretch of timeline to show, oldest first.
pub(super) struct Shown {
    pub events: Vec<(Arc<Event>, Option<MembershipState>)>,
    /// There is more between `since` and the first event.
    pub limited: bool,
    /// The state before the first event shown.
    pub state_before: Root,
    /// The state at the end.
    pub state_after: Root,
    /// The place of the first event.
    pub start: i64,
}

impl Shown {
    /// Whether the event is among those shown.
    pub fn shows(&self, number: EventNid) -> bool {
        self.events.iter().any(|(event, _)| event.number == number)
    }
}

impl Wish<'_> {
    fn wants(&self, (event, _): &Placed) -> bool {
        let wanted = |filter: &RoomEventFilter| wants_all(filter) || wants(filter, event);
        event.redacted_by.is_some() || self.filter.is_none_or(wanted)
    }
}

impl Look<'_> {
    /// The newest events of a span, as far as the caller may see them.
    pub async fn shown(&self, room: RoomNid, span: &Span, wish: &Wish<'_>) -> Result<Shown, Error> {
        let ledger = &self.sync.house.ledger;
        let limit = wish.limit;
        let from = span.since.map_or(i64::MIN, |since| place(since) + 1);
        let mut to = place(span.upto) + 1;
        let (mut events, mut limited, mut newest) = (Vec::<Placed>::new(), false, None);
        let mut looked_at = 0;
        while from < to {
            let missing = limit - events.len();
            let stretch = ledger.recent(room, (from, to), missing.max(1)).await?;
            looked_at += stretch.events.len();
            if newest.is_none() {
                newest = stretch.events.first().map(|(_, place)| Root(place.state_after));
            }
            to = stretch.events.last().and_then(|(event, _)| event.position).unwrap_or(to);
            if missing == 0 {
                // The client wants no events: only whether there are any.
                limited = limited || !stretch.events.is_empty();
                break;
            }
            events.extend(stretch.events.into_iter().filter(|placed| wish.wants(placed)));
            limited = stretch.more;
            if !stretch.more || events.len() >= limit || looked_at >= LOOKED_AT_MAX {
                break;
            }
        }
        events.reverse();
        let state_after = match newest {
            Some(root) => root,
            None => self.state_at(room, span.upto).await?,
        };
        let first = events.first().map(|(event, _)| event.clone());
        let start = first.as_ref().and_then(|event| event.position).unwrap_or(place(span.upto) + 1);
        let state_before = first.map_or(state_after, |event| event.state_before);
        let readers = self.sync.rooms.visible(self.caller.user, room, &events).await?;
        let ignored = self.sync.rooms.ignored(self.caller.user).await?;
        let seen = events.into_iter().zip(readers).filter(|((event, _), _)| !ignored.hides(event));
        let events = seen
            .filter_map(|((event, _), reader)| reader.map(|reader| (event, Some(reader))))
            .collect();
        Ok(Shown { events, limited, state_before, state_after, start })
    }

    /// What those who are out of a room are shown of it: what they saw while they were in it, and
    /// how they came to be out. Of what came in between, not even the state.
    pub async fn shown_to_leaver(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        since: Option<Position>,
        wish: &Wish<'_>,
    ) -> Result<Shown, Error> {
        let mut shown = match row.joined_until {
            Some(until) => {
                let upto = Position(until.min(self.upto.0));
                self.shown(room, &Span { since, upto }, wish).await?
            }
            // Never in it: an invite that was turned down, a knock that nobody heard.
            None => Shown {
                events: Vec::new(),
                limited: false,
                state_before: Root::default(),
                state_after: Root::default(),
                start: row.position.cast_signed(),
            },
        };
        let later = row.joined_until.is_none_or(|until| until < row.position);
        if later && row.position <= self.upto.0 && since.is_none_or(|since| since.0 < row.position)
        {
            let own = self.sync.house.ledger.event(EventNid(row.event)).await?;
            let membership = membership_set_by(&own);
            shown.events.push((own, Some(membership)));
        }
        Ok(shown)
    }

    /// The state of a room when a position was published.
    pub async fn state_at(&self, room: RoomNid, at: Position) -> Result<Root, Error> {
        let bounds = ((room, i64::MIN), (room, place(at) + 1));
        type Found = appliance_ledger::Found<(RoomNid, i64, EventNid), TimelineRow>;
        let (newest, _): Found = (self.sync.house.ledger.newest())
            .scan_between(&TIMELINE, (&bounds.0, &bounds.1), Direction::Backward, 1)
            .await?;
        Ok(newest.first().map(|(_, row)| Root(row.state_after)).unwrap_or_default())
    }

    /// Those of `user_ids` who are members of the state `root`: their member events.
    pub async fn member_events(
        &self,
        room: RoomNid,
        root: Root,
        user_ids: BTreeSet<String>,
    ) -> Result<Vec<EventNid>, Error> {
        let ledger = &self.sync.house.ledger;
        let states = ledger.states(room);
        let mut numbers = Vec::with_capacity(user_ids.len());
        for user_id in user_ids {
            let key = ledger.state_key(&StateEventType::RoomMember, &user_id).await?;
            let Some(key) = key else { continue };
            numbers.extend(states.get(root, key).await?);
        }
        Ok(numbers)
    }

    /// The account data that changed.
    pub async fn account_data_news(&self) -> Result<DataNews, Error> {
        let Caller { user, user_id, .. } = self.caller;
        let personal = &self.sync.personal;
        let unchanged = |since| self.sync.waiters.user_news(*user, since) == News::None;
        if self.since.is_some_and(unchanged) {
            return Ok(DataNews::default());
        }
        let after = self.since.unwrap_or_default();
        let mut data = personal.account_data_changes(*user, after, self.upto).await?;
        data.retain(|datum| datum.kind != PUSH_RULES || datum.room.is_some());
        // Predefined rules are nowhere stored, yet every client must see them.
        let rules_changed = match self.since {
            None => true,
            Some(since) => personal.push_rules_changed(*user, since, self.upto).await?,
        };
        let mut push_rules = None;
        if rules_changed {
            let content = personal.push_rules_content(*user, user_id).await?;
            push_rules = Some(AccountDatum { room: None, kind: PUSH_RULES.to_owned(), content });
        }
        Ok(DataNews { data, push_rules })
    }

    /// Events in client form, with nothing in `unsigned` but their age.
    pub fn state_list(&self, events: &[Arc<Event>], room_id: Option<&str>) -> List {
        let now_ms = self.sync.house.clock.now_ms();
        let mut list = List::default();
        for event in events {
            let age_ms = client_event::age_ms(event, now_ms);
            let unsigned = Unsigned { age_ms, ..Unsigned::default() };
            list.push(|out| client_event::write(out, event, room_id, unsigned));
        }
        list
    }

    /// The presence of those who share a room with the caller, and their own, as far as it changed
    /// after the serial number `known`; and of those who were `met` only now, as it is.
    pub async fn presence_news(
        &self,
        memberships: &Memberships,
        (known, met): (u64, &BTreeSet<UserNid>),
    ) -> Result<Vec<String>, Error> {
        let reading = &self.sync.reading;
        let mut changes = reading.presence_changes(known);
        if self.sync.house.options.presence {
            let told: BTreeSet<_> = changes.iter().map(|(user, _)| *user).collect();
            let others = met.difference(&told).take(MET_MAX);
            changes.extend(others.map(|user| (*user, reading.presence_of(*user))));
        }
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let users = changes.iter().map(|(user, _)| *user).collect();
        let mut shown = self.sync.rooms.found_in(&joined_rooms(memberships), users).await?;
        shown.insert(self.caller.user);
        let mut events = Vec::new();
        for (user, content) in changes.into_iter().filter(|(user, _)| shown.contains(user)) {
            let sender = self.sync.house.ledger.user_id(user).await?;
            let event = json!({ "type": "m.presence", "sender": sender, "content": content });
            events.push(event.to_string());
        }
        Ok(events)
    }

    /// The events of a timeline, as the caller's device is shown them.
    pub async fn timeline_list(
        &self,
        room: RoomNid,
        shown: &Shown,
        room_id: Option<&str>,
    ) -> Result<List, Error> {
        let events = shown.events.clone();
        let page = self.sync.rooms.client_events(self.caller, room, events).await?;
        let mut list = List::default();
        for index in 0..page.len() {
            list.push(|out| page.write(out, index, room_id));
        }
        Ok(list)
    }
}

impl Shown {
    /// Who sent what is shown.
    pub fn senders(&self) -> BTreeSet<String> {
        self.events.iter().map(|(event, _)| unquoted(event, event.spans.sender)).collect()
    }
}

/// A part of an event that is a JSON string without anything to escape: user IDs.
pub(super) fn unquoted(event: &Event, part: (u32, u32)) -> String {
    event.part(part).trim_matches('"').to_owned()
}

pub(super) fn place(position: Position) -> i64 {
    position.0.cast_signed()
}
