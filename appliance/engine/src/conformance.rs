//! One suite for every engine: what the ledger relies on, and nothing that only one engine does.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use crate::{
    Batch, Conflict, Direction, Engine, EngineError, KEY_BYTES_MAX, KeyRange, Kind, Memory,
    Options, Precondition, Read, Space, VALUE_BYTES_MAX, Write, open,
};

mod model;

const A: Space = Space(1);
const B: Space = Space(2);
const LAST: Space = Space(255);
const ALL: KeyRange = KeyRange { from: Bound::Unbounded, to: Bound::Unbounded };

/// An engine on a folder of its own, which can be closed and opened again.
struct Desk {
    folder: TempDir,
    engine: Option<Subject>,
}

enum Subject {
    Memory(Arc<Memory>),
    Disk(Kind, Arc<dyn Engine>),
}

impl Desk {
    fn memory() -> Self {
        Self { folder: folder(), engine: Some(Subject::Memory(Arc::default())) }
    }

    fn disk(kind: Kind) -> Self {
        let folder = folder();
        let engine = open(kind, folder.path(), &Options::default()).unwrap();
        Self { folder, engine: Some(Subject::Disk(kind, engine)) }
    }

    fn engine(&self) -> Arc<dyn Engine> {
        match self.engine.as_ref().unwrap() {
            Subject::Memory(memory) => Arc::clone(memory) as _,
            Subject::Disk(_, engine) => Arc::clone(engine),
        }
    }

    /// Closes and opens again; memory loses its power instead.
    fn reopen(&mut self) {
        self.engine = Some(match self.engine.take().unwrap() {
            Subject::Memory(memory) => Subject::Memory(Arc::new(memory.power_cut())),
            Subject::Disk(kind, engine) => {
                assert_eq!(Arc::strong_count(&engine), 1, "a test still holds the engine");
                drop(engine);
                let verify = Options { verify_bytes_max: u64::MAX, ..Options::default() };
                Subject::Disk(kind, open(kind, self.folder.path(), &verify).unwrap())
            }
        });
    }

    /// Opens a folder that this engine copied itself into.
    fn open_copy(&self, copy: &TempDir) -> Arc<dyn Engine> {
        match self.engine.as_ref().unwrap() {
            Subject::Memory(_) => Arc::new(Memory::load(copy.path()).unwrap()),
            Subject::Disk(kind, _) => open(*kind, copy.path(), &Options::default()).unwrap(),
        }
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

macro_rules! on_every_engine {
    ($($test:ident,)*) => {
        mod memory { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Desk::memory()).await })* }
        mod lmdb { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Desk::disk(crate::Kind::Lmdb)).await })* }
        mod sled { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Desk::disk(crate::Kind::Sled)).await })* }
    };
}

on_every_engine! {
    keys_are_ordered_by_their_bytes,
    spaces_never_meet,
    a_scan_respects_its_bounds_both_ways,
    pages_follow_each_other_without_gap_or_repeat,
    a_limit_of_nothing_still_says_whether_there_is_more,
    a_join_brings_the_rows_that_the_index_names,
    many_reads_answer_in_the_order_asked,
    the_last_write_to_a_key_wins,
    a_deleted_row_is_gone,
    a_batch_whose_precondition_fails_is_left_out_whole,
    a_precondition_sees_the_batches_before_it,
    values_of_every_size_come_back,
    what_is_too_long_is_refused_before_anything_is_written,
    a_snapshot_does_not_move_where_the_engine_isolates,
    what_was_acknowledged_is_there_after_reopening,
    readers_never_see_half_a_batch_where_the_engine_isolates,
    a_value_is_replaced_whole_under_its_readers,
    a_commit_is_finished_even_if_nobody_waits,
    a_copy_opens_as_an_engine,
    an_empty_commit_is_answered,
}

