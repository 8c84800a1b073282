//! Scenes in which a device does not get everything.

use appliance_model::SessionClass;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::{OwnedRoomId, RoomId};
use appliance_rules::policy::POLICY_TYPE;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use super::*;
use crate::media::capture::Capture;
use crate::media::copies::Left;
use crate::media::erase::Which;
use crate::media::serve::Opened;
use crate::media::thumbnail::{Thumbnail, Wanted};
use crate::media::upload::OCTET_STREAM;
use crate::scenario::state;

const MINUTE_MS: u64 = 60_000;

fn on(who: &Caller, class: SessionClass) -> Caller {
    Caller { class, ..who.clone() }
}

fn leg() -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(1_200, 900, Rgb([150, 60, 60]));
    picture.write_to(&mut png, ImageFormat::Png).unwrap();
    png.into_inner()
}

async fn room_with(ward: &Ward, people: &[&Caller], policy: Value) -> OwnedRoomId {
    let room = ward.room_of(people).await;
    ward.state(people[0], &room, (POLICY_TYPE, ""), policy).await;
    room
}

impl Ward {
    async fn photo(&self, who: &Caller, room: &RoomId, bytes: &[u8]) -> String {
        let new = of_type("image/png");
        let uri = self.services.media.upload(who, new, body(bytes)).await.unwrap();
        self.show(who, room, &uri).await;
        uri
    }

    async fn opened(&self, who: &Caller, uri: &str) -> Result<Opened, Error> {
        let found = self.find(uri).await?;
        self.services.media.open(who, &found, (0, 1)).await
    }

    async fn picture(&self, who: &Caller, uri: &str) -> Thumbnail {
        match self.opened(who, uri).await.unwrap() {
            Opened::Picture(picture) => picture,
            Opened::Original(_) => panic!("the original went to {:?}", who.class),
        }
    }

    async fn is_original(&self, who: &Caller, uri: &str) -> bool {
        matches!(self.opened(who, uri).await.unwrap(), Opened::Original(_))
    }
}

#[tokio::test]
async fn an_unmanaged_phone_gets_a_placeholder_on_every_path_and_a_managed_one_the_photo() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = room_with(&ward, &[&nurse, &doctor], json!({ "class": "clinical-photo" })).await;
    let bytes = leg();
    let uri = ward.photo(&nurse, &room, &bytes).await;
    assert_eq!(doctor.class, SessionClass::Unmanaged, "nobody said otherwise");
    for who in [&nurse, &doctor] {
        let made = ward.picture(who, &uri).await;
        assert_eq!(made.content_type, "image/png");
        let shown = image::load_from_memory(&made.bytes).unwrap().to_rgb8();
        assert!(!shown.pixels().any(|pixel| pixel.0 == [150, 60, 60]), "nothing of the photo");
        let found = ward.find(&uri).await.unwrap();
        let wanted = Wanted { width: 800, height: 600, crop: false, animated: false };
        let small = ward.services.media.thumbnail(who, &found, wanted).await.unwrap();
        assert_eq!(small.bytes, made.bytes);
    }
    let managed = on(&doctor, SessionClass::Managed);
    assert_eq!(ward.download(&managed, &uri).await.unwrap(), bytes);
    let bot = on(&doctor, SessionClass::Bot);
    assert_eq!(kind(ward.opened(&bot, &uri).await), Kind::Forbidden);
    let audit = ward.audit().await;
    let said = |start: &str| audit.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(said("media.refused @doctor"), 1);
    assert_eq!(said("media.delivered @doctor"), 2, "the placeholder, the photo");
}

#[tokio::test]
async fn a_marked_thumbnail_is_small_and_names_its_reader() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let policy = json!({ "class": "clinical-photo", "device": { "managed": "thumbnail" } });
    let room = room_with(&ward, &[&nurse, &doctor], policy).await;
    let uri = ward.photo(&nurse, &room, &leg()).await;
    let [one, other] = [&nurse, &doctor].map(|who| on(who, SessionClass::Managed));
    let (one, other) = (ward.picture(&one, &uri).await, ward.picture(&other, &uri).await);
    assert_ne!(one.bytes, other.bytes, "each with a name of its own");
    let shown = image::load_from_memory(&one.bytes).unwrap().to_rgb8();
    assert_eq!((shown.width(), shown.height()), (800, 600));
    let written = shown.pixels().filter(|pixel| pixel[0].abs_diff(150) > 40).count();
    assert!(written > 2_000, "{written}");
}

