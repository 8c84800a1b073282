//! Where entries go: the systemd journal, or standard error as text or JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::Level;

use super::entry::Entry;

/// Where entries go.
pub enum Sink {
    /// The systemd journal, with fields.
    Journal(JournalLog),
    /// Readable lines on standard error.
    Text,
    /// JSON objects on standard error, one per line.
    Json,
    /// The messages alone, to a test.
    #[cfg(test)]
    Test(std::sync::mpsc::Sender<String>),
}

impl Sink {
    /// The journal, if systemd connected our standard error to it and it can be reached.
    pub fn journal() -> Option<Self> {
        if !connected_to_journal() {
            return None;
        }
        let journal = JournalLog::empty().ok()?;
        Some(Self::Journal(journal.with_syslog_identifier("wardstone".into())))
    }

    #[cfg(test)]
    pub fn test() -> (Self, std::sync::mpsc::Receiver<String>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        (Self::Test(sender), receiver)
    }

    /// Writes one entry. What cannot be written is lost: there is nowhere to tell it.
    pub fn write(&self, entry: &Entry) {
        match self {
            Self::Journal(journal) => {
                if send(journal, entry).is_err() {
                    // systemd reads standard error too, only without fields.
                    eprint(&text(entry));
                }
            }
            Self::Text => eprint(&text(entry)),
            Self::Json => eprint(&json(entry)),
            #[cfg(test)]
            Self::Test(sender) => sender.send(entry.message.clone()).unwrap(),
        }
    }
}

fn eprint(line: &str) {
    // One write per line, so that lines of two processes do not mix.
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

fn log_level(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        Level::TRACE => log::Level::Trace,
    }
}

fn send(journal: &JournalLog, entry: &Entry) -> std::io::Result<()> {
    let mut fields: Vec<(&str, &str)> =
        entry.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let message_id = entry.message_id();
    if let Some(message_id) = &message_id {
        fields.push(("MESSAGE_ID", message_id));
    }
    let file = entry.place.as_ref().map(|(file, _)| file.as_str());
    journal.journal_send(
        &log::Record::builder()
            .level(log_level(entry.level))
            .target(&entry.target)
            .file(file)
            .line(entry.place.as_ref().map(|(_, line)| *line))
            .key_values(&fields.as_slice())
            .args(format_args!("{}", entry.message))
            .build(),
    )
}

/// `2026-11-22T13:59:49.123456Z  INFO listening  address=127.0.0.1:8008`
fn text(entry: &Entry) -> String {
    let mut line = format!("{} {:>5} ", entry.time, entry.level);
    escape_into(&mut line, &entry.message);
    for (name, value) in &entry.fields {
        let quote = value.is_empty() || value.contains([' ', '"', '=']);
        let _ = write!(line, "  {name}=");
        if quote {
            let _ = write!(line, "{value:?}");
        } else {
            escape_into(&mut line, value);
        }
    }
    line
}

/// A line break in a value must not look like another line.
fn escape_into(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

fn json(entry: &Entry) -> String {
    let mut object = serde_json::Map::new();
    for (name, value) in &entry.fields {
        object.insert(name.clone(), value.as_str().into());
    }
    // Ours last: a field cannot pretend to be the time or the level.
    object.insert("time".into(), entry.time.as_str().into());
    object.insert("level".into(), entry.level.as_str().into());
    object.insert("target".into(), entry.target.as_str().into());
    object.insert("message".into(), entry.message.as_str().into());
    if let Some(message_id) = entry.message_id() {
        object.insert("message_id".into(), message_id.into());
    }
    serde_json::Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            time: "2026-11-22T00:00:00Z".into(),
            level: Level::WARN,
            target: "wardstone::test".into(),
            message: "two\nlines".into(),
            fields: vec![
                ("kind".into(), "server.ready".into()),
                ("reason".into(), "a \"b\"\n".into()),
                ("level".into(), "forged".into()),
            ],
            place: Some(("src/x.rs".into(), 7)),
        }
    }

    #[test]
    fn one_entry_is_one_line() {
        assert_eq!(
            text(&entry()),
            "2026-11-22T00:00:00Z  WARN two\\nlines  kind=server.ready  reason=\"a \\\"b\\\"\\n\"  \
             level=forged"
        );
        let json = json(&entry());
        assert!(!json.contains('\n'));
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["level"], "WARN");
        assert_eq!(object["message"], "two\nlines");
        assert_eq!(object["message_id"].as_str().unwrap().len(), 32);
    }
}
