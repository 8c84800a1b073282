//! What happens to a file beside being given out ([`super::decide`]).

use appliance_model::ruma::UserId;
use appliance_model::{Caller, Role};

use crate::administration::REASON_CHARS_MAX;
use crate::{Denial, Permit};

/// Everyone with an account may upload; the limits are the service's.
pub fn may_upload(who: &UserId, uri: &str) -> Permit {
    Permit::audited("media.uploaded", who, uri)
}

/// Everyone with an account may reserve an ID.
pub fn may_reserve(who: &UserId, uri: &str) -> Permit {
    Permit::audited("media.reserved", who, uri)
}

/// A person here may see a file of another server; nothing of it stays on this one.
pub fn may_fetch(who: &UserId, device_id: &str, uri: &str) -> Permit {
    Permit::audited("media.fetched", format!("{who} {device_id}"), uri)
}

/// A person here may see a file that another hospital lends for this look; nothing of it stays here.
pub fn may_borrow(who: &UserId, device_id: &str, uri: &str) -> Permit {
    Permit::audited("media.borrowed", format!("{who} {device_id}"), uri)
}

/// The house erases what is due, redacted, or purged by its administrator.
pub fn must_purge(server_name: &str, uri: &str, reason: &str) -> Permit {
    Permit::audited("media.purging", server_name, format!("{uri} {reason}"))
}

/// The last trace is gone from this server.
pub fn has_purged(server_name: &str, uri: &str) -> Permit {
    Permit::audited("media.purged", server_name, uri)
}

/// People redact the files that they have uploaded, administrators all; the trail says why, if somebody says so.
///
/// # Errors
///
/// A denial for everybody else.
pub fn may_redact_file(
    caller: &Caller,
    is_uploader: bool,
    uri: &str,
    reason: Option<&str>,
) -> Result<Permit, Denial> {
    let who = &caller.user_id;
    if !is_uploader && caller.role != Role::Administrator {
        return Err(Denial {
            verb: "media.redaction_refused",
            who: who.to_string(),
            object: uri.to_owned(),
            why: "Only whoever uploaded a file may redact it.".into(),
        });
    }
    let reason: String = reason.unwrap_or_default().trim().chars().take(REASON_CHARS_MAX).collect();
    let because = if reason.is_empty() { String::new() } else { format!(" because: {reason}") };
    Ok(Permit::audited("media.redacted", who, format!("{uri}{because}")))
}

/// An event whose file is gone could not be redacted as its author.
pub fn could_not_redact(server_name: &str, event: &str) -> Permit {
    Permit::audited("media.not_redacted", server_name, event)
}

/// A room's policy asked for something looser than the house allows: it is ignored.
pub fn ignored(who: &UserId, room_id: &str, fields: &str) -> Permit {
    Permit::audited("policy.looser_ignored", who, format!("{room_id} {fields}"))
}

/// Another server says that a file of its own is erased there.
pub fn erased_elsewhere(server_name: &str, uri: &str) -> Permit {
    Permit::audited("media.erased_there", server_name, uri)
}

/// Another server confirms that nothing of a file of ours is left there.
pub fn erasure_confirmed(server_name: &str, uri: &str) -> Permit {
    Permit::audited("media.erasure_confirmed", server_name, uri)
}
