//! A disk that is full, takes only a part, or fails to sync.

use std::fs;
use std::path::Path;

use appliance_engine::{EngineError, Kind};

use crate::recorder::{Bench, work};
use crate::work::{batch, check, open_store, runtime};

/// Runs `story` in a recorded process.
fn under_the_recorder(name: &str, story: impl AsyncFn(&Path)) {
    if let Some((_, root)) = work() {
        runtime().block_on(story(&root));
        return;
    }
    let bench = Bench::new();
    let output = bench.run(name, "story");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
    assert!(!bench.calls().is_empty(), "the recorder saw nothing");
}

fn begins(root: &Path, trouble: &str) {
    fs::write(Bench::trouble(root), trouble).unwrap();
}

fn ends(root: &Path) {
    fs::remove_file(Bench::trouble(root)).unwrap();
}

/// ENOSPC at once, and a disk that takes half a write before it is full: both write nothing, lose
/// nothing, and end when there is room again.
#[test]
fn lmdb_survives_a_full_disk_and_goes_on_when_there_is_room() {
    under_the_recorder(
        "trouble::lmdb_survives_a_full_disk_and_goes_on_when_there_is_room",
        async |root| {
            let engine = open_store(Kind::Lmdb, root);
            let mut next = 0;
            for trouble in ["full", "short"] {
                for _ in 0..15 {
                    engine.commit(vec![batch(next)]).await.unwrap();
                    next += 1;
                }
                begins(root, trouble);
                for _ in 0..3 {
                    let answer = engine.commit(vec![batch(next), batch(next + 1)]).await;
                    assert!(matches!(answer, Err(EngineError::Full)), "{trouble}: {answer:?}");
                    let there = check(&*engine, next.checked_sub(1)).await;
                    assert_eq!(there, Ok(next), "{trouble}: nothing was written, nothing is lost");
                }
                ends(root);
            }
            engine.commit(vec![batch(next)]).await.unwrap();
            drop(engine);
            assert_eq!(check(&*open_store(Kind::Lmdb, root), Some(next)).await, Ok(next + 1));
        },
    );
}

/// sled cannot take back what it began to write: it stops, and what was acknowledged is there.
#[test]
fn sled_stops_on_a_full_disk_and_keeps_what_it_acknowledged() {
    under_the_recorder(
        "trouble::sled_stops_on_a_full_disk_and_keeps_what_it_acknowledged",
        async |root| {
            let engine = open_store(Kind::Sled, root);
            for number in 0..15 {
                engine.commit(vec![batch(number)]).await.unwrap();
            }
            begins(root, "full");
            let answer = engine.commit(vec![batch(15)]).await;
            assert!(answer.is_err(), "the disk was full");
            assert!(
                !matches!(answer, Err(EngineError::Full)),
                "that would promise: nothing written"
            );
            ends(root);
            let later = engine.commit(vec![batch(15)]).await;
            assert!(matches!(later, Err(EngineError::Failed(_))), "no commit after a failed one");
            drop(engine);
            let engine = open_store(Kind::Sled, root);
            let count = check(&*engine, Some(14)).await.unwrap();
            engine.commit(vec![batch(count)]).await.unwrap();
        },
    );
}

/// A sync that failed cannot be repeated: the kernel may have dropped the pages. Nothing is acknowledged
/// until the store was opened again.
#[test]
fn a_failed_sync_is_the_last_commit() {
    under_the_recorder("trouble::a_failed_sync_is_the_last_commit", async |root| {
        for kind in [Kind::Lmdb, Kind::Sled] {
            let root_of_kind = root.join(kind.name());
            let engine = open_store(kind, &root_of_kind);
            for number in 0..5 {
                engine.commit(vec![batch(number)]).await.unwrap();
            }
            begins(root, "y");
            let answer = engine.commit(vec![batch(5)]).await;
            assert!(matches!(answer, Err(EngineError::Failed(_))), "{kind}: {answer:?}");
            ends(root);
            let later = engine.commit(vec![batch(5)]).await;
            assert!(matches!(later, Err(EngineError::Failed(_))), "{kind}: {later:?}");
            assert!(check(&*engine, Some(4)).await.is_ok(), "{kind}: reading goes on");
            drop(engine);
            let engine = open_store(kind, &root_of_kind);
            let count = check(&*engine, Some(4)).await.unwrap();
            engine.commit(vec![batch(count)]).await.unwrap();
        }
    });
}
