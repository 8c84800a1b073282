//! `POST /_matrix/media/v3/upload` and `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}` ([spec]):
//! bytes become a sealed blob as they arrive, and a file that lives until its deadline.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload

use appliance_ledger::Digest;
use appliance_ledger::blobs::{Kept, day_of};
use appliance_ledger::keyspaces::{
    INHERITED, MEDIA, MEDIA_DUE, MEDIA_IDS, MEDIA_PENDING, MEDIA_UNBOUND,
};
use appliance_ledger::rows::media::{MediaRow, Stage, UnboundRow};
use appliance_model::{Caller, Error, Kind, MediaNid};
use appliance_rules::policy::{self, Effective, Field};
use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::OwnedMutexGuard;

use super::clean::{clean, unreadable};
use super::govern::may_show;
use super::{Media, film, kind, media_digest, no_such_media};
use crate::policy::of_room;

/// Names longer than what file systems take help nobody.
const FILENAME_BYTES_MAX: usize = 255;
/// A larger picture is not read into memory to be cleaned.
const PICTURE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Who is in more rooms has every picture cleaned, without asking each.
const ROOMS_ASKED_MAX: usize = 256;
/// The type of what is not known, or encrypted.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// What has arrived.
struct Received {
    kept: Kept,
    content: Digest,
    sniffed: Option<&'static str>,
    is_film: bool,
    is_clean: bool,
}

/// What comes along with an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewFile {
    /// The `Content-Type` header.
    pub content_type: Option<String>,
    /// The `filename` of the query.
    pub filename: Option<String>,
    /// The `Content-Length` header.
    pub announced_bytes: Option<u64>,
    /// The camera page took it ([`super::capture`]).
    pub is_captured: bool,
}

