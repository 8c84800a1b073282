//! Stores that a disk or a person damaged: cut off, zeroed, overwritten, with flipped bits.
//!
//! Whatever happened to the files, opening and reading end in a refusal, in an error, or in bytes that
//! carry their own proof or lack it; the process never dies of it. Each case runs in a process of its
//! own, so that dying would show.
//!
//! Values carry a checksum here, as the ledger's seal does: what an engine without checksums hands out
//! wrong must be wrong in a way that the seal notices.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise, and its child reports on its output"
)]

use std::fs;
use std::io::{Read as _, Seek, SeekFrom, Write as _};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use appliance_engine::{
    Batch, Direction, Engine, EngineError, KeyRange, Kind, OpenError, Options, Space, Write, open,
};

const ROWS: u32 = 300;
const SPACES: [Space; 2] = [Space(3), Space(200)];
const ALL: KeyRange = KeyRange { from: Bound::Unbounded, to: Bound::Unbounded };

/// A small generator with a seed, so that a failing case can be run again.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        // Constants of the "splitmix64" sequence.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

fn key(number: u32) -> Vec<u8> {
    // Spread, so that neighbours in time are not neighbours on the disk.
    number.wrapping_mul(2_654_435_761).to_be_bytes().to_vec()
}

fn sealed(space: Space, key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut sum = 0xCBF2_9CE4_8422_2325_u64;
    for byte in [space.0].iter().chain(key).chain(body) {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    [&sum.to_be_bytes()[..], body].concat()
}

/// Whether the ledger's seal would accept this value under this key.
fn seal_holds(space: Space, key: &[u8], value: &[u8]) -> bool {
    value.get(8..).is_some_and(|body| sealed(space, key, body) == value)
}

/// Mostly small values, some on pages of their own, a few as long as the longest event.
fn body(number: u32) -> Vec<u8> {
    let bytes = match number % 20 {
        0 => 64_000,
        1..4 => 5_000,
        _ => 200 + number as usize % 700,
    };
    Seeded(u64::from(number)).bytes(bytes)
}

/// Makes a store with a history: pages were replaced and freed.
async fn make(kind: Kind, folder: &Path) {
    let engine = open(kind, folder, &Options::default()).unwrap();
    for start in (0..ROWS).step_by(50) {
        let mut batch = Batch::default();
        for number in start..start + 50 {
            for space in SPACES {
                let (key, body) = (key(number), body(number));
                let value = sealed(space, &key, &body);
                batch.writes.push(Write::Put(space, key, value));
            }
            if number % 7 == 3 {
                batch.writes.push(Write::Delete(SPACES[0], key(number - 3)));
            }
        }
        assert_eq!(engine.commit(vec![batch]).await.unwrap(), [Ok(())]);
    }
}

fn rows_expected(space: Space) -> usize {
    let deleted = (0..ROWS).filter(|number| number % 7 == 3).count();
    if space == SPACES[0] { ROWS as usize - deleted } else { ROWS as usize }
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// The file ends earlier.
    Cut,
    /// Pages are zeros.
    Zeroed,
    /// The end is random, from somewhere on.
    GarbageTail,
    /// Pages are random.
    Garbage,
    /// One bit is another.
    FlippedBit,
}

/// The file that holds the data, and how much of it is in use.
fn data_file(kind: Kind, folder: &Path) -> (PathBuf, u64) {
    match kind {
        Kind::Lmdb => {
            let path = folder.join("lmdb/data.mdb");
            let mut heads = [0; 8192];
            fs::File::open(&path).unwrap().read_exact(&mut heads).unwrap();
            // The last page of the newer head.
            let last =
                |at: usize| u64::from_ne_bytes(heads[at + 136..at + 144].try_into().unwrap());
            (path, (last(0).max(last(4096)) + 1) * 4096)
        }
        Kind::Sled => {
            let path = folder.join("sled/db");
            let bytes = fs::metadata(&path).unwrap().len();
            (path, bytes)
        }
    }
}

fn harm(kind: Kind, folder: &Path, harm: Harm, dice: &mut Seeded) {
    let (path, used) = data_file(kind, folder);
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let pages = used / 4096;
    match harm {
        Harm::Cut => file.set_len(dice.below(used)).unwrap(),
        Harm::Zeroed | Harm::Garbage => {
            for _ in 0..=dice.below(4) {
                file.seek(SeekFrom::Start(dice.below(pages) * 4096)).unwrap();
                let page = match harm {
                    Harm::Zeroed => vec![0; 4096],
                    _ => dice.bytes(4096),
                };
                file.write_all(&page).unwrap();
            }
        }
        Harm::GarbageTail => {
            let from = used - dice.below(used / 4) - 1;
            file.seek(SeekFrom::Start(from)).unwrap();
            // Beyond the part in use as well.
            let tail = usize::try_from(used - from).unwrap() + 5000;
            file.write_all(&dice.bytes(tail)).unwrap();
        }
        Harm::FlippedBit => {
            for _ in 0..=dice.below(3) {
                let at = dice.below(used);
                let mut byte = [0];
                file.seek(SeekFrom::Start(at)).unwrap();
                file.read_exact(&mut byte).unwrap();
                byte[0] ^= 1 << dice.below(8);
                file.seek(SeekFrom::Start(at)).unwrap();
                file.write_all(&byte).unwrap();
            }
        }
    }
}

const HARMS: [Harm; 5] =
    [Harm::Cut, Harm::Zeroed, Harm::GarbageTail, Harm::Garbage, Harm::FlippedBit];

/// What reading a store found.
#[derive(Debug, Default)]
struct Found {
    errors: u32,
    rejected_by_seal: u32,
    whole: usize,
    missing: usize,
}

/// Reads everything in every way. Wrong bytes under a seal that holds would be the one unforgivable end.
async fn read_all(engine: &dyn Engine) -> Found {
    let mut found = Found::default();
    for space in SPACES {
        let mut whole = 0;
        for number in 0..ROWS {
            let key = key(number);
            match engine.get(space, &key).await {
                Ok(Some(value)) if seal_holds(space, &key, &value) => {
                    assert_eq!(value[8..], body(number), "wrong bytes with a good seal");
                    whole += 1;
                }
                Ok(Some(_)) => found.rejected_by_seal += 1,
                Ok(None) => {}
                Err(_) => found.errors += 1,
            }
        }
        found.whole += whole;
        found.missing += rows_expected(space).saturating_sub(whole);
        for direction in [Direction::Forward, Direction::Backward] {
            match engine.scan_join(space, &ALL, direction, 10_000, SPACES[0], 4).await {
                Ok(page) => {
                    let bad = |((key, value), _): &&((bytes::Bytes, bytes::Bytes), _)| {
                        !seal_holds(space, key, value)
                    };
                    found.rejected_by_seal += page.rows.iter().filter(bad).count() as u32;
                }
                Err(EngineError::Damaged(_) | EngineError::Failed(_)) => found.errors += 1,
                Err(other) => panic!("not an answer to reading: {other}"),
            }
        }
    }
    found
}

/// What became of one case.
#[derive(Debug)]
#[expect(dead_code, reason = "the numbers are for whoever reads about a failed case")]
enum End {
    /// Not opened, with this sentence.
    Refused(String),
    /// Opened and read.
    Read { errors: u32, rejected_by_seal: u32, whole: usize, missing: usize },
    /// The process died.
    Died(ExitStatus),
}

/// The child's work: open, read, and say in one line how it went.
/// With `kill`, an open store is never closed.
async fn look(kind: Kind, folder: &Path, verify_bytes_max: u64, kill: bool) {
    match open(kind, folder, &Options { verify_bytes_max, ..Options::default() }) {
        Err(error @ OpenError::Damaged { .. }) => println!("END refused {error}"),
        Err(other) => panic!("damage was taken for something else: {other}"),
        Ok(_) if kill => std::process::abort(),
        Ok(engine) => {
            let Found { errors, rejected_by_seal, whole, missing } = read_all(&*engine).await;
            println!("END read {errors} {rejected_by_seal} {whole} {missing}");
        }
    }
}

/// How a child knows what it is to do.
const CHILD: &str = "WARDSTONE_TEST_DAMAGED_STORE";

/// In a child: does its work and says true.
fn is_child(kill: bool) -> bool {
    let Ok(work) = std::env::var(CHILD) else { return false };
    let mut parts = work.splitn(3, ' ');
    let kind = parts.next().unwrap().parse().unwrap();
    let verify_bytes_max = parts.next().unwrap().parse().unwrap();
    let folder = PathBuf::from(parts.next().unwrap());
    runtime().block_on(look(kind, &folder, verify_bytes_max, kill));
    true
}

fn run_child(test: &str, kind: Kind, folder: &Path, verify_bytes_max: u64) -> End {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{kind} {verify_bytes_max} {}", folder.display()))
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split_once("END ").map(|(_, end)| end));
    match line.and_then(|line| line.split_once(' ')) {
        Some(("refused", sentence)) if output.status.success() => End::Refused(sentence.to_owned()),
        Some(("read", numbers)) if output.status.success() => {
            let mut numbers = numbers.split(' ').map(|number| number.parse::<usize>().unwrap());
            let mut next = || numbers.next().unwrap();
            let (errors, rejected_by_seal) = (next() as u32, next() as u32);
            End::Read { errors, rejected_by_seal, whole: next(), missing: next() }
        }
        _ => {
            println!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
            End::Died(output.status)
        }
    }
}

