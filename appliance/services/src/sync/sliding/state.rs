//! `required_state`: which state events a room is told with.

use std::collections::BTreeSet;
use std::sync::Arc;

use appliance_ledger::state::Change;
use appliance_ledger::{Event, Root};
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Error, EventNid, RoomNid};
use quick_cache::sync::Cache;

use super::super::Sync;
use super::super::look::{Look, Shown, unquoted};
use super::request::{MEMBER, StateWish};

/// States whose events other than members are remembered by number; about 300 bytes each.
const STATES_CACHED_MAX: usize = 4_000;
/// Larger ones, mostly spaces, are read each time.
const STATE_REMEMBERED_MAX: usize = 64;

/// The events of states, members left out.
pub(crate) struct PlainStates(Cache<Root, Arc<Vec<EventNid>>>);

impl Default for PlainStates {
    fn default() -> Self {
        Self(Cache::new(STATES_CACHED_MAX))
    }
}

/// State to be told, and state that is no more.
#[derive(Default)]
pub(super) struct StateNews {
    pub events: BTreeSet<EventNid>,
    /// Type and state key.
    pub gone: Vec<(String, String)>,
    pub name_changed: bool,
    pub avatar_changed: bool,
    pub members_changed: bool,
}

impl Sync {
    /// The state events of a state that are not members.
    pub(super) async fn plain_state(
        &self,
        room: RoomNid,
        root: Root,
    ) -> Result<Vec<Arc<Event>>, Error> {
        let ledger = &self.house.ledger;
        if let Some(numbers) = self.plain_states.0.get(&root) {
            return ledger.events(&numbers).await;
        }
        let entries = ledger.states(room).all(root).await?;
        let others = entries.into_iter().filter(|(key, _)| !key.is_member());
        let numbers: Vec<_> = others.map(|(_, event)| event).collect();
        let events = ledger.events(&numbers).await?;
        if numbers.len() <= STATE_REMEMBERED_MAX {
            self.plain_states.0.insert(root, Arc::new(numbers));
        }
        Ok(events)
    }
}

/// Whether any of the wishes is for this event.
fn wanted(wishes: &[StateWish], event: &Event) -> bool {
    let key = unquoted(event, event.spans.state_key);
    wishes.iter().any(|wish| wish.wants(event.kind(), &key))
}

impl Look<'_> {
    /// All state that the wishes are for. Reads no more than they need: single keys where only
    /// those are wanted, members only where all are.
    pub(super) async fn wished_state(
        &self,
        room: RoomNid,
        root: Root,
        wishes: &[StateWish],
    ) -> Result<BTreeSet<EventNid>, Error> {
        let ledger = &self.sync.house.ledger;
        let states = ledger.states(room);
        let mut found = BTreeSet::new();
        for wish in wishes {
            for pattern in &wish.include {
                let (Some(kind), Some(key)) = (&pattern.kind, &pattern.key) else { continue };
                if wish.wants(kind, key)
                    && let Some(number) =
                        ledger.state_key(&StateEventType::from(kind.as_str()), key).await?
                {
                    found.extend(states.get(root, number).await?);
                }
            }
        }
        if wishes.iter().any(StateWish::wants_all_members) {
            let numbers: Vec<_> =
                states.all(root).await?.into_iter().map(|(_, number)| number).collect();
            let events = ledger.events(&numbers).await?;
            found.extend(events.iter().filter(|event| wanted(wishes, event)).map(|e| e.number));
        } else if !wishes.iter().all(StateWish::is_exact) {
            let events = self.sync.plain_state(room, root).await?;
            found.extend(events.iter().filter(|event| wanted(wishes, event)).map(|e| e.number));
        }
        Ok(found)
    }

    /// What of the wished state differs between two states.
    pub(super) async fn changed_state(
        &self,
        room: RoomNid,
        (before, after): (Root, Root),
        wishes: &[StateWish],
    ) -> Result<StateNews, Error> {
        let ledger = &self.sync.house.ledger;
        let mut news = StateNews::default();
        let changes: Vec<Change> = ledger.states(room).changes(before, after).await?;
        for (key, before, after) in changes {
            let Some(number) = after.or(before) else { continue };
            let event = ledger.event(number).await?;
            news.members_changed |= key.is_member();
            news.name_changed |= event.kind() == "m.room.name";
            news.avatar_changed |= event.kind() == "m.room.avatar";
            if !wanted(wishes, &event) {
                continue;
            }
            if after.is_some() {
                news.events.insert(number);
            } else {
                let state_key = unquoted(&event, event.spans.state_key);
                news.gone.push((event.kind().to_owned(), state_key));
            }
        }
        Ok(news)
    }

    /// Members needed to show a timeline: "all the senders of events" and "the target of all
    /// membership events", unless the connection was sent them before; and "all membership updates
    /// … when limited is false".
    pub(super) async fn needed_members(
        &self,
        room: RoomNid,
        shown: &Shown,
        changed_since: Option<Root>,
        connection: u64,
    ) -> Result<BTreeSet<EventNid>, Error> {
        let mut wanted = shown.senders();
        for (event, _) in shown.events.iter().filter(|(event, _)| event.kind() == MEMBER) {
            wanted.insert(unquoted(event, event.spans.state_key));
        }
        let members = self.member_events(room, shown.state_after, wanted).await?;
        let sent = &self.sync.sent_members;
        let unknown = |number: &EventNid| !sent.knows(connection, *number, self.since);
        let mut needed: BTreeSet<_> = members.into_iter().filter(unknown).collect();
        if let Some(before) = changed_since {
            let states = self.sync.house.ledger.states(room);
            let changes = states.changes(before, shown.state_after).await?;
            let members = changes.into_iter().filter(|(key, ..)| key.is_member());
            needed.extend(members.filter_map(|(_, _, after)| after));
        }
        needed.iter().for_each(|number| sent.note(connection, *number, self.upto));
        Ok(needed)
    }
}
