//! The power goes at every commit between the time at which a room's words are over and the last trace of
//! them, and comes back on a clock that shows any time.

use appliance_engine::Engine;

use super::*;
use crate::scenario::{Back, the_power_goes};

/// More than one commit of the job takes out.
const WORDS: usize = 101;

/// A room whose words are over in this millisecond, and the first and the last of them.
async fn over_now() -> (Ward, Caller, appliance_model::ruma::OwnedRoomId, [String; 2]) {
    let (ward, [nurse, doctor], room) = forgetful().await;
    let mut said = Vec::new();
    for _ in 0..WORDS {
        said.push(ward.say(&nurse, &room, MARKER).await);
    }
    let ends = [said[0].clone(), said[WORDS - 1].clone()];
    assert!(!reads(&ward, &doctor, &room, &ends[1]).await.is_empty(), "all of it is there before");
    ward.clock.pass_ms(MINUTE_MS);
    (ward, doctor, room, ends)
}

async fn assert_over(ward: &Ward, who: &Caller, room: &RoomId, said: &[String; 2], why: &str) {
    for event_id in said {
        let read = reads(ward, who, room, event_id).await;
        assert!(read.is_empty(), "{why}: {read:?}");
    }
}

#[tokio::test]
async fn whichever_commit_is_the_last_before_a_power_cut_nobody_reads_what_was_over() {
    let mut commits_seen = 0;
    for back in Back::ALL {
        // What was in doubt when the power went may have reached the disk, or not.
        for kept in [0, 1] {
            for commits in 0.. {
                let (ward, doctor, room, said) = over_now().await;
                let why = format!("{back:?}, {kept} kept, after {commits} commits");
                assert_over(&ward, &doctor, &room, &said, &why).await;
                ward.engine().fail_commit_after(commits, the_power_goes());
                let ended = ward.services.forget_what_is_over().await;
                if ended.is_ok() {
                    commits_seen = commits_seen.max(commits);
                    break;
                }
                let ward = ward.power_cut_until(back, kept).await;
                assert_over(&ward, &doctor, &room, &said, &why).await;
                ward.services.forget_what_is_over().await.unwrap();
                assert_eq!(ward.rows_with_marker().await, 0, "{why}: nor does the store hold it");
                assert_over(&ward, &doctor, &room, &said, &why).await;
            }
        }
    }
    assert!(commits_seen >= 2, "{commits_seen}");
}

/// The copy knows nothing of what was erased since; the clock does.
#[tokio::test]
async fn an_old_copy_of_the_store_shows_nobody_what_is_over() {
    for later_ms in [0, 30 * 24 * 60 * MINUTE_MS] {
        let (ward, [nurse, doctor], room) = forgetful().await;
        let said = ward.say(&nurse, &room, MARKER).await;
        let said = [said.clone(), said];
        let copy = tempfile::tempdir().unwrap();
        ward.engine.copy_to(copy.path()).await.unwrap();
        ward.clock.pass_ms(MINUTE_MS);
        assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 1);
        assert_eq!(ward.rows_with_marker().await, 0);

        ward.clock.pass_ms(later_ms);
        let ward = ward.restored_from(copy.path()).await;
        assert_eq!(ward.rows_with_marker().await, 1, "it is in the store again");
        assert_over(&ward, &doctor, &room, &said, "from the copy").await;
        assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 1);
        assert_eq!(ward.rows_with_marker().await, 0, "and goes again");
        ward.clock.go_back_ms(MINUTE_MS);
        assert_over(&ward, &doctor, &room, &said, "the clock was set back").await;
    }
}
