//! The power goes at every commit between a photo's deadline and its last trace, and comes back on a clock
//! that shows any time: nobody reads it again, and what was begun is brought to its end.

use appliance_engine::{Batch, Engine, Write};
use appliance_ledger::keyspaces::{
    ERASURES, Keyspace, MEDIA_DUE, MEDIA_LINKS, MEDIA_USAGE, OPENS, PEER_COPIES,
};
use appliance_ledger::rows::media::UsageRow;
use appliance_ledger::rows::policy::ErasureRow;
use appliance_ledger::{KeyPart, Row};
use appliance_model::UserNid;
use appliance_model::ruma::OwnedRoomId;
use appliance_rules::policy::POLICY_TYPE;
use serde_json::{Value, json};

use super::lifetime::MARKER;
use super::*;
use crate::media::erase::Which;
use crate::media::thumbnail::Wanted;
use crate::scenario::{Back, the_power_goes};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// What is shown where, and since when its clock runs.
#[derive(Clone, Copy, Debug)]
enum What {
    /// One photo in one room.
    Photo,
    /// One whose hour begins with the first look.
    SeenFirst,
    /// One that was sent on with its URI: by its author into a stricter room, by a reader into another.
    SentOn,
    /// Many, of two people.
    Many,
}

/// Photos that everybody in their rooms has seen, at their deadline's millisecond.
struct Scene {
    ward: Ward,
    people: [Caller; 2],
    rooms: Vec<OwnedRoomId>,
    uris: Vec<String>,
    /// How many events show them.
    shown: usize,
}

const SMALL: Wanted = Wanted { width: 32, height: 32, crop: true, animated: false };

fn photo(shade: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(64, 64, image::Rgb([9, shade, 9]));
    let mut jpeg = Vec::new();
    picture.write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut jpeg)).unwrap();
    jpeg.extend_from_slice(MARKER);
    jpeg
}

impl Scene {
    async fn new(policies: &[Value]) -> Self {
        let (ward, people) = Ward::with_members(["nurse", "doctor"]).await;
        let mut rooms = Vec::new();
        for policy in policies {
            let room = ward.room_of(&[&people[0], &people[1]]).await;
            ward.state(&people[0], &room, (POLICY_TYPE, ""), policy.clone()).await;
            rooms.push(room);
        }
        Self { ward, people, rooms, uris: Vec::new(), shown: 0 }
    }

    async fn at_the_deadline(what: What) -> Self {
        let hour = json!({ "media": { "ttl_ms": HOUR_MS } });
        let mut scene = match what {
            What::Photo | What::Many => Self::new(&[hour]).await,
            What::SeenFirst => {
                let seen = json!({ "media": { "ttl_ms": HOUR_MS, "ttl_from": "first_open" } });
                Self::new(&[seen]).await
            }
            What::SentOn => Self::new(&[json!({}), hour, json!({})]).await,
        };
        let files = if matches!(what, What::Many) { 5 } else { 1 };
        for shade in 0..files {
            let by = usize::from(shade % 2);
            let uri = scene.ward.upload(&scene.people[by], &photo(shade)).await;
            for at in 0..scene.rooms.len() {
                // Into the last of three, a reader sends it.
                let by = if at == 2 { 1 - by } else { by };
                scene.ward.show(&scene.people[by], &scene.rooms[at], &uri).await;
                scene.shown += 1;
            }
            scene.uris.push(uri);
        }
        if matches!(what, What::SeenFirst) {
            scene.ward.clock.pass_ms(DAY_MS);
        }
        assert_eq!(scene.reads().await, 4 * scene.uris.len(), "all of it is there before");
        scene.ward.clock.pass_ms(HOUR_MS - 1);
        assert_eq!(scene.reads().await, 4 * scene.uris.len(), "a millisecond before");
        scene.ward.clock.pass_ms(1);
        scene
    }

    /// How many ways to the photos are open: the file and a small picture, for its author and another.
    async fn reads(&self) -> usize {
        let mut open = 0;
        for (who, uri) in
            self.people.iter().flat_map(|who| self.uris.iter().map(move |uri| (who, uri)))
        {
            open += usize::from(self.ward.download(who, uri).await.is_ok());
            if let Ok(found) = self.ward.find(uri).await {
                let made = self.ward.services.media.thumbnail(who, &found, SMALL).await;
                open += usize::from(made.is_ok());
            }
        }
        open
    }

    async fn redactions(&self) -> usize {
        let mut redactions = 0;
        for room in &self.rooms {
            redactions += self.ward.redactions(room).await.len();
        }
        redactions
    }

    async fn power_cut_until(self, back: Back, kept: usize) -> Self {
        Self { ward: self.ward.power_cut_until(back, kept).await, ..self }
    }

