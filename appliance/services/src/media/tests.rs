//! Scenes with files.

mod crash;
mod lifetime;
mod limits;
mod notices;
mod place;
mod policy;
mod redact;
mod remote;

use std::convert::Infallible;
use std::path::Path;

use appliance_model::{Caller, Kind};
use bytes::Bytes;
use futures_util::stream;

pub(crate) use super::film::tests::film;
use super::serve::{Delivery, Found};
use super::upload::NewFile;
use super::*;
use crate::scenario::{SERVER, Ward};

const DAY_MS: u64 = 86_400_000;

fn body(bytes: &[u8]) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Unpin {
    let parts: Vec<_> = bytes.chunks(10_000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    stream::iter(parts)
}

fn of_type(content_type: &str) -> NewFile {
    NewFile { content_type: Some(content_type.to_owned()), ..NewFile::default() }
}

/// The file in an answer in parts that comes in pieces of so many bytes; none if it has no form.
pub(crate) async fn read_parts(answer: &[u8], piece_bytes: usize) -> Option<Vec<u8>> {
    let pieces: Vec<_> =
        answer.chunks(piece_bytes).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let content_type = "multipart/mixed; boundary=x";
    let parts = super::multipart::Multipart::new(content_type, Box::pin(stream::iter(pieces)));
    let mut file = parts.unwrap().file().await.ok()?.body;
    let mut whole = Vec::new();
    while let Some(piece) = stream::StreamExt::next(&mut file).await {
        whole.extend_from_slice(&piece.ok()?);
    }
    Some(whole)
}

/// The renderings that can be made of some bytes, still and moving.
pub(crate) fn try_renderings(source: &[u8], pixels_max: u64) -> Vec<Bytes> {
    let _ = kind::of_bytes(source);
    if let Ok(Some(cleaned)) = clean::clean(&Bytes::copy_from_slice(source), pixels_max) {
        assert!(clean::clean(&cleaned, pixels_max).is_ok(), "what is clean can be read");
    }
    if let Some(cleaned) = super::film::tests::cleaned(source) {
        assert_eq!(super::film::tests::cleaned(&cleaned), Some(cleaned), "what is clean stays so");
    }
    let mut made = Vec::new();
    for size in [thumbnail::SIZES[1], thumbnail::SIZES[4]] {
        made.extend(thumbnail::render(source, size, pixels_max).ok());
        made.extend(animate::animated(source, size, pixels_max).ok().flatten());
    }
    made
}

/// The checksum of a chunk of a PNG.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The ID at the end of an `mxc://` URI.
fn id(uri: &str) -> &str {
    uri.rsplit('/').next().unwrap()
}

impl Ward {
    async fn upload(&self, who: &Caller, bytes: &[u8]) -> String {
        self.services.media.upload(who, of_type("image/jpeg"), body(bytes)).await.unwrap()
    }

    async fn find(&self, uri: &str) -> Result<Found, Error> {
        self.services.media.find(SERVER, id(uri), 0).await
    }

    async fn deliver(&self, who: &Caller, uri: &str) -> Result<Delivery, Error> {
        let found = self.find(uri).await?;
        let opened = self.services.media.open(who, &found, (0, found.bytes())).await?;
        Ok(opened.original().expect("the policy has the original for them"))
    }

    async fn download(&self, who: &Caller, uri: &str) -> Result<Vec<u8>, Error> {
        let mut delivery = self.deliver(who, uri).await?;
        let mut whole = Vec::new();
        while let Some(chunk) = delivery.next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }
}

fn kind<T>(result: Result<T, Error>) -> Kind {
    result.err().expect("it must be refused").kind
}

#[tokio::test]
async fn what_was_answered_survives_a_power_cut() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let photo = vec![7; 200_000];
    let uri = ward.upload(&nurse, &photo).await;
    let ward = ward.power_cut_and_restart().await;
    assert_eq!(ward.download(&doctor, &uri).await.unwrap(), photo);
    let found = ward.find(&uri).await.unwrap();
    assert_eq!((found.content_type(), found.bytes()), ("image/jpeg", 200_000));
    let part = ward.services.media.open(&doctor, &found, (65_530, 65_540)).await;
    assert_eq!(part.unwrap().original().unwrap().next().await.unwrap().unwrap(), vec![7; 6]);
}

#[tokio::test]
async fn from_the_deadline_on_nobody_gets_a_byte() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let uri = ward.upload(&nurse, &vec![7; 300_000]).await;
    let mut running = ward.deliver(&nurse, &uri).await.unwrap();
    ward.clock.pass_ms(7 * DAY_MS - 1);
    assert!(ward.download(&nurse, &uri).await.is_ok(), "a millisecond before");
    running.next().await.unwrap().unwrap();

    ward.clock.pass_ms(1);
    assert_eq!(kind(running.next().await), Kind::NotFound, "in the middle of a download");
    assert_eq!(kind(ward.download(&nurse, &uri).await), Kind::NotFound);
    ward.clock.go_back_ms(DAY_MS);
    assert_eq!(kind(ward.download(&nurse, &uri).await), Kind::NotFound, "the clock was set back");
}

