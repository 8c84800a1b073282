//! Scenes in which a file's life ends.

use appliance_ledger::keyspaces::{
    Keyspace, MEDIA_DUE, MEDIA_LINKS, MEDIA_PENDING, MEDIA_PURGES, MEDIA_REDACTIONS, MEDIA_UNBOUND,
    ROOM_MEDIA,
};
use appliance_ledger::{Event, KeyPart, Row};
use appliance_model::ruma::api::client::message::send_message_event;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{RoomId, RoomVersionId};
use appliance_rules::Permit;
use appliance_rules::policy::POLICY_TYPE;
use serde_json::{Value, json};

use super::*;
use crate::media::administer::MediaJudgement;
use crate::media::expire::Report;
use crate::media::link::unlink;
use crate::media::upload::OCTET_STREAM;

const HOUR_MS: u64 = 3_600_000;
pub(super) const MARKER: &[u8] = b"PLANTED-MARKER-OF-A-PHOTO-0123456789";

impl Ward {
    pub(super) async fn send(
        &self,
        who: &Caller,
        room: &RoomId,
        kind: &str,
        content: Value,
    ) -> Arc<Event> {
        let txn_id = self.services.house.dice.letters(12);
        let content = Raw::from_json_string(content.to_string()).unwrap();
        let request = send_message_event::v3::Request::new_raw(
            room.to_owned(),
            txn_id.into(),
            kind.into(),
            content,
        );
        let event_id = self.services.rooms.send_event(who, &request).await.unwrap();
        let ledger = &self.services.house.ledger;
        let number = ledger.event_number(&event_id).await.unwrap().unwrap();
        ledger.event(number).await.unwrap()
    }

    pub(super) async fn show(&self, who: &Caller, room: &RoomId, uri: &str) -> Arc<Event> {
        let content = json!({ "msgtype": "m.image", "body": "leg", "url": uri });
        self.send(who, room, "m.room.message", content).await
    }

    pub(super) async fn limit(&self, who: &Caller, room: &RoomId, ttl_ms: u64) {
        let content = json!({ "media": { "ttl_ms": ttl_ms } });
        self.state(who, room, (POLICY_TYPE, ""), content).await;
    }

    pub(super) async fn look(&self) -> Report {
        self.services.media.activate().await.unwrap()
    }

