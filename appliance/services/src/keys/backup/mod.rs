//! Backups of room keys ([spec]): ciphertext that only its owner can open, kept for the day they
//! lose their devices. Devices that the house keeps out of encryption ([`Kind::Forbidden`]) read none and change none.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups

mod delete;
mod fetch;
mod store;
#[cfg(test)]
mod tests;
mod versions;

use std::sync::Arc;

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::BACKUPS;
use appliance_ledger::rows::keys::BackupRow;
use appliance_model::{Caller, Error, UserNid};
pub use fetch::{BackedUpKey, Place};
pub use store::RoomKeys;
pub(crate) use store::SESSION_ID_BYTES_MAX;
use tokio::sync::OwnedMutexGuard;
pub use versions::{BackupInfo, NewBackup};

use super::Keys;

/// Versions read at once while looking for the current one; there is rarely more than one.
const PAGE: usize = 16;

/// What changes of keys answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupState {
    /// Changes when, and only when, a key in the backup changes.
    pub etag: String,
    /// How many keys it holds.
    pub count: u64,
}

impl BackupState {
    fn of(row: &BackupRow) -> Self {
        Self { etag: row.etag.to_string(), count: row.count }
    }
}

/// A backup with one writer inside. The door is shared by all commits of a visit.
struct OpenBackup {
    version: u64,
    row: BackupRow,
    door: Arc<OwnedMutexGuard<()>>,
}

impl Keys {
    /// Enters a backup to write in it.
    async fn enter_backup(&self, caller: &Caller, version: &str) -> Result<OpenBackup, Error> {
        self.check_takes_part(caller)?;
        let door = Arc::new(self.doors.enter(caller.user.0).await);
        let (version, row) = self.backup(caller.user, version).await?;
        Ok(OpenBackup { version, row, door })
    }

    /// A backup of the user's that was not deleted.
    async fn backup(&self, user: UserNid, version: &str) -> Result<(u64, BackupRow), Error> {
        let number: u64 = version.parse().map_err(|_| unknown())?;
        let row = self.house.ledger.get(&BACKUPS, &(user, number)).await?;
        let row = row.filter(|row| !row.deleted).ok_or_else(unknown)?;
        // "01" is another version than "1", and there is none.
        if number.to_string() == version { Ok((number, row)) } else { Err(unknown()) }
    }

    /// The newest backup that was not deleted.
    async fn current_backup(&self, user: UserNid) -> Result<Option<(u64, BackupRow)>, Error> {
        let view = self.house.ledger.newest();
        let mut end = (user, u64::MAX);
        loop {
            let range = (&(user, 0), &end);
            let (rows, more) =
                view.scan_between(&BACKUPS, range, Direction::Backward, PAGE).await?;
            let last = rows.last().map(|(key, _)| *key);
            if let Some(((_, version), row)) = rows.into_iter().find(|(_, row)| !row.deleted) {
                return Ok(Some((version, row)));
            }
            match last {
                Some(last) if more => end = last,
                _ => return Ok(None),
            }
        }
    }
}

fn unknown() -> Error {
    Error::not_found("There is no such key backup.")
}