#[tokio::test]
async fn what_would_make_an_app_store_a_photo_is_not_passed_on() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    for (policy, stays) in [(json!({ "class": "clinical-photo" }), false), (json!({}), true)] {
        let room = room_with(&ward, &[&nurse], policy).await;
        let uri = ward.upload(&nurse, b"leg").await;
        let info = json!({ "size": 3, "w": 9, "thumbnail_info": { "size": 2, "h": 1 } });
        let content = json!({ "msgtype": "m.image", "body": "leg", "url": uri, "info": info });
        let event = ward.send(&nurse, &room, "m.room.message", content).await;
        let sent: Value = serde_json::from_str(event.content()).unwrap();
        assert_eq!(sent["info"]["size"].is_u64(), stays);
        assert_eq!(sent["info"]["thumbnail_info"]["size"].is_u64(), stays);
        assert_eq!(sent["info"]["w"], 9);
    }
}

#[tokio::test]
async fn what_is_encrypted_is_given_whole_or_not_at_all() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = room_with(&ward, &[&nurse, &doctor], json!({ "class": "clinical-e2ee" })).await;
    let sealed = of_type(OCTET_STREAM);
    let uri = ward.services.media.upload(&nurse, sealed, body(b"sealed")).await.unwrap();
    let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "…" });
    ward.send(&nurse, &room, "m.room.encrypted", content).await;
    assert_eq!(kind(ward.opened(&doctor, &uri).await), Kind::Forbidden);
    let managed = on(&doctor, SessionClass::Managed);
    assert_eq!(ward.download(&managed, &uri).await.unwrap(), b"sealed");
}

#[tokio::test]
async fn looks_are_counted_and_ranges_of_one_look_once() {
    let (ward, [nurse, doctor, registrar]) =
        Ward::with_members(["nurse", "doctor", "registrar"]).await;
    let policy = json!({ "media": { "max_opens": 3, "max_opens_per_user": 2 } });
    let room = room_with(&ward, &[&nurse, &doctor, &registrar], policy).await;
    let uri = ward.photo(&nurse, &room, &leg()).await;

    let (one, two, three) = tokio::join!(
        ward.opened(&doctor, &uri),
        ward.opened(&doctor, &uri),
        ward.opened(&doctor, &uri)
    );
    assert!(one.is_ok() && two.is_ok() && three.is_ok(), "one look in three parts");
    for _ in 0..5 {
        assert!(ward.is_original(&nurse, &uri).await, "the uploader's own looks do not count");
    }
    ward.clock.pass_ms(2 * MINUTE_MS);
    assert!(ward.is_original(&doctor, &uri).await, "the second look");
    ward.clock.pass_ms(2 * MINUTE_MS);
    assert_eq!(kind(ward.opened(&doctor, &uri).await), Kind::Forbidden, "a third is not allowed");

    let ward = ward.power_cut_and_restart().await;
    assert_eq!(kind(ward.opened(&doctor, &uri).await), Kind::Forbidden, "nor after a restart");
    assert!(ward.is_original(&registrar, &uri).await, "the last of all");
    ward.clock.pass_ms(2 * MINUTE_MS);
    assert_eq!(kind(ward.opened(&registrar, &uri).await), Kind::Forbidden, "all are used up");
}

#[tokio::test]
async fn the_first_look_starts_the_clock_and_the_cap_stays() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let policy = json!({ "media": { "ttl_ms": 10 * MINUTE_MS, "ttl_from": "first_open" } });
    let room = room_with(&ward, &[&nurse, &doctor], policy).await;
    let uri = ward.photo(&nurse, &room, &leg()).await;
    let unseen = ward.photo(&nurse, &room, b"nobody looks").await;
    ward.clock.pass_ms(DAY_MS);
    ward.opened(&nurse, &uri).await.unwrap();
    ward.opened(&doctor, &uri).await.unwrap();
    ward.clock.pass_ms(10 * MINUTE_MS - 1);
    ward.opened(&doctor, &uri).await.unwrap();
    ward.clock.pass_ms(1);
    assert_eq!(kind(ward.opened(&doctor, &uri).await), Kind::NotFound, "ten minutes after");
    assert!(ward.find(&unseen).await.is_ok());
    ward.clock.pass_ms(6 * DAY_MS);
    assert!(ward.find(&unseen).await.is_err(), "unseen, it ends with the server's own limit");
    assert_eq!(ward.look().await.erased, 2);
}

