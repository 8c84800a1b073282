//! Which member events a client has had under lazy loading, so that they are not sent again with
//! every message of the same person.

use appliance_model::{EventNid, Position};
use quick_cache::sync::Cache;

/// At 40 bytes each, 2 MB. What is forgotten is sent again, which is harmless.
const REMEMBERED_MAX: usize = 50_000;

/// What was sent where, and in an answer that ended at which position. Where: the number of a device
/// or the name of a connection.
pub(crate) struct SentMembers(Cache<(u64, EventNid), Position>);

impl Default for SentMembers {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED_MAX))
    }
}

impl SentMembers {
    /// Whether the client has certainly received it: it came back with a token from after it.
    pub fn knows(&self, scope: u64, event: EventNid, since: Option<Position>) -> bool {
        let sent_at = self.0.get(&(scope, event));
        since.zip(sent_at).is_some_and(|(since, sent_at)| sent_at <= since)
    }

    /// It goes into an answer that ends at `upto`.
    pub fn note(&self, scope: u64, event: EventNid, upto: Position) {
        self.0.insert((scope, event), upto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_arrived_counts() {
        let sent = SentMembers::default();
        let (device, event) = (1, EventNid(2));
        sent.note(device, event, Position(10));
        assert!(!sent.knows(device, event, Some(Position(9))), "the answer may have been lost");
        assert!(sent.knows(device, event, Some(Position(10))));
        assert!(!sent.knows(device, event, None), "a new start gets everything");
        assert!(!sent.knows(3, event, Some(Position(10))));
    }
}
