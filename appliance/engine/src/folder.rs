//! The folder of a store: who may use it, and how files get into it so that a crash leaves none half
//! made.
//!
//! ```text
//! <folder>/lock     held by the process that has the store open; holds its process ID
//! <folder>/engine   the name of the engine, written after its data is complete
//! <folder>/lmdb/    the engine's own files, or
//! <folder>/sled/
//! <folder>/*.new    a creation that a crash interrupted; removed at the next opening
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Only the owner looks into a store: engines create files with the modes they like.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

const LOCK_FILE: &str = "lock";

/// The right to use a store; it ends when this is dropped or the process dies.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

/// Why the lock was not to be had.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process holds it; its ID, if it wrote one.
    Held(Option<u32>),
    Io(io::Error),
}

impl FolderLock {
    /// Takes the lock of an existing folder.
    pub(crate) fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)
            .map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        // The ID only helps whoever is turned away; a disk too full for it must not stop us.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    // A process ID has at most ten digits.
    file.take(10).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Counts the runs in a row that ended without closing the store.
///
/// One such end is ordinary: a power cut, a kill. Two in a row are a reason to look before a third.
/// The count is not synced; losing it in a power cut only means looking later.
#[derive(Debug)]
pub(crate) struct Runs {
    path: PathBuf,
    ends_well: bool,
}

impl Runs {
    /// Notes that a run begins; returns how many before it did not end.
    pub(crate) fn begin(path: PathBuf) -> io::Result<(Self, u32)> {
        let unfinished: u32 = match fs::read_to_string(&path) {
            Ok(count) => count.trim().parse().unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let runs = Self { path, ends_well: true };
        runs.note(unfinished.saturating_add(1))?;
        Ok((runs, unfinished))
    }

    /// The store was looked at and found whole: counting starts again with this run.
    pub(crate) fn start_again(&self) -> io::Result<()> {
        self.note(1)
    }

    /// The run ends, and not well.
    pub(crate) fn end_badly(mut self) {
        self.ends_well = false;
    }

    fn note(&self, count: u32) -> io::Result<()> {
        fs::write(&self.path, count.to_string())
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        if self.ends_well {
            // A file that stays only makes a later opening look closer.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates a folder and its parents, so that they survive a power cut.
pub(crate) fn create(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = parent(folder);
    create(&parent)?;
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => sync(&parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the names in a folder survive a power cut.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes every file below `folder`, and its name, survive a power cut.
pub(crate) fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync(folder)
}

/// Gives a finished folder its name. Before this a crash leaves `from`, after it `to`.
pub(crate) fn publish(from: &Path, to: &Path) -> io::Result<()> {
    sync_tree(from)?;
    fs::rename(from, to)?;
    sync(&parent(to))
}

/// Writes a small file whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync(&parent(path))
}

/// Whether `bytes` more bytes fit on the disk of `folder`, found out by writing them: a quota may end
/// earlier than the disk.
pub(crate) fn has_room(folder: &Path, bytes: u64) -> bool {
    let path = folder.join("room.new");
    let written = File::create(&path).and_then(|mut file| {
        io::copy(&mut io::repeat(1).take(bytes), &mut file)?;
        file.sync_all()
    });
    // Whether it can be removed changes nothing about the answer; the next opening removes it too.
    let _ = fs::remove_file(&path);
    !written.is_err_and(|error| is_full(&error))
}

/// Whether an error says that the disk, or our part of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How many bytes the disk of `folder` has left for us, as the file system says.
pub(crate) fn room_bytes(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The bytes that the files below `folder` occupy on the disk; holes do not count.
pub(crate) fn disk_bytes(folder: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    /// The unit of `st_blocks`, whatever the file system's own block is.
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes += disk_bytes(&entry.path())?,
            Ok(meta) => bytes += meta.blocks() * BLOCK_BYTES,
            // An engine may remove a file while we look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// The folder that holds `path`'s name.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_used_by_one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = FolderLock::take(folder.path()).unwrap();
        match FolderLock::take(folder.path()) {
            Err(LockError::Held(holder)) => assert_eq!(holder, Some(std::process::id())),
            other => panic!("taken twice: {other:?}"),
        }
        drop(held);
        FolderLock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_small_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine");
        write_whole(&path, "first, and long").unwrap();
        write_whole(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_new_folder_is_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("a/b");
        create(&folder).unwrap();
        create(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn runs_that_did_not_end_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let begin = || Runs::begin(folder.path().join("running")).unwrap();
        let (first, unfinished) = begin();
        assert_eq!(unfinished, 0);
        first.end_badly();
        let (second, unfinished) = begin();
        assert_eq!(unfinished, 1);
        second.end_badly();
        let (third, unfinished) = begin();
        assert_eq!(unfinished, 2);
        third.start_again().unwrap();
        third.end_badly();
        let (fourth, unfinished) = begin();
        assert_eq!(unfinished, 1, "what was found whole does not count");
        drop(fourth);
        assert_eq!(begin().1, 0, "closed");
    }

    #[test]
    fn room_is_found_out_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        assert!(has_room(folder.path(), 100_000));
        assert!(has_room(Path::new("/dev/null/nowhere"), 1), "in trouble, but not full");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