#[tokio::test]
async fn the_same_bytes_sent_again_end_with_the_first() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let policy = json!({ "class": "clinical-photo", "media": { "ttl_ms": 60 * MINUTE_MS } });
    let room = room_with(&ward, &[&nurse, &doctor], policy).await;
    let first = ward.photo(&nurse, &room, b"a leg").await;
    ward.clock.pass_ms(59 * MINUTE_MS);
    let again = ward.upload(&doctor, b"a leg").await;
    let another = ward.upload(&doctor, b"an arm").await;
    ward.clock.pass_ms(MINUTE_MS);
    assert_eq!(kind(ward.find(&first).await), Kind::NotFound);
    assert_eq!(kind(ward.find(&again).await), Kind::NotFound);
    assert!(ward.find(&another).await.is_ok());
    let refused = ward.services.media.upload(&doctor, of_type("image/png"), body(b"a leg")).await;
    assert_eq!(kind(refused), Kind::Forbidden, "too late for another round");
}

#[tokio::test]
async fn a_message_may_ask_for_less_and_never_for_more() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room =
        room_with(&ward, &[&nurse, &doctor], json!({ "media": { "ttl_ms": 3_600_000 } })).await;
    let mut uris = Vec::new();
    for ttl_ms in [MINUTE_MS, 30 * DAY_MS] {
        let uri = ward.upload(&nurse, ttl_ms.to_string().as_bytes()).await;
        let hint = json!({ "media": { "ttl_ms": ttl_ms, "max_opens_per_user": 1 } });
        let content = json!({ "msgtype": "m.image", "body": "x", "url": uri, POLICY_TYPE: hint });
        ward.send(&nurse, &room, "m.room.message", content).await;
        uris.push(uri);
    }
    ward.clock.pass_ms(MINUTE_MS);
    assert_eq!(kind(ward.find(&uris[0]).await), Kind::NotFound);
    ward.opened(&doctor, &uris[1]).await.unwrap();
    ward.clock.pass_ms(5 * MINUTE_MS);
    assert_eq!(
        kind(ward.opened(&doctor, &uris[1]).await),
        Kind::Forbidden,
        "one look was asked for"
    );
    ward.clock.pass_ms(60 * MINUTE_MS);
    assert_eq!(kind(ward.find(&uris[1]).await), Kind::NotFound, "the room's hour");
}

#[tokio::test]
async fn a_room_may_take_photos_from_managed_devices_only() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let policy = json!({ "device": { "upload_from_unmanaged": "deny" } });
    let room = room_with(&ward, &[&nurse], policy).await;
    let uri = ward.upload(&nurse, b"from the gallery").await;
    let content = json!({ "msgtype": "m.image", "body": "leg", "url": uri });
    let request = crate::scenario::event(&room, ("m.room.message", "t1"), content.clone());
    let refused = ward.services.rooms.send_event(&nurse, &request).await;
    assert_eq!(kind(refused), Kind::Forbidden);

    let accounts = &ward.services.accounts;
    let code = accounts
        .make_enrolment_code(SessionClass::Managed, Some(&nurse.user_id), MINUTE_MS, "root")
        .await
        .unwrap();
    accounts.enrol(&nurse, &nurse.device_id, &code).await.unwrap();
    ward.services.rooms.send_event(&nurse, &request).await.unwrap();
}

