//! What a tree of processes has used: CPU from the kernel's own account of each, memory and writes
//! from `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// One line of `/proc/PID/stat`, in clock ticks.
struct Stat {
    parent: i32,
    own_ticks: u64,
    /// Of children that ended and were waited for.
    reaped_ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets; it may hold spaces and brackets.
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own_ticks: ticks(11) + ticks(12),
        reaped_ticks: ticks(13) + ticks(14),
    })
}

/// `root` and all its descendants.
fn tree(root: i32) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// User and system CPU seconds of `root` and its descendants, those that ended included.
pub(crate) fn cpu_s(root: i32) -> f64 {
    let ticks_per_s = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    tree(root)
        .into_iter()
        .map(|pid| {
            let Some(stat) = stat(pid) else { return 0.0 };
            // The kernel's clock counts nanoseconds; `/proc` rounds the same account to 10 ms.
            let own_s = precise_cpu_s(pid).unwrap_or(stat.own_ticks as f64 / ticks_per_s);
            own_s + stat.reaped_ticks as f64 / ticks_per_s
        })
        .sum()
}

fn precise_cpu_s(pid: i32) -> Option<f64> {
    let clock: ClockId = clock_getcpuclockid(Pid::from_raw(pid)).ok()?;
    let time = clock_gettime(clock).ok()?;
    Some(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// Memory of a process tree, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Everything resident, mapped files included.
    pub(crate) resident_bytes: u64,
    /// What belongs to the processes alone: heap and stacks.
    pub(crate) anonymous_bytes: u64,
}

/// Memory of `root` and its descendants now.
pub(crate) fn memory(root: i32) -> Memory {
    tree(root).into_iter().fold(Memory::default(), |sum, pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        Memory {
            resident_bytes: sum.resident_bytes + kib(&status, "VmRSS:") * 1024,
            anonymous_bytes: sum.anonymous_bytes + kib(&status, "RssAnon:") * 1024,
        }
    })
}

fn kib(status: &str, key: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Bytes that the files under `folder` occupy on disk; holes in sparse files do not count.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entry) = std::fs::symlink_metadata(folder) else { return 0 };
    if !entry.is_dir() {
        return entry.blocks() * 512;
    }
    let inside = std::fs::read_dir(folder).into_iter().flatten().flatten();
    inside.map(|entry| disk_bytes(&entry.path())).sum()
}

/// How many files lie below a folder; what goes meanwhile is not counted.
pub(crate) fn files_below(folder: &Path) -> usize {
    let inside = std::fs::read_dir(folder).into_iter().flatten().flatten();
    inside.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_this_process_grows_and_has_memory() {
        let me = i32::try_from(std::process::id()).unwrap();
        let before_s = cpu_s(me);
        let mut sum = 0u64;
        while cpu_s(me) - before_s < 0.02 {
            sum = (0..100_000u64).fold(sum, u64::wrapping_add);
        }
        assert!(tree(me).contains(&me));
        let memory = memory(me);
        assert!(memory.resident_bytes > memory.anonymous_bytes && memory.anonymous_bytes > 0);
        assert_eq!(std::hint::black_box(sum) & 1, sum & 1);
    }

    #[test]
    fn holes_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("sparse")).unwrap();
        file.set_len(1 << 30).unwrap();
        std::fs::write(folder.path().join("full"), vec![1u8; 1 << 16]).unwrap();
        let bytes = disk_bytes(folder.path());
        assert!(((1 << 16)..(1 << 20)).contains(&bytes), "{bytes}");
    }
}