fn put(space: Space, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Write {
    Write::Put(space, key.as_ref().to_vec(), value.as_ref().to_vec())
}

fn delete(space: Space, key: &[u8]) -> Write {
    Write::Delete(space, key.to_vec())
}

fn writes(writes: Vec<Write>) -> Batch {
    Batch { preconditions: vec![], writes }
}

async fn commit(engine: &Arc<dyn Engine>, batch: Vec<Write>) {
    assert_eq!(engine.commit(vec![writes(batch)]).await.unwrap(), [Ok(())]);
}

async fn keys(read: &dyn Read, space: Space, range: &KeyRange, direction: Direction) -> Vec<Bytes> {
    let page = read.scan(space, range, direction, 1000).await.unwrap();
    assert!(!page.more);
    page.rows.into_iter().map(|(key, _)| key).collect()
}

async fn keys_are_ordered_by_their_bytes(desk: Desk) {
    let engine = desk.engine();
    let unordered: [&[u8]; 8] =
        [b"b", b"", b"a\xff", &[255, 255], b"aa", &[0], &[0, 0], &[127, 128]];
    commit(&engine, unordered.iter().map(|key| put(A, key, b"v")).collect()).await;
    let mut ordered: Vec<Bytes> = unordered.iter().map(|key| Bytes::copy_from_slice(key)).collect();
    ordered.sort();
    assert_eq!(keys(&*engine, A, &ALL, Direction::Forward).await, ordered);
    ordered.reverse();
    assert_eq!(keys(&*engine, A, &ALL, Direction::Backward).await, ordered);
}

async fn spaces_never_meet(desk: Desk) {
    let engine = desk.engine();
    for space in [Space(0), A, B, LAST] {
        commit(&engine, vec![put(space, [9], [space.0]), put(space, [255; 9], [space.0])]).await;
    }
    for space in [Space(0), A, B, LAST] {
        let own = Some(Bytes::copy_from_slice(&[space.0]));
        assert_eq!(engine.get(space, &[9]).await.unwrap(), own);
        for direction in [Direction::Forward, Direction::Backward] {
            assert_eq!(keys(&*engine, space, &ALL, direction).await.len(), 2, "{space:?}");
            let ones = keys(&*engine, space, &KeyRange::prefix(&[255]), direction).await;
            assert_eq!(ones, [Bytes::copy_from_slice(&[255; 9])]);
        }
    }
    assert_eq!(engine.get(Space(3), &[9]).await.unwrap(), None);
}

async fn a_scan_respects_its_bounds_both_ways(desk: Desk) {
    let engine = desk.engine();
    commit(&engine, (0..10u8).map(|n| put(A, [n], [n])).collect()).await;
    let bounds = |at: u8| [Bound::Included(vec![at]), Bound::Excluded(vec![at]), Bound::Unbounded];
    for from in bounds(3) {
        for to in bounds(6).into_iter().chain(bounds(3)).chain(bounds(2)) {
            let range = KeyRange { from: from.clone(), to: to.clone() };
            let first = match from {
                Bound::Included(_) => 3,
                Bound::Excluded(_) => 4,
                Bound::Unbounded => 0,
            };
            let end = match &to {
                Bound::Included(to) => to[0] + 1,
                Bound::Excluded(to) => to[0],
                Bound::Unbounded => 10,
            };
            let mut expected: Vec<Vec<u8>> = (first..end).map(|n| vec![n]).collect();
            assert_eq!(keys(&*engine, A, &range, Direction::Forward).await, expected, "{range:?}");
            expected.reverse();
            assert_eq!(keys(&*engine, A, &range, Direction::Backward).await, expected, "{range:?}");
        }
    }
}

async fn pages_follow_each_other_without_gap_or_repeat(desk: Desk) {
    let engine = desk.engine();
    commit(&engine, (0..25u8).map(|n| put(A, [1, n], [n])).collect()).await;
    commit(&engine, vec![put(A, [0], b"before"), put(A, [2], b"after")]).await;
    for direction in [Direction::Forward, Direction::Backward] {
        let (mut range, mut met, mut pages) = (KeyRange::prefix(&[1]), Vec::new(), 0);
        loop {
            let page = engine.scan(A, &range, direction, 10).await.unwrap();
            pages += 1;
            met.extend(page.rows.iter().map(|(key, _)| key[1]));
            if !page.more {
                break;
            }
            assert_eq!(page.rows.len(), 10, "a page with more behind it is full");
            let last = Bound::Excluded(page.rows.last().unwrap().0.to_vec());
            match direction {
                Direction::Forward => range.from = last,
                Direction::Backward => range.to = last,
            }
        }
        assert_eq!(pages, 3);
        if direction == Direction::Backward {
            met.reverse();
        }
        assert_eq!(met, (0..25).collect::<Vec<u8>>());
    }
    let exact = engine.scan(A, &KeyRange::prefix(&[1]), Direction::Forward, 25).await.unwrap();
    assert!(!exact.more, "nothing of this range is behind the last row");
}

async fn a_limit_of_nothing_still_says_whether_there_is_more(desk: Desk) {
    let engine = desk.engine();
    commit(&engine, vec![put(A, b"a", b"v")]).await;
    let page = engine.scan(A, &ALL, Direction::Forward, 0).await.unwrap();
    assert!(page.rows.is_empty() && page.more);
    let page = engine.scan(B, &ALL, Direction::Backward, 0).await.unwrap();
    assert!(page.rows.is_empty() && !page.more);
}

async fn a_join_brings_the_rows_that_the_index_names(desk: Desk) {
    let engine = desk.engine();
    commit(
        &engine,
        vec![
            put(A, b"room1-e1", b"i1"),
            put(A, b"room1-e2", b"i2"),
            put(A, b"room1-e3", b"i3"),
            put(A, b"x", b"too short to name anything"),
            put(B, b"e1", b"one"),
            put(B, b"e3", b"three"),
        ],
    )
    .await;
    let page = engine.scan_join(A, &ALL, Direction::Forward, 9, B, 2).await.unwrap();
    let values: Vec<Option<&[u8]>> = page.rows.iter().map(|(_, value)| value.as_deref()).collect();
    assert_eq!(values, [Some(&b"one"[..]), None, Some(b"three"), None]);
    assert_eq!(page.rows[0].0, (Bytes::from("room1-e1"), Bytes::from("i1")), "the index row too");
    assert!(!page.more);

    let room = KeyRange::prefix(b"room1");
    let page = engine.scan_join(A, &room, Direction::Backward, 1, B, 2).await.unwrap();
    assert_eq!(page.rows[0].1.as_deref(), Some(&b"three"[..]));
    assert!(page.more);
}

async fn many_reads_answer_in_the_order_asked(desk: Desk) {
    let engine = desk.engine();
    commit(&engine, vec![put(A, b"1", b"a1"), put(B, b"1", b"b1"), put(A, b"2", b"a2")]).await;
    let wanted = [(A, "2"), (B, "1"), (A, "none"), (A, "1"), (A, "2")];
    let wanted = wanted.map(|(space, key)| (space, key.as_bytes().to_vec()));
    let found = engine.get_many(&wanted).await.unwrap();
    let found: Vec<Option<&[u8]>> = found.iter().map(Option::as_deref).collect();
    assert_eq!(found, [Some(&b"a2"[..]), Some(b"b1"), None, Some(b"a1"), Some(b"a2")]);
    assert!(engine.get_many(&[]).await.unwrap().is_empty());
    let endless = vec![7; 5000];
    assert_eq!(engine.get(A, &endless).await.unwrap(), None, "a key no engine takes is not there");
}

async fn the_last_write_to_a_key_wins(desk: Desk) {
    let engine = desk.engine();
    let big = vec![1; 100_000];
    let small = Some(Bytes::from("small"));
    let batch =
        vec![put(A, b"k", &big), put(A, b"k", b"small"), put(A, b"d", b"1"), delete(A, b"d")];
    commit(&engine, batch).await;
    assert_eq!(engine.get(A, b"k").await.unwrap(), small);
    assert_eq!(engine.get(A, b"d").await.unwrap(), None);
    commit(&engine, vec![delete(A, b"k"), put(A, b"k", &big)]).await;
    assert_eq!(engine.get(A, b"k").await.unwrap().unwrap(), big);
}

async fn a_deleted_row_is_gone(desk: Desk) {
    let engine = desk.engine();
    commit(&engine, vec![put(A, b"a", b"1"), put(A, b"b", vec![2; 70_000])]).await;
    commit(&engine, vec![delete(A, b"a"), delete(A, b"b"), delete(A, b"never there")]).await;
    assert_eq!(engine.get(A, b"a").await.unwrap(), None);
    assert_eq!(engine.get(A, b"b").await.unwrap(), None);
    assert!(keys(&*engine, A, &ALL, Direction::Forward).await.is_empty());
}

async fn a_batch_whose_precondition_fails_is_left_out_whole(desk: Desk) {
    let engine = desk.engine();
    commit(&engine, vec![put(A, b"there", b"1")]).await;
    let present = |key: &[u8]| Precondition::Present(A, key.to_vec());
    let absent = |key: &[u8]| Precondition::Absent(A, key.to_vec());
    let batch = |preconditions, key: &str| Batch {
        preconditions,
        writes: vec![put(A, format!("{key}1"), b""), put(B, format!("{key}2"), b"")],
    };
    let answers = engine
        .commit(vec![
            batch(vec![present(b"there"), absent(b"not there")], "good"),
            batch(vec![present(b"there"), present(b"not there")], "bad"),
            batch(vec![absent(b"there"), present(b"not there")], "worse"),
            batch(vec![Precondition::Absent(B, b"there".to_vec())], "other space"),
        ])
        .await
        .unwrap();
    let refused = |precondition| Err(Conflict { precondition });
    assert_eq!(answers, [Ok(()), refused(1), refused(0), Ok(())]);
    assert_eq!(
        keys(&*engine, A, &ALL, Direction::Forward).await,
        ["good1", "other space1", "there"]
    );
    assert_eq!(keys(&*engine, B, &ALL, Direction::Forward).await, ["good2", "other space2"]);
}

async fn a_precondition_sees_the_batches_before_it(desk: Desk) {
    let engine = desk.engine();
    let claim = |value: &str| Batch {
        preconditions: vec![Precondition::Absent(A, b"k".to_vec())],
        writes: vec![put(A, b"k", value)],
    };
    let release = Batch {
        preconditions: vec![Precondition::Present(A, b"k".to_vec())],
        writes: vec![delete(A, b"k")],
    };
    let conflict = Err(Conflict { precondition: 0 });
    let batches = vec![release.clone(), claim("1"), claim("2"), release, claim("3")];
    let answers = engine.commit(batches).await.unwrap();
    assert_eq!(answers, [conflict, Ok(()), conflict, Ok(()), Ok(())]);
    assert_eq!(engine.get(A, b"k").await.unwrap(), Some(Bytes::from("3")));
}

/// Bytes that differ from place to place, so that a swapped part shows.
fn value(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at / 251) as u8 ^ (at % 251) as u8 ^ seed).collect()
}

