//! Rooms that several servers share: what other servers send, ask and answer.
//!
//! This is the part that knows rooms. It is handed JSON by whoever speaks the wire ([`OtherServers`]) and
//! hands JSON back; it neither signs requests nor opens connections.
//!
//! * `receive`: one way in for every event of another server, however it came.
//! * `resolve`: what several branches of a room make of its state.
//! * [`line`]: what is asked of other servers.
//! * `join`, `leave`, `knock`, `invite`: what our users do in rooms of other servers.
//! * `transaction`: what other servers send; `serve`: what they read; `history`: what we read of them.
//! * `wire`: how it all goes through the door out.
//! * `make_member`, `send_member`, `invited`: what other servers' users do through this one.

mod auth_graph;
mod check;
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
mod town;
mod transaction;
mod visible;
mod wire;

use appliance_ledger::Commit;
use appliance_model::ruma::OwnedServerName;
use appliance_model::{Error, EventNid};

pub use invited::InviteBody;
pub use line::{Ask, Line, OtherServers};
pub use serve::MissingQuery;

use crate::house::House;

/// Notes in `commit` that these servers are owed an event. The queue of outgoing events is written in
/// the same commit, so that no event is acknowledged and then forgotten.
///
/// # Errors
///
/// If the store fails.
pub(crate) async fn owe(
    _house: &House,
    event: EventNid,
    servers: Vec<OwnedServerName>,
    commit: &mut Commit,
) -> Result<(), Error> {
    commit.touched().outgoing.push((event, servers));
    Ok(())
}
