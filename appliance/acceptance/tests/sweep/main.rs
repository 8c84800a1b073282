//! Nonsense at every route: the right refusal, no 500, no panic, no hang, memory within bounds.
//!
//! What is asked comes from the specification's list of endpoints. Where the server says that it
//! does not know a route (`404 M_UNRECOGNIZED`), the rest of that route's cases are left out; how
//! many it must know is a number below.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    reason = "a sweep tells what it swept, and stops when it is wrong itself"
)]

mod cases;
mod raw;
mod routes;
mod stage;
mod verdict;
