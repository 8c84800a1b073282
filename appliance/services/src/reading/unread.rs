//! Unread counts ([spec]): events since the reader's receipt that their push rules let ring.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications
//!
//! Counted when asked, not when sent: a message into a ward of a thousand costs its sender nothing.
//! What was counted is remembered per reader and room, so that the next message costs one look.

use std::collections::BTreeMap;
use std::sync::Arc;

use appliance_ledger::keyspaces::{HEADS, RECEIPTS};
use appliance_ledger::{Direction, Event};
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::push::{Action, PushConditionRoomCtx, Ruleset};
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{OwnedRoomId, UInt};
use appliance_model::{Caller, Error, Position, RoomNid, UserNid};
use quick_cache::sync::Cache;
use serde::Deserialize;

use super::Reading;
use super::receipts::Receipt;
use crate::sync::Unread;

/// Events looked at for a reader who comes back after a long time. Clients show "99+" long before.
const LOOKED_AT_MAX: usize = 500;
/// Counts kept in memory, about 150 bytes each.
const COUNTS_CACHED_MAX: usize = 20_000;
/// A reader's receipts in one room: one for each thread they opened.
const RECEIPTS_MAX: usize = 1_000;

/// The counts of one room for one reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnreadRoom {
    /// Of the room outside threads.
    pub main: Unread,
    /// By thread root.
    pub threads: BTreeMap<String, Unread>,
}

/// Counts by reader and room.
pub(super) struct KnownCounts(Cache<(UserNid, RoomNid), Arc<Counted>>);

/// Counted up to a position with these receipts and rules.
struct Counted {
    upto: Position,
    marks: Marks,
    rules: Arc<Ruleset>,
    unread: UnreadRoom,
}

/// How far the reader has read: in the whole room, in the main timeline, in threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks {
    room: i64,
    main: i64,
    threads: BTreeMap<String, i64>,
}

impl KnownCounts {
    pub fn new() -> Self {
        Self(Cache::new(COUNTS_CACHED_MAX))
    }
}

impl Marks {
    fn of(receipts: &[Receipt]) -> Self {
        let mut marks = Self { room: i64::MIN, main: i64::MIN, threads: BTreeMap::new() };
        for receipt in receipts {
            let place = receipt.row.place;
            match receipt.thread.as_str() {
                "" => marks.room = marks.room.max(place),
                "main" => marks.main = marks.main.max(place),
                root => {
                    let mark = marks.threads.entry(root.to_owned()).or_insert(place);
                    *mark = place.max(*mark);
                }
            }
        }
        marks
    }

    /// How far the reader has read where an event of `thread` is.
    fn read_upto(&self, thread: Option<&str>) -> i64 {
        let own = match thread {
            None => self.main,
            Some(root) => self.threads.get(root).copied().unwrap_or(i64::MIN),
        };
        self.room.max(own)
    }
}