    async fn is_there(&self, uri: &str) -> bool {
        match self.find(uri).await {
            Ok(_) => true,
            Err(error) if error.kind == Kind::NotFound => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Who redacted what in a room: sender, then the event.
    pub(super) async fn redactions(&self, room: &RoomId) -> Vec<(String, String)> {
        let (_, events) = self.timeline(room).await;
        let redactions = events.iter().filter(|(event, _)| event.kind() == "m.room.redaction");
        redactions
            .map(|(event, _)| {
                let whole: Value = serde_json::from_slice(&event.json).unwrap();
                let content = &whole["content"];
                assert_eq!(content["reason"], "expired: io.wardstone");
                let target = content.get("redacts").unwrap_or(&whole["redacts"]);
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (text(&whole["sender"]), text(target))
            })
            .collect()
    }

    fn file(&self) -> std::path::PathBuf {
        let mut files = all_files(&self.folder.path().join("media"));
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }

    /// How many rows the store has about files.
    async fn media_rows(&self) -> usize {
        self.rows(&MEDIA_LINKS).await
            + self.rows(&MEDIA_DUE).await
            + self.rows(&MEDIA).await
            + self.rows(&MEDIA_IDS).await
            + self.rows(&MEDIA_PENDING).await
            + self.rows(&ROOM_MEDIA).await
            + self.rows(&MEDIA_PURGES).await
            + self.rows(&MEDIA_REDACTIONS).await
            + self.rows(&MEDIA_UNBOUND).await
    }

    pub(super) async fn rows<K: KeyPart, V: Row>(&self, keyspace: &Keyspace<K, V>) -> usize {
        let view = self.services.house.ledger.newest();
        let (rows, _) = view.scan(keyspace, &(), Direction::Forward, 100).await.unwrap();
        let rows: Vec<(K, V)> = rows;
        rows.len()
    }
}

fn all_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { all_files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_photo_disappears_with_its_event_at_the_room_s_deadline() {
    for version in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        let ward = Ward::of_version(version.clone()).await;
        let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        ward.limit(&nurse, &room, HOUR_MS).await;
        let uri = ward.upload(&doctor, &MARKER.repeat(9_000)).await;
        ward.clock.pass_ms(HOUR_MS / 2);
        let event = ward.show(&doctor, &room, &uri).await;

        ward.clock.pass_ms(HOUR_MS - 1);
        assert_eq!(ward.look().await, Report::default(), "nothing is due yet");
        assert!(ward.is_there(&uri).await);
        ward.clock.pass_ms(1);
        assert!(!ward.is_there(&uri).await, "from its millisecond on, before any job");
        let done = ward.look().await;
        assert_eq!(done, Report { erased: 1, redacted: 1, stuck: 0 }, "version {version}");
        let redacted = [(doctor.user_id.to_string(), event.event_id.to_string())];
        assert_eq!(ward.redactions(&room).await, redacted, "as its author");
        assert_eq!(ward.look().await, Report::default(), "once");
        assert_eq!(files_below(ward.folder.path()), 0, "no file and no day key");

        // Index rows of deadlines that were overtaken go when their time comes.
        ward.clock.pass_ms(7 * DAY_MS);
        ward.look().await;
        assert_eq!(ward.media_rows().await, 0);
        let audit = ward.audit().await;
        for verb in ["media.uploaded", "media.purging", "media.purged"] {
            assert_eq!(audit.iter().filter(|line| line.starts_with(verb)).count(), 1, "{verb}");
        }
    }
}

#[tokio::test]
async fn the_bytes_are_nowhere_before_and_after() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let picture = image::RgbImage::from_pixel(64, 64, image::Rgb([9, 9, 9]));
    let mut jpeg = Vec::new();
    picture.write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut jpeg)).unwrap();
    jpeg.extend_from_slice(MARKER);
    let uri = ward.upload(&nurse, &jpeg).await;
    let found = ward.find(&uri).await.unwrap();
    let wanted = thumbnail::Wanted { width: 32, height: 32, crop: true, animated: false };
    let made = ward.services.media.thumbnail(&nurse, &found, wanted).await.unwrap();
    let again = ward.services.media.thumbnail(&nurse, &found, wanted).await.unwrap();
    assert_eq!(made.bytes, again.bytes);

    let files = all_files(ward.folder.path());
    assert_eq!(files.len(), 3, "the blob, its rendering, the day's key: {files:?}");
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        for secret in [MARKER, &made.bytes[..32], &jpeg[..32]] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{file:?}");
        }
    }
    ward.clock.pass_ms(7 * DAY_MS);
    let refused = ward.services.media.thumbnail(&nurse, &found, wanted).await;
    assert_eq!(kind(refused), Kind::NotFound, "a rendering dies with its blob");
    assert_eq!(ward.look().await.erased, 1);
    assert_eq!(all_files(ward.folder.path()), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_stricter_policy_reaches_what_is_shown_already_and_a_looser_one_does_not() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let uri = ward.upload(&nurse, b"photo").await;
    ward.show(&nurse, &room, &uri).await;
    ward.limit(&nurse, &room, 30 * DAY_MS).await;
    ward.limit(&nurse, &room, 2 * HOUR_MS).await;
    ward.limit(&nurse, &room, 4 * HOUR_MS).await;
    ward.clock.pass_ms(2 * HOUR_MS - 1);
    assert!(ward.is_there(&uri).await);
    ward.clock.pass_ms(1);
    assert!(!ward.is_there(&uri).await, "two hours were promised");

    let late = ward.upload(&nurse, b"photo").await;
    ward.show(&nurse, &room, &late).await;
    ward.clock.pass_ms(HOUR_MS);
    ward.limit(&nurse, &room, HOUR_MS).await;
    assert!(!ward.is_there(&late).await, "it is past the new limit already");
}

#[tokio::test]
async fn a_policy_that_cannot_be_kept_or_may_not_be_set_is_refused() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let set = async |who: &Caller, content: Value| {
        let request = crate::scenario::state(&room, (POLICY_TYPE, ""), content);
        ward.services.rooms.send_state(who, &request).await
    };
    let one_hour = json!({ "media": { "ttl_ms": HOUR_MS } });
    assert_eq!(kind(set(&doctor, one_hour.clone()).await), Kind::Forbidden);
    for bad in [json!({ "media": { "ttl_ms": "1h" } }), json!({ "media": { "ttl_ms": 5 } })] {
        assert_eq!(kind(set(&nurse, bad).await), Kind::BadJson);
    }
    set(&nurse, one_hour).await.unwrap();
}

