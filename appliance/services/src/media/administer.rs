//! Files, as administrators see and judge them: lists, quarantine, protection. Nobody looks at a
//! picture here.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{MEDIA, MEDIA_MARKS, ROOM_MEDIA};
use appliance_ledger::rows::extras::MediaMarkRow;
use appliance_ledger::rows::media::{MediaRow, RoomMediaRow, Stage};
use appliance_model::{Caller, Error, EventNid, MediaNid, RoomNid, UserNid};
use appliance_rules::Permit;

use super::{Media, no_such_media};

const PAGE: usize = 500;

/// A file.
#[derive(Clone, Debug)]
pub struct FileView {
    /// What is kept of it.
    pub row: MediaRow,
    /// What was said about it.
    pub mark: MediaMarkRow,
}

/// What is said about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaJudgement {
    /// Nobody gets it, or they do again.
    Quarantine(bool),
    /// It is not put into quarantine with others, or it may be again.
    Protect(bool),
}

impl Media {
    /// The files that are there, oldest first: of one user, or all.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn files(&self, of: Option<UserNid>) -> Result<Vec<FileView>, Error> {
        let (mut found, mut from) = (Vec::new(), MediaNid(0));
        loop {
            let range = (&from, &MediaNid(u64::MAX));
            let view = self.ledger().newest();
            let (rows, more) = view.scan_between(&MEDIA, range, Direction::Forward, PAGE).await?;
            for (number, row) in rows {
                let (number, row): (MediaNid, MediaRow) = (number, row);
                from = MediaNid(number.0 + 1);
                let is_wanted = of.is_none_or(|user| user.0 == row.uploader);
                if row.stage == Stage::Present && is_wanted {
                    let mark = self.mark(number).await?;
                    found.push(FileView { row, mark });
                }
            }
            if !more {
                return Ok(found);
            }
        }
    }

    /// The media IDs of what events of a room show.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn files_in(&self, room: RoomNid) -> Result<Vec<String>, Error> {
        let (mut found, mut from) = (Vec::new(), (room, EventNid(0), MediaNid(0)));
        let end = (RoomNid(room.0 + 1), EventNid(0), MediaNid(0));
        loop {
            let view = self.ledger().newest();
            let (rows, more) =
                view.scan_between(&ROOM_MEDIA, (&from, &end), Direction::Forward, PAGE).await?;
            for (key, _) in rows {
                let (key, _): ((RoomNid, EventNid, MediaNid), Option<RoomMediaRow>) = (key, None);
                from = (key.0, key.1, MediaNid(key.2.0 + 1));
                if let Some(row) = self.ledger().get(&MEDIA, &key.2).await?
                    && row.stage == Stage::Present
                    && !found.contains(&row.media_id)
                {
                    found.push(row.media_id);
                }
            }
            if !more {
                return Ok(found);
            }
        }
    }

    /// Says something about a file. A protected file is not put into quarantine; whether it was said.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such file.
    pub async fn judge(
        &self,
        by: &Caller,
        (server_name, media_id): (&str, &str),
        judgement: MediaJudgement,
    ) -> Result<bool, Error> {
        let (number, _) = self.row(server_name, media_id).await?.ok_or_else(no_such_media)?;
        let door = self.0.doors.enter(number.0).await;
        let mut mark = self.mark(number).await?;
        let verb = match judgement {
            MediaJudgement::Quarantine(true) if mark.protected => return Ok(false),
            MediaJudgement::Quarantine(true) => {
                mark.quarantined_by = Some(by.user_id.to_string());
                "media.quarantined"
            }
            MediaJudgement::Quarantine(false) => {
                mark.quarantined_by = None;
                "media.released"
            }
            MediaJudgement::Protect(protected) => {
                mark.protected = protected;
                if protected { "media.protected" } else { "media.unprotected" }
            }
        };
        let permit = Permit::administration(verb, &by.user_id, self.uri(media_id));
        let mut commit = self.ledger().begin(permit);
        commit.put(&MEDIA_MARKS, &number, &mark);
        commit.hold(door);
        self.ledger().commit(commit).await.map(|_| true)
    }

    /// What was said about a file.
    pub(super) async fn mark(&self, number: MediaNid) -> Result<MediaMarkRow, Error> {
        Ok(self.ledger().get(&MEDIA_MARKS, &number).await?.unwrap_or_default())
    }
}