impl Media {
    /// Keeps a file under a new ID; returns its `mxc://` URI when it would survive a power cut. Holds
    /// at most two chunks of it in memory.
    ///
    /// # Errors
    ///
    /// * [`Kind::TooLarge`]: larger than [`Media::upload_bytes_max`]; noticed while reading.
    /// * [`Kind::Unavailable`]: the disk is full, or too many uploads are under way. Nothing was kept.
    /// * [`Kind::InvalidParam`]: the bytes did not arrive whole.
    /// * [`Kind::Limited`]: many uploads in a short time.
    /// * [`Kind::ResourceLimit`]: the user, or all together, have as much here as they may.
    pub async fn upload<B, E>(
        &self,
        caller: &Caller,
        new: NewFile,
        body: B,
    ) -> Result<String, Error>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        self.count(caller)?;
        let number = MediaNid(self.ledger().next_number());
        let media_id = self.fresh_id();
        let received = self.receive((caller, number), &new, body).await?;
        let uri = self.uri(&media_id);
        self.name(caller, (number, media_id), new, received, None).await?;
        Ok(uri)
    }

    /// Keeps a file under an ID that its caller has reserved ([`Media::create`]).
    ///
    /// # Errors
    ///
    /// As [`Media::upload`], and:
    ///
    /// * [`Kind::NotFound`]: the ID was never reserved, or not used in time.
    /// * [`Kind::Forbidden`]: somebody else reserved it.
    /// * [`Kind::CannotOverwriteMedia`]: it has a file already.
    pub async fn fill<B, E>(
        &self,
        caller: &Caller,
        (server_name, media_id): (&str, &str),
        new: NewFile,
        body: B,
    ) -> Result<(), Error>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let number = self.reserved(caller, server_name, media_id).await?;
        let received = self.receive((caller, number), &new, body).await?;
        // A retry may have overtaken this upload: only one becomes the file.
        let door = self.0.doors.enter(number.0).await;
        let judged = self.reserved(caller, server_name, media_id).await;
        if let Err(error) = judged {
            self.discard(received.kept).await;
            return Err(error);
        }
        self.name(caller, (number, media_id.to_owned()), new, received, Some(door)).await?;
        self.0.arrived.notify_waiters();
        Ok(())
    }

    async fn reserved(
        &self,
        caller: &Caller,
        server_name: &str,
        media_id: &str,
    ) -> Result<MediaNid, Error> {
        let (number, row) = self.row(server_name, media_id).await?.ok_or_else(no_such_media)?;
        if row.uploader != caller.user.0 {
            return Err(Error::forbidden("Somebody else has reserved that ID."));
        }
        match row.stage {
            Stage::Reserved if self.now_ms() < row.deadline_ms => Ok(number),
            Stage::Present => Err(Error::new(
                Kind::CannotOverwriteMedia,
                "That ID has a file already. Reserve another one.",
            )),
            Stage::Reserved | Stage::Purging => Err(no_such_media()),
        }
    }

    async fn receive<B, E>(
        &self,
        (caller, number): (&Caller, MediaNid),
        new: &NewFile,
        mut body: B,
    ) -> Result<Received, Error>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let bytes_max = self.upload_bytes_max();
        let too_large = || Error::too_large(format!("The file is larger than {bytes_max} bytes."));
        if new.announced_bytes.is_some_and(|bytes| bytes > bytes_max) {
            return Err(too_large());
        }
        self.check_quota(caller.user, new.announced_bytes.unwrap_or_default()).await?;
        let _place = self.0.uploads.try_acquire().map_err(|_| {
            Error::new(Kind::Unavailable, "Too many uploads are under way. Try again shortly.")
        })?;
        let mut writer = self.blobs().begin(number.0).await?;
        let mut bytes = 0_u64;
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut head = Vec::with_capacity(kind::HEAD_BYTES);
        while let Some(part) = body.next().await {
            let part =
                part.map_err(|_| Error::invalid_param("The upload did not arrive whole."))?;
            bytes = bytes.saturating_add(part.len() as u64);
            if bytes > bytes_max {
                return Err(too_large());
            }
            digest.update(&part);
            head.extend(part.iter().take(kind::HEAD_BYTES - head.len()));
            writer.write(&part).await?;
        }
        if new.announced_bytes.is_some_and(|announced| announced != bytes) {
            return Err(Error::invalid_param("The upload did not arrive whole."));
        }
        let sniffed = kind::of_bytes(&head);
        let received = Received {
            kept: writer.finish().await?,
            content: self.content_digest(digest.finish().as_ref()),
            sniffed,
            is_film: film::begins(&head) && !is_picture(sniffed),
            is_clean: new.is_captured,
        };
        self.without_place((caller, number), new, received).await
    }

    /// Keyed, so that nobody who finds it can tell which picture it was.
    pub(super) fn content_digest(&self, sha256: &[u8]) -> Digest {
        self.ledger().digest(&[b"content", sha256])
    }

    /// What has arrived, without what a camera wrote beside picture or film, where a policy wants that.
    /// What had it goes: the key under which it lies was never written down.
    async fn without_place(
        &self,
        (caller, number): (&Caller, MediaNid),
        new: &NewFile,
        received: Received,
    ) -> Result<Received, Error> {
        let is_one = is_picture(received.sniffed) || received.is_film;
        if !is_one || received.is_clean || !self.must_clean(caller).await? {
            return Ok(received);
        }
        if received.is_film {
            // What cannot be cleaned is kept as it came: the rules say from whom a room takes it.
            let Some((kept, content)) = self.cleaned_film(number, &received.kept).await? else {
                return Ok(received);
            };
            self.discard(received.kept).await;
            return Ok(Received { kept, content, is_clean: true, ..received });
        }
        let cleaned = match self.cleaned(&received.kept).await {
            Ok(cleaned) => cleaned,
            // Encrypted bytes may begin like a picture by chance. As a picture nobody can show them.
            Err(error)
                if matches!(error.kind, Kind::InvalidParam | Kind::TooLarge)
                    && may_be_encrypted(new) =>
            {
                return Ok(received);
            }
            Err(error) => return Err(error),
        };
        let Some(picture) = cleaned else { return Ok(Received { is_clean: true, ..received }) };
        let mut writer = self.blobs().begin(number.0).await?;
        writer.write(&picture).await?;
        let content = self.content_digest(digest::digest(&digest::SHA256, &picture).as_ref());
        let kept = writer.finish().await?;
        self.discard(received.kept).await;
        Ok(Received { kept, content, is_clean: true, ..received })
    }

    /// Whether the house, or a room in which the caller could show a picture, wants it without place
    /// and time. Who enters such a room later sends the picture again.
    async fn must_clean(&self, caller: &Caller) -> Result<bool, Error> {
        let house = &self.0.house;
        let is_wanted = |policy: Effective| policy.get(Field::StripMetadata) == Some(1);
        if house.options.policy.is_off {
            return Ok(false);
        }
        if is_wanted(house.policy_for(caller.role)) || is_wanted(house.policy_in(None, None)) {
            return Ok(true);
        }
        let rooms = self.0.rooms.joined_rooms(caller).await?;
        if rooms.len() > ROOMS_ASKED_MAX {
            return Ok(true);
        }
        for room_id in rooms {
            let (room, _) = self.0.rooms.known(&room_id).await?;
            let of_room = of_room(&self.0.rooms, room).await?;
            if is_wanted(house.policy_in(None, of_room.as_ref())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The picture alone; none if it is so already.
    async fn cleaned(&self, kept: &Kept) -> Result<Option<Bytes>, Error> {
        if kept.bytes > PICTURE_BYTES_MAX {
            return Err(Error::too_large(format!(
                "Pictures have at most {PICTURE_BYTES_MAX} bytes here: they are read whole, to take \
                 out what the camera wrote beside them."
            )));
        }
        let pixels_max = self.options().pixels_max;
        let blob = (&kept.name, &kept.key, kept.bytes);
        let cleaned = self.on_picture(blob, move |source| clean(&source.into(), pixels_max)).await;
        cleaned.map_err(|error| match error.kind {
            // None of the four formats, or a decoder that gave up.
            Kind::CannotThumbnail => unreadable(),
            _ => error,
        })
    }

    /// The one commit: from here on the file is there.
    async fn name(
        &self,
        caller: &Caller,
        (number, media_id): (MediaNid, String),
        new: NewFile,
        Received { kept, content, sniffed, is_clean, .. }: Received,
        door: Option<OwnedMutexGuard<()>>,
    ) -> Result<(), Error> {
        let now_ms = self.now_ms();
        let mut deadline_ms = now_ms.saturating_add(self.options().ttl_ms);
        // "inherit_by_hash": these bytes were shown before, in a room that lets copies end with them.
        if let Some(inherited_ms) = self.ledger().get(&INHERITED, &content).await? {
            deadline_ms = deadline_ms.min(inherited_ms);
        }
        if deadline_ms <= now_ms {
            self.discard(kept).await;
            return Err(Error::forbidden(
                "This very file was shown here before, and its time is over. It is not taken again.",
            ));
        }
        let key_day = day_of(deadline_ms);
        let (wrapped_key, in_use) = self.blobs().wrap(key_day, number.0, &kept.key).await?;
        let content_type = content_type_of(new.content_type);
        // Encrypted files come as octets, and only the next encrypted event can say for which room.
        let may_be_encrypted = content_type == OCTET_STREAM;
        let row = MediaRow {
            media_id,
            uploader: caller.user.0,
            device: caller.device.0,
            stage: Stage::Present,
            at_ms: now_ms,
            deadline_ms,
            bytes: kept.bytes,
            content_type: Some(content_type),
            filename: new.filename.and_then(filename_of),
            blob: kept.name.as_str().to_owned(),
            key_day,
            wrapped_key,
            content: Some(content.to_vec()),
            sniffed: sniffed.map(str::to_owned),
            is_captured: new.is_captured.then_some(true),
            is_clean: is_clean.then_some(true),
        };
        let uri = self.uri(&row.media_id);
        if let Err(error) = self.may_bring(caller, (&uri, &row)).await {
            self.discard(kept).await;
            return Err(error);
        }
        let mut commit = self.ledger().begin(policy::may_upload(&caller.user_id, &uri));
        commit.put(&MEDIA_IDS, &media_digest(self.ledger(), &row.media_id), &number.0);
        commit.put(&MEDIA, &number, &row);
        let counting = match self.count_file(caller.user, row.bytes, &mut commit).await {
            Ok(counting) => counting,
            Err(error) => {
                self.discard(kept).await;
                return Err(error);
            }
        };
        commit.put(&MEDIA_DUE, &(deadline_ms, number), &());
        commit.delete(&MEDIA_PENDING, &(caller.user, number));
        if may_be_encrypted {
            let unbound = UnboundRow { at_ms: now_ms, bound: false };
            commit.put(&MEDIA_UNBOUND, &(caller.device, number), &unbound);
        }
        let blob = kept.name.clone();
        commit.hold((kept.into_named(), in_use, door, counting));
        if let Err(error) = self.ledger().commit(commit).await {
            // Nobody was told of the file. Should its row be there after all, it is a file that nobody
            // can read, until its deadline.
            let _ = self.blobs().erase(&blob, &[]).await;
            self.take_off_total(row.bytes);
            return Err(error);
        }
        Ok(())
    }

    /// Where the house itself takes no pictures and films in clear from such devices, there is no room for
    /// which they could come.
    async fn may_bring(&self, caller: &Caller, (uri, row): (&str, &MediaRow)) -> Result<(), Error> {
        let is_one = |kind: Option<&str>| {
            kind.is_some_and(|kind| kind.starts_with("image/") || kind.starts_with("video/"))
        };
        let announced = row.content_type.as_deref();
        let may_be_encrypted = announced == Some(OCTET_STREAM);
        if may_be_encrypted || !(is_one(announced) || is_one(row.sniffed.as_deref())) {
            return Ok(());
        }
        let house = &self.0.house;
        let who = (&*caller.user_id, Some(caller.device));
        may_show(house, &house.policy_for(caller.role), who, (uri, row)).await
    }

    async fn discard(&self, kept: Kept) {
        // What does not go now goes with the sweep at the next start; nobody has its key.
        let _ = self.blobs().erase(&kept.name, &[]).await;
    }
}

fn is_picture(sniffed: Option<&str>) -> bool {
    sniffed.is_some_and(|kind| kind.starts_with("image/"))
}

/// Encrypted files come as octets.
fn may_be_encrypted(new: &NewFile) -> bool {
    content_type_of(new.content_type.clone()) == OCTET_STREAM
}

/// What the uploader says the file is, if it can be said back in a header.
fn content_type_of(announced: Option<String>) -> String {
    const CONTENT_TYPE_BYTES_MAX: usize = 255;
    let is_sane = |text: &String| {
        (1..=CONTENT_TYPE_BYTES_MAX).contains(&text.len())
            && text.contains('/')
            && text.bytes().all(|b| (0x20..0x7f).contains(&b))
    };
    announced.filter(is_sane).unwrap_or_else(|| OCTET_STREAM.to_owned())
}

/// The name without control characters, and not longer than a name can be.
fn filename_of(text: String) -> Option<String> {
    let mut name: String = text.chars().filter(|c| !c.is_control()).collect();
    while name.len() > FILENAME_BYTES_MAX {
        name.pop();
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_said_back_in_a_header_is_octets() {
        let of = |text: &str| content_type_of(Some(text.to_owned()));
        assert_eq!(of("image/jpeg"), "image/jpeg");
        assert_eq!(of("text/plain; charset=utf-8"), "text/plain; charset=utf-8");
        for odd in ["", "image", "image/\r\nX-Evil: 1", "image/\u{fc}", &"a/".repeat(200)] {
            assert_eq!(of(odd), OCTET_STREAM, "{odd:?}");
        }
        assert_eq!(content_type_of(None), OCTET_STREAM);
        assert_eq!(filename_of("leg\r\n.jpg".to_owned()).unwrap(), "leg.jpg");
        assert_eq!(filename_of("\n".to_owned()), None);
        assert!(filename_of("\u{1f9b5}".repeat(200)).unwrap().len() <= FILENAME_BYTES_MAX);
    }
}
