//! Where tantivy keeps its files: in a folder that we seal. It sees plain bytes, the disk never does.

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use appliance_ledger::{SealedFile, SealedFolder, SealedWriter};
use tantivy::HasLen;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, Directory, DirectoryLock, FileHandle, Lock, OwnedBytes, TerminatingWrite,
    WatchCallback, WatchHandle, WritePtr,
};

/// Whoever holds a lock does a moment's work in memory or on the disk.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// A folder of sealed files, as tantivy uses it.
#[derive(Clone, Debug)]
pub(super) struct SealedDirectory {
    folder: SealedFolder,
    /// Within the process: the data folder's own lock keeps other processes out, and a lock file
    /// would outlive a kill.
    locks: Arc<Locks>,
}

#[derive(Debug, Default)]
struct Locks {
    held: Mutex<HashSet<PathBuf>>,
    released: Condvar,
}

impl SealedDirectory {
    pub fn new(folder: SealedFolder) -> Self {
        Self { folder, locks: Arc::default() }
    }
}

/// Tantivy's names are plain ASCII.
fn name(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

impl Directory for SealedDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let file = self.folder.read(name(path)).map_err(|error| not_read(error, path))?;
        Ok(Arc::new(Handle(file)))
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.folder.remove(name(path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DeleteError::FileDoesNotExist(path.to_owned()),
            _ => DeleteError::IoError { io_error: Arc::new(error), filepath: path.to_owned() },
        })
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.folder.exists(name(path)).map_err(|error| not_read(error, path))
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let writer = self.folder.create(name(path)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => OpenWriteError::FileAlreadyExists(path.to_owned()),
            _ => OpenWriteError::wrap_io_error(error, path.to_owned()),
        })?;
        Ok(BufWriter::new(Box::new(Writer(writer))))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let whole = self.folder.read(name(path)).and_then(|file| file.whole());
        whole.map_err(|error| not_read(error, path))
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.folder.replace(name(path), data)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.folder.sync()
    }

    fn acquire_lock(&self, lock: &Lock) -> Result<DirectoryLock, LockError> {
        let mut held = self.locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.contains(&lock.filepath) {
            if !lock.is_blocking {
                return Err(LockError::LockBusy);
            }
            let waited = self.locks.released.wait_timeout(held, LOCK_WAIT);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return Err(LockError::LockBusy);
            }
            held = again;
        }
        held.insert(lock.filepath.clone());
        let guard = Held { locks: self.locks.clone(), path: lock.filepath.clone() };
        Ok(DirectoryLock::from(Box::new(guard)))
    }

    /// Readers are told to look again by whoever commits.
    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}

fn not_read(error: io::Error, path: &Path) -> OpenReadError {
    match error.kind() {
        io::ErrorKind::NotFound => OpenReadError::FileDoesNotExist(path.to_owned()),
        _ => OpenReadError::wrap_io_error(error, path.to_owned()),
    }
}

struct Held {
    locks: Arc<Locks>,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.path);
        self.locks.released.notify_all();
    }
}

#[derive(Debug)]
struct Handle(SealedFile);

impl HasLen for Handle {
    fn len(&self) -> usize {
        self.0.len()
    }
}

impl FileHandle for Handle {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        self.0.part(range).map(OwnedBytes::new)
    }
}

struct Writer(SealedWriter);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl TerminatingWrite for Writer {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        self.0.finish()
    }
}
