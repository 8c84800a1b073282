//! A whole store in one file, and back: for backups, and to move between engines.
//!
//! Rows travel sealed as they lie: the file is as secret as the store, needs the same master key, and
//! no value is unsealed on the way. The format:
//!
//! ```text
//! "WARDSTONE-STORE-EXPORT\n"  version u32  header: length u32, JSON
//! row:  1u8  space u8  key: length u16, bytes  value: length u32, bytes     (any number)
//! end:  0u8  rows u64  SHA-256 of everything before the digest
//! ```
//!
//! Numbers are big-endian. A file without its end was not finished and is not imported.

use std::io;
use std::path::{Path, PathBuf};

use appliance_engine::{Batch, Engine, EngineError, KEY_BYTES_MAX, Space, VALUE_BYTES_MAX, Write};
use appliance_model::Error;
use aws_lc_rs::digest::{self, SHA256};
use serde_json::{Value, json};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};

use crate::keyspaces::{DATA_KEYS, SCHEMA_VERSION, STORE};
use crate::ledger::Ledger;
use crate::survey::Pages;
use crate::view::store_error;

const MAGIC: &[u8; 23] = b"WARDSTONE-STORE-EXPORT\n";
const VERSION: u32 = 1;
const BUFFER_BYTES: usize = 1 << 20;
/// The header names a server and a few numbers.
const HEADER_BYTES_MAX: u32 = 65_536;
/// Rows and bytes of one batch of an import.
const BATCH_ROWS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Larger than anything that follows a row's tag besides key and value.
const DIGEST_BYTES: usize = 32;

/// What was written or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Whose store.
    pub server_name: String,
    /// The newest position in it.
    pub position: u64,
    /// Its rows.
    pub rows: u64,
    /// The size of the file.
    pub bytes: u64,
}

/// Why a file was not imported. Nothing was written unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is not what an export wrote.
    #[error("{0}: {1}. Nothing was imported; use another export")]
    Damaged(PathBuf, &'static str),
    /// Written by a newer release.
    #[error(
        "this export has schema version {found}, this release knows {known}. Install the release that wrote it"
    )]
    NewerSchema {
        /// The file's version.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The file is of another server.
    #[error("this export belongs to the server {found}, not {asked}. Set `server.name` to {found}")]
    OtherServer {
        /// The file's server name.
        found: String,
        /// The configured one.
        asked: String,
    },
    /// The store holds something already.
    #[error("the store is not empty. Import into an empty one: move its folder away first")]
    NotEmpty,
    /// The file system failed.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// The engine failed half-way: what is in the folder is of no use.
    #[error("{0}. The import is not complete: remove the store's folder and import again")]
    Engine(#[from] EngineError),
}

impl Ledger {
    /// Writes the whole store to `path`, which must not exist. The server goes on meanwhile; the
    /// file shows one moment.
    ///
    /// # Errors
    ///
    /// If the engine cannot show one moment (sled, while the server runs), the file exists, or a
    /// disk fails; the message says which.
    pub async fn export(&self, path: &Path, is_still: bool) -> Result<Exported, Error> {
        if !is_still && !self.engine().isolates() {
            return Err(Error::invalid_param(
                "This engine cannot show one moment of a store that is being written: stop the \
                 server, then export.",
            ));
        }
        let read = self.engine().snapshot().await.map_err(store_error)?;
        let store = self.stored_as_of(&*read).await?;
        let header = json!({
            "server_name": store.server_name,
            "schema_version": store.schema_version,
            "position": store.position,
        });
        let file_error =
            |error: io::Error| Error::invalid_param(format!("{}: {error}", path.display()));
        let mut out = Out::create(path, &header).await.map_err(file_error)?;
        for byte in 0..=u8::MAX {
            let mut pages = Pages::new(Space(byte));
            while let Some(rows) = pages.next(&*read).await? {
                for (key, value) in &rows {
                    out.row(byte, key, value).await.map_err(file_error)?;
                }
            }
        }
        let (rows, bytes) = out.finish().await.map_err(file_error)?;
        Ok(Exported { server_name: store.server_name, position: store.position, rows, bytes })
    }
}

struct Out {
    file: BufWriter<File>,
    digest: digest::Context,
    rows: u64,
    bytes: u64,
}

impl Out {
    async fn create(path: &Path, header: &Value) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let mut out = Self { file, digest: digest::Context::new(&SHA256), rows: 0, bytes: 0 };
        let header = header.to_string();
        out.write(MAGIC).await?;
        out.write(&VERSION.to_be_bytes()).await?;
        out.write(&length(header.len())?.to_be_bytes()).await?;
        out.write(header.as_bytes()).await?;
        Ok(out)
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).await
    }

    async fn row(&mut self, space: u8, key: &[u8], value: &[u8]) -> io::Result<()> {
        let key_length = u16::try_from(key.len()).map_err(|_| too_long())?;
        self.write(&[1, space]).await?;
        self.write(&key_length.to_be_bytes()).await?;
        self.write(key).await?;
        self.write(&length(value.len())?.to_be_bytes()).await?;
        self.write(value).await?;
        self.rows += 1;
        Ok(())
    }

    async fn finish(mut self) -> io::Result<(u64, u64)> {
        self.write(&[0]).await?;
        self.write(&self.rows.to_be_bytes()).await?;
        let digest = self.digest.finish();
        self.file.write_all(digest.as_ref()).await?;
        self.file.flush().await?;
        self.file.get_ref().sync_all().await?;
        Ok((self.rows, self.bytes + DIGEST_BYTES as u64))
    }
}