/// Otherwise anyone could destroy anyone's photo.
#[tokio::test]
async fn a_forward_into_a_stricter_room_ends_itself_and_not_the_photo() {
    let (ward, [nurse, rival]) = Ward::with_members(["nurse", "rival"]).await;
    let (home, strict) = (ward.room(&nurse).await, ward.room(&rival).await);
    ward.limit(&rival, &strict, 1_000).await;
    let uri = ward.upload(&nurse, b"photo").await;
    ward.show(&nurse, &home, &uri).await;
    let forward = ward.show(&rival, &strict, &uri).await;
    ward.clock.pass_ms(1_000);
    assert_eq!(ward.look().await, Report { erased: 0, redacted: 1, stuck: 0 });
    let redacted = [(rival.user_id.to_string(), forward.event_id.to_string())];
    assert_eq!(ward.redactions(&strict).await, redacted);
    assert!(ward.is_there(&uri).await);
    assert!(ward.redactions(&home).await.is_empty());

    // Taking the forward back does not end the photo either.
    let again = ward.show(&rival, &strict, &uri).await;
    redact(&ward, &again).await;
    ward.look().await;
    assert!(ward.is_there(&uri).await);
}

/// It may be looked into yet; its own time ends it all the same.
#[tokio::test]
async fn what_is_locked_away_is_erased_at_its_own_time_and_no_earlier() {
    let (ward, [nurse, rival]) = Ward::with_members(["nurse", "rival"]).await;
    let strict = ward.room(&rival).await;
    ward.limit(&rival, &strict, 1_000).await;
    let uri = ward.upload(&nurse, b"photo").await;
    ward.show(&rival, &strict, &uri).await;
    let media = &ward.services.media;
    let file = uri.trim_start_matches("mxc://").split_once('/').unwrap();
    let lock = async |locked| {
        let judgement = MediaJudgement::Quarantine(locked);
        assert!(media.judge(&nurse, file, judgement).await.unwrap());
    };
    lock(true).await;
    ward.clock.pass_ms(1_000);
    assert_eq!(ward.look().await, Report { erased: 0, redacted: 1, stuck: 0 });
    assert!(!ward.is_there(&uri).await);
    lock(false).await;
    assert!(ward.is_there(&uri).await);
    lock(true).await;
    ward.clock.pass_ms(7 * DAY_MS);
    assert_eq!(ward.look().await.erased, 1);
}

pub(super) async fn redact(ward: &Ward, event: &Event) {
    let house = &ward.services.house;
    let mut commit = house.ledger.begin(Permit::housekeeping());
    unlink(house, event.room, event.number, &mut commit).await.unwrap();
    house.ledger.commit(commit).await.unwrap();
}

#[tokio::test]
async fn what_its_uploader_takes_back_is_gone_unless_it_is_shown_elsewhere() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let uri = ward.upload(&nurse, b"photo").await;
    let first = ward.show(&nurse, &room, &uri).await;
    let second = ward.show(&nurse, &room, &uri).await;
    redact(&ward, &first).await;
    assert!(ward.is_there(&uri).await);
    redact(&ward, &second).await;
    assert!(!ward.is_there(&uri).await, "from the commit on");
    assert_eq!(ward.look().await.erased, 1);
    assert_eq!(files_below(&ward.folder.path().join("media")), 0);
}

/// Taking an event back must not make a file live longer.
#[tokio::test]
async fn a_deadline_outlives_the_event_that_set_it() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let (strict, other) = (ward.room(&nurse).await, ward.room(&doctor).await);
    ward.limit(&nurse, &strict, HOUR_MS).await;
    let uri = ward.upload(&nurse, b"photo").await;
    let event = ward.show(&nurse, &strict, &uri).await;
    ward.show(&doctor, &other, &uri).await;
    redact(&ward, &event).await;
    assert!(ward.is_there(&uri).await, "somebody else shows it");
    ward.clock.pass_ms(HOUR_MS);
    assert!(!ward.is_there(&uri).await);
}

