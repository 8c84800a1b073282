//! What a disk can do to a store: lose what was not synced, tear what it was writing, be full, fail.
//!
//! The work runs in a process of its own with `recorder.c` loaded before its C library, so that every
//! call that changes a file is seen in order, whoever makes it. No power is cut: the images of a disk
//! after a power cut are built from that record.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise, and says which seed it was"
)]

mod image;
mod power_cut;
mod recorder;
mod seeded;
mod trouble;
mod work;
