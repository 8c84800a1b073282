//! The binary as its neighbours meet it: systemd, browsers, slow peers, Prometheus, administrators.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "real processes are waited for in real time")]

mod admin;
mod config;
mod journal;
mod limits;
mod peers;
mod stopping;
mod store;
mod systemd;
mod tls;
mod world;
