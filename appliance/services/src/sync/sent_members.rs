//! Which member events a device has had under lazy loading, so that they are not sent again with
//! every message of the same person.

use appliance_model::{DeviceNid, EventNid, Position};
use quick_cache::sync::Cache;

use super::Token;

/// At 40 bytes each, 2 MB. What is forgotten is sent again, which is harmless.
const REMEMBERED_MAX: usize = 50_000;

/// What was sent where, and in an answer that ended at which position.
pub(crate) struct SentMembers(Cache<(DeviceNid, EventNid), Position>);

impl Default for SentMembers {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED_MAX))
    }
}

impl SentMembers {
    /// Whether the device has certainly received it: it came back with a token from after it.
    pub fn knows(&self, device: DeviceNid, event: EventNid, since: Option<Token>) -> bool {
        let sent_at = self.0.get(&(device, event));
        since.zip(sent_at).is_some_and(|(since, sent_at)| sent_at <= since.position)
    }

    /// It goes into an answer that ends at `upto`.
    pub fn note(&self, device: DeviceNid, event: EventNid, upto: Position) {
        self.0.insert((device, event), upto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_arrived_counts() {
        let sent = SentMembers::default();
        let (device, event) = (DeviceNid(1), EventNid(2));
        let at = |position| Some(Token::parse(&format!("s{position}")).unwrap());
        sent.note(device, event, Position(10));
        assert!(!sent.knows(device, event, at(9)), "the answer may have been lost");
        assert!(sent.knows(device, event, at(10)));
        assert!(!sent.knows(device, event, None), "a new start gets everything");
        assert!(!sent.knows(DeviceNid(3), event, at(10)));
    }
}
