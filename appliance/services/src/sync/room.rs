//! One room of a sync answer: its timeline, the state that goes with it, its summary.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use appliance_ledger::rows::{MembershipRow, TimelineRow};
use appliance_ledger::state::Entries;
use appliance_ledger::{Event, Root, membership};
use appliance_model::ruma::api::client::filter::LazyLoadOptions;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::{Error, EventNid, Position, RoomNid};

use super::devices::Company;
use super::token::timeline_token;
use super::v3::Round;
use super::write::{RoomPart, StateForm, Summary};
use crate::client_event::{self, Unsigned};
use crate::event_filter::{wants, wants_all};

/// Events of a timeline when the client names no limit, and at the most ("limit … servers should
/// apply a maximum").
const TIMELINE_DEFAULT: usize = 10;
const TIMELINE_MAX: usize = 1_000;
/// Events looked at for a filter that most do not pass.
const LOOKED_AT_MAX: usize = 1_000;

/// What a room's part covers.
pub(super) struct Span {
    /// The client knows everything up to here; none means nothing.
    pub since: Option<Position>,
    /// Up to here.
    pub upto: Position,
}

type Placed = (Arc<Event>, TimelineRow);

/// The stretch of timeline to show, oldest first.
struct Shown {
    events: Vec<(Arc<Event>, Option<MembershipState>)>,
    /// There is more between `since` and the first event.
    limited: bool,
    /// The state before the first event shown.
    state_before: Root,
    /// The state at the end.
    state_after: Root,
    /// The place of the first event.
    start: i64,
}

