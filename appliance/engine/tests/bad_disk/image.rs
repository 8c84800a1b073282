//! The disk as a power cut may leave it.
//!
//! Harsher than any file system in use: a name is safe when its folder was synced, a byte when its file
//! was. Of everything else any part may be there: changes of names in the order they were made within a
//! folder, changes of files page by page in any order, and a page torn between its sectors.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::recorder::Call;
use crate::seeded::Seeded;

const PAGE_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;

/// How much of what was not synced is there.
#[derive(Clone, Copy, Debug)]
pub struct Luck {
    /// So many pages of a hundred.
    pub kept_percent: usize,
    /// So many pages of a hundred are torn.
    pub torn_percent: usize,
}

/// A disk to which calls are made one after another.
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    /// Which node an inode is now; inodes are used again.
    inodes: HashMap<u64, usize>,
}

#[derive(Default)]
struct Node {
    /// What a power cut leaves in any case.
    safe: Content,
    /// What happened since.
    pending: Vec<Change>,
    /// The names as running processes see them.
    live_names: BTreeMap<OsString, usize>,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Sparse,
    names: BTreeMap<OsString, usize>,
    is_folder: bool,
}

/// Long files with holes: pages by number, and the length.
#[derive(Clone, Default)]
struct Sparse {
    pages: BTreeMap<u64, Vec<u8>>,
    length: u64,
}

enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Truncate(u64),
    Name(OsString, usize),
    Rename(OsString, OsString),
    Remove(OsString),
}

impl Disk {
    /// An empty disk, mounted at `root`, which has this inode.
    pub fn new(root: &Path, inode: u64) -> Self {
        let mut top = Node::default();
        top.safe.is_folder = true;
        Self { root: root.to_owned(), nodes: vec![top], inodes: HashMap::from([(inode, 0)]) }
    }

    pub fn call(&mut self, call: &Call) {
        match call {
            Call::Create { file, path } => self.add(*file, path, false),
            Call::MakeFolder { file, path } => self.add(*file, path, true),
            Call::Write { file, offset, bytes, synced } => {
                let node = self.node(*file);
                if *synced {
                    node.safe.bytes.write(*offset, bytes);
                } else {
                    node.pending.push(Change::Write { offset: *offset, bytes: bytes.clone() });
                }
            }
            Call::Sync { file } => {
                let node = self.node(*file);
                for change in std::mem::take(&mut node.pending) {
                    node.safe.apply(&change);
                }
            }
            Call::Truncate { file, length } => {
                self.node(*file).pending.push(Change::Truncate(*length));
            }
            Call::Rename { from, to } => self.rename(from, to),
            Call::Remove { path } => {
                let (folder, name) = self.find(path);
                self.nodes[folder].live_names.remove(&name);
                self.nodes[folder].pending.push(Change::Remove(name));
            }
        }
    }

    fn add(&mut self, inode: u64, path: &Path, is_folder: bool) {
        let new = self.nodes.len();
        let mut node = Node::default();
        node.safe.is_folder = is_folder;
        self.nodes.push(node);
        self.inodes.insert(inode, new);
        let (folder, name) = self.find(path);
        self.nodes[folder].live_names.insert(name.clone(), new);
        self.nodes[folder].pending.push(Change::Name(name, new));
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let (folder, old) = self.find(from);
        let (to_folder, new) = self.find(to);
        assert_eq!(folder, to_folder, "a rename between folders: {from:?} {to:?}");
        let folder = &mut self.nodes[folder];
        let node = folder.live_names.remove(&old).unwrap();
        folder.live_names.insert(new.clone(), node);
        folder.pending.push(Change::Rename(old, new));
    }

    fn node(&mut self, inode: u64) -> &mut Node {
        &mut self.nodes[self.inodes[&inode]]
    }

    /// The folder of a path, and the name in it.
    fn find(&self, path: &Path) -> (usize, OsString) {
        let inner = path.strip_prefix(&self.root).unwrap();
        let mut folder = 0;
        for part in inner.parent().unwrap() {
            folder = self.nodes[folder].live_names[part];
        }
        (folder, inner.file_name().unwrap().to_owned())
    }

    /// Writes what a power cut at this moment may leave into the empty folder `to`.
    pub fn power_cut(&self, to: &Path, luck: Luck, dice: &mut Seeded) {
        self.leave(0, to, luck, dice);
    }

