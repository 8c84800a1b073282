//! The clinical policy as this house has it: what the administrator set, what rooms say, and what
//! follows for one file or one session. The judgement itself is [`appliance_rules::policy`].

mod desk;
mod held;
mod prepare;

pub(crate) use desk::verdict;
pub use desk::{PolicyDesk, Question};
pub use held::{Held, PolicyOptions};
pub(crate) use held::{of_room, room_policy};
pub(crate) use prepare::prepare;

#[cfg(test)]
mod tests;
