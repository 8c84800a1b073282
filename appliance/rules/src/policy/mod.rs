//! The house's policy: how long files live, who gets them in which form, and how long sessions last.
//!
//! * One object ([`Policy`]) says it for every scope: what the server can do and is set to, the house,
//!   the reader's role, the class of the room, the room, the message. The strictest value of each
//!   field wins ([`Effective`]); what is looser is ignored.
//! * One table ([`Field`]) knows every field: its name, its values, and which is stricter.
//! * One function ([`decide`]) judges a file for a person on a device. What nobody allows is refused.

mod classes;
mod decide;
mod encryption;
mod field;
mod house;
mod lend;
mod media;
mod object;
mod references;
mod retention;
mod vouch;

pub use classes::{Mode, RoomClass, watermark};
pub use decide::{Action, Content, Form, Object, Obligations, Permitted, Refused, Subject, decide};
pub use encryption::may_encrypt;
pub use field::{Field, TTL_MS_MIN};
pub use house::{HousePolicy, OPEN_WINDOW_MS, built_in, settings_scope};
pub use lend::lend;
pub use media::{
    could_not_redact, erased_elsewhere, erasure_confirmed, has_purged, ignored, may_borrow,
    may_fetch, may_redact_file, may_reserve, may_upload, must_purge,
};
pub use object::{Effective, POLICY_TYPE, Policy, Scope};
pub use references::{Use, is_media_id, media_id_of, references, shown_uris};
pub use retention::{LIFETIME_MS_MIN, RETENTION_TYPES, lifetime_ms, must_erase_events};
pub use vouch::{Home, Said, Shown, vouch};
