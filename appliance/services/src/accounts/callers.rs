//! What tokens stand for, in memory.
//!
//! A cache of permissions must not be late: whoever was signed out is out at once. So a reader takes
//! a ticket before it reads the store, and what it read is remembered only if nothing was forgotten
//! in between; and forgetting happens when the commit is true, even if the caller who asked for it
//! has hung up.

use std::sync::{Arc, Mutex, PoisonError};

use appliance_ledger::{Commit, Digest};
use appliance_model::Caller;
use quick_cache::sync::Cache;

/// Signed-in devices kept in memory, about 300 bytes each.
const CALLERS_CACHED_MAX: usize = 8_000;

pub(super) struct Callers {
    known: Cache<Digest, Known>,
    /// How often something was forgotten. Held while the cache changes.
    forgotten: Mutex<u64>,
}

#[derive(Clone)]
struct Known {
    caller: Arc<Caller>,
    expires_ms: Option<u64>,
}

impl Default for Callers {
    fn default() -> Self {
        Self { known: Cache::new(CALLERS_CACHED_MAX), forgotten: Mutex::default() }
    }
}

/// The right to remember what is read from now on.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

impl Callers {
    pub fn get(&self, digest: &Digest, now_ms: u64) -> Option<Arc<Caller>> {
        let known = self.known.get(digest)?;
        let expired = known.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms);
        (!expired).then_some(known.caller)
    }

    /// To be taken before the store is read.
    pub fn ticket(&self) -> Ticket {
        Ticket(*self.forgotten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn remember(
        &self,
        ticket: Ticket,
        digest: Digest,
        caller: Arc<Caller>,
        expires_ms: Option<u64>,
    ) {
        let forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        if *forgotten == ticket.0 {
            self.known.insert(digest, Known { caller, expires_ms });
        }
    }

    /// Forgets a token when `commit` is true, before its caller is answered.
    pub fn forget_with(self: &Arc<Self>, commit: &mut Commit, digest: Digest) {
        commit.hold(Forget { callers: self.clone(), digest });
    }

    /// Forgets all of them.
    pub fn forget_all(&self) {
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        *forgotten += 1;
        self.known.clear();
    }
}

/// Forgets when the lane lets go of it.
struct Forget {
    callers: Arc<Callers>,
    digest: Digest,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let mut forgotten = self.callers.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        *forgotten += 1;
        self.callers.known.remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::{owned_device_id, user_id};
    use appliance_model::{DeviceNid, Role, SessionClass, UserNid};

    use super::*;

    fn nurse() -> Arc<Caller> {
        Arc::new(Caller {
            user_id: user_id!("@nurse:hospital.example").to_owned(),
            user: UserNid(1),
            device_id: owned_device_id!("PHONE"),
            device: DeviceNid(2),
            role: Role::User,
            appservice: None,
            class: SessionClass::Unmanaged,
        })
    }

    #[test]
    fn who_read_the_store_before_the_sign_out_cannot_bring_the_session_back() {
        let callers = Arc::new(Callers::default());
        let ticket = callers.ticket();
        drop(Forget { callers: callers.clone(), digest: [7; 16] });
        callers.remember(ticket, [7; 16], nurse(), None);
        assert!(callers.get(&[7; 16], 0).is_none());

        callers.remember(callers.ticket(), [7; 16], nurse(), Some(10));
        assert!(callers.get(&[7; 16], 9).is_some());
        assert!(callers.get(&[7; 16], 10).is_none(), "a token ends at its hour, cached or not");
        drop(Forget { callers: callers.clone(), digest: [7; 16] });
        assert!(callers.get(&[7; 16], 0).is_none());
    }
}
