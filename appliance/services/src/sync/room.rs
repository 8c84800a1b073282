//! One room of a sync answer: its timeline, the state that goes with it, its summary.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use appliance_ledger::rows::MembershipRow;
use appliance_ledger::state::{Change, Entries};
use appliance_ledger::{Event, Root, membership};
use appliance_model::ruma::api::client::filter::LazyLoadOptions;
use appliance_model::{Error, EventNid, Position, RoomNid};

use super::devices::Company;
use super::look::{Shown, Span, Wish, place};
use super::token::timeline_token;
use super::v3::Round;
use super::write::{RoomPart, StateForm, Summary};
use crate::event_filter::{wants, wants_all};

/// Events of a timeline when the client names no limit, and at the most ("limit … servers should
/// apply a maximum").
const TIMELINE_DEFAULT: usize = 10;
const TIMELINE_MAX: usize = 1_000;

impl Round<'_> {
    /// The part of a joined or left room.
    pub(super) async fn room_part(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        span: &Span,
        company: &mut Company,
    ) -> Result<RoomPart, Error> {
        let look = self.look();
        let is_in = row.membership == membership::JOIN;
        // Who was out already when they last heard has missed nothing of the room since.
        let out_since = row.joined_until.map_or(span.upto, Position);
        let span = &Span { since: span.since.map(|since| since.min(out_since)), ..*span };
        let shown = if is_in {
            look.shown(room, span, &self.wish()).await?
        } else {
            look.shown_to_leaver(room, row, self.since(), &self.wish()).await?
        };
        if let Some(since) = span.since {
            let before = look.state_at(room, since).await?;
            let states = self.sync.house.ledger.states(room);
            let changes = states.changes(before, shown.state_after).await?;
            look.note_company(&changes, company).await?;
        }
        let state = self.state_events(room, span, &shown).await?;
        let mut part = RoomPart {
            state_form: self.request.state_form,
            limited: shown.limited || self.is_cut_off(row, &shown),
            prev_batch: timeline_token(shown.start),
            timeline: look.timeline_list(room, &shown, None).await?,
            state: look.state_list(&state, None),
            ..RoomPart::default()
        };
        let members_changed = |event: &Event| event.kind() == "m.room.member";
        let changed = span.since.is_none()
            || shown.events.iter().any(|(event, _)| members_changed(event))
            || state.iter().any(|event| members_changed(event));
        if changed && is_in {
            part.summary = Some(self.summary(room).await?);
        }
        Ok(part)
    }

    /// Whether the client, which has just come into the room and knows nothing of it, is shown less
    /// than all of it. A filter may have left out the beginning: then there is more to ask for.
    fn is_cut_off(&self, row: &MembershipRow, shown: &Shown) -> bool {
        let is_new = self.since().is_some_and(|since| row.since > since.0);
        let begins = shown.events.first().is_some_and(|(event, _)| event.kind() == "m.room.create");
        is_new && row.membership == membership::JOIN && !begins
    }

    /// The events of a timeline that the client asks for.
    fn wish(&self) -> Wish<'_> {
        let filter = &self.request.filter.room.timeline;
        let limit = filter.limit.map_or(TIMELINE_DEFAULT, |limit| {
            usize::try_from(u64::from(limit)).unwrap_or(TIMELINE_MAX)
        });
        Wish { limit: limit.min(TIMELINE_MAX), filter: Some(filter) }
    }

    /// The part of a room whose timeline has not changed.
    pub(super) fn quiet_part(&self) -> RoomPart {
        RoomPart {
            state_form: self.request.state_form,
            prev_batch: timeline_token(place(self.upto) + 1),
            ..RoomPart::default()
        }
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
            let mut all = states.all(upto).await?;
            if self.request.state_form == StateForm::Before {
                let changes = states.changes(upto, shown.state_after).await?;
                settle(&mut all, changes, shown);
            }
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
        let states = self.sync.house.ledger.states(room);
        let before = self.look().state_at(room, since).await?;
        let changes = states.changes(before, shown.state_after).await?;
        if self.request.state_form != StateForm::Before {
            return Ok(changes.into_iter().filter_map(|(_, _, after)| after).collect());
        }
        let mut numbers = Vec::new();
        for (key, _, after) in changes {
            let Some(after) = after else { continue };
            let is_told = if shown.shows(after) {
                // What it was before the timeline changes it, as far as the client cannot know.
                if shown.limited && before != upto {
                    let was = states.get(upto, key).await?;
                    let known = states.get(before, key).await?;
                    numbers.extend(was.filter(|_| was != known));
                }
                true
            } else if shown.limited {
                false
            } else {
                // Without a gap the timeline itself tells every change since, but not what became
                // state because branches met: that was said long ago, or is shown to nobody.
                let event = self.sync.house.ledger.event(after).await?;
                let low = place(since);
                event.position.is_some_and(|at| at > low && at <= place(span.upto))
            };
            if !is_told {
                numbers.push(after);
            }
        }
        Ok(numbers)
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
        let mut wanted: BTreeSet<_> = shown.senders();
        wanted.insert(self.caller.user_id.to_string());
        let numbers = self.look().member_events(room, root, wanted).await?;
        let sent = &self.sync.sent_members;
        let scope = self.caller.device.0;
        let unknown = |number: &EventNid| !sent.knows(scope, *number, self.since());
        let numbers: Vec<_> = numbers.into_iter().filter(unknown).collect();
        numbers.iter().for_each(|number| sent.note(scope, *number, self.upto));
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

/// Changes what was the state before a timeline so that with the timeline's own changes it comes to the
/// state after it, also where that is what branches of the room made together.
fn settle(before: &mut Entries, changes: Vec<Change>, shown: &Shown) {
    let changes: HashMap<_, _> = changes.into_iter().map(|(key, _, after)| (key, after)).collect();
    let told = |after: &Option<EventNid>| after.is_some_and(|after| shown.shows(after));
    before.retain(|(key, _)| changes.get(key).is_none_or(told));
    let others = changes.into_iter().filter(|(_, after)| !told(after));
    before.extend(others.filter_map(|(key, after)| Some((key, after?))));
}
