//! Federation with real peers over loopback and TLS: Synapse on the list, Synapse off the list, and
//! another Wardstone. Each file starts its servers once and plays several scenes with them, because a
//! Synapse takes seconds to start.

// matrix-sdk's futures nest deeply.
#![recursion_limit = "256"]
#![expect(clippy::panic, clippy::print_stderr, reason = "tests fail aloud")]

#[path = "../clients/rust_sdk.rs"]
mod rust_sdk;

mod branches;
mod captured;
mod encrypted;
mod hub;
mod lent;
mod members;
mod mutual_tls;
mod policy_server;
mod resident;
mod rooms;
mod scenes;
mod stranger;
mod talk;
mod times;
mod town;
mod two;
