//! Rows of the smaller families: OpenID, profile fields, dehydrated devices, thread subscriptions,
//! delayed events, and what administrators keep.

use minicbor::{Decode, Encode};

/// A token with which a user shows somebody else who they are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OpenIdRow {
    /// Whose.
    #[n(0)]
    pub user: u64,
    /// Milliseconds since the Unix epoch.
    #[n(1)]
    pub expires_ms: u64,
}

/// An app that registered itself to sign people in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OAuthClientRow {
    /// The page that says what it is: all its other addresses are on that host.
    #[n(0)]
    pub uri: String,
    /// What it calls itself.
    #[n(1)]
    pub name: Option<String>,
    /// Where browsers may be sent back to.
    #[n(2)]
    pub redirect_uris: Vec<String>,
    /// It runs on a device and not in a browser.
    #[n(3)]
    pub is_native: bool,
    /// Its terms of service.
    #[n(4)]
    pub tos_uri: Option<String>,
    /// What it does with people's data.
    #[n(5)]
    pub policy_uri: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[n(6)]
    pub registered_ms: u64,
    /// The day on which somebody signed in with it last, as milliseconds since the Unix epoch.
    #[n(7)]
    pub used_ms: Option<u64>,
}

/// A profile field.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProfileFieldRow {
    /// Its value, as JSON.
    #[n(0)]
    pub json: String,
}

/// A device that lies frozen on the server.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DehydratedRow {
    /// Its ID.
    #[n(0)]
    pub device_id: String,
    /// Its number.
    #[n(1)]
    pub device: u64,
    /// What its owner needs to thaw it, as JSON.
    #[n(2)]
    pub data: String,
}

/// What a user said about a thread.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SubscriptionRow {
    /// Subscribed, or unsubscribed.
    #[n(0)]
    pub subscribed: bool,
    /// A client did it by itself.
    #[n(1)]
    pub automatic: bool,
    /// The position of the change.
    #[n(2)]
    pub position: u64,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SubscribedThreadRow {
    /// Its room.
    #[n(0)]
    pub room: u64,
    /// Its root.
    #[n(1)]
    pub root: u64,
}

/// An event to be sent later.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DelayedRow {
    /// Who sends it.
    #[n(0)]
    pub user: u64,
    /// The device that scheduled it.
    #[n(1)]
    pub device_id: String,
    /// The device's number.
    #[n(2)]
    pub device: u64,
    /// Where to.
    #[n(3)]
    pub room_id: String,
    /// Its type.
    #[n(4)]
    pub kind: String,
    /// Its state key, if it sets state.
    #[n(5)]
    pub state_key: Option<String>,
    /// Its content, as JSON.
    #[n(6)]
    pub content: String,
    /// How long after `running_since_ms` it is sent.
    #[n(7)]
    pub delay_ms: u64,
    /// When it was scheduled or last restarted: milliseconds since the Unix epoch.
    #[n(8)]
    pub running_since_ms: u64,
    /// What became of it, once that is settled.
    #[n(9)]
    pub outcome: Option<DelayedOutcome>,
}

/// What became of a delayed event.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DelayedOutcome {
    /// When: milliseconds since the Unix epoch.
    #[n(0)]
    pub at_ms: u64,
    /// The event it became, if it was sent.
    #[n(1)]
    pub event_id: Option<String>,
    /// Why it could not be sent, if it could not: a sentence.
    #[n(2)]
    pub error: Option<String>,
    /// Somebody asked for it, rather than its time had come.
    #[n(3)]
    pub by_action: bool,
}

/// A room that nobody may join.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlockedRoomRow {
    /// The room's ID; this server may not know the room.
    #[n(0)]
    pub room_id: String,
    /// Who blocked it: a user ID.
    #[n(1)]
    pub by: String,
}

/// Something an administrator has ordered that takes long.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TaskRow {
    /// The ID under which its state is asked for.
    #[n(0)]
    pub task_id: String,
    /// What is to be done, e.g. `room.delete`.
    #[n(1)]
    pub kind: String,
    /// To which room or user.
    #[n(2)]
    pub object: String,
    /// How, as JSON.
    #[n(3)]
    pub params: String,
    /// Who ordered it: a user ID.
    #[n(4)]
    pub by: String,
    /// When: milliseconds since the Unix epoch.
    #[n(5)]
    pub at_ms: u64,
    /// How far it is.
    #[n(6)]
    pub state: TaskState,
    /// What came of it, as JSON.
    #[n(7)]
    pub result: Option<String>,
    /// Why it failed: a sentence.
    #[n(8)]
    pub error: Option<String>,
    /// When it ended: milliseconds since the Unix epoch.
    #[n(9)]
    pub ended_ms: Option<u64>,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TaskState {
    /// To be done, or under way: after a restart it is taken up again.
    #[n(0)]
    Active,
    /// Done.
    #[n(1)]
    Complete,
    /// Given up.
    #[n(2)]
    Failed,
}

/// What an administrator has said about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct MediaMarkRow {
    /// Nobody gets it, because this user said so.
    #[n(0)]
    pub quarantined_by: Option<String>,
    /// It is not to be quarantined with others.
    #[n(1)]
    pub protected: bool,
}
