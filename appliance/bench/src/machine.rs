//! What machine the figures are from. A figure without its machine is a rumour.

use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;

use crate::server;

/// One paragraph for the head of the table.
pub(crate) fn facts(folder: &Path, is_quick: bool) -> String {
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_gib = proc_value("/proc/meminfo", "MemTotal")
        .and_then(|kib| kib.trim_end_matches(" kB").parse::<f64>().ok())
        .map_or(0.0, |kib| kib / 1024.0 / 1024.0);
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = read_to_string("/proc/loadavg").unwrap_or_default();
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    let sizes = if is_quick { "**small sizes: a look, not a measurement**; " } else { "" };
    format!(
        "{sizes}{cpu}, {threads} threads, {memory_gib:.0} GiB, {disk}, Linux {kernel}; load before {load}; \
         commit {commit}; Synapse {synapse} (SQLite, log level WARNING, no rate limits)",
        cpu = cpu(),
        disk = filesystem(folder),
        kernel = kernel.trim(),
        load = load.split(' ').next().unwrap_or("?"),
        synapse = server::SYNAPSE_VERSION,
    )
}

/// The processor's name.
pub(crate) fn cpu() -> String {
    proc_value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned())
}

fn proc_value(file: &str, key: &str) -> Option<String> {
    read_to_string(file).ok()?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The kind of the filesystem under `folder`: the longest mount point that contains it.
fn filesystem(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_default();
    let mounts = read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(point, _)| folder.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map_or_else(|| "unknown filesystem".to_owned(), |(_, kind)| kind.to_owned())
}
