//! The few things done to files, and what the caller hears when a disk refuses.

use std::io;
use std::path::Path;

use appliance_model::{Error, Kind};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

/// A new file that only this server's user may read. `or_replace`: one left over may be overwritten.
pub(super) async fn create(path: &Path, or_replace: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if or_replace {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(path).await
}

/// Makes the names in a folder survive a power cut.
pub(super) async fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder).await?.sync_all().await
}

/// Overwrites the first `bytes` of a file in place, then unlinks it. A file that is not there is
/// destroyed already.
pub(super) async fn destroy(path: &Path, bytes: usize) -> io::Result<()> {
    let overwritten = overwrite(path, bytes).await;
    if overwritten.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    match tokio::fs::remove_file(path).await {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    if let Err(error) = overwritten {
        // The name is gone, so there is nothing to try again; the wrapped key is gone as well.
        tracing::warn!(kind = "media.not_overwritten", %error, "a file was unlinked unwiped");
    }
    Ok(())
}

async fn overwrite(path: &Path, bytes: usize) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path).await?;
    file.write_all(&vec![0; bytes]).await?;
    file.flush().await?;
    file.sync_data().await
}

/// What the caller hears when the disk fails.
pub(super) fn io_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(
            Kind::Unavailable,
            "The server's disk is full. Nothing was kept; try again later.",
        ),
        _ => Error::internal(format!("the media folder failed: {error}")),
    }
}