fn length(bytes: usize) -> io::Result<u32> {
    u32::try_from(bytes).map_err(|_| too_long())
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a row is too long for an export")
}

/// Reads the export in `path` into the empty `engine`. The file is read twice: first to see that it is
/// whole, then to write it.
///
/// # Errors
///
/// [`ImportError`].
pub async fn import(
    engine: &dyn Engine,
    path: &Path,
    server_name: &str,
) -> Result<Exported, ImportError> {
    for byte in 0..=u8::MAX {
        let any = appliance_engine::KeyRange::prefix(&[]);
        let page = engine.scan(Space(byte), &any, appliance_engine::Direction::Forward, 1).await?;
        if !page.rows.is_empty() {
            return Err(ImportError::NotEmpty);
        }
    }
    let (exported, schema_version) = verify(path).await?;
    if schema_version > SCHEMA_VERSION {
        return Err(ImportError::NewerSchema { found: schema_version, known: SCHEMA_VERSION });
    }
    if exported.server_name != server_name {
        let (found, asked) = (exported.server_name, server_name.to_owned());
        return Err(ImportError::OtherServer { found, asked });
    }
    write_rows(engine, path).await?;
    Ok(exported)
}

/// The first reading.
async fn verify(path: &Path) -> Result<(Exported, u64), ImportError> {
    let mut file = In::open(path).await?;
    let damaged = |what| ImportError::Damaged(path.to_owned(), what);
    let header = file.header.clone();
    let mut rows = 0;
    while file.row().await?.is_some() {
        rows += 1;
    }
    if file.end().await? != rows {
        return Err(damaged("its number of rows is wrong"));
    }
    let bytes = file.bytes;
    let text = |key: &str| header[key].as_str().map(ToOwned::to_owned);
    let server_name = text("server_name").ok_or(damaged("its header is unreadable"))?;
    let number = |key: &str| header[key].as_u64().ok_or(damaged("its header is unreadable"));
    let exported = Exported { server_name, position: number("position")?, rows, bytes };
    Ok((exported, number("schema_version")?))
}

/// The second reading. What makes a store a store comes last: a store that was not finished has no
/// keys, and never looks like a new one.
async fn write_rows(engine: &dyn Engine, path: &Path) -> Result<(), ImportError> {
    let mut file = In::open(path).await?;
    let (mut last, mut batch, mut bytes) = (Batch::default(), Batch::default(), 0);
    while let Some((space, key, value)) = file.row().await? {
        if [STORE.space, DATA_KEYS.space].contains(&space) {
            last.writes.push(Write::Put(space, key, value));
            continue;
        }
        bytes += key.len() + value.len();
        batch.writes.push(Write::Put(space, key, value));
        if batch.writes.len() >= BATCH_ROWS_MAX || bytes >= BATCH_BYTES_MAX {
            engine.commit(vec![std::mem::take(&mut batch)]).await?;
            bytes = 0;
        }
    }
    engine.commit(vec![batch, last]).await?;
    Ok(())
}

struct In {
    path: PathBuf,
    file: BufReader<File>,
    digest: digest::Context,
    header: Value,
    bytes: u64,
}