async fn values_of_every_size_come_back(mut desk: Desk) {
    let sizes = [0, 1, 2000, 4096, 16_384, 16_385, 65_536, 1_000_000, VALUE_BYTES_MAX];
    let engine = desk.engine();
    for (n, bytes) in (0..).zip(sizes) {
        commit(&engine, vec![put(A, [n], value(bytes, n))]).await;
    }
    drop(engine);
    desk.reopen();
    let engine = desk.engine();
    for (n, bytes) in (0..).zip(sizes) {
        let found = engine.get(A, &[n]).await.unwrap().unwrap();
        assert!(found == value(bytes, n), "the value of {bytes} bytes");
    }
    let page = engine.scan(A, &ALL, Direction::Backward, 100).await.unwrap();
    let scanned: Vec<usize> = page.rows.iter().rev().map(|(_, value)| value.len()).collect();
    assert_eq!(scanned, sizes);
}

async fn what_is_too_long_is_refused_before_anything_is_written(desk: Desk) {
    let engine = desk.engine();
    let longest = vec![b'k'; KEY_BYTES_MAX];
    commit(&engine, vec![put(A, &longest, b"v")]).await;
    assert_eq!(engine.get(A, &longest).await.unwrap(), Some(Bytes::from("v")));

    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    let huge = vec![0; VALUE_BYTES_MAX + 1];
    for (bad, bytes) in [
        (put(A, &long, b"v"), long.len()),
        (delete(A, &long), long.len()),
        (put(A, b"k", &huge), huge.len()),
    ] {
        let answer =
            engine.commit(vec![writes(vec![put(B, b"good", b"v")]), writes(vec![bad])]).await;
        assert!(matches!(answer, Err(EngineError::KeyTooLong(n)) if n == bytes), "{answer:?}");
    }
    assert_eq!(engine.get(B, b"good").await.unwrap(), None, "the good batch neither");
    commit(&engine, vec![put(B, b"good", b"the engine goes on")]).await;
}