/// The strict pack: what lies in a private gallery does not even come in, for whatever room.
#[tokio::test]
async fn a_house_that_takes_pictures_from_its_camera_page_only_does_so_at_the_door() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room_of(&[&nurse]).await;
    let pack = json!({ "server": { "device": { "upload_from_unmanaged": "capture-page-only" } } });
    ward.services.policy.set(&pack, "root").await.unwrap();
    let media = &ward.services.media;
    let upload =
        async |kind: &str, bytes: &[u8]| media.upload(&nurse, of_type(kind), body(bytes)).await;
    let refused = upload("image/png", &leg()).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    assert!(refused.message.contains("camera page"), "{refused}");
    assert_eq!(kind(upload("text/plain", &leg()).await), Kind::Forbidden, "whatever it is called");
    assert_eq!(files_below(&ward.folder.path().join("media")), 0, "nothing of it stays");
    upload("text/plain", b"Bed 4").await.unwrap();
    let sealed = upload(OCTET_STREAM, &leg()).await.unwrap();
    let content = json!({ "msgtype": "m.image", "body": "leg", "url": sealed });
    let request = crate::scenario::event(&room, ("m.room.message", "t1"), content);
    assert_eq!(kind(ward.services.rooms.send_event(&nurse, &request).await), Kind::Forbidden);
    let taken = Capture {
        room_id: room.clone(),
        txn_id: "t2".to_owned(),
        has_consent: true,
        reference: None,
        picture: leg().into(),
    };
    media.capture(&nurse, taken).await.unwrap();
}

#[tokio::test]
async fn a_policy_is_kept_as_written_and_what_it_asks_in_vain_is_on_record() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let set = async |content: Value| {
        let request = state(&room, (POLICY_TYPE, ""), content);
        ward.services.rooms.send_state(&nurse, &request).await
    };
    assert_eq!(kind(set(json!({ "device": { "unmanaged": "blur" } })).await), Kind::BadJson);
    set(json!({ "media": { "ttl_ms": 30 * DAY_MS }, "federation": { "other": "allow" } }))
        .await
        .unwrap();
    assert!(ward.audit().await.contains(&format!("policy.looser_ignored {}", nurse.user_id)));
    set(json!({ "class": "clinical-photo" })).await.unwrap();
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let request = state(&room, ("m.room.encryption", ""), encryption.clone());
    let refused = ward.services.rooms.send_state(&nurse, &request).await;
    assert_eq!(kind(refused), Kind::Forbidden, "the server must be able to read there");
    set(json!({ "class": "clinical-e2ee" })).await.unwrap();
    ward.services.rooms.send_state(&nurse, &request).await.unwrap();
    assert_eq!(kind(set(json!({ "class": "clinical-photo" })).await), Kind::BadJson);
}

#[tokio::test]
async fn the_ledger_of_copies_says_what_may_be_left_and_where() {
    let (ward, [nurse, doctor, registrar]) =
        Ward::with_members(["nurse", "doctor", "registrar"]).await;
    let policy = json!({ "class": "clinical-photo" });
    let room = room_with(&ward, &[&nurse, &doctor, &registrar], policy).await;
    let uri = ward.photo(&nurse, &room, &leg()).await;
    let other = ward.photo(&nurse, &room, b"another").await;
    let [doctor, registrar] = [&doctor, &registrar].map(|who| on(who, SessionClass::Managed));
    ward.opened(&doctor, &uri).await.unwrap();
    ward.opened(&registrar, &uri).await.unwrap();
    ward.opened(&nurse, &uri).await.unwrap();
    let (media, accounts) = (&ward.services.media, &ward.services.accounts);
    let left = async |who: &Caller| {
        let found = media.whereabouts(id(&uri)).await.unwrap();
        let copy = found.copies.into_iter().find(|copy| copy.user_id == who.user_id);
        copy.map(|copy| (copy.left, copy.forms))
    };
    assert_eq!(left(&doctor).await, Some((Left::MayHold, vec!["original"])));
    assert_eq!(left(&nurse).await, Some((Left::Nothing, vec!["placeholder"])));

    ward.clock.pass_ms(DAY_MS);
    ward.look().await;
    assert_eq!(left(&doctor).await.unwrap().0, Left::Unknown, "it has not been here since");
    accounts.note_synced(&doctor, ward.services.house.ledger.position().0);
    assert_eq!(left(&doctor).await.unwrap().0, Left::Told);
    accounts.write_last_seen().await.unwrap();
    let lost = accounts.device_lost(&registrar.user_id, registrar.device_id.as_str(), "root").await;
    assert_eq!(lost.unwrap().0, registrar.device);
    assert_eq!(left(&registrar).await.unwrap().0, Left::SessionEnded);
    assert!(accounts.authenticate("gone").await.is_err());

    let ward = ward.power_cut_and_restart().await;
    let media = &ward.services.media;
    let found = media.whereabouts(id(&uri)).await.unwrap();
    let erasure = found.erasure.unwrap();
    assert_eq!((erasure.reason.as_str(), erasure.erased_ms.is_some()), ("expired", true));
    assert!(erasure.content.is_some_and(|digest| digest.len() == 16));
    let told = found.copies.iter().find(|copy| copy.user_id == doctor.user_id).unwrap();
    assert_eq!(told.left, Left::Told, "that is remembered too");
    assert_eq!(media.whereabouts(id(&other)).await.unwrap().copies.len(), 0);
    assert_eq!(kind(media.whereabouts("never-there").await), Kind::NotFound);
}

