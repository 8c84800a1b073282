//! Erasing many files as one act: the photos of a room, of a person, of a time, of a patient, or of the one
//! message that showed the wrong patient. One commit condemns all of them, with a receipt in the audit trail.
//!
//! What lies on another server is that server's to erase. By room, event and patient, the events that show it
//! here are taken back in the same act; whose uploads they are is not known here.

use appliance_ledger::keyspaces::{MEDIA, ROOM_MEDIA};
use appliance_ledger::rows::media::{LINK_KEPT, MediaRow, RoomMediaRow, Stage};
use appliance_ledger::{Direction, Event};
use appliance_model::ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use appliance_model::{Error, EventNid, MediaNid, RoomNid, UserNid};
use appliance_rules::Permit;
use serde::{Deserialize, Serialize};

use super::Media;
use super::link::take_back_afar;
use super::purge::condemn;

const PAGE: usize = 1_000;
/// Files and events. One commit holds all of them, about 500 bytes each.
const FILES_MAX: usize = 10_000;
const RECEIPT_LETTERS: usize = 12;
/// The reason in the records.
const REASON: &str = "purged";

/// Which files. At least one of room, user, event and reference is named; all that is said must hold.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    /// Shown in this room.
    pub room: Option<OwnedRoomId>,
    /// Uploaded by this user, and so not on another server.
    pub user: Option<OwnedUserId>,
    /// Uploaded at or after this time: milliseconds since the Unix epoch. Of what lies on another server, it
    /// counts when the event came that shows it.
    pub since_ms: Option<u64>,
    /// Uploaded before this time, or shown: milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
    /// Shown by this event.
    pub event: Option<OwnedEventId>,
    /// Sent from the photo page with this patient's reference, in whatever letters.
    pub reference: Option<String>,
}

/// Which event shows which file, and since when.
type Shown = (EventNid, (MediaNid, u64));
/// The same with its room, as the index has it.
type Place = (RoomNid, EventNid, MediaNid);

