//! What somebody should look at, said once for each cause: a server that sends ten thousand forgeries
//! gets one line of the journal, not ten thousand.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A cause is said again after this, with how often it was there meanwhile.
const AGAIN_MS: u64 = 60 * 60 * 1_000;
/// Causes remembered; about 200 bytes each. Beyond, those whose time is over are forgotten, and if there
/// are none, new ones are not said: who makes up causes must not fill the journal either.
const CAUSES_MAX: usize = 4_096;

/// Causes: what it is, and whom or what it is about.
#[derive(Default)]
pub struct Alarms(Mutex<BTreeMap<(&'static str, String), Cause>>);

#[derive(Clone, Copy)]
struct Cause {
    said_ms: u64,
    since: u64,
    all: u64,
}

impl Alarms {
    /// Counts a cause. Returns how often it was there since it was last said, if it is to be said now.
    pub fn count(&self, kind: &'static str, about: &str, now_ms: u64) -> Option<u64> {
        let mut causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, about.to_owned());
        if let Some(cause) = causes.get_mut(&key) {
            (cause.since, cause.all) = (cause.since + 1, cause.all + 1);
            // A clock that was set back must not silence an alarm for a year.
            let is_old = now_ms.abs_diff(cause.said_ms) >= AGAIN_MS;
            return is_old.then(|| {
                cause.said_ms = now_ms;
                std::mem::take(&mut cause.since)
            });
        }
        if causes.len() >= CAUSES_MAX {
            causes.retain(|_, cause| now_ms.abs_diff(cause.said_ms) < AGAIN_MS);
        }
        if causes.len() >= CAUSES_MAX {
            return None;
        }
        causes.insert(key, Cause { said_ms: now_ms, since: 0, all: 1 });
        Some(1)
    }

    /// Every cause remembered, as `kind about`, and how often it was there.
    #[cfg(test)]
    pub fn all(&self) -> BTreeMap<String, u64> {
        let causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        causes.iter().map(|((kind, about), cause)| (format!("{kind} {about}"), cause.all)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_an_hour_with_how_often_it_was_there() {
        let alarms = Alarms::default();
        assert_eq!(alarms.count("event.dropped", "two.example", 1), Some(1));
        for _ in 0..9 {
            assert_eq!(alarms.count("event.dropped", "two.example", 2), None);
        }
        assert_eq!(alarms.count("event.dropped", "three.example", 2), Some(1), "another cause");
        assert_eq!(alarms.count("event.dropped", "two.example", AGAIN_MS + 1), Some(10));
        assert_eq!(alarms.all()["event.dropped two.example"], 11);
    }

    #[test]
    fn invented_causes_fill_neither_journal_nor_memory() {
        let alarms = Alarms::default();
        let alarms = &alarms;
        let said = |now_ms| {
            (0..9_000).filter(move |n| alarms.count("x", &n.to_string(), now_ms).is_some())
        };
        assert_eq!(said(0).count(), CAUSES_MAX);
        assert_eq!(said(AGAIN_MS).count(), CAUSES_MAX);
        assert_eq!(alarms.all().len(), CAUSES_MAX);
    }
}