async fn a_snapshot_does_not_move_where_the_engine_isolates(desk: Desk) {
    let engine = desk.engine();
    commit(&engine, vec![put(A, b"a", b"old"), put(A, b"b", b"old")]).await;
    let snapshot = engine.snapshot().await.unwrap();
    commit(&engine, vec![put(A, b"a", b"new"), delete(A, b"b"), put(A, b"c", b"new")]).await;
    assert_eq!(engine.get(A, b"a").await.unwrap(), Some(Bytes::from("new")));
    if engine.isolates() {
        assert_eq!(snapshot.get(A, b"a").await.unwrap(), Some(Bytes::from("old")));
        assert_eq!(keys(&*snapshot, A, &ALL, Direction::Forward).await, ["a", "b"]);
        let many = snapshot.get_many(&[(A, b"b".to_vec()), (A, b"c".to_vec())]).await.unwrap();
        assert_eq!(many, [Some(Bytes::from("old")), None]);
    } else {
        assert_eq!(snapshot.get(A, b"a").await.unwrap(), Some(Bytes::from("new")));
    }
    drop(snapshot);
    assert_eq!(keys(&*engine, A, &ALL, Direction::Forward).await, ["a", "c"]);
}

async fn what_was_acknowledged_is_there_after_reopening(mut desk: Desk) {
    for round in 0..5u8 {
        let engine = desk.engine();
        for n in 0..round {
            let found = engine.get(A, &[n]).await.unwrap().unwrap();
            assert!(found == value(20_000, n), "what round {n} wrote");
        }
        let gone = delete(B, &[round.wrapping_sub(1)]);
        commit(&engine, vec![put(A, [round], value(20_000, round)), put(B, [round], b""), gone])
            .await;
        drop(engine);
        desk.reopen();
    }
    assert_eq!(keys(&*desk.engine(), B, &ALL, Direction::Forward).await, [&[4][..]]);
    let rows = desk.engine().stats().await.unwrap().rows;
    assert!(rows.is_none_or(|rows| rows == 6), "{rows:?}");
}

