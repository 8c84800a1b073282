//! The one way onto the threads that may wait for the disk.

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::EngineError;

/// Runs what blocks on the disk where blocking is allowed. It is finished even if nobody waits.
///
/// A current-thread runtime has no other tasks to hold up than its owner's (the lane's thread is
/// one): there the work is done on the spot, which saves two changes of thread per commit.
///
/// The pool behind it is bounded by its callers: each engine commits and copies one at a time, and sled
/// holds a permit for each read.
#[expect(clippy::disallowed_methods, reason = "bounded by the callers, as said above")]
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(EngineError::Failed(format!("it was interrupted: {error}"))))
}

/// Waits on a thread of that pool.
#[expect(clippy::disallowed_methods, reason = "stops no task: the thread is one that may block")]
pub(crate) fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}
