//! `POST /_matrix/media/v1/create` ([spec]): an ID for a file that is still to come.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{MEDIA, MEDIA_DUE, MEDIA_IDS, MEDIA_PENDING};
use appliance_ledger::rows::media::{MediaRow, Stage};
use appliance_model::{Caller, Error, Kind, MediaNid, UserNid};
use appliance_rules::policy;

use super::{Media, media_digest};

/// "The server should limit the number of concurrent *pending media uploads* a given user can have."
/// A message with an album and its thumbnails stays below.
pub const PENDING_PER_USER_MAX: usize = 32;
/// 24 characters of 62 are 143 bits: nobody guesses the ID of a photo.
const MEDIA_ID_LETTERS: usize = 24;

/// A reserved ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// `mxc://…`.
    pub content_uri: String,
    /// Until when a file may be uploaded to it: milliseconds since the Unix epoch.
    pub unused_expires_at_ms: u64,
}

impl Media {
    /// Reserves an ID for its caller alone.
    ///
    /// # Errors
    ///
    /// [`Kind::Limited`] with [`PENDING_PER_USER_MAX`] IDs unused, or many made in a short time.
    pub async fn create(&self, caller: &Caller) -> Result<Reserved, Error> {
        self.count(caller)?;
        // Two reservations at once must not both be the last.
        let door = self.0.doors.enter(caller.user.0).await;
        let now_ms = self.now_ms();
        self.check_pending(caller.user, now_ms).await?;
        let number = MediaNid(self.ledger().next_number());
        let media_id = self.fresh_id();
        let content_uri = self.uri(&media_id);
        let deadline_ms = now_ms.saturating_add(self.options().unused_ms);
        let row = MediaRow {
            media_id,
            uploader: caller.user.0,
            device: caller.device.0,
            stage: Stage::Reserved,
            at_ms: now_ms,
            deadline_ms,
            bytes: 0,
            content_type: None,
            filename: None,
            blob: String::new(),
            key_day: 0,
            wrapped_key: Vec::new(),
            content: None,
            sniffed: None,
            is_captured: None,
            is_clean: None,
        };
        let mut commit = self.ledger().begin(policy::may_reserve(&caller.user_id, &content_uri));
        commit.put(&MEDIA_IDS, &media_digest(self.ledger(), &row.media_id), &number.0);
        commit.put(&MEDIA, &number, &row);
        commit.put(&MEDIA_PENDING, &(caller.user, number), &deadline_ms);
        commit.put(&MEDIA_DUE, &(deadline_ms, number), &());
        commit.hold(door);
        self.ledger().commit(commit).await?;
        Ok(Reserved { content_uri, unused_expires_at_ms: deadline_ms })
    }

    pub(super) fn fresh_id(&self) -> String {
        self.0.house.dice.letters(MEDIA_ID_LETTERS)
    }

    async fn check_pending(&self, user: UserNid, now_ms: u64) -> Result<(), Error> {
        // Those that ran out are still there until the next look of the job: room for both.
        let limit = 4 * PENDING_PER_USER_MAX;
        let (pending, _) =
            self.ledger().newest().scan(&MEDIA_PENDING, &user, Direction::Forward, limit).await?;
        type Pending = ((UserNid, MediaNid), u64);
        let mut unused: Vec<_> = pending
            .into_iter()
            .map(|(_, deadline_ms): Pending| deadline_ms)
            .filter(|deadline_ms| *deadline_ms > now_ms)
            .collect();
        if unused.len() < PENDING_PER_USER_MAX {
            return Ok(());
        }
        unused.sort_unstable();
        let retry_after_ms = unused.first().map_or(0, |first| first - now_ms);
        Err(Error::new(
            Kind::Limited { retry_after_ms },
            "You have reserved many uploads that have not arrived. Finish some of them first.",
        ))
    }
}
