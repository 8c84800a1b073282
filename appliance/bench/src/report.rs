//! The table: one row per thing measured, both servers, the ratio and the promise.

use crate::measure::{Row, short};
use crate::target;

/// Markdown, with the machine above it.
pub(crate) fn table(facts: &str, wardstone: &[Row], synapse: &[Row]) -> String {
    let mut out = format!("{facts}\n\n");
    out += "Figures are server CPU seconds per 1,000 operations unless they carry a unit; latencies are p50 / p99 in ms.\n\n";
    out += "| | Wardstone | Synapse | ratio | latency | Synapse's | target | note |\n";
    out += "|---|---:|---:|---:|---:|---:|---|---|\n";
    let mut names: Vec<&str> = Vec::new();
    for row in wardstone.iter().chain(synapse) {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    for name in names {
        let find = |rows: &'_ [Row]| rows.iter().find(|row| row.name == name).cloned();
        let (ours, theirs) = (find(wardstone), find(synapse));
        let cells = [
            name.to_owned(),
            figure(ours.as_ref()),
            figure(theirs.as_ref()),
            ratio(ours.as_ref(), theirs.as_ref()),
            latency(ours.as_ref()),
            latency(theirs.as_ref()),
            ours.as_ref().map(|row| target::verdict(row, wardstone, synapse)).unwrap_or_default(),
            notes(ours.as_ref().map(note), theirs.as_ref().map(note)),
        ];
        out += &format!("| {} |\n", cells.join(" | "));
    }
    out
}

fn figure(row: Option<&Row>) -> String {
    match row {
        None => String::new(),
        Some(row) if row.failure.is_some() => "failed".to_owned(),
        Some(row) => row.figure.to_string(),
    }
}

fn ratio(ours: Option<&Row>, theirs: Option<&Row>) -> String {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return String::new() };
    if ours.failure.is_some() || theirs.failure.is_some() || ours.figure.value() <= 0.0 {
        return String::new();
    }
    format!("1/{}", short(theirs.figure.value() / ours.figure.value()))
}

fn latency(row: Option<&Row>) -> String {
    row.and_then(|row| row.latency)
        .map(|latency| format!("{} / {}", short(latency.p50), short(latency.p99)))
        .unwrap_or_default()
}

/// What is said of Synapse's row is said too where it is something else: its sizes may be smaller.
fn notes(ours: Option<String>, theirs: Option<String>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs.is_empty() || ours == theirs => ours,
        (Some(ours), Some(theirs)) => format!("{ours} (Synapse: {theirs})"),
        (ours, theirs) => ours.or(theirs).unwrap_or_default(),
    }
}

fn note(row: &Row) -> String {
    let errors = row.errors.iter().map(|(error, count)| format!("{count} x {error}"));
    let parts = row.failure.iter().cloned().chain([row.note.clone()]).chain(errors);
    let words: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
    words.join("; ").replace('|', "/").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::measure::Figure;

    #[test]
    fn a_failure_is_said_and_not_compared() {
        let row = |name: &str, s| Row::single("x", name, Figure::CpuPer1000(s), String::new());
        let ours = [row("send", 0.5), Row::failed("keys", &anyhow!("403 | no"))];
        let text = table("a machine", &ours, &[row("send", 25.0), row("keys", 1.0)]);
        assert!(text.contains("| send | 0.500 | 25.0 | 1/50.0 |"), "{text}");
        assert!(text.contains("| keys | failed | 1.00 |  |"), "{text}");
        assert!(text.contains("403 / no"), "{text}");

        let sized = |s, size: &str| [row("join", s).noted(size.to_owned())];
        let text = table("a machine", &sized(1.0, "of 1000"), &sized(9.0, "of 300"));
        assert!(text.contains("| of 1000 (Synapse: of 300) |"), "{text}");
    }
}