/// What is erased.
#[derive(Default)]
struct Chosen {
    /// Of this server, with their media IDs.
    files: Vec<(MediaNid, String)>,
    /// Events that show files of other servers, by the number of their link.
    events: Vec<MediaNid>,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// What the audit trail calls it.
    pub receipt: String,
    /// The files, by their `mxc://` URIs.
    pub uris: Vec<String>,
    /// How many events are taken back because they show what lies on another server.
    pub events: usize,
    /// When: milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Media {
    /// Erases all files that `which` says. Returns when nobody gets them any more; a job erases them
    /// from the disk within the minute, and redacts what showed them, or shows what lies on another server.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] if nothing is named, or a reference without a letter,
    /// [`appliance_model::Kind::NotFound`] for what is not known here,
    /// [`appliance_model::Kind::TooLarge`] beyond 10,000 files and events: narrow it down by
    /// time.
    pub async fn erase(&self, which: &Which, by: &str) -> Result<Receipt, Error> {
        if which.reference.as_deref().is_some_and(|reference| plain(reference).is_empty()) {
            return Err(Error::invalid_param(
                "The patient's reference has no letter and no digit.",
            ));
        }
        let Chosen { files, events } = self.chosen(which).await?;
        let at_ms = self.now_ms();
        let receipt = self.0.house.dice.letters(RECEIPT_LETTERS);
        let said = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let time = |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| ms.to_string());
        // Who is asked about later can be held against it; the reference itself is no matter of the trail.
        let reference = which.reference.as_deref().map(|reference| {
            let digest = self.ledger().digest(&[b"reference", plain(reference).as_bytes()]);
            format!("{:032x}", u128::from_be_bytes(digest))
        });
        let object = format!(
            "receipt={receipt} files={} events={} room={} user={} since={} until={} event={} reference={}",
            files.len(),
            events.len(),
            said(which.room.as_ref().map(|room| room.as_str())),
            said(which.user.as_ref().map(|user| user.as_str())),
            time(which.since_ms),
            time(which.until_ms),
            said(which.event.as_ref().map(|event| event.as_str())),
            said(reference.as_deref()),
        );
        let permit = Permit::administration("media.erased_in_bulk", by, object);
        let mut commit = self.ledger().begin(permit);
        for (number, _) in &files {
            commit.hold(self.0.doors.enter(number.0).await);
            condemn(&self.0.house, *number, REASON, &mut commit).await?;
        }
        for number in &events {
            take_back_afar(&self.0.house, *number, &mut commit).await?;
        }
        self.ledger().commit(commit).await?;
        let uris = files.iter().map(|(_, media_id)| self.uri(media_id)).collect();
        Ok(Receipt { receipt, uris, events: events.len(), at_ms })
    }

    async fn chosen(&self, which: &Which) -> Result<Chosen, Error> {
        let ledger = self.ledger();
        let user = match &which.user {
            Some(user_id) => {
                let user = ledger.user(user_id).await?;
                Some(user.ok_or_else(|| Error::not_found("There is no such user here."))?)
            }
            None => None,
        };
        let reference = which.reference.as_deref();
        let shown = match (&which.event, &which.room, user) {
            (Some(event), room, _) => self.shown_by(event, room.as_ref(), reference).await?,
            (None, Some(room), _) => {
                let room = ledger.room(room).await?.ok_or_else(no_room)?;
                self.shown_between(of_room(room), reference).await?
            }
            (None, None, Some(user)) if reference.is_none() => {
                return self.of_user(user, which).await;
            }
            (None, None, _) if reference.is_some() => {
                let all = (of_room(RoomNid(0)).0, of_room(RoomNid(u64::MAX)).0);
                self.shown_between(all, reference).await?
            }
            (None, None, _) => {
                return Err(Error::invalid_param(
                    "Say which: a room, a user, an event or a patient.",
                ));
            }
        };
        let mut chosen = Chosen::default();
        for shown in shown.chunks(PAGE) {
            let numbers: Vec<_> = shown.iter().map(|(number, _)| *number).collect();
            let rows = ledger.newest().get_many(&MEDIA, &numbers).await?;
            for ((number, at_ms), row) in shown.iter().zip(rows) {
                match row {
                    Some(row) if is_chosen(&row, user, which) => {
                        chosen.files.push((*number, row.media_id));
                    }
                    None if user.is_none() && is_within(which, *at_ms) => {
                        chosen.events.push(*number);
                    }
                    _ => {}
                }
            }
        }
        bounded(chosen)
    }

    async fn shown_by(
        &self,
        event_id: &OwnedEventId,
        room_id: Option<&OwnedRoomId>,
        reference: Option<&str>,
    ) -> Result<Vec<(MediaNid, u64)>, Error> {
        let no_event = || Error::not_found("This server has no such event.");
        let number = self.ledger().event_number(event_id).await?.ok_or_else(no_event)?;
        let room = self.ledger().event(number).await?.room;
        if let Some(room_id) = room_id
            && self.ledger().room(room_id).await? != Some(room)
        {
            return Err(no_event());
        }
        let (from, to) = ((room, number, MediaNid(0)), (room, EventNid(number.0 + 1), MediaNid(0)));
        self.shown_between((from, to), reference).await
    }

    /// What events show, of all rooms or one, of all patients or one, and since when.
    async fn shown_between(
        &self,
        (mut from, end): (Place, Place),
        reference: Option<&str>,
    ) -> Result<Vec<(MediaNid, u64)>, Error> {
        let mut found = Vec::new();
        loop {
            let view = self.ledger().newest();
            let (rows, more): (Vec<(Place, RoomMediaRow)>, _) =
                view.scan_between(&ROOM_MEDIA, (&from, &end), Direction::Forward, PAGE).await?;
            if let Some((last, _)) = rows.last() {
                from = (last.0, last.1, MediaNid(last.2.0 + 1));
            }
            // Avatars are no photos of patients.
            let shown = rows.into_iter().filter(|(_, row)| row.class != LINK_KEPT);
            let shown: Vec<Shown> =
                shown.map(|((_, event, media), row)| (event, (media, row.at_ms))).collect();
            found.extend(match reference {
                Some(reference) => self.of_patient(&shown, reference).await?,
                None => shown.into_iter().map(|(_, media)| media).collect(),
            });
            if !more {
                break;
            }
        }
        found.sort_unstable();
        found.dedup_by_key(|(media, _)| *media);
        Ok(found)
    }

    /// Those that events with this reference show.
    async fn of_patient(
        &self,
        shown: &[Shown],
        reference: &str,
    ) -> Result<Vec<(MediaNid, u64)>, Error> {
        let wanted = plain(reference);
        let events: Vec<_> = shown.iter().map(|(event, _)| *event).collect();
        let events = self.ledger().events(&events).await?;
        let is_theirs = |event: &Event| {
            let said = reference_in(event.content());
            said.is_some_and(|said| plain(&said) == wanted)
        };
        let theirs = shown.iter().zip(events).filter(|(_, event)| is_theirs(event));
        Ok(theirs.map(|((_, media), _)| *media).collect())
    }

    async fn of_user(&self, user: UserNid, which: &Which) -> Result<Chosen, Error> {
        let (mut from, mut chosen) = (MediaNid(0), Chosen::default());
        loop {
            let end = MediaNid(u64::MAX);
            let view = self.ledger().newest();
            let (rows, more): (Vec<(MediaNid, MediaRow)>, _) =
                view.scan_between(&MEDIA, (&from, &end), Direction::Forward, PAGE).await?;
            for (number, row) in rows {
                from = MediaNid(number.0 + 1);
                if is_chosen(&row, Some(user), which) {
                    chosen.files.push((number, row.media_id));
                }
            }
            if !more {
                return bounded(chosen);
            }
        }
    }
}

fn is_chosen(row: &MediaRow, user: Option<UserNid>, which: &Which) -> bool {
    row.stage == Stage::Present
        && user.is_none_or(|user| row.uploader == user.0)
        && is_within(which, row.at_ms)
}

fn is_within(which: &Which, at_ms: u64) -> bool {
    which.since_ms.is_none_or(|since_ms| at_ms >= since_ms)
        && which.until_ms.is_none_or(|until_ms| at_ms < until_ms)
}

/// All places of a room.
fn of_room(room: RoomNid) -> (Place, Place) {
    let first = |room| (room, EventNid(0), MediaNid(0));
    (first(room), first(RoomNid(room.0.saturating_add(1))))
}

/// The patient's reference of a photo that the photo page sent.
fn reference_in(content: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "io.wardstone.capture")]
        capture: Capture,
    }
    #[derive(Deserialize)]
    struct Capture {
        patient_reference: String,
    }
    // Most events have none, and are not parsed.
    if !content.contains("patient_reference") {
        return None;
    }
    Some(serde_json::from_str::<Content>(content).ok()?.capture.patient_reference)
}

/// People write "mrn 7", "MRN-7" and "MRN7" for the same patient: too much is erased rather than too little.
fn plain(reference: &str) -> String {
    reference
        .chars()
        .filter(|letter| letter.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

fn bounded(chosen: Chosen) -> Result<Chosen, Error> {
    if chosen.files.len() + chosen.events.len() > FILES_MAX {
        return Err(Error::too_large(
            "These are more than 10000 files and events. Narrow them down by time.",
        ));
    }
    Ok(chosen)
}

fn no_room() -> Error {
    Error::not_found("This server does not know that room.")
}
