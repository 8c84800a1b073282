//! Rows of pushers.

use minicbor::{Decode, Encode};

/// Where to ring when something happens.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PusherRow {
    /// The app, by ID.
    #[n(0)]
    pub app_id: String,
    /// The device, as the gateway knows it.
    #[n(1)]
    pub pushkey: String,
    /// The device that set it.
    #[n(2)]
    pub device: u64,
    /// Everything else that the client said, as JSON.
    #[n(3)]
    pub json: String,
    /// When it was set, in milliseconds since the Unix epoch.
    #[n(4)]
    pub set_ms: u64,
    /// What its gateway did not take yet, oldest first.
    #[n(5)]
    pub backlog: Option<Vec<RingRow>>,
}

/// An event that rang and that a gateway did not take yet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RingRow {
    /// The event.
    #[n(0)]
    pub event: u64,
    /// Its room.
    #[n(1)]
    pub room: u64,
    /// The sound, if any.
    #[n(2)]
    pub sound: Option<String>,
    /// It is for the user in particular.
    #[n(3)]
    pub highlight: bool,
    /// When it rang, in milliseconds since the Unix epoch.
    #[n(4)]
    pub at_ms: u64,
}
