//! Files that people upload, and their lifetime.
//!
//! Every file gets a deadline when it is uploaded ([`MediaOptions::ttl_ms`]); events that show it in a
//! stricter room make it earlier ([`link`]). From the deadline's millisecond on nobody gets a byte:
//! that is judged at every read and before every chunk, by the clock, not by a job. The job
//! ([`expire`]) erases what is due soon after, and redacts the events that showed it.
//!
//! What a file's life hangs on is never changed in place: the upload, each reference and each use as
//! an avatar is a row of its own, and [`Media::life`] is the earliest of them. So no two commits can
//! undo each other's deadline.

pub mod administer;
mod animate;
pub mod capture;
mod clean;
pub mod copies;
pub mod create;
pub mod elsewhere;
pub mod ended;
pub mod erase;
pub mod expire;
pub mod explain;
mod film;
mod govern;
pub mod kind;
pub mod lease;
pub mod link;
mod listed;
mod multipart;
pub mod notice;
pub mod page;
pub mod preview;
pub mod purge;
pub mod quota;
pub mod redact;
mod renderings;
pub mod serve;
mod stamp;
pub mod thumbnail;
pub mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use appliance_ledger::Direction;
use appliance_ledger::blobs::{BlobName, KEPT};
use appliance_ledger::keyspaces::{MEDIA, MEDIA_IDS, MEDIA_KEPT, MEDIA_LINKS};
use appliance_ledger::rows::media::{
    LINK_GUESSED, LINK_KEPT, LINK_OPENED, LINK_OWN, LinkRow, MediaRow, Stage,
};
use appliance_ledger::{Blobs, Digest, Ledger, SecretKey};
use appliance_model::{Caller, DeviceNid, Error, MediaNid};
use appliance_rules::policy::is_media_id;
pub(crate) use govern::shown_here;
use quick_cache::sync::Cache;
pub use stamp::moment;
use tokio::sync::{Notify, Semaphore};

use crate::accounts::Accounts;
use crate::doors::Doors;
use crate::house::House;
use crate::limits::{Limit, Limits, Whose};
use crate::peers::Peers;
use crate::rest::Rest;
use crate::rooms::Rooms;

/// What the operator chose about files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaOptions {
    /// From upload until nobody gets the bytes, in milliseconds. A room can only make it shorter.
    pub ttl_ms: u64,
    /// One upload, in bytes.
    pub upload_bytes_max: u64,
    /// How long a reserved ID stays reserved without a file, in milliseconds.
    pub unused_ms: u64,
    /// The most pixels an image may have before a thumbnail of it is refused.
    pub pixels_max: u64,
    /// All files of one user, in bytes; zero: no limit.
    pub user_bytes_max: u64,
    /// All files of all users, in bytes; zero: no limit but the disk.
    pub total_bytes_max: u64,
    /// All renderings, in bytes.
    pub renderings_bytes_max: u64,
}

impl Default for MediaOptions {
    fn default() -> Self {
        Self {
            ttl_ms: 7 * 24 * 60 * 60 * 1_000,
            upload_bytes_max: 50 * 1024 * 1024,
            // "The recommended default expiration is 24 hours."
            unused_ms: 24 * 60 * 60 * 1_000,
            pixels_max: 40_000_000,
            user_bytes_max: 10 * 1024 * 1024 * 1024,
            total_bytes_max: 0,
            renderings_bytes_max: 4 * 1024 * 1024 * 1024,
        }
    }
}

/// Uploads under way at once. Each holds two chunks (128 KiB) and an open file.
const UPLOADS_AT_ONCE_MAX: usize = 128;
/// Requests that wait at once for a file that is not uploaded yet. More are answered at once.
const WAITING_MAX: usize = 256;
/// First deliveries remembered, about 60 bytes each: what is not remembered is audited again.
const DELIVERIES_CACHED_MAX: usize = 20_000;
/// References read in one trip. A file has one or two.
const LINKS_PAGE: usize = 16;

/// The files of the house. Cheap to clone.
#[derive(Clone)]
pub struct Media(Arc<Inner>);