#[tokio::test]
async fn many_files_are_erased_as_one_act_with_a_receipt() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let elsewhere = ward.room_of(&[&nurse]).await;
    let early = ward.photo(&nurse, &room, b"early").await;
    ward.clock.pass_ms(MINUTE_MS);
    let now_ms = ward.services.house.clock.now_ms();
    let late = ward.photo(&nurse, &room, b"late").await;
    let other = ward.photo(&nurse, &elsewhere, b"other").await;
    let by_doctor = ward.upload(&doctor, b"doctor's").await;
    let event = ward.show(&doctor, &room, &by_doctor).await;
    let media = &ward.services.media;
    assert_eq!(kind(media.erase(&Which::default(), "root").await), Kind::InvalidParam);

    let wrong_patient = Which { event: Some(event.event_id.clone()), ..Which::default() };
    let receipt = media.erase(&wrong_patient, "root").await.unwrap();
    assert_eq!(receipt.uris, [by_doctor.as_str()]);
    assert_eq!(kind(ward.find(&by_doctor).await), Kind::NotFound, "at once");
    let (purging, more) = media.purging().await.unwrap();
    assert_eq!((purging[0].uri.as_str(), purging.len(), more), (by_doctor.as_str(), 1, false));
    let report = ward.look().await;
    assert_eq!((report.erased, report.redacted), (1, 1));
    assert!(media.purging().await.unwrap().0.is_empty());

    let (room, user) = (Some(room), Some(nurse.user_id.clone()));
    let since = Which { room, user, since_ms: Some(now_ms), ..Which::default() };
    assert_eq!(media.erase(&since, "root").await.unwrap().uris, [late.as_str()]);
    let all = Which { user: Some(nurse.user_id.clone()), ..Which::default() };
    assert_eq!(media.erase(&all, "root").await.unwrap().uris, [early.as_str(), &other]);
    let audit = ward.audit().await;
    assert_eq!(audit.iter().filter(|line| *line == "media.erased_in_bulk root").count(), 3);
}

#[tokio::test]
async fn what_somebody_would_get_of_one_photo_is_explained_and_not_counted() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let policy = json!({ "class": "clinical-photo", "media": { "max_opens_per_user": 1 } });
    let room = room_with(&ward, &[&nurse, &doctor], policy).await;
    let uri = ward.photo(&nurse, &room, &leg()).await;
    let media = &ward.services.media;
    let explain = async |who: &Caller, class| {
        media.explain(id(&uri), (Some(&who.user_id), class)).await.unwrap()
    };
    let managed = explain(&doctor, SessionClass::Managed).await;
    assert_eq!(managed["verdicts"]["download"], "original", "{managed}");
    let private = explain(&doctor, SessionClass::Unmanaged).await;
    assert_eq!(private["verdicts"]["thumbnail"], "placeholder", "{private}");
    assert_eq!(private["rules"]["media.max_opens_per_user"]["by"], "room", "{private}");
    assert_eq!((&managed["opens"], &managed["is_uploader"]), (&json!(0), &json!(false)));

    ward.opened(&on(&doctor, SessionClass::Managed), &uri).await.unwrap();
    ward.clock.pass_ms(2 * MINUTE_MS);
    let used_up = explain(&doctor, SessionClass::Managed).await;
    let verdict = used_up["verdicts"]["download"].as_str().unwrap();
    assert!(verdict.contains("as often as its room allows"), "{used_up}");
    assert_eq!(used_up["opens_of_user"], 1);
    assert_eq!(explain(&nurse, SessionClass::Managed).await["verdicts"]["download"], "original");
    ward.clock.pass_ms(7 * DAY_MS);
    assert_eq!(kind(media.explain(id(&uri), (None, SessionClass::Bot)).await), Kind::NotFound);
}

