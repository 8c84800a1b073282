//! Rows of accounts, their devices and their sessions.

use minicbor::{Decode, Encode};

/// A local account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct AccountRow {
    /// Argon2id, in PHC form; none means that no password opens it.
    #[n(0)]
    pub password_hash: Option<String>,
    /// May use the administration endpoints.
    #[n(1)]
    pub administrator: bool,
    /// No longer in use.
    #[n(2)]
    pub deactivated: bool,
    /// Milliseconds since the Unix epoch.
    #[n(3)]
    pub created_ms: u64,
    /// Global display name.
    #[n(4)]
    pub displayname: Option<String>,
    /// Global avatar.
    #[n(5)]
    pub avatar_url: Option<String>,
    /// When it was deactivated, in milliseconds since the Unix epoch.
    #[n(6)]
    pub deactivated_ms: Option<u64>,
    /// Its owner asked for their content to be erased as far as possible.
    #[n(7)]
    pub erased: Option<bool>,
    /// It was deactivated and has left all its rooms.
    #[n(8)]
    pub left_rooms: Option<bool>,
    /// An administrator has suspended it: it reads, and leaves, but says nothing.
    #[n(9)]
    pub suspended: Option<bool>,
    /// An administrator has locked it: its sessions stay, and open nothing.
    #[n(10)]
    pub locked: Option<bool>,
    /// What Synapse's tools call the user type, e.g. `bot`. Only shown.
    #[n(11)]
    pub user_type: Option<String>,
}

/// A device of a local user.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceRow {
    /// Its number.
    #[n(0)]
    pub device: u64,
    /// Its name.
    #[n(1)]
    pub display_name: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[n(2)]
    pub created_ms: u64,
    /// The digest of its access token, so that logging in again ends the old session.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub token: Vec<u8>,
    /// The digest of its refresh token, if the client asked for one.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub refresh: Option<Vec<u8>>,
    /// The access token before, alive until `token` or `refresh` is used for the first time.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub token_before: Option<Vec<u8>>,
    /// The refresh token before, alive as long as `token_before`.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub refresh_before: Option<Vec<u8>>,
    /// The app that opened its session with OAuth 2.0: its key in the list of apps. Only that app renews it.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub client: Option<Vec<u8>>,
}

/// An access token.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TokenRow {
    /// Whose.
    #[n(0)]
    pub user: u64,
    /// On which device.
    #[n(1)]
    pub device_id: String,
    /// The device's number.
    #[n(2)]
    pub device: u64,
    /// Milliseconds since the Unix epoch; none means until revoked.
    #[n(3)]
    pub expires_ms: Option<u64>,
    /// Made by a refresh and not used yet: its first use ends the tokens before it.
    #[n(4)]
    pub unused: Option<bool>,
}

/// A refresh token.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RefreshRow {
    /// Whose.
    #[n(0)]
    pub user: u64,
    /// On which device.
    #[n(1)]
    pub device_id: String,
}

/// When and from where a device last asked for something.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SeenRow {
    /// Milliseconds since the Unix epoch.
    #[n(0)]
    pub at_ms: u64,
    /// Its IP address, if it came over the network.
    #[n(1)]
    pub address: Option<String>,
    /// Up to which position it has acknowledged what it read.
    #[n(2)]
    pub synced: Option<u64>,
}

/// A registration token that an administrator gave out.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct RegistrationTokenRow {
    /// The token.
    #[n(0)]
    pub token: String,
    /// For how many accounts it is good; none: for any number.
    #[n(1)]
    pub uses_allowed: Option<u64>,
    /// How many were made with it.
    #[n(2)]
    pub completed: u64,
    /// Until when: milliseconds since the Unix epoch.
    #[n(3)]
    pub expires_ms: Option<u64>,
}
