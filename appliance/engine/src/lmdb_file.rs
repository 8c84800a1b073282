//! LMDB's file, looked at without LMDB.
//!
//! LMDB maps its file and trusts it. Reading past the end of a mapped file kills the process (SIGBUS),
//! so the end must be known to be where LMDB expects it *before* the file is mapped, and must stay
//! ahead of everything a damaged page can point at afterwards: [`DataFile::keep_ahead`] keeps a hole
//! behind the last page, which costs no disk. [`DataFile::check_heads`] is the quick look at every
//! opening; `lmdb_check.rs` reads the whole structure.
//!
//! Layout (LMDB 0.9, `MDB_DATA_VERSION` 1, the byte order of the machine): pages of `page_bytes`; the
//! first two are heads, written in turn; the one with the larger transaction number counts. A head is
//! written with one write of less than a sector, so it is whole or absent.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{EngineError, VALUE_BYTES_MAX};

/// LMDB's name for its file.
pub(crate) const DATA_FILE: &str = "data.mdb";

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
pub(crate) const PAGE_HEAD_BYTES: usize = 16;
const META_FLAG: u16 = 0x08;
/// Bytes of a head that are looked at.
const HEAD_BYTES: usize = 152;
/// A tree without pages.
pub(crate) const NO_PAGE: u64 = u64::MAX;
/// LMDB's own limit on the depth of a tree.
pub(crate) const DEPTH_MAX: u16 = 32;

/// How far behind the last page the file at least reaches. A damaged page can make LMDB look 128 KiB
/// behind itself, and us read one value more; the rest is room for pages that were reserved in a commit
/// but never written.
const AHEAD_BYTES_MIN: u64 = 2 * VALUE_BYTES_MAX as u64;
/// How far the file is extended when it has to be: rarely.
const AHEAD_BYTES: u64 = 4 * AHEAD_BYTES_MIN;

/// One of the two trees that a head names: the free pages, and the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) depth: u16,
    pub(crate) branch_pages: u64,
    pub(crate) leaf_pages: u64,
    pub(crate) overflow_pages: u64,
    pub(crate) entries: u64,
    pub(crate) root: u64,
}

/// What the newer head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) page_bytes: u64,
    pub(crate) free: Tree,
    pub(crate) rows: Tree,
    pub(crate) last_page: u64,
    pub(crate) transaction: u64,
}

impl Head {
    /// Bytes from the start of the file to the end of the last page in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        (self.last_page + 1).saturating_mul(self.page_bytes)
    }
}

/// Our own handle on the file that LMDB maps.
#[derive(Debug)]
pub(crate) struct DataFile {
    file: File,
}

impl DataFile {
    /// Opens the file in `folder`; `None` if there is none or it is empty.
    pub(crate) fn open(folder: &Path) -> io::Result<Option<Self>> {
        match OpenOptions::new().read(true).write(true).open(folder.join(DATA_FILE)) {
            Ok(file) if file.metadata()?.len() == 0 => Ok(None),
            Ok(file) => Ok(Some(Self { file })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads both heads and refuses what LMDB must not map.
    pub(crate) fn check_heads(&self) -> Result<Head, EngineError> {
        let file_bytes = self.file_bytes()?;
        let first = self.head(0)?;
        let second = self.head(first.page_bytes)?;
        if first.page_bytes != second.page_bytes {
            return Err(damaged("its two heads disagree about the size of a page"));
        }
        let head = if second.transaction > first.transaction { second } else { first };
        if head.used_bytes() > file_bytes {
            return Err(damaged(&format!(
                "its file was cut: {file_bytes} bytes are there of {}",
                head.used_bytes()
            )));
        }
        Ok(head)
    }

    fn head(&self, at: u64) -> Result<Head, EngineError> {
        let mut bytes = [0; HEAD_BYTES];
        self.read_at(&mut bytes, at)?;
        parse(&bytes).map_err(damaged)
    }

    /// Reads exactly `bytes`; the end of the file is damage.
    pub(crate) fn read_at(&self, bytes: &mut [u8], at: u64) -> Result<(), EngineError> {
        self.file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("its file was cut"),
            _ => EngineError::Failed(error.to_string()),
        })
    }

    pub(crate) fn file_bytes(&self) -> Result<u64, EngineError> {
        Ok(self.file.metadata().map_err(crate::open::failed)?.len())
    }

    /// Keeps the end of the file far behind `used_bytes` and what a commit of `incoming_bytes` adds.
    /// Returns the length of the file. The next sync of the file keeps it.
    pub(crate) fn keep_ahead(
        &self,
        file_bytes: u64,
        used_bytes: u64,
        incoming_bytes: u64,
    ) -> Result<u64, EngineError> {
        let needed = used_bytes.saturating_add(incoming_bytes);
        if file_bytes >= needed.saturating_add(AHEAD_BYTES_MIN) {
            return Ok(file_bytes);
        }
        let extended = needed.saturating_add(AHEAD_BYTES);
        self.file.set_len(extended).map_err(crate::open::failed)?;
        Ok(extended)
    }

    /// Makes the file and its length survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), EngineError> {
        self.file.sync_all().map_err(crate::open::failed)
    }
}

fn parse(bytes: &[u8; HEAD_BYTES]) -> Result<Head, &'static str> {
    let flags = u16_at(bytes, 10);
    if flags & META_FLAG == 0 || u32_at(bytes, 16) != MAGIC {
        return Err("a head of its file is not one");
    }
    if u32_at(bytes, 20) != VERSION {
        return Err("its file has the format of another LMDB version");
    }
    let page_bytes = u64::from(u32_at(bytes, 40));
    if !page_bytes.is_power_of_two() || !(512..=65_536).contains(&page_bytes) {
        return Err("a head of its file names an impossible page size");
    }
    let head = Head {
        page_bytes,
        free: tree(&bytes[40..88]),
        rows: tree(&bytes[88..136]),
        last_page: u64_at(bytes, 136),
        transaction: u64_at(bytes, 144),
    };
    let pages_max = u64::MAX / page_bytes - 1;
    if head.last_page < 1 || head.last_page > pages_max {
        return Err("a head of its file names an impossible last page");
    }
    let known = |tree: Tree| match tree.root {
        NO_PAGE => tree.depth == 0 && tree.entries == 0,
        root => (2..=head.last_page).contains(&root) && (1..=DEPTH_MAX).contains(&tree.depth),
    };
    if !known(head.free) || !known(head.rows) {
        return Err("a head of its file names an impossible root");
    }
    Ok(head)
}

fn tree(bytes: &[u8]) -> Tree {
    Tree {
        depth: u16_at(bytes, 6),
        branch_pages: u64_at(bytes, 8),
        leaf_pages: u64_at(bytes, 16),
        overflow_pages: u64_at(bytes, 24),
        entries: u64_at(bytes, 32),
        root: u64_at(bytes, 40),
    }
}

pub(crate) fn damaged(what: &str) -> EngineError {
    EngineError::Damaged(what.to_owned())
}

/// The number at `at`, or zero behind the end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    array_at(bytes, at).map_or(0, u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array_at(bytes, at).map_or(0, u32::from_ne_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    array_at(bytes, at).map_or(0, u64::from_ne_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
