//! Gives freed memory back: what a peak leaves behind in pieces (a picture that was rendered, a room
//! that was read whole), the C library's allocator keeps for the next one, which may not come today.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lmdb_trim::resident;

/// As long as less has come since the last time, it is not worth looking through all that is free.
const GROWN_BYTES_MIN: u64 = 8 << 20;

/// Gives back what is free if this process has much more memory of its own than the last time; `rest`
/// is how many bytes it had then.
pub(crate) fn trim(rest: &AtomicU64) -> io::Result<()> {
    if resident("RssAnon:")? >= rest.load(Ordering::Relaxed) + GROWN_BYTES_MIN {
        give_back();
        rest.store(resident("RssAnon:")?, Ordering::Relaxed);
    }
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
        let before = resident("RssAnon:").unwrap();
        trim(&AtomicU64::new(0)).unwrap();
        let after = resident("RssAnon:").unwrap();
        assert!(after + (16 << 20) < before, "{before} before, {after} after");
        trim(&AtomicU64::new(after)).unwrap();
        assert_eq!(pieces.iter().flatten().count(), 2_000);
    }
}