struct Inner {
    house: Arc<House>,
    /// To redact what showed a file that is gone.
    rooms: Arc<Rooms>,
    limits: Arc<Limits>,
    /// To tell what a device has read since.
    accounts: Arc<Accounts>,
    /// What other servers promise about files.
    peers: Arc<Peers>,
    /// Files that are lent to other hospitals.
    leases: lease::Leases,
    /// One at a time fills, renders or purges a file.
    doors: Doors,
    /// One at a time opens a file whose openings count.
    opening: Doors,
    /// One at a time says that a file of another server is at its end.
    ending: Doors,
    uploads: Semaphore,
    /// Rings when a file has arrived at a reserved ID.
    arrived: Notify,
    waiting: Semaphore,
    rendering: Arc<Semaphore>,
    /// How old the renderings on the disk are.
    renderings: renderings::Renderings,
    previews: preview::Previews,
    /// Bytes of all files, once they were counted.
    total_bytes: AtomicU64,
    total_counted: tokio::sync::Mutex<Option<()>>,
    /// Which file was given to which device in which form.
    delivered: Cache<(MediaNid, DeviceNid, u8), ()>,
    /// Up to this time the deadlines are met of what was here when the clock was set back last; zero if it
    /// was not.
    met_floor_ms: AtomicU64,
    rest: Rest,
    /// What an earlier run left behind was swept.
    swept: AtomicBool,
    /// The day on which day keys were last looked through.
    days_ended: AtomicU64,
}

/// A file and when its life ends.
#[derive(Clone, Debug)]
pub(crate) struct Living {
    pub number: MediaNid,
    pub row: MediaRow,
    /// From when on nobody gets it: milliseconds since the Unix epoch; none while it is kept.
    pub deadline_ms: Option<u64>,
}

impl Media {
    pub(crate) fn new(
        house: Arc<House>,
        rooms: Arc<Rooms>,
        limits: Arc<Limits>,
        (accounts, peers): (Arc<Accounts>, Arc<Peers>),
    ) -> Self {
        Self(Arc::new(Inner {
            house,
            rooms,
            limits,
            accounts,
            peers,
            leases: lease::Leases::default(),
            doors: Doors::default(),
            opening: Doors::default(),
            ending: Doors::default(),
            uploads: Semaphore::new(UPLOADS_AT_ONCE_MAX),
            arrived: Notify::new(),
            waiting: Semaphore::new(WAITING_MAX),
            rendering: Arc::new(Semaphore::new(thumbnail::RENDERINGS_AT_ONCE_MAX)),
            renderings: renderings::Renderings::default(),
            previews: preview::Previews::new(),
            total_bytes: AtomicU64::new(0),
            total_counted: tokio::sync::Mutex::new(None),
            delivered: Cache::new(DELIVERIES_CACHED_MAX),
            met_floor_ms: AtomicU64::new(0),
            rest: Rest::default(),
            swept: AtomicBool::new(false),
            days_ended: AtomicU64::new(0),
        }))
    }

    /// The largest upload, in bytes: what `/config` says as `m.upload.size`.
    pub fn upload_bytes_max(&self) -> u64 {
        self.options().upload_bytes_max
    }

    pub(crate) fn options(&self) -> &MediaOptions {
        &self.0.house.options.media
    }

    fn ledger(&self) -> &Ledger {
        &self.0.house.ledger
    }

    fn blobs(&self) -> &Blobs {
        &self.0.house.blobs
    }

    fn now_ms(&self) -> u64 {
        self.0.house.clock.now_ms()
    }

    /// Counts an upload, or the reservation of one, against its person's limit.
    fn count(&self, caller: &Caller) -> Result<(), Error> {
        self.0.limits.take(Limit::Media, Whose::User(caller.user))
    }

    /// `mxc://server/id`.
    fn uri(&self, media_id: &str) -> String {
        format!("mxc://{}/{media_id}", self.0.house.server_name)
    }

    /// The row of a media ID of ours, at whatever stage.
    pub(crate) async fn row(
        &self,
        server_name: &str,
        media_id: &str,
    ) -> Result<Option<(MediaNid, MediaRow)>, Error> {
        // Files of other servers come with federation.
        if self.0.house.server_name != server_name || !is_media_id(media_id) {
            return Ok(None);
        }
        row_of(&self.0.house, media_id).await
    }

    /// A file that may be given out now. Sees what is committed: ask again before each chunk.
    pub(crate) async fn living(&self, number: MediaNid) -> Result<Option<Living>, Error> {
        let Some(row) = self.ledger().get(&MEDIA, &number).await? else { return Ok(None) };
        if row.stage != Stage::Present {
            return Ok(None);
        }
        let deadline_ms = self.life(number, &row).await?;
        if let Some(deadline_ms) = deadline_ms
            && self.time_ms_for(number) >= deadline_ms
        {
            self.keep_in_mind(number, deadline_ms).await;
            return Ok(None);
        }
        // An administrator's word is judged here, too: before every chunk.
        if self.mark(number).await?.quarantined_by.is_some() {
            return Ok(None);
        }
        Ok(Some(Living { number, row, deadline_ms }))
    }

