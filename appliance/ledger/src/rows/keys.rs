//! Rows of end-to-end encryption: public keys, deliveries to devices, key backups. All of it is
//! public keys or ciphertext: the server can read none of what it protects.

use minicbor::{Decode, Encode};

/// The identity keys of a device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceKeysRow {
    /// The device ID.
    #[n(0)]
    pub device_id: String,
    /// Canonical JSON as uploaded, without `signatures` and `unsigned`: exactly what is signed.
    #[n(1)]
    pub json: String,
    /// Its signatures, sorted: those uploaded with it and those added since.
    #[n(2)]
    pub signatures: Vec<SignatureRow>,
}

/// A signature on a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct SignatureRow {
    /// The user who signed.
    #[n(0)]
    pub signer: String,
    /// The key that signed, with its algorithm.
    #[n(1)]
    pub key_id: String,
    /// Unpadded base64.
    #[n(2)]
    pub signature: String,
}

/// A cross-signing key of a user.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CrossSigningRow {
    /// The public key, unpadded base64.
    #[n(0)]
    pub public_key: String,
    /// Canonical JSON as uploaded, without `signatures` and `unsigned`: exactly what is signed.
    #[n(1)]
    pub json: String,
    /// Its signatures by the user's own keys, sorted.
    #[n(2)]
    pub signatures: Vec<SignatureRow>,
}

/// One user's signature on another's master key. Only the signer may see it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TrustRow {
    /// The master key that was signed.
    #[n(0)]
    pub public_key: String,
    /// The signature.
    #[n(1)]
    pub signature: SignatureRow,
    /// Since which position.
    #[n(2)]
    pub position: u64,
}

/// What a device has in stock for those who start a conversation with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct StockRow {
    /// One entry per algorithm ever uploaded; its index is part of the one-time keys' key.
    #[n(0)]
    pub algorithms: Vec<AlgorithmStock>,
    /// At most one per algorithm.
    #[n(1)]
    pub fallbacks: Vec<FallbackRow>,
}

/// One-time keys of one algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AlgorithmStock {
    /// The algorithm.
    #[n(0)]
    pub algorithm: String,
    /// How many are unclaimed.
    #[n(1)]
    pub count: u64,
    /// The number of the next one uploaded.
    #[n(2)]
    pub next: u64,
}

/// The key given out when the one-time keys are used up.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FallbackRow {
    /// The algorithm.
    #[n(0)]
    pub algorithm: String,
    /// Algorithm and key ID.
    #[n(1)]
    pub key_id: String,
    /// Canonical JSON, as uploaded.
    #[n(2)]
    pub json: String,
    /// It has been given out; the device should replace it.
    #[n(3)]
    pub used: bool,
}

/// A one-time key nobody has claimed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OneTimeKeyRow {
    /// Algorithm and key ID.
    #[n(0)]
    pub key_id: String,
    /// Canonical JSON, as uploaded.
    #[n(1)]
    pub json: String,
}

/// A one-time key that was claimed: a late retry of its upload must not bring it back.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClaimedKeyRow {
    /// Algorithm and key ID.
    #[n(0)]
    pub key_id: String,
    /// Digest of its JSON.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub digest: Vec<u8>,
}

/// A message waiting for a device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ToDeviceRow {
    /// The event as the device will see it: content, sender, type.
    #[n(0)]
    pub json: String,
    /// Milliseconds since the Unix epoch.
    #[n(1)]
    pub at_ms: u64,
}

/// The newest requests of a device to send to others, so that a repeated one is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SentRow {
    /// Digests of path and transaction ID, 16 bytes each, oldest first.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub digests: Vec<u8>,
}

/// A version of a user's key backup.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BackupRow {
    /// How the keys are encrypted.
    #[n(0)]
    pub algorithm: String,
    /// JSON, as uploaded.
    #[n(1)]
    pub auth_data: String,
    /// Raised with every change of a key.
    #[n(2)]
    pub etag: u64,
    /// How many keys it holds.
    #[n(3)]
    pub count: u64,
    /// The user deleted it; its number is not used again.
    #[n(4)]
    pub deleted: bool,
}

/// A session in a key backup.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BackedUpKeyRow {
    /// The room the session belongs to.
    #[n(0)]
    pub room_id: String,
    /// The client verified where it came from.
    #[n(1)]
    pub is_verified: bool,
    /// The first message it can decrypt.
    #[n(2)]
    pub first_message_index: u64,
    /// How often it was passed on.
    #[n(3)]
    pub forwarded_count: u64,
    /// JSON, as uploaded.
    #[n(4)]
    pub json: String,
}
