//! What stirred since a worker last looked: for work that follows the commits of others, such as
//! telling application services and push gateways.
//!
//! Events need no note here, they are in the log of all events. What has no log of its own is noted
//! in memory: after a restart the worker looks for itself where it matters.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use appliance_ledger::{Observer, Touched};
use appliance_model::{DeviceNid, Position, RoomNid, UserNid};
use tokio::sync::Notify;

/// Of each kind. A worker that lags so far behind may miss a receipt, never an event.
const NOTED_MAX: usize = 20_000;

/// What stirred.
#[derive(Debug, Default)]
pub struct Stirred {
    /// Rooms in which a receipt moved.
    pub receipts: BTreeSet<RoomNid>,
    /// Whose own receipts moved, and where.
    pub own_receipts: BTreeSet<(UserNid, RoomNid)>,
    /// Devices with new messages or changed key counts.
    pub devices: BTreeSet<(UserNid, DeviceNid)>,
}

impl Stirred {
    /// Adds what stirred besides.
    pub fn add(&mut self, more: &Self) {
        self.receipts.extend(&more.receipts);
        self.own_receipts.extend(&more.own_receipts);
        self.devices.extend(&more.devices);
    }
}

/// Notes what stirs until somebody looks.
#[derive(Default)]
pub struct Stir {
    noted: Mutex<Stirred>,
    news: Notify,
}

impl Stir {
    /// Takes what was noted.
    pub fn take(&self) -> Stirred {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until something stirs. What stirred since the last wait counts.
    pub async fn stirred(&self) {
        self.news.notified().await;
    }

    /// Lets the worker look, for what is no commit's doing.
    pub fn notice(&self) {
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Stirred> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Stir {
    /// Noted before its position is published: whoever reads a position and then takes what was noted
    /// has everything up to it.
    fn changing(&self, touched: &Touched, _: Position) {
        let mut noted = self.lock();
        note(&mut noted.receipts, &touched.receipts);
        note(&mut noted.own_receipts, &touched.own_receipts);
        note(&mut noted.devices, &touched.devices);
    }

    fn committed(&self, touched: &Touched, _: Position) {
        let something = !touched.timelines.is_empty()
            || !touched.receipts.is_empty()
            || !touched.own_receipts.is_empty()
            || !touched.devices.is_empty()
            || !touched.device_lists.is_empty();
        if something {
            self.news.notify_one();
        }
    }
}

/// Counts how often somebody may have come into a room or left one, here or elsewhere: who looks at all rooms
/// for that looks again when the count is another.
#[derive(Debug, Default)]
pub struct Moves(AtomicU64);

impl Moves {
    /// The count. Whatever moves after this was read raises it.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Observer for Moves {
    fn committed(&self, touched: &Touched, _: Position) {
        // Whose people come and go in a room, their device lists are news there.
        if !touched.memberships.is_empty() || !touched.device_lists.is_empty() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn note<T: Ord + Copy>(noted: &mut BTreeSet<T>, more: &[T]) {
    if noted.len() < NOTED_MAX {
        noted.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::RoomNid;

    use super::*;

    #[test]
    fn moves_are_counted_and_words_are_not() {
        let moves = Moves::default();
        let words = Touched { timelines: vec![RoomNid(7)], ..Touched::default() };
        moves.committed(&words, Position(5));
        assert_eq!(moves.count(), 0);
        let ours = Touched { memberships: vec![(UserNid(1), RoomNid(7), true)], ..words.clone() };
        let theirs = Touched { device_lists: vec![UserNid(2)], ..words };
        for (count, touched) in [(1, ours), (2, theirs)] {
            moves.committed(&touched, Position(6));
            assert_eq!(moves.count(), count);
        }
    }

    /// A bridge missed a receipt whose position it had passed before it heard of it.
    #[test]
    fn what_stirs_is_known_before_its_position_can_be_read() {
        let stir = Stir::default();
        let touched = Touched { receipts: vec![RoomNid(7)], ..Touched::default() };
        stir.changing(&touched, Position(5));
        // Here the position is published.
        assert!(stir.take().receipts.contains(&RoomNid(7)));
        stir.committed(&touched, Position(5));
        assert!(stir.take().receipts.is_empty(), "known once");
    }
}
