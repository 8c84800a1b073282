//! Rows of application services.

use minicbor::{Decode, Encode};

/// An application service that the administrator registered.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AppserviceRow {
    /// Its registration, as JSON.
    #[n(0)]
    pub registration: String,
}

/// How far an application service has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct AppserviceStreamRow {
    /// Events up to this position are in transactions that it took, or in `pending`.
    #[n(0)]
    pub upto: u64,
    /// How many transactions were made for it.
    #[n(1)]
    pub transactions: u64,
    /// The body of the newest transaction, until it is taken.
    #[n(2)]
    pub pending: Option<String>,
    /// The ID of that transaction.
    #[n(3)]
    pub pending_id: Option<String>,
}
