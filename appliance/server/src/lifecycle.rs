//! Starting, being alive and saying goodbye. The only place that spawns tasks.
//!
//! The order of goodbye: stop accepting and tell long-polls to finish (`soft`), wait for the
//! requests in flight, stop the jobs (`jobs`), then whatever is left (`hard`). Draining the lane is
//! the caller's next step. A vital task that ends early ends the process with a failure: a server
//! that lost its outbox must not look healthy.

use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What ends are left when the jobs were told to stop.
const JOBS_STOP: Duration = Duration::from_secs(10);

/// Hands out tasks and tokens; cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    requests: TaskTracker,
    jobs_tracker: TaskTracker,
    /// Never waited for: the caller drains what they hold, then the process ends.
    foundations: TaskTracker,
    soft: CancellationToken,
    jobs: CancellationToken,
    hard: CancellationToken,
    ended_early: mpsc::Sender<&'static str>,
}

impl Tasks {
    /// Cancelled when the server stops accepting: long-polls answer now, connections close after
    /// the request in flight.
    pub fn soft(&self) -> &CancellationToken {
        &self.inner.soft
    }

    /// Cancelled when no request is left: jobs finish what they hold.
    pub fn jobs(&self) -> &CancellationToken {
        &self.inner.jobs
    }

    /// Spawns work that ends when it is done, such as a connection: waited for at the end, dropped
    /// when patience ends.
    pub fn spawn_request(&self, task: impl Future<Output = ()> + Send + 'static) {
        let hard = self.inner.hard.clone();
        // Boxed, because a future that is moved into another one is kept there twice, and there
        // are thousands of connections.
        let task = Box::pin(task);
        self.inner.requests.spawn(async move {
            tokio::select! {
                () = task => {}
                () = hard.cancelled() => {}
            }
        });
    }

    /// Spawns a task that must live until [`Tasks::jobs`] is cancelled. If it ends or panics before,
    /// the process ends with a failure.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let alarm = self.alarm(name);
        let hard = self.inner.hard.clone();
        self.inner.jobs_tracker.spawn(async move {
            let _alarm = alarm;
            tokio::select! {
                () = task => {}
                () = hard.cancelled() => {}
            }
        });
    }

    /// Starts what everything else stands on (the lane) on a thread of its own, where waiting for the
    /// disk holds up nobody. It outlives requests and jobs, and ends with the process. If it ends
    /// before, the process ends with a failure.
    ///
    /// # Errors
    ///
    /// If the operating system gives no thread.
    pub fn spawn_foundation(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let alarm = self.alarm(name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (living, end) = oneshot::channel::<()>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _living = living;
            runtime.block_on(task);
        })?;
        self.inner.foundations.spawn(async move {
            let _alarm = alarm;
            // Nothing is ever sent: the channel closes when the thread ends, by a panic too.
            let _ = end.await;
        });
        Ok(())
    }

    fn alarm(&self, name: &'static str) -> Alarm {
        Alarm {
            name,
            jobs: self.inner.jobs.clone(),
            soft: self.inner.soft.clone(),
            ended_early: self.inner.ended_early.clone(),
        }
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    /// HTTP/2 serves each stream in its own task.
    fn execute(&self, future: F) {
        self.spawn_request(async move {
            future.await;
        });
    }
}

/// Rings when a vital task goes, whether it returned or panicked.
struct Alarm {
    name: &'static str,
    soft: CancellationToken,
    jobs: CancellationToken,
    ended_early: mpsc::Sender<&'static str>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Acceptors end with `soft`, jobs with `jobs`; `soft` always comes first.
        if !self.soft.is_cancelled() && !self.jobs.is_cancelled() {
            // A full channel means that another task's end is already being handled.
            let _ = self.ended_early.try_send(self.name);
        }
    }
}

