//! Who takes part in end-to-end encryption.

use appliance_model::SessionClass;

use super::field::{ENCRYPTION_NONE, Field};
use super::object::Effective;

/// Whether a session of this class takes part in end-to-end encryption: publishes keys, is encrypted for,
/// and has a key backup.
///
/// # Errors
///
/// A sentence for the person whose device does not.
pub fn may_encrypt(policy: &Effective, class: SessionClass) -> Result<(), &'static str> {
    const NOT_LOOKED_AFTER: &str = "Your hospital's policy keeps encrypted conversations on devices that it \
         looks after, and this is none of them. Use one of those, or ask for an enrolment code for this one.";
    let is_kept_out = class == SessionClass::Unmanaged
        && policy.get(Field::UnmanagedEncryption) == Some(ENCRYPTION_NONE);
    if is_kept_out { Err(NOT_LOOKED_AFTER) } else { Ok(()) }
}
