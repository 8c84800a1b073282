//! The only way out for a file.
//!
//! One commit condemns it: its wrapped key is gone from the row, nobody gets a byte any more, and the
//! events that showed it are queued for redaction. Then its file and renderings are erased, and only
//! then a second commit forgets it. A file that the disk does not let go of stays condemned, is tried
//! again at every look of the job, and is counted ([`super::expire::Report::stuck`]).

use appliance_ledger::keyspaces::{
    ERASURES, MEDIA, MEDIA_DUE, MEDIA_IDS, MEDIA_KEPT, MEDIA_MARKS, MEDIA_PENDING, MEDIA_PURGES,
    MEDIA_REDACTIONS, MEDIA_UNBOUND,
};
use appliance_ledger::rows::media::{MediaRow, PurgeRow, RedactionRow, Stage};
use appliance_ledger::rows::policy::ErasureRow;
use appliance_ledger::{Commit, Direction};
use appliance_model::{DeviceNid, Error, MediaNid, UserNid};
use appliance_rules::{Permit, policy};

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
        self.purge(number, "purged").await
    }

    /// Brings a file as far out as it goes; whether it is gone.
    pub(super) async fn purge(&self, number: MediaNid, reason: &str) -> Result<bool, Error> {
        // Whoever renders or fills it is through first; then nothing new appears beside it.
        let _door = self.0.doors.enter(number.0).await;
        let mut commit = self.ledger().begin(Permit::housekeeping());
        condemn(&self.0.house, number, reason, &mut commit).await?;
        if let Err(error) = self.ledger().commit(commit).await {
            self.make_room(number, reason).await;
            return Err(error);
        }
        let Some(row) = self.ledger().get(&MEDIA, &number).await? else { return Ok(true) };
        let Some(blob) = blob_of(&row) else { return self.forget(number, &row).await };
        self.0.renderings.forget(&blob, &thumbnail::labels());
        if let Err(error) = self.blobs().erase(&blob, &thumbnail::labels()).await {
            tracing::error!(kind = "media.stuck", media.number = number.0, %error,
                "a file could not be erased; nobody gets it, and it is tried again");
            return Ok(false);
        }
        self.forget(number, &row).await
    }

    /// The store does not take the commit, perhaps because the disk is full. What has expired is erased
    /// all the same, which makes room: nobody gets it any more, condemned or not.
    async fn make_room(&self, number: MediaNid, reason: &str) {
        if reason != EXPIRED {
            return;
        }
        let row = present(&self.0.house, number).await;
        if let Ok(Some(blob)) = row.map(|row| row.as_ref().and_then(blob_of))
            && let Err(error) = self.blobs().erase(&blob, &thumbnail::labels()).await
        {
            tracing::error!(kind = "media.stuck", media.number = number.0, %error,
                "an expired file could not be erased; nobody gets it, and it is tried again");
        }
    }

    /// Nothing is left but the audit trail.
    pub(super) async fn forget(&self, number: MediaNid, row: &MediaRow) -> Result<bool, Error> {
        let house = &self.0.house;
        let permit = match row.stage {
            Stage::Purging => {
                policy::has_purged(house.server_name.as_str(), &self.uri(&row.media_id))
            }
            // An ID that was reserved and never used.
            Stage::Reserved | Stage::Present => Permit::housekeeping(),
        };
        let mut commit = self.ledger().begin(permit);
        let name = media_digest(self.ledger(), &row.media_id);
        if let Some(record) = self.ledger().get(&ERASURES, &name).await? {
            let record = ErasureRow { erased_ms: Some(self.now_ms()), ..record };
            commit.put(&ERASURES, &name, &record);
        }
        self.forget_opens(number, &mut commit).await?;
        // An event may have come in between; it shows nothing now.
        for (room, event) in forget_links(house, number, &mut commit).await? {
            commit.put(
                &MEDIA_REDACTIONS,
                &event,
                &RedactionRow { room: room.0, media: Some(number.0) },
            );
        }
        commit.delete(&MEDIA, &number);
        commit.delete(&MEDIA_IDS, &media_digest(self.ledger(), &row.media_id));
        commit.delete(&MEDIA_PURGES, &number);
        commit.delete(&MEDIA_MARKS, &number);
        commit.delete(&MEDIA_DUE, &(row.deadline_ms, number));
        commit.delete(&MEDIA_PENDING, &(UserNid(row.uploader), number));
        commit.delete(&MEDIA_UNBOUND, &(DeviceNid(row.device), number));
        // Only what was there was counted.
        let counted = row.stage == Stage::Purging;
        if counted {
            let user = UserNid(row.uploader);
            let door = self.uncount_file(user, row.bytes, &mut commit).await?;
            commit.hold(door);
        }
        self.ledger().commit(commit).await?;
        if counted {
            self.take_off_total(row.bytes);
        }
        Ok(true)
    }
}
