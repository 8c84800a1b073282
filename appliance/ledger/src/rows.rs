//! Rows of the store. A field is never renumbered; a new field is an `Option` at the end.

pub mod appservices;
pub mod extras;
pub mod keys;
pub mod media;
pub mod peers;
pub mod policy;
pub mod push;
pub mod relations;
pub mod reports;

use appliance_model::Spans;
use minicbor::{Decode, Encode};

mod accounts;

pub use accounts::{AccountRow, DeviceRow, RefreshRow, RegistrationTokenRow, SeenRow, TokenRow};

/// Where the store stands. Written with every group of commits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct StoreRow {
    /// The schema's version.
    #[n(0)]
    pub schema_version: u64,
    /// The position of the newest commit.
    #[n(1)]
    pub position: u64,
    /// All numbers below this may be in use.
    #[n(2)]
    pub next_number: u64,
    /// The newest link of the audit chain.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub audit_link: Vec<u8>,
    /// The server this store belongs to.
    #[n(4)]
    pub server_name: String,
    /// The latest time that the clock has shown: milliseconds since the Unix epoch.
    #[n(5)]
    pub latest_ms: Option<u64>,
    /// Times that were reached before the clock was set back, and that it has not come up to again.
    #[n(6)]
    pub floors: Option<Vec<Floor>>,
}

/// The clock was set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Floor {
    /// All numbers given out before are below this.
    #[n(0)]
    pub below: u64,
    /// The time that was reached: milliseconds since the Unix epoch.
    #[n(1)]
    pub ms: u64,
}

/// Facts of one commit, chained to all before.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AuditRow {
    /// Milliseconds since the Unix epoch.
    #[n(0)]
    pub at_ms: u64,
    /// What happened.
    #[n(1)]
    pub facts: Vec<AuditFact>,
    /// SHA-256 of the link before and this row's facts.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub link: Vec<u8>,
}

/// IDs and verdicts, never content: nothing in here must ever be unsaid.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AuditFact {
    /// What was done or refused, e.g. `event.sent`.
    #[n(0)]
    pub verb: String,
    /// Who did it.
    #[n(1)]
    pub who: String,
    /// To what.
    #[n(2)]
    pub object: String,
}

/// A user this server knows of.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UserRow {
    /// The full user ID.
    #[n(0)]
    pub user_id: String,
}

/// A room this server knows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RoomRow {
    /// The room ID.
    #[n(0)]
    pub room_id: String,
    /// The room version.
    #[n(1)]
    pub version: String,
}

/// Where a room stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct HeadRow {
    /// The events nothing follows yet.
    #[n(0)]
    pub extremities: Vec<String>,
    /// The largest depth.
    #[n(1)]
    pub depth: u64,
    /// The root of the current state.
    #[n(2)]
    pub state_root: u64,
    /// How many are joined.
    #[n(3)]
    pub joined: u64,
    /// How many are invited.
    #[n(4)]
    pub invited: u64,
    /// Other servers with joined users, and how many each has: so that a send never counts members.
    #[n(5)]
    pub servers: Option<Vec<(String, u64)>>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EventRow {
    /// Its ID.
    #[n(0)]
    pub event_id: String,
    /// Its room.
    #[n(1)]
    pub room: u64,
    /// Its place in the timeline, if it has one.
    #[n(2)]
    pub position: Option<i64>,
    /// Canonical JSON, as signed.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub json: Vec<u8>,
    /// Start and end of content, sender, type, origin_server_ts, state_key, redacts in `json`.
    #[n(4)]
    pub spans: Vec<u32>,
    /// The state before it.
    #[n(5)]
    pub state_before: u64,
    /// Rejected by the authorization rules.
    #[n(6)]
    pub rejected: bool,
    /// The event that redacted it.
    #[n(7)]
    pub redacted_by: Option<u64>,
    /// The device that sent it, and its transaction ID.
    #[n(8)]
    pub txn: Option<(u64, String)>,
    /// The state event it replaced.
    #[n(9)]
    pub replaces: Option<u64>,
    /// The state with it, where that is not the state before it.
    #[n(10)]
    pub state_after: Option<u64>,
    /// Allowed where it was sent, but not by the room's state when it came: in the graph, not shown.
    #[n(11)]
    pub soft_failed: Option<bool>,
    /// Only known because others name it: the state before it is not known.
    #[n(12)]
    pub outlier: Option<bool>,
    /// Its time was over: of its content is left what a redaction leaves, and nobody is shown it.
    #[n(13)]
    pub erased: Option<bool>,
}

/// What allowed a state event: the edges of the authorization graph by short numbers, so that chains
/// are walked without parsing events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct AuthRow {
    /// The events it names as allowing it.
    #[n(0)]
    pub events: Vec<u64>,
    /// One more than the largest of theirs; one for a create event. An event's number in this order is
    /// above all numbers in its chain.
    #[n(1)]
    pub generation: u64,
}

