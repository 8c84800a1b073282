//! The only way out for a file, alone or with others.
//!
//! One commit condemns it: its wrapped key is gone from the row, nobody gets a byte any more, and the
//! events that showed it are queued for redaction. Then its file and renderings are erased, and only
//! then a second commit forgets it. A file that the disk does not let go of stays condemned, is tried
//! again at every look of the job, and is counted ([`Report::stuck`]); those that came with it go.

use appliance_ledger::keyspaces::{
    ERASURES, MEDIA, MEDIA_DUE, MEDIA_IDS, MEDIA_KEPT, MEDIA_MARKS, MEDIA_PENDING, MEDIA_PURGES,
    MEDIA_REDACTIONS, MEDIA_UNBOUND,
};
use appliance_ledger::rows::media::{MediaRow, PurgeRow, RedactionRow, Stage};
use appliance_ledger::rows::policy::ErasureRow;
use appliance_ledger::{Commit, Direction};
use appliance_model::{DeviceNid, Error, MediaNid, UserNid};
use appliance_rules::{Permit, policy};

use super::expire::Report;
use super::link::{blob_of, forget_links, present};
use super::notice::owe_notices;
use super::{Media, media_digest, no_such_media, thumbnail};
use crate::house::House;

/// The reason of those whose deadline has come.
pub(super) const EXPIRED: &str = "expired";

/// Condemns a file inside a commit of the caller's.
///
/// # Errors
///
/// If the store fails.
pub(super) async fn condemn(
    house: &House,
    number: MediaNid,
    reason: &str,
    commit: &mut Commit,
) -> Result<(), Error> {
    let Some(row) = present(house, number).await? else { return Ok(()) };
    let uri = format!("mxc://{}/{}", house.server_name, row.media_id);
    commit.also(policy::must_purge(house.server_name.as_str(), &uri, reason));
    for (room, event) in forget_links(house, number, commit).await? {
        commit.put(
            &MEDIA_REDACTIONS,
            &event,
            &RedactionRow { room: room.0, media: Some(number.0) },
        );
    }
    commit.delete(&MEDIA_KEPT, &number);
    owe_notices(house, (number, &row.media_id), commit).await?;
    let record = ErasureRow {
        media: number.0,
        media_id: row.media_id.clone(),
        content: row.content.clone(),
        reason: reason.to_owned(),
        refused_ms: house.clock.now_ms(),
        erased_ms: None,
        uploader: Some(row.uploader),
    };
    commit.put(&ERASURES, &media_digest(&house.ledger, &row.media_id), &record);
    let purge = PurgeRow { reason: reason.to_owned(), at_ms: house.clock.now_ms() };
    commit.put(&MEDIA_PURGES, &number, &purge);
    let condemned = MediaRow {
        stage: Stage::Purging,
        content_type: None,
        filename: None,
        wrapped_key: Vec::new(),
        ..row
    };
    commit.put(&MEDIA, &number, &condemned);
    Ok(())
}

/// A file whose erasure is not finished.
#[derive(Clone, Debug)]
pub struct Purging {
    /// Its `mxc://` URI.
    pub uri: String,
    /// `expired`, `redacted` or `purged`.
    pub reason: String,
    /// Since when nobody gets it: milliseconds since the Unix epoch.
    pub since_ms: u64,
}