    fn leave(&self, node: usize, to: &Path, luck: Luck, dice: &mut Seeded) {
        let node = &self.nodes[node];
        let mut left = node.safe.clone();
        if left.is_folder {
            let kept = match luck.kept_percent {
                0 => 0,
                100 => node.pending.len(),
                _ => dice.below(node.pending.len() + 1),
            };
            node.pending[..kept].iter().for_each(|change| left.apply(change));
            fs::create_dir_all(to).unwrap();
            for (name, inner) in &left.names {
                self.leave(*inner, &to.join(name), luck, dice);
            }
            return;
        }
        for change in &node.pending {
            match change {
                Change::Write { offset, bytes } => tear(*offset, bytes, luck, dice, |at, part| {
                    left.bytes.write(at, part);
                }),
                change if dice.percent(luck.kept_percent) => left.apply(change),
                _ => {}
            }
        }
        left.bytes.save(to);
    }
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => self.bytes.write(*offset, bytes),
            Change::Truncate(length) => self.bytes.truncate(*length),
            Change::Name(name, node) => {
                self.names.insert(name.clone(), *node);
            }
            Change::Rename(old, new) => {
                if let Some(node) = self.names.remove(old) {
                    self.names.insert(new.clone(), node);
                }
            }
            Change::Remove(name) => {
                self.names.remove(name);
            }
        }
    }
}

/// Hands on the parts of a write that reached the disk.
fn tear(
    offset: u64,
    bytes: &[u8],
    luck: Luck,
    dice: &mut Seeded,
    mut keep: impl FnMut(u64, &[u8]),
) {
    for (at, page) in pieces(offset, bytes, PAGE_BYTES) {
        if !dice.percent(luck.kept_percent) {
            continue;
        }
        let torn = dice.percent(luck.torn_percent);
        for (at, sector) in pieces(at, page, SECTOR_BYTES) {
            if !torn || dice.percent(50) {
                keep(at, sector);
            }
        }
    }
}

/// Cuts bytes where the disk's own pieces meet.
fn pieces(offset: u64, bytes: &[u8], piece_bytes: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = offset;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let room = usize::try_from(piece_bytes - at % piece_bytes).unwrap();
        let (piece, behind) = rest.split_at(room.min(rest.len()));
        let start = at;
        at += piece.len() as u64;
        rest = behind;
        (!piece.is_empty()).then_some((start, piece))
    })
}

impl Sparse {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (at, part) in pieces(offset, bytes, PAGE_BYTES) {
            let page = self.pages.entry(at / PAGE_BYTES).or_insert_with(|| vec![0; 4096]);
            let start = usize::try_from(at % PAGE_BYTES).unwrap();
            page[start..start + part.len()].copy_from_slice(part);
        }
        self.length = self.length.max(offset + bytes.len() as u64);
    }

    fn truncate(&mut self, length: u64) {
        self.length = length;
        self.pages.retain(|number, _| number * PAGE_BYTES < length);
        if let Some(page) = self.pages.get_mut(&(length / PAGE_BYTES)) {
            page[usize::try_from(length % PAGE_BYTES).unwrap()..].fill(0);
        }
    }

    fn save(&self, to: &Path) {
        let file = fs::File::create(to).unwrap();
        for (number, page) in &self.pages {
            file.write_all_at(page, number * PAGE_BYTES).unwrap();
        }
        file.set_len(self.length).unwrap();
    }
}

/// The model itself, tried by hand: what it loses and what it keeps.
#[test]
fn a_power_cut_keeps_what_was_synced_and_no_more() {
    let root = Path::new("/root");
    let mut disk = Disk::new(root, 2);
    let path = root.join("a");
    disk.call(&Call::Create { file: 7, path: path.clone() });
    disk.call(&Call::Write { file: 7, offset: 0, bytes: vec![1; 10_000], synced: false });
    let image = |disk: &Disk, kept_percent| {
        let to = tempfile::tempdir().unwrap();
        let luck = Luck { kept_percent, torn_percent: 0 };
        disk.power_cut(to.path(), luck, &mut Seeded(1));
        (fs::read(to.path().join("a")).ok(), fs::read(to.path().join("b")).ok())
    };
    assert_eq!(image(&disk, 0), (None, None), "not even the name");
    assert_eq!(image(&disk, 100), (Some(vec![1; 10_000]), None));

    disk.call(&Call::Sync { file: 7 });
    assert_eq!(image(&disk, 0), (None, None), "the bytes are safe, their name is not");
    disk.call(&Call::Sync { file: 2 });
    assert_eq!(image(&disk, 0), (Some(vec![1; 10_000]), None), "the root was synced");

    disk.call(&Call::Write { file: 7, offset: 4096, bytes: vec![2; 100], synced: false });
    disk.call(&Call::Rename { from: path, to: root.join("b") });
    assert_eq!(image(&disk, 0), (Some(vec![1; 10_000]), None));
    let (gone, renamed) = image(&disk, 100);
    assert_eq!((gone, renamed.unwrap()[4096]), (None, 2));
    disk.call(&Call::Write { file: 7, offset: 0, bytes: vec![3; 1], synced: true });
    assert_eq!(image(&disk, 0).0.unwrap()[..2], [3, 1], "a synced write is safe, and alone");
}