#[tokio::test]
async fn the_photos_of_one_patient_are_erased_wherever_they_were_sent() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let (one, two) = (ward.room_of(&[&nurse]).await, ward.room_of(&[&nurse]).await);
    let media = &ward.services.media;
    for (room, txn_id, reference) in
        [(&one, "t1", "MRN-7"), (&two, "t2", "mrn 7"), (&two, "t3", "MRN-71")]
    {
        let taken = Capture {
            room_id: room.clone(),
            txn_id: txn_id.to_owned(),
            has_consent: true,
            reference: Some(reference.to_owned()),
            picture: leg().into(),
        };
        media.capture(&nurse, taken).await.unwrap();
    }
    let by_hand = ward.photo(&nurse, &two, &leg()).await;
    let of = |reference: &str| Which { reference: Some(reference.to_owned()), ..Which::default() };
    assert_eq!(kind(media.erase(&of(" - "), "root").await), Kind::InvalidParam);
    assert_eq!(media.erase(&of("MRN-8"), "root").await.unwrap().uris.len(), 0);
    let in_one = Which { room: Some(one), ..of("MRN-7") };
    assert_eq!(media.erase(&in_one, "root").await.unwrap().uris.len(), 1);
    let now_ms = ward.services.house.clock.now_ms();
    let before = Which { until_ms: Some(now_ms), ..of("MRN-7") };
    assert_eq!(media.erase(&before, "root").await.unwrap().uris.len(), 0, "all came later");
    let all = of("mrn7");
    assert_eq!(media.erase(&all, "root").await.unwrap().uris.len(), 1, "in whatever letters");
    assert!(ward.find(&by_hand).await.is_ok());
    let audit = ward.audit_objects().await;
    let trail: Vec<_> = audit.iter().filter(|line| line.contains("reference=")).collect();
    assert_eq!(trail.len(), 4, "{audit:?}");
    assert!(!trail.iter().any(|line| line.to_lowercase().contains("mrn")), "{trail:?}");
}

/// How an author loses the right to take back what they said.
#[derive(Clone, Copy, Debug)]
enum Lost {
    Left,
    Banned,
    /// Only the mighty may redact there any more.
    Raised,
}

#[tokio::test]
async fn the_steward_redacts_where_the_author_may_not_any_more() {
    use appliance_model::ruma::RoomVersionId as V;
    for version in [V::V6, V::V9, V::V10, V::V11, V::V12] {
        for lost in [Lost::Left, Lost::Banned, Lost::Raised] {
            let ward = Ward::of_version(version.clone()).await;
            steward_redacts(&ward, lost).await;
        }
    }
}

async fn steward_redacts(ward: &Ward, lost: Lost) {
    let [nurse, doctor, steward] = ward.members(["nurse", "doctor", "policy"]).await;
    let policy = json!({ "media": { "ttl_ms": MINUTE_MS } });
    let room = room_with(ward, &[&nurse, &doctor, &steward], policy).await;
    // The creators of version 12 stand above all levels and are not listed.
    let now = ward.current(&room, ("m.room.power_levels", "")).await;
    let mut users = now["users"].clone();
    users[steward.user_id.as_str()] = 50.into();
    let levels =
        |redactions: u8| json!({ "users": users, "events": { "m.room.redaction": redactions } });
    ward.state(&nurse, &room, ("m.room.power_levels", ""), levels(0)).await;
    let uri = ward.upload(&doctor, b"leg").await;
    let event = ward.show(&doctor, &room, &uri).await;
    match lost {
        Lost::Left => ward.set(&doctor, &room, &doctor.user_id, MembershipState::Leave).await,
        Lost::Banned => ward.set(&nurse, &room, &doctor.user_id, MembershipState::Ban).await,
        Lost::Raised => {
            ward.state(&nurse, &room, ("m.room.power_levels", ""), levels(50)).await;
        }
    }
    ward.clock.pass_ms(MINUTE_MS);
    let report = ward.look().await;
    assert_eq!((report.erased, report.redacted), (1, 1), "{lost:?}");
    let now = ward.services.house.ledger.event(event.number).await.unwrap();
    let by = ward.services.house.ledger.event(now.redacted_by.unwrap()).await.unwrap();
    assert_eq!(by.part(by.spans.sender).trim_matches('"'), steward.user_id.as_str(), "{lost:?}");
}
