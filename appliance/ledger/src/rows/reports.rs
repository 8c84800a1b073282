//! Rows about what people report to the administrators.

use minicbor::{Decode, Encode};

/// A report. Its key is the position at which it came.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReportRow {
    /// Who reports.
    #[n(0)]
    pub by: String,
    /// Milliseconds since the Unix epoch.
    #[n(1)]
    pub at_ms: u64,
    /// Why.
    #[n(2)]
    pub reason: Option<String>,
    /// "-100 is 'most offensive' and 0 is 'inoffensive'", from clients of before v1.8.
    #[n(3)]
    pub score: Option<i64>,
    /// The room, or that of the event.
    #[n(4)]
    pub room_id: Option<String>,
    /// The event.
    #[n(5)]
    pub event_id: Option<String>,
    /// The person.
    #[n(6)]
    pub user_id: Option<String>,
}
