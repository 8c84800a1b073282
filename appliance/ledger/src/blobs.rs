//! Files that people upload: one file per blob under `<data folder>/media/`, never in the engine.
//!
//! A blob is written sealed ([`stream`](self::stream) says how) under a fresh data key into a temporary
//! file, synced, renamed, and its folder synced; only then may a commit name it. Its data key lives in
//! the commit's row, wrapped by the key of the day on which the blob expires ([`keys`](self::keys)).
//! So a file whose commit did not happen is noise from the first moment, and is swept later.
//!
//! Erasing overwrites the half of the key that the file holds, unlinks it and syncs the folder.

mod files;
mod keys;
mod read;
pub(crate) mod stream;
mod write;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use appliance_model::{Dice, Error};
use futures_util::StreamExt;

pub use keys::{DayInUse, KEPT, day_of, rewrap_day_keys};
pub use read::BlobReader;
pub use write::{BlobWriter, InFlight, Kept};

use keys::DayKeys;

use crate::seal::SecretKey;

/// The folder of the blobs, in the data folder.
pub const BLOBS_FOLDER: &str = "media";
/// The folder of the day keys, in the data folder. Leave it out of backups: what expired must not
/// come back.
pub const KEYS_FOLDER: &str = "media-keys";
const TEMPORARY_FOLDER: &str = "tmp";
/// Blobs are spread over this many folders, so that none gets too long.
const SHELVES: usize = 256;
/// Files and folders that are synced at once: a disk makes one effort of what comes together. More would take
/// the threads that readers need.
const SYNCS_AT_ONCE_MAX: usize = 16;

/// The name of a blob: its number, and chance, so that a number used again after a failed commit never
/// names another's file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobName(String);

impl BlobName {
    fn fresh(number: u64, dice: &dyn Dice) -> Self {
        Self(format!("{number:016x}-{:016x}", dice.number()))
    }

    /// A name read back from a row or a folder.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, chance) = text.split_once('-')?;
        let is_hex = |part: &str| {
            part.len() == 16 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        (is_hex(number) && is_hex(chance)).then(|| Self(text.to_owned()))
    }

    /// The number of the media row it belongs to.
    pub fn number(&self) -> u64 {
        u64::from_str_radix(&self.0[..16], 16).unwrap_or_default()
    }

    /// As rows keep it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn shelf(&self) -> &str {
        &self.0[self.0.len() - 2..]
    }
}

/// The blobs of one server. Cheap to clone.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    keys: DayKeys,
    dice: Arc<dyn Dice>,
    in_flight: Arc<Mutex<HashSet<BlobName>>>,
}

impl Blobs {
    /// Opens the blobs of a data folder; makes the folders when they are not there, and removes what an
    /// earlier run left half written.
    ///
    /// # Errors
    ///
    /// If the folders cannot be made or read.
    pub fn open(data_dir: &Path, master_key: &SecretKey, dice: Arc<dyn Dice>) -> io::Result<Self> {
        let folder = data_dir.join(BLOBS_FOLDER);
        let temporary = folder.join(TEMPORARY_FOLDER);
        make_folder(&temporary)?;
        for entry in std::fs::read_dir(&temporary)? {
            std::fs::remove_file(entry?.path())?;
        }
        for shelf in 0..SHELVES {
            make_folder(&folder.join(format!("{shelf:02x}")))?;
        }
        let keys_folder = data_dir.join(KEYS_FOLDER);
        make_folder(&keys_folder)?;
        for synced in [folder.as_path(), data_dir] {
            std::fs::File::open(synced)?.sync_all()?;
        }
        let keys = DayKeys::new(keys_folder, master_key, dice.clone());
        Ok(Self(Arc::new(Inner { folder, keys, dice, in_flight: Arc::default() })))
    }

    /// Wraps the data key of blob `number` for the day of its deadline, [`KEPT`] for none. The day's
    /// key is on disk when this returns and stays until the guard is dropped: let the commit that
    /// names the wrapped key hold it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Unavailable`] if the disk is full.
    pub async fn wrap(
        &self,
        day: u64,
        number: u64,
        data_key: &SecretKey,
    ) -> Result<(Vec<u8>, DayInUse), Error> {
        self.0.keys.wrap(day, number, data_key).await
    }

    /// Unwraps the data key of blob `number`; none if its day's key has been destroyed.
    ///
    /// # Errors
    ///
    /// If the disk fails, or what is there is damaged.
    pub async fn unwrap(
        &self,
        day: u64,
        number: u64,
        wrapped: &[u8],
    ) -> Result<Option<SecretKey>, Error> {
        self.0.keys.unwrap(day, number, wrapped).await
    }

