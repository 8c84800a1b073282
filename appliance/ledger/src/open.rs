//! Opening a store: its keys, its schema, and whether it still holds what was acknowledged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use appliance_engine::{Batch, Engine, EngineError, Write};
use appliance_model::{Clock, Dice, Position};

use crate::acked::Acked;
use crate::codec::{KeyPart, Row};
use crate::keyspaces::{DATA_KEYS, SCHEMA_VERSION, STORE};
use crate::lane::{Lane, LaneParts};
use crate::ledger::Ledger;
use crate::number::Numbers;
use crate::rows::StoreRow;
use crate::seal::{SecretKey, Vault};
use crate::time::Time;
use crate::touched::Observer;

/// Why a store was not opened. Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The master key does not open the data keys.
    #[error(
        "the master key does not fit this store. Give the key file that was made with it \
         (`store.master_key_file` or the credential `master_key`), or restore store and key together"
    )]
    WrongMasterKey,
    /// Written by a newer release.
    #[error(
        "this store has schema version {found}, this release knows {known}. Install the release \
         that wrote it; going back is only possible by restoring a backup"
    )]
    NewerSchema {
        /// The store's version.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The store belongs to another server name.
    #[error("this store belongs to the server {found}, not {asked}. Set `server.name` to {found}")]
    OtherServer {
        /// The store's server name.
        found: String,
        /// The configured one.
        asked: String,
    },
    /// Acknowledged changes are gone.
    #[error(
        "the store ends at position {found}, but position {acknowledged} was acknowledged: changes \
         that were answered are missing. Restore the newest backup; if there is none and the loss \
         is accepted, remove the file `acknowledged` beside the store and start again"
    )]
    LostTail {
        /// Where the store ends.
        found: u64,
        /// What was answered.
        acknowledged: u64,
    },
    /// The store's own row does not open.
    #[error(
        "the store is damaged ({0}). Run `wardstone store check`, then restore the newest backup"
    )]
    Damaged(&'static str),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The file system failed.
    #[error("the data folder cannot be used: {0}")]
    Io(#[from] std::io::Error),
}

/// One data key comes with each rotation of the master key.
pub(crate) const DATA_KEYS_MAX: usize = 1_000;

/// What a store needs from outside.
pub struct Openers<'a> {
    /// The server this store is for.
    pub server_name: &'a str,
    /// The key that wraps the data keys.
    pub master_key: &'a SecretKey,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub dice: Arc<dyn Dice>,
    /// Who hears of commits.
    pub observer: Arc<dyn Observer>,
    /// Where the file with the last acknowledged position lies; none in tests on memory.
    pub folder: Option<&'a Path>,
}

/// Opens the ledger on an engine. The lane must be run, or nothing is ever written.
///
/// # Errors
///
/// [`OpenError`], each with the next step.
pub async fn open(
    engine: Arc<dyn Engine>,
    openers: Openers<'_>,
) -> Result<(Ledger, Lane), OpenError> {
    let Openers { server_name, master_key, clock, dice, observer, folder } = openers;
    let data_keys = data_keys(&*engine, master_key, &dice).await?;
    let vault = Arc::new(Vault::new(dice, &data_keys));
    let store = match engine.get(STORE.space, &().to_key()).await? {
        Some(sealed) => read_store(&vault, &sealed)?,
        None => first_store(&*engine, &vault, server_name).await?,
    };
    if store.schema_version > SCHEMA_VERSION {
        return Err(OpenError::NewerSchema { found: store.schema_version, known: SCHEMA_VERSION });
    }
    if store.server_name != server_name {
        let (found, asked) = (store.server_name, server_name.to_owned());
        return Err(OpenError::OtherServer { found, asked });
    }
    let acked = match folder {
        Some(folder) => {
            let (acked, Position(acknowledged)) = Acked::open(folder)?;
            if store.position < acknowledged {
                return Err(OpenError::LostTail { found: store.position, acknowledged });
            }
            Some(acked)
        }
        None => None,
    };
    let numbers = Arc::new(Numbers::starting_at(store.next_number));
    let time = Arc::new(Time::new(clock, numbers.clone(), &store));
    let parts = LaneParts {
        engine: engine.clone(),
        vault: vault.clone(),
        time: time.clone(),
        numbers: numbers.clone(),
        observer,
        acked,
        store,
    };
    let (door, published, lane) = Lane::new(parts);
    Ok((Ledger::new((engine, vault), (numbers, time), door, published), lane))
}

fn read_store(vault: &Vault, sealed: &[u8]) -> Result<StoreRow, OpenError> {
    let bytes = vault
        .open(STORE.space, &().to_key(), sealed)
        .map_err(|_| OpenError::Damaged("its own row does not open"))?;
    StoreRow::from_bytes(&bytes).ok_or(OpenError::Damaged("its own row is unreadable"))
}

