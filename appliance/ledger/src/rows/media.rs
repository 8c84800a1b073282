//! Rows about uploaded files. The files themselves are blobs, outside the engine.

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

/// An uploaded file, or an ID reserved for one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MediaRow {
    /// Its media ID.
    #[n(0)]
    pub media_id: String,
    /// Who uploaded it.
    #[n(1)]
    pub uploader: u64,
    /// From which device.
    #[n(2)]
    pub device: u64,
    /// How far it is.
    #[n(3)]
    pub stage: Stage,
    /// When it was uploaded (or reserved): milliseconds since the Unix epoch.
    #[n(4)]
    pub at_ms: u64,
    /// From when on nobody gets it, by the server's own limit: milliseconds since the Unix epoch. What
    /// refers to it can only make it earlier. While reserved: until when it may be uploaded.
    #[n(5)]
    pub deadline_ms: u64,
    /// Its length in bytes.
    #[n(6)]
    pub bytes: u64,
    /// What the uploader says it is.
    #[n(7)]
    pub content_type: Option<String>,
    /// What the uploader calls it.
    #[n(8)]
    pub filename: Option<String>,
    /// The name of its blob.
    #[n(9)]
    pub blob: String,
    /// The day whose key wraps its data key.
    #[n(10)]
    pub key_day: u64,
    /// Its data key, wrapped; empty once it is being purged.
    #[cbor(n(11), with = "minicbor::bytes")]
    pub wrapped_key: Vec<u8>,
    /// The keyed digest of its bytes.
    #[cbor(n(12), with = "minicbor::bytes")]
    pub content: Option<Vec<u8>>,
    /// What its first bytes show it to be, if they show anything.
    #[n(13)]
    pub sniffed: Option<String>,
    /// The hospital's own camera page took it.
    #[n(14)]
    pub is_captured: Option<bool>,
    /// A picture without what its camera wrote beside it.
    #[n(15)]
    pub is_clean: Option<bool>,
}

/// What a user has uploaded that is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct UsageRow {
    /// Files.
    #[n(0)]
    pub files: u64,
    /// Bytes.
    #[n(1)]
    pub bytes: u64,
    /// A limit of their own, in bytes.
    #[n(2)]
    pub quota_bytes: Option<u64>,
}

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Stage {
    /// Its ID is reserved.
    #[n(0)]
    Reserved,
    /// It is there.
    #[n(1)]
    Present,
    /// Nobody gets it any more; its file may still be on the disk.
    #[n(2)]
    Purging,
}

/// What refers to a file. Class, deadline and referrer are in the key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkRow {
    /// The room of the event; none for a user's avatar.
    #[n(0)]
    pub room: Option<u64>,
    /// The event was redacted: it shows nothing any more, but the deadline it set stays.
    #[n(1)]
    pub redacted: Option<bool>,
    /// What the message itself asks for, as JSON.
    #[n(2)]
    pub hint: Option<String>,
    /// What the event shows that lies on other servers: digests of the URIs.
    #[n(3)]
    pub afar: Option<Vec<ByteArray<16>>>,
}

/// The uploader's own visible reference: shortens the file's life, and is redacted with it.
pub const LINK_OWN: u8 = 0;
/// An encrypted event that may be about the file: shortens its life, is never redacted by guess.
pub const LINK_GUESSED: u8 = 1;
/// Somebody else's reference: has a deadline of its own, and is redacted then or with the file.
pub const LINK_OTHER: u8 = 2;
/// A use that outlives messages: avatar, image pack. While there is one, the server's own limit does
/// not end the file.
pub const LINK_KEPT: u8 = 3;

/// Somebody opened the file first: it ends some time after.
pub const LINK_OPENED: u8 = 4;

/// A reference, as its room knows it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RoomMediaRow {
    /// The class.
    #[n(0)]
    pub class: u8,
    /// Milliseconds since the Unix epoch; zero if it has none.
    #[n(1)]
    pub deadline_ms: u64,
    /// When it was sent: milliseconds since the Unix epoch.
    #[n(2)]
    pub at_ms: u64,
}

/// Why a file is being erased, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PurgeRow {
    /// `expired`, `redacted` or `purged`.
    #[n(0)]
    pub reason: String,
    /// Milliseconds since the Unix epoch.
    #[n(1)]
    pub at_ms: u64,
}

/// An event to be redacted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RedactionRow {
    /// Its room.
    #[n(0)]
    pub room: u64,
    /// The file that it showed.
    #[n(1)]
    pub media: Option<u64>,
}

/// An encrypted file that waits for the event that is about it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UnboundRow {
    /// When it was uploaded: milliseconds since the Unix epoch.
    #[n(0)]
    pub at_ms: u64,
    /// An event that may be about it has been seen.
    #[n(1)]
    pub bound: bool,
}
