//! One line of the journal, before it is written.

use tracing::Level;

use super::message_id::message_id;

/// A message longer than this is cut: logs are for sentences.
pub const MESSAGE_BYTES_MAX: usize = 4_096;

/// A field longer than this is cut.
pub const FIELD_BYTES_MAX: usize = 2_048;

/// More fields than this are left out.
pub const FIELDS_MAX: usize = 48;

/// One line of the journal.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When, in UTC.
    pub time: String,
    /// How bad.
    pub level: Level,
    /// Which part of the program.
    pub target: String,
    /// The sentence.
    pub message: String,
    /// Its fields, after the number of the request.
    pub fields: Vec<(String, String)>,
    /// The source file and line.
    pub place: Option<(String, u32)>,
}

impl Entry {
    /// The value of a field; the innermost wins.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The identifier of this kind of event, if it has a kind.
    pub fn message_id(&self) -> Option<String> {
        self.field("kind").map(message_id)
    }
}

/// The first `bytes_max` bytes of `text`, whole characters only.
pub fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut text = "aäb".to_owned();
        cut(&mut text, 2);
        assert_eq!(text, "a…");
        let mut text = "ab".to_owned();
        cut(&mut text, 2);
        assert_eq!(text, "ab");
    }
}
