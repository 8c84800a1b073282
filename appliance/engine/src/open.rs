//! Opening a store: the right engine, alone, whole, or a sentence that says what to do.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::folder::{self, FolderLock, LockError};
use crate::lmdb::Lmdb;
use crate::lmdb_file::DATA_FILE;
use crate::sled::{LOG_FILE, Sled};
use crate::{Engine, EngineError};

/// The file that names the engine.
const KIND_FILE: &str = "engine";

/// The engines that keep data on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The default.
    #[default]
    Lmdb,
    /// The optional one.
    Sled,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Lmdb, Self::Sled];

    /// The name in settings (`store.engine`), in the folder and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lmdb => "lmdb",
            Self::Sled => "sled",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

/// A name that is no engine's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no engine {0:?}; the engines are \"lmdb\" and \"sled\"")]
pub struct UnknownKind(String);

/// What an operator may want different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// LMDB: how many bytes of address space the data may grow to before the map has to be replaced by
    /// a larger one, which happens by itself. It costs neither memory nor disk. Default: 1 TiB.
    pub lmdb_map_bytes: u64,
    /// sled: how many bytes of pages it keeps in memory. Default: 64 MiB. Several times that were seen
    /// in use in the field.
    pub sled_cache_bytes: u64,
    /// The structure of a store of up to so many bytes is read whole at every opening, before anything
    /// trusts it: about 0.3 s for each gigabyte that is in memory already, otherwise as long as the disk
    /// takes. A larger one is read after two runs in a row that did not end well. `u64::MAX` for `store
    /// check` and after a disk fault. Default: 512 MiB.
    pub verify_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { lmdb_map_bytes: 1 << 40, sled_cache_bytes: 64 << 20, verify_bytes_max: 512 << 20 }
    }
}

/// Why a store was not opened. Each sentence ends with what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the store open.
    #[error(
        "the store in {folder} is in use by {}. Stop that one first; commands that work while the \
         server runs (`wardstone store stats`, `wardstone store export`) ask the server instead",
        holder.map_or("another process".to_owned(), |id| format!("process {id}"))
    )]
    InUse {
        /// The store.
        folder: PathBuf,
        /// Its process ID, if it is known.
        holder: Option<u32>,
    },
    /// The store was made by the other engine.
    #[error(
        "the store in {folder} was made by the engine \"{found}\", and the settings ask for \
         \"{asked}\". Set store.engine = \"{found}\" again, or move the data: \
         `wardstone store export` with the old setting, then `wardstone store import` with the new \
         one and an empty folder"
    )]
    OtherKind {
        /// The store.
        folder: PathBuf,
        /// The engine that made it.
        found: Kind,
        /// The engine asked for.
        asked: Kind,
    },
    /// What is on the disk is not what the engine wrote.
    #[error(
        "the store in {folder} is damaged: {what}. Nothing was changed. Check the disk, keep a copy \
         of the folder, and restore the newest backup with `wardstone store import`"
    )]
    Damaged {
        /// The store.
        folder: PathBuf,
        /// What was found.
        what: String,
    },
    /// The disk is full.
    #[error("the disk of the store in {folder} is full. Make room, then start again")]
    Full {
        /// The store.
        folder: PathBuf,
    },
    /// The operating system refused something.
    #[error(
        "cannot open the store in {folder}: {what}. Check that the folder exists on a local disk and \
         belongs to the user that Wardstone runs as"
    )]
    Failed {
        /// The store.
        folder: PathBuf,
        /// What was refused, and why.
        what: String,
    },
}

/// Opens the store in `folder`, or makes an empty one there. Blocks on the disk.
///
/// The store is this process's alone until the last handle is dropped. A kill at any moment of the
/// first creation leaves nothing that a second call does not finish.
///
/// # Errors
///
/// See [`OpenError`]. No error changes what is stored.
pub fn open(kind: Kind, folder: &Path, options: &Options) -> Result<Arc<dyn Engine>, OpenError> {
    let at = Place { folder };
    folder::create(folder).map_err(|error| at.io("create the folder", &error))?;
    let lock = FolderLock::take(folder).map_err(|error| at.lock(error))?;
    remove_unfinished(folder).map_err(|error| at.io("remove an unfinished creation", &error))?;

    let data = folder.join(kind.name());
    let named = named_kind(&at)?;
    match named.or_else(|| unnamed_kind(folder)) {
        Some(found) if found != kind => {
            return Err(OpenError::OtherKind { folder: folder.to_owned(), found, asked: kind });
        }
        // A name without its data means that the data was lost, not that there was none.
        Some(_) if !has_data(kind, &data) => {
            return Err(at.damaged(format!("its data in {} is missing", data.display())));
        }
        _ if named.is_none() => create(kind, &at, options)?,
        _ => {}
    }
    let opened: Result<Arc<dyn Engine>, EngineError> = match kind {
        Kind::Lmdb => Lmdb::open(&data, options, Some(lock)).map(|engine| Arc::new(engine) as _),
        Kind::Sled => Sled::open(&data, options, Some(lock)).map(|engine| Arc::new(engine) as _),
    };
    opened.map_err(|error| at.engine(error))
}

