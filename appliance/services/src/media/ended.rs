//! Files of other servers that are at their end: their own server says so ([MSC4322]), or an administrator of
//! this one. Nothing of them was ever kept here. From the commit on they are not passed on any more, whoever
//! is in the middle of it included, and the events that show them are taken back; for good.
//!
//! [MSC4322]: https://github.com/matrix-org/matrix-spec-proposals/pull/4322

use appliance_ledger::keyspaces::{ENDED_AFAR, SHOWN_AFAR};
use appliance_ledger::rows::policy::EndedAfarRow;
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::ruma::ServerName;
use appliance_model::{Error, MediaNid};
use appliance_rules::policy::is_media_id;
use appliance_rules::{Permit, policy};

use super::Media;
use super::link::{afar_digest, take_back_afar};

/// Events taken back in one commit, about 500 bytes each.
const PAGE: usize = 1_000;

impl Media {
    /// Another server erased a file of its own. Returns when that is on record, nobody gets the file by way of
    /// this server any more, and all events here that show it are about to be taken back. A file of which
    /// nothing is known here is not here: that is confirmed, too, and holds for what comes later. Said
    /// again, it says nothing new.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`] for a file that is not that server's.
    /// * [`appliance_model::Kind::InvalidParam`] for what no media ID can be.
    pub async fn erased_there(
        &self,
        origin: &ServerName,
        (server_name, media_id): (&str, &str),
    ) -> Result<(), Error> {
        // "The receiving server must ensure that the calling server is the same server that the media URI
        // belongs to."
        if origin != server_name {
            return Err(Error::forbidden("A server speaks for its own files."));
        }
        if !is_media_id(media_id) {
            return Err(Error::invalid_param("That is no media ID."));
        }
        let uri = format!("mxc://{server_name}/{media_id}");
        let said = (origin.as_str(), true);
        self.end_afar(&uri, said, policy::erased_elsewhere(origin.as_str(), &uri)).await
    }

    /// Ends a file of another server here, because of what `by` says: that server itself, or not. `permit` is
    /// what is on record if it is news.
    pub(super) async fn end_afar(
        &self,
        uri: &str,
        (by, is_its_server): (&str, bool),
        permit: Permit,
    ) -> Result<(), Error> {
        let file = afar_digest(self.ledger(), uri);
        // Of two who say the same at once, one is on record.
        let _door = self.0.ending.enter(door(&file)).await;
        let known = self.ledger().get(&ENDED_AFAR, &file).await?;
        if known.is_none_or(|known| is_its_server && known.by != by) {
            let mut commit = self.ledger().begin(permit);
            let row = EndedAfarRow { by: by.to_owned(), at_ms: self.now_ms() };
            commit.put(&ENDED_AFAR, &file, &row);
            self.take_back(&file, &mut commit).await?;
            self.ledger().commit(commit).await?;
        }
        // What is left of a look that was cut short, and what came in while this one was taken.
        loop {
            let mut commit = self.ledger().begin(Permit::housekeeping());
            if self.take_back(&file, &mut commit).await? == 0 {
                return Ok(());
            }
            self.ledger().commit(commit).await?;
        }
    }

    /// Whether a file of another server is at its end, by [`afar_digest`].
    pub(super) async fn has_ended(&self, file: &Digest) -> Result<bool, Error> {
        Ok(self.ledger().get(&ENDED_AFAR, file).await?.is_some())
    }

    /// Takes back events that show a file; how many places were looked at.
    async fn take_back(&self, file: &Digest, commit: &mut Commit) -> Result<usize, Error> {
        let view = self.ledger().newest();
        let (rows, _) = view.scan(&SHOWN_AFAR, file, Direction::Forward, PAGE).await?;
        let rows: Vec<((Digest, MediaNid), ())> = rows;
        for (key, ()) in &rows {
            take_back_afar(&self.0.house, key.1, commit).await?;
            commit.delete(&SHOWN_AFAR, key);
        }
        Ok(rows.len())
    }
}

/// A door for each file.
fn door(file: &Digest) -> u64 {
    file.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
