//! Reading a blob, whole or a range of it, a chunk at a time.

use std::io::{self, SeekFrom};

use appliance_model::Error;
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::files::io_error;
use super::stream::{
    CHUNK_BYTES, ChunkCipher, HEAD_BYTES, Head, chunk_start, chunks_of, sealed_bytes,
    sealed_chunk_bytes,
};
use super::{BlobName, Blobs};
use crate::seal::SecretKey;

/// Reads the plain bytes of a range of a blob. Holds one chunk in memory.
pub struct BlobReader {
    file: File,
    cipher: ChunkCipher,
    /// Of the whole blob.
    bytes: u64,
    /// The next byte to give, and where to stop.
    at: u64,
    to: u64,
    /// The file's own position, so that a seek is only made for the first chunk.
    file_at: u64,
}

impl Blobs {
    /// Opens a blob of `bytes` bytes to read `from` (included) to `to` (excluded). `None` if the file
    /// is not there.
    ///
    /// # Errors
    ///
    /// If the file has not the length it must have, or its head is damaged.
    pub async fn read(
        &self,
        name: &BlobName,
        data_key: &SecretKey,
        bytes: u64,
        (from, to): (u64, u64),
    ) -> Result<Option<BlobReader>, Error> {
        let Some(opened) = self.open_file(name, "").await? else { return Ok(None) };
        let (file, head, length) = opened;
        if length != sealed_bytes(bytes) {
            return Err(damaged(name));
        }
        let cipher = ChunkCipher::new(data_key, &head, "").map_err(|_| damaged(name))?;
        let (from, to) = (from.min(bytes), to.min(bytes));
        let file_at = HEAD_BYTES as u64;
        Ok(Some(BlobReader { file, cipher, bytes, at: from, to, file_at }))
    }

    /// A rendering, whole. `None` if there is none yet, or the one there is damaged: then it is made
    /// again.
    ///
    /// # Errors
    ///
    /// If the disk fails.
    pub async fn read_rendering(
        &self,
        name: &BlobName,
        label: &str,
        data_key: &SecretKey,
        bytes_max: u64,
    ) -> Result<Option<Bytes>, Error> {
        let Some((file, head, length)) = self.open_file(name, label).await? else {
            return Ok(None);
        };
        let Some(bytes) = plain_bytes(length).filter(|bytes| *bytes <= bytes_max) else {
            return Ok(None);
        };
        let Ok(cipher) = ChunkCipher::new(data_key, &head, label) else { return Ok(None) };
        let file_at = HEAD_BYTES as u64;
        let mut reader = BlobReader { file, cipher, bytes, at: 0, to: bytes, file_at };
        let mut whole = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        loop {
            match reader.next().await {
                Ok(Some(part)) => whole.extend_from_slice(&part),
                Ok(None) => return Ok(Some(whole.into())),
                Err(_) => return Ok(None),
            }
        }
    }

    async fn open_file(
        &self,
        name: &BlobName,
        label: &str,
    ) -> Result<Option<(File, Head, u64)>, Error> {
        let mut file = match File::open(self.path(name, label)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&error)),
        };
        let mut head = [0; HEAD_BYTES];
        file.read_exact(&mut head).await.map_err(|_| damaged(name))?;
        let length = file.metadata().await.map_err(|error| io_error(&error))?.len();
        Ok(Some((file, head, length)))
    }
}

/// How many plain bytes a sealed file of this length has, if a sealed file can have that length.
fn plain_bytes(sealed: u64) -> Option<u64> {
    let chunks_bytes = sealed.checked_sub(HEAD_BYTES as u64)?;
    let sealed_chunk = chunk_start(1) - chunk_start(0);
    let chunks = chunks_bytes.div_ceil(sealed_chunk);
    let tag = sealed_chunk - CHUNK_BYTES as u64;
    let bytes = chunks_bytes.checked_sub(chunks * tag)?;
    (sealed_bytes(bytes) == sealed).then_some(bytes)
}

impl BlobReader {
    /// The next bytes, at most one chunk; none at the end. Nothing is given that did not prove
    /// authentic.
    ///
    /// # Errors
    ///
    /// If the file is damaged; what was given before was right.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        // An empty file has one chunk, which proves that it is meant to be empty.
        let is_empty_file = self.bytes == 0 && self.file_at == HEAD_BYTES as u64;
        if self.at >= self.to && !is_empty_file {
            return Ok(None);
        }
        let index = self.at / CHUNK_BYTES as u64;
        let mut chunk = self.load(index).await?;
        let start = index * CHUNK_BYTES as u64;
        let within = |position: u64| usize::try_from(position - start).unwrap_or(CHUNK_BYTES);
        let (from, to) = (within(self.at), within(self.to).min(chunk.len()));
        self.at = (start + chunk.len() as u64).min(self.to);
        if is_empty_file {
            return Ok(None);
        }
        chunk.truncate(to);
        Ok(Some(Bytes::from(chunk).slice(from..)))
    }

    async fn load(&mut self, index: u64) -> Result<Vec<u8>, Error> {
        let failed = || Error::internal("a file of the media folder is damaged");
        let start = chunk_start(index);
        if self.file_at != start {
            self.file.seek(SeekFrom::Start(start)).await.map_err(|error| io_error(&error))?;
        }
        let mut chunk = vec![0; sealed_chunk_bytes(index, self.bytes)];
        self.file.read_exact(&mut chunk).await.map_err(|_| failed())?;
        self.file_at = start + chunk.len() as u64;
        let last = index + 1 == chunks_of(self.bytes);
        let index = u32::try_from(index).map_err(|_| failed())?;
        self.cipher.open(index, last, &mut chunk).map_err(|_| failed())?;
        Ok(chunk)
    }
}

fn damaged(name: &BlobName) -> Error {
    Error::internal(format!("the media file {} is damaged", name.as_str()))
}
