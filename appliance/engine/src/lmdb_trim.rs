//! Gives the memory back through which a mapped file was read.
//!
//! Every page of the file that was ever read stays in this process's page tables, and is counted as its
//! memory, until the kernel needs the room: a server that has read 500 MB looks 500 MB large. The pages
//! themselves are the kernel's cache and stay there; only the way to them is given back, and found again
//! at the next read.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{Advice, madvise};

/// As long as less has been read since the last time, nothing is given back: finding the pages again
/// costs a little, and a server whose clients only wait reads the same few all the time.
const READ_BYTES_MIN: u64 = 16 << 20;

/// Whether this process has so many more pages of files than the last time that they are worth giving
/// back. `rest` is how many bytes it had then, of which most are its own code.
pub(crate) fn is_due(resident: &Resident, rest: &AtomicU64) -> bool {
    resident.mapped_bytes >= rest.load(Ordering::Relaxed) + READ_BYTES_MIN
}

/// Gives the pages of `file` back. The caller keeps the file mapped meanwhile.
pub(crate) fn trim(file: &Path, rest: &AtomicU64) -> io::Result<()> {
    for range in ranges(file)? {
        give_back(&range)?;
    }
    rest.store(Resident::now()?.mapped_bytes, Ordering::Relaxed);
    Ok(())
}

#[expect(unsafe_code, reason = "advice about memory is given by address; argued below")]
fn give_back(range: &Range<usize>) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: the range is a read-only shared mapping of a file that the caller keeps mapped. Dropping
    // its pages loses nothing: the next access reads the same bytes from the kernel's cache of the file.
    unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) }.map_err(io::Error::from)
}

/// This process's memory that is in use.
#[derive(Debug)]
pub(crate) struct Resident {
    /// Pages of files.
    pub mapped_bytes: u64,
    /// What is its own.
    pub own_bytes: u64,
}

impl Resident {
    /// As proc_pid_statm(5) says. The kernel answers from memory: no disk is waited for.
    pub fn now() -> io::Result<Self> {
        let statm = std::fs::read_to_string("/proc/self/statm")?;
        let mut pages = statm.split_whitespace().map(|pages| pages.parse().unwrap_or_default());
        let (all, mapped): (u64, u64) =
            (pages.nth(1).unwrap_or_default(), pages.next().unwrap_or_default());
        let page_bytes = rustix::param::page_size() as u64;
        let own_bytes = all.saturating_sub(mapped) * page_bytes;
        Ok(Self { mapped_bytes: mapped * page_bytes, own_bytes })
    }
}

/// Where `file` is mapped for reading only.
fn ranges(file: &Path) -> io::Result<Vec<Range<usize>>> {
    let inode = std::fs::metadata(file)?.ino();
    let mut found = Vec::new();
    for line in BufReader::new(File::open("/proc/self/maps")?).lines() {
        found.extend(range(&line?, inode, file));
    }
    Ok(found)
}

/// `7f00-7f10 r--s 00000000 fe:00 1234 /var/lib/wardstone/store/data.mdb`
fn range(line: &str, inode: u64, file: &Path) -> Option<Range<usize>> {
    let mut words = line.split_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let is_ours = words.next()? == "r--s"
        && words.nth(2)?.parse() == Ok(inode)
        && Path::new(line.get(line.find('/')?..)?).file_name() == file.file_name();
    let hex = |digits| usize::from_str_radix(digits, 16).ok();
    is_ours.then_some(hex(from)?..hex(to)?)
}

/// How much of `file` is mapped and in memory (`Rss` of its mappings in `smaps`).
#[cfg(test)]
pub(crate) fn resident_bytes(file: &Path) -> io::Result<u64> {
    let inode = std::fs::metadata(file)?.ino();
    let (mut is_ours, mut kib) = (false, 0);
    for line in std::fs::read_to_string("/proc/self/smaps")?.lines() {
        if line.split_whitespace().next().is_some_and(|word| word.contains('-')) {
            is_ours = range(line, inode, file).is_some();
        }
        let rss = line.strip_prefix("Rss:").filter(|_| is_ours);
        let rss = rss.and_then(|rss| rss.split_whitespace().next()?.parse::<u64>().ok());
        kib += rss.unwrap_or_default();
    }
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_itself_mapped_for_reading_is_touched() {
        let file = Path::new("/var/lib/wardstone/store/data.mdb");
        let found = |line: &str| range(line, 1234, file);
        let line = "7f00-7f10 r--s 00000000 fe:00 1234                 /a folder/data.mdb";
        assert_eq!(found(line), Some(0x7f00..0x7f10));
        assert_eq!(found(&line.replace("1234", "1235")), None, "another file");
        assert_eq!(found(&line.replace("r--s", "rw-p")), None, "private memory would be lost");
        assert_eq!(found(&line.replace("data", "lock")), None);
        assert_eq!(found("7f00-7f10 rw-p 00000000 00:00 0"), None);
        assert_eq!(found(""), None);
    }
}