/// Copies a store without its holes.
fn copy_store(kind: Kind, from: &Path, to: &Path) {
    let (data, used) = data_file(kind, from);
    fs::create_dir_all(to.join(kind.name())).unwrap();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(from.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                fs::create_dir_all(to.join(&path)).unwrap();
                folders.push(path);
                continue;
            }
            let whole = fs::File::open(entry.path()).unwrap();
            let bytes = whole.metadata().unwrap().len();
            let copied = if entry.path() == data { used } else { bytes };
            let mut copy = fs::File::create(to.join(&path)).unwrap();
            std::io::copy(&mut whole.take(copied), &mut copy).unwrap();
            copy.set_len(bytes).unwrap();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Harms copies of one store in every way and looks at each from a distance.
fn campaign(test: &str, kind: Kind, cases: u64, judge: impl Fn(Harm, &End) -> bool) {
    let top = tempfile::tempdir().unwrap();
    let whole = top.path().join("whole");
    runtime().block_on(make(kind, &whole));
    let mut bad = Vec::new();
    for done in HARMS {
        for seed in 0..cases {
            let folder = top.path().join("harmed");
            copy_store(kind, &whole, &folder);
            harm(kind, &folder, done, &mut Seeded(seed));
            let end = run_child(test, kind, &folder, Options::default().verify_bytes_max);
            println!("{kind} {done:?} seed {seed}: {end:?}");
            if !judge(done, &end) {
                bad.push(format!("{done:?} seed {seed}: {end:?}"));
            }
            fs::remove_dir_all(&folder).unwrap();
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn lmdb_refuses_damage_or_leaves_it_to_the_seal() {
    if is_child(false) {
        return;
    }
    campaign(
        "lmdb_refuses_damage_or_leaves_it_to_the_seal",
        Kind::Lmdb,
        12,
        |done, end| match end {
            End::Refused(sentence) => sentence.contains("wardstone store import"),
            End::Died(_) => false,
            // A file that was cut is never opened.
            End::Read { .. } if done == Harm::Cut => false,
            // What is not there any more was missed by someone.
            End::Read { errors, rejected_by_seal, missing, .. } => {
                *missing == 0 || *errors > 0 || *rejected_by_seal > 0
            }
        },
    );
}

/// sled cuts a damaged tail off without a word: that rows are missing is found by the ledger, which keeps
/// its newest position in a file of its own.
#[test]
fn sled_answers_damage_without_dying() {
    if is_child(false) {
        return;
    }
    campaign("sled_answers_damage_without_dying", Kind::Sled, 8, |_, end| match end {
        End::Refused(sentence) => sentence.contains("wardstone store import"),
        End::Read { rejected_by_seal, .. } => *rejected_by_seal == 0,
        End::Died(_) => false,
    });
}

/// The structure of a large store is not read at every opening, so a damaged page can end the process;
/// the third opening finds out why instead of dying again.
#[test]
fn a_store_that_keeps_killing_its_process_is_refused() {
    if is_child(true) {
        return;
    }
    let test = "a_store_that_keeps_killing_its_process_is_refused";
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("store");
    runtime().block_on(make(Kind::Lmdb, &folder));
    harm(Kind::Lmdb, &folder, Harm::GarbageTail, &mut Seeded(1));
    for _ in 0..2 {
        let end = run_child(test, Kind::Lmdb, &folder, 0);
        assert!(matches!(end, End::Died(_)), "killed while it was open: {end:?}");
    }
    for _ in 0..2 {
        let end = run_child(test, Kind::Lmdb, &folder, 0);
        assert!(matches!(end, End::Refused(_)), "looked at, and still refused after that: {end:?}");
    }
}

/// The same kills on a whole store change nothing.
#[test]
fn a_whole_store_survives_being_looked_at() {
    if is_child(true) {
        return;
    }
    let test = "a_whole_store_survives_being_looked_at";
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("store");
    runtime().block_on(make(Kind::Lmdb, &folder));
    for _ in 0..3 {
        assert!(matches!(run_child(test, Kind::Lmdb, &folder, 0), End::Died(_)));
    }
    let engine = open(Kind::Lmdb, &folder, &Options::default()).unwrap();
    let found = runtime().block_on(read_all(&*engine));
    assert_eq!((found.errors, found.rejected_by_seal, found.missing), (0, 0, 0));
    assert_eq!(found.whole, SPACES.map(rows_expected).iter().sum::<usize>());
}
