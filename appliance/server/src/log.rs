//! The journal: readable sentences with searchable fields, and never a secret.
//!
//! Code everywhere says `tracing::info!(kind = "room.created", room.id = %id, "room created")`; crates
//! that use `log` come through `tracing-log`. One layer ([`layer`]) turns each event into an
//! [`entry::Entry`], with redacted fields ([`redact`]) and the number of the request that it belongs to
//! ([`REQUEST_ID`]: a span for each cost a long-poll a twentieth of its time). A thread of its own writes
//! entries to the systemd journal or to standard error ([`sink`]), behind a queue with an end: a
//! stuck journal costs lines (counted), never requests.
//!
//! An event with a `kind` gets a `MESSAGE_ID` that never changes ([`message_id`]), so that
//! `journalctl MESSAGE_ID=...` finds all of its kind. The audit chain is another thing: it is part
//! of the store and loses nothing.

mod entry;
mod layer;
pub mod message_id;
pub mod redact;
mod sink;
mod writer;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;

use crate::settings::{Log, LogFormat};
use layer::Journal;
use sink::Sink;
pub use writer::Writer;

tokio::task_local! {
    /// Ties the lines of one request together; unique within one run.
    pub static REQUEST_ID: u64;
}

/// Starts writing. Dropping the writer writes what is queued and ends it.
///
/// # Errors
///
/// Another logger was installed first, or the level is not one: both are mistakes of ours, because
/// the settings were checked.
pub fn start(settings: &Log) -> Result<Writer, String> {
    // Ruma tells at `info` of every event that it allows: several lines a message.
    let filter = EnvFilter::builder()
        .parse(format!("ruma_state_res=warn,{}", settings.level))
        .map_err(|error| format!("log.level: {error}"))?;
    let sink = match settings.format {
        LogFormat::Auto => Sink::journal().unwrap_or(Sink::Text),
        LogFormat::Text => Sink::Text,
        LogFormat::Json => Sink::Json,
    };
    let writer = Writer::start(sink).map_err(|error| format!("the log's thread: {error}"))?;
    let subscriber = tracing_subscriber::registry().with(filter).with(Journal::new(writer.queue()));
    tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())?;
    tracing_log::LogTracer::builder()
        // What is off in tracing must not cost a formatted message in `log` either.
        .with_max_level(to_log_filter(tracing::level_filters::LevelFilter::current()))
        .init()
        .map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(on_panic));
    Ok(writer)
}

fn to_log_filter(level: tracing::level_filters::LevelFilter) -> log::LevelFilter {
    use tracing::level_filters::LevelFilter;
    match level {
        LevelFilter::OFF => log::LevelFilter::Off,
        LevelFilter::ERROR => log::LevelFilter::Error,
        LevelFilter::WARN => log::LevelFilter::Warn,
        LevelFilter::INFO => log::LevelFilter::Info,
        LevelFilter::DEBUG => log::LevelFilter::Debug,
        LevelFilter::TRACE => log::LevelFilter::Trace,
    }
}

/// A panic's message may hold whatever the code held, so only fixed texts are repeated.
fn on_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(kind = "process.panic", place, "a task panicked: {text}");
}
