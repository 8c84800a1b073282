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
    /// What it said, with its signatures; empty if nothing of it counts.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub json: Vec<u8>,
    /// Keys that it showed last, for which no pinned key vouches: they do not count.
    #[n(5)]
    pub unapproved: Option<Vec<PeerKey>>,
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

/// A message to another server that is no event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct EduRow {
    /// `edu_type` and `content` as JSON, if that was known when it was owed.
    #[n(0)]
    pub json: Option<String>,
    /// Otherwise: which device changed. What there is to say of it is said when it is sent.
    #[n(1)]
    pub device: Option<DeviceNews>,
    /// Otherwise: whose cross-signing keys changed.
    #[n(2)]
    pub signing_keys: Option<u64>,
}

/// A device that came, changed or went.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeviceNews {
    /// Whose.
    #[n(0)]
    pub user: u64,
    /// Its ID.
    #[n(1)]
    pub device_id: String,
    /// The position of the change before it, if there was one.
    #[n(2)]
    pub previous: Option<u64>,
}

/// The keys of another server's user and their devices, as that server told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RemoteKeysRow {
    /// When, in milliseconds since the Unix epoch; zero once it was told that they changed.
    #[n(0)]
    pub fetched_ms: u64,
    /// Devices to keys, as JSON.
    #[n(1)]
    pub device_keys: String,
    /// The master key, as JSON.
    #[n(2)]
    pub master_key: Option<String>,
    /// The self-signing key, as JSON.
    #[n(3)]
    pub self_signing_key: Option<String>,
}

/// Another server that is owed something, or was.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OwedRow {
    /// Its name.
    #[n(0)]
    pub server_name: String,
}

/// Another hospital, as the administrator describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PeerRow {
    /// The name of its server.
    #[n(0)]
    pub server_name: String,
    /// Its name as an organisation.
    #[n(1)]
    pub legal_name: String,
    /// Whom to call there.
    #[n(2)]
    pub contact: String,
    /// Nothing is exchanged for now.
    #[n(3)]
    pub suspended: bool,
    /// Files may be given to it.
    #[n(4)]
    pub media: bool,
    /// Signing keys that count: one of them must vouch for all others. Key ID and public key in
    /// unpadded Base64. Empty: whatever the server says.
    #[n(5)]
    pub pinned_keys: Vec<(String, String)>,
    /// When this was last changed, in milliseconds since the Unix epoch.
    #[n(6)]
    pub changed_ms: u64,
    /// Numbers in registers: the name of the register and the number.
    #[n(7)]
    pub identifiers: Option<Vec<(String, String)>>,
    /// Whose law holds there.
    #[n(8)]
    pub jurisdiction: Option<String>,
    /// Under which contract this is done.
    #[n(9)]
    pub contract: Option<String>,
    /// Nothing is exchanged before: milliseconds since the Unix epoch.
    #[n(10)]
    pub valid_from_ms: Option<u64>,
    /// Nothing is exchanged from then on: milliseconds since the Unix epoch.
    #[n(11)]
    pub valid_until_ms: Option<u64>,
    /// Its people may invite ours; none: yes.
    #[n(12)]
    pub may_invite: Option<bool>,
    /// Its people may be invited; none: yes.
    #[n(13)]
    pub may_be_invited: Option<bool>,
    /// Where to connect to instead of asking where it is: a host or an address, with or without a port.
    #[n(14)]
    pub address: Option<String>,
    /// Whom its certificate must name, if not its server name. Only together with an address.
    #[n(15)]
    pub tls_name: Option<String>,
    /// The only authorities whose certificates count for it, in PEM.
    #[n(16)]
    pub authorities: Option<String>,
    /// SHA-256 of the only public keys (`SubjectPublicKeyInfo`) that its certificate may have.
    #[n(17)]
    pub certificate_pins: Option<Vec<minicbor::bytes::ByteVec>>,
    /// Six words that both sides see after a handshake, to compare.
    #[n(18)]
    pub check_phrase: Option<String>,
    /// The classes of rooms that are shared with it; none: all that are shared at all.
    #[n(19)]
    pub room_kinds: Option<Vec<String>>,
    /// Files are given to it with less freedom: 1 marked as something to be passed on, 2 lent only.
    #[n(20)]
    pub media_limit: Option<u8>,
    /// The only authorities of the certificate that it must show when it connects here, in PEM.
    #[n(21)]
    pub client_authorities: Option<String>,
    /// SHA-256 of the only public keys that this certificate may have.
    #[n(22)]
    pub client_pins: Option<Vec<minicbor::bytes::ByteVec>>,
    /// It is shown this server's certificate; none: it is not.
    #[n(23)]
    pub show_certificate: Option<bool>,
}

/// A peer that cannot be reached, or could not until a while ago.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct AwayRow {
    /// The name of its server.
    #[n(0)]
    pub server_name: String,
    /// Since when, in milliseconds since the Unix epoch.
    #[n(1)]
    pub since_ms: u64,
    /// Until when, in milliseconds since the Unix epoch; none: it still is.
    #[n(2)]
    pub back_ms: Option<u64>,
}

/// An offer to exchange rooms, for as long as it is good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct OfferRow {
    /// The other side.
    #[n(0)]
    pub server_name: String,
    /// Until when it is good, in milliseconds since the Unix epoch.
    #[n(1)]
    pub until_ms: u64,
    /// The offer, if it is this server's and open; none: the other side's, and used.
    #[n(2)]
    pub letter: Option<minicbor::bytes::ByteVec>,
}

/// The last good federation list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ListRow {
    /// Its version.
    #[n(0)]
    pub version: u64,
    /// When it was last found where it should be, in milliseconds since the Unix epoch.
    #[n(1)]
    pub confirmed_ms: u64,
    /// As it is signed.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub jws: Vec<u8>,
}

/// A destination that was contacted or refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct DestinationRow {
    /// What for.
    #[n(0)]
    pub purpose: String,
    /// Host and port.
    #[n(1)]
    pub host: String,
    /// The address last connected to.
    #[n(2)]
    pub address: Option<String>,
    /// Connections opened.
    #[n(3)]
    pub connected: u64,
    /// Requests and connections refused.
    #[n(4)]
    pub refused: u64,
    /// Why the last one was refused.
    #[n(5)]
    pub why_refused: Option<String>,
    /// When it was first seen, in milliseconds since the Unix epoch.
    #[n(6)]
    pub first_ms: u64,
    /// When it was last seen, in milliseconds since the Unix epoch.
    #[n(7)]
    pub last_ms: u64,
}

/// A join that another server was asked to take.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JoinInDoubtRow {
    /// The room.
    #[n(0)]
    pub room_id: String,
    /// Our user.
    #[n(1)]
    pub user_id: String,
    /// The other server.
    #[n(2)]
    pub server_name: String,
    /// The join's `origin_server_ts`, in milliseconds since the Unix epoch.
    #[n(3)]
    pub dated_ms: u64,
    /// When it was sent, in milliseconds since the Unix epoch.
    #[n(4)]
    pub at_ms: u64,
}

/// An event that came and could not be judged.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UnjudgedRow {
    /// The room.
    #[n(0)]
    pub room_id: String,
    /// The server that sent it.
    #[n(1)]
    pub server_name: String,
    /// The event.
    #[n(2)]
    pub event_id: String,
    /// When it came, in milliseconds since the Unix epoch.
    #[n(3)]
    pub since_ms: u64,
    /// How often it was asked for since.
    #[n(4)]
    pub tries: u32,
    /// When it is asked for next, in milliseconds since the Unix epoch.
    #[n(5)]
    pub retry_ms: u64,
}
