//! Federation with real peers over loopback and TLS: Synapse on the list, Synapse off the list, and
//! another Wardstone. Each file starts its servers once and plays several scenes with them, because a
//! Synapse takes seconds to start.

#![expect(clippy::panic, clippy::print_stderr, reason = "tests fail aloud")]

mod members;
mod resident;
mod rooms;
mod scenes;
mod talk;
mod town;
