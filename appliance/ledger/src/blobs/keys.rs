//! One key per day on which blobs expire, outside the engine: `<data folder>/media-keys/<day>.key`,
//! sealed under the master key. A blob's data key is wrapped by the key of the day of its deadline.
//! When that file is gone, whatever lingers of those blobs, in old pages of the engine or in backups
//! without this folder, is noise.
//!
//! Files without a deadline (avatars) are wrapped by [`KEPT`], which is never destroyed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use appliance_engine::Space;
use appliance_model::{Dice, Error};
use tokio::io::AsyncWriteExt;

use super::files::{self, io_error};
use crate::seal::{SEAL_BYTES, SecretKey, Vault};

/// The day that never ends.
pub const KEPT: u64 = u64::MAX;
const DAY_MS: u64 = 86_400_000;
/// The authenticated place of a sealed day key, and of a data key wrapped by one.
const DAY_KEY_PLACE: Space = Space(b'D');
const DATA_KEY_PLACE: Space = Space(b'B');

/// The day (UTC, counted from 1970-01-01) in which a deadline lies.
pub fn day_of(deadline_ms: u64) -> u64 {
    deadline_ms / DAY_MS
}

/// The keys of the days.
pub(super) struct DayKeys {
    folder: PathBuf,
    master: Vault,
    dice: Arc<dyn Dice>,
    open: Mutex<HashMap<u64, Arc<Vault>>>,
    /// How many blobs per day were wrapped but are not committed yet: their day must not be destroyed.
    pending: Arc<Mutex<HashMap<u64, usize>>>,
    /// One creates or destroys at a time, so that no two keys of one day are ever in use.
    changing: tokio::sync::Mutex<()>,
}

/// Keeps a day's key while something wrapped by it is on its way to the store.
pub struct DayInUse {
    day: u64,
    pending: Arc<Mutex<HashMap<u64, usize>>>,
}

impl Drop for DayInUse {
    fn drop(&mut self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pending.get_mut(&self.day) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.day);
            }
        }
    }
}