    /// Nothing is left but what is kept on record.
    async fn check_the_end(&self, why: &str) {
        assert_eq!(self.reads().await, 0, "{why}: in the end");
        assert_eq!(self.redactions().await, self.shown, "{why}: each is redacted, once");
        let ward = &self.ward;
        assert_eq!(files_below(&ward.folder.path().join("media")), 0, "{why}: erased");
        let purging = ward.services.media.purging().await.unwrap().0;
        assert!(purging.is_empty(), "{why}: nothing is left half done");
        let view = ward.services.house.ledger.newest();
        let (records, _) = view.scan(&ERASURES, &(), Direction::Forward, 1_000).await.unwrap();
        let records: Vec<(Digest, ErasureRow)> = records;
        let erased = records.iter().filter(|(_, record)| record.erased_ms.is_some());
        assert_eq!(erased.count(), self.uris.len(), "{why}: each is on record");
        let (used, _) = view.scan(&MEDIA_USAGE, &(), Direction::Forward, 100).await.unwrap();
        let used: Vec<(UserNid, UsageRow)> = used;
        assert!(used.is_empty(), "{why}: nobody is charged for what is gone, nor twice: {used:?}");
    }
}

/// Cuts the power after each commit of a look of the job; returns how many commits such a look has.
async fn cut_after_every_commit(what: What) -> u64 {
    let mut commits_seen = 0;
    for back in Back::ALL {
        // What was in doubt when the power went may have reached the disk, or not.
        for kept in [0, 1] {
            for commits in 0.. {
                let scene = Scene::at_the_deadline(what).await;
                let why = format!("{what:?}, {back:?}, {kept} kept, after {commits} commits");
                assert_eq!(scene.reads().await, 0, "{why}: from its millisecond on");
                scene.ward.engine().fail_commit_after(commits, the_power_goes());
                let ended = scene.ward.services.media.activate().await;
                assert_eq!(scene.reads().await, 0, "{why}: while the power goes");
                if ended.is_ok() {
                    commits_seen = commits_seen.max(commits);
                    scene.check_the_end(&why).await;
                    break;
                }
                let scene = scene.power_cut_until(back, kept).await;
                assert_eq!(scene.reads().await, 0, "{why}: after the cut");
                scene.ward.look().await;
                scene.check_the_end(&why).await;
            }
        }
    }
    commits_seen
}

#[tokio::test]
async fn whichever_commit_is_the_last_before_a_power_cut_nobody_reads_it_again() {
    let commits = cut_after_every_commit(What::Photo).await;
    assert!(commits >= 3, "condemned, erased and redacted are commits of their own");
}

#[tokio::test]
async fn a_photo_whose_time_began_with_the_first_look_ends_through_any_power_cut() {
    assert!(cut_after_every_commit(What::SeenFirst).await >= 3);
}

#[tokio::test]
async fn a_photo_that_was_sent_on_ends_everywhere_through_any_power_cut() {
    assert!(cut_after_every_commit(What::SentOn).await >= 3);
}

#[tokio::test]
async fn many_photos_whose_time_is_over_at_once_end_through_any_power_cut() {
    let commits = cut_after_every_commit(What::Many).await;
    assert!(commits <= 3 + 5, "they are condemned and forgotten together: {commits}");
}

/// The commit that counts the first look is the one that starts the hour: no look without it, whatever is
/// left of it after a power cut.
#[tokio::test]
async fn a_power_cut_at_the_first_look_gives_nobody_a_second_hour() {
    let seen = json!({ "media": { "ttl_ms": HOUR_MS, "ttl_from": "first_open" } });
    for back in Back::ALL {
        for kept in [0, 1] {
            for commits in 0.. {
                let mut scene = Scene::new(std::slice::from_ref(&seen)).await;
                let why = format!("{back:?}, {kept} kept, after {commits} commits");
                let (ward, [nurse, doctor]) = (&scene.ward, &scene.people);
                let uri = ward.upload(nurse, &photo(0)).await;
                ward.show(nurse, &scene.rooms[0], &uri).await;
                scene.uris.push(uri.clone());
                ward.engine().fail_commit_after(commits, the_power_goes());
                let is_seen = ward.download(doctor, &uri).await.is_ok();
                if is_seen {
                    // Not to fail in what follows.
                    scene = Scene { ward: scene.ward.power_cut_and_restart().await, ..scene };
                } else {
                    scene = scene.power_cut_until(back, kept).await;
                    let is_over = scene.ward.download(&scene.people[1], &uri).await.is_err();
                    assert_eq!(is_over, back == Back::Later, "{why}: it is there yet");
                }
                if back == Back::Earlier {
                    // Until the clock is right again, the time that was reached stands still.
                    scene.ward.clock.pass_ms(2 * DAY_MS);
                }
                scene.ward.clock.pass_ms(HOUR_MS);
                assert_eq!(scene.reads().await, 0, "{why}: an hour after the first look");
                scene.ward.clock.go_back_ms(HOUR_MS);
                assert_eq!(scene.reads().await, 0, "{why}: and the clock was set back");
                if is_seen {
                    assert!(commits >= 1, "{why}: the look has a commit of its own");
                    break;
                }
            }
        }
    }
}

