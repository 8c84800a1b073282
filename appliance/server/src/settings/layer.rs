//! One file of settings: its keys checked against the shape, each with its line.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::shape::{join, kind_name, suggestion};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file and a line in it, counted from 1.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A file of `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, if that is known.
    pub origin: Origin,
    /// The key, if it is about one.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// A file that was read: which keys it sets and where.
#[derive(Debug, Default)]
pub struct Layer {
    /// Each key with its place; lists as a whole.
    pub origins: BTreeMap<String, Origin>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl Layer {
    /// Reads `text`, which came from `path`, against the `shape` of all settings.
    pub fn read(path: &Path, text: &str, shape: &Value) -> Self {
        let mut reader = Reader { path, text, shape, layer: Self::default() };
        match DeTable::parse(text) {
            Ok(table) => reader.table(table.get_ref(), shape, ""),
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                reader.problem("", &span, error.message().replace('\n', ", "));
            }
        }
        reader.layer
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    shape: &'a Value,
    layer: Layer,
}

impl Reader<'_> {
    fn origin(&self, span: &Range<usize>) -> Origin {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Origin::File(self.path.to_owned(), line)
    }

    fn problem(&mut self, key: &str, span: &Range<usize>, message: String) {
        let origin = self.origin(span);
        self.layer.problems.push(Problem { origin, key: key.to_owned(), message });
    }

    fn table(&mut self, table: &DeTable<'_>, shape: &Value, section: &str) {
        for (key, value) in table {
            let name: &str = key.get_ref().as_ref();
            let path = join(section, name);
            let Some(expected) = shape.get(name) else {
                let help = suggestion(self.shape, section, shape, name);
                self.problem(&path, &key.span(), format!("unknown key; {help}"));
                continue;
            };
            self.layer.origins.insert(path.clone(), self.origin(&key.span()));
            self.value(value, expected, &path);
        }
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, shape: &Value, path: &str) {
        match (value.get_ref(), shape) {
            (DeValue::Table(table), Value::Object(_)) => self.table(table, shape, path),
            (DeValue::Array(list), Value::Array(element)) => {
                for (index, item) in list.iter().enumerate() {
                    self.value(item, &element[0], &format!("{path}[{index}]"));
                }
            }
            (value, shape) if fits(value, shape) => {}
            (found, shape) => {
                let expected = kind_name(shape);
                // The value itself stays out: it may be a password in the wrong place.
                let message = format!("expected {expected}, found {}", found.type_str());
                self.problem(path, &value.span(), message);
            }
        }
    }
}

fn fits(value: &DeValue<'_>, shape: &Value) -> bool {
    match (value, shape) {
        (DeValue::String(_), Value::String(_)) | (DeValue::Boolean(_), Value::Bool(_)) => true,
        (DeValue::Float(_), Value::Number(number)) => number.is_f64(),
        (DeValue::Integer(integer), Value::Number(number)) => {
            number.is_f64() || u64::from_str_radix(integer.as_str(), integer.radix()).is_ok()
        }
        _ => false,
    }
}