#[tokio::test]
async fn a_clock_that_goes_back_brings_nothing_back() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let (seen, unseen) = (ward.upload(&nurse, b"one").await, ward.upload(&nurse, b"two").await);
    ward.clock.pass_ms(DAY_MS);
    let later = ward.upload(&nurse, b"later").await;
    ward.clock.pass_ms(6 * DAY_MS);
    assert!(!ward.is_there(&seen).await);
    ward.clock.go_back_ms(2 * DAY_MS);
    assert!(!ward.is_there(&seen).await, "once gone, gone");
    assert!(!ward.is_there(&unseen).await, "the time was there, whoever looked");
    assert!(ward.is_there(&later).await);
    let new = ward.upload(&nurse, b"three").await;
    assert_eq!(ward.download(&nurse, &new).await.unwrap(), b"three", "goes by the clock");
    assert_eq!(ward.look().await.erased, 2, "though the clock says that it is too early");
    assert_eq!(ward.look().await, Report::default());
    ward.clock.pass_ms(3 * DAY_MS);
    assert_eq!(ward.look().await.erased, 1);
    ward.clock.go_back_ms(30 * DAY_MS);
    let ward = ward.power_cut_and_restart().await;
    ward.look().await;
    for uri in [&seen, &unseen, &later] {
        assert!(!ward.is_there(uri).await);
    }
    let new = ward.upload(&nurse, b"four").await;
    assert_eq!(ward.download(&nurse, &new).await.unwrap(), b"four");
    let audit = ward.audit().await;
    let set_back = audit.iter().filter(|line| line.starts_with("clock.set_back")).count();
    assert_eq!(set_back, 2, "on record: {audit:?}");
}

/// Somebody was refused, the power went before the job looked, and the machine's clock has no battery.
#[tokio::test]
async fn what_was_refused_once_stays_so_after_a_power_cut_on_a_clock_that_is_behind() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let uri = ward.upload(&nurse, b"photo").await;
    ward.clock.pass_ms(7 * DAY_MS);
    assert!(!ward.is_there(&uri).await);
    ward.clock.go_back_ms(6 * DAY_MS);
    let ward = ward.power_cut_and_restart().await;
    assert!(!ward.is_there(&uri).await);
    assert_eq!(ward.look().await.erased, 1);
    assert_eq!(files_below(&ward.folder.path().join("media")), 0);
}

#[tokio::test]
async fn what_the_disk_does_not_let_go_of_is_hidden_and_tried_again() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let uri = ward.upload(&nurse, b"photo").await;
    // A folder in its place cannot be unlinked.
    let file = ward.file();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    ward.clock.pass_ms(7 * DAY_MS);
    assert_eq!(ward.look().await, Report { erased: 0, redacted: 0, stuck: 1 });
    let (_, row) = ward.services.media.row(SERVER, id(&uri)).await.unwrap().unwrap();
    assert!(row.wrapped_key.is_empty(), "the key is gone whatever the disk does");
    let ward = ward.power_cut_and_restart().await;
    ward.clock.go_back_ms(2 * DAY_MS);
    assert!(!ward.is_there(&uri).await, "condemned is condemned, whatever the clock says");
    std::fs::remove_dir(&file).unwrap();
    assert_eq!(ward.look().await, Report { erased: 1, redacted: 0, stuck: 0 });
    assert_eq!(ward.look().await, Report::default());
}

#[tokio::test]
async fn a_power_cut_between_the_steps_of_a_purge_is_made_up_for() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let uri = ward.upload(&nurse, b"photo").await;
    ward.show(&nurse, &room, &uri).await;
    let (number, _) = ward.services.media.row(SERVER, id(&uri)).await.unwrap().unwrap();
    let house = &ward.services.house;
    let mut commit = house.ledger.begin(Permit::housekeeping());
    purge::condemn(house, number, "expired", &mut commit).await.unwrap();
    house.ledger.commit(commit).await.unwrap();

    let ward = ward.power_cut_and_restart().await;
    assert!(!ward.is_there(&uri).await);
    assert_eq!(ward.look().await, Report { erased: 1, redacted: 1, stuck: 0 });
    assert_eq!(ward.redactions(&room).await.len(), 1);
}

/// The power went between the rename and the commit.
#[tokio::test]
async fn a_file_without_a_row_is_swept_and_others_stay() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let uri = ward.upload(&nurse, b"photo").await;
    let mut writer = ward.services.house.blobs.begin(999_999).await.unwrap();
    writer.write(b"an orphan").await.unwrap();
    drop(writer.finish().await.unwrap().into_named());
    let strange = ward.file_count();
    assert_eq!(strange, 2);
    let ward = ward.power_cut_and_restart().await;
    ward.look().await;
    assert_eq!(ward.file_count(), 1);
    assert_eq!(ward.download(&nurse, &uri).await.unwrap(), b"photo");
}

impl Ward {
    fn file_count(&self) -> usize {
        files_below(&self.folder.path().join("media"))
    }
}

