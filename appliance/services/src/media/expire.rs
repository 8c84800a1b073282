//! The job that erases what is due. It takes no input: it looks at the store and the clock, does what is
//! to be done, and may be stopped and repeated at any point.
//!
//! Nobody depends on it for secrecy: what is due is refused at every read. It makes the bytes
//! unrecoverable soon after, redacts the events that showed them so that clients drop them, and destroys
//! the keys of days that are over.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use appliance_ledger::blobs::day_of;
use appliance_ledger::keyspaces::{
    MEDIA, MEDIA_DUE, MEDIA_LINKS, MEDIA_PURGES, MEDIA_REDACTIONS, REDACTED_AT, ROOM_MEDIA,
};
use appliance_ledger::rows::media::{LINK_OTHER, LinkRow, PurgeRow, RedactionRow, Stage};
use appliance_ledger::{Direction, Event};
use appliance_model::ruma::events::TimelineEventType;
use appliance_model::ruma::{CanonicalJsonObject, OwnedUserId, UserId};
use appliance_model::{Error, EventNid, Kind, MediaNid, RoomNid};
use appliance_rules::{Permit, policy};

use super::Media;
use super::link::{blob_of, forget_links};
use super::purge::EXPIRED;
use crate::rooms::Draft;

/// Rows looked at in one trip.
const PAGE: usize = 256;
/// Files that go together. Of the two disk syncs of their commits each has its share, and those of their
/// files are made side by side; the commits have about a thousand rows, which hold up those who send for some
/// milliseconds, and whoever wants one of the files waits for all of them.
const TOGETHER_MAX: usize = 64;
const DAY_MS: u64 = 86_400_000;
/// What clients show as the reason of the redaction.
const REDACTION_REASON: &str = "expired: io.wardstone";

/// The account that redacts where an author may not (any more): an ordinary one, which does so in the
/// rooms to which it was invited, with the power it was given there.
pub(crate) const STEWARD: &str = "policy";

/// What one look of the job did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files erased.
    pub erased: usize,
    /// Events redacted because what they showed is gone.
    pub redacted: usize,
    /// Files that could not be erased, because the disk refuses, and events that could not be redacted yet,
    /// because their room's policy server cannot be asked. An administrator should look.
    pub stuck: usize,
}

impl Report {
    /// So many of these files are gone; the disk keeps the others.
    pub(super) fn purged(&mut self, numbers: &[MediaNid], gone: usize) {
        self.erased += gone;
        self.stuck += numbers.len() - gone;
    }
}

/// What came of looking at one file.
enum Met {
    /// All that there was to do.
    Done,
    /// Its time is over: it is to be erased.
    Over,
}