impl Ward {
    /// Puts what nobody can read into a row.
    async fn damage<K: KeyPart, V: Row>(&self, keyspace: &Keyspace<K, V>, key: &K) {
        let write = Write::Put(keyspace.space, key.to_key(), b"noise".to_vec());
        let batch = Batch { preconditions: Vec::new(), writes: vec![write] };
        self.engine.commit(vec![batch]).await.unwrap();
    }

    async fn number(&self, uri: &str) -> MediaNid {
        self.services.media.row(SERVER, id(uri)).await.unwrap().unwrap().0
    }
}

/// The disk keeps one file of many.
#[tokio::test]
async fn a_file_that_the_disk_keeps_keeps_none_of_those_that_came_with_it() {
    let scene = Scene::at_the_deadline(What::Many).await;
    let (ward, stuck) = (&scene.ward, &scene.uris[2]);
    let (_, row) = ward.services.media.row(SERVER, id(stuck)).await.unwrap().unwrap();
    let shelf = ward.folder.path().join("media").join(&row.blob[row.blob.len() - 2..]);
    let file = shelf.join(row.blob);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let report = ward.look().await;
    assert_eq!((report.erased, report.redacted, report.stuck), (4, 5, 1));
    assert_eq!(scene.reads().await, 0);
    let purging = ward.services.media.purging().await.unwrap().0;
    let purging: Vec<&String> = purging.iter().map(|purging| &purging.uri).collect();
    assert_eq!(purging, [stuck], "purging until proven");
    assert_eq!(ward.look().await.stuck, 1, "tried again");
    std::fs::remove_dir(&file).unwrap();
    assert_eq!(ward.look().await.erased, 1);
    scene.check_the_end("in the end").await;
}

/// Whether it is met while they are condemned, or while they are forgotten.
#[tokio::test]
async fn a_row_that_cannot_be_read_keeps_none_of_those_that_came_with_it() {
    for while_condemned in [true, false] {
        let scene = Scene::at_the_deadline(What::Many).await;
        let (ward, damaged) = (&scene.ward, scene.ward.number(&scene.uris[2]).await);
        if while_condemned {
            ward.damage(&PEER_COPIES, &(damaged, Digest::default())).await;
        } else {
            ward.damage(&OPENS, &(damaged, UserNid(7))).await;
        }
        ward.services.media.activate().await.unwrap_err();
        assert_eq!(scene.reads().await, 0);
        for uri in &scene.uris {
            let row = ward.services.media.row(SERVER, id(uri)).await.unwrap();
            assert_eq!(row.is_some(), *uri == scene.uris[2], "{while_condemned}");
        }
    }
}

/// The store cannot be told of any of them; all of them make room.
#[tokio::test]
async fn a_full_disk_keeps_none_of_many() {
    let scene = Scene::at_the_deadline(What::Many).await;
    scene.ward.engine().full();
    assert_eq!(kind(scene.ward.services.media.activate().await), Kind::Unavailable);
    assert_eq!(files_below(&scene.ward.folder.path().join("media")), 0);
    assert_eq!(scene.reads().await, 0);
    scene.ward.engine().make_room();
    assert_eq!(scene.ward.look().await.erased, 5);
    scene.check_the_end("in the end").await;
}

/// More than go together.
#[tokio::test]
async fn hundreds_of_photos_are_over_at_once() {
    type Due = ((u64, MediaNid), ());
    type Link = ((MediaNid, u8, u64, u64), LinkRow);
    const FILES: usize = 150;
    let mut scene = Scene::new(&[json!({ "media": { "ttl_ms": HOUR_MS } })]).await;
    for at in 0..FILES {
        let uri = scene.ward.upload(&scene.people[at % 2], format!("note {at}").as_bytes()).await;
        scene.ward.show(&scene.people[at % 2], &scene.rooms[0], &uri).await;
        scene.uris.push(uri);
    }
    scene.ward.clock.pass_ms(HOUR_MS);
    let before = scene.ward.engine().commits();
    let report = scene.ward.look().await;
    assert_eq!((report.erased, report.redacted, report.stuck), (FILES, FILES, 0));
    let commits = scene.ward.engine().commits() - before;
    assert!(commits < 2 * u64::try_from(FILES).unwrap(), "{commits} commits");
    let view = scene.ward.services.house.ledger.newest();
    let (due, _): (Vec<Due>, _) = view.scan(&MEDIA_DUE, &(), Direction::Forward, 1).await.unwrap();
    let (links, _): (Vec<Link>, _) =
        view.scan(&MEDIA_LINKS, &(), Direction::Forward, 1).await.unwrap();
    assert!(due.is_empty() && links.is_empty());
    scene.shown = FILES;
    scene.check_the_end("in the end").await;
}

