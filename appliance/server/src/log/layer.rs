//! From tracing events to journal entries.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer as FmtWriter;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;

use super::REQUEST_ID;
use super::entry::{Entry, FIELD_BYTES_MAX, FIELDS_MAX, MESSAGE_BYTES_MAX, cut};
use super::redact::{REDACTED, is_secret, scrub};
use super::writer::Queue;

/// The layer that writes the journal.
pub struct Journal {
    queue: Queue,
}

impl Journal {
    /// Puts entries on `queue`.
    pub fn new(queue: Queue) -> Self {
        Self { queue }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        // What runs outside of a request has none.
        if let Ok(id) = REQUEST_ID.try_with(u64::to_string) {
            fields.fields.push(("request.id".to_owned(), id));
        }
        event.record(&mut fields);
        // An event that came through `log` has its own target and place among its fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        self.queue.put(Entry {
            time: now(),
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            message: fields.message,
            fields: fields.fields,
            place: metadata.file().map(|file| (file.to_owned(), metadata.line().unwrap_or(0))),
        });
    }
}

fn now() -> String {
    let mut text = String::new();
    // A clock that cannot be formatted leaves the time out; the journal has its own.
    let _ = SystemTime.format_time(&mut FmtWriter::new(&mut text));
    text
}

/// The fields of an event, redacted.
#[derive(Default)]
struct Fields {
    message: String,
    fields: Vec<(String, String)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl FnOnce() -> String) {
        let name = field.name();
        if name == "message" {
            self.message = scrub(&value()).into_owned();
            cut(&mut self.message, MESSAGE_BYTES_MAX);
            return;
        }
        // Where a `log` record came from is in its metadata.
        if name.starts_with("log.") || self.fields.len() >= FIELDS_MAX {
            return;
        }
        let value = if is_secret(name) {
            REDACTED.to_owned()
        } else {
            let mut value = scrub(&value()).into_owned();
            cut(&mut value, FIELD_BYTES_MAX);
            value
        };
        self.fields.retain(|(known, _)| known != name);
        self.fields.push((name.to_owned(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, || format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, || value.to_owned());
    }

    /// An error and what caused it, in one line.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, || {
            let mut text = value.to_string();
            let mut source = value.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        });
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::log::writer::Queue;

    #[test]
    fn the_lines_of_a_request_carry_its_number_and_others_none() {
        let (queue, lines) = Queue::test(2);
        let subscriber = tracing_subscriber::registry().with(Journal::new(queue));
        tracing::subscriber::with_default(subscriber, || {
            REQUEST_ID.sync_scope(7, || tracing::info!(kind = "test.inside", "inside"));
            tracing::info!(kind = "test.outside", "outside");
        });
        let fields: Vec<_> = lines.try_iter().flatten().map(|entry| entry.fields).collect();
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(fields[0], [field("request.id", "7"), field("kind", "test.inside")]);
        assert_eq!(fields[1], [field("kind", "test.outside")]);
    }
}
