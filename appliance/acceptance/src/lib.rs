//! Acceptance: a whole server, met only from outside, by the clients people use.
//!
//! Nothing here links a crate of the appliance. A test starts the `wardstone` binary on a free
//! loopback port with a temporary folder ([`server`]) and meets it over HTTP: through client SDKs
//! ([`device`]: matrix-sdk inside the test, matrix-js-sdk and matrix-nio as processes that read
//! commands), or with raw requests ([`http`]) where an SDK is too polite to send nonsense.
//!
//! `WARDSTONE_TEST_TARGET=synapse` runs the same scenarios against Synapse, so that a failure tells
//! whether the server or the suite is wrong. `README.md` has the recipes.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    reason = "all of this runs in tests, and tests fail aloud"
)]

pub mod authority;
pub mod device;
pub mod endpoints;
pub mod http;
pub mod person;
pub mod server;
pub mod wait;