/// Somebody puts back yesterday's copy of the store and of the files, without the keys of days, of which no
/// copies are made.
#[tokio::test]
async fn an_old_copy_of_the_store_and_the_files_shows_nobody_a_photo_that_was_erased() {
    for back in Back::ALL {
        let mut scene = Scene::new(&[json!({ "media": { "ttl_ms": HOUR_MS } })]).await;
        let uri = scene.ward.upload(&scene.people[0], &photo(0)).await;
        scene.ward.show(&scene.people[0], &scene.rooms[0], &uri).await;
        (scene.uris, scene.shown) = (vec![uri], 1);
        assert_eq!(scene.reads().await, 4);
        let copy = tempfile::tempdir().unwrap();
        scene.ward.engine.copy_to(copy.path()).await.unwrap();
        let media = scene.ward.folder.path().join("media");
        copy_files(&media, &copy.path().join("media"));
        scene.ward.clock.pass_ms(HOUR_MS);
        scene.ward.look().await;
        scene.check_the_end("before the copy is put back").await;

        copy_files(&copy.path().join("media"), &media);
        assert!(files_below(&media) > 0, "it is here again");
        match back {
            Back::AtOnce => {}
            Back::Later => scene.ward.clock.pass_ms(30 * DAY_MS),
            Back::Earlier => scene.ward.clock.go_back_ms(HOUR_MS),
        }
        let scene = Scene { ward: scene.ward.restored_from(copy.path()).await, ..scene };
        assert_eq!(scene.reads().await, 0, "{back:?}");
        scene.ward.clock.pass_ms(HOUR_MS);
        scene.ward.look().await;
        scene.check_the_end(&format!("{back:?}")).await;
    }
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let place = to.join(entry.file_name());
        match entry.path() {
            folder if folder.is_dir() => copy_files(&folder, &place),
            file => drop(std::fs::copy(file, place).unwrap()),
        }
    }
}

/// Erasing many at once is one act: after a power cut at whichever commit all are condemned or none, and the
/// job brings it to its end.
#[tokio::test]
async fn whichever_commit_is_the_last_before_a_power_cut_an_erasure_in_bulk_is_whole_or_not_at_all()
{
    let mut commits_seen = 0;
    for kept in [0, 1] {
        for commits in 0.. {
            let why = format!("{kept} kept, after {commits} commits");
            let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
            let room = ward.room_of(&[&nurse, &doctor]).await;
            let mut uris = Vec::new();
            for who in [&nurse, &doctor, &nurse] {
                uris.push(ward.upload(who, &photo(9)).await);
                ward.show(who, &room, uris.last().unwrap()).await;
            }
            ward.show(&doctor, &room, "mxc://two.example/arm").await;
            let which = Which { room: Some(room.clone()), ..Which::default() };
            ward.engine().fail_commit_after(commits, the_power_goes());
            let media = &ward.services.media;
            let is_answered = media.erase(&which, "root").await.is_ok();
            let readable = async |ward: &Ward| {
                let mut readable = 0;
                for uri in &uris {
                    readable += usize::from(ward.download(&doctor, uri).await.is_ok());
                }
                readable
            };
            assert!(!is_answered || readable(&ward).await == 0, "{why}: after the answer");
            let is_done = is_answered && media.activate().await.is_ok();
            let ward = ward.power_cut_keeping_and_restart(kept).await;
            let media = &ward.services.media;
            match readable(&ward).await {
                0 => {}
                left => assert!(left == 3 && !is_answered, "{why}: {left} of three are left"),
            }
            let on_record = ward.audit().await;
            let acts = on_record.iter().filter(|line| *line == "media.erased_in_bulk root").count();
            assert_eq!(acts == 1, readable(&ward).await == 0, "{why}: on record if it is so");
            // Whoever has no answer asks again.
            if !is_answered {
                media.erase(&which, "root").await.unwrap();
            }
            ward.look().await;
            assert_eq!(readable(&ward).await, 0, "{why}: in the end");
            assert_eq!(ward.redactions(&room).await.len(), 4, "{why}: redacted, each once");
            assert_eq!(files_below(&ward.folder.path().join("media")), 0, "{why}: erased");
            assert!(media.purging().await.unwrap().0.is_empty(), "{why}: nothing is half done");
            if is_done {
                commits_seen = commits_seen.max(commits);
                break;
            }
        }
    }
    assert!(commits_seen >= 3, "condemned, erased and redacted are commits of their own");
}
