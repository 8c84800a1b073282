//! Rooms that several servers share: what other servers send, ask and answer.
//!
//! This is the part that knows rooms. It is handed JSON by whoever speaks the wire ([`OtherServers`]) and
//! hands JSON back; it neither signs requests nor opens connections.
//!
//! * `receive`: one way in for every event of another server, however it came.
//! * `farewell`: out of a room without having seen it coming.
//! * `resolve`: what several branches of a room make of its state.
//! * [`line`]: what is asked of other servers.
//! * `join`, `leave`, `knock`, `invite`: what our users do in rooms of other servers; `doubt` and `dates`: what of it
//!   may turn up late.
//! * `again`: what could not be judged when it came.
//! * `transaction`: what other servers send; `serve`: what they read; `history`: what we read of them.
//! * `wire`: how it all goes through the door out.
//! * `make_member`, `send_member`, `invited`: what other servers' users do through this one.

mod again;
mod auth_graph;
mod check;
mod dates;
mod doubt;
mod farewell;
mod fetch;
mod history;
mod invite;
mod invited;
mod join;
mod knock;
mod leave;
pub mod line;
mod make_member;
mod receive;
mod resident;
mod resolve;
mod send_member;
mod serve;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod town;
mod transaction;
mod visible;
mod wire;

pub(crate) use check::{formed, room_named_in};
pub use invited::InviteBody;
pub use line::{Ask, Line, OtherServers};
pub(crate) use receive::only_this_one;
pub use serve::MissingQuery;
