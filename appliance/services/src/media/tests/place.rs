//! Scenes with what a camera writes beside a picture.

use appliance_model::SessionClass;
use appliance_rules::policy::POLICY_TYPE;
use image::ImageFormat;
use serde_json::{Value, json};

use super::*;
use crate::media::capture::Capture;
use crate::media::clean::tests::{encoded, has_marker, jpeg_with_place};
use crate::media::film::tests::{film, tells_place};
use crate::media::upload::OCTET_STREAM;
use crate::scenario::event;

async fn room_with(ward: &Ward, who: &Caller, policy: Value) -> appliance_model::ruma::OwnedRoomId {
    let room = ward.room_of(&[who]).await;
    ward.state(who, &room, (POLICY_TYPE, ""), policy).await;
    room
}

fn files(ward: &Ward) -> usize {
    files_below(&ward.folder.path().join("media"))
}

async fn upload_as(ward: &Ward, who: &Caller, kind: &str, bytes: &[u8]) -> Result<String, Error> {
    ward.services.media.upload(who, of_type(kind), body(bytes)).await
}

/// The uploader's device gets what lies on the disk.
async fn kept(ward: &Ward, who: &Caller, uri: &str) -> Vec<u8> {
    let managed = Caller { class: SessionClass::Managed, ..who.clone() };
    ward.download(&managed, uri).await.unwrap()
}

async fn try_show(
    ward: &Ward,
    who: &Caller,
    room: &appliance_model::ruma::RoomId,
    uri: &str,
) -> Result<(), Error> {
    let content = json!({ "msgtype": "m.image", "body": "leg.jpg", "url": uri });
    let txn_id = format!("show-{}", id(uri));
    let request = event(room, ("m.room.message", &txn_id), content);
    ward.services.rooms.send_event(who, &request).await.map(drop)
}

#[tokio::test]
async fn a_photo_for_a_clinical_room_lies_here_without_its_place_and_upright() {
    let (ward, [nurse, porter]) = Ward::with_members(["nurse", "porter"]).await;
    let room = room_with(&ward, &nurse, json!({ "class": "clinical-photo" })).await;
    let source = jpeg_with_place(6);
    assert!(has_marker(&source));
    let uri = upload_as(&ward, &nurse, "image/jpeg", &source).await.unwrap();
    try_show(&ward, &nurse, &room, &uri).await.unwrap();
    let bytes = kept(&ward, &nurse, &uri).await;
    assert!(!has_marker(&bytes));
    let picture = image::load_from_memory(&bytes).unwrap();
    assert_eq!((picture.width(), picture.height()), (40, 80), "as it was meant to be seen");
    assert_eq!(ward.find(&uri).await.unwrap().bytes(), bytes.len() as u64);
    // Nothing of the first file is left, and its bytes are not counted.
    assert_eq!(files(&ward), 1);
    let other_name = upload_as(&ward, &nurse, OCTET_STREAM, &source).await.unwrap();
    assert!(!has_marker(&kept(&ward, &nurse, &other_name).await), "whatever it is called");
    assert_eq!(files(&ward), 2);

    let everyday = upload_as(&ward, &porter, "image/jpeg", &source).await.unwrap();
    assert_eq!(kept(&ward, &porter, &everyday).await, source, "no policy asks for it");
}

#[tokio::test]
async fn the_same_photo_with_and_without_its_place_is_the_same_photo() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let policy = json!({ "class": "clinical-photo", "media": { "ttl_ms": 60_000 } });
    let room = room_with(&ward, &nurse, policy).await;
    let uri = upload_as(&ward, &nurse, "image/jpeg", &jpeg_with_place(1)).await.unwrap();
    try_show(&ward, &nurse, &room, &uri).await.unwrap();
    ward.clock.pass_ms(60_000);
    let again = upload_as(&ward, &nurse, "image/jpeg", &encoded(ImageFormat::Jpeg)).await;
    assert_eq!(kind(again), Kind::Forbidden, "its time is over");
}

#[tokio::test]
async fn what_was_sent_before_or_cannot_be_cleaned_is_not_shown_in_a_clinical_room() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let early = upload_as(&ward, &nurse, "image/jpeg", &jpeg_with_place(1)).await.unwrap();
    let room = room_with(&ward, &nurse, json!({ "class": "clinical-photo" })).await;
    let refused = try_show(&ward, &nurse, &room, &early).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    assert!(refused.message.contains("Send the photo again"), "{refused}");

    let broken = &jpeg_with_place(1)[..200];
    let refused = upload_as(&ward, &nurse, "image/jpeg", broken).await.unwrap_err();
    assert_eq!(refused.kind, Kind::InvalidParam, "{refused}");
    // What an iPhone writes if nobody asks for JPEG.
    let heic = [&b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"[..], &[0; 500]].concat();
    assert_eq!(kind(upload_as(&ward, &nurse, "image/heic", &heic).await), Kind::InvalidParam);
    assert_eq!(files(&ward), 1, "only what was there before");
    // Encrypted bytes may begin like a picture by chance: they are kept, and shown as no picture.
    let chance = [&b"\xff\xd8\xff\xe0"[..], &[7; 500]].concat();
    let uri = upload_as(&ward, &nurse, OCTET_STREAM, &chance).await.unwrap();
    assert_eq!(kept(&ward, &nurse, &uri).await, chance);
    assert_eq!(kind(try_show(&ward, &nurse, &room, &uri).await), Kind::Forbidden);
}

