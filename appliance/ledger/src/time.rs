//! The time as this store has known it: a clock that is set back, by hand or because its battery is empty,
//! must not bring back what was over.
//!
//! The latest time is in the store's own row, which every group of commits writes anyway; whoever refuses
//! something because its time is over sees to it first that the store would know after a power cut
//! ([`Ledger::keep_time`]). When the clock goes back, that is a [`Floor`]: whatever had its number by
//! then is judged by the time that was reached, until the clock is there again. What comes later goes by the
//! clock, so that a clock that was ahead for a minute does not end what is made after it was put right.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use appliance_model::{Clock, Error};
use appliance_rules::Permit;

use crate::Ledger;
use crate::number::Numbers;
use crate::rows::{Floor, StoreRow};

/// A clock is corrected by so much now and then: the time stands still meanwhile.
const STEP_MS: u64 = 1_000;
/// Times that were reached and that the clock has not come up to. Of more, the earliest is forgotten.
const FLOORS_MAX: usize = 16;

/// How far the time had come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reached {
    latest_ms: u64,
    floors: Vec<Floor>,
}

impl Reached {
    fn of(store: &StoreRow) -> Self {
        Self {
            latest_ms: store.latest_ms.unwrap_or_default(),
            floors: store.floors.clone().unwrap_or_default(),
        }
    }

    /// The time for what has this number, as far as it is known without the clock.
    fn for_number(&self, number: u64) -> u64 {
        let of_floors = self.floors.iter().filter(|floor| number < floor.below).map(|f| f.ms).max();
        self.latest_ms.max(of_floors.unwrap_or_default())
    }
}

/// The clock, and what is remembered of it.
pub(crate) struct Time {
    clock: Arc<dyn Clock>,
    numbers: Arc<Numbers>,
    /// As in `now`, to be looked at without waiting.
    latest_ms: AtomicU64,
    /// The highest of the floors.
    floor_ms: AtomicU64,
    floors: Mutex<Vec<Floor>>,
    /// What is on the disk.
    kept: Mutex<Reached>,
}

impl Time {
    pub fn new(clock: Arc<dyn Clock>, numbers: Arc<Numbers>, store: &StoreRow) -> Self {
        let reached = Reached::of(store);
        let time = Self {
            clock,
            numbers,
            latest_ms: AtomicU64::new(reached.latest_ms),
            floor_ms: AtomicU64::new(highest(&reached.floors)),
            floors: Mutex::new(reached.floors.clone()),
            kept: Mutex::new(reached),
        };
        // Somebody may have set the clock while the server was off.
        time.now_ms();
        time
    }

    /// The time of day, which goes back only if the clock is set back by more than a second.
    pub fn now_ms(&self) -> u64 {
        // In this order, a clock that nobody sets is never behind what it said to another thread.
        let latest_ms = self.latest_ms.load(Ordering::SeqCst);
        let now_ms = self.clock.now_ms();
        match now_ms.checked_sub(latest_ms) {
            Some(0) => now_ms,
            Some(_) => self.latest_ms.fetch_max(now_ms, Ordering::SeqCst).max(now_ms),
            None if latest_ms - now_ms <= STEP_MS => latest_ms,
            None => self.set_back(),
        }
    }

    fn set_back(&self) -> u64 {
        let mut floors = lock(&self.floors);
        let (latest_ms, now_ms) = (self.latest_ms.load(Ordering::SeqCst), self.clock.now_ms());
        // Somebody else may have noticed first.
        if latest_ms.saturating_sub(now_ms) <= STEP_MS {
            return now_ms.max(latest_ms);
        }
        let floor = Floor { below: self.numbers.next_unused(), ms: latest_ms };
        // It holds for whatever an earlier one held for, and more.
        floors.retain(|earlier| earlier.ms > floor.ms);
        floors.push(floor);
        if floors.len() > FLOORS_MAX {
            floors.sort_by_key(|floor| std::cmp::Reverse(floor.ms));
            floors.truncate(FLOORS_MAX);
        }
        self.floor_ms.store(highest(&floors), Ordering::SeqCst);
        self.latest_ms.store(now_ms, Ordering::SeqCst);
        tracing::error!(
            kind = "clock.set_back",
            clock.ms = now_ms,
            clock.reached_ms = latest_ms,
            "the clock was set back: what is here already is judged by the time that was reached; look after \
             the clock of this machine"
        );
        now_ms
    }

