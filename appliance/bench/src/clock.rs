//! The one place of the bench that reads a clock.

use std::time::{Duration, Instant};

/// A running stopwatch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts one.
    #[expect(clippy::disallowed_methods, reason = "a yardstick for time must read the time")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    #[expect(clippy::disallowed_methods, reason = "a yardstick for time must read the time")]
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Milliseconds since the start.
    pub(crate) fn ms(self) -> f64 {
        self.elapsed().as_secs_f64() * 1e3
    }
}

/// A number that differs between runs, for names that must not repeat.
#[expect(clippy::disallowed_methods, reason = "two runs against one store must not collide")]
pub(crate) fn run_number() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() & 0xff_ffff)
}
