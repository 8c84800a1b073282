//! The ledger: typed keyspaces, sealed values, and the one lane that writes, numbers, audits and
//! announces.
//!
//! * [`keyspaces`] is the schema on one page, [`rows`] what the rows hold.
//! * [`View`] reads; a row that fails its seal is an error, never an answer.
//! * [`Commit`] collects what becomes true together; only a [`appliance_rules::Permit`] opens one.
//! * [`Lane`] writes: position, rows, audit chain, one sync, then the answer.
//! * [`blobs`] keeps files outside the engine, sealed under keys that end with their day.
//! * [`SealedFolder`] keeps what is made from the store and can be made again.
//! * [`state`] keeps every room state ever current as a persistent trie that shares its nodes.
//!
//! Whatever was answered survives a power cut; [`open`] refuses a store that has lost its tail.

mod acked;
pub mod blobs;
mod codec;
mod events;
mod export;
pub mod keyspaces;
mod lane;
mod ledger;
pub mod membership;
mod names;
mod number;
mod open;
mod rotate;
pub mod rows;
#[cfg(test)]
mod scenario;
mod seal;
mod sealed_folder;
pub mod state;
mod survey;
mod time;
mod touched;
mod view;

pub use appliance_engine::Direction;
pub use blobs::Blobs;
pub use codec::{KeyPart, Row};
pub use events::{Event, NewEvent, Placing, Rewriting, Stretch};
pub use export::{Exported, ImportError, import};
pub use keyspaces::Digest;
pub use lane::{Commit, Lane, LaneStopped, Rows};
pub use ledger::Ledger;
pub use open::{OpenError, Openers, open};
pub use rotate::rotate_data_keys;
pub use seal::{SecretKey, Unsealable, Vault};
pub use sealed_folder::{SealedFile, SealedFolder, SealedWriter};
pub use state::Root;
pub use survey::{KeyspaceSurvey, Survey};
pub use touched::{NobodyListens, Observer, Touched};
pub use view::{Found, View};
