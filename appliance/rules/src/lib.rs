//! Judgements. No I/O, no async, no clock, no dice: what is judged is handed in, what comes out is
//! a [`Permit`] or a [`Denial`].
//!
//! * [`access_list`]: which servers a room may let in by name.
//! * [`permit`]: the receipts. Only this crate makes a [`Permit`]; only a permit opens a commit.
//! * [`policy`]: who gets which file in which form, for how long, and how long sessions last.
//! * [`event_auth`]: Matrix' authorization rules on the named state.
//! * [`inbound`]: what becomes of other servers' events.
//! * [`restricted`]: rooms that members of other rooms may join.
//! * [`visibility`]: who may see an event.
//! * [`keys`]: encryption between devices.
//! * [`administration`]: what administrators may do.

pub mod access_list;
pub mod administration;
pub mod event_auth;
pub mod inbound;
pub mod keys;
pub mod permit;
mod plain_words;
pub mod policy;
pub mod restricted;
pub mod visibility;

pub use permit::{Audit, Denial, Permit};
