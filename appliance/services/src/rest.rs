//! When a job that looks at the store every second need not look.
//!
//! Nobody writes on a quiet night, and a look that finds nothing costs as much as one that does: five
//! jobs that looked all the same cost an idle server a fifth of what its thousand clients did.

use std::sync::{Mutex, PoisonError};

use appliance_ledger::Ledger;
use appliance_model::Position;

/// What a job remembers of its last look. Nothing at first: a job looks when the server starts.
#[derive(Debug, Default)]
pub(crate) struct Rest(Mutex<Option<Resting>>);

#[derive(Clone, Copy, Debug)]
struct Resting {
    at: Position,
    until_ms: u64,
}

impl Rest {
    /// Whether a look would find nothing again: nothing was committed since, and nothing is due yet.
    pub fn is_due(&self, ledger: &Ledger, now_ms: u64) -> bool {
        let resting = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        resting.is_none_or(|resting| resting.at != ledger.position() || resting.until_ms <= now_ms)
    }

    /// A look that began when the store stood at `at` found nothing to do before `until_ms`
    /// (milliseconds since the Unix epoch; none: ever, unless something is committed).
    pub fn until(&self, at: Position, until_ms: Option<u64>) {
        let until_ms = until_ms.unwrap_or(u64::MAX);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Resting { at, until_ms });
    }
}

#[cfg(test)]
mod tests {
    use appliance_rules::Permit;

    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn a_job_rests_until_something_is_due_or_committed() {
        let ward = Ward::new().await;
        let ledger = &ward.services.house.ledger;
        let rest = Rest::default();
        assert!(rest.is_due(ledger, 0), "after a start it looks");
        rest.until(ledger.position(), Some(10));
        assert!(!rest.is_due(ledger, 9));
        assert!(rest.is_due(ledger, 10));
        rest.until(ledger.position(), None);
        assert!(!rest.is_due(ledger, u64::MAX - 1));
        ledger.commit(ledger.begin(Permit::housekeeping())).await.unwrap();
        assert!(rest.is_due(ledger, 0));
    }
}