impl Round<'_> {
    /// The part of a joined or left room.
    pub(super) async fn room_part(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        span: &Span,
        company: &mut Company,
    ) -> Result<RoomPart, Error> {
        let shown = self.shown(room, span).await?;
        if let Some(since) = span.since {
            let before = self.state_at(room, since).await?;
            let states = self.sync.house.ledger.states(room);
            let changes = states.changes(before, shown.state_after).await?;
            self.note_company(&changes, company).await?;
        }
        let mut part = RoomPart {
            state_form: self.request.state_form,
            limited: shown.limited,
            prev_batch: timeline_token(shown.start),
            ..RoomPart::default()
        };
        let page = self.sync.rooms.client_events(self.caller, room, shown.events.clone()).await?;
        for index in 0..page.len() {
            part.timeline.push(|out| page.write(out, index, None));
        }
        let now_ms = self.sync.house.clock.now_ms();
        let state = self.state_events(room, span, &shown).await?;
        for event in &state {
            let age_ms = client_event::age_ms(event, now_ms);
            part.state.push(|out| {
                client_event::write(out, event, None, Unsigned { age_ms, ..Unsigned::default() });
            });
        }
        let members_changed = |event: &Event| event.kind() == "m.room.member";
        let changed = span.since.is_none()
            || shown.events.iter().any(|(event, _)| members_changed(event))
            || state.iter().any(|event| members_changed(event));
        if changed && row.membership == membership::JOIN {
            part.summary = Some(self.summary(room).await?);
        }
        Ok(part)
    }

    /// The part of a room whose timeline has not changed.
    pub(super) fn quiet_part(&self) -> RoomPart {
        RoomPart {
            state_form: self.request.state_form,
            prev_batch: timeline_token(place(self.upto) + 1),
            ..RoomPart::default()
        }
    }

    async fn shown(&self, room: RoomNid, span: &Span) -> Result<Shown, Error> {
        let ledger = &self.sync.house.ledger;
        let filter = &self.request.filter.room.timeline;
        let limit = filter.limit.map_or(TIMELINE_DEFAULT, |limit| {
            usize::try_from(u64::from(limit)).unwrap_or(TIMELINE_MAX)
        });
        let limit = limit.min(TIMELINE_MAX);
        let from = span.since.map_or(i64::MIN, |since| place(since) + 1);
        let mut to = place(span.upto) + 1;
        let (mut events, mut limited, mut newest) = (Vec::<Placed>::new(), false, None);
        let mut looked_at = 0;
        loop {
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
            let wanted = |(event, _): &Placed| {
                event.redacted_by.is_some() || wants_all(filter) || wants(filter, event)
            };
            events.extend(stretch.events.into_iter().filter(wanted));
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
        let seen = events.into_iter().zip(readers);
        let events = seen
            .filter_map(|((event, _), reader)| reader.map(|reader| (event, Some(reader))))
            .collect();
        Ok(Shown { events, limited, state_before, state_after, start })
    }

    /// The state of a room when a position was published.
    pub(super) async fn state_at(&self, room: RoomNid, at: Position) -> Result<Root, Error> {
        let newest = self.sync.house.ledger.recent(room, (i64::MIN, place(at) + 1), 1).await?;
        Ok(newest.events.first().map(|(_, row)| Root(row.state_after)).unwrap_or_default())
    }

    /// The state events that go with the timeline.
    async fn state_events(
        &self,
        room: RoomNid,
        span: &Span,
        shown: &Shown,
    ) -> Result<Vec<Arc<Event>>, Error> {
        let ledger = &self.sync.house.ledger;
        let states = ledger.states(room);
        let upto = match self.request.state_form {
            StateForm::Before => shown.state_before,
            StateForm::After | StateForm::AfterUnstable => shown.state_after,
        };
        let full = span.since.is_none() || self.request.full_state;
        let numbers = if full {
            let all = states.all(upto).await?;
            self.without_lazy_members(room, upto, all, shown).await?
        } else {
            let mut numbers = self.changed_state(room, span, shown, upto).await?;
            if self.lazy() {
                numbers.extend(self.lazy_members(room, upto, shown).await?);
            }
            numbers
        };
        let in_timeline: BTreeSet<_> = match self.request.state_form {
            // The state before the timeline never holds what the timeline shows.
            StateForm::Before => shown.events.iter().map(|(event, _)| event.number).collect(),
            _ => BTreeSet::new(),
        };
        let numbers: BTreeSet<_> = numbers.into_iter().collect();
        let numbers: Vec<_> = numbers.difference(&in_timeline).copied().collect();
        let mut events = ledger.events(&numbers).await?;
        let filter = &self.request.filter.room.state;
        if !wants_all(filter) {
            events.retain(|event| wants(filter, event));
        }
        Ok(events)
    }

    /// What changed in the state between `since` and where the client's state is to be.
    async fn changed_state(
        &self,
        room: RoomNid,
        span: &Span,
        shown: &Shown,
        upto: Root,
    ) -> Result<Vec<EventNid>, Error> {
        let Some(since) = span.since else { return Ok(Vec::new()) };
        // Without a gap the timeline itself tells every change since.
        let told = self.request.state_form == StateForm::Before && !shown.limited;
        if told {
            return Ok(Vec::new());
        }
        let before = self.state_at(room, since).await?;
        let changes = self.sync.house.ledger.states(room).changes(before, upto).await?;
        Ok(changes.into_iter().filter_map(|(_, _, after)| after).collect())
    }

    fn lazy(&self) -> bool {
        matches!(self.request.filter.room.state.lazy_load_options, LazyLoadOptions::Enabled { .. })
    }

    async fn without_lazy_members(
        &self,
        room: RoomNid,
        root: Root,
        all: Entries,
        shown: &Shown,
    ) -> Result<Vec<EventNid>, Error> {
        if !self.lazy() {
            return Ok(all.into_iter().map(|(_, event)| event).collect());
        }
        let others = all.into_iter().filter(|(key, _)| !key.is_member());
        let mut numbers: Vec<_> = others.map(|(_, event)| event).collect();
        numbers.extend(self.lazy_members(room, root, shown).await?);
        Ok(numbers)
    }

    /// "only … membership events for the senders of the events in the timeline", and the user's own
    /// when the room is new to the client.
    async fn lazy_members(
        &self,
        room: RoomNid,
        root: Root,
        shown: &Shown,
    ) -> Result<Vec<EventNid>, Error> {
        let ledger = &self.sync.house.ledger;
        let senders = shown.events.iter().map(|(event, _)| event);
        let mut wanted: BTreeMap<&str, ()> =
            senders.map(|event| (event.part(event.spans.sender).trim_matches('"'), ())).collect();
        wanted.insert(self.caller.user_id.as_str(), ());
        let states = ledger.states(room);
        let mut numbers = Vec::with_capacity(wanted.len());
        for user_id in wanted.into_keys() {
            let key = ledger.state_key(&StateEventType::RoomMember, user_id).await?;
            let Some(key) = key else { continue };
            let Some(number) = states.get(root, key).await? else { continue };
            if !self.sync.sent_members.knows(self.caller.device, number, self.request.since) {
                self.sync.sent_members.note(self.caller.device, number, self.upto);
                numbers.push(number);
            }
        }
        Ok(numbers)
    }

    async fn summary(&self, room: RoomNid) -> Result<Summary, Error> {
        let summary = self.sync.rooms.summary(room, self.caller.user).await?;
        Ok(Summary {
            heroes: summary.heroes.map(|ids| ids.iter().map(ToString::to_string).collect()),
            joined: summary.joined,
            invited: summary.invited,
        })
    }
}

fn place(position: Position) -> i64 {
    position.0.cast_signed()
}