#[tokio::test]
async fn a_delivery_is_in_the_audit_trail_once_for_each_device() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let uri = ward.upload(&nurse, b"photo").await;
    for who in [&doctor, &doctor, &nurse] {
        ward.download(who, &uri).await.unwrap();
    }
    let audit = ward.audit().await;
    let delivered: Vec<_> =
        audit.iter().filter(|line| line.starts_with("media.delivered")).collect();
    let of = |who: &Caller| format!("media.delivered {} {}", who.user_id, who.device_id);
    assert_eq!(delivered, [&of(&doctor), &of(&nurse)]);
}

#[tokio::test]
async fn too_much_is_noticed_while_reading_and_leaves_nothing() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let media = &ward.services.media;
    let announced = NewFile { announced_bytes: Some(1 << 40), ..NewFile::default() };
    assert_eq!(kind(media.upload(&nurse, announced, body(b"x")).await), Kind::TooLarge);

    // A stream that never ends: it must be the limit that ends it.
    let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[0; 65_536])));
    let refused = media.upload(&nurse, NewFile::default(), Box::pin(endless)).await;
    assert_eq!(kind(refused), Kind::TooLarge);
    let short = NewFile { announced_bytes: Some(5), ..NewFile::default() };
    assert_eq!(kind(media.upload(&nurse, short, body(b"four")).await), Kind::InvalidParam);
    let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err("the phone hung up")]);
    let refused = media.upload(&nurse, NewFile::default(), broken).await;
    assert_eq!(kind(refused), Kind::InvalidParam);
    assert_eq!(files_below(&ward.folder.path().join("media")), 0);
}

#[tokio::test]
async fn a_reserved_id_is_filled_once_by_its_owner_in_time() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let media = &ward.services.media;
    let reserved = media.create(&nurse).await.unwrap();
    let uri = reserved.content_uri.as_str();
    let fill = |who, bytes| media.fill(who, (SERVER, id(uri)), NewFile::default(), body(bytes));

    assert_eq!(kind(ward.find(uri).await), Kind::NotYetUploaded);
    assert_eq!(kind(fill(&doctor, b"other").await), Kind::Forbidden);
    fill(&nurse, b"photo").await.unwrap();
    assert_eq!(kind(fill(&nurse, b"again").await), Kind::CannotOverwriteMedia);
    assert_eq!(ward.download(&doctor, uri).await.unwrap(), b"photo");

    let late = media.create(&nurse).await.unwrap().content_uri;
    ward.clock.pass_ms(DAY_MS);
    let refused = media.fill(&nurse, (SERVER, id(&late)), NewFile::default(), body(b"x")).await;
    assert_eq!(kind(refused), Kind::NotFound);
    assert_eq!(kind(ward.find(&late).await), Kind::NotFound);
    for unknown in [(SERVER, "never"), ("other.example", id(uri)), (SERVER, "../x")] {
        let refused = media.fill(&nurse, unknown, NewFile::default(), body(b"x")).await;
        assert_eq!(kind(refused), Kind::NotFound);
        assert_eq!(kind(media.find(unknown.0, unknown.1, 0).await), Kind::NotFound);
    }
}

#[tokio::test]
async fn of_two_uploads_to_one_id_the_first_to_arrive_is_the_file() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let media = &ward.services.media;
    let uri = media.create(&nurse).await.unwrap().content_uri;
    let place = (SERVER, id(&uri));
    let (one, two) = tokio::join!(
        media.fill(&nurse, place, NewFile::default(), body(b"photo")),
        media.fill(&nurse, place, NewFile::default(), body(b"photo")),
    );
    let failed: Vec<_> = [one, two].into_iter().filter_map(Result::err).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].kind, Kind::CannotOverwriteMedia);
    assert_eq!(files_below(&ward.folder.path().join("media")), 1);
    assert_eq!(ward.download(&nurse, &uri).await.unwrap(), b"photo");
}

#[tokio::test]
async fn who_waits_for_a_file_gets_it_when_it_arrives() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let media = &ward.services.media;
    let uri = media.create(&nurse).await.unwrap().content_uri;
    let waiting = media.find(SERVER, id(&uri), 60_000);
    let filling = async {
        tokio::task::yield_now().await;
        media.fill(&nurse, (SERVER, id(&uri)), NewFile::default(), body(b"photo")).await
    };
    let (found, filled) = tokio::join!(waiting, filling);
    filled.unwrap();
    assert_eq!(found.unwrap().bytes(), 5);
    assert_eq!(ward.download(&doctor, &uri).await.unwrap(), b"photo");
}

#[tokio::test]
async fn reservations_are_counted() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let media = &ward.services.media;
    for _ in 0..create::PENDING_PER_USER_MAX {
        media.create(&nurse).await.unwrap();
    }
    let Kind::Limited { retry_after_ms } = kind(media.create(&nurse).await) else {
        panic!("one too many")
    };
    assert_eq!(retry_after_ms, DAY_MS);
    media.create(&doctor).await.unwrap();
    ward.clock.pass_ms(DAY_MS);
    media.create(&nurse).await.unwrap();
}

/// The row was not written, so nobody was told and the file goes.
#[tokio::test]
async fn a_full_store_keeps_no_file() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    ward.engine().full();
    let refused = ward.services.media.upload(&nurse, NewFile::default(), body(b"photo")).await;
    assert_eq!(kind(refused), Kind::Unavailable);
    assert_eq!(files_below(&ward.folder.path().join("media")), 0);
    ward.engine().make_room();
    ward.upload(&nurse, b"photo").await;
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { files_below(&path) } else { 1 })
        .sum()
}
