//! What the recorded process does, and what must be there afterwards.
//!
//! Batch number `n` writes a marker, two rows of varied length (every seventh as long as the longest
//! event), the number itself under one key that all batches replace, and removes the two rows of the
//! batch ten before it. So a batch that is half there, or there without the ones before it, shows.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use appliance_engine::{
    Batch, Direction, Engine, EngineError, KeyRange, Kind, Options, Space, Write, open,
};

use crate::seeded::Seeded;

const MARKERS: Space = Space(1);
const ROWS: Space = Space(2);
const NEWEST: Space = Space(3);
const ROWS_REMOVED_AFTER: u64 = 10;
/// The file, beside the store, to which a number is written once its batch is acknowledged.
pub const ACKNOWLEDGED: &str = "acknowledged";
const STORE: &str = "store";

fn row_key(number: u64, row: u64) -> Vec<u8> {
    // The second row is far from the first.
    let place = if row == 0 { number } else { u64::MAX - number };
    place.to_be_bytes().to_vec()
}

fn row_value(number: u64, row: u64) -> Vec<u8> {
    let mut dice = Seeded(number * 2 + row);
    let bytes = match number % 7 {
        0 => 64_000,
        1 | 2 => 4_000 + dice.below(3_000),
        _ => 100 + dice.below(900),
    };
    (0..bytes / 8 + 1).flat_map(|_| dice.next().to_le_bytes()).collect()
}

pub fn batch(number: u64) -> Batch {
    let name = number.to_be_bytes().to_vec();
    let mut writes = vec![
        Write::Put(ROWS, row_key(number, 0), row_value(number, 0)),
        Write::Put(MARKERS, name.clone(), vec![]),
        Write::Put(ROWS, row_key(number, 1), row_value(number, 1)),
        Write::Put(NEWEST, b"newest".to_vec(), name),
    ];
    if let Some(old) = number.checked_sub(ROWS_REMOVED_AFTER) {
        writes.extend([0, 1].map(|row| Write::Delete(ROWS, row_key(old, row))));
    }
    Batch { preconditions: vec![], writes }
}

pub fn open_store(kind: Kind, root: &Path) -> Arc<dyn Engine> {
    let options = Options { verify_bytes_max: u64::MAX, ..Options::default() };
    open(kind, &root.join(STORE), &options).unwrap_or_else(|error| panic!("{error}"))
}

/// Commits one to four batches at a time, and writes down what was acknowledged.
pub async fn work(kind: Kind, root: &Path, batches: u64, dice: &mut Seeded) {
    let engine = open_store(kind, root);
    let mut list =
        OpenOptions::new().create(true).append(true).open(root.join(ACKNOWLEDGED)).unwrap();
    let mut next = 0;
    while next < batches {
        let together = next..next + 1 + dice.below(4) as u64;
        next = together.end;
        let answers = engine.commit(together.clone().map(batch).collect()).await.unwrap();
        assert!(answers.iter().all(Result::is_ok));
        list.write_all(format!("{}\n", next - 1).as_bytes()).unwrap();
    }
}

/// Checks that the store in `root` holds the batches up to some number, each of them whole, and that this
/// number is not below the acknowledged one. Returns how many batches there are.
pub async fn check(engine: &dyn Engine, acknowledged: Option<u64>) -> Result<u64, String> {
    let all = KeyRange { from: Bound::Unbounded, to: Bound::Unbounded };
    let scan = async |space| {
        let page = engine.scan(space, &all, Direction::Forward, 1_000_000).await;
        page.map_err(|error: EngineError| error.to_string())
    };
    let markers = scan(MARKERS).await?.rows;
    let count = markers.len() as u64;
    if let Some((place, _)) =
        (0u64..).zip(&markers).find(|(n, (key, _))| key[..] != n.to_be_bytes())
    {
        return Err(format!("batch {place} is missing before others"));
    }
    if acknowledged.is_some_and(|newest| newest >= count) {
        return Err(format!("{acknowledged:?} was acknowledged, and {count} batches are there"));
    }
    let newest = engine.get(NEWEST, b"newest").await.map_err(|error| error.to_string())?;
    let expected = count.checked_sub(1).map(u64::to_be_bytes);
    if newest.as_deref() != expected.as_ref().map(|number| &number[..]) {
        return Err(format!("the newest batch is {newest:?}, of {count}"));
    }
    let mut rows = 0;
    for number in count.saturating_sub(ROWS_REMOVED_AFTER)..count {
        for row in [0, 1] {
            let found = engine.get(ROWS, &row_key(number, row)).await;
            match found.map_err(|error| error.to_string())? {
                Some(value) if value[..] == row_value(number, row) => rows += 1,
                Some(_) => return Err(format!("row {row} of batch {number} has wrong bytes")),
                None => return Err(format!("row {row} of batch {number} is missing")),
            }
        }
    }
    match scan(ROWS).await?.rows.len() {
        there if there == rows => Ok(count),
        there => Err(format!("{there} rows are there instead of {rows}")),
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
