//! Files that must be whole, on disk, and readable by the right people only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Creates a folder that only its owner can enter; fine if it is there.
///
/// # Errors
///
/// A sentence naming the folder.
pub fn create_private_dir(path: &Path) -> Result<(), String> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| format!("cannot create {}: {error}", path.display()))
}

/// Writes a file that must not be there yet.
///
/// # Errors
///
/// A sentence naming the file.
pub fn create(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        write(path, text, mode)
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Replaces a file: readers see the old text or the new, never half of one.
///
/// # Errors
///
/// A sentence naming the file.
pub fn replace(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let new = path.with_extension("new");
    let replace = || {
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        write(&new, text, mode)?;
        std::fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    replace().map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_never_overwrites_and_replace_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.txt");
        create(&path, "one", 0o600).unwrap();
        assert!(create(&path, "two", 0o600).is_err());
        replace(&path, "three", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