    /// The time for what has this number.
    fn for_number(&self, number: u64) -> u64 {
        let now_ms = self.now_ms();
        if self.floor_ms.load(Ordering::SeqCst) <= now_ms {
            return now_ms;
        }
        let floors = lock(&self.floors).clone();
        Reached { latest_ms: now_ms, floors }.for_number(number)
    }

    /// Writes into the store's row how far the time has come. Returns the floors that are new in it.
    pub fn enter(&self, store: &mut StoreRow) -> Vec<Floor> {
        let now_ms = self.now_ms();
        let mut floors = lock(&self.floors).clone();
        // The clock has come up to the others.
        floors.retain(|floor| floor.ms > now_ms);
        let known = store.floors.take().unwrap_or_default();
        let new = floors.iter().filter(|floor| !known.contains(floor)).copied().collect();
        store.latest_ms = Some(now_ms);
        store.floors = (!floors.is_empty()).then_some(floors);
        new
    }

    /// The store's row is on the disk.
    pub fn kept(&self, store: &StoreRow) {
        *lock(&self.kept) = Reached::of(store);
    }

    fn is_kept(&self, number: u64, ms: u64) -> bool {
        lock(&self.kept).for_number(number) >= ms
    }
}

fn highest(floors: &[Floor]) -> u64 {
    floors.iter().map(|floor| floor.ms).max().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// The time by which whatever has this number is judged, in milliseconds since the Unix epoch: that of the
    /// clock, or, if the clock was set back since the number was given out, the time that was reached.
    pub fn time_ms_for(&self, number: u64) -> u64 {
        self.time().for_number(number)
    }

    /// The time by which everything new is judged, in milliseconds since the Unix epoch. It goes back only if
    /// the clock is set back by more than a second.
    pub fn now_ms(&self) -> u64 {
        self.time().now_ms()
    }

    /// The times that were reached before the clock was set back, and that it has not come up to again.
    pub fn floors(&self) -> Vec<Floor> {
        let now_ms = self.time().now_ms();
        if self.time().floor_ms.load(Ordering::SeqCst) <= now_ms {
            return Vec::new();
        }
        let floors = lock(&self.time().floors);
        floors.iter().filter(|floor| floor.ms > now_ms).copied().collect()
    }

    /// The latest of these times; zero if there is none.
    pub fn floor_ms(&self) -> u64 {
        highest(&self.floors())
    }

    /// Sees to it that the store knows after a power cut that `reached_ms` was reached for `number`: commits
    /// only if it would not yet.
    ///
    /// # Errors
    ///
    /// If the store does not take it.
    pub async fn keep_time(&self, number: u64, reached_ms: u64) -> Result<(), Error> {
        if self.time().is_kept(number, reached_ms) {
            return Ok(());
        }
        self.commit(self.begin(Permit::housekeeping())).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use appliance_engine::Direction;
    use appliance_model::scenario::StillClock;

    use super::*;
    use crate::keyspaces::AUDIT;
    use crate::scenario::{Store, openers};

    const DAY_MS: u64 = 86_400_000;
    const NOON_MS: u64 = 1_700_000_000_000;

    /// A store whose clock can be set.
    async fn store() -> (Store, Arc<StillClock>) {
        let clock = Arc::new(StillClock::at_ms(NOON_MS));
        let store = Store::new().await;
        (again(store, &clock).await, clock)
    }

    async fn again(store: Store, clock: &Arc<StillClock>) -> Store {
        let engine = Arc::new(store.engine.power_cut());
        let openers = crate::Openers { clock: clock.clone(), ..openers(&store.master) };
        let (ledger, lane) = crate::open(engine.clone(), openers).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(lane.run());
        Store { ledger, engine, master: store.master.clone(), lane: tasks }
    }

    #[tokio::test]
    async fn a_time_that_was_reached_stays_so_for_what_was_there() {
        let (store, clock) = store().await;
        let old = store.ledger.next_number();
        assert_eq!(store.ledger.time_ms_for(old), NOON_MS);
        clock.go_back_ms(STEP_MS);
        assert_eq!(store.ledger.time_ms_for(old), NOON_MS, "a correction stands still");
        assert_eq!(store.ledger.floor_ms(), 0);
        clock.go_back_ms(DAY_MS);
        assert_eq!(store.ledger.time_ms_for(old), NOON_MS);
        assert_eq!(store.ledger.floor_ms(), NOON_MS);
        let new = store.ledger.next_number();
        let behind_ms = NOON_MS - STEP_MS - DAY_MS;
        assert_eq!(store.ledger.time_ms_for(new), behind_ms, "goes by the clock");
        // Once more.
        clock.go_back_ms(DAY_MS);
        assert_eq!(store.ledger.time_ms_for(new), behind_ms);
        assert_eq!(store.ledger.time_ms_for(old), NOON_MS);
        clock.pass_ms(3 * DAY_MS);
        for number in [old, new, store.ledger.next_number()] {
            assert_eq!(store.ledger.time_ms_for(number), behind_ms + 2 * DAY_MS, "all are right");
        }
    }

    #[tokio::test]
    async fn what_was_kept_is_known_after_a_power_cut_and_on_record() {
        let (store, clock) = store().await;
        let old = store.ledger.next_number();
        store.ledger.keep_time(old, NOON_MS).await.unwrap();
        let commits = store.engine.commits();
        store.ledger.keep_time(old, NOON_MS).await.unwrap();
        assert_eq!(store.engine.commits(), commits, "once is enough");
        clock.go_back_ms(DAY_MS);
        // The machine was off when its battery ran out.
        let store = again(store, &clock).await;
        assert_eq!(store.ledger.time_ms_for(old), NOON_MS);
        let new = store.ledger.next_number();
        assert_eq!(store.ledger.time_ms_for(new), NOON_MS - DAY_MS);
        store.ledger.keep_time(new, NOON_MS - DAY_MS).await.unwrap();
        for _ in 0..2 {
            let commit = store.ledger.begin(Permit::housekeeping());
            store.ledger.commit(commit).await.unwrap();
        }
        let view = store.ledger.newest();
        let (rows, _) = view.scan(&AUDIT, &(), Direction::Forward, 10).await.unwrap();
        let verbs: Vec<_> = rows.iter().map(|(_, row)| row.facts[0].verb.clone()).collect();
        assert_eq!(verbs, ["clock.set_back"], "once");

        // And again, from what is on the disk alone.
        let store = again(store, &clock).await;
        assert_eq!(store.ledger.time_ms_for(old), NOON_MS);
        assert_eq!(store.ledger.time_ms_for(new), NOON_MS - DAY_MS);
    }

    #[tokio::test]
    async fn a_clock_that_jumps_about_fills_no_row() {
        let (store, clock) = store().await;
        let old = store.ledger.next_number();
        clock.pass_ms(100 * DAY_MS);
        for _ in 0..100 {
            store.ledger.time_ms_for(old);
            clock.go_back_ms(2 * STEP_MS);
        }
        assert!(lock(&store.ledger.time().floors).len() <= FLOORS_MAX);
        assert_eq!(
            store.ledger.time_ms_for(old),
            NOON_MS + 100 * DAY_MS,
            "the first is the highest"
        );
    }
}
