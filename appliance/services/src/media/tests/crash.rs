//! The power goes at every commit between a photo's deadline and its last trace, and comes back on a clock
//! that shows any time: nobody reads it again, and what was begun is brought to its end.

use appliance_engine::EngineError;
use appliance_model::ruma::RoomId;

use super::lifetime::MARKER;
use super::*;
use crate::media::thumbnail::Wanted;

const HOUR_MS: u64 = 3_600_000;
const DAYS_LATER_MS: u64 = 30 * DAY_MS;

/// A photo that everybody in a room has seen, an hour after it was sent.
struct Scene {
    ward: Ward,
    nurse: Caller,
    doctor: Caller,
    room: appliance_model::ruma::OwnedRoomId,
    uri: String,
}

const SMALL: Wanted = Wanted { width: 32, height: 32, crop: true, animated: false };

fn photo() -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(64, 64, image::Rgb([9, 9, 9]));
    let mut jpeg = Vec::new();
    picture.write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut jpeg)).unwrap();
    jpeg.extend_from_slice(MARKER);
    jpeg
}

impl Scene {
    async fn at_the_deadline() -> Self {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        ward.limit(&nurse, &room, HOUR_MS).await;
        let uri = ward.upload(&nurse, &photo()).await;
        ward.show(&nurse, &room, &uri).await;
        let scene = Self { ward, nurse, doctor, room, uri };
        assert_eq!(scene.reads().await, 4, "all of it is there before");
        scene.ward.clock.pass_ms(HOUR_MS);
        scene
    }

    /// How many ways to the photo are open: the file and a small picture, for its author and another.
    async fn reads(&self) -> usize {
        let mut open = 0;
        for who in [&self.nurse, &self.doctor] {
            open += usize::from(self.ward.download(who, &self.uri).await.is_ok());
            if let Ok(found) = self.ward.find(&self.uri).await {
                let made = self.ward.services.media.thumbnail(who, &found, SMALL).await;
                open += usize::from(made.is_ok());
            }
        }
        open
    }

    async fn redactions(&self) -> usize {
        let room: &RoomId = &self.room;
        self.ward.redactions(room).await.len()
    }
}

/// The time that the clock shows when the power is back.
#[derive(Clone, Copy, Debug)]
enum Clock {
    Right,
    /// The machine was off for a month, or the clock is wrong.
    Ahead,
    /// Before the deadline.
    Behind,
}

#[tokio::test]
async fn whichever_commit_is_the_last_before_a_power_cut_nobody_reads_it_again() {
    let mut commits_seen = 0;
    for clock in [Clock::Right, Clock::Ahead, Clock::Behind] {
        // What was in doubt when the power went may have reached the disk, or not.
        for kept in [0, 1] {
            for commits in 0.. {
                let scene = Scene::at_the_deadline().await;
                let why = format!("{clock:?}, {kept} kept, after {commits} commits");
                assert_eq!(scene.reads().await, 0, "{why}: from its millisecond on");
                let fault = EngineError::Failed("the power is going".to_owned());
                scene.ward.engine().fail_commit_after(commits, fault);
                let ended = scene.ward.services.media.activate().await;
                assert_eq!(scene.reads().await, 0, "{why}: while the power goes");
                if ended.is_ok() {
                    commits_seen = commits_seen.max(commits);
                    assert_eq!(scene.redactions().await, 1, "{why}");
                    break;
                }
                check_after_the_cut(scene, (clock, kept), &why).await;
            }
        }
    }
    assert!(commits_seen >= 3, "condemned, erased and redacted are commits of their own");
}

async fn check_after_the_cut(scene: Scene, (clock, kept): (Clock, usize), why: &str) {
    let Scene { ward, nurse, doctor, room, uri } = scene;
    if matches!(clock, Clock::Behind) {
        ward.clock.go_back_ms(2 * DAY_MS);
    }
    let ward = ward.power_cut_keeping_and_restart(kept).await;
    let scene = Scene { ward, nurse, doctor, room, uri };
    match clock {
        Clock::Right => {}
        Clock::Ahead => scene.ward.clock.pass_ms(DAYS_LATER_MS),
        Clock::Behind => {}
    }
    assert_eq!(scene.reads().await, 0, "{why}: after the cut");
    scene.ward.look().await;
    assert_eq!(scene.reads().await, 0, "{why}: in the end");
    assert_eq!(scene.redactions().await, 1, "{why}: redacted, once");
    assert_eq!(files_below(&scene.ward.folder.path().join("media")), 0, "{why}: erased");
    let purging = scene.ward.services.media.purging().await.unwrap().0;
    assert!(purging.is_empty(), "{why}: nothing is left half done");
}
