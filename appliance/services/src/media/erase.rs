//! Erasing many files as one act: the photos of a room, of a person, of a time, or of the one message
//! that showed the wrong patient. One commit condemns all of them, with a receipt in the audit trail.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{MEDIA, ROOM_MEDIA};
use appliance_ledger::rows::media::{LINK_KEPT, MediaRow, RoomMediaRow, Stage};
use appliance_model::ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use appliance_model::{Error, EventNid, MediaNid, RoomNid, UserNid};
use appliance_rules::Permit;

use super::Media;
use super::purge::condemn;

const PAGE: usize = 1_000;
/// One commit holds all of them, about 500 bytes each.
const FILES_MAX: usize = 10_000;
const RECEIPT_LETTERS: usize = 12;
/// The reason in the records.
const REASON: &str = "purged";

/// Which files. At least one of room, user and event is named; all that is said must hold.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Shown in this room.
    pub room: Option<OwnedRoomId>,
    /// Uploaded by this user.
    pub user: Option<OwnedUserId>,
    /// Uploaded at or after this time: milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Shown by this event.
    pub event: Option<OwnedEventId>,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// What the audit trail calls it.
    pub receipt: String,
    /// The files, by their `mxc://` URIs.
    pub uris: Vec<String>,
    /// When: milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Media {
    /// Erases all files that `which` says. Returns when nobody gets them any more; a job erases them
    /// from the disk within the minute, and redacts what showed them.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] if nothing is named,
    /// [`appliance_model::Kind::NotFound`] for what is not known here,
    /// [`appliance_model::Kind::TooLarge`] beyond 10,000 files: narrow it down by time.
    pub async fn erase(&self, which: &Which, by: &str) -> Result<Receipt, Error> {
        let files = self.chosen(which).await?;
        let at_ms = self.now_ms();
        let receipt = self.0.house.dice.letters(RECEIPT_LETTERS);
        let said = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let object = format!(
            "receipt={receipt} files={} room={} user={} since={} event={}",
            files.len(),
            said(which.room.as_ref().map(|room| room.as_str())),
            said(which.user.as_ref().map(|user| user.as_str())),
            which.since_ms.unwrap_or_default(),
            said(which.event.as_ref().map(|event| event.as_str())),
        );
        let permit = Permit::administration("media.erased_in_bulk", by, object);
        let mut commit = self.ledger().begin(permit);
        for (number, _) in &files {
            commit.hold(self.0.doors.enter(number.0).await);
            condemn(&self.0.house, *number, REASON, &mut commit).await?;
        }
        self.ledger().commit(commit).await?;
        let uris = files.iter().map(|(_, media_id)| self.uri(media_id)).collect();
        Ok(Receipt { receipt, uris, at_ms })
    }

    async fn chosen(&self, which: &Which) -> Result<Vec<(MediaNid, String)>, Error> {
        let ledger = self.ledger();
        let user = match &which.user {
            Some(user_id) => {
                let user = ledger.user(user_id).await?;
                Some(user.ok_or_else(|| Error::not_found("There is no such user here."))?)
            }
            None => None,
        };
        let numbers = match (&which.event, &which.room, user) {
            (Some(event), room, _) => self.shown_by(event, room.as_ref()).await?,
            (None, Some(room), _) => {
                let room = ledger.room(room).await?;
                self.shown_in(room.ok_or_else(no_room)?, None).await?
            }
            (None, None, Some(user)) => return self.of_user(user, which.since_ms).await,
            (None, None, None) => {
                return Err(Error::invalid_param("Say which: a room, a user or an event."));
            }
        };
        let mut chosen = Vec::new();
        for numbers in numbers.chunks(PAGE) {
            let rows = ledger.newest().get_many(&MEDIA, numbers).await?;
            for (number, row) in numbers.iter().zip(rows) {
                if let Some(row) = row.filter(|row| is_chosen(row, user, which.since_ms)) {
                    chosen.push((*number, row.media_id));
                }
            }
        }
        bounded(chosen)
    }

    async fn shown_by(
        &self,
        event_id: &OwnedEventId,
        room_id: Option<&OwnedRoomId>,
    ) -> Result<Vec<MediaNid>, Error> {
        let no_event = || Error::not_found("This server has no such event.");
        let number = self.ledger().event_number(event_id).await?.ok_or_else(no_event)?;
        let room = self.ledger().event(number).await?.room;
        if let Some(room_id) = room_id
            && self.ledger().room(room_id).await? != Some(room)
        {
            return Err(no_event());
        }
        self.shown_in(room, Some(number)).await
    }

    async fn shown_in(
        &self,
        room: RoomNid,
        event: Option<EventNid>,
    ) -> Result<Vec<MediaNid>, Error> {
        type Shown = ((RoomNid, EventNid, MediaNid), RoomMediaRow);
        let mut from = (room, event.unwrap_or(EventNid(0)), MediaNid(0));
        let end = match event {
            Some(event) => (room, EventNid(event.0 + 1), MediaNid(0)),
            None => (RoomNid(room.0 + 1), EventNid(0), MediaNid(0)),
        };
        let mut numbers = Vec::new();
        loop {
            let view = self.ledger().newest();
            let (rows, more): (Vec<Shown>, _) =
                view.scan_between(&ROOM_MEDIA, (&from, &end), Direction::Forward, PAGE).await?;
            for (key, row) in rows {
                from = (key.0, key.1, MediaNid(key.2.0 + 1));
                // Avatars are no photos of patients.
                if row.class != LINK_KEPT {
                    numbers.push(key.2);
                }
            }
            if !more {
                break;
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    async fn of_user(
        &self,
        user: UserNid,
        since_ms: Option<u64>,
    ) -> Result<Vec<(MediaNid, String)>, Error> {
        let (mut from, mut chosen) = (MediaNid(0), Vec::new());
        loop {
            let end = MediaNid(u64::MAX);
            let view = self.ledger().newest();
            let (rows, more): (Vec<(MediaNid, MediaRow)>, _) =
                view.scan_between(&MEDIA, (&from, &end), Direction::Forward, PAGE).await?;
            for (number, row) in rows {
                from = MediaNid(number.0 + 1);
                if is_chosen(&row, Some(user), since_ms) {
                    chosen.push((number, row.media_id));
                }
            }
            if !more {
                return bounded(chosen);
            }
        }
    }
}

fn is_chosen(row: &MediaRow, user: Option<UserNid>, since_ms: Option<u64>) -> bool {
    row.stage == Stage::Present
        && user.is_none_or(|user| row.uploader == user.0)
        && since_ms.is_none_or(|since_ms| row.at_ms >= since_ms)
}

fn bounded(chosen: Vec<(MediaNid, String)>) -> Result<Vec<(MediaNid, String)>, Error> {
    if chosen.len() > FILES_MAX {
        return Err(Error::too_large("These are more than 10000 files. Narrow them down by time."));
    }
    Ok(chosen)
}

fn no_room() -> Error {
    Error::not_found("This server does not know that room.")
}
