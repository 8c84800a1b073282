//! What people do, done by three client SDKs against one server.

// matrix-sdk's futures nest deeply.
#![recursion_limit = "256"]
#![expect(clippy::print_stderr, reason = "a test that fails is understood by what it saw")]

mod demo;
mod element_x;
mod rust_sdk;
mod ward;

mod browser_cache;
mod conversation;
mod element_web;
mod kept;
mod kept_out;
mod kill;
mod nheko;
mod oauth;
mod over;
mod photo_page;
mod terminal;
