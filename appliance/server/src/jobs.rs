//! The jobs: all of them, on one page.
//!
//! A job is a reconciler: it looks at the state of the world, not at a message, and may run at any
//! time and any number of times. A failure is written to the journal and tried again next time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use appliance_model::Error;
use appliance_services::Services;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::{Tasks, moment};

/// Starts the jobs. They end when the lifecycle tells them to.
pub fn start(services: &Arc<Services>, tasks: &Tasks) {
    in_step(tasks, services);
    every(
        tasks,
        "destinations",
        Duration::from_secs(60),
        services,
        async |services: Arc<Services>| services.peers.note_destinations().await,
    );
    every(tasks, "peers", Duration::from_secs(60), services, async |services: Arc<Services>| {
        services.peers.look_at_dates();
        services.rooms.take_back_lost_joins().await?;
        services.rooms.ask_again().await.map(drop)
    });
    let half_a_minute = Duration::from_secs(30);
    every(tasks, "outages", half_a_minute, services, async |services: Arc<Services>| {
        services.administration.tell_of_outages().await.map(drop)
    });
    let hour = Duration::from_secs(60 * 60);
    every(tasks, "transactions", hour, services, async |services: Arc<Services>| {
        services.rooms.forget_old_txns().await.map(drop)
    });
    every(tasks, "openid", hour, services, async |services: Arc<Services>| {
        services.accounts.forget_openid_tokens().await.map(drop)
    });
    every(tasks, "apps", hour, services, async |services: Arc<Services>| {
        services.accounts.forget_clients().await.map(drop)
    });
    // What devices do not fetch for months, and keys of deleted backups that a power cut left.
    every(
        tasks,
        "keys",
        Duration::from_secs(24 * 60 * 60),
        services,
        async |services: Arc<Services>| {
            services.keys.tidy_queues().await?;
            services.keys.tidy_backups().await.map(drop)
        },
    );
    every(tasks, "search", Duration::from_secs(60), services, async |services: Arc<Services>| {
        services.search.activate().await
    });
    // Clients are told that this "may be a few minutes out of date".
    every(
        tasks,
        "last_seen",
        Duration::from_secs(180),
        services,
        async |services: Arc<Services>| services.accounts.write_last_seen().await.map(drop),
    );
    forever(tasks, "appservices", services, async |services: Arc<Services>| {
        services.appservices.run().await;
    });
    forever(tasks, "erase_notices", services, async |services: Arc<Services>| {
        services.media.tell_of_erasures().await;
    });
    forever(tasks, "push", services, async |services: Arc<Services>| services.push.run().await);
    // Refused at once; ended for good, with their keys, within a minute.
    every(tasks, "sessions", Duration::from_secs(60), services, async |services: Arc<Services>| {
        services.accounts.end_overdue_sessions().await.map(drop)
    });
    // Accounts leave their rooms when they are closed; this is for those that a crash interrupted.
    every(
        tasks,
        "closed",
        Duration::from_secs(3_600),
        services,
        async |services: Arc<Services>| services.accounts.leave_rooms_of_closed().await.map(drop),
    );
}

/// What is looked at every few seconds, in one task and at the same moments: each that wakes by itself
/// wakes a worker thread more, which an idle server pays all night. They wait for each other only where
/// one computes.
fn in_step(tasks: &Tasks, services: &Arc<Services>) {
    let (stop, begun) = (tasks.jobs(), moment());
    let beat = |seconds| Beat { begun, period: Duration::from_secs(seconds) };
    let presence = repeat(stop, "presence", beat(5), services, async |services| {
        services.reading.expire_presence();
        Ok(())
    });
    let told = repeat(stop, "presence_told", beat(1), services, async |services| {
        services.reading.tell_presence().await
    });
    // Clients count typing notices by the second.
    let typing = repeat(stop, "typing", beat(1), services, async |services| {
        services.reading.expire_typing();
        Ok(())
    });
    // "MUST NOT send the event before the scheduled time … MAY add up to 30 seconds."
    let delayed = repeat(stop, "delayed", beat(1), services, async |services| {
        services.rooms.send_due().await.map(drop)
    });
    let orders = repeat(stop, "orders", beat(1), services, async |services| {
        services.administration.carry_out().await.map(drop)
    });
    // Nobody gets an expired file, job or not; this erases it and redacts what showed it. "Within 60
    // seconds" is the promise: a second leaves room for a slow disk.
    let media = repeat(stop, "media", beat(1), services, async |services| {
        services.media.activate().await.map(drop)
    });
    let retention = repeat(stop, "retention", beat(5), services, async |services| {
        services.forget_what_is_over().await.map(drop)
    });
    // It looks at its clock: a stranger at the door makes it look for a newer list. Rooms follow the list
    // of peers; while that is as it was, there is nothing to look at.
    let list = repeat(stop, "list", beat(10), services, async |services| {
        services.peers.refresh_list().await?;
        services.rooms.keep_access_lists().await.map(drop)
    });
    let memory = repeat(stop, "memory", beat(5), services, async |services| {
        services.house.ledger.engine().trim().await.map_err(Error::internal)
    });
    let farewells = repeat(stop, "farewells", beat(5), services, async |services| {
        services.push.say_farewell().await.map(drop)
    });
    tasks.spawn_vital("in_step", async move {
        tokio::join!(
            presence, told, typing, delayed, orders, media, retention, list, memory, farewells
        );
    });
}

/// Work that waits for news by itself.
fn forever<F>(
    tasks: &Tasks,
    name: &'static str,
    services: &Arc<Services>,
    work: impl FnOnce(Arc<Services>) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let (stop, services) = (tasks.jobs().clone(), services.clone());
    tasks.spawn_vital(name, async move {
        stop.run_until_cancelled(work(services)).await;
    });
}

fn every<F>(
    tasks: &Tasks,
    name: &'static str,
    period: Duration,
    services: &Arc<Services>,
    job: impl Fn(Arc<Services>) -> F + Send + 'static,
) where
    F: Future<Output = Result<(), Error>> + Send,
{
    let beat = Beat { begun: moment(), period };
    tasks.spawn_vital(name, repeat(tasks.jobs(), name, beat, services, job));
}

/// When a job is done: at `begun`, and then at every `period` from there.
#[derive(Clone, Copy)]
struct Beat {
    begun: Instant,
    period: Duration,
}

/// Does a job at each beat until it is told to stop.
fn repeat<F>(
    stop: &CancellationToken,
    name: &'static str,
    beat: Beat,
    services: &Arc<Services>,
    job: impl Fn(Arc<Services>) -> F + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static
where
    F: Future<Output = Result<(), Error>> + Send,
{
    let (stop, services) = (stop.clone(), services.clone());
    async move {
        let mut tick = tokio::time::interval_at(beat.begun, beat.period);
        // Whoever was late is in step again at the next one.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if let Err(error) = job(services.clone()).await {
                tracing::error!(kind = "job.failed", job = name, %error, "a job failed; it will be tried again");
            }
        }
    }
}
