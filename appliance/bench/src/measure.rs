//! From operations to a row: how long each took, and what the server spent on them together.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::clock::Stopwatch;
use crate::http::Answer;
use crate::process;

/// One operation as the client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) ms: f64,
    pub(crate) failure: Option<String>,
}

impl Operation {
    /// An operation that began at `start` and has just ended.
    pub(crate) fn ended(start: Stopwatch, answer: &Result<Answer>) -> Self {
        let failure = match answer {
            Ok(answer) if answer.is_ok() => None,
            Ok(answer) => Some(answer.label()),
            Err(error) => Some(error.to_string()),
        };
        Self { ms: start.ms(), failure }
    }

    /// A successful operation of `ms` milliseconds.
    pub(crate) fn of_ms(ms: f64) -> Self {
        Self { ms, failure: None }
    }
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Latency {
    /// Of the samples, if there are any.
    pub(crate) fn of(mut samples_ms: Vec<f64>) -> Option<Self> {
        samples_ms.sort_by(f64::total_cmp);
        let at = |share: usize| samples_ms.get((samples_ms.len() * share).div_ceil(100).max(1) - 1);
        Some(Self { p50: *at(50)?, p99: *at(99)? })
    }
}

/// The first figure of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Figure {
    /// Server CPU seconds per 1,000 operations.
    CpuPer1000(f64),
    /// Bytes.
    Bytes(f64),
    /// Milliseconds.
    Ms(f64),
}

impl Figure {
    /// The bare number.
    pub(crate) fn value(self) -> f64 {
        match self {
            Self::CpuPer1000(value) | Self::Bytes(value) | Self::Ms(value) => value,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::CpuPer1000(seconds) => f.write_str(&short(seconds)),
            Self::Bytes(bytes) if bytes >= 1e6 => write!(f, "{:.1} MB", bytes / 1e6),
            Self::Bytes(bytes) => write!(f, "{bytes:.0} B"),
            Self::Ms(ms) => write!(f, "{} ms", short(ms)),
        }
    }
}

/// Three digits that matter.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// One line of the table, for one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Which scenario made it.
    pub(crate) scenario: String,
    /// What was measured; the same words for every server.
    pub(crate) name: String,
    pub(crate) figure: Figure,
    pub(crate) operations: usize,
    pub(crate) per_s: f64,
    pub(crate) latency: Option<Latency>,
    /// Refusals and broken connections, by what they said.
    pub(crate) errors: BTreeMap<String, usize>,
    /// Whatever else a reader needs to judge the figure.
    pub(crate) note: String,
    /// Why there is no figure.
    pub(crate) failure: Option<String>,
}

impl Row {
    /// A row that is one figure, not many operations.
    pub(crate) fn single(scenario: &str, name: &str, figure: Figure, note: String) -> Self {
        Self {
            scenario: scenario.to_owned(),
            name: name.to_owned(),
            figure,
            operations: 1,
            per_s: 0.0,
            latency: None,
            errors: BTreeMap::new(),
            note,
            failure: None,
        }
    }

    /// A scenario that could not be measured.
    pub(crate) fn failed(scenario: &str, error: &anyhow::Error) -> Self {
        let mut row = Self::single(scenario, scenario, Figure::Ms(f64::MAX), String::new());
        row.failure = Some(format!("{error:#}"));
        row
    }

    /// The same for each of `parts` that its one operation deals with.
    pub(crate) fn each_of(mut self, parts: usize) -> Self {
        self.figure = Figure::CpuPer1000(self.figure.value() / parts.max(1) as f64);
        self
    }

    /// The row with a note.
    pub(crate) fn noted(mut self, note: String) -> Self {
        self.note = note;
        self
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<44} {:>9}", self.name, self.figure.to_string())?;
        if let Some(latency) = self.latency {
            let (p50, p99) = (short(latency.p50), short(latency.p99));
            write!(f, "  {} ops, {}/s, {p50} / {p99} ms", self.operations, short(self.per_s))?;
        }
        if !self.note.is_empty() {
            write!(f, "  ({})", self.note)?;
        }
        for (error, count) in &self.errors {
            write!(f, "  {count} x {error}")?;
        }
        Ok(())
    }
}

/// Watches a server's processes while operations run.
pub(crate) struct Meter {
    pids: Vec<i32>,
    cpu_s: f64,
    wall: Stopwatch,
}

impl Meter {
    /// Starts watching the process tree under `pid`.
    pub(crate) fn start(pid: i32) -> Self {
        Self::of(vec![pid])
    }

    /// Starts watching the process trees of several servers together.
    pub(crate) fn of(pids: Vec<i32>) -> Self {
        let cpu_s = pids.iter().map(|pid| process::cpu_s(*pid)).sum();
        Self { pids, cpu_s, wall: Stopwatch::start() }
    }

    /// CPU seconds since the start.
    pub(crate) fn cpu_s(&self) -> f64 {
        self.pids.iter().map(|pid| process::cpu_s(*pid)).sum::<f64>() - self.cpu_s
    }

    /// Leaves out what something else cost meanwhile.
    pub(crate) fn without_cpu_s(mut self, cpu_s: f64) -> Self {
        self.cpu_s += cpu_s;
        self
    }

    /// Ends watching and makes a row of what happened.
    pub(crate) fn row(self, scenario: &str, name: &str, operations: &[Operation]) -> Row {
        let cpu_s = self.cpu_s();
        let wall_s = self.wall.elapsed().as_secs_f64();
        let mut errors = BTreeMap::new();
        for failure in operations.iter().filter_map(|operation| operation.failure.as_ref()) {
            *errors.entry(failure.clone()).or_default() += 1;
        }
        let done: Vec<f64> =
            operations.iter().filter(|o| o.failure.is_none()).map(|o| o.ms).collect();
        let count = done.len();
        Row {
            scenario: scenario.to_owned(),
            name: name.to_owned(),
            figure: Figure::CpuPer1000(cpu_s * 1e3 / count.max(1) as f64),
            operations: count,
            per_s: count as f64 / wall_s,
            latency: Latency::of(done),
            errors,
            note: String::new(),
            failure: (count == 0).then(|| "no operation succeeded".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let latency = Latency::of((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((latency.p50.round(), latency.p99.round()), (50.0, 99.0));
        assert_eq!(Latency::of(vec![3.0]).unwrap(), Latency { p50: 3.0, p99: 3.0 });
        assert_eq!(Latency::of(Vec::new()), None);
    }

    #[test]
    fn failures_are_counted_but_not_timed() {
        let operations =
            [Operation::of_ms(2.0), Operation { ms: 900.0, failure: Some("429".to_owned()) }];
        let pid = i32::try_from(std::process::id()).unwrap();
        let row = Meter::start(pid).row("send", "send", &operations);
        assert_eq!(row.operations, 1);
        assert_eq!(row.errors["429"], 1);
        assert_eq!(row.latency, Some(Latency { p50: 2.0, p99: 2.0 }));
        let none = Meter::start(pid).row("send", "send", &operations[1..]);
        assert!(none.failure.is_some(), "a row of refusals is no result");
    }
}
