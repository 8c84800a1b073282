//! What administrators may do through the endpoints for them.

use appliance_model::{Caller, Role};
use ruma::UserId;

use crate::permit::{Denial, Permit};

/// The trail keeps a reason for ever: a sentence or the number of a ticket, not a story.
pub const REASON_CHARS_MAX: usize = 200;

/// Administrators may look after the house. The trail says who did what to what, looking included.
///
/// # Errors
///
/// A denial for everybody else.
pub fn may_administer(
    caller: &Caller,
    verb: &'static str,
    object: impl ToString,
) -> Result<Permit, Denial> {
    if caller.role == Role::Administrator {
        return Ok(Permit::audited(verb, &caller.user_id, object));
    }
    Err(denial(caller, object, "Only administrators of this server may do this."))
}

/// "The user calling this endpoint MUST be a server admin", and "trying to suspend [or lock] their
/// own account, or … another administrator" is refused: whoever is an administrator keeps the way
/// back in.
///
/// # Errors
///
/// A denial in these cases.
pub fn may_judge_account(
    caller: &Caller,
    verb: &'static str,
    (target, is_administrator): (&UserId, bool),
) -> Result<Permit, Denial> {
    let permit = may_administer(caller, verb, target)?;
    if is_administrator || caller.user_id == target {
        return Err(denial(caller, target, "Administrators cannot be suspended or locked."));
    }
    Ok(permit)
}

/// To act in the name of somebody else, or to take power in their room, an administrator says why.
/// The reason becomes a part of the trail.
///
/// # Errors
///
/// A denial without a reason.
pub fn may_take_over(
    caller: &Caller,
    verb: &'static str,
    object: impl ToString,
    reason: Option<&str>,
) -> Result<Permit, Denial> {
    let object = object.to_string();
    let reason: String = reason.unwrap_or_default().trim().chars().take(REASON_CHARS_MAX).collect();
    if reason.is_empty() {
        let why = "Say why: it is kept in the audit trail. Send `reason` in the body, or \
                   `?reason=…` after the path; synadm can with `synadm raw --method post \
                   --data '{\"reason\": \"…\"}' v1/…`.";
        return Err(denial(caller, object, why));
    }
    may_administer(caller, verb, format!("{object} because: {reason}"))
}

fn denial(caller: &Caller, object: impl ToString, why: &'static str) -> Denial {
    Denial {
        verb: "administration.refused",
        who: caller.user_id.to_string(),
        object: object.to_string(),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::{DeviceNid, SessionClass, UserNid};
    use ruma::user_id;

    use super::*;

    fn caller(role: Role) -> Caller {
        Caller {
            user_id: user_id!("@chief:h.example").to_owned(),
            user: UserNid(1),
            device_id: "DESK".into(),
            device: DeviceNid(2),
            role,
            appservice: None,
            class: SessionClass::default(),
        }
    }

    #[test]
    fn only_administrators_and_not_against_each_other() {
        let nurse = user_id!("@nurse:h.example");
        let chief = caller(Role::Administrator);
        for role in [Role::User, Role::Suspended] {
            assert!(may_administer(&caller(role), "x", "y").is_err());
            assert!(may_judge_account(&caller(role), "x", (nurse, false)).is_err());
            assert!(may_take_over(&caller(role), "x", "y", Some("ticket 7")).is_err());
        }
        assert!(may_administer(&chief, "x", "y").is_ok());
        assert!(may_judge_account(&chief, "x", (nurse, false)).is_ok());
        assert!(may_judge_account(&chief, "x", (nurse, true)).is_err());
        assert!(may_judge_account(&chief, "x", (&chief.user_id, false)).is_err());
    }

    #[test]
    fn a_reason_is_asked_for_and_kept() {
        let chief = caller(Role::Administrator);
        for none in [None, Some(""), Some("  ")] {
            assert!(may_take_over(&chief, "account.entered", "@nurse:h.example", none).is_err());
        }
        let permit = may_take_over(&chief, "account.entered", "@nurse:h.example", Some("ticket 7"));
        let audit = permit.ok().and_then(Permit::into_audit).map(|audit| audit.object);
        assert_eq!(audit.as_deref(), Some("@nurse:h.example because: ticket 7"));
    }
}
