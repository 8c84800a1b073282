//! One process per data folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The file that is locked.
const FILE: &str = "lock";

/// The right to use a data folder; given back when dropped, or by the kernel when the process dies.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the folder for this process.
    ///
    /// # Errors
    ///
    /// A sentence: another process has it, or the folder cannot be written.
    pub fn take(folder: &Path) -> Result<Self, String> {
        let path = folder.join(FILE);
        let open =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(format!(
                "another Wardstone uses the data folder {}; stop it first",
                folder.display()
            )),
            Err(TryLockError::Error(error)) => {
                Err(format!("cannot lock {}: {error}", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        assert!(FolderLock::take(folder.path()).unwrap_err().contains("another Wardstone"));
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }
}