/// Whether the engine's file is there and not empty: an engine would take that for a new store.
fn has_data(kind: Kind, data: &Path) -> bool {
    let file = match kind {
        Kind::Lmdb => DATA_FILE,
        Kind::Sled => LOG_FILE,
    };
    fs::metadata(data.join(file)).is_ok_and(|meta| meta.len() > 0)
}

/// Makes an empty store, or finishes one that a crash left between its data and its name.
fn create(kind: Kind, at: &Place<'_>, options: &Options) -> Result<(), OpenError> {
    fill(at.folder, kind, |new| match kind {
        Kind::Lmdb => Lmdb::open(new, options, None).map(drop),
        Kind::Sled => Sled::open(new, options, None).map(drop),
    })
    .map_err(|error| at.engine(error))
}

/// Makes a store in `folder` out of what `write` puts into a new folder: data first, name last, each of
/// them whole or not at all.
pub(crate) fn fill(
    folder: &Path,
    kind: Kind,
    write: impl FnOnce(&Path) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let data = folder.join(kind.name());
    if !data.is_dir() {
        let new = data.with_extension("new");
        folder::create(&new).map_err(failed)?;
        write(&new)?;
        folder::publish(&new, &data).map_err(failed)?;
    }
    folder::write_whole(&folder.join(KIND_FILE), &format!("{kind}\n")).map_err(failed)
}

/// Makes a store, a copy of another, in the empty folder `to`.
pub(crate) fn copy_into(
    to: &Path,
    kind: Kind,
    write: impl FnOnce(&Path) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    folder::create(to).map_err(failed)?;
    if fs::read_dir(to).map_err(failed)?.next().is_some() {
        return Err(EngineError::Failed(format!("the folder {} is not empty", to.display())));
    }
    fill(to, kind, write)
}

/// The operating system's refusal as an engine's error.
pub(crate) fn failed(error: io::Error) -> EngineError {
    match folder::is_full(&error) {
        true => EngineError::Full,
        false => EngineError::Failed(error.to_string()),
    }
}

/// Removes what a crash left of a first creation; nothing was ever acknowledged in it.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "new") {
            continue;
        }
        if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
    }
    Ok(())
}

/// The engine that the folder names.
fn named_kind(at: &Place<'_>) -> Result<Option<Kind>, OpenError> {
    match fs::read_to_string(at.folder.join(KIND_FILE)) {
        Ok(name) => match name.trim().parse() {
            Ok(kind) => Ok(Some(kind)),
            Err(UnknownKind(name)) => Err(
                at.damaged(format!("it names an engine {name:?} that this version does not have"))
            ),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at.io("read which engine made it", &error)),
    }
}

/// The engine whose data is there without a name, because of a crash in the first creation.
fn unnamed_kind(folder: &Path) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| folder.join(kind.name()).is_dir())
}

/// The store, for error sentences.
struct Place<'a> {
    folder: &'a Path,
}

