//! How long a room's events live: what the policy says, and what the room itself does ([MSC1763]).
//!
//! [MSC1763]: https://github.com/matrix-org/matrix-spec-proposals/pull/1763

use appliance_model::ruma::RoomId;
use serde::Deserialize;

use super::field::Field;
use super::object::Effective;
use crate::Permit;

/// The state events in which a room says it, with an empty state key: the name of before its
/// acceptance, and the one that clients write meanwhile.
pub const RETENTION_TYPES: [&str; 2] = ["m.room.retention", "org.matrix.msc1763.retention"];

/// A room that says less is held to this, in milliseconds: nobody could read what was said.
pub const LIFETIME_MS_MIN: u64 = 60_000;

/// How long events live, in milliseconds, by the policy and by the contents of the room's own state;
/// none: as long as the room.
pub fn lifetime_ms<'a>(policy: &Effective, said: impl IntoIterator<Item = &'a str>) -> Option<u64> {
    let of_room = said.into_iter().filter_map(max_lifetime_ms).map(|ms| ms.max(LIFETIME_MS_MIN));
    policy.get(Field::TimelineTtlMs).into_iter().chain(of_room).min()
}

/// "max_lifetime … the maximum duration in milliseconds for which a server must store an event";
/// "max_lifetime must always be higher or equal to min_lifetime", else it says nothing.
fn max_lifetime_ms(content: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Content {
        min_lifetime: Option<u64>,
        max_lifetime: Option<u64>,
    }
    let Content { min_lifetime, max_lifetime } = serde_json::from_str(content).ok()?;
    max_lifetime.filter(|max| min_lifetime.is_none_or(|min| min <= *max))
}

/// The house takes what is over out of the store.
pub fn must_erase_events(server_name: &str, room_id: &RoomId, events: usize) -> Permit {
    Permit::audited("events.expired", server_name, format!("{room_id} {events}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Scope};

    #[test]
    fn the_strictest_holds_and_nonsense_says_nothing() {
        let house = Policy::parse(r#"{"timeline":{"ttl_ms":90000}}"#).unwrap();
        let strict = Effective::of([(Scope::Server, &house)]);
        let free = Effective::default();
        let room = |max: &str| format!(r#"{{"max_lifetime":{max}}}"#);
        for (policy, said, lifetime) in [
            (&free, vec![], None),
            (&free, vec![room("70000")], Some(70_000)),
            (&free, vec![room("1")], Some(LIFETIME_MS_MIN)),
            (&free, vec![room("80000"), room("70000")], Some(70_000)),
            (&free, vec![room("-1"), room("\"soon\""), "[]".to_owned()], None),
            (&free, vec![r#"{"min_lifetime":5,"max_lifetime":4}"#.to_owned()], None),
            (&free, vec![r#"{"min_lifetime":70000}"#.to_owned()], None),
            (&strict, vec![], Some(90_000)),
            (&strict, vec![room("100000")], Some(90_000)),
            (&strict, vec![room("80000")], Some(80_000)),
        ] {
            assert_eq!(lifetime_ms(policy, said.iter().map(String::as_str)), lifetime, "{said:?}");
        }
    }
}