async fn readers_never_see_half_a_batch_where_the_engine_isolates(desk: Desk) {
    let engine = desk.engine();
    commit(&engine, (0..20u8).map(|n| put(A, [n], [0])).collect()).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let engine = Arc::clone(&engine);
        readers.spawn(async move {
            let mut last = 0;
            while last < 60 {
                let snapshot = engine.snapshot().await.unwrap();
                let page = snapshot.scan(A, &ALL, Direction::Forward, 100).await.unwrap();
                assert_eq!(page.rows.len(), 20);
                let first = page.rows[0].1[0];
                if engine.isolates() {
                    assert!(page.rows.iter().all(|(_, value)| value[0] == first), "half a batch");
                }
                assert!(first >= last, "time went backwards");
                last = first;
            }
        });
    }
    for round in 1..=60u8 {
        commit(&engine, (0..20u8).map(|n| put(A, [n], [round])).collect()).await;
    }
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
}

/// A long value may be stored in parts: no reader may get parts of two values.
async fn a_value_is_replaced_whole_under_its_readers(desk: Desk) {
    const BYTES: usize = 50_000;
    let engine = desk.engine();
    commit(&engine, vec![put(A, b"k", vec![0; BYTES])]).await;
    let mut readers = tokio::task::JoinSet::new();
    readers.spawn({
        let engine = Arc::clone(&engine);
        async move {
            let mut last = 0;
            while last < 40 {
                let value = engine.get(A, b"k").await.unwrap().unwrap();
                assert!(value.len() == BYTES && value.iter().all(|byte| *byte == value[0]));
                last = value[0];
                let page = engine.scan(A, &ALL, Direction::Forward, 9).await.unwrap();
                let value = &page.rows[0].1;
                assert!(value.len() == BYTES && value.iter().all(|byte| *byte == value[0]));
            }
        }
    });
    for round in 1..=40u8 {
        commit(&engine, vec![put(A, b"k", vec![round; BYTES])]).await;
    }
    readers.join_next().await.unwrap().unwrap();
}

async fn a_commit_is_finished_even_if_nobody_waits(desk: Desk) {
    let engine = desk.engine();
    let mut left = engine.commit(vec![writes(vec![put(A, b"k", b"v")])]);
    // Once polled it has begun.
    let first_poll = std::future::poll_fn(|context| {
        let _ = left.as_mut().poll(context);
        std::task::Poll::Ready(())
    });
    first_poll.await;
    drop(left);
    commit(&engine, vec![put(A, b"later", b"v")]).await;
    assert_eq!(keys(&*engine, A, &ALL, Direction::Forward).await, ["k", "later"]);
}

async fn a_copy_opens_as_an_engine(desk: Desk) {
    let engine = desk.engine();
    commit(&engine, (0..200u8).map(|n| put(A, [n], value(3000, n))).collect()).await;
    commit(&engine, vec![put(LAST, b"big", value(100_000, 9)), delete(A, &[7])]).await;
    let copy = folder();
    engine.copy_to(copy.path()).await.unwrap();
    commit(&engine, vec![put(A, b"later", b"not in the copy")]).await;

    let copied = desk.open_copy(&copy);
    assert_eq!(keys(&*copied, A, &ALL, Direction::Forward).await.len(), 199);
    assert!(copied.get(A, &[8]).await.unwrap().unwrap() == value(3000, 8));
    assert!(copied.get(LAST, b"big").await.unwrap().unwrap() == value(100_000, 9));
    assert_eq!(copied.get(A, b"later").await.unwrap(), None);
    commit(&copied, vec![put(A, b"x", b"a copy can be written")]).await;
}

async fn an_empty_commit_is_answered(desk: Desk) {
    let engine = desk.engine();
    assert!(engine.commit(vec![]).await.unwrap().is_empty());
    assert_eq!(engine.commit(vec![Batch::default()]).await.unwrap(), [Ok(())]);
    assert!(engine.stats().await.unwrap().rows.is_none_or(|rows| rows == 0));
}
