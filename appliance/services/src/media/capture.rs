//! The camera of the photo page: a picture goes straight from a browser's camera into a room, and
//! lies in nobody's gallery. What leaves is the picture alone: upright, encoded anew, without the
//! EXIF and GPS data that a camera writes beside it.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::MEDIA_LINKS;
use appliance_ledger::rows::media::LinkRow;
use appliance_model::ruma::api::client::message::send_message_event::v3::Request;
use appliance_model::ruma::events::{AnyMessageLikeEventContent, MessageLikeEventType};
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{OwnedEventId, OwnedRoomId, RoomId, TransactionId};
use appliance_model::{Caller, Error, Kind, MediaNid};
use appliance_rules::policy::Field;
use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use serde_json::json;

use super::upload::NewFile;
use super::{Media, row_of, stamp, thumbnail};
use crate::policy::of_room;

/// What a browser's camera delivers, and more than a screen shows.
const SIDE_PIXELS_MAX: u32 = 4_096;
/// A wound is judged by its colours: finer than thumbnails.
const JPEG_QUALITY: u8 = 92;
/// A photo before it is encoded anew, in bytes: it is held in memory.
pub const PHOTO_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What fits into a line of a record: numbers of patients and cases are shorter.
pub const REFERENCE_CHARS_MAX: usize = 64;

/// What a room's policy wants to be told with a photo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CameraRules {
    /// That the patient agreed.
    pub needs_consent: bool,
    /// Whose photo it is.
    pub needs_reference: bool,
}

/// A photo that was just taken.
#[derive(Clone, Debug)]
pub struct Capture {
    /// For which room.
    pub room_id: OwnedRoomId,
    /// Repeating it sends once.
    pub txn_id: String,
    /// The patient agreed.
    pub has_consent: bool,
    /// Whose photo it is, as the hospital writes it.
    pub reference: Option<String>,
    /// The picture: JPEG, PNG, GIF or WebP.
    pub picture: Bytes,
}

impl Media {
    /// What must be told with a photo for a room.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: no such room.
    /// * [`Kind::Forbidden`]: the caller is not in the room, or it is encrypted: only an app has the
    ///   keys to write there.
    pub async fn camera_rules(
        &self,
        caller: &Caller,
        room_id: &RoomId,
    ) -> Result<CameraRules, Error> {
        let summary = self.0.rooms.face_for(Some(caller), room_id, &[]).await?;
        if summary.membership.as_deref() != Some("join") {
            return Err(Error::forbidden("You are not in this room."));
        }
        if summary.face.encryption.is_some() {
            return Err(Error::forbidden(
                "This room is encrypted from app to app: the camera page cannot send there.",
            ));
        }
        let (room, _) = self.0.rooms.known(room_id).await?;
        let of_room = of_room(&self.0.rooms, room).await?;
        let policy = self.0.house.policy_in(Some(caller.role), of_room.as_ref());
        let is_required = |field| policy.get(field).is_some_and(|value| value > 0);
        Ok(CameraRules {
            needs_consent: is_required(Field::CameraConsent),
            needs_reference: is_required(Field::CameraReference),
        })
    }

