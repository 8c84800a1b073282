//! Writing a blob: sealed as it arrives, never whole in memory, never on disk in the clear.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use appliance_model::Error;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::files::{self, io_error};
use super::stream::{CHUNK_BYTES, ChunkCipher, SEALED_CHUNK_BYTES, fresh_head};
use super::{BlobName, Blobs, TEMPORARY_FOLDER};
use crate::seal::SecretKey;

/// A blob being written. Dropping it removes what was written.
pub struct BlobWriter {
    blobs: Blobs,
    file: File,
    temporary: Temporary,
    name: BlobName,
    label: String,
    key: SecretKey,
    cipher: ChunkCipher,
    /// Plain bytes that do not fill a chunk yet.
    chunk: Vec<u8>,
    chunks: u32,
    bytes: u64,
    in_flight: InFlight,
}

/// A written blob, synced under its name. No row names it yet.
pub struct Kept {
    /// Its name.
    pub name: BlobName,
    /// Its data key, to be wrapped.
    pub key: SecretKey,
    /// Its length in plain bytes.
    pub bytes: u64,
    file: Temporary,
    in_flight: InFlight,
}

impl Kept {
    /// To be called when a commit is about to name the blob, which shall hold what is returned: until
    /// it is through, the sweep leaves the file alone. A blob that is dropped instead is removed.
    pub fn into_named(mut self) -> InFlight {
        self.file.0 = None;
        self.in_flight
    }
}

/// Marks a blob as being written or committed.
pub struct InFlight {
    name: Option<BlobName>,
    names: Arc<Mutex<HashSet<BlobName>>>,
}

impl InFlight {
    fn new(blobs: &Blobs, name: Option<&BlobName>) -> Self {
        let names = blobs.0.in_flight.clone();
        names.lock().unwrap_or_else(PoisonError::into_inner).extend(name.cloned());
        Self { name: name.cloned(), names }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
    }
}

/// A file that goes when it is dropped, unless it was renamed.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // What stays is sealed under a key that is forgotten now; the next start removes it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Blobs {
    /// Starts a blob for the media row `number`, under a fresh key.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Unavailable`] if the disk is full.
    pub async fn begin(&self, number: u64) -> Result<BlobWriter, Error> {
        let name = BlobName::fresh(number, &*self.0.dice);
        let in_flight = InFlight::new(self, Some(&name));
        let key = SecretKey::random(&*self.0.dice);
        self.start(name, "", key, in_flight).await
    }

    /// Starts a rendering of a blob, under a key of its own that hangs on the blob's data key. It is
    /// named by no row: it lives and dies with its blob.
    ///
    /// # Errors
    ///
    /// As [`Blobs::begin`].
    pub async fn begin_rendering(
        &self,
        name: &BlobName,
        label: &str,
        data_key: &SecretKey,
    ) -> Result<BlobWriter, Error> {
        let in_flight = InFlight::new(self, None);
        self.start(name.clone(), label, data_key.clone(), in_flight).await
    }

    async fn start(
        &self,
        name: BlobName,
        label: &str,
        key: SecretKey,
        in_flight: InFlight,
    ) -> Result<BlobWriter, Error> {
        let chance = self.0.dice.number();
        let path =
            self.0.folder.join(TEMPORARY_FOLDER).join(format!("{}.{chance:016x}", name.as_str()));
        let file = files::create(&path, false).await.map_err(|error| io_error(&error))?;
        let temporary = Temporary(Some(path));
        self.over(file, temporary, (name, label, key), in_flight).await
    }

    async fn over(
        &self,
        mut file: File,
        temporary: Temporary,
        (name, label, key): (BlobName, &str, SecretKey),
        in_flight: InFlight,
    ) -> Result<BlobWriter, Error> {
        let head = fresh_head(&*self.0.dice);
        file.write_all(&head).await.map_err(|error| io_error(&error))?;
        let cipher = ChunkCipher::new(&key, &head, label).map_err(Error::internal)?;
        Ok(BlobWriter {
            blobs: self.clone(),
            file,
            temporary,
            name,
            label: label.to_owned(),
            key,
            cipher,
            chunk: Vec::with_capacity(SEALED_CHUNK_BYTES),
            chunks: 0,
            bytes: 0,
            in_flight,
        })
    }
}

impl BlobWriter {
    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Unavailable`] if the disk is full.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            // A full chunk waits until more comes: the last one is sealed as the last.
            if self.chunk.len() == CHUNK_BYTES {
                self.flush_chunk(false).await?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    async fn flush_chunk(&mut self, last: bool) -> Result<(), Error> {
        self.cipher.seal(self.chunks, last, &mut self.chunk);
        self.chunks =
            self.chunks.checked_add(1).ok_or_else(|| Error::too_large("The file is too large."))?;
        self.file.write_all(&self.chunk).await.map_err(|error| io_error(&error))?;
        self.chunk.clear();
        Ok(())
    }

    /// Seals the end, syncs the file, gives it its name, syncs the folder.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Unavailable`] if the disk is full; then nothing is left.
    pub async fn finish(mut self) -> Result<Kept, Error> {
        self.flush_chunk(true).await?;
        let failed = |error: std::io::Error| io_error(&error);
        self.file.flush().await.map_err(failed)?;
        self.file.sync_all().await.map_err(failed)?;
        if let Some(temporary) = &self.temporary.0 {
            let path = self.blobs.path(&self.name, &self.label);
            tokio::fs::rename(temporary, &path).await.map_err(failed)?;
            self.temporary.0 = Some(path);
        }
        files::sync_folder(&self.blobs.shelf_of(&self.name)).await.map_err(failed)?;
        let Self { name, key, bytes, temporary: file, in_flight, .. } = self;
        Ok(Kept { name, key, bytes, file, in_flight })
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::{Kind, OsDice};

    use super::*;

    /// `/dev/full` takes no byte: what a full disk does.
    #[tokio::test]
    async fn a_full_disk_is_a_clear_answer_and_leaves_nothing() {
        let data = tempfile::tempdir().unwrap();
        let master = SecretKey::random(&OsDice);
        let blobs = Blobs::open(data.path(), &master, Arc::new(OsDice)).unwrap();
        let name = BlobName::fresh(1, &OsDice);
        let in_flight = InFlight::new(&blobs, Some(&name));
        let full = tokio::fs::OpenOptions::new().write(true).open("/dev/full").await.unwrap();
        let path = data.path().join("media/tmp/x");
        std::fs::write(&path, b"").unwrap();
        let key = SecretKey::random(&OsDice);

        let written = async {
            let temporary = Temporary(Some(path.clone()));
            let mut writer =
                blobs.over(full, temporary, (name.clone(), "", key), in_flight).await?;
            writer.write(&vec![7; 3 * CHUNK_BYTES]).await?;
            writer.finish().await
        };
        let error = written.await.err().unwrap();
        assert_eq!(error.kind, Kind::Unavailable);
        assert!(error.message.contains("disk is full"), "{error}");
        assert!(!path.exists(), "the temporary file is gone");
        assert!(!blobs.is_in_flight(&name));
    }
}
