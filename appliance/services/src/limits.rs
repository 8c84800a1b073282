//! How often things may be done: a token bucket per kind and per person, account or address.
//!
//! Buckets live in memory and their number is bounded: what is forgotten is a bucket nobody has
//! touched for long, and a forgotten bucket is a full one. A restart fills all of them, which gives
//! an attacker one more burst and nobody an outage.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use appliance_model::{Clock, Error, Kind, UserNid};

use crate::recent::Recent;

/// A bucket that holds `burst` and fills with `per_second`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How many per second in the long run.
    pub per_second: f64,
    /// How many at once.
    pub burst: u32,
}

/// The rates of a house.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimits {
    /// Messages and other writes of one person.
    pub message: Rate,
    /// Log-in attempts and token renewals from one address.
    pub login: Rate,
    /// Failed password attempts on one account from one address; ten times that from all addresses
    /// together, so that one attacker cannot lock an account for its owner.
    pub failed_login: Rate,
    /// Account creations from one address.
    pub registration: Rate,
    /// Rooms created, joined or invited to by one person.
    pub room: Rate,
    /// Uploads of one person.
    pub media: Rate,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            message: Rate { per_second: 10.0, burst: 100 },
            login: Rate { per_second: 1.0, burst: 30 },
            failed_login: Rate { per_second: 0.1, burst: 5 },
            registration: Rate { per_second: 0.1, burst: 5 },
            room: Rate { per_second: 1.0, burst: 30 },
            media: Rate { per_second: 5.0, burst: 50 },
        }
    }
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// A message or another write.
    Message,
    /// An attempt to sign in or to renew a session.
    Login,
    /// A wrong password for one account from one address.
    FailedLogin,
    /// A wrong password for one account from anywhere.
    FailedLoginAnywhere,
    /// A new account, or a question about one.
    Registration,
    /// A room created, joined or invited to.
    Room,
    /// An upload.
    Media,
}

/// Whose bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A signed-in person's.
    User(UserNid),
    /// An address's. `None` is everyone who comes without one: local sockets.
    Address(Option<IpAddr>),
    /// That of a name that may or may not be an account, by digest.
    Name([u8; 16]),
}

impl Whose {
    /// "One IPv6 /64" is one customer of a network operator, as one IPv4 address is.
    fn normal(self) -> Self {
        match self {
            Self::Address(Some(IpAddr::V6(address))) => match address.to_ipv4_mapped() {
                Some(mapped) => Self::Address(Some(mapped.into())),
                None => {
                    let network = address.to_bits() & !u128::from(u64::MAX);
                    Self::Address(Some(IpAddr::V6(network.into())))
                }
            },
            other => other,
        }
    }
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.normal())
    }
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled_ms: u64,
}

/// Buckets kept: about 80 bytes each.
const BUCKETS_MAX: usize = 50_000;
/// All addresses together may guess this many times as often as one.
const ANYWHERE_FACTOR: f64 = 10.0;

/// The buckets.
pub struct Limits {
    rates: Option<RateLimits>,
    clock: Arc<dyn Clock>,
    buckets: Mutex<Recent<(Limit, Whose), Bucket>>,
    exempt: Mutex<Recent<UserNid, ()>>,
}

impl Limits {
    /// `None` limits nothing.
    pub fn new(rates: Option<RateLimits>, clock: Arc<dyn Clock>) -> Self {
        let buckets = Mutex::new(Recent::new(BUCKETS_MAX));
        Self { rates, clock, buckets, exempt: Mutex::new(Recent::new(BUCKETS_MAX)) }
    }

    /// From now on nothing that this user does is limited.
    pub fn exempt(&self, user: UserNid) {
        if self.rates.is_some() {
            self.lock_exempt().insert(user, ());
        }
    }

    /// Everybody is limited again, until exempted anew.
    pub fn no_longer_exempt(&self) {
        self.lock_exempt().drain().for_each(drop);
    }

    fn lock_exempt(&self) -> MutexGuard<'_, Recent<UserNid, ()>> {
        self.exempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one `limit` on behalf of `whose`.
    ///
    /// # Errors
    ///
    /// [`Kind::Limited`] if the bucket is empty; nothing is taken then.
    pub fn take(&self, limit: Limit, whose: Whose) -> Result<(), Error> {
        self.count(limit, whose, 1.0)
    }

    /// A signed-in person sends a message or writes something else.
    ///
    /// # Errors
    ///
    /// As [`Limits::take`].
    pub fn message(&self, user: UserNid) -> Result<(), Error> {
        self.take(Limit::Message, Whose::User(user))
    }

    /// A signed-in person makes a room, enters one, or asks others in.
    ///
    /// # Errors
    ///
    /// As [`Limits::take`].
    pub fn room(&self, user: UserNid) -> Result<(), Error> {
        self.take(Limit::Room, Whose::User(user))
    }

    /// Whether one more would be allowed; takes nothing. For what counts only when it fails.
    ///
    /// # Errors
    ///
    /// As [`Limits::take`].
    pub fn check(&self, limit: Limit, whose: Whose) -> Result<(), Error> {
        self.count(limit, whose, 0.0)
    }

