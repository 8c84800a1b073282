//! Leases, when the power goes on either side, when clocks jump, and when the deadline comes in the middle.

use appliance_engine::EngineError;
use futures_util::StreamExt;

use super::*;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// As long as a look lasts.
const WINDOW_MS: u64 = 2 * MINUTE_MS;
const HOME: usize = 0;
const GUEST: usize = 1;

/// A photo that each may look at once, for an hour.
async fn one_look() -> Play {
    Play::with(json!({ "federation": { "ours": "lease" }, "media": {
        "ttl_ms": HOUR_MS, "max_opens_per_user": 1,
    }}))
    .await
}

impl Play {
    fn pass_ms(&self, ms: u64) {
        for at in [HOME, GUEST] {
            self.town.desk(at).clock.pass_ms(ms);
        }
    }

    /// Whether the doctor gets it.
    async fn is_seen(&self) -> bool {
        self.look("download", "").await.0 == 200
    }
}

/// The home writes down the look, the guest that it asked: the power goes at each of these.
#[tokio::test]
async fn whichever_commit_is_the_last_in_either_hospital_a_look_stays_counted_and_the_deadline_stays()
 {
    for at in [HOME, GUEST] {
        for kept in [0, 1] {
            let mut commits_seen = 0;
            for commits in 0.. {
                let mut play = one_look().await;
                let why = format!("{at}, {kept} kept, after {commits} commits");
                let fault = EngineError::Failed("the power is going".to_owned());
                play.town.desk(at).engine.fail_commit_after(commits, fault);
                let is_first_seen = play.is_seen().await;
                play.town.power_cut(at, kept).await;
                let mut seen = usize::from(is_first_seen);
                for _ in 0..3 {
                    play.pass_ms(WINDOW_MS);
                    seen += usize::from(play.is_seen().await);
                }
                assert!(seen <= 1, "{why}: seen {seen} times");
                play.pass_ms(HOUR_MS - 3 * WINDOW_MS);
                play.town.power_cut(at, kept).await;
                assert_eq!(play.look("download", "").await.0, 404, "{why}: it is over");
                play.town.desk(at).clock.go_back_ms(2 * HOUR_MS);
                play.town.power_cut(at, kept).await;
                assert_eq!(play.look("download", "").await.0, 404, "{why}: on a clock behind");
                if is_first_seen {
                    commits_seen = commits;
                    break;
                }
            }
            assert!(commits_seen >= 1, "{at} writes something down first");
        }
    }
}

/// Leases lie in memory; what they cost lies in the store.
#[tokio::test]
async fn after_a_restart_no_lease_is_good_and_what_was_lent_stays_counted() {
    let mut play = one_look().await;
    let (status, lease) = play.lease(GUEST, play.wish()).await;
    assert_eq!(status, 200);
    play.town.power_cut(HOME, 0).await;
    assert_eq!(play.fetch(GUEST, "download", &lease).await, 403);
    play.pass_ms(WINDOW_MS);
    assert!(!play.is_seen().await, "the look was taken");
}

#[tokio::test]
async fn no_clock_prolongs_what_was_lent() {
    // A lease, when the home's clock jumps either way.
    let play = Play::with(json!({ "federation": { "ours": "lease" } })).await;
    let home = &play.town.desk(HOME).clock;
    let (_, lease) = play.lease(GUEST, play.wish()).await;
    home.go_back_ms(DAY_MS);
    assert_eq!(play.fetch(GUEST, "download", &lease).await, 403, "set back");
    home.pass_ms(DAY_MS);
    let (_, lease) = play.lease(GUEST, play.wish()).await;
    home.pass_ms(DAY_MS);
    assert_eq!(play.fetch(GUEST, "download", &lease).await, 403, "ahead");

    // A look, and the photo's hour.
    for (at, is_ahead) in [(HOME, false), (GUEST, false), (GUEST, true)] {
        let play = one_look().await;
        let clock = &play.town.desk(at).clock;
        let why = format!("{at}, ahead: {is_ahead}");
        assert!(play.is_seen().await, "{why}");
        match is_ahead {
            true => clock.pass_ms(DAY_MS),
            false => clock.go_back_ms(DAY_MS),
        }
        if at == HOME {
            assert!(!play.is_seen().await, "{why}: each fetch is a look until the clock is right");
            clock.pass_ms(DAY_MS);
        }
        play.pass_ms(WINDOW_MS);
        assert!(!play.is_seen().await, "{why}: the look is used up");
        play.pass_ms(HOUR_MS);
        assert!(!play.is_seen().await, "{why}: it is over");
        play.town.desk(HOME).clock.go_back_ms(2 * HOUR_MS);
        assert!(!play.is_seen().await, "{why}: set back afterwards");
    }
}

/// More than the buffers between the two.
#[tokio::test]
async fn what_is_on_its_way_when_the_deadline_comes_breaks_off() {
    const BYTES: usize = 8 * 1024 * 1024;
    let mut play = Play::with(json!({ "federation": { "ours": "lease" }, "media": {
        "ttl_ms": HOUR_MS,
    }}))
    .await;
    let film = vec![7; BYTES];
    play.file = play.upload_as("application/octet-stream", film).await;
    play.town.show(&play.nurse, &play.room, &format!("a.example/{}", play.file)).await;
    for is_over in [false, true] {
        let path = format!("/_matrix/client/v1/media/download/a.example/{}", play.file);
        let request = Request::get(path)
            .header(AUTHORIZATION, format!("Bearer {}", play.doctor))
            .body(Body::empty())
            .unwrap();
        let response = play.town.desk(GUEST).open(request).await;
        assert_eq!(response.status(), 200);
        let mut body = response.into_body().into_data_stream();
        let first = body.next().await.unwrap().unwrap();
        assert!(!first.is_empty() && first.len() < BYTES / 2, "{}", first.len());
        if is_over {
            play.town.desk(HOME).clock.pass_ms(HOUR_MS);
        }
        let (mut got, mut is_broken) = (first.len(), false);
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => got += piece.len(),
                Err(_) => is_broken = true,
            }
        }
        assert_eq!(is_broken, is_over);
        assert_eq!(got == BYTES, !is_over, "{got}");
        assert!(!is_over || got < BYTES / 2, "{got}");
    }
}
