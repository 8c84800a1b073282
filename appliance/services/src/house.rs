//! What all services share: the ledger, time, chance, the server's name and signing key.

use std::sync::Arc;

use appliance_ledger::{Blobs, Ledger};
use appliance_model::ruma::signatures::Ed25519KeyPair;
use appliance_model::ruma::{OwnedServerName, RoomVersionId, UserId};
use appliance_model::{Clock, Dice};

use crate::media::MediaOptions;

/// The house.
pub struct House {
    /// Typed rows to read, commits to make.
    pub ledger: Ledger,
    /// Files, outside the store.
    pub blobs: Blobs,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub dice: Arc<dyn Dice>,
    /// The name of this server.
    pub server_name: OwnedServerName,
    /// The key that signs this server's events.
    pub signing_key: Ed25519KeyPair,
    /// What the operator chose.
    pub options: Options,
}

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may make an account.
    pub registration: Registration,
    /// The room version of new rooms.
    pub default_room_version: RoomVersionId,
    /// The URL clients reach this server at, for `.well-known`.
    pub public_base_url: Option<String>,
    /// Hash passwords cheaply: for conformance suites only.
    pub cheap_password_hash: bool,
    /// Show who is online.
    pub presence: bool,
    /// Limit how often things may be done.
    pub rate_limits: bool,
    /// Files and how long they live.
    pub media: MediaOptions,
}

/// Who may make an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Only the administrator.
    Closed,
    /// Whoever has one of these registration tokens.
    Token(Vec<String>),
    /// Anyone: for conformance suites only.
    Open,
}

impl House {
    /// Whether a user is one of ours.
    pub fn is_ours(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.server_name
    }
}
