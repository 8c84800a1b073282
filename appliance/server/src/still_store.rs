//! The store of a server that does not run, for commands that look at it or change it as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use appliance_engine::Engine;
use appliance_ledger::{
    ImportError, Lane, Ledger, NobodyListens, OpenError, Openers, SecretKey, blobs, import,
    rotate_data_keys,
};
use appliance_model::{Dice, OsDice, SystemClock};
use serde_json::{Value, json};

use crate::admin::{Reason, Refusal, store};
use crate::lock::FolderLock;
use crate::settings::Settings;
use crate::settings::layer::Origin;
use crate::wiring::{engine_kind, engine_options};
use crate::{files, keys};

/// The folder of the store, in the data folder.
const STORE_FOLDER: &str = "store";

/// A store nobody else has open.
pub struct StillStore<'a> {
    settings: &'a Settings,
    _lock: FolderLock,
}

fn failed(message: impl ToString) -> Refusal {
    Refusal { reason: Reason::Failed, message: message.to_string() }
}

fn cannot_open(error: &OpenError) -> Refusal {
    let reason = match error {
        OpenError::Damaged(_) | OpenError::LostTail { .. } => Reason::Damaged,
        _ => Reason::Failed,
    };
    Refusal { reason, message: error.to_string() }
}

impl<'a> StillStore<'a> {
    /// Takes the data folder for this process.
    ///
    /// # Errors
    ///
    /// Another process uses it.
    pub fn take(settings: &'a Settings) -> Result<Self, Refusal> {
        files::create_private_dir(&settings.server.data_dir).map_err(failed)?;
        let lock = FolderLock::take(&settings.server.data_dir).map_err(failed)?;
        Ok(Self { settings, _lock: lock })
    }

    fn folder(&self) -> PathBuf {
        self.settings.server.data_dir.join(STORE_FOLDER)
    }

    /// Opens the engine; `verify`: reads its structure through first.
    fn engine(&self, verify: bool) -> Result<Arc<dyn Engine>, Refusal> {
        let mut options = engine_options(self.settings);
        if verify {
            options.verify_bytes_max = u64::MAX;
        }
        appliance_engine::open(engine_kind(self.settings), &self.folder(), &options).map_err(
            |error| Refusal {
                reason: match error {
                    appliance_engine::OpenError::Damaged { .. } => Reason::Damaged,
                    _ => Reason::Failed,
                },
                message: error.to_string(),
            },
        )
    }

    /// Opens the ledger. Nothing is written while the lane does not run.
    async fn ledger(&self, verify: bool) -> Result<(Ledger, Lane), Refusal> {
        if !self.folder().exists() {
            let folder = self.folder();
            return Err(failed(format!("there is no store in {}", folder.display())));
        }
        let master_key = self.master_key()?;
        let engine = self.engine(verify)?;
        let openers = Openers {
            server_name: &self.settings.server.name,
            master_key: &master_key,
            clock: Arc::new(SystemClock),
            dice: Arc::new(OsDice),
            observer: Arc::new(NobodyListens),
            folder: Some(&self.settings.server.data_dir),
        };
        appliance_ledger::open(engine, openers).await.map_err(|error| cannot_open(&error))
    }

    fn master_key(&self) -> Result<SecretKey, Refusal> {
        keys::read_master_key(&self.settings.store.master_key_file).map_err(failed)
    }

    /// Reads everything and says whether it is whole.
    pub async fn check(&self) -> Result<Value, Refusal> {
        let (ledger, _lane) = self.ledger(true).await?;
        store::check(&ledger).await
    }

    /// Counts rows and bytes.
    pub async fn stats(&self) -> Result<Value, Refusal> {
        let (ledger, _lane) = self.ledger(false).await?;
        store::stats(&ledger).await
    }

    /// Writes everything to a file.
    pub async fn export(&self, to: &Path) -> Result<Value, Refusal> {
        let (ledger, _lane) = self.ledger(false).await?;
        store::export(&ledger, to, true).await
    }

    /// Reads an export into an empty store.
    pub async fn import(&self, from: &Path) -> Result<Value, Refusal> {
        if self.folder().exists() {
            let folder = self.folder();
            return Err(failed(format!(
                "{} exists. An export is imported into an empty place: move that folder away, and \
                 the file `acknowledged` beside it",
                folder.display()
            )));
        }
        let engine = self.engine(false)?;
        let imported = import(&*engine, from, &self.settings.server.name).await;
        match imported {
            Ok(imported) => {
                drop(engine);
                // Opening it is the proof that the master key fits.
                self.ledger(false).await?;
                Ok(store::in_json(from, &imported))
            }
            Err(error) => {
                // Whatever was written is of no use, and must not look like a store.
                drop(engine);
                std::fs::remove_dir_all(self.folder()).map_err(failed)?;
                let reason = match error {
                    ImportError::Damaged(..) => Reason::Damaged,
                    _ => Reason::Failed,
                };
                Err(Refusal { reason, message: error.to_string() })
            }
        }
    }

    /// Wraps all keys under a new master key, written to `to` or in place of the old one. A second
    /// call finishes what a crash interrupted.
    pub async fn rotate_key(&self, origin: &Origin, to: Option<&Path>) -> Result<Value, Refusal> {
        let old_file = &self.settings.store.master_key_file;
        if to.is_none() && matches!(origin, Origin::Credential(_)) {
            return Err(failed(
                "the master key comes from a systemd credential, which this command cannot \
                 replace: name a file with --new-key-file, then make it the credential",
            ));
        }
        let new_file = to.map_or_else(|| keys::next_master_key(old_file), Path::to_owned);
        if !self.folder().exists() {
            let folder = self.folder();
            return Err(failed(format!("there is no store in {}", folder.display())));
        }
        // Written and synced before anything is wrapped by it.
        if !new_file.exists() {
            keys::create_master_key(&new_file).map_err(failed)?;
        }
        let old = self.master_key()?;
        let new = keys::read_master_key(&new_file).map_err(failed)?;
        let dice: Arc<dyn Dice> = Arc::new(OsDice);
        blobs::rewrap_day_keys(&self.settings.server.data_dir, (&old, &new), &dice)
            .map_err(|error| failed(format!("the keys of media: {error}")))?;
        let engine = self.engine(false)?;
        rotate_data_keys(&*engine, (&old, &new), dice)
            .await
            .map_err(|error| cannot_open(&error))?;
        if to.is_some() {
            return Ok(json!({ "new_key_file": new_file, "old_key_file": old_file }));
        }
        let kept = keys::replace_master_key(old_file).map_err(failed)?;
        Ok(json!({ "new_key_file": old_file, "old_key_file": kept }))
    }
}
