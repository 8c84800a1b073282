//! Several scenes on one stage: one that fails does not keep the next from being played.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

/// The longest scene: longer than any single wait in it.
const SCENE_MAX: Duration = Duration::from_secs(480);

/// What was played, and what went wrong.
#[derive(Debug, Default)]
pub struct Scenes {
    failed: Vec<String>,
    played: usize,
}

impl Scenes {
    /// Plays a scene. `WARDSTONE_TEST_SCENE` leaves out all whose names do not contain its value.
    pub async fn play(&mut self, name: &str, scene: impl Future<Output = ()>) {
        if std::env::var("WARDSTONE_TEST_SCENE").is_ok_and(|wanted| !name.contains(&wanted)) {
            return;
        }
        self.played += 1;
        match timeout(SCENE_MAX, caught(scene)).await {
            Ok(Ok(())) => return eprintln!("scene: {name}: good"),
            // What the panic said stands above already.
            Ok(Err(_)) => eprintln!("scene: {name}: FAILED"),
            Err(_) => eprintln!("scene: {name}: FAILED: it did not end within {SCENE_MAX:?}"),
        }
        self.failed.push(name.to_owned());
    }

    /// Fails if a scene did.
    pub fn end(self) {
        assert!(self.played > 0, "no scene was played");
        assert!(
            self.failed.is_empty(),
            "{} of {}: {:?}",
            self.failed.len(),
            self.played,
            self.failed
        );
    }
}

/// What a future comes to, or what it panicked with.
async fn caught(scene: impl Future<Output = ()>) -> Result<(), Box<dyn Any + Send>> {
    let mut scene = pin!(scene);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| scene.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
