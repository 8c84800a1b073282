//! Our words: numbers that name things inside the store, the caller, the clock, the dice, events,
//! and the kinds of errors. Everything else in the appliance speaks in these and in Ruma's IDs.

mod caller;
mod clock;
mod error;
mod nid;
mod pdu;
#[cfg(feature = "scenario")]
pub mod scenario;

pub use caller::{Caller, Role, SessionClass};
pub use clock::{Clock, Dice, OsDice, SystemClock};
pub use error::{Error, Kind, Uia};
pub use nid::{DeviceNid, EventNid, MediaNid, Position, RoomNid, StateKeyNid, UserNid};
pub use pdu::{MalformedPdu, Pdu, Spans, StateKey};
pub use ruma;

/// The largest event, as canonical JSON with signatures, in bytes ([size limits]).
///
/// [size limits]: https://spec.matrix.org/v1.19/client-server-api/#size-limits
pub const EVENT_BYTES_MAX: usize = 65_536;