impl Place<'_> {
    fn damaged(&self, what: String) -> OpenError {
        OpenError::Damaged { folder: self.folder.to_owned(), what }
    }

    fn io(&self, doing: &str, error: &io::Error) -> OpenError {
        let folder = self.folder.to_owned();
        match folder::is_full(error) {
            true => OpenError::Full { folder },
            false => OpenError::Failed { folder, what: format!("cannot {doing}: {error}") },
        }
    }

    fn lock(&self, error: LockError) -> OpenError {
        match error {
            LockError::Held(holder) => OpenError::InUse { folder: self.folder.to_owned(), holder },
            LockError::Io(error) => self.io("lock it", &error),
        }
    }

    fn engine(&self, error: EngineError) -> OpenError {
        let folder = self.folder.to_owned();
        match error {
            EngineError::Full => OpenError::Full { folder },
            EngineError::Damaged(what) => OpenError::Damaged { folder, what },
            EngineError::Failed(what) => OpenError::Failed { folder, what },
            error @ EngineError::KeyTooLong(_) => {
                OpenError::Failed { folder, what: error.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Space, Write};

    fn open_default(kind: Kind, folder: &Path) -> Result<Arc<dyn Engine>, OpenError> {
        open(kind, folder, &Options::default())
    }

    /// The sentence of an opening that must not succeed.
    fn refusal(kind: Kind, folder: &Path) -> String {
        match open_default(kind, folder) {
            Ok(_) => panic!("opened"),
            Err(error) => error.to_string(),
        }
    }

    async fn write_one(engine: &dyn Engine) {
        let write = Write::Put(Space(1), b"k".to_vec(), b"v".to_vec());
        let batch = Batch { preconditions: vec![], writes: vec![write] };
        assert_eq!(engine.commit(vec![batch]).await.unwrap(), [Ok(())]);
    }

    #[test]
    fn a_store_in_use_is_refused_by_name() {
        for kind in Kind::ALL {
            let folder = tempfile::tempdir().unwrap();
            let held = open_default(kind, folder.path()).unwrap();
            let sentence = refusal(kind, folder.path());
            assert!(sentence.contains(&format!("process {}", std::process::id())), "{sentence}");
            drop(held);
            open_default(kind, folder.path()).unwrap();
        }
    }

    #[test]
    fn the_other_engines_store_is_refused_with_the_way_out() {
        for (made, asked) in [(Kind::Lmdb, Kind::Sled), (Kind::Sled, Kind::Lmdb)] {
            let folder = tempfile::tempdir().unwrap();
            drop(open_default(made, folder.path()).unwrap());
            // With its name, and without: a crash may come between the data and the name.
            for _ in 0..2 {
                let sentence = refusal(asked, folder.path());
                assert!(sentence.contains("wardstone store export"), "{sentence}");
                assert!(sentence.contains("wardstone store import"), "{sentence}");
                let _ = fs::remove_file(folder.path().join(KIND_FILE));
            }
            assert!(!folder.path().join(asked.name()).exists(), "nothing was made");
        }
    }

    /// Every state that a kill can leave behind in a first creation.
    #[tokio::test]
    async fn an_interrupted_creation_is_finished() {
        for kind in Kind::ALL {
            let whole = tempfile::tempdir().unwrap();
            drop(open_default(kind, whole.path()).unwrap());

            let folder = tempfile::tempdir().unwrap();
            let new = folder.path().join(kind.name()).with_extension("new");
            fs::create_dir(&new).unwrap();
            fs::write(new.join("data.mdb"), b"half a").unwrap();
            fs::write(new.join("db"), b"half a").unwrap();
            fs::write(folder.path().join("engine.new"), b"lm").unwrap();
            write_one(&*open_default(kind, folder.path()).unwrap()).await;
            assert!(!new.exists());

            fs::remove_file(folder.path().join(KIND_FILE)).unwrap();
            let engine = open_default(kind, folder.path()).unwrap();
            assert!(engine.get(Space(1), b"k").await.unwrap().is_some(), "the data was kept");
            assert!(folder.path().join(KIND_FILE).exists(), "the name was written");
        }
    }

    #[test]
    fn lost_data_is_not_taken_for_a_new_store() {
        for kind in Kind::ALL {
            let folder = tempfile::tempdir().unwrap();
            drop(open_default(kind, folder.path()).unwrap());
            fs::remove_dir_all(folder.path().join(kind.name())).unwrap();
            let sentence = refusal(kind, folder.path());
            assert!(sentence.contains("is missing"), "{sentence}");
        }
        for (kind, file) in [(Kind::Lmdb, "lmdb/data.mdb"), (Kind::Sled, "sled/db")] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join(file);
            drop(open_default(kind, folder.path()).unwrap());
            fs::File::create(&file).unwrap();
            assert!(refusal(kind, folder.path()).contains("is missing"), "emptied");
            fs::remove_file(&file).unwrap();
            assert!(refusal(kind, folder.path()).contains("is missing"), "removed");
            assert!(!file.exists(), "nothing was made");
        }
    }

    #[test]
    fn a_store_of_the_future_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(KIND_FILE), "postgres\n").unwrap();
        assert!(refusal(Kind::Lmdb, folder.path()).contains("\"postgres\""));
    }

    #[test]
    fn a_folder_that_cannot_be_is_refused_with_the_reason() {
        let sentence = refusal(Kind::Lmdb, Path::new("/dev/null/store"));
        assert!(sentence.contains("/dev/null/store"), "{sentence}");
        assert!(sentence.contains("belongs to the user"), "{sentence}");
    }

    #[test]
    fn names_of_engines_are_read_and_written_alike() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("rocks".parse::<Kind>().unwrap_err().to_string().contains("\"lmdb\" and \"sled\""));
    }

    #[tokio::test]
    async fn a_copy_goes_into_an_empty_folder_only() {
        for kind in Kind::ALL {
            let (folder, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let engine = open_default(kind, folder.path()).unwrap();
            fs::write(to.path().join("someone's"), b"").unwrap();
            let refused = engine.copy_to(to.path()).await;
            assert!(matches!(refused, Err(EngineError::Failed(why)) if why.contains("not empty")));
            assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1, "nothing was written");
        }
    }
}