async fn first_store(
    engine: &dyn Engine,
    vault: &Vault,
    server_name: &str,
) -> Result<StoreRow, OpenError> {
    let store = StoreRow {
        schema_version: SCHEMA_VERSION,
        next_number: 1,
        server_name: server_name.to_owned(),
        ..StoreRow::default()
    };
    let key = ().to_key();
    let sealed = vault.seal(STORE.space, &key, &store.to_bytes());
    write(engine, Write::Put(STORE.space, key, sealed)).await?;
    Ok(store)
}

/// The data keys, unwrapped; the first one is made when the store is new.
async fn data_keys(
    engine: &dyn Engine,
    master_key: &SecretKey,
    dice: &Arc<dyn Dice>,
) -> Result<BTreeMap<u16, SecretKey>, OpenError> {
    let wrap = Vault::new(dice.clone(), &BTreeMap::from([(0, master_key.clone())]));
    let range = appliance_engine::KeyRange::prefix(&[]);
    let page = engine
        .scan(DATA_KEYS.space, &range, appliance_engine::Direction::Forward, DATA_KEYS_MAX)
        .await?;
    let mut keys = BTreeMap::new();
    for (key, sealed) in &page.rows {
        let number = u64::from_key(key).and_then(|number| u16::try_from(number).ok());
        let bytes =
            wrap.open(DATA_KEYS.space, key, sealed).map_err(|_| OpenError::WrongMasterKey)?;
        let unwrapped = SecretKey::from_bytes(&bytes);
        let (Some(number), Some(unwrapped)) = (number, unwrapped) else {
            return Err(OpenError::Damaged("a data key is unreadable"));
        };
        keys.insert(number, unwrapped);
    }
    if keys.is_empty() {
        let fresh = SecretKey::random(&**dice);
        let key = 1_u64.to_key();
        let sealed = wrap.seal(DATA_KEYS.space, &key, fresh.expose());
        write(engine, Write::Put(DATA_KEYS.space, key, sealed)).await?;
        keys.insert(1, fresh);
    }
    Ok(keys)
}

async fn write(engine: &dyn Engine, write: Write) -> Result<(), EngineError> {
    engine.commit(vec![Batch { preconditions: Vec::new(), writes: vec![write] }]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use appliance_engine::Memory;
    use appliance_model::OsDice;
    use appliance_rules::Permit;

    use super::*;
    use crate::scenario::{Store, openers};

    async fn refusal(engine: Arc<Memory>, openers: Openers<'_>) -> OpenError {
        match open(engine, openers).await {
            Ok(_) => panic!("the store was opened"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn another_master_key_or_another_name_is_refused() {
        let store = Store::new().await;
        let other = SecretKey::random(&OsDice);
        let refused = refusal(store.engine.clone(), openers(&other)).await;
        assert!(matches!(refused, OpenError::WrongMasterKey));
        let renamed = Openers { server_name: "other.example", ..openers(&store.master) };
        let refused = refusal(store.engine.clone(), renamed).await;
        assert!(refused.to_string().contains("hospital.example"), "{refused}");
    }

    #[tokio::test]
    async fn a_store_of_a_newer_release_is_refused() {
        let store = Store::new().await;
        let vault = {
            let keys = data_keys(&*store.engine, &store.master, &(Arc::new(OsDice) as _)).await;
            Vault::new(Arc::new(OsDice), &keys.unwrap())
        };
        let newer = StoreRow {
            schema_version: SCHEMA_VERSION + 1,
            server_name: "hospital.example".to_owned(),
            ..StoreRow::default()
        };
        let key = ().to_key();
        let sealed = vault.seal(STORE.space, &key, &newer.to_bytes());
        write(&*store.engine, Write::Put(STORE.space, key, sealed)).await.unwrap();
        let refused = refusal(store.engine.clone(), openers(&store.master)).await;
        assert!(matches!(refused, OpenError::NewerSchema { .. }));
    }

    #[tokio::test]
    async fn a_store_that_lost_its_tail_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let master = SecretKey::random(&OsDice);
        let engine = Arc::new(Memory::new());
        let with_folder = || Openers { folder: Some(folder.path()), ..openers(&master) };
        let (ledger, lane) = open(engine.clone(), with_folder()).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(lane.run());
        for _ in 0..2 {
            ledger.commit(ledger.begin(Permit::housekeeping())).await.unwrap();
        }
        let older = Store::on(Arc::new(Memory::new()), master.clone()).await;
        older.ledger.commit(older.ledger.begin(Permit::housekeeping())).await.unwrap();
        let older = older.engine;
        let refused = refusal(older, with_folder()).await;
        assert!(matches!(refused, OpenError::LostTail { found: 1, acknowledged: 2 }));
    }
}
