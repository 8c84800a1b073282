//! Cuts the power at random moments and looks at what is left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use appliance_engine::Kind;

use crate::image::{Disk, Luck};
use crate::recorder::{Bench, Call, work};
use crate::seeded::Seeded;
use crate::work::{self, ACKNOWLEDGED, check, open_store, runtime};

/// How many batches the recorded process commits.
const BATCHES: u64 = 90;
/// How many images are looked at: so many from the first creation, and so many from the work after it.
const IMAGES_OF_CREATION: usize = 12;
const IMAGES_OF_WORK: usize = 40;

/// The newest number in the list of acknowledged batches, as it was when the power went.
fn acknowledged(calls: &[Call], list: Option<u64>) -> Option<u64> {
    let mut lines = calls.iter().filter_map(|call| match call {
        Call::Write { file, bytes, .. } if Some(*file) == list => std::str::from_utf8(bytes).ok(),
        _ => None,
    });
    lines.next_back().map(|line| line.trim().parse().unwrap())
}

fn campaign(name: &str, kind: Kind) {
    if let Some((_, root)) = work() {
        runtime().block_on(work::work(kind, &root, BATCHES, &mut Seeded(5)));
        return;
    }
    let bench = Bench::new();
    let output = bench.run(name, kind.name());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = bench.calls();
    let is_list = |path: &Path| path.file_name().is_some_and(|name| name == ACKNOWLEDGED);
    let created =
        calls.iter().position(|call| matches!(call, Call::Create { path, .. } if is_list(path)));
    // The list is made when the store has been opened for the first time.
    let created = created.unwrap();
    let Call::Create { file: list, .. } = calls[created] else { unreachable!() };
    let syncs = calls.iter().filter(|call| matches!(call, Call::Sync { .. })).count();
    assert!(syncs > 40, "the recorder saw the work: {syncs} syncs");

    let root_inode = fs::metadata(bench.root()).unwrap().ino();
    let mut bad = Vec::new();
    let mut survived = 0;
    for seed in 0..IMAGES_OF_CREATION + IMAGES_OF_WORK {
        let mut dice = Seeded(seed as u64);
        let moment = match seed {
            0..IMAGES_OF_CREATION => dice.below(created),
            _ => created + dice.below(calls.len() - created + 1),
        };
        let luck = Luck {
            kept_percent: [0, 30, 70, 95, 100][seed % 5],
            torn_percent: [0, 30][seed / 5 % 2],
        };
        let mut disk = Disk::new(bench.root(), root_inode);
        calls[..moment].iter().for_each(|call| disk.call(call));
        let newest = acknowledged(&calls[..moment], Some(list));
        match look(kind, &disk, luck, &mut dice, newest) {
            Ok(count) => survived += count,
            Err(what) => bad.push(format!("seed {seed}, call {moment}, {luck:?}: {what}")),
        }
    }
    println!("{kind}: {} calls, {survived} batches found in all images", calls.len());
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(survived > BATCHES, "the images are not all empty");
}

/// Opens one image, checks it, goes on working with it, and opens it again.
fn look(
    kind: Kind,
    disk: &Disk,
    luck: Luck,
    dice: &mut Seeded,
    newest: Option<u64>,
) -> Result<u64, String> {
    let root = tempfile::tempdir().unwrap();
    disk.power_cut(root.path(), luck, dice);
    // The list is not part of the store.
    let _ = fs::remove_file(root.path().join(ACKNOWLEDGED));
    let opened = std::panic::catch_unwind(|| open_store(kind, root.path()));
    let engine =
        opened.map_err(|panic| format!("not opened: {:?}", panic.downcast_ref::<String>()))?;
    runtime().block_on(async {
        let count = check(&*engine, newest).await?;
        let committed = engine.commit(vec![work::batch(count)]).await;
        committed.map_err(|error| format!("the next commit: {error}"))?;
        drop(engine);
        let again = open_store(kind, root.path());
        let after = check(&*again, Some(count)).await;
        if after != Ok(count + 1) {
            return Err(format!("after one more commit: {after:?}"));
        }
        Ok(count)
    })
}

#[test]
fn lmdb_keeps_what_it_acknowledged_through_a_power_cut() {
    campaign("power_cut::lmdb_keeps_what_it_acknowledged_through_a_power_cut", Kind::Lmdb);
}

#[test]
fn sled_keeps_what_it_acknowledged_through_a_power_cut() {
    campaign("power_cut::sled_keeps_what_it_acknowledged_through_a_power_cut", Kind::Sled);
}
