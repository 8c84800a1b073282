//! Random commits, scans and reopenings, against a plain map.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{A, ALL, B, Desk, LAST, value};
use crate::{
    Batch, Conflict, Direction, KEY_BYTES_MAX, KeyRange, Kind, Precondition, Space, Write,
};

/// One thing that happens to a store.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Batch>),
    Reopen,
    Scan(Space, KeyRange, Direction, usize),
}

type Model = BTreeMap<(Space, Vec<u8>), Vec<u8>>;

fn a_space() -> impl Strategy<Value = Space> {
    prop_oneof![Just(A), Just(B), Just(LAST)]
}

/// Few keys, so that they collide; among them the shortest and the longest.
fn a_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => Just(vec![]),
        1 => Just(vec![255; KEY_BYTES_MAX]),
        8 => prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 1..4),
    ]
}

fn a_batch() -> impl Strategy<Value = Batch> {
    let size = prop_oneof![8 => 0..100usize, 1 => 2000..5000usize, 1 => 16_000..40_000usize];
    let written = (size, any::<u8>()).prop_map(|(bytes, seed)| value(bytes, seed));
    let write = prop_oneof![
        3 => (a_space(), a_key(), written).prop_map(|(s, k, v)| Write::Put(s, k, v)),
        1 => (a_space(), a_key()).prop_map(|(s, k)| Write::Delete(s, k)),
    ];
    let precondition = (a_space(), a_key(), any::<bool>()).prop_map(|(space, key, there)| {
        if there { Precondition::Present(space, key) } else { Precondition::Absent(space, key) }
    });
    (prop::collection::vec(precondition, 0..3), prop::collection::vec(write, 0..12))
        .prop_map(|(preconditions, writes)| Batch { preconditions, writes })
}

fn a_bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        a_key().prop_map(Bound::Included),
        a_key().prop_map(Bound::Excluded),
        Just(Bound::Unbounded)
    ]
}

fn a_step() -> impl Strategy<Value = Step> {
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Backward)];
    let range = (a_bound(), a_bound()).prop_map(|(from, to)| KeyRange { from, to });
    prop_oneof![
        6 => prop::collection::vec(a_batch(), 1..4).prop_map(Step::Commit),
        6 => (a_space(), range, direction, 0..20usize)
            .prop_map(|(space, range, direction, limit)| Step::Scan(space, range, direction, limit)),
        1 => Just(Step::Reopen),
    ]
}

fn model_commit(model: &mut Model, batch: &Batch) -> Result<(), Conflict> {
    let fails = |precondition: &Precondition| match precondition {
        Precondition::Absent(space, key) => model.contains_key(&(*space, key.clone())),
        Precondition::Present(space, key) => !model.contains_key(&(*space, key.clone())),
    };
    if let Some(precondition) = batch.preconditions.iter().position(fails) {
        return Err(Conflict { precondition });
    }
    for write in batch.writes.clone() {
        match write {
            Write::Put(space, key, value) => model.insert((space, key), value),
            Write::Delete(space, key) => model.remove(&(space, key)),
        };
    }
    Ok(())
}

fn in_range(key: &[u8], range: &KeyRange) -> bool {
    let after = match &range.from {
        Bound::Included(from) => key >= from.as_slice(),
        Bound::Excluded(from) => key > from.as_slice(),
        Bound::Unbounded => true,
    };
    let before = match &range.to {
        Bound::Included(to) => key <= to.as_slice(),
        Bound::Excluded(to) => key < to.as_slice(),
        Bound::Unbounded => true,
    };
    after && before
}

async fn step(desk: &mut Desk, model: &mut Model, step: Step) -> Result<(), TestCaseError> {
    match step {
        Step::Commit(batches) => {
            let expected: Vec<_> = batches.iter().map(|batch| model_commit(model, batch)).collect();
            prop_assert_eq!(desk.engine().commit(batches).await.unwrap(), expected);
        }
        Step::Reopen => desk.reopen(),
        Step::Scan(space, range, direction, limit) => {
            let page = desk.engine().scan(space, &range, direction, limit).await.unwrap();
            let mut rows: Vec<(Bytes, Bytes)> = model
                .iter()
                .filter(|((of, key), _)| *of == space && in_range(key, &range))
                .map(|((_, key), value)| (key.clone().into(), value.clone().into()))
                .collect();
            if direction == Direction::Backward {
                rows.reverse();
            }
            prop_assert_eq!(page.more, rows.len() > limit);
            rows.truncate(limit);
            prop_assert!(page.rows == rows, "{:?} of {:?} {:?}", direction, space, range);
        }
    }
    Ok(())
}

/// Random commits, scans and reopenings, against a plain map.
fn agrees_with_a_plain_map(desk: impl Fn() -> Desk) {
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let checked = TestRunner::new(config).run(&prop::collection::vec(a_step(), 1..30), |steps| {
        runtime.block_on(async {
            let (mut desk, mut model) = (desk(), Model::new());
            for next in steps {
                step(&mut desk, &mut model, next).await?;
            }
            desk.reopen();
            for space in [A, B, LAST] {
                let all = Step::Scan(space, ALL, Direction::Forward, usize::MAX);
                step(&mut desk, &mut model, all).await?;
            }
            Ok(())
        })
    });
    checked.unwrap();
}

#[test]
fn memory_agrees_with_a_plain_map() {
    agrees_with_a_plain_map(Desk::memory);
}

#[test]
fn lmdb_agrees_with_a_plain_map() {
    agrees_with_a_plain_map(|| Desk::disk(Kind::Lmdb));
}

#[test]
fn sled_agrees_with_a_plain_map() {
    agrees_with_a_plain_map(|| Desk::disk(Kind::Sled));
}