impl DayKeys {
    pub fn new(folder: PathBuf, master_key: &SecretKey, dice: Arc<dyn Dice>) -> Self {
        let master = Vault::new(dice.clone(), &BTreeMap::from([(0, master_key.clone())]));
        Self {
            folder,
            master,
            dice,
            open: Mutex::default(),
            pending: Arc::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Wraps the data key of blob `number`. The day's key is on disk when this returns, and stays while
    /// the guard lives.
    pub async fn wrap(
        &self,
        day: u64,
        number: u64,
        key: &SecretKey,
    ) -> Result<(Vec<u8>, DayInUse), Error> {
        let _changing = self.changing.lock().await;
        let vault = match self.read(day).await? {
            Some(vault) => vault,
            None => self.create(day).await?,
        };
        *self.pending().entry(day).or_insert(0) += 1;
        let in_use = DayInUse { day, pending: self.pending.clone() };
        Ok((vault.seal(DATA_KEY_PLACE, &number.to_be_bytes(), key.expose()), in_use))
    }

    /// Unwraps the data key of blob `number`; none if the day's key is gone.
    pub async fn unwrap(
        &self,
        day: u64,
        number: u64,
        wrapped: &[u8],
    ) -> Result<Option<SecretKey>, Error> {
        let open = self.opened().get(&day).cloned();
        let vault = match open {
            Some(vault) => Some(vault),
            None => {
                let _changing = self.changing.lock().await;
                self.read(day).await?
            }
        };
        let Some(vault) = vault else { return Ok(None) };
        let opened = vault.open(DATA_KEY_PLACE, &number.to_be_bytes(), wrapped);
        let bytes = opened.map_err(|_| Error::internal("a blob's data key does not open"))?;
        Ok(SecretKey::from_bytes(&bytes))
    }

    /// The days that have a key, without [`KEPT`].
    pub async fn days(&self) -> Result<Vec<u64>, Error> {
        let mut entries = tokio::fs::read_dir(&self.folder).await.map_err(|e| io_error(&e))?;
        let mut days = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(|e| io_error(&e))? {
            let name = entry.file_name();
            let day = name.to_str().and_then(|name| name.strip_suffix(".key"));
            days.extend(day.and_then(|day| day.parse::<u64>().ok()));
        }
        days.sort_unstable();
        Ok(days)
    }

    /// Destroys a day's key if `unneeded` says so: overwritten, synced, unlinked. Nothing wrapped by it
    /// opens again. Whether it was destroyed: not while something wrapped by it is being committed.
    pub async fn destroy_if<E>(
        &self,
        day: u64,
        unneeded: impl Future<Output = Result<bool, E>>,
    ) -> Result<bool, E>
    where
        E: From<Error>,
    {
        let _changing = self.changing.lock().await;
        if self.pending().contains_key(&day) || !unneeded.await? {
            return Ok(false);
        }
        self.opened().remove(&day);
        let destroyed = async {
            files::destroy(&self.path(day), SecretKey::BYTES + SEAL_BYTES).await?;
            files::sync_folder(&self.folder).await
        };
        destroyed.await.map_err(|error| io_error(&error))?;
        Ok(true)
    }

    async fn read(&self, day: u64) -> Result<Option<Arc<Vault>>, Error> {
        if let Some(vault) = self.opened().get(&day) {
            return Ok(Some(vault.clone()));
        }
        let sealed = match tokio::fs::read(self.path(day)).await {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error(&error)),
        };
        let bytes = self.master.open(DAY_KEY_PLACE, &day.to_be_bytes(), &sealed);
        let key = bytes.ok().and_then(|bytes| SecretKey::from_bytes(&bytes));
        let key = key.ok_or_else(|| Error::internal("a media day key does not open"))?;
        Ok(Some(self.keep(day, key)))
    }

    async fn create(&self, day: u64) -> Result<Arc<Vault>, Error> {
        let key = SecretKey::random(&*self.dice);
        let sealed = self.master.seal(DAY_KEY_PLACE, &day.to_be_bytes(), key.expose());
        self.write(day, &sealed).await.map_err(|error| io_error(&error))?;
        Ok(self.keep(day, key))
    }

    async fn write(&self, day: u64, sealed: &[u8]) -> io::Result<()> {
        let temporary = self.folder.join(format!("{}.new", file_stem(day)));
        let mut file = files::create(&temporary, true).await?;
        file.write_all(sealed).await?;
        file.flush().await?;
        file.sync_all().await?;
        tokio::fs::rename(&temporary, self.path(day)).await?;
        files::sync_folder(&self.folder).await
    }

    fn keep(&self, day: u64, key: SecretKey) -> Arc<Vault> {
        let vault = Arc::new(Vault::new(self.dice.clone(), &BTreeMap::from([(0, key)])));
        self.opened().insert(day, vault.clone());
        vault
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Vault>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u64, usize>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, day: u64) -> PathBuf {
        self.folder.join(format!("{}.key", file_stem(day)))
    }
}

fn file_stem(day: u64) -> String {
    if day == KEPT { "kept".to_owned() } else { day.to_string() }
}

/// Seals every day key under a new master key. The server must not be running.
///
/// # Errors
///
/// If a file cannot be read or written, or does not open under the old key. Keys that were not reached
/// stay under the old one; running it again goes on, because those under the new key are left alone.
pub fn rewrap_day_keys(
    data_dir: &Path,
    (old, new): (&SecretKey, &SecretKey),
    dice: &Arc<dyn Dice>,
) -> io::Result<()> {
    use std::io::Write;

    let folder = data_dir.join(super::KEYS_FOLDER);
    if !folder.exists() {
        return Ok(());
    }
    let vault = |key: &SecretKey| Vault::new(dice.clone(), &BTreeMap::from([(0, key.clone())]));
    let (old, new) = (vault(old), vault(new));
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".key"))
        else {
            continue;
        };
        let day = if stem == "kept" { Some(KEPT) } else { stem.parse().ok() };
        let Some(day) = day else { continue };
        let place = day.to_be_bytes();
        let sealed = std::fs::read(&path)?;
        if new.open(DAY_KEY_PLACE, &place, &sealed).is_ok() {
            continue;
        }
        let unreadable = |_| io::Error::new(io::ErrorKind::InvalidData, "a day key does not open");
        let key = old.open(DAY_KEY_PLACE, &place, &sealed).map_err(unreadable)?;
        let temporary = path.with_extension("new");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&new.seal(DAY_KEY_PLACE, &place, &key))?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
    }
    std::fs::File::open(&folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use appliance_model::OsDice;

    use super::*;

    fn keys(folder: &Path, master: &SecretKey) -> DayKeys {
        DayKeys::new(folder.to_owned(), master, Arc::new(OsDice))
    }

    async fn destroy(keys: &DayKeys, day: u64) -> bool {
        keys.destroy_if(day, async { Ok::<_, Error>(true) }).await.unwrap()
    }

    #[tokio::test]
    async fn a_destroyed_day_opens_nothing_and_a_restart_opens_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let master = SecretKey::random(&OsDice);
        let first = keys(folder.path(), &master);
        let key = SecretKey::random(&OsDice);
        let (today, in_use) = first.wrap(1, 7, &key).await.unwrap();
        let (tomorrow, _) = first.wrap(2, 7, &key).await.unwrap();
        assert!(!destroy(&first, 1).await, "not while a commit is under way");
        drop(in_use);
        let declined = async { Ok::<_, Error>(false) };
        assert!(!first.destroy_if(1, declined).await.unwrap());

        let again = keys(folder.path(), &master);
        assert_eq!(again.days().await.unwrap(), [1, 2]);
        let opened = again.unwrap(1, 7, &today).await.unwrap().unwrap();
        assert_eq!(opened.expose(), key.expose());
        assert!(destroy(&again, 1).await);
        assert!(again.unwrap(1, 7, &today).await.unwrap().is_none(), "the day is over");
        assert!(again.unwrap(2, 7, &tomorrow).await.unwrap().is_some());
        assert!(destroy(&again, 1).await, "destroying twice is no error");

        // The clock went back: the day gets a new key, which opens nothing of the old.
        again.wrap(1, 8, &key).await.unwrap();
        assert!(again.unwrap(1, 7, &today).await.is_err());
        assert!(again.unwrap(2, 8, &tomorrow).await.is_err(), "another blob's number");
        let stranger = keys(folder.path(), &SecretKey::random(&OsDice));
        assert!(stranger.unwrap(2, 7, &tomorrow).await.is_err(), "another master key");
    }

    #[tokio::test]
    async fn a_new_master_key_takes_over() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join(super::super::KEYS_FOLDER);
        std::fs::create_dir(&folder).unwrap();
        let (old, new) = (SecretKey::random(&OsDice), SecretKey::random(&OsDice));
        let key = SecretKey::random(&OsDice);
        let (wrapped, _) = keys(&folder, &old).wrap(3, 1, &key).await.unwrap();
        let (kept, _) = keys(&folder, &old).wrap(KEPT, 1, &key).await.unwrap();

        let dice: Arc<dyn Dice> = Arc::new(OsDice);
        rewrap_day_keys(data.path(), (&old, &new), &dice).unwrap();
        rewrap_day_keys(data.path(), (&old, &new), &dice).unwrap();
        assert!(keys(&folder, &old).unwrap(3, 1, &wrapped).await.is_err());
        assert!(keys(&folder, &new).unwrap(3, 1, &wrapped).await.unwrap().is_some());
        assert!(keys(&folder, &new).unwrap(KEPT, 1, &kept).await.unwrap().is_some());
    }
}
