//! Rows of the clinical policy: what the house says, sessions and their classes, openings, copies.

use minicbor::{Decode, Encode};

/// The policy of the house.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HousePolicyRow {
    /// As JSON.
    #[n(0)]
    pub json: String,
    /// Since when: milliseconds since the Unix epoch.
    #[n(1)]
    pub at_ms: u64,
}

/// The session of a device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionRow {
    /// Whose.
    #[n(0)]
    pub user: u64,
    /// On which device.
    #[n(1)]
    pub device_id: String,
    /// Its class, by its word.
    #[n(2)]
    pub class: String,
    /// When it began: milliseconds since the Unix epoch.
    #[n(3)]
    pub opened_ms: u64,
}

/// An enrolment code that nobody has used yet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EnrolmentRow {
    /// The class that it gives, by its word.
    #[n(0)]
    pub class: String,
    /// The only user who may use it, if it is not for anyone.
    #[n(1)]
    pub user: Option<u64>,
    /// Until when: milliseconds since the Unix epoch.
    #[n(2)]
    pub expires_ms: u64,
}

/// How often somebody opened a file; under user zero: how often it was opened at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct OpensRow {
    /// How often.
    #[n(0)]
    pub opens: u64,
    /// Until when the last opening lasts: milliseconds since the Unix epoch.
    #[n(1)]
    pub open_until_ms: u64,
}

/// A file was given to a device. Which, and in which form, is in the key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CopyRow {
    /// Whose device.
    #[n(0)]
    pub user: u64,
    /// Its ID.
    #[n(1)]
    pub device_id: String,
    /// When it was given last, as far as it is written: milliseconds since the Unix epoch.
    #[n(2)]
    pub at_ms: u64,
}

/// A file that was erased.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ErasureRow {
    /// Its number, under which its copies are listed.
    #[n(0)]
    pub media: u64,
    /// Its media ID.
    #[n(1)]
    pub media_id: String,
    /// The keyed digest of its bytes; none for files from before there were such.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub content: Option<Vec<u8>>,
    /// `expired`, `redacted`, or `purged`.
    #[n(3)]
    pub reason: String,
    /// From when on nobody got it: milliseconds since the Unix epoch.
    #[n(4)]
    pub refused_ms: u64,
    /// When its last trace was erased; none while it is being purged.
    #[n(5)]
    pub erased_ms: Option<u64>,
    /// Who uploaded it; none for files from before that was kept.
    #[n(6)]
    pub uploader: Option<u64>,
}

/// A file that another server was given.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PeerCopyRow {
    /// Its name.
    #[n(0)]
    pub server_name: String,
    /// When last: milliseconds since the Unix epoch.
    #[n(1)]
    pub at_ms: u64,
}

/// A server that is to be told that a file is erased, and has not confirmed it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EraseNoticeRow {
    /// Its name.
    #[n(0)]
    pub server_name: String,
    /// The file's media ID.
    #[n(1)]
    pub media_id: String,
    /// Since when nobody gets it here: milliseconds since the Unix epoch.
    #[n(2)]
    pub since_ms: u64,
    /// When that server was told last, or there was an attempt to: milliseconds since the Unix epoch; zero if
    /// there was none.
    #[n(3)]
    pub told_ms: u64,
    /// How often.
    #[n(4)]
    pub times: u64,
}

/// A file of another server that is at its end: nobody gets it by way of this one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EndedAfarRow {
    /// Who said so: its own server, or an administrator of this one.
    #[n(0)]
    pub by: String,
    /// When: milliseconds since the Unix epoch.
    #[n(1)]
    pub at_ms: u64,
}

/// The key with which this server vouches for events as a policy server: in the store, sealed as everything
/// there, so that it comes along wherever the store goes.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct PolicyServerKeyRow {
    /// The secret half: 32 bytes, Ed25519.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub seed: Vec<u8>,
    /// Since when: milliseconds since the Unix epoch.
    #[n(1)]
    pub at_ms: u64,
}

impl std::fmt::Debug for PolicyServerKeyRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PolicyServerKeyRow {{ at_ms: {}, .. }}", self.at_ms)
    }
}