impl Media {
    /// Looks once. To be called every second by the job list of the server.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn activate(&self) -> Result<Report, Error> {
        let now_ms = self.now_ms();
        let mut report = Report::default();
        let floor_ms = self.ledger().floor_ms();
        let is_set_back = floor_ms != self.0.met_floor_ms.load(Ordering::Relaxed);
        if !is_set_back && !self.0.rest.is_due(self.ledger(), now_ms) {
            return Ok(report);
        }
        // What was here when the clock was set back is looked through once, by the time that was reached.
        let upto_ms = if is_set_back { now_ms.max(floor_ms) } else { now_ms };
        let at = self.ledger().position();
        if !self.0.swept.swap(true, Ordering::Relaxed)
            && let Err(error) = self.sweep().await
        {
            // What stays is noise that takes up room: the next start sweeps again.
            tracing::error!(kind = "media.not_swept", %error, "left-over files were not swept");
        }
        // A step that fails, or one file in it, must not keep the others.
        let steps = [
            self.meet_deadlines(upto_ms, &mut report).await,
            self.finish_purges(&mut report).await,
            self.redact_shown(&mut report).await,
            self.end_days(now_ms, &report).await,
        ];
        metrics::gauge!("wardstone_media_stuck")
            .set(u32::try_from(report.stuck).unwrap_or(u32::MAX));
        steps.into_iter().collect::<Result<(), Error>>()?;
        self.0.met_floor_ms.store(floor_ms, Ordering::Relaxed);
        if report == Report::default() {
            self.0.rest.until(at, Some(self.next_look_ms(now_ms).await?));
        }
        Ok(report)
    }

    /// When the next file's deadline comes or the day ends, whichever is first.
    async fn next_look_ms(&self, now_ms: u64) -> Result<u64, Error> {
        type Due = ((u64, MediaNid), ());
        let day_end_ms = day_of(now_ms).saturating_add(1).saturating_mul(DAY_MS);
        let range = (&(0, MediaNid(0)), &(day_end_ms, MediaNid(0)));
        let view = self.ledger().newest();
        let (due, _): (Vec<Due>, _) =
            view.scan_between(&MEDIA_DUE, range, Direction::Forward, 1).await?;
        Ok(due.first().map_or(day_end_ms, |(key, ())| key.0))
    }

    /// Removes files that no row names: their commit did not happen. They are noise, and in the way.
    async fn sweep(&self) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::internal(format!("media folder: {error}"));
        for shelf in 0..self.blobs().shelves() {
            for name in self.blobs().on_shelf(shelf).await.map_err(failed)? {
                // Asked in this order, an upload in between is in flight or has its row.
                if self.blobs().is_in_flight(&name) {
                    continue;
                }
                let row = self.ledger().get(&MEDIA, &MediaNid(name.number())).await?;
                if row.and_then(|row| blob_of(&row)).as_ref() != Some(&name) {
                    let labels = super::thumbnail::labels();
                    self.blobs().erase(&name, &labels).await.map_err(failed)?;
                }
            }
            // From the last run: they count as used just now, in whatever order.
            for (name, label, bytes) in self.blobs().renderings_on(shelf).await.map_err(failed)? {
                if let Some(label) = super::thumbnail::labels().into_iter().find(|l| *l == label) {
                    let bytes_max = self.options().renderings_bytes_max;
                    for (name, label) in self.0.renderings.used((name, label), bytes, bytes_max) {
                        self.blobs().erase_rendering(&name, label).await.map_err(failed)?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn meet_deadlines(&self, upto_ms: u64, report: &mut Report) -> Result<(), Error> {
        type Due = ((u64, MediaNid), ());
        let mut met = Ok(());
        let (mut from, end) = ((0, MediaNid(0)), (upto_ms.saturating_add(1), MediaNid(0)));
        loop {
            let view = self.ledger().newest();
            let (due, more): (Vec<Due>, _) = view
                .scan_between(&MEDIA_DUE, (&from, &end), Direction::Forward, TOGETHER_MAX)
                .await?;
            let (mut done, mut over) = (Vec::new(), Vec::new());
            for (key, ()) in due {
                from = (key.0, MediaNid(key.1.0 + 1));
                let now_ms = self.time_ms_for(key.1);
                if now_ms < key.0 {
                    // It came after the clock was set back.
                    continue;
                }
                match self.meet(key.1, now_ms).await {
                    Ok(Met::Done) => done.push(key),
                    Ok(Met::Over) => over.push(key),
                    Err(error) => met = Err(error),
                }
            }
            match self.meet_together(&over, report).await {
                Ok(()) => done.append(&mut over),
                Err(error) => met = Err(error),
            }
            if !done.is_empty() {
                let mut commit = self.ledger().begin(Permit::housekeeping());
                for key in &done {
                    commit.delete(&MEDIA_DUE, key);
                }
                self.ledger().commit(commit).await?;
            }
            if !more {
                return met;
            }
        }
    }

    /// Erases files whose time is over.
    async fn meet_together(
        &self,
        over: &[(u64, MediaNid)],
        report: &mut Report,
    ) -> Result<(), Error> {
        // One may have two deadlines, its own and its room's.
        let numbers: BTreeSet<MediaNid> = over.iter().map(|(_, number)| *number).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let numbers: Vec<MediaNid> = numbers.into_iter().collect();
        self.purge_all(&numbers, Some(EXPIRED), report).await
    }

    /// Looks at one file.
    async fn meet(&self, number: MediaNid, now_ms: u64) -> Result<Met, Error> {
        let Some(row) = self.ledger().get(&MEDIA, &number).await? else {
            return self.meet_links_of_nothing(number).await.map(|()| Met::Done);
        };
        match row.stage {
            Stage::Reserved if now_ms >= row.deadline_ms => {
                let _door = self.0.doors.enter(number.0).await;
                let now_there = self.ledger().get(&MEDIA, &number).await?;
                if now_there.as_ref() == Some(&row) {
                    self.forget(&[(number, row)]).await?;
                }
                Ok(Met::Done)
            }
            Stage::Reserved | Stage::Purging => Ok(Met::Done),
            Stage::Present => match self.life(number, &row).await? {
                // By its time alone: what an administrator has locked away is kept until then.
                Some(deadline_ms) if now_ms >= deadline_ms => Ok(Met::Over),
                _ => self.meet_others(number, now_ms).await.map(|()| Met::Done),
            },
        }
    }

    /// Queues the redaction of other people's events whose own deadline has come.
    async fn meet_others(&self, number: MediaNid, now_ms: u64) -> Result<(), Error> {
        type Link = ((MediaNid, u8, u64, u64), LinkRow);
        loop {
            let range = (&(number, LINK_OTHER, 0), &(number, LINK_OTHER, now_ms.saturating_add(1)));
            let view = self.ledger().newest();
            let (links, _): (Vec<Link>, _) =
                view.scan_between(&MEDIA_LINKS, range, Direction::Forward, PAGE).await?;
            if links.is_empty() {
                return Ok(());
            }
            let mut commit = self.ledger().begin(Permit::housekeeping());
            for (key, row) in links {
                let event = EventNid(key.3);
                commit.delete(&MEDIA_LINKS, &key);
                if let Some(room) = row.room {
                    commit.delete(&ROOM_MEDIA, &(RoomNid(room), event, number));
                    commit.put(
                        &MEDIA_REDACTIONS,
                        &event,
                        &RedactionRow { room, media: Some(number.0) },
                    );
                }
            }
            self.ledger().commit(commit).await?;
        }
    }

    /// An event that was sent while its file was being purged.
    async fn meet_links_of_nothing(&self, number: MediaNid) -> Result<(), Error> {
        let mut commit = self.ledger().begin(Permit::housekeeping());
        let shown = forget_links(&self.0.house, number, &mut commit).await?;
        for (room, event) in shown {
            commit.put(
                &MEDIA_REDACTIONS,
                &event,
                &RedactionRow { room: room.0, media: Some(number.0) },
            );
        }
        self.ledger().commit(commit).await.map(drop)
    }

    /// Erases what is condemned: by a redaction, or by a look that the disk or the power cut short.
    async fn finish_purges(&self, report: &mut Report) -> Result<(), Error> {
        type Purge = (MediaNid, PurgeRow);
        let (mut from, mut finished) = (MediaNid(0), Ok(()));
        // What was stuck a moment ago is among them.
        report.stuck = 0;
        loop {
            let range = (&from, &MediaNid(u64::MAX));
            let view = self.ledger().newest();
            let (purges, more): (Vec<Purge>, _) =
                view.scan_between(&MEDIA_PURGES, range, Direction::Forward, TOGETHER_MAX).await?;
            let numbers: Vec<MediaNid> = purges.into_iter().map(|(number, _)| number).collect();
            let Some(last) = numbers.last() else { return finished };
            from = MediaNid(last.0 + 1);
            if let Err(error) = self.purge_all(&numbers, None, report).await {
                finished = Err(error);
            }
            if !more {
                return finished;
            }
        }
    }

    async fn redact_shown(&self, report: &mut Report) -> Result<(), Error> {
        type Redaction = (EventNid, RedactionRow);
        let mut from = EventNid(0);
        loop {
            let view = self.ledger().newest();
            let end = EventNid(u64::MAX);
            let (events, more): (Vec<Redaction>, _) = view
                .scan_between(&MEDIA_REDACTIONS, (&from, &end), Direction::Forward, PAGE)
                .await?;
            for (event, row) in events {
                from = EventNid(event.0 + 1);
                match self.redact(event, &row).await {
                    Ok(done) => report.redacted += usize::from(done),
                    // The store is full or stopping: the row stays, the next look tries again.
                    Err(error) if error.kind == Kind::Unavailable => return Err(error),
                    Err(error) if is_for_now(&error) => report.stuck += 1,
                    Err(error) => self.give_up(event, &error).await?,
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Redacts an event as its author: "the server domain of the sender equals that of the redacted
    /// event's", so every server applies it. Where the author may not (any more), and where the author
    /// is another server's, the steward does, if it is in the room and may. Whether there was anything
    /// to redact.
    async fn redact(&self, number: EventNid, row: &RedactionRow) -> Result<bool, Error> {
        let event = self.ledger().event(number).await?;
        if event.redacted_by.is_some() || event.is_state() {
            // Somebody was faster.
            let mut commit = self.ledger().begin(Permit::housekeeping());
            commit.delete(&MEDIA_REDACTIONS, &number);
            self.ledger().commit(commit).await?;
            return Ok(false);
        }
        let house = &self.0.house;
        let sender = UserId::parse(event.part(event.spans.sender).trim_matches('"'));
        let author = sender.ok().filter(|sender| house.is_ours(sender));
        let steward = UserId::parse_with_server_name(STEWARD, &house.server_name).ok();
        let steward = match steward {
            Some(steward) if self.ledger().user(&steward).await?.is_some() => Some(steward),
            _ => None,
        };
        let mut refused = Error::forbidden("nobody of this server may redact it");
        for by in [author, steward].into_iter().flatten() {
            match self.redact_as(by, &event, row).await {
                Ok(()) => return Ok(true),
                Err(error) if is_for_now(&error) => return Err(error),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    async fn redact_as(
        &self,
        by: OwnedUserId,
        event: &Event,
        row: &RedactionRow,
    ) -> Result<(), Error> {
        let room_id = self.ledger().room_id(RoomNid(row.room)).await?;
        let mut open = self.0.rooms.enter(&room_id).await?;
        let content = CanonicalJsonObject::from([
            ("redacts".to_owned(), event.event_id.to_string().into()),
            ("reason".to_owned(), REDACTION_REASON.to_owned().into()),
        ]);
        open.add(Draft::message(by, TimelineEventType::RoomRedaction, content), None).await?;
        if let Some(commit) = open.commit_mut() {
            commit.delete(&MEDIA_REDACTIONS, &event.number);
            if let Some(media) = row.media.map(MediaNid) {
                commit.stamp(move |position, rows| rows.put(&REDACTED_AT, &media, &position.0));
            }
        }
        open.leave().await.map(drop)
    }

    /// The room's rules do not let the author redact any more (they have left, say). Put on record.
    async fn give_up(&self, number: EventNid, error: &Error) -> Result<(), Error> {
        tracing::warn!(kind = "media.not_redacted", event.number = number.0, %error,
            "the event of an expired file was not redacted");
        let event = self.ledger().event(number).await;
        let event_id =
            event.map_or_else(|_| number.0.to_string(), |event| event.event_id.to_string());
        let permit = policy::could_not_redact(self.0.house.server_name.as_str(), &event_id);
        let mut commit = self.ledger().begin(permit);
        commit.delete(&MEDIA_REDACTIONS, &number);
        self.ledger().commit(commit).await.map(drop)
    }

    /// Destroys the keys of days that are over, and of days that nothing hangs on any more.
    async fn end_days(&self, now_ms: u64, report: &Report) -> Result<(), Error> {
        let today = day_of(now_ms);
        // Nothing has changed since the last look.
        let looked = self.0.days_ended.swap(today, Ordering::Relaxed);
        if looked == today && report.erased == 0 {
            return Ok(());
        }
        for day in self.blobs().days().await? {
            let is_unneeded = async { Ok(day < today || self.is_empty_day(day).await?) };
            self.blobs().destroy_day_if(day, is_unneeded).await?;
        }
        Ok(())
    }

    /// Whether no file has its deadline on a day. Every file has a row there until it is gone.
    async fn is_empty_day(&self, day: u64) -> Result<bool, Error> {
        type Due = ((u64, MediaNid), ());
        let start = day.saturating_mul(DAY_MS);
        let range = (&(start, MediaNid(0)), &(start.saturating_add(DAY_MS), MediaNid(0)));
        let view = self.ledger().newest();
        let (due, _): (Vec<Due>, _) =
            view.scan_between(&MEDIA_DUE, range, Direction::Forward, 1).await?;
        Ok(due.is_empty())
    }
}

/// The store is full or stopping, or the room's policy server cannot be asked: the row stays, the next look
/// tries again.
fn is_for_now(error: &Error) -> bool {
    matches!(error.kind, Kind::Unavailable | Kind::RemoteUnavailable | Kind::Limited { .. })
}
