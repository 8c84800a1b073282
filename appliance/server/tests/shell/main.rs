//! The binary as its neighbours meet it: systemd, browsers, slow peers, Prometheus, administrators.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod admin;
mod config;
mod journal;
mod limits;
mod stopping;
mod store;
mod systemd;
mod tls;
mod world;
