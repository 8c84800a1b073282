//! What lists are made from: of each room when something last happened in it, and what kind of room
//! it is. Remembered for all users together; an event is looked at once, not once per reader.

use appliance_ledger::{Event, Root};
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Error, Position, RoomNid};
use quick_cache::sync::Cache;

use super::super::Sync;
use super::super::look::place;
use super::super::wait::News;

/// About 100 bytes each.
const ROOMS_CACHED_MAX: usize = 50_000;
/// Events looked at for the last one that bumps; a room with more chatter keeps what it had.
const LOOKED_AT_MAX: usize = 200;

/// "Proper activity is defined as an event being received is one of the following types".
const BUMPS: [&str; 7] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "m.beacon_info",
];
/// The same as clients send it before its acceptance, which other servers bump for as well.
const BUMPS_UNSTABLE: [&str; 2] =
    ["org.matrix.msc3381.poll.start", "org.matrix.msc3672.beacon_info"];

/// One room.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// True up to here.
    as_of: Position,
    /// The place of the last event.
    pub last: i64,
    /// The place of the last event that matters to people.
    pub bump: i64,
    /// The state that the rest was read from.
    root: Root,
    pub encrypted: bool,
    /// The type in the create event.
    pub room_type: Option<String>,
}

/// Many rooms.
pub(crate) struct KnownFacts(Cache<RoomNid, Facts>);

impl Default for KnownFacts {
    fn default() -> Self {
        Self(Cache::new(ROOMS_CACHED_MAX))
    }
}

fn bumps(event: &Event) -> bool {
    let kind = event.kind();
    BUMPS.contains(&kind) || BUMPS_UNSTABLE.contains(&kind)
}

impl Sync {
    /// The facts of a room, at least up to `upto`.
    pub(super) async fn facts(&self, room: RoomNid, upto: Position) -> Result<Facts, Error> {
        let known = self.facts.0.get(&room);
        if let Some(known) = &known {
            let news = self.waiters.timeline_news(room, known.as_of);
            if known.as_of >= upto || news == News::None {
                return Ok(known.clone());
            }
        }
        // A position at which all is complete; the events read below may be newer still.
        let as_of = self.house.ledger.position();
        let mut facts = self.moved_on(room, known.unwrap_or_default()).await?;
        facts.as_of = as_of;
        self.facts.0.insert(room, facts.clone());
        Ok(facts)
    }

    /// The facts with what happened since.
    async fn moved_on(&self, room: RoomNid, mut facts: Facts) -> Result<Facts, Error> {
        let ledger = &self.house.ledger;
        let from = if facts.as_of == Position::default() { i64::MIN } else { place(facts.as_of) };
        let (mut to, mut looked_at, mut newest, mut bump) = (i64::MAX, 0, None, None);
        while looked_at < LOOKED_AT_MAX && bump.is_none() {
            // Mostly the first event is it.
            let page = if looked_at == 0 { 1 } else { 20 };
            let stretch = ledger.recent(room, (from, to), page).await?;
            looked_at += page;
            newest = newest.or_else(|| stretch.events.first().cloned());
            let bumping = stretch.events.iter().find(|(event, _)| bumps(event));
            bump = bumping.and_then(|(event, _)| event.position);
            match stretch.events.last().and_then(|(event, _)| event.position) {
                Some(oldest) if stretch.more => to = oldest,
                _ => break,
            }
        }
        let Some((newest, row)) = newest else { return Ok(facts) };
        facts.last = newest.position.unwrap_or(facts.last);
        facts.bump = bump.unwrap_or(if facts.bump == 0 { facts.last } else { facts.bump });
        let root = Root(row.state_after);
        if root != facts.root {
            facts.root = root;
            let rooms = &self.rooms;
            let encryption = StateEventType::RoomEncryption;
            facts.encrypted = rooms.state_at(room, root, &encryption, "").await?.is_some();
            let create = rooms.state_at(room, root, &StateEventType::RoomCreate, "").await?;
            facts.room_type = create.and_then(|create| room_type_in(create.content()));
        }
        Ok(facts)
    }
}

/// The type that the content of a create event gives a room.
pub(super) fn room_type_in(content: &str) -> Option<String> {
    let content: serde_json::Value = serde_json::from_str(content).ok()?;
    Some(content.get("type")?.as_str()?.to_owned())
}