impl Media {
    /// The files whose erasure is not finished; the first thousand, and whether there are more.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn purging(&self) -> Result<(Vec<Purging>, bool), Error> {
        const LISTED_MAX: usize = 1_000;
        let view = self.ledger().newest();
        let (rows, more) = view.scan(&MEDIA_PURGES, &(), Direction::Forward, LISTED_MAX).await?;
        let rows: Vec<(MediaNid, PurgeRow)> = rows;
        let mut purging = Vec::new();
        for (number, purge) in rows {
            let Some(row) = self.ledger().get(&MEDIA, &number).await? else { continue };
            let uri = self.uri(&row.media_id);
            purging.push(Purging { uri, reason: purge.reason, since_ms: purge.at_ms });
        }
        Ok((purging, more))
    }

    /// Purges a file because an administrator says so. Returns when nobody gets it any more; whether
    /// it is erased from the disk already, too.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such file.
    pub async fn purge_now(&self, server_name: &str, media_id: &str) -> Result<bool, Error> {
        let (number, _) = self.row(server_name, media_id).await?.ok_or_else(no_such_media)?;
        Ok(self.purge(&[number], Some("purged")).await? == 1)
    }

    /// Brings files as far out as they go, all together or, if that fails, one by one: what cannot be read
    /// of one must not keep the others. `reason`: why they are condemned; none if they are already. Each
    /// number stands there once.
    pub(super) async fn purge_all(
        &self,
        numbers: &[MediaNid],
        reason: Option<&str>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let mut purged = self.purge(numbers, reason).await.map(|gone| report.purged(numbers, gone));
        if purged.is_err() && numbers.len() > 1 {
            purged = Ok(());
            for number in numbers.chunks(1) {
                match self.purge(number, reason).await {
                    Ok(gone) => report.purged(number, gone),
                    Err(error) => purged = Err(error),
                }
            }
        }
        purged
    }

    /// Brings files as far out as they go: one commit condemns all of them, one forgets those that the disk
    /// has let go of. Returns how many are gone.
    pub(super) async fn purge(
        &self,
        numbers: &[MediaNid],
        reason: Option<&str>,
    ) -> Result<usize, Error> {
        // Whoever renders or fills one is through first; then nothing new appears beside it.
        let _doors = self.0.doors.enter_all(numbers.iter().map(|number| number.0)).await;
        if let Some(reason) = reason {
            self.condemn_all(numbers, reason).await?;
        }
        let rows = self.ledger().newest().get_many(&MEDIA, numbers).await?;
        // What has no row is gone: somebody was faster.
        let left =
            numbers.iter().copied().zip(rows).filter_map(|(number, row)| Some((number, row?)));
        let left: Vec<(MediaNid, MediaRow)> = left.collect();
        let were_left = left.len();
        let erased = self.erase_files(left).await;
        self.forget(&erased).await?;
        Ok(numbers.len() - (were_left - erased.len()))
    }

    async fn condemn_all(&self, numbers: &[MediaNid], reason: &str) -> Result<(), Error> {
        let mut commit = self.ledger().begin(Permit::housekeeping());
        for number in numbers {
            condemn(&self.0.house, *number, reason, &mut commit).await?;
        }
        let condemned = self.ledger().commit(commit).await.map(drop);
        if condemned.is_err() && reason == EXPIRED {
            self.make_room(numbers).await;
        }
        condemned
    }

    /// The store does not take the commit, perhaps because the disk is full. What has expired is erased
    /// all the same, which makes room: nobody gets it any more, condemned or not.
    async fn make_room(&self, numbers: &[MediaNid]) {
        let mut rows = Vec::new();
        for number in numbers {
            if let Ok(Some(row)) = present(&self.0.house, *number).await {
                rows.push((*number, row));
            }
        }
        self.erase_files(rows).await;
    }

    /// Erases what rows have on the disk. Returns those whose files are gone; the others are tried again.
    async fn erase_files(&self, rows: Vec<(MediaNid, MediaRow)>) -> Vec<(MediaNid, MediaRow)> {
        let labels = thumbnail::labels();
        let (mut erased, mut named, mut blobs) = (Vec::new(), Vec::new(), Vec::new());
        for (number, row) in rows {
            match blob_of(&row) {
                Some(blob) => {
                    self.0.renderings.forget(&blob, &labels);
                    blobs.push(blob);
                    named.push((number, row));
                }
                // Reserved, and never filled.
                None => erased.push((number, row)),
            }
        }
        let outcomes = self.blobs().erase_all(&blobs, &labels).await;
        for (file, outcome) in named.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => erased.push(file),
                Err(error) => {
                    tracing::error!(kind = "media.stuck", media.number = file.0.0, %error,
                        "a file could not be erased; nobody gets it, and it is tried again");
                }
            }
        }
        erased
    }

    /// Nothing is left of them but the audit trail.
    pub(super) async fn forget(&self, files: &[(MediaNid, MediaRow)]) -> Result<(), Error> {
        if files.is_empty() {
            return Ok(());
        }
        let mut commit = self.ledger().begin(Permit::housekeeping());
        for (number, row) in files {
            self.forget_one(*number, row, &mut commit).await?;
        }
        // Only what was there was counted; an ID that was reserved and never used was not.
        let counted = files.iter().filter(|(_, row)| row.stage == Stage::Purging);
        let counted = counted.map(|(_, row)| (UserNid(row.uploader), row.bytes));
        let bytes = self.uncount_files(counted, &mut commit).await?;
        self.ledger().commit(commit).await?;
        self.take_off_total(bytes);
        Ok(())
    }

    async fn forget_one(
        &self,
        number: MediaNid,
        row: &MediaRow,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let house = &self.0.house;
        if row.stage == Stage::Purging {
            let uri = self.uri(&row.media_id);
            commit.also(policy::has_purged(house.server_name.as_str(), &uri));
        }
        let name = media_digest(self.ledger(), &row.media_id);
        if let Some(record) = self.ledger().get(&ERASURES, &name).await? {
            let record = ErasureRow { erased_ms: Some(self.now_ms()), ..record };
            commit.put(&ERASURES, &name, &record);
        }
        self.forget_opens(number, commit).await?;
        // Somebody may have been given it in the moment in which it was condemned.
        owe_notices(house, (number, &row.media_id), commit).await?;
        // An event may have come in between; it shows nothing now.
        for (room, event) in forget_links(house, number, commit).await? {
            commit.put(
                &MEDIA_REDACTIONS,
                &event,
                &RedactionRow { room: room.0, media: Some(number.0) },
            );
        }
        commit.delete(&MEDIA, &number);
        commit.delete(&MEDIA_IDS, &name);
        commit.delete(&MEDIA_PURGES, &number);
        commit.delete(&MEDIA_MARKS, &number);
        commit.delete(&MEDIA_DUE, &(row.deadline_ms, number));
        commit.delete(&MEDIA_PENDING, &(UserNid(row.uploader), number));
        commit.delete(&MEDIA_UNBOUND, &(DeviceNid(row.device), number));
        Ok(())
    }
}
