//! Receipts of judgements.

use std::borrow::Cow;

use appliance_model::{Error, Kind};

/// What the audit trail will say: IDs and verdicts, never content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// What was done or refused, e.g. `event.sent`.
    pub verb: &'static str,
    /// Who did it.
    pub who: String,
    /// To what.
    pub object: String,
}

/// Proof that a decision was taken. Only this crate can make one; a commit consumes it.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    audit: Option<Audit>,
}

impl Permit {
    pub(crate) fn audited(verb: &'static str, who: impl ToString, object: impl ToString) -> Self {
        let audit = Audit { verb, who: who.to_string(), object: object.to_string() };
        Self { audit: Some(audit) }
    }

    /// What people do with what is their own: their account, devices, keys, receipts, account data.
    /// The caller was authenticated, and nothing but the caller's own is written.
    pub fn own(verb: &'static str, who: impl ToString, object: impl ToString) -> Self {
        Self::audited(verb, who, object)
    }

    /// The house looks after itself: acknowledged deliveries go, old transaction IDs are forgotten.
    /// Nothing that anyone could miss, so no audit entry.
    pub fn housekeeping() -> Self {
        Self { audit: None }
    }

    /// What the administrator does through the administration socket or endpoints.
    pub fn administration(verb: &'static str, who: impl ToString, object: impl ToString) -> Self {
        Self::audited(verb, who, object)
    }

    /// Gives up the permit for its audit entry.
    pub fn into_audit(self) -> Option<Audit> {
        self.audit
    }
}

/// A refusal, with a reason for the person refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What was refused, e.g. `event.refused`.
    pub verb: &'static str,
    /// Who asked.
    pub who: String,
    /// For what.
    pub object: String,
    /// A human sentence.
    pub why: Cow<'static, str>,
}

impl Denial {
    /// What the caller hears.
    pub fn error(&self) -> Error {
        Error::new(Kind::Forbidden, self.why.clone())
    }

    /// The right to record that it was refused.
    pub fn into_permit(self) -> Permit {
        Permit::audited(self.verb, self.who, self.object)
    }
}
