//! The ledger of copies: which device was given which file in which form, and what may be left of it.
//!
//! A server knows what it gave out and what it said since. It does not know what an app still keeps:
//! what is neither over nor told is listed as unknown.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{COPIES, DEVICE_COPIES, DEVICES, ERASURES, MEDIA, REDACTED_AT};
use appliance_ledger::rows::policy::{CopyRow, ErasureRow};
use appliance_model::ruma::OwnedUserId;
use appliance_model::{DeviceNid, Error, MediaNid, UserNid};

use super::govern::form_of;
use super::{Media, media_digest, no_such_media, row_of};

/// Deliveries read in one trip.
const PAGE: usize = 500;
/// More devices than a hospital has.
const COPIES_MAX: usize = 20_000;
/// Files listed of one device.
const FILES_MAX: usize = 5_000;

/// What may be left of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The file lives, and the device may have it.
    MayHold,
    /// The file is gone; the device has read on since its event was redacted.
    Told,
    /// The session has ended: apps remove what they keep when they hear of it.
    SessionEnded,
    /// The file is gone, and the device has not been here since.
    Unknown,
    /// It was given nothing that shows the file.
    Nothing,
}

impl Left {
    /// The word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MayHold => "may_hold",
            Self::Told => "redaction_delivered",
            Self::SessionEnded => "session_ended",
            Self::Unknown => "unknown",
            Self::Nothing => "nothing",
        }
    }
}

/// What one device was given.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Whose device.
    pub user_id: OwnedUserId,
    /// Its ID.
    pub device_id: String,
    /// In which forms.
    pub forms: Vec<&'static str>,
    /// When last, as far as it is written: milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What may be left of it.
    pub left: Left,
    /// When the device was last here: milliseconds since the Unix epoch; zero if that is not known.
    pub seen_ms: u64,
}

/// Where a file is.
#[derive(Clone, Debug)]
pub struct Whereabouts {
    /// Its `mxc://` URI.
    pub uri: String,
    /// How it ended; none while it lives.
    pub erasure: Option<ErasureRow>,
    /// Who was given it.
    pub copies: Vec<Copy>,
}

impl Media {
    /// Which devices were given a file, and may still hold it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server never had it.
    pub async fn whereabouts(&self, media_id: &str) -> Result<Whereabouts, Error> {
        let house = &self.0.house;
        let erasure = self.ledger().get(&ERASURES, &media_digest(self.ledger(), media_id)).await?;
        let number = match (row_of(house, media_id).await?, &erasure) {
            (Some((number, _)), _) => number,
            (None, Some(erasure)) => MediaNid(erasure.media),
            (None, None) => return Err(no_such_media()),
        };
        let copies = self.copies_of(number, erasure.as_ref()).await?;
        Ok(Whereabouts { uri: self.uri(media_id), erasure, copies })
    }

    async fn copies_of(
        &self,
        number: MediaNid,
        erasure: Option<&ErasureRow>,
    ) -> Result<Vec<Copy>, Error> {
        type Given = ((MediaNid, DeviceNid, u8), CopyRow);
        let (given, _): (Vec<Given>, _) =
            self.ledger().newest().scan(&COPIES, &number, Direction::Forward, COPIES_MAX).await?;
        let mut copies = Vec::new();
        for given in given.chunk_by(|(one, _), (two, _)| one.1 == two.1) {
            let Some(((_, device, _), row)) = given.first() else { continue };
            let codes = given.iter().map(|((.., code), _)| *code);
            let forms: Vec<_> =
                codes.filter_map(form_of).map(appliance_rules::policy::Form::as_str).collect();
            let at_ms = given.iter().map(|(_, row)| row.at_ms).max().unwrap_or_default();
            let user = UserNid(row.user);
            let (left, seen_ms) = self.left(user, (*device, row), &forms, erasure).await?;
            copies.push(Copy {
                user_id: self.ledger().user_id(user).await?,
                device_id: row.device_id.clone(),
                forms,
                at_ms,
                left,
                seen_ms,
            });
        }
        Ok(copies)
    }

    async fn left(
        &self,
        user: UserNid,
        (device, row): (DeviceNid, &CopyRow),
        forms: &[&str],
        erasure: Option<&ErasureRow>,
    ) -> Result<(Left, u64), Error> {
        let key = (user, row.device_id.clone());
        let session = self.ledger().get(&DEVICES, &key).await?;
        let is_there = session.is_some_and(|session| session.device == device.0);
        let (seen_ms, synced) = self.0.accounts.last_trace(user, device).await?;
        let is_shown = forms.iter().any(|form| *form != "placeholder");
        let left = match erasure {
            _ if !is_shown => Left::Nothing,
            _ if !is_there => Left::SessionEnded,
            None => Left::MayHold,
            Some(erasure) => {
                match self.ledger().get(&REDACTED_AT, &MediaNid(erasure.media)).await? {
                    Some(position) if synced >= position => Left::Told,
                    _ => Left::Unknown,
                }
            }
        };
        Ok((left, seen_ms))
    }

    /// The files that a device was given, by their `mxc://` URIs; of those that are erased, too.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn given_to(&self, device: DeviceNid) -> Result<Vec<String>, Error> {
        type Given = ((DeviceNid, MediaNid, u8), ());
        let (given, _): (Vec<Given>, _) = self
            .ledger()
            .newest()
            .scan(&DEVICE_COPIES, &device, Direction::Forward, FILES_MAX)
            .await?;
        let shown = |code: u8| form_of(code) != Some(appliance_rules::policy::Form::Placeholder);
        let mut numbers: Vec<_> =
            given.iter().filter(|((.., code), ())| shown(*code)).map(|(key, ())| key.1).collect();
        numbers.dedup();
        let mut uris = Vec::new();
        for rows in numbers.chunks(PAGE) {
            for row in self.ledger().newest().get_many(&MEDIA, rows).await?.into_iter().flatten() {
                uris.push(self.uri(&row.media_id));
            }
        }
        Ok(uris)
    }
}
