//! Waiting for something to become true, with a bound.
//!
//! Nothing in the suite measures time; a bound turns a hang into a failure with a name.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// The longest wait for one thing. Far above what any step takes on a busy two-core machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How soon to look again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Calls `look` until it returns something.
///
/// # Panics
///
/// After [`PATIENCE`], naming `what` was waited for.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    found(look).await.unwrap_or_else(|| panic!("waited {PATIENCE:?} for {what}"))
}

/// Calls `look` until it returns something, or [`PATIENCE`] is over.
pub async fn found<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(PATIENCE, search).await.ok()
}