impl In {
    async fn open(path: &Path) -> Result<Self, ImportError> {
        let file = File::open(path).await.map_err(|e| ImportError::Io(path.to_owned(), e))?;
        let mut file = Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(BUFFER_BYTES, file),
            digest: digest::Context::new(&SHA256),
            header: Value::Null,
            bytes: 0,
        };
        if file.read(MAGIC.len()).await? != MAGIC {
            return Err(file.damaged("it is not an export of a store"));
        }
        if file.number().await? != VERSION {
            return Err(file.damaged("its format is of another release"));
        }
        let length = file.number().await?;
        if length > HEADER_BYTES_MAX {
            return Err(file.damaged("its header is too long"));
        }
        let header = file.read(length as usize).await?;
        let header = serde_json::from_slice(&header);
        file.header = header.map_err(|_| file.damaged("its header is unreadable"))?;
        Ok(file)
    }

    fn damaged(&self, what: &'static str) -> ImportError {
        ImportError::Damaged(self.path.clone(), what)
    }

    async fn read(&mut self, length: usize) -> Result<Vec<u8>, ImportError> {
        let mut bytes = vec![0; length];
        match self.file.read_exact(&mut bytes).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.damaged("it ends too early"));
            }
            Err(error) => return Err(ImportError::Io(self.path.clone(), error)),
        }
        self.digest.update(&bytes);
        self.bytes += length as u64;
        Ok(bytes)
    }

    async fn number(&mut self) -> Result<u32, ImportError> {
        let bytes = self.read(4).await?;
        let bytes = <[u8; 4]>::try_from(bytes).map_err(|_| self.damaged("it ends too early"))?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// The next row; none at the end's tag.
    async fn row(&mut self) -> Result<Option<(Space, Vec<u8>, Vec<u8>)>, ImportError> {
        match self.read(1).await?[0] {
            0 => return Ok(None),
            1 => {}
            _ => return Err(self.damaged("a row begins with something else")),
        }
        let head = self.read(3).await?;
        let key_length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        if key_length > KEY_BYTES_MAX {
            return Err(self.damaged("a key is too long"));
        }
        let key = self.read(key_length).await?;
        let value_length = self.number().await? as usize;
        if value_length > VALUE_BYTES_MAX {
            return Err(self.damaged("a value is too long"));
        }
        Ok(Some((Space(head[0]), key, self.read(value_length).await?)))
    }

    /// What follows the end's tag: the number of rows, if the digest is right.
    async fn end(&mut self) -> Result<u64, ImportError> {
        let rows = self.read(8).await?;
        let expected = self.digest.clone().finish();
        if self.read(DIGEST_BYTES).await? != expected.as_ref() {
            return Err(self.damaged("its digest is wrong"));
        }
        let rows = <[u8; 8]>::try_from(rows).map_err(|_| self.damaged("it ends too early"))?;
        Ok(u64::from_be_bytes(rows))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use appliance_engine::{Kind, Memory, Options};
    use appliance_model::UserNid;
    use appliance_rules::Permit;

    use super::*;
    use crate::keyspaces::USERS;
    use crate::rows::UserRow;
    use crate::scenario::{Store, openers};

    async fn store_with_users(count: u64) -> Store {
        let store = Store::new().await;
        for number in 1..=count {
            let mut commit = store.ledger.begin(Permit::housekeeping());
            let row = UserRow { user_id: format!("@user{number}:h") };
            commit.put(&USERS, &UserNid(number), &row);
            store.ledger.commit(commit).await.unwrap();
        }
        store
    }

    #[tokio::test]
    async fn a_store_moves_between_engines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("export");
        let store = store_with_users(2_345).await;
        let exported = store.ledger.export(&path, true).await.unwrap();
        assert_eq!(exported.server_name, "hospital.example");
        assert!(store.ledger.export(&path, true).await.is_err(), "never overwrites");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), exported.bytes);

        for kind in [Kind::Lmdb, Kind::Sled] {
            let to = folder.path().join(kind.name());
            let engine = appliance_engine::open(kind, &to, &Options::default()).unwrap();
            let imported = import(&*engine, &path, "hospital.example").await.unwrap();
            assert_eq!(imported, exported);
            let again = import(&*engine, &path, "hospital.example").await;
            assert!(matches!(again, Err(ImportError::NotEmpty)));

            let (ledger, _lane) = crate::open(engine, openers(&store.master)).await.unwrap();
            assert_eq!(ledger.position(), store.ledger.position());
            let last = ledger.get(&USERS, &UserNid(2_345)).await.unwrap().unwrap();
            assert_eq!(last.user_id, "@user2345:h");
            assert!(ledger.survey(true).await.unwrap().is_whole());
        }
    }

    #[tokio::test]
    async fn a_damaged_file_imports_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("export");
        store_with_users(50).await.ledger.export(&path, true).await.unwrap();
        let whole = std::fs::read(&path).unwrap();
        let refused = async |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let engine = Arc::new(Memory::new());
            let refused = import(&*engine, &path, "hospital.example").await;
            assert!(matches!(refused, Err(ImportError::Damaged(..))), "{refused:?}");
            let rows = engine.stats().await.unwrap().rows;
            assert_eq!(rows.unwrap_or(0), 0, "nothing was written");
        };
        for cut in [0, 10, 23, 30, whole.len() / 2, whole.len() - 1] {
            refused(&whole[..cut]).await;
        }
        for flipped in (0..whole.len()).step_by(997) {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 0x40;
            refused(&bytes).await;
        }
    }

    #[tokio::test]
    async fn another_servers_export_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("export");
        store_with_users(1).await.ledger.export(&path, true).await.unwrap();
        let refused = import(&Memory::new(), &path, "other.example").await;
        assert!(matches!(refused, Err(ImportError::OtherServer { .. })), "{refused:?}");
    }
}