#[tokio::test]
async fn an_author_who_has_left_is_not_spoken_for_and_that_is_on_record() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let uri = ward.upload(&doctor, b"photo").await;
    ward.show(&doctor, &room, &uri).await;
    ward.set(&doctor, &room, &doctor.user_id, MembershipState::Leave).await;
    ward.clock.pass_ms(7 * DAY_MS);
    assert_eq!(ward.look().await, Report { erased: 1, redacted: 0, stuck: 0 });
    let not_redacted = format!("media.not_redacted {SERVER}");
    assert!(ward.audit().await.contains(&not_redacted));
    assert_eq!(ward.look().await, Report::default(), "and not tried for ever");
}

#[tokio::test]
async fn an_avatar_is_kept_while_it_is_one() {
    let (ward, [nurse, rival]) = Ward::with_members(["nurse", "rival"]).await;
    let room = ward.room(&nurse).await;
    let portrait = ward.upload(&nurse, b"portrait").await;
    let photo = ward.upload(&nurse, b"photo").await;
    let avatar = |uri: &str| json!({ "url": uri });
    ward.state(&nurse, &room, ("m.room.avatar", ""), avatar(&portrait)).await;
    let own = ward.room(&rival).await;
    ward.state(&rival, &own, ("m.room.avatar", ""), avatar(&photo)).await;

    for _ in 0..20 {
        ward.clock.pass_ms(DAY_MS);
        ward.look().await;
    }
    assert_eq!(ward.download(&nurse, &portrait).await.unwrap(), b"portrait");
    assert!(!ward.is_there(&photo).await, "nobody keeps what somebody else has uploaded");
    let ward = ward.power_cut_and_restart().await;
    assert_eq!(ward.download(&rival, &portrait).await.unwrap(), b"portrait");

    ward.state(&nurse, &room, ("m.room.avatar", ""), json!({})).await;
    assert!(!ward.is_there(&portrait).await);
    assert_eq!(ward.look().await, Report { erased: 1, redacted: 0, stuck: 0 });
}

#[tokio::test]
async fn a_profile_picture_is_kept_while_it_is_one() {
    use crate::personal::ProfileChange;
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let (first, second) = (ward.upload(&nurse, b"one").await, ward.upload(&nurse, b"two").await);
    let set = async |uri: &str| {
        let change = ProfileChange::AvatarUrl(Some(uri.to_owned()));
        ward.services.personal.set_profile(&nurse, &nurse.user_id, change).await.unwrap();
    };
    set(&first).await;
    ward.clock.pass_ms(10 * DAY_MS);
    ward.look().await;
    assert!(ward.is_there(&first).await);
    assert!(!ward.is_there(&second).await);
    set("mxc://elsewhere.example/x").await;
    assert!(!ward.is_there(&first).await);
    assert!(ward.redactions(&room).await.is_empty());
}

#[tokio::test]
async fn a_photo_sent_as_a_message_is_governed_even_if_it_is_an_avatar() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let uri = ward.upload(&nurse, b"photo").await;
    ward.state(&nurse, &room, ("m.room.avatar", ""), json!({ "url": uri })).await;
    ward.limit(&nurse, &room, HOUR_MS).await;
    ward.show(&nurse, &room, &uri).await;
    ward.clock.pass_ms(HOUR_MS);
    assert!(!ward.is_there(&uri).await);
}

#[tokio::test]
async fn an_encrypted_photo_is_bound_to_the_next_encrypted_event_of_its_device() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let (lax, strict) = (ward.room(&nurse).await, ward.room(&nurse).await);
    let other = ward.room(&doctor).await;
    ward.limit(&nurse, &strict, HOUR_MS).await;
    ward.limit(&doctor, &other, HOUR_MS).await;
    let sealed = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x" });
    let upload = async || {
        let media = &ward.services.media;
        media.upload(&nurse, of_type(OCTET_STREAM), body(b"sealed")).await.unwrap()
    };

    let bound = upload().await;
    ward.send(&nurse, &strict, "m.room.encrypted", sealed.clone()).await;
    let unbound = upload().await;
    ward.send(&doctor, &other, "m.room.encrypted", sealed.clone()).await;
    ward.send(&nurse, &lax, "m.room.encrypted", sealed.clone()).await;
    // Long after its own event: no candidate any more.
    ward.clock.pass_ms(link::BINDING_MS + 1);
    ward.send(&nurse, &strict, "m.room.encrypted", sealed.clone()).await;
    let ambiguous = upload().await;
    ward.send(&nurse, &lax, "m.room.encrypted", sealed.clone()).await;
    ward.send(&nurse, &strict, "m.room.encrypted", sealed).await;

    ward.clock.pass_ms(HOUR_MS);
    assert!(!ward.is_there(&bound).await);
    assert!(ward.is_there(&unbound).await);
    assert!(!ward.is_there(&ambiguous).await, "the strictest candidate counts");
    assert_eq!(
        ward.look().await,
        Report { erased: 2, redacted: 0, stuck: 0 },
        "no redaction by guess"
    );
}

