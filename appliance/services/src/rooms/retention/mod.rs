//! How long what is said in a room lives ([MSC1763], and the policy's `timeline.ttl_ms`).
//!
//! From the millisecond on at which an event's time is over, no reader is shown it and no other server
//! gets its content: that is judged by the clock at every read ([`Horizon`]), not by a job. The job
//! ([`erase`]) takes the content out of the store soon after. State events stay: the room stands on
//! them.
//!
//! [MSC1763]: https://github.com/matrix-org/matrix-spec-proposals/pull/1763

mod configuration;
mod erase;
mod purge;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use appliance_ledger::keyspaces::RETENTION;
use appliance_ledger::{Event, Root};
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Error, EventNid, RoomNid};
use appliance_rules::policy::{Effective, Field, HousePolicy, RETENTION_TYPES, lifetime_ms};
use quick_cache::sync::Cache;

pub use configuration::RetentionConfiguration;

use super::{OpenRoom, Rooms};
use crate::house::House;
use crate::policy::room_policy;

/// Rooms whose lifetime is remembered, about 60 bytes each: asking again costs a few reads.
const ROOMS_CACHED_MAX: usize = 20_000;

/// What was refused as over must be over after a power cut on a clock that is behind, too: it is written down how
/// far the time has come. To the second, so that readers of a quiet house cost it a commit a second at most.
const KEPT_TO_MS: u64 = 1_000;

/// What is remembered of rooms and their time.
pub(super) struct Retention {
    lifetimes: Cache<RoomNid, Lifetime>,
    /// Up to which place in the timeline the job is done, in each room whose events live for a time.
    done_to: Mutex<HashMap<RoomNid, i64>>,
    /// When the job last looked through all rooms, and under which policy.
    looked_through: Mutex<Option<(u64, Arc<HousePolicy>)>>,
}

/// How long events of a room live, by a state of it and a policy of the house.
#[derive(Clone)]
struct Lifetime {
    root: Root,
    policy: Arc<HousePolicy>,
    /// None: as long as the room.
    ms: Option<u64>,
    /// What was said up to this time was erased, or was about to be: milliseconds since the Unix epoch.
    erased_to_ms: u64,
}

/// From when on the events of a room are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Horizon {
    /// What was said up to then is over: milliseconds since the Unix epoch; none: nothing is.
    upto_ms: Option<u64>,
    /// The same for events with numbers below some, which were here before the clock was set back.
    earlier: Vec<(u64, u64)>,
}

impl Horizon {
    /// Whether an event's time is over.
    pub fn hides(&self, event: &Event) -> bool {
        event.erased || said_ms(event).is_some_and(|said_ms| self.is_past(event.number, said_ms))
    }

    /// Whether something that was said then is over: milliseconds since the Unix epoch.
    pub fn is_past(&self, event: EventNid, said_ms: u64) -> bool {
        let is_over = |(below, upto_ms): &(u64, u64)| event.0 < *below && said_ms <= *upto_ms;
        self.upto_ms.is_some_and(|upto_ms| said_ms <= upto_ms) || self.earlier.iter().any(is_over)
    }
}

/// When something was said that can be over one day; none for state, which stays.
pub(crate) fn said_ms(event: &Event) -> Option<u64> {
    (!event.is_state()).then(|| sent_ms(event))
}

/// When an event was sent, as its sender's server says: milliseconds since the Unix epoch.
pub(super) fn sent_ms(event: &Event) -> u64 {
    event.part(event.spans.origin_server_ts).parse().unwrap_or_default()
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            lifetimes: Cache::new(ROOMS_CACHED_MAX),
            done_to: Mutex::default(),
            looked_through: Mutex::default(),
        }
    }
}

impl Rooms {
    /// From when on the events of a room are shown now.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn horizon(&self, room: RoomNid) -> Result<Horizon, Error> {
        let lifetime = self.lifetime(room).await?;
        let erased = Some(lifetime.erased_to_ms).filter(|upto| *upto > 0);
        let Some(ms) = lifetime.ms else { return Ok(Horizon { upto_ms: erased, earlier: vec![] }) };
        let ledger = &self.house.ledger;
        let now_ms = ledger.now_ms();
        if let Err(error) = ledger.keep_time(room.0, now_ms - now_ms % KEPT_TO_MS).await {
            // A full disk, say. It is refused all the same.
            tracing::debug!(kind = "room.time_not_kept", room.number = room.0, %error,
                "how far the time has come could not be written down yet");
        }
        let upto_ms = Some(now_ms.saturating_sub(ms)).max(erased);
        let earlier = ledger.floors().into_iter();
        let earlier = earlier.map(|floor| (floor.below, floor.ms.saturating_sub(ms))).collect();
        Ok(Horizon { upto_ms, earlier })
    }

    async fn lifetime(&self, room: RoomNid) -> Result<Lifetime, Error> {
        let (root, policy) = (self.current_root(room).await?, self.house.policy.now());
        let is_current =
            |known: &Lifetime| known.root == root && Arc::ptr_eq(&known.policy, &policy);
        if let Some(known) = self.retention.lifetimes.get(&room).filter(is_current) {
            return Ok(known);
        }
        let of_room = self.state_at(room, root, &POLICY.into(), "").await?;
        let of_room = of_room.map(|event| room_policy(event.content()));
        let mut said = Vec::new();
        for kind in RETENTION_TYPES {
            said.extend(self.state_at(room, root, &StateEventType::from(kind), "").await?);
        }
        let held = self.house.policy_in(None, of_room.as_ref());
        let ms = lifetime_ms(&held, said.iter().map(|event| event.content()));
        let erased_to_ms = self.house.ledger.get(&RETENTION, &room).await?.unwrap_or_default();
        if ms.is_some() {
            self.done_to().entry(room).or_insert(i64::MIN);
        }
        let lifetime = Lifetime { root, policy, ms, erased_to_ms };
        self.retention.lifetimes.insert(room, lifetime.clone());
        Ok(lifetime)
    }
}

const POLICY: &str = appliance_rules::policy::POLICY_TYPE;

/// How long a file lives that a message shows: no longer than the message. `said` is what the room is
/// about to say of its events.
pub(crate) async fn file_ttl_ms(
    house: &House,
    room: &OpenRoom<'_>,
    (held, said): (&Effective, Option<&str>),
) -> Result<u64, Error> {
    let mut events = Vec::new();
    for kind in RETENTION_TYPES {
        events.extend(room.state(&StateEventType::from(kind), "").await?);
    }
    let contents = events.iter().map(|event| event.content.get());
    let of_room = lifetime_ms(held, contents.chain(said));
    let ttl_ms = held.get(Field::TtlMs).unwrap_or(house.options.media.ttl_ms);
    Ok(of_room.map_or(ttl_ms, |of_room| ttl_ms.min(of_room)))
}
