//! Nights of several hospitals, each explained by one number: what is lost, late, cut, repeated or dark
//! follows from the seed, and happens again with it.
//!
//! * `SIM_SEEDS=1000` plays so many seeds of each mood; without it a few, because every change waits for
//!   them.
//! * `SIM_SEED=7` plays that one night again, exactly; `SIM_LOG=debug` says what the servers say.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod hospital;
mod night;
mod wire;

use std::panic::AssertUnwindSafe;

use night::{Mood, play};

/// Nights of each mood in an ordinary run.
const SEEDS: u64 = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// One thread and a clock that jumps when nobody has anything to do: the same seed, the same night.
fn night(seed: u64, mood: Mood) -> String {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(play(seed, mood))
}

fn nights(mood: Mood) {
    if let Ok(level) = std::env::var("SIM_LOG") {
        let _ = tracing_subscriber::fmt().with_env_filter(level).with_test_writer().try_init();
    }
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut failed = Vec::new();
    for seed in seeds {
        // The others are played all the same: how many fail says much.
        if std::panic::catch_unwind(AssertUnwindSafe(|| night(seed, mood))).is_err() {
            failed.push(seed);
        }
    }
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