    fn count(&self, limit: Limit, whose: Whose, tokens: f64) -> Result<(), Error> {
        let Some(Rate { per_second, burst }) = self.rate(limit) else { return Ok(()) };
        if let Whose::User(user) = whose
            && self.lock_exempt().get(&user).is_some()
        {
            return Ok(());
        }
        let (burst, now_ms) = (f64::from(burst.max(1)), self.clock.now_ms());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket =
            buckets.entry((limit, whose.normal()), || Bucket { tokens: burst, filled_ms: now_ms });
        // A clock that steps back fills nothing, and does not stop the filling either.
        let passed_ms = now_ms.saturating_sub(bucket.filled_ms);
        bucket.filled_ms = now_ms;
        bucket.tokens = (bucket.tokens + per_second * seconds(passed_ms)).min(burst);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= tokens;
            return Ok(());
        }
        let retry_after_ms = milliseconds((1.0 - bucket.tokens) / per_second);
        metrics::counter!("wardstone_rate_limited_total").increment(1);
        Err(Error::new(Kind::Limited { retry_after_ms }, "Too many requests. Wait a little."))
    }

    fn rate(&self, limit: Limit) -> Option<Rate> {
        let rates = self.rates.as_ref()?;
        Some(match limit {
            Limit::Message => rates.message,
            Limit::Login => rates.login,
            Limit::FailedLogin => rates.failed_login,
            Limit::FailedLoginAnywhere => Rate {
                per_second: rates.failed_login.per_second * ANYWHERE_FACTOR,
                burst: rates.failed_login.burst.saturating_mul(10),
            },
            Limit::Registration => rates.registration,
            Limit::Room => rates.room,
            Limit::Media => rates.media,
        })
    }
}

/// A day is more than any bucket needs to fill; beyond it precision would be lost.
const FILL_MS_MAX: u64 = 86_400_000;

fn seconds(ms: u64) -> f64 {
    f64::from(u32::try_from(ms.min(FILL_MS_MAX)).unwrap_or(u32::MAX)) / 1_000.0
}

/// At least one, at most a day: what a client can be told to wait.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a range that fits"
)]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1_000.0).ceil().clamp(1.0, 86_400_000.0) as u64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use appliance_model::ruma::{MilliSecondsSinceUnixEpoch, UInt};

    use super::*;

    struct At(AtomicU64);

    impl Clock for At {
        fn now(&self) -> MilliSecondsSinceUnixEpoch {
            MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.0.load(Ordering::SeqCst)))
        }
    }

    fn limits(per_second: f64, burst: u32) -> (Limits, Arc<At>) {
        let clock = Arc::new(At(AtomicU64::new(1_000_000)));
        let rates = RateLimits { login: Rate { per_second, burst }, ..RateLimits::default() };
        (Limits::new(Some(rates), clock.clone()), clock)
    }

    const ONE: Whose = Whose::User(UserNid(1));

    #[test]
    fn a_burst_then_the_rate_then_a_wait_that_is_told() {
        let (limits, clock) = limits(2.0, 3);
        for _ in 0..3 {
            limits.take(Limit::Login, ONE).unwrap();
        }
        let refused = limits.take(Limit::Login, ONE).unwrap_err();
        assert_eq!(refused.kind, Kind::Limited { retry_after_ms: 500 });
        limits.take(Limit::Login, Whose::User(UserNid(2))).unwrap();
        clock.0.fetch_add(500, Ordering::SeqCst);
        limits.take(Limit::Login, ONE).unwrap();
        limits.take(Limit::Login, ONE).unwrap_err();
    }

    #[test]
    fn asking_takes_nothing_and_a_clock_that_steps_back_neither_gives_nor_blocks() {
        let (limits, clock) = limits(1.0, 1);
        for _ in 0..5 {
            limits.check(Limit::Login, ONE).unwrap();
        }
        limits.take(Limit::Login, ONE).unwrap();
        clock.0.fetch_sub(900_000, Ordering::SeqCst);
        limits.take(Limit::Login, ONE).unwrap_err();
        clock.0.fetch_add(1_000, Ordering::SeqCst);
        limits.take(Limit::Login, ONE).unwrap();
    }

    #[test]
    fn one_network_is_one_peer_and_no_rates_limit_nothing() {
        let (limits, clock) = limits(1.0, 1);
        let from = |text: &str| Whose::Address(Some(text.parse().unwrap()));
        limits.take(Limit::Login, from("2001:db8::1")).unwrap();
        limits.take(Limit::Login, from("2001:db8::ffff")).unwrap_err();
        limits.take(Limit::Login, from("2001:db8:0:1::1")).unwrap();
        limits.take(Limit::Login, from("192.0.2.1")).unwrap();
        limits.take(Limit::Login, from("::ffff:192.0.2.1")).unwrap_err();

        let free = Limits::new(None, clock);
        for _ in 0..1_000 {
            free.take(Limit::Login, ONE).unwrap();
        }
    }
}
