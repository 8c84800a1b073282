//! How much may lie here: of one user, and of all together ([`MediaOptions`]).
//!
//! What a user has here is a row, changed in the commits that bring a file and that forget one, so it is
//! true after a power cut. The sum of all is counted from the rows once, and then kept in memory.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use appliance_ledger::keyspaces::MEDIA_USAGE;
use appliance_ledger::rows::media::UsageRow;
use appliance_ledger::{Commit, Direction};
use appliance_model::ruma::UserId;
use appliance_model::{Error, Kind, UserNid};
use appliance_rules::Permit;
use tokio::sync::OwnedMutexGuard;

use super::Media;

const PAGE: usize = 1_000;

/// What a user has here, and may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// The most bytes; none: no limit.
    pub quota_bytes: Option<u64>,
}

impl Media {
    /// What a user has here, and may have.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn usage(&self, user: UserNid) -> Result<Usage, Error> {
        let row = self.ledger().get(&MEDIA_USAGE, &user).await?.unwrap_or_default();
        let general = Some(self.options().user_bytes_max).filter(|bytes| *bytes > 0);
        Ok(Usage { files: row.files, bytes: row.bytes, quota_bytes: row.quota_bytes.or(general) })
    }

    /// Gives a user a quota of their own in place of the general one, or takes it back. What they
    /// have beyond it stays until its deadline.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such user.
    pub async fn set_quota(
        &self,
        user_id: &UserId,
        quota_bytes: Option<u64>,
        by: &str,
    ) -> Result<Usage, Error> {
        let user = self.ledger().user(user_id).await?;
        let user = user.ok_or_else(|| Error::not_found("There is no such user."))?;
        let door = self.0.doors.enter(user.0).await;
        let mut row = self.ledger().get(&MEDIA_USAGE, &user).await?.unwrap_or_default();
        row.quota_bytes = quota_bytes;
        let permit = Permit::administration("media.quota_set", by, user_id);
        let mut commit = self.ledger().begin(permit);
        commit.put(&MEDIA_USAGE, &user, &row);
        commit.hold(door);
        self.ledger().commit(commit).await?;
        self.usage(user).await
    }

    /// Whether a user may bring so many bytes more.
    ///
    /// # Errors
    ///
    /// [`Kind::ResourceLimit`] if not.
    pub(super) async fn check_quota(&self, user: UserNid, bytes: u64) -> Result<(), Error> {
        let usage = self.usage(user).await?;
        if usage.quota_bytes.is_some_and(|quota| usage.bytes.saturating_add(bytes) > quota) {
            return Err(self.over_quota(
                "Your files here have reached their limit. It falls as they expire or are removed.",
            ));
        }
        let total_max = self.options().total_bytes_max;
        if total_max > 0 && self.total_bytes().await?.saturating_add(bytes) > total_max {
            return Err(self.over_quota("This server has no room for more files at the moment."));
        }
        Ok(())
    }

    fn over_quota(&self, why: &'static str) -> Error {
        let admin_contact = self.0.house.admin_contact();
        Error::new(Kind::ResourceLimit { admin_contact }, why)
    }

    /// Counts a file that comes, inside its commit, which keeps the door to the user's count.
    ///
    /// # Errors
    ///
    /// As [`Media::check_quota`].
    pub(super) async fn count_file(
        &self,
        user: UserNid,
        bytes: u64,
        commit: &mut Commit,
    ) -> Result<OwnedMutexGuard<()>, Error> {
        let door = self.0.doors.enter(user.0).await;
        self.check_quota(user, bytes).await?;
        let mut row = self.ledger().get(&MEDIA_USAGE, &user).await?.unwrap_or_default();
        (row.files, row.bytes) = (row.files + 1, row.bytes.saturating_add(bytes));
        commit.put(&MEDIA_USAGE, &user, &row);
        self.total_bytes().await?;
        self.0.total_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(door)
    }

    /// Counts files that are forgotten, inside their commit, which keeps the doors to their users' counts.
    /// Returns the bytes of all.
    pub(super) async fn uncount_files(
        &self,
        files: impl Iterator<Item = (UserNid, u64)>,
        commit: &mut Commit,
    ) -> Result<u64, Error> {
        let (mut of_users, mut total) = (BTreeMap::<UserNid, UsageRow>::new(), 0_u64);
        for (user, bytes) in files {
            let less = of_users.entry(user).or_default();
            (less.files, less.bytes) = (less.files + 1, less.bytes.saturating_add(bytes));
            total = total.saturating_add(bytes);
        }
        commit.hold(self.0.doors.enter_all(of_users.keys().map(|user| user.0)).await);
        for (user, less) in of_users {
            let mut row = self.ledger().get(&MEDIA_USAGE, &user).await?.unwrap_or_default();
            row.files = row.files.saturating_sub(less.files);
            row.bytes = row.bytes.saturating_sub(less.bytes);
            if row == UsageRow::default() {
                commit.delete(&MEDIA_USAGE, &user);
            } else {
                commit.put(&MEDIA_USAGE, &user, &row);
            }
        }
        self.total_bytes().await?;
        Ok(total)
    }

    pub(super) fn take_off_total(&self, bytes: u64) {
        let less = |total: u64| Some(total.saturating_sub(bytes));
        let _ = self.0.total_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// What all have here.
    async fn total_bytes(&self) -> Result<u64, Error> {
        let counting = self.0.total_counted.lock().await;
        if let Some(()) = *counting {
            return Ok(self.0.total_bytes.load(Ordering::Relaxed));
        }
        self.count_total(counting).await
    }

    async fn count_total(
        &self,
        mut counted: tokio::sync::MutexGuard<'_, Option<()>>,
    ) -> Result<u64, Error> {
        let (mut total, mut from) = (0_u64, UserNid(0));
        loop {
            let range = (&from, &UserNid(u64::MAX));
            let view = self.ledger().newest();
            let (rows, more) =
                view.scan_between(&MEDIA_USAGE, range, Direction::Forward, PAGE).await?;
            for (user, row) in rows {
                let (user, row): (UserNid, UsageRow) = (user, row);
                from = UserNid(user.0 + 1);
                total = total.saturating_add(row.bytes);
            }
            if !more {
                break;
            }
        }
        self.0.total_bytes.store(total, Ordering::Relaxed);
        *counted = Some(());
        Ok(total)
    }
}
