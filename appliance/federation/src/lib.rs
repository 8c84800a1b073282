//! Speaking to other servers.
//!
//! So far this server only says who it is ([`own_keys`]), so that another hospital can pin its key
//! before the two begin to talk. It accepts no events from outside and contacts nobody.

pub mod own_keys;