/// The life of the process from `READY=1` to the exit code.
pub struct Lifecycle {
    tasks: Tasks,
    ended_early: mpsc::Receiver<&'static str>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Why the server stops.
enum Stop {
    Asked(&'static str),
    TaskEnded(&'static str),
}

impl Lifecycle {
    /// Installs the signal handlers.
    ///
    /// # Errors
    ///
    /// The operating system refuses a handler.
    pub fn new() -> io::Result<Self> {
        let (sender, ended_early) = mpsc::channel(1);
        let inner = Inner {
            requests: TaskTracker::new(),
            jobs_tracker: TaskTracker::new(),
            foundations: TaskTracker::new(),
            soft: CancellationToken::new(),
            jobs: CancellationToken::new(),
            hard: CancellationToken::new(),
            ended_early: sender,
        };
        Ok(Self {
            tasks: Tasks { inner: Arc::new(inner) },
            ended_early,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Where tasks are spawned.
    pub fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    /// Says that the server is ready, then waits for the end: a signal, or a vital task that ended.
    /// Calls `reload` on SIGHUP. Returns when requests and jobs are gone.
    pub async fn run(mut self, drain: Duration, reload: impl Fn()) -> ExitCode {
        notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        tracing::info!(kind = "server.ready", "ready");
        self.tasks.spawn_vital("watchdog", watchdog(self.tasks.inner.jobs.clone()));
        let stop = self.wait_for_stop(&reload).await;
        notify(&[NotifyState::Stopping, NotifyState::Status("finishing requests in flight")]);
        match &stop {
            Stop::Asked(signal) => {
                tracing::info!(kind = "server.stopping", signal, "stopping: finishing requests");
            }
            Stop::TaskEnded(task) => {
                tracing::error!(kind = "task.ended", task, "a vital task ended; stopping");
            }
        }
        self.say_goodbye(drain).await;
        match stop {
            Stop::Asked(_) => ExitCode::SUCCESS,
            Stop::TaskEnded(_) => ExitCode::FAILURE,
        }
    }

    /// Ends what was started without ever serving: for commands that open the house themselves.
    pub async fn finish(mut self) {
        self.say_goodbye(Duration::ZERO).await;
    }

    async fn wait_for_stop(&mut self, reload: &impl Fn()) -> Stop {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Stop::Asked("SIGTERM"),
                _ = self.interrupt.recv() => return Stop::Asked("SIGINT"),
                Some(name) = self.ended_early.recv() => return Stop::TaskEnded(name),
                _ = self.hangup.recv() => {
                    notify_reloading();
                    reload();
                    notify(&[NotifyState::Ready]);
                }
            }
        }
    }

    /// Stop accepting, finish requests, stop jobs; a second signal skips the waiting.
    async fn say_goodbye(&mut self, drain: Duration) {
        let inner = self.tasks.inner.clone();
        inner.soft.cancel();
        inner.requests.close();
        inner.jobs_tracker.close();
        tokio::select! {
            () = inner.requests.wait() => {}
            () = tokio::time::sleep(drain) => {
                tracing::warn!(left = inner.requests.len(), "requests still in flight are cut off");
            }
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        inner.jobs.cancel();
        if tokio::time::timeout(JOBS_STOP, inner.jobs_tracker.wait()).await.is_err() {
            tracing::warn!(left = inner.jobs_tracker.len(), "jobs did not stop in time");
        }
        inner.hard.cancel();
        inner.requests.wait().await;
        inner.jobs_tracker.wait().await;
    }
}

/// Starts a thread for work that blocks by nature; whoever asks for it joins it.
///
/// # Errors
///
/// The operating system gives no thread.
pub fn start_thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(work)
}

/// The moment from which deadlines are counted. Not the time of day: it never steps back.
#[expect(clippy::disallowed_methods, reason = "a deadline needs tokio's clock, which tests pause")]
pub fn moment() -> Instant {
    Instant::now()
}

/// Tells systemd twice per period that the runtime still turns.
async fn watchdog(stop: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled() else { return stop.cancelled().await };
    let mut tick = tokio::time::interval(period / 2);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        notify(&[NotifyState::Watchdog]);
    }
}

/// Without systemd there is nobody to tell, and that is fine.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd did not take the notification");
    }
}

fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}