    /// The days that have a key.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub async fn days(&self) -> Result<Vec<u64>, Error> {
        self.0.keys.days().await
    }

    /// Destroys the key of a day if `unneeded` says so, unless something wrapped by it is just being
    /// committed. `unneeded` is asked while nothing can be wrapped.
    ///
    /// # Errors
    ///
    /// What `unneeded` fails with, or if the file cannot be removed.
    pub async fn destroy_day_if(
        &self,
        day: u64,
        unneeded: impl Future<Output = Result<bool, Error>>,
    ) -> Result<bool, Error> {
        self.0.keys.destroy_if(day, unneeded).await
    }

    /// Erases a blob and those of its renderings that exist. What is not there is erased already.
    ///
    /// # Errors
    ///
    /// If a file could not be removed: it may be there still, and must be tried again.
    pub async fn erase(&self, name: &BlobName, renderings: &[&str]) -> io::Result<()> {
        self.erase_all(std::slice::from_ref(name), renderings).await.into_iter().collect()
    }

    /// Erases blobs like [`Blobs::erase`], side by side; each of their folders is synced once. What became
    /// of each, in their order: one that does not go keeps no other.
    pub async fn erase_all(&self, names: &[BlobName], renderings: &[&str]) -> Vec<io::Result<()>> {
        let each = names.iter().map(|name| self.destroy(name, renderings)).collect::<Vec<_>>();
        let destroyed = some_at_a_time(each).await;
        let shelves: BTreeSet<PathBuf> = names.iter().map(|name| self.shelf_of(name)).collect();
        let each = shelves.iter().map(|shelf| files::sync_folder(shelf)).collect::<Vec<_>>();
        let synced = some_at_a_time(each).await;
        let unsynced: HashMap<&PathBuf, io::Error> = (shelves.iter().zip(synced))
            .filter_map(|(shelf, synced)| Some((shelf, synced.err()?)))
            .collect();
        let outcome = |(name, destroyed): (&BlobName, io::Result<()>)| {
            destroyed?;
            // A name that a power cut may bring back is not gone.
            let unsynced = unsynced.get(&self.shelf_of(name));
            unsynced.map_or(Ok(()), |error| Err(io::Error::new(error.kind(), error.to_string())))
        };
        names.iter().zip(destroyed).map(outcome).collect()
    }

    /// Overwrites and unlinks a blob's files.
    async fn destroy(&self, name: &BlobName, renderings: &[&str]) -> io::Result<()> {
        let mut failed = None;
        for label in [""].iter().chain(renderings) {
            // One that does not go must not keep the others.
            let destroyed = files::destroy(&self.path(name, label), stream::HEAD_BYTES).await;
            failed = destroyed.err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Erases one rendering of a blob. What is not there is erased already.
    ///
    /// # Errors
    ///
    /// If the file could not be removed.
    pub async fn erase_rendering(&self, name: &BlobName, label: &str) -> io::Result<()> {
        files::destroy(&self.path(name, label), stream::HEAD_BYTES).await
    }

    /// The renderings on one shelf: blob, label, and bytes on the disk.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub async fn renderings_on(&self, shelf: usize) -> io::Result<Vec<(BlobName, String, u64)>> {
        let mut found = Vec::new();
        let mut entries = tokio::fs::read_dir(self.0.folder.join(format!("{shelf:02x}"))).await?;
        while let Some(entry) = entries.next_entry().await? {
            let file_name = entry.file_name();
            let parts = file_name.to_str().and_then(|name| name.split_once('.'));
            if let Some((stem, label)) = parts
                && let Some(name) = BlobName::parse(stem)
                && let Ok(metadata) = entry.metadata().await
            {
                found.push((name, label.to_owned(), metadata.len()));
            }
        }
        Ok(found)
    }

    /// How many folders blobs are spread over.
    pub fn shelves(&self) -> usize {
        SHELVES
    }

    /// The blobs on one shelf, for the sweep. Renderings count as their blob.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub async fn on_shelf(&self, shelf: usize) -> io::Result<Vec<BlobName>> {
        let mut names = HashSet::new();
        let mut entries = tokio::fs::read_dir(self.0.folder.join(format!("{shelf:02x}"))).await?;
        while let Some(entry) = entries.next_entry().await? {
            let file_name = entry.file_name();
            let stem = file_name.to_str().and_then(|name| name.split('.').next());
            names.extend(stem.and_then(BlobName::parse));
        }
        Ok(names.into_iter().collect())
    }

    /// Whether a blob is being written or committed right now.
    pub fn is_in_flight(&self, name: &BlobName) -> bool {
        self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn path(&self, name: &BlobName, label: &str) -> PathBuf {
        let file = if label.is_empty() { name.0.clone() } else { format!("{}.{label}", name.0) };
        self.shelf_of(name).join(file)
    }

    fn shelf_of(&self, name: &BlobName) -> PathBuf {
        self.0.folder.join(name.shelf())
    }
}

/// Waits for all, some at a time; in their order.
async fn some_at_a_time<T>(each: Vec<impl Future<Output = T>>) -> Vec<T> {
    futures_util::stream::iter(each).buffered(SYNCS_AT_ONCE_MAX).collect().await
}

/// A folder that only this server's user may enter.
fn make_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests;
