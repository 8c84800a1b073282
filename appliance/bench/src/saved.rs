//! Synapse's figures, kept between runs: they change only with the machine, its version and the
//! sizes, and taking them needs many times as long as taking ours.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::machine;
use crate::measure::Row;
use crate::server;

/// The kept rows of one machine, version and size.
pub(crate) struct Saved {
    file: PathBuf,
}

impl Saved {
    /// The file in `folder` for this machine.
    pub(crate) fn open(folder: &Path, is_quick: bool) -> Self {
        let letters = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let machine: String = machine::cpu().chars().map(letters).collect();
        let size = if is_quick { "quick" } else { "full" };
        let name = format!("synapse-{}-{size}-{machine}.json", server::SYNAPSE_VERSION);
        Self { file: folder.join(name) }
    }

    /// The rows of these scenarios, as far as they were measured; failed ones are not kept.
    pub(crate) fn rows(&self, scenarios: &[&str]) -> Vec<Row> {
        let mut rows = self.all();
        rows.retain(|row| scenarios.contains(&row.scenario.as_str()));
        rows
    }

    /// Keeps these rows in place of older ones of the same scenarios.
    pub(crate) fn keep(&self, measured: &[Row]) -> Result<()> {
        let mut rows = self.all();
        rows.retain(|old| measured.iter().all(|new| new.scenario != old.scenario));
        rows.extend(measured.iter().filter(|row| row.failure.is_none()).cloned());
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&self.file, text).context("keep Synapse's figures")
    }

    fn all(&self) -> Vec<Row> {
        // A file of an older format is as good as none: it is measured again.
        let text = std::fs::read(&self.file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::measure::Figure;

    #[test]
    fn a_failed_scenario_is_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let saved = Saved::open(folder.path(), true);
        let row = |name: &str, ms| Row::single(name, name, Figure::Ms(ms), String::new());
        saved.keep(&[row("idle", 1.0), Row::failed("send", &anyhow!("no"))]).unwrap();
        saved.keep(&[row("keys", 2.0)]).unwrap();
        saved.keep(&[row("idle", 3.0)]).unwrap();
        let found = saved.rows(&["idle", "send", "keys"]);
        let figures: Vec<f64> = found.iter().map(|row| row.figure.value()).collect();
        assert_eq!(figures, [2.0, 3.0]);
        assert!(Saved::open(folder.path(), false).rows(&["idle"]).is_empty(), "other sizes");
    }
}