#[tokio::test]
async fn an_unused_reservation_is_forgotten() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    ward.services.media.create(&nurse).await.unwrap();
    ward.clock.pass_ms(DAY_MS);
    ward.look().await;
    assert_eq!(ward.media_rows().await, 0);
}

#[tokio::test]
async fn an_administrator_can_purge_at_once() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let uri = ward.upload(&nurse, b"photo").await;
    ward.show(&nurse, &room, &uri).await;
    let mut running = ward.deliver(&nurse, &uri).await.unwrap();
    assert!(ward.services.media.purge_now(SERVER, id(&uri)).await.unwrap());
    assert_eq!(kind(running.next().await), Kind::NotFound, "a running download ends too");
    assert!(!ward.is_there(&uri).await);
    assert_eq!(ward.look().await.redacted, 1);
}

/// The disk is full, so the store cannot be told; the files go first, and make room.
#[tokio::test]
async fn a_full_disk_does_not_keep_what_has_expired() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let uri = ward.upload(&nurse, b"photo").await;
    ward.clock.pass_ms(7 * DAY_MS);
    ward.engine().full();
    assert_eq!(kind(ward.services.media.activate().await), Kind::Unavailable);
    assert_eq!(ward.file_count(), 0);
    assert!(!ward.is_there(&uri).await);
    ward.engine().make_room();
    assert_eq!(ward.look().await, Report { erased: 1, redacted: 0, stuck: 0 });
}

/// A large upload must not be in memory: the process grows by a few chunks, not by the file.
#[tokio::test]
async fn an_upload_and_a_download_stay_small_in_memory() {
    const BYTES: usize = 48 * 1024 * 1024;
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let part = Bytes::from(vec![7; 64 * 1024]);
    let parts = stream::iter((0..BYTES / part.len()).map(|_| Ok::<_, Infallible>(part.clone())));
    let before = peak_bytes();
    let media = &ward.services.media;
    let uri = media.upload(&nurse, of_type(OCTET_STREAM), parts).await.unwrap();
    let mut delivery = ward.deliver(&nurse, &uri).await.unwrap();
    let mut read = 0;
    while let Some(chunk) = delivery.next().await.unwrap() {
        read += chunk.len();
    }
    assert_eq!(read, BYTES);
    let grown = peak_bytes() - before;
    // Other tests may share the process; a whole file would be 48 MiB.
    assert!(grown < 24 * 1024 * 1024, "grew by {grown} bytes");
}

fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// What the room's policy server cannot be asked about now is not given up: the bytes go at once, the event
/// when the line is back.
#[tokio::test]
async fn a_redaction_waits_for_the_policy_server_of_its_room() {
    let town = crate::federation::town::Town::of(2, RoomVersionId::V11).await;
    let [ward, other] = [&town.wards[0], &town.wards[1]];
    let (nurse, doctor) = (ward.member("nurse").await, other.member("doctor").await);
    let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
    ward.limit(&nurse, &room, HOUR_MS).await;
    let uri = ward.upload(&nurse, MARKER).await;
    let event = ward.show(&nurse, &room, &uri).await;
    let key = other.services.rooms.policy_server_public_key().await.unwrap();
    let named = json!({ "via": "two.example", "public_keys": { "ed25519": key } });
    ward.state(&nurse, &room, ("m.room.policy", ""), named).await;
    town.deliver(0, 1, &room, "named").await;

    town.cut(0, 1, true);
    ward.clock.pass_ms(HOUR_MS);
    assert_eq!(ward.look().await, Report { erased: 1, redacted: 0, stuck: 1 });
    assert!(!ward.is_there(&uri).await);
    assert_eq!(ward.look().await, Report { erased: 0, redacted: 0, stuck: 1 }, "it waits");
    town.cut(0, 1, false);
    ward.clock.pass_ms(10_000);
    assert_eq!(ward.look().await, Report { erased: 0, redacted: 1, stuck: 0 });
    let redacted = [(nurse.user_id.to_string(), event.event_id.to_string())];
    assert_eq!(ward.redactions(&room).await, redacted);
}
