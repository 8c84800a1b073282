//! `/room_keys/version` ([spec]): making, finding, changing and deleting a backup.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3room_keysversion

use std::sync::Arc;

use appliance_ledger::keyspaces::BACKUPS;
use appliance_ledger::rows::keys::BackupRow;
use appliance_ledger::{Commit, Direction};
use appliance_model::{Caller, Error, UserNid};
use appliance_rules::Permit;
use serde::{Deserialize, Serialize};

use super::{OpenBackup, unknown};
use crate::keys::{Keys, RawJson, raw};

/// A public key and the signatures of all devices that trust it.
const AUTH_DATA_BYTES_MAX: usize = 64 * 1024;
/// There is one in use.
const ALGORITHM_BYTES_MAX: usize = 255;
/// A user's backups that are not deleted. Clients delete the old one when they make a new one.
const BACKUPS_MAX: usize = 100;
/// All versions of a user that are looked through for what is left to delete.
const VERSIONS_PER_PAGE: usize = 1_000;

/// How a backup is encrypted.
#[derive(Clone, Debug, Deserialize)]
pub struct NewBackup {
    /// The algorithm.
    pub algorithm: String,
    /// What clients need to know for it.
    pub auth_data: RawJson,
    /// If the backup exists: which it is.
    pub version: Option<String>,
}

/// A backup.
#[derive(Clone, Debug, Serialize)]
pub struct BackupInfo {
    /// The algorithm.
    pub algorithm: String,
    /// What clients need to know for it.
    pub auth_data: RawJson,
    /// How many keys it holds.
    pub count: u64,
    /// Changes when, and only when, a key in the backup changes.
    pub etag: String,
    /// Its name.
    pub version: String,
}

impl Keys {
    /// Begins a new backup, which is the current one from now on; returns its version.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::BadJson`]: `auth_data` is no object.
    /// * [`appliance_model::Kind::TooLarge`]: `auth_data` is larger than 64 KiB, or there are 100
    ///   backups.
    pub async fn create_backup(&self, caller: &Caller, new: NewBackup) -> Result<String, Error> {
        self.check_takes_part(caller)?;
        check(&new)?;
        self.purge_backups(caller.user).await?;
        let door = self.doors.enter(caller.user.0).await;
        let view = self.house.ledger.newest();
        let (newest, _) = view.scan(&BACKUPS, &caller.user, Direction::Backward, 1).await?;
        // A number is never used again, even if its backup was deleted: a device that was away must
        // not take the new one for the one it knows.
        let version = newest.first().map_or(1, |((_, version), _)| version + 1);
        let (alive, _) =
            view.scan(&BACKUPS, &caller.user, Direction::Backward, VERSIONS_PER_PAGE).await?;
        if alive.iter().filter(|(_, row)| !row.deleted).count() >= BACKUPS_MAX {
            return Err(Error::too_large("There are too many key backups. Delete an old one."));
        }
        let permit = Permit::own("backup.created", &caller.user_id, version);
        let mut commit = self.house.ledger.begin(permit);
        let row = BackupRow {
            algorithm: new.algorithm,
            auth_data: new.auth_data.get().to_owned(),
            etag: 0,
            count: 0,
            deleted: false,
        };
        commit.put(&BACKUPS, &(caller.user, version), &row);
        commit.hold(door);
        self.house.ledger.commit(commit).await?;
        Ok(version.to_string())
    }

    /// A backup of the caller's: the current one if no version is named.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is none.
    pub async fn backup_info(
        &self,
        caller: &Caller,
        version: Option<&str>,
    ) -> Result<BackupInfo, Error> {
        self.check_takes_part(caller)?;
        let (version, row) = match version {
            Some(version) => self.backup(caller.user, version).await?,
            None => self.current_backup(caller.user).await?.ok_or_else(unknown)?,
        };
        Ok(BackupInfo {
            algorithm: row.algorithm,
            auth_data: raw(row.auth_data)?,
            count: row.count,
            etag: row.etag.to_string(),
            version: version.to_string(),
        })
    }

