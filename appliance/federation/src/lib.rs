//! Speaking to other servers.
//!
//! * [`names`]: from a server's name to where it is: literals, ports, `.well-known`, SRV, 8448.
//! * [`client`]: sends a request there, through the house's one door out.
//! * [`outbox`]: empties the queues of what other servers are owed.
//!
//! What is said, and what is believed, is the business of `services/src/peers`.

mod client;
mod names;
pub mod outbox;

pub use client::Client;