    /// Sends a photo to a room; returns when it would survive a power cut.
    ///
    /// # Errors
    ///
    /// * As [`Media::camera_rules`], [`Media::upload`] and
    ///   [`crate::rooms::Rooms::send_event`].
    /// * [`Kind::MissingParam`]: the room's policy wants consent or a reference.
    /// * [`Kind::InvalidParam`]: the reference is too long, or the body is no picture.
    pub async fn capture(&self, caller: &Caller, taken: Capture) -> Result<OwnedEventId, Error> {
        let rules = self.camera_rules(caller, &taken.room_id).await?;
        let reference = taken.reference.as_deref().map(str::trim).filter(|text| !text.is_empty());
        check_told(rules, taken.has_consent, reference)?;
        let txn_id = <&TransactionId>::from(taken.txn_id.as_str()).to_owned();
        let kind = MessageLikeEventType::RoomMessage;
        // A page that lost the answer asks again: nothing is kept twice.
        let sent = self.0.rooms.sent_before(caller, (&taken.room_id, &kind), &txn_id).await?;
        if let Some(event_id) = sent {
            return Ok(event_id);
        }
        let (picture, width, height) = self.encoded_anew(taken.picture).await?;
        let file = NewFile {
            content_type: Some("image/jpeg".to_owned()),
            filename: Some("photo.jpg".to_owned()),
            announced_bytes: Some(picture.len() as u64),
            is_captured: true,
        };
        let body = futures_util::stream::iter([Ok::<_, Error>(picture)]);
        let uri = self.upload(caller, file, body).await?;
        let mut capture = json!({ "consent": taken.has_consent });
        if let Some(reference) = reference {
            capture["patient_reference"] = reference.into();
        }
        // Without `size`: some apps keep on disk what they know the size of.
        let content = json!({
            "msgtype": "m.image",
            "body": "photo.jpg",
            "url": uri,
            "info": { "mimetype": "image/jpeg", "w": width, "h": height },
            "io.wardstone.capture": capture,
        });
        let content = Raw::<AnyMessageLikeEventContent>::from_json_string(content.to_string());
        let content = content.map_err(Error::internal)?;
        let request = Request::new_raw(taken.room_id, txn_id, kind, content);
        let sent = self.0.rooms.send_event(caller, &request).await;
        if let Err(error) = self.drop_unshown(&uri).await {
            tracing::warn!(kind = "media.unshown", %error,
                "a photo that nothing shows stays until its deadline");
        }
        sent
    }

    /// Erases a photo that was refused, or is a repetition that came while the first was under way:
    /// no event shows it, and none will.
    async fn drop_unshown(&self, uri: &str) -> Result<(), Error> {
        let media_id = uri.rsplit('/').next().unwrap_or_default();
        let Some((number, _)) = row_of(&self.0.house, media_id).await? else { return Ok(()) };
        type Link = ((MediaNid, u8, u64, u64), LinkRow);
        let view = self.ledger().newest();
        let (links, _): (Vec<Link>, _) =
            view.scan(&MEDIA_LINKS, &number, Direction::Forward, 1).await?;
        if links.is_empty() {
            self.purge(&[number], Some("unshown")).await?;
        }
        Ok(())
    }

    /// The picture alone, and its size in pixels.
    async fn encoded_anew(&self, picture: Bytes) -> Result<(Bytes, u32, u32), Error> {
        if picture.len() > PHOTO_BYTES_MAX {
            return Err(Error::too_large(format!(
                "The photo is larger than {PHOTO_BYTES_MAX} bytes."
            )));
        }
        let pixels_max = self.options().pixels_max;
        let cleaned = self.in_the_pool(move || {
            let size = (SIDE_PIXELS_MAX, SIDE_PIXELS_MAX, false);
            let upright = thumbnail::upright(&picture, size, pixels_max)?;
            let canvas = stamp::on_white(upright);
            let mut out = Vec::new();
            canvas
                .write_with_encoder(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY))
                .map_err(Error::internal)?;
            Ok((Bytes::from(out), canvas.width(), canvas.height()))
        });
        cleaned.await.map_err(|error| match error.kind {
            Kind::CannotThumbnail => Error::invalid_param("The body is no picture."),
            _ => error,
        })
    }
}

fn check_told(rules: CameraRules, has_consent: bool, reference: Option<&str>) -> Result<(), Error> {
    if rules.needs_consent && !has_consent {
        let why = "This room takes photos only with the patient's consent. Tick it.";
        return Err(Error::new(Kind::MissingParam, why));
    }
    if rules.needs_reference && reference.is_none() {
        let why = "This room takes photos only with the patient's number. Enter it.";
        return Err(Error::new(Kind::MissingParam, why));
    }
    let is_sane = |text: &str| {
        text.chars().count() <= REFERENCE_CHARS_MAX && !text.chars().any(char::is_control)
    };
    if reference.is_some_and(|text| !is_sane(text)) {
        return Err(Error::invalid_param(format!(
            "The patient's number has at most {REFERENCE_CHARS_MAX} letters."
        )));
    }
    Ok(())
}