    /// Changes `auth_data` of a backup: "Only `auth_data` can be modified."
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::InvalidParam`]: algorithm or version are not those of the backup.
    /// * [`appliance_model::Kind::NotFound`]: there is no such backup.
    /// * As [`Keys::create_backup`].
    pub async fn update_backup(
        &self,
        caller: &Caller,
        version: &str,
        new: NewBackup,
    ) -> Result<(), Error> {
        check(&new)?;
        let OpenBackup { version: number, mut row, door } =
            self.enter_backup(caller, version).await?;
        if new.version.is_some_and(|named| named != version) {
            return Err(Error::invalid_param("The body names another version than the path."));
        }
        if new.algorithm != row.algorithm {
            return Err(Error::invalid_param("The algorithm of a backup cannot be changed."));
        }
        if row.auth_data == new.auth_data.get() {
            return Ok(());
        }
        new.auth_data.get().clone_into(&mut row.auth_data);
        let permit = Permit::own("backup.changed", &caller.user_id, number);
        let mut commit = self.house.ledger.begin(permit);
        commit.put(&BACKUPS, &(caller.user, number), &row);
        commit.hold(door);
        self.house.ledger.commit(commit).await?;
        Ok(())
    }

    /// Deletes a backup with all its keys. What was deleted before stays deleted.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there never was such a backup.
    pub async fn delete_backup(&self, caller: &Caller, version: &str) -> Result<(), Error> {
        self.check_takes_part(caller)?;
        let door = self.doors.enter(caller.user.0).await;
        let number: u64 = version.parse().map_err(|_| unknown())?;
        let place = (caller.user, number);
        let mut row = self.house.ledger.get(&BACKUPS, &place).await?.ok_or_else(unknown)?;
        // From this commit on nobody finds it; the keys follow in pages.
        if !row.deleted {
            row.deleted = true;
            row.auth_data.clear();
            let permit = Permit::own("backup.deleted", &caller.user_id, number);
            let mut commit = self.house.ledger.begin(permit);
            commit.put(&BACKUPS, &place, &row);
            commit.hold(door);
            self.house.ledger.commit(commit).await?;
        }
        self.purge_backups(caller.user).await
    }

    /// Adds to `commit` that all backups of a user are deleted; a job deletes what is in them.
    pub(in crate::keys) async fn give_up_backups(
        &self,
        user: UserNid,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&BACKUPS, &user, Direction::Backward, VERSIONS_PER_PAGE).await?;
        for (place, mut row) in rows.into_iter().filter(|(_, row)| !row.deleted) {
            row.deleted = true;
            row.auth_data.clear();
            commit.put(&BACKUPS, &place, &row);
        }
        Ok(())
    }

    /// Deletes the keys of deleted backups, also those that a power cut left.
    async fn purge_backups(&self, user: UserNid) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&BACKUPS, &user, Direction::Backward, VERSIONS_PER_PAGE).await?;
        for ((_, version), row) in rows.into_iter().filter(|(_, row)| row.deleted && row.count > 0)
        {
            let door = Arc::new(self.doors.enter(user.0).await);
            let mut backup = OpenBackup { version, row, door };
            self.delete_keys_of(user, &mut backup, None, &Permit::housekeeping).await?;
        }
        Ok(())
    }

    /// Deletes the keys of all deleted backups that a power cut left. For a job that runs once a
    /// day. Returns how many backups there were.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn tidy_backups(&self) -> Result<usize, Error> {
        let view = self.house.ledger.newest();
        let (mut next, mut tidied) = ((UserNid(0), 0), 0);
        loop {
            let range = (&next, &(UserNid(u64::MAX), u64::MAX));
            let (rows, more) =
                view.scan_between(&BACKUPS, range, Direction::Forward, VERSIONS_PER_PAGE).await?;
            for ((user, _), _) in rows.iter().filter(|(_, row)| row.deleted && row.count > 0) {
                self.purge_backups(*user).await?;
                tidied += 1;
            }
            match rows.last() {
                Some(((user, version), _)) if more => next = (*user, version + 1),
                _ => return Ok(tidied),
            }
        }
    }
}

fn check(new: &NewBackup) -> Result<(), Error> {
    if !new.auth_data.get().starts_with('{') {
        return Err(Error::bad_json("`auth_data` must be an object."));
    }
    if new.auth_data.get().len() > AUTH_DATA_BYTES_MAX || new.algorithm.len() > ALGORITHM_BYTES_MAX
    {
        return Err(Error::too_large("`auth_data` or `algorithm` is too large."));
    }
    Ok(())
}