impl Reading {
    /// What is unread for the caller in a room, up to a position.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn unread(
        &self,
        caller: &Caller,
        room: RoomNid,
        upto: Position,
    ) -> Result<UnreadRoom, Error> {
        let marks = Marks::of(&self.own_receipts(caller.user, room).await?);
        let rules = self.personal.push_rules(caller.user, &caller.user_id).await?;
        let known = self.counts.0.get(&(caller.user, room)).filter(|known| {
            known.marks == marks && Arc::ptr_eq(&known.rules, &rules) && known.upto <= upto
        });
        let (from, mut unread) = match &known {
            Some(known) => (place(known.upto) + 1, known.unread.clone()),
            None => (i64::MIN, UnreadRoom::default()),
        };
        let floor = marks.threads.values().fold(marks.main, |low, mark| low.min(*mark));
        let from = from.max(marks.room.max(floor).saturating_add(1));
        let stretch =
            self.house.ledger.recent(room, (from, place(upto) + 1), LOOKED_AT_MAX).await?;
        if !stretch.events.is_empty() {
            let context = self.push_context(caller, room).await?;
            for (event, _) in stretch.events.iter().rev() {
                self.count(caller, &marks, &rules, &context, event, &mut unread).await;
            }
        }
        let counted = Counted { upto, marks, rules, unread: unread.clone() };
        self.counts.0.insert((caller.user, room), Arc::new(counted));
        Ok(unread)
    }

    async fn count(
        &self,
        caller: &Caller,
        marks: &Marks,
        rules: &Ruleset,
        context: &PushConditionRoomCtx,
        event: &Event,
        unread: &mut UnreadRoom,
    ) {
        let thread = thread_of(event);
        if event.part(event.spans.sender).trim_matches('"') == caller.user_id.as_str() {
            // Whoever writes has read what came before, there.
            match &thread {
                None => unread.main = Unread::default(),
                Some(root) => {
                    unread.threads.remove(root);
                }
            }
            return;
        }
        if event.position.is_none_or(|at| at <= marks.read_upto(thread.as_deref())) {
            return;
        }
        let (notifies, highlights) = ring(rules, context, event).await;
        if !notifies {
            return;
        }
        let counts = match thread {
            None => &mut unread.main,
            Some(root) => unread.threads.entry(root).or_default(),
        };
        counts.notifications += 1;
        counts.highlights += u64::from(highlights);
    }

    async fn own_receipts(&self, user: UserNid, room: RoomNid) -> Result<Vec<Receipt>, Error> {
        let (rows, _) = self
            .house
            .ledger
            .newest()
            .scan(&RECEIPTS, &(room, user), Direction::Forward, RECEIPTS_MAX)
            .await?;
        let receipt = |((_, user, kind, thread), row)| Receipt { user, kind, thread, row };
        Ok(rows.into_iter().map(receipt).collect())
    }

    async fn push_context(
        &self,
        caller: &Caller,
        room: RoomNid,
    ) -> Result<PushConditionRoomCtx, Error> {
        let ledger = &self.house.ledger;
        let room_id: OwnedRoomId = ledger.room_id(room).await?;
        let head = ledger.get(&HEADS, &room).await?.unwrap_or_default();
        let own =
            self.rooms.current(room, &StateEventType::RoomMember, caller.user_id.as_str()).await?;
        let name = own.and_then(|event| {
            let content: serde_json::Value = serde_json::from_str(event.content()).ok()?;
            Some(content.get("displayname")?.as_str()?.to_owned())
        });
        let name = name.unwrap_or_else(|| caller.user_id.localpart().to_owned());
        let joined = UInt::new_saturating(head.joined);
        let mut context = PushConditionRoomCtx::new(room_id, joined, caller.user_id.clone(), name);
        context.power_levels = Some(self.rooms.power_levels(room).await?.into());
        Ok(context)
    }
}

/// Whether an event rings, and whether it is for the reader in particular.
async fn ring(rules: &Ruleset, context: &PushConditionRoomCtx, event: &Event) -> (bool, bool) {
    let mut json = String::new();
    crate::client_event::write(&mut json, event, None, crate::client_event::Unsigned::default());
    let Ok(raw) = serde_json::from_str::<Raw<serde_json::Value>>(&json) else {
        return (false, false);
    };
    let actions = rules.get_actions(&raw, context).await;
    (actions.iter().any(Action::should_notify), actions.iter().any(Action::is_highlight))
}

/// The root of the thread an event is in.
fn thread_of(event: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Option<Relation>,
    }
    #[derive(Deserialize)]
    struct Relation {
        rel_type: Option<String>,
        event_id: Option<String>,
    }
    if !event.content().contains("m.thread") {
        return None;
    }
    let relation = serde_json::from_str::<Content>(event.content()).ok()?.relates_to?;
    relation.event_id.filter(|_| relation.rel_type.as_deref() == Some("m.thread"))
}

fn place(position: Position) -> i64 {
    position.0.cast_signed()
}