#[tokio::test]
async fn a_house_can_want_it_of_all_pictures() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let pack = json!({ "server": { "device": { "strip_metadata": true } } });
    ward.services.policy.set(&pack, "root").await.unwrap();
    let uri = upload_as(&ward, &nurse, "image/jpeg", &jpeg_with_place(1)).await.unwrap();
    let bytes = kept(&ward, &nurse, &uri).await;
    assert_eq!(image::load_from_memory(&bytes).unwrap().width(), 80);
    assert!(!has_marker(&bytes));
    let text = upload_as(&ward, &nurse, "text/plain", b"Bed 4").await.unwrap();
    assert_eq!(kept(&ward, &nurse, &text).await, b"Bed 4");
}

#[tokio::test]
async fn a_photo_that_is_sent_twice_or_refused_leaves_no_file_that_nothing_shows() {
    let (ward, [nurse, visitor]) = Ward::with_members(["nurse", "visitor"]).await;
    let room = ward.room_of(&[&nurse, &visitor]).await;
    let taken = Capture {
        room_id: room.clone(),
        txn_id: "t1".to_owned(),
        has_consent: true,
        reference: None,
        picture: jpeg_with_place(1).into(),
    };
    let media = &ward.services.media;
    let sent = media.capture(&nurse, taken.clone()).await.unwrap();
    assert_eq!(media.capture(&nurse, taken.clone()).await.unwrap(), sent, "the answer was lost");
    assert_eq!(files(&ward), 1);
    // Both were under way when the first was sent.
    let both = Capture { txn_id: "t2".to_owned(), ..taken.clone() };
    let (one, other) =
        tokio::join!(media.capture(&nurse, both.clone()), media.capture(&nurse, both));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(files(&ward), 2);

    let levels = json!({ "users": { nurse.user_id.as_str(): 100 }, "events_default": 50 });
    ward.state(&nurse, &room, ("m.room.power_levels", ""), levels).await;
    assert_eq!(kind(media.capture(&visitor, taken).await), Kind::Forbidden);
    assert_eq!(files(&ward), 2, "what was refused is gone");
}

/// From a film that this server cannot take apart nothing is taken out: such films come from devices that the
/// hospital looks after, whose cameras it can forbid to write it.
#[tokio::test]
async fn films_for_a_clinical_room_come_from_managed_devices_only() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let film = [&b"\0\0\0\x18ftypisom\0\0\0\0isommp42"[..], &[0; 500]].concat();
    let early = upload_as(&ward, &nurse, OCTET_STREAM, &film).await.unwrap();
    let room = room_with(&ward, &nurse, json!({ "class": "clinical-photo" })).await;
    let uri = upload_as(&ward, &nurse, "video/mp4", &film).await.unwrap();
    for uri in [&early, &uri] {
        let refused = try_show(&ward, &nurse, &room, uri).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden);
        assert!(refused.message.contains("films"), "{refused}");
    }
    let voice = upload_as(&ward, &nurse, "audio/mp4", &film).await.unwrap();
    try_show(&ward, &nurse, &room, &voice).await.unwrap();
    let everyday = ward.room(&nurse).await;
    try_show(&ward, &nurse, &everyday, &early).await.unwrap();

    let code = ward
        .services
        .accounts
        .make_enrolment_code(SessionClass::Managed, Some(&nurse.user_id), 60_000, "root")
        .await
        .unwrap();
    ward.services.accounts.enrol(&nurse, &nurse.device_id, &code).await.unwrap();
    try_show(&ward, &nurse, &room, &uri).await.unwrap();
}

/// What a phone writes into a film is taken out at the door, from the first byte that stays on.
#[tokio::test]
async fn a_film_for_a_clinical_room_lies_here_without_its_place() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let film = film();
    let early = upload_as(&ward, &nurse, "video/mp4", &film).await.unwrap();
    let room = room_with(&ward, &nurse, json!({ "class": "clinical-photo" })).await;
    let refused = try_show(&ward, &nurse, &room, &early).await.unwrap_err();
    assert!(refused.message.contains("again"), "{refused}");
    for content_type in ["video/mp4", "video/quicktime", OCTET_STREAM] {
        let uri = upload_as(&ward, &nurse, content_type, &film).await.unwrap();
        try_show(&ward, &nurse, &room, &uri).await.unwrap();
        let bytes = kept(&ward, &nurse, &uri).await;
        assert_eq!((bytes.len(), tells_place(&bytes)), (film.len(), false), "{content_type}");
    }
    assert!(tells_place(&film));
    assert_eq!(files(&ward), 4, "of what was uploaded with its place, nothing stays");

    // What a phone's gallery holds stays refused where only the camera page's photos are taken.
    let device = json!({ "upload_from_unmanaged": "capture-page-only", "strip_metadata": true });
    let strict = room_with(&ward, &nurse, json!({ "device": device })).await;
    let uri = upload_as(&ward, &nurse, "video/mp4", &film).await.unwrap();
    let refused = try_show(&ward, &nurse, &strict, &uri).await.unwrap_err();
    assert!(refused.message.contains("camera page"), "{refused}");
}
