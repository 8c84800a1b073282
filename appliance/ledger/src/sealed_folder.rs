//! A folder of sealed files, for what is made from the store and can be made again: nothing of it can
//! be read without the store's keys, and a file that was changed, cut off or renamed does not open.
//!
//! The files are sealed like [`crate::blobs`] are: in chunks, under a key of the file's own. Unlike
//! blobs they are not destroyed with their key; they go by being unlinked. All calls block.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use appliance_model::Dice;

use crate::blobs::stream::{
    CHUNK_BYTES, ChunkCipher, HEAD_BYTES, Head, SEALED_CHUNK_BYTES, chunk_start, fresh_head,
};
use crate::seal::{SecretKey, Unsealable};

const TAG_BYTES: usize = SEALED_CHUNK_BYTES - CHUNK_BYTES;

/// The folder.
#[derive(Clone)]
pub struct SealedFolder {
    path: PathBuf,
    key: SecretKey,
    dice: Arc<dyn Dice>,
}

impl std::fmt::Debug for SealedFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SealedFolder").field(&self.path).finish()
    }
}

impl SealedFolder {
    /// Opens a folder, made if it is not there: only this server's user may look into it.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub fn open(path: &Path, key: SecretKey, dice: Arc<dyn Dice>) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self { path: path.to_owned(), key, dice })
    }

    /// A new file.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if there is one of that name; or if the disk refuses.
    pub fn create(&self, name: &str) -> io::Result<SealedWriter> {
        self.write_as(&self.at(name)?, name, true)
    }

    fn write_as(&self, path: &Path, name: &str, is_new: bool) -> io::Result<SealedWriter> {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600);
        if is_new {
            options.create_new(true);
        } else {
            options.create(true).truncate(true);
        }
        let mut file = options.open(path)?;
        let head = fresh_head(&*self.dice);
        file.write_all(&head)?;
        let cipher = ChunkCipher::new(&self.key, &head, name).map_err(damaged)?;
        Ok(SealedWriter { file, cipher, chunk: Vec::with_capacity(SEALED_CHUNK_BYTES), index: 0 })
    }

    /// A file, to be read.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`], [`io::ErrorKind::InvalidData`] if it is damaged, or if the disk
    /// refuses.
    pub fn read(&self, name: &str) -> io::Result<SealedFile> {
        let file = File::open(self.at(name)?)?;
        let sealed = file.metadata()?.len();
        let body = sealed.checked_sub(HEAD_BYTES as u64).ok_or_else(|| damaged(Unsealable))?;
        let chunks = body.div_ceil(SEALED_CHUNK_BYTES as u64);
        let bytes = body.checked_sub(chunks * TAG_BYTES as u64).filter(|_| chunks > 0);
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let mut head: Head = [0; HEAD_BYTES];
        file.read_exact_at(&mut head, 0)?;
        Ok(SealedFile {
            cipher: ChunkCipher::new(&self.key, &head, name).map_err(damaged)?,
            bytes: bytes.ok_or_else(|| damaged(Unsealable))?,
            chunks,
            last_read: Mutex::new(None),
            file,
        })
    }

    /// Puts a file of these bytes in the place of one of that name, at once and for good.
    ///
    /// # Errors
    ///
    /// If the disk refuses; then the old file is there still.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, draft) = (self.at(name)?, self.at(&format!("{name}.new"))?);
        let mut writer = self.write_as(&draft, name, false)?;
        writer.write_all(bytes)?;
        writer.finish()?;
        fs::rename(draft, path)?;
        self.sync()
    }

    /// Whether there is a file of that name.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub fn exists(&self, name: &str) -> io::Result<bool> {
        self.at(name)?.try_exists()
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`], or if the disk refuses.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name)?)
    }

    /// Removes all files.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            fs::remove_file(entry?.path())?;
        }
        self.sync()
    }

    /// Makes the names in the folder survive a power cut.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Names lead nowhere else.
    fn at(&self, name: &str) -> io::Result<PathBuf> {
        let is_plain =
            !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
        is_plain.then(|| self.path.join(name)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// A file that is being written. Without [`SealedWriter::finish`] it does not open.
pub struct SealedWriter {
    file: File,
    cipher: ChunkCipher,
    chunk: Vec<u8>,
    index: u32,
}

impl SealedWriter {
    fn seal(&mut self, is_last: bool) -> io::Result<()> {
        self.cipher.seal(self.index, is_last, &mut self.chunk);
        self.file.write_all(&self.chunk)?;
        self.chunk.clear();
        // Nonces are counted in 32 bits: 256 TiB.
        self.index = self.index.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(())
    }

    /// Seals the end and waits until all of it is on the disk.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub fn finish(&mut self) -> io::Result<()> {
        self.seal(true)?;
        self.file.sync_data()
    }
}

impl Write for SealedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits until something follows it: only then is it known not to be the last.
        if self.chunk.len() == CHUNK_BYTES && !bytes.is_empty() {
            self.seal(false)?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Nothing leaves before its chunk is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is being read.
pub struct SealedFile {
    file: File,
    cipher: ChunkCipher,
    bytes: usize,
    chunks: u64,
    /// The chunk opened last: what is read next is mostly beside it.
    last_read: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

impl std::fmt::Debug for SealedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedFile").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl SealedFile {
    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// A part of it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if a bit of it differs, [`io::ErrorKind::InvalidInput`] if it
    /// ends before, or if the disk refuses.
    pub fn part(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        if range.start > range.end || range.end > self.bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut part = Vec::with_capacity(range.len());
        let mut at = range.start;
        while at < range.end {
            let index = at / CHUNK_BYTES;
            let chunk = self.chunk(index as u64)?;
            let from = at - index * CHUNK_BYTES;
            let to = chunk.len().min(range.end - index * CHUNK_BYTES);
            part.extend_from_slice(chunk.get(from..to).ok_or_else(|| damaged(Unsealable))?);
            at = index * CHUNK_BYTES + to;
        }
        Ok(part)
    }

    /// All of it.
    ///
    /// # Errors
    ///
    /// As [`SealedFile::part`].
    pub fn whole(&self) -> io::Result<Vec<u8>> {
        if self.is_empty() {
            // Nothing to read, but something to check.
            self.chunk(0)?;
        }
        self.part(0..self.bytes)
    }

    fn chunk(&self, index: u64) -> io::Result<Arc<Vec<u8>>> {
        let mut last_read = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, chunk)) = &*last_read
            && *last == index
        {
            return Ok(chunk.clone());
        }
        let before = usize::try_from(index).map_err(|_| damaged(Unsealable))? * CHUNK_BYTES;
        let plain = self.bytes.saturating_sub(before).min(CHUNK_BYTES);
        let mut chunk = vec![0; plain + TAG_BYTES];
        self.file.read_exact_at(&mut chunk, chunk_start(index))?;
        let number = u32::try_from(index).map_err(|_| damaged(Unsealable))?;
        self.cipher.open(number, index + 1 == self.chunks, &mut chunk).map_err(damaged)?;
        let chunk = Arc::new(chunk);
        *last_read = Some((index, chunk.clone()));
        Ok(chunk)
    }
}

fn damaged(error: Unsealable) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use appliance_model::OsDice;

    use super::*;

    fn folder(path: &Path, key: &SecretKey) -> SealedFolder {
        SealedFolder::open(path, key.clone(), Arc::new(OsDice)).unwrap()
    }

    fn put(folder: &SealedFolder, name: &str, bytes: &[u8]) {
        let mut writer = folder.create(name).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap();
    }

    #[test]
    fn files_of_every_length_come_back_whole_and_in_parts() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(place.path(), &SecretKey::random(&OsDice));
        for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 200_001]
        {
            let plain: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let name = format!("f{bytes}");
            put(&folder, &name, &plain);
            let file = folder.read(&name).unwrap();
            assert_eq!((file.len(), file.whole().unwrap()), (bytes, plain.clone()));
            for range in [0..bytes.min(1), bytes / 2..bytes, bytes / 3..bytes / 2, bytes..bytes] {
                assert_eq!(file.part(range.clone()).unwrap(), plain[range.clone()], "{range:?}");
            }
            assert!(file.part(0..bytes + 1).is_err());
        }
        assert_eq!(folder.create("f1").err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        for odd in ["", "..", "a/b"] {
            assert_eq!(folder.create(odd).err().unwrap().kind(), io::ErrorKind::InvalidInput);
        }
        folder.replace("f1", b"another").unwrap();
        assert_eq!(folder.read("f1").unwrap().whole().unwrap(), b"another");
        folder.clear().unwrap();
        assert!(!folder.exists("f1").unwrap());
    }

    #[test]
    fn nothing_can_be_read_from_the_disk_or_changed_there() {
        let place = tempfile::tempdir().unwrap();
        let key = SecretKey::random(&OsDice);
        let folder = folder(place.path(), &key);
        let secret = b"bed 4 is free ".repeat(10_000);
        put(&folder, "words", &secret);
        let path = place.path().join("words");
        let sealed = fs::read(&path).unwrap();
        assert!(!sealed.windows(8).any(|window| window == b"bed 4 is"));

        let broken = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            folder.read("words").and_then(|file| file.whole()).is_err()
        };
        for at in [0, 5, 40, 70_000, sealed.len() - 1] {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(broken(&flipped), "byte {at}");
        }
        assert!(broken(&sealed[..SEALED_CHUNK_BYTES + HEAD_BYTES]), "cut off after a chunk");
        assert!(broken(&sealed[..10]) && broken(b""), "hardly begun");
        fs::write(&path, &sealed).unwrap();
        assert_eq!(folder.read("words").unwrap().whole().unwrap(), secret);
        fs::rename(&path, place.path().join("other")).unwrap();
        assert!(folder.read("other").unwrap().whole().is_err(), "under another name");
        let stranger =
            SealedFolder::open(place.path(), SecretKey::random(&OsDice), Arc::new(OsDice));
        fs::rename(place.path().join("other"), &path).unwrap();
        assert!(stranger.unwrap().read("words").unwrap().whole().is_err(), "with another key");
        drop(folder.create("unfinished").unwrap());
        assert!(folder.read("unfinished").is_err());
    }
}