/// A hole in what this server knows of a room's history, below an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct GapRow {
    /// The events before it that this server has not.
    #[n(0)]
    pub missing: Vec<String>,
    /// The highest place that is free for what is found.
    #[n(1)]
    pub next: i64,
    /// The lowest place that is free.
    #[n(2)]
    pub lowest: i64,
}

/// An invite or a knock to a room that this server is not in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CallRow {
    /// What the room shows of itself: events as JSON, in the form for clients.
    #[n(0)]
    pub stripped: Vec<String>,
    /// The server to answer through.
    #[n(1)]
    pub via: String,
}

/// What was answered to a transaction of another server.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct InboundTxnRow {
    /// JSON.
    #[n(0)]
    pub answer: String,
    /// Milliseconds since the Unix epoch.
    #[n(1)]
    pub at_ms: u64,
}

/// An event of the log of all events.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LoggedRow {
    /// Its room.
    #[n(0)]
    pub room: u64,
    /// Its number.
    #[n(1)]
    pub event: u64,
}

/// What the timeline says of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TimelineRow {
    /// The root of the room's current state once this event was in.
    #[n(0)]
    pub state_after: u64,
    /// Whether it set state.
    #[n(1)]
    pub is_state: bool,
    /// The state changed by more than this event says: branches of the room met.
    #[n(2)]
    pub resolved: Option<bool>,
}

/// A state event type and state key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StateKeyRow {
    /// The event type.
    #[n(0)]
    pub kind: String,
    /// The state key.
    #[n(1)]
    pub key: String,
}

/// A node of a state trie.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StateNode {
    /// State keys and their events, sorted.
    #[n(0)]
    Leaf(#[n(0)] Vec<(u64, u64)>),
    /// Sixteen subtries by four bits of the mixed state key; zero is empty.
    #[n(1)]
    Branch(#[n(0)] Vec<u64>),
}

/// A local user's place in a room.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MembershipRow {
    /// The membership's code ([`crate::membership`]).
    #[n(0)]
    pub membership: u8,
    /// The position of the membership event.
    #[n(1)]
    pub position: u64,
    /// The membership event.
    #[n(2)]
    pub event: u64,
    /// The user has forgotten the room.
    #[n(3)]
    pub forgotten: bool,
    /// The position since which the membership is what it is; changes of name or picture do not
    /// move it.
    #[n(4)]
    pub since: u64,
    /// The position of the event with which the user was last out of the room after having been in
    /// it: none while joined, and for those who never were.
    #[n(5)]
    pub joined_until: Option<u64>,
}

/// What a transaction ID answered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TxnRow {
    /// The event.
    #[n(0)]
    pub event_id: String,
}

/// A value of account data.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AccountDataRow {
    /// JSON.
    #[n(0)]
    pub content: String,
    /// The position of its last change.
    #[n(1)]
    pub position: u64,
    /// It was deleted: clients that knew it are told once, nobody else sees it.
    #[n(2)]
    pub deleted: Option<bool>,
}

/// Which value of account data changed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangedDataRow {
    /// The room; zero is global.
    #[n(0)]
    pub room: u64,
    /// The type.
    #[n(1)]
    pub kind: String,
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FilterRow {
    /// JSON, as the client sent it.
    #[n(0)]
    pub json: String,
}

/// How far someone has read.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptRow {
    /// The event.
    #[n(0)]
    pub event_id: String,
    /// The event's place in the timeline.
    #[n(1)]
    pub place: i64,
    /// When, in milliseconds since the Unix epoch.
    #[n(2)]
    pub at_ms: u64,
    /// The position of the receipt itself.
    #[n(3)]
    pub position: u64,
}

/// Which receipt moved.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MovedReceiptRow {
    /// Whose.
    #[n(0)]
    pub user: u64,
    /// 1 public, 2 private.
    #[n(1)]
    pub kind: u8,
    /// The thread; empty is the whole room.
    #[n(2)]
    pub thread: String,
}

/// Where an alias points.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AliasRow {
    /// The room.
    #[n(0)]
    pub room: u64,
    /// Who made it.
    #[n(1)]
    pub creator: u64,
}

/// A room in the published directory.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PublishedRow {
    /// The user who published it.
    #[n(0)]
    pub by: u64,
    /// Milliseconds since the Unix epoch.
    #[n(1)]
    pub at_ms: u64,
}

/// Spans as the row keeps them.
pub fn spans_to_row(spans: &Spans) -> Vec<u32> {
    [
        spans.content,
        spans.sender,
        spans.kind,
        spans.origin_server_ts,
        spans.state_key,
        spans.redacts,
    ]
    .into_iter()
    .flat_map(|(start, end)| [start, end])
    .collect()
}

/// Spans from a row; fields an older row lacks are empty.
pub fn spans_from_row(row: &[u32]) -> Spans {
    let at = |index: usize| {
        (
            row.get(2 * index).copied().unwrap_or_default(),
            row.get(2 * index + 1).copied().unwrap_or_default(),
        )
    };
    Spans {
        content: at(0),
        sender: at(1),
        kind: at(2),
        origin_server_ts: at(3),
        state_key: at(4),
        redacts: at(5),
    }
}
