//! Gives freed memory back: what a peak leaves behind in pieces (a picture that was rendered, a room
//! that was read whole), the C library's allocator keeps for the next one, which may not come today.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lmdb_trim::Resident;

/// As long as less has come since the last time, it is not worth looking through all that is free.
const GROWN_BYTES_MIN: u64 = 8 << 20;

/// Whether this process has so much more memory of its own than the last time; `rest` is how many
/// bytes it had then.
pub(crate) fn is_due(resident: &Resident, rest: &AtomicU64) -> bool {
    resident.own_bytes >= rest.load(Ordering::Relaxed) + GROWN_BYTES_MIN
}

/// Gives back what is free.
pub(crate) fn trim(rest: &AtomicU64) -> io::Result<()> {
    give_back();
    rest.store(Resident::now()?.own_bytes, Ordering::Relaxed);
    Ok(())
}

/// Other C libraries give back by themselves, or have no such call.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library has no safe name for it; argued below")]
fn give_back() {
    // SAFETY: malloc_trim(3) takes no pointer and touches only what is free. "MT-Safe": any thread may
    // call it at any time.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_between_what_lives_is_given_back() {
        // Too small to be mapped one by one; every second one lives on and holds the others in place.
        let mut pieces: Vec<Option<Vec<u8>>> =
            (0..4_000).map(|_| Some(vec![1; 16 << 10])).collect();
        pieces.iter_mut().step_by(2).for_each(|piece| *piece = None);
        let (before, rest) = (Resident::now().unwrap(), AtomicU64::new(0));
        assert!(is_due(&before, &rest));
        trim(&rest).unwrap();
        let after = Resident::now().unwrap();
        assert!(
            after.own_bytes + (16 << 20) < before.own_bytes,
            "{before:?} before, {after:?} after"
        );
        assert!(!is_due(&after, &rest), "what stayed is in use");
        assert_eq!(pieces.iter().flatten().count(), 2_000);
    }
}
