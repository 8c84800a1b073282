//! The one place where commands write: answers on standard output, trouble on standard error.

use std::io::{self, Write};

use serde_json::Value;

/// One line for a person or a script. A reader that went away (`| head`) is no trouble.
pub fn line(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// One JSON value on one line.
pub fn json(value: &Value) {
    line(&value.to_string());
}

/// What went wrong, in a sentence.
pub fn trouble(text: &str) {
    let _ = writeln!(io::stderr().lock(), "wardstone: {text}");
}
