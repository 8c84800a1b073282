//! Rows about events that relate to others: edits, reactions, threads, references.

use minicbor::{Decode, Encode};

/// One event that relates to another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RelationRow {
    /// The `rel_type`.
    #[n(0)]
    pub rel_type: String,
    /// The event type.
    #[n(1)]
    pub kind: String,
    /// Who sent it.
    #[n(2)]
    pub sender: u64,
}

/// What relates to an event, in sum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RelatedRow {
    /// How many edits there are, valid or not.
    #[n(0)]
    pub edits: u64,
    /// The most recent valid edit, where that could be told when it came.
    #[n(1)]
    pub edit: Option<u64>,
    /// How many references there are.
    #[n(2)]
    pub references: u64,
    /// How many events its thread has.
    #[n(3)]
    pub thread: u64,
    /// The newest of them: its place in the timeline and its number.
    #[n(4)]
    pub thread_latest: Option<(i64, u64)>,
}

/// A thread in the list of a room's threads.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ThreadRow {
    /// The event ID of its root.
    #[n(0)]
    pub root: String,
}
