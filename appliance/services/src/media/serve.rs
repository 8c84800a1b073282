//! `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}` ([spec]): the bytes, judged by the
//! clock before every chunk.
//!
//! The first delivery of a file to a device, in each form, is in the audit trail before a byte leaves;
//! repetitions while the server runs are not written again. So a timeline full of thumbnails costs one
//! commit per device and file, shared with whatever else is being committed, and none on repetition.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid

use std::time::Duration;

use appliance_ledger::blobs::BlobReader;
use appliance_ledger::rows::media::Stage;
use appliance_model::ruma::ServerName;
use appliance_model::{Caller, Error, Kind, MediaNid};
use appliance_rules::policy;
use bytes::Bytes;

use super::upload::OCTET_STREAM;
use super::{Living, Media, no_such_media};

/// "The content repository SHOULD impose a maximum value for this parameter."
pub const WAIT_MS_MAX: u64 = 60_000;

/// What is given out, as the audit trail names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Original,
    Thumbnail,
}

/// To whom something is given out.
#[derive(Clone, Copy, Debug)]
pub enum Reader<'a> {
    /// A person on a device.
    Person(&'a Caller),
    /// Another server, for whoever asked there.
    Server(&'a ServerName),
}

impl<'a> From<&'a Caller> for Reader<'a> {
    fn from(caller: &'a Caller) -> Self {
        Self::Person(caller)
    }
}

/// A file that may be given out.
#[derive(Clone, Debug)]
pub struct Found {
    living: Living,
}

impl Found {
    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.living.row.bytes
    }

    /// What the uploader says it is.
    pub fn content_type(&self) -> &str {
        self.living.row.content_type.as_deref().unwrap_or(OCTET_STREAM)
    }

    /// What the uploader calls it.
    pub fn filename(&self) -> Option<&str> {
        self.living.row.filename.as_deref()
    }

    pub(super) fn living(&self) -> &Living {
        &self.living
    }
}

/// Bytes on their way to a caller.
pub struct Delivery {
    media: Media,
    number: MediaNid,
    reader: BlobReader,
}

impl Media {
    /// Finds a file that may be given out; waits up to `wait_ms` (at most [`WAIT_MS_MAX`]) for one
    /// that is reserved and not uploaded yet.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: not there, or its deadline has come.
    /// * [`Kind::NotYetUploaded`]: reserved, and it did not arrive in time.
    pub async fn find(
        &self,
        server_name: &str,
        media_id: &str,
        wait_ms: u64,
    ) -> Result<Found, Error> {
        let wait = Duration::from_millis(wait_ms.min(WAIT_MS_MAX));
        let waited = tokio::time::sleep(wait);
        tokio::pin!(waited);
        let mut place = None;
        loop {
            let arrived = self.0.arrived.notified();
            tokio::pin!(arrived);
            // Listens before it looks, so that no arrival falls in between.
            arrived.as_mut().enable();
            let (number, row) = self.row(server_name, media_id).await?.ok_or_else(no_such_media)?;
            match row.stage {
                Stage::Present => {
                    let living = self.living(number).await?.ok_or_else(no_such_media)?;
                    return Ok(Found { living });
                }
                Stage::Reserved if self.now_ms() < row.deadline_ms => {}
                Stage::Reserved | Stage::Purging => return Err(no_such_media()),
            }
            let not_yet = || Error::new(Kind::NotYetUploaded, "That file is not uploaded yet.");
            if place.is_none() {
                place = Some(self.0.waiting.try_acquire().map_err(|_| not_yet())?);
            }
            tokio::select! {
                () = &mut arrived => {}
                () = &mut waited => return Err(not_yet()),
            }
        }
    }

    /// Starts giving out the bytes from `from` (included) to `to` (excluded).
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if the deadline has come meanwhile.
    pub async fn open(
        &self,
        reader: impl Into<Reader<'_>>,
        found: &Found,
        range: (u64, u64),
    ) -> Result<Delivery, Error> {
        let living = &found.living;
        self.record(reader.into(), living, Form::Original).await?;
        let (blob, key) =
            self.open_key(living.number, &living.row).await?.ok_or_else(no_such_media)?;
        let opened = self.blobs().read(&blob, &key, living.row.bytes, range).await?;
        let reader = opened.ok_or_else(no_such_media)?;
        Ok(Delivery { media: self.clone(), number: living.number, reader })
    }

    /// Judges a delivery and puts it into the audit trail.
    pub(super) async fn record(
        &self,
        reader: Reader<'_>,
        living: &Living,
        form: Form,
    ) -> Result<(), Error> {
        let name = match form {
            Form::Original => "original",
            Form::Thumbnail => "thumbnail",
        };
        let uri = self.uri(&living.row.media_id);
        let clock = (living.deadline_ms, self.now_ms());
        let (permit, device) = match reader {
            Reader::Person(caller) => {
                let device_id = caller.device_id.as_str();
                let permit =
                    policy::may_deliver(&caller.user_id, device_id, (&uri, name), clock.0, clock.1);
                (permit, Some(caller.device))
            }
            Reader::Server(server) if !self.0.house.roll.allows_media(server) => {
                return Err(Error::forbidden("This server gives yours no files."));
            }
            Reader::Server(server) => {
                (policy::may_deliver_to_server(server, (&uri, name), clock.0, clock.1), None)
            }
        };
        let Some(permit) = permit else {
            self.overdue().insert(living.number);
            return Err(no_such_media());
        };
        // Avatars are outside the policy: everyone's client fetches everyone's.
        let delivery = device.map(|device| (living.number, device, form as u8));
        let is_known = delivery.is_some_and(|delivery| self.0.delivered.get(&delivery).is_some());
        if living.deadline_ms.is_none() || is_known {
            return Ok(());
        }
        self.ledger().commit(self.ledger().begin(permit)).await?;
        if let Some(delivery) = delivery {
            self.0.delivered.insert(delivery, ());
        }
        Ok(())
    }
}

impl Delivery {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if the deadline has come, or the file was redacted, since the last chunk.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = self.reader.next().await?;
        // Judged after the disk has answered: a slow disk must not let bytes out late.
        self.media.living(self.number).await?.ok_or_else(no_such_media)?;
        Ok(chunk)
    }
}
