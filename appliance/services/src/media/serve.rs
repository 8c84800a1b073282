//! `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}` ([spec]): the bytes, judged by the
//! clock before every chunk, in the form that the policy has for the device ([`super::govern`]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid

use std::time::Duration;

use appliance_ledger::blobs::BlobReader;
use appliance_ledger::rows::media::Stage;
use appliance_model::ruma::{OwnedServerName, ServerName, UserId};
use appliance_model::{Caller, Error, Kind, MediaNid};
use appliance_rules::policy::{Action, Form};
use bytes::Bytes;

use super::thumbnail::{Thumbnail, Wanted};
use super::upload::OCTET_STREAM;
use super::{Living, Media, no_such_media};

/// "The content repository SHOULD impose a maximum value for this parameter."
pub const WAIT_MS_MAX: u64 = 60_000;

/// To whom something is given out.
#[derive(Clone, Copy, Debug)]
pub enum Reader<'a> {
    /// A person on a device.
    Person(&'a Caller),
    /// Another server, for whoever asked there.
    Server(&'a ServerName),
    /// A user of another server to whom something was lent.
    Guest(&'a UserId),
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

    /// From when on nobody gets it: milliseconds since the Unix epoch; none while it is kept.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.living.deadline_ms
    }

    /// What the uploader says it is.
    pub fn content_type(&self) -> &str {
        self.living.row.content_type.as_deref().unwrap_or(OCTET_STREAM)
    }

    /// What its bytes show it to be, if they show anything.
    pub fn sniffed(&self) -> Option<&str> {
        self.living.row.sniffed.as_deref()
    }

    /// What the uploader calls it.
    pub fn filename(&self) -> Option<&str> {
        self.living.row.filename.as_deref()
    }

    pub(super) fn living(&self) -> &Living {
        &self.living
    }
}

/// What a caller gets.
pub enum Opened {
    /// The bytes that were uploaded.
    Original(Delivery),
    /// A picture in their place.
    Picture(Thumbnail),
}

/// Bytes on their way to a caller.
pub struct Delivery {
    media: Media,
    number: MediaNid,
    reader: BlobReader,
    is_ephemeral: bool,
    /// The server to which they go, if it is one.
    to: Option<OwnedServerName>,
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

    /// Starts giving out the bytes from `from` (included) to `to` (excluded), or a picture in their
    /// place, if that is what the policy has for the caller's device.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: the deadline has come meanwhile.
    /// * [`Kind::Forbidden`]: the policy does not give it to this device, or it was opened as often as
    ///   it may be.
    pub async fn open(
        &self,
        reader: impl Into<Reader<'_>>,
        found: &Found,
        range: (u64, u64),
    ) -> Result<Opened, Error> {
        let living = &found.living;
        let reader = reader.into();
        let obligations = self.govern(reader, living, Action::Download).await?;
        if obligations.form != Form::Original {
            let largest = Wanted { width: 800, height: 600, crop: false, animated: false };
            return Ok(Opened::Picture(self.picture(reader, found, largest, obligations).await?));
        }
        let to = match reader {
            Reader::Server(server) => Some(server.to_owned()),
            Reader::Person(_) | Reader::Guest(_) => None,
        };
        let delivery = self.deliver(living, range, (to, obligations.is_ephemeral)).await?;
        Ok(Opened::Original(delivery))
    }

    /// The bytes, to somebody who was judged.
    pub(super) async fn deliver(
        &self,
        living: &Living,
        range: (u64, u64),
        (to, is_ephemeral): (Option<OwnedServerName>, bool),
    ) -> Result<Delivery, Error> {
        let (blob, key) =
            self.open_key(living.number, &living.row).await?.ok_or_else(no_such_media)?;
        let opened = self.blobs().read(&blob, &key, living.row.bytes, range).await?;
        let reader = opened.ok_or_else(no_such_media)?;
        Ok(Delivery { media: self.clone(), number: living.number, reader, to, is_ephemeral })
    }
}

impl Opened {
    /// The bytes that were uploaded; none if a picture stands for them.
    pub fn original(self) -> Option<Delivery> {
        match self {
            Self::Original(delivery) => Some(delivery),
            Self::Picture(_) => None,
        }
    }
}

impl Delivery {
    /// To be passed on and not kept.
    pub fn is_ephemeral(&self) -> bool {
        self.is_ephemeral
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if the deadline has come, or the file was redacted, since the last chunk;
    /// [`Kind::Forbidden`] if the server to which they go is no longer to have them.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = self.reader.next().await?;
        // Judged after the disk has answered: a slow disk must not let bytes out late.
        self.media.living(self.number).await?.ok_or_else(no_such_media)?;
        let roll = &self.media.0.house.roll;
        if self.to.as_ref().is_some_and(|server| !roll.allows_media(server)) {
            return Err(Error::forbidden("This server gives yours no files."));
        }
        Ok(chunk)
    }
}