    /// From when on nobody gets a file: the earliest of the server's own limit, unless the file is
    /// kept, and of what its uploader's events say.
    pub(crate) async fn life(
        &self,
        number: MediaNid,
        row: &MediaRow,
    ) -> Result<Option<u64>, Error> {
        type Link = ((MediaNid, u8, u64, u64), LinkRow);
        let view = self.ledger().newest();
        let (links, more): (Vec<Link>, _) =
            view.scan(&MEDIA_LINKS, &number, Direction::Forward, LINKS_PAGE).await?;
        let first = |links: &[Link], class: u8| {
            links
                .iter()
                .find(|(key, _)| key.1 == class)
                .map(|((_, _, deadline_ms, _), _)| *deadline_ms)
        };
        const CLASSES: [u8; 4] = [LINK_OWN, LINK_GUESSED, LINK_KEPT, LINK_OPENED];
        let mut firsts = CLASSES.map(|class| first(&links, class));
        if more {
            // Rows sort by class, then deadline: the first of each class is enough.
            for (class, found) in CLASSES.into_iter().zip(&mut firsts) {
                let range = (&(number, class), &(number, class + 1));
                let (links, _): (Vec<Link>, _) =
                    view.scan_between(&MEDIA_LINKS, range, Direction::Forward, 1).await?;
                *found = first(&links, class);
            }
        }
        let [own, guessed, kept, opened] = firsts;
        let limit = kept.is_none().then_some(row.deadline_ms);
        Ok([own, guessed, opened, limit].into_iter().flatten().min())
    }

    /// The data key and blob of a file; none if its key has been destroyed.
    async fn open_key(
        &self,
        number: MediaNid,
        row: &MediaRow,
    ) -> Result<Option<(BlobName, SecretKey)>, Error> {
        let Some(blob) = BlobName::parse(&row.blob) else {
            return Err(Error::internal("a media row names no blob"));
        };
        let key = self.blobs().unwrap(row.key_day, number.0, &row.wrapped_key).await?;
        let key = match (key, self.ledger().get(&MEDIA_KEPT, &number).await?) {
            (None, Some(kept)) => self.blobs().unwrap(KEPT, number.0, &kept).await?,
            (key, _) => key,
        };
        Ok(key.map(|key| (blob, key)))
    }

    /// The time by which a file is judged: should the clock be set back, what was over stays over.
    fn time_ms_for(&self, number: MediaNid) -> u64 {
        self.ledger().time_ms_for(number.0)
    }

    /// A deadline was seen to pass: a power cut and a wrong clock must not make that unseen.
    async fn keep_in_mind(&self, number: MediaNid, deadline_ms: u64) {
        if let Err(error) = self.ledger().keep_time(number.0, deadline_ms).await {
            // A full disk, say. It is refused all the same.
            tracing::debug!(kind = "media.time_not_kept", media.number = number.0, %error,
                "that a file's time is over could not be written down yet");
        }
    }

    /// What is heard of a file whose time came while it was judged.
    async fn is_over(&self, living: &Living) -> Error {
        if let Some(deadline_ms) = living.deadline_ms {
            self.keep_in_mind(living.number, deadline_ms).await;
        }
        no_such_media()
    }
}

/// The key under which a media ID's number is kept.
pub(crate) fn media_digest(ledger: &Ledger, media_id: &str) -> Digest {
    ledger.digest(&[b"media", media_id.as_bytes()])
}

/// The row of one of our media IDs.
pub(crate) async fn row_of(
    house: &House,
    media_id: &str,
) -> Result<Option<(MediaNid, MediaRow)>, Error> {
    let digest = media_digest(&house.ledger, media_id);
    let Some(number) = house.ledger.get(&MEDIA_IDS, &digest).await? else { return Ok(None) };
    let number = MediaNid(number);
    Ok(house.ledger.get(&MEDIA, &number).await?.map(|row| (number, row)))
}

/// What a caller hears of what is not there, was never there, or is gone: the same words.
pub(crate) fn no_such_media() -> Error {
    Error::not_found("This server has no such file (any more).")
}

#[cfg(test)]
pub(crate) mod tests;
