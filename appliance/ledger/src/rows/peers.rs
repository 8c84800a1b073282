//! Rows about other servers.

use minicbor::{Decode, Encode};

/// The signing keys of another server, as it last published them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PeerKeysRow {
    /// Whose.
    #[n(0)]
    pub server_name: String,
    /// When they were fetched, in milliseconds since the Unix epoch.
    #[n(1)]
    pub fetched_ms: u64,
    /// Until when new signatures count, in milliseconds since the Unix epoch; at most seven days
    /// after they were fetched.
    #[n(2)]
    pub valid_until_ms: u64,
    /// Its keys now, and those it had.
    #[n(3)]
    pub keys: Vec<PeerKey>,
    /// What it said, with its signatures.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub json: Vec<u8>,
}

/// A signing key of another server.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PeerKey {
    /// Algorithm and version, e.g. `ed25519:abc`.
    #[n(0)]
    pub key_id: String,
    /// The public key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub public: Vec<u8>,
    /// When it went out of use, in milliseconds since the Unix epoch; none: it is in use.
    #[n(2)]
    pub expired_ms: Option<u64>,
}
