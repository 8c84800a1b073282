//! Nights of several hospitals, each explained by one number: what is lost, late, cut, repeated or dark
//! follows from the seed, and happens again with it.
//!
//! * An ordinary run plays five hundred calm nights and five hundred of quarrel. People leave and come back in both;
//!   in one night of three, rooms say which servers may take part.
//! * `make nights SEEDS=5000 FIRST=1000` plays others, on all processors (`SIM_SEEDS`, `SIM_FIRST`).
//! * `SIM_SEED=7` plays that one night again, exactly; `SIM_LOG=debug` says what the servers say.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod hospital;
mod night;
mod wire;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use night::{Mood, play};

/// Calm nights, and nights of quarrel, in an ordinary run: three minutes of one processor.
const SEEDS: [u64; 2] = [500, 500];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// One thread and a clock that jumps when nobody has anything to do: the same seed, the same night.
fn night(seed: u64, mood: Mood) -> String {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(play(seed, mood))
}

/// The seeds to play, and on how many threads: an ordinary run has other tests beside it.
fn seeds(mood: Mood) -> (Range<u64>, usize) {
    if let Some(seed) = number("SIM_SEED") {
        return (seed..seed + 1, 1);
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    match number("SIM_SEEDS") {
        Some(count) => (first..first + count, available_parallelism().map_or(1, usize::from)),
        None => (first..first + SEEDS[usize::from(mood == Mood::Quarrel)], 1),
    }
}

fn nights(mood: Mood) {
    if let Ok(level) = std::env::var("SIM_LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(level).with_test_writer().try_init();
    }
    let (seeds, threads) = seeds(mood);
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    // The others are played all the same: how many fail says much.
                    if catch_unwind(AssertUnwindSafe(|| night(seed, mood))).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let how = "play one again with `SIM_SEED=<seed> cargo nextest run -p appliance-sim nights`";
    assert!(failed.is_empty(), "{mood:?} nights that ended badly: {failed:?}; {how}");
}

#[test]
fn after_calm_nights_all_have_the_same_timeline() {
    nights(Mood::Calm);
}

#[test]
fn after_nights_of_quarrel_all_have_the_same_state() {
    nights(Mood::Quarrel);
}

#[test]
fn a_night_can_be_played_again() {
    for (seed, mood) in [(3, Mood::Calm), (4, Mood::Quarrel)] {
        assert_eq!(night(seed, mood), night(seed, mood), "seed {seed}");
    }
}
