//! Which renderings lie on the disk, so that they take up no more than their share: what nobody has
//! asked for in a long time goes first, and is made again when somebody does.
//!
//! Only how old they are is kept here; they live and die with their blobs whatever is known of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use appliance_ledger::blobs::BlobName;

/// After a cleaning there is room for a tenth more, so that not every new one cleans.
const KEPT_TENTHS: u64 = 9;

/// A rendering: its blob and label.
pub(super) type Rendering = (BlobName, &'static str);

#[derive(Default)]
pub(super) struct Renderings(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Bytes, and when it was last asked for.
    all: HashMap<Rendering, (u64, u64)>,
    bytes: u64,
    turn: u64,
}

impl Renderings {
    /// Somebody has asked for one. Returns those that have to go now.
    pub fn used(&self, rendering: Rendering, bytes: u64, bytes_max: u64) -> Vec<Rendering> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.turn += 1;
        let turn = known.turn;
        let before = known.all.insert(rendering, (bytes, turn)).map_or(0, |(bytes, _)| bytes);
        known.bytes = (known.bytes + bytes).saturating_sub(before);
        if known.bytes <= bytes_max {
            return Vec::new();
        }
        let mut by_age: Vec<_> =
            known.all.iter().map(|(one, (bytes, turn))| (*turn, *bytes, one.clone())).collect();
        by_age.sort_unstable_by_key(|(turn, ..)| *turn);
        let mut gone = Vec::new();
        for (_, bytes, one) in by_age {
            if known.bytes <= bytes_max / 10 * KEPT_TENTHS {
                break;
            }
            known.bytes -= bytes;
            known.all.remove(&one);
            gone.push(one);
        }
        gone
    }

    /// A blob is gone, and its renderings with it.
    pub fn forget(&self, blob: &BlobName, labels: &[&'static str]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for label in labels {
            if let Some((bytes, _)) = known.all.remove(&(blob.clone(), *label)) {
                known.bytes -= bytes;
            }
        }
    }

    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u64) -> BlobName {
        BlobName::parse(&format!("{number:016x}-{number:016x}")).unwrap()
    }

    #[test]
    fn the_one_used_longest_ago_goes_first() {
        let known = Renderings::default();
        for number in 0..10 {
            assert!(known.used((blob(number), "a"), 10, 100).is_empty());
        }
        assert!(known.used((blob(0), "a"), 10, 100).is_empty(), "the same again");
        assert_eq!(known.bytes(), 100);
        let gone = known.used((blob(10), "a"), 10, 100);
        assert_eq!(gone, [(blob(1), "a"), (blob(2), "a")]);
        assert_eq!(known.bytes(), 90);
        known.forget(&blob(10), &["a", "b"]);
        assert_eq!(known.bytes(), 80);
    }
}
