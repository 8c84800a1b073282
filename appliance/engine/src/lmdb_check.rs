//! Reads the whole structure of an LMDB file, without LMDB, and finds what LMDB would trip over.
//!
//! Every page that the newest head reaches is read once: it must be the page it says it is, of the right
//! kind for its depth, with rows inside its bounds that do not overlap, in order, and nothing may be used
//! twice or be both used and free. What remains unseen is a value with wrong bytes of the right length:
//! that is for the ledger's seal.

use std::cmp::Ordering;

use crate::lmdb_file::{
    DataFile, Head, NO_PAGE, PAGE_HEAD_BYTES, Tree, damaged, u16_at, u32_at, u64_at,
};
use crate::{EngineError, KEY_BYTES_MAX, VALUE_BYTES_MAX};

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
/// The value is on pages of its own; the row holds the number of the first.
const BIG_VALUE: u16 = 0x01;
const NODE_HEAD_BYTES: usize = 8;

/// Checks both trees of the newest head.
pub(crate) fn check(data: &DataFile, head: &Head) -> Result<(), EngineError> {
    let mut walk = Walk { data, head, seen: Pages::new(head.last_page)?, found: Found::default() };
    walk.tree(&head.rows, Content::Rows)?;
    walk.tree(&head.free, Content::FreePages)
}

/// What a tree holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Our rows, ordered by their bytes.
    Rows,
    /// Lists of free pages, ordered by the number of the transaction that freed them.
    FreePages,
}

struct Walk<'a> {
    data: &'a DataFile,
    head: &'a Head,
    /// Pages in use or free.
    seen: Pages,
    /// What was counted in the tree being walked.
    found: Found,
}

#[derive(Default)]
struct Found {
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    entries: u64,
    /// The key that the next one must follow.
    last: Option<Last>,
    /// Lists of free pages; looked at last, when every page in use is known.
    free: Vec<Vec<u8>>,
}

/// The newest key met.
struct Last {
    key: Vec<u8>,
    /// Whether it was a pointer's: the first row below a pointer may have the same key.
    pointer: bool,
}

/// One row or one pointer of a page.
struct Node<'p> {
    key: &'p [u8],
    flags: u16,
    /// Bytes of the value, if this is a row.
    value_bytes: usize,
    /// The page below, if this is a pointer.
    child: u64,
    /// Everything behind the key.
    rest: &'p [u8],
}

impl Walk<'_> {
    fn tree(&mut self, tree: &Tree, content: Content) -> Result<(), EngineError> {
        self.found = Found::default();
        if tree.root != NO_PAGE {
            self.page(tree.root, tree.depth, content)?;
        }
        let Found { branch_pages, leaf_pages, overflow_pages, entries, free, .. } =
            std::mem::take(&mut self.found);
        let counted = Tree { branch_pages, leaf_pages, overflow_pages, entries, ..*tree };
        if counted != *tree {
            return Err(damaged("its pages are not as many as its head says"));
        }
        free.iter().try_for_each(|list| self.free_list(list))
    }

    /// Walks the page `number`, which is `levels` pages above the bottom, itself included.
    fn page(&mut self, number: u64, levels: u16, content: Content) -> Result<(), EngineError> {
        self.take(number, 1)?;
        let page = self.read(number)?;
        let kind = u16_at(&page, 10);
        let expected = if levels > 1 { BRANCH } else { LEAF };
        if u64_at(&page, 0) != number || kind != expected {
            return Err(self.at(number, "is not the page that belongs there"));
        }
        let nodes =
            nodes(&page, kind).ok_or_else(|| self.at(number, "is not laid out as a page"))?;
        // LMDB lets the tree of free pages, and no other, thin out to one pointer.
        if nodes.is_empty() || (kind == BRANCH && content == Content::Rows && nodes.len() < 2) {
            return Err(self.at(number, "is empty"));
        }
        if kind == BRANCH {
            self.found.branch_pages += 1;
            self.branch(number, &nodes, levels, content)
        } else {
            self.found.leaf_pages += 1;
            nodes.iter().try_for_each(|node| self.row(number, node, content))
        }
    }

    /// Walks what lies below a branch: every key below a pointer is at or above the pointer's own key,
    /// and below the next pointer's.
    fn branch(
        &mut self,
        number: u64,
        nodes: &[Node<'_>],
        levels: u16,
        content: Content,
    ) -> Result<(), EngineError> {
        for (place, node) in nodes.iter().enumerate() {
            // The first pointer takes everything below the second.
            if place > 0 {
                self.follow(number, node.key, true, content)?;
            }
            self.page(node.child, levels - 1, content)?;
        }
        Ok(())
    }

    fn row(&mut self, number: u64, node: &Node<'_>, content: Content) -> Result<(), EngineError> {
        let key_fits = match content {
            Content::Rows => (1..=1 + KEY_BYTES_MAX).contains(&node.key.len()),
            Content::FreePages => node.key.len() == 8,
        };
        if !key_fits || node.flags & !BIG_VALUE != 0 {
            return Err(self.at(number, "holds a row of another kind"));
        }
        self.follow(number, node.key, false, content)?;
        if content == Content::Rows && node.value_bytes > VALUE_BYTES_MAX {
            return Err(self.at(number, "holds a value of impossible length"));
        }
        self.found.entries += 1;
        let big = node.flags & BIG_VALUE != 0;
        if big {
            self.overflow(u64_at(node.rest, 0), node.value_bytes)?;
        }
        if content == Content::FreePages {
            let list = match big {
                true => self.big_value(u64_at(node.rest, 0), node.value_bytes)?,
                false => node.rest[..node.value_bytes].to_vec(),
            };
            self.found.free.push(list);
        }
        Ok(())
    }

    /// Looks at the first of the pages that hold a big value.
    fn overflow(&mut self, number: u64, value_bytes: usize) -> Result<(), EngineError> {
        let page_bytes = self.head.page_bytes;
        let needed = (PAGE_HEAD_BYTES as u64 + value_bytes as u64).div_ceil(page_bytes);
        if number > self.head.last_page {
            return Err(self.at(number, "is behind the end, and a value should be there"));
        }
        let mut head = [0; PAGE_HEAD_BYTES];
        self.data.read_at(&mut head, number * page_bytes)?;
        let pages = u64::from(u32_at(&head, 12));
        if u64_at(&head, 0) != number || u16_at(&head, 10) != OVERFLOW || pages < needed {
            return Err(self.at(number, "is not the value that belongs there"));
        }
        self.found.overflow_pages += pages;
        self.take(number, pages)
    }

    fn big_value(&self, number: u64, value_bytes: usize) -> Result<Vec<u8>, EngineError> {
        // No longer than the file, because its pages were all taken.
        let mut value = vec![0; value_bytes];
        self.data.read_at(&mut value, number * self.head.page_bytes + PAGE_HEAD_BYTES as u64)?;
        Ok(value)
    }

    /// A list of free pages: how many, then their numbers. None of them may be in use.
    fn free_list(&mut self, list: &[u8]) -> Result<(), EngineError> {
        let (numbers, rest) = list.as_chunks::<8>();
        let Some((count, pages)) = numbers.split_first() else {
            return Err(damaged("a list of free pages is empty"));
        };
        if !rest.is_empty() || u64::from_ne_bytes(*count) != pages.len() as u64 {
            return Err(damaged("a list of free pages has the wrong length"));
        }
        pages.iter().try_for_each(|page| self.take(u64::from_ne_bytes(*page), 1))
    }

    /// Notes the next key, which must come after the last.
    fn follow(
        &mut self,
        number: u64,
        key: &[u8],
        pointer: bool,
        content: Content,
    ) -> Result<(), EngineError> {
        if let Some(last) = &self.found.last {
            let order = match content {
                Content::Rows => last.key.as_slice().cmp(key),
                Content::FreePages => u64_at(&last.key, 0).cmp(&u64_at(key, 0)),
            };
            if order == Ordering::Greater || (order == Ordering::Equal && !last.pointer) {
                return Err(self.at(number, "holds keys out of order"));
            }
        }
        self.found.last = Some(Last { key: key.to_vec(), pointer });
        Ok(())
    }

    fn take(&mut self, number: u64, pages: u64) -> Result<(), EngineError> {
        for page in number..number.saturating_add(pages) {
            if !(2..=self.head.last_page).contains(&page) {
                return Err(self.at(page, "does not exist, and something points at it"));
            }
            if !self.seen.insert(page) {
                return Err(self.at(page, "is used twice"));
            }
        }
        Ok(())
    }

    fn read(&self, number: u64) -> Result<Vec<u8>, EngineError> {
        // At most 64 KiB, as the head was checked.
        let mut page = vec![0; self.head.page_bytes as usize];
        self.data.read_at(&mut page, number * self.head.page_bytes)?;
        Ok(page)
    }

    fn at(&self, number: u64, what: &str) -> EngineError {
        EngineError::Damaged(format!("page {number} of its file {what}"))
    }
}

/// The nodes of a page, if they fill it as they must: side by side from `upper` to the end.
fn nodes(page: &[u8], kind: u16) -> Option<Vec<Node<'_>>> {
    let lower = usize::from(u16_at(page, 12));
    let upper = usize::from(u16_at(page, 14));
    if lower < PAGE_HEAD_BYTES || lower % 2 != 0 || lower > upper || upper > page.len() {
        return None;
    }
    let mut nodes = Vec::with_capacity((lower - PAGE_HEAD_BYTES) / 2);
    let mut places = Vec::with_capacity(nodes.capacity());
    for at in (PAGE_HEAD_BYTES..lower).step_by(2) {
        let start = usize::from(u16_at(page, at));
        let (node, bytes) = node(page.get(start..)?, kind)?;
        nodes.push(node);
        places.push((start, bytes));
    }
    places.sort_unstable();
    let mut end = upper;
    for (start, bytes) in places {
        if start != end {
            return None;
        }
        // LMDB keeps nodes on even places.
        end = start + bytes.next_multiple_of(2);
    }
    (end == page.len()).then_some(nodes)
}

/// One node and the bytes it takes.
fn node(bytes: &[u8], kind: u16) -> Option<(Node<'_>, usize)> {
    let head = bytes.get(..NODE_HEAD_BYTES)?;
    // Two halves, because the structure is only aligned to two bytes; their order is the machine's.
    let (low, high) = if cfg!(target_endian = "little") { (0, 2) } else { (2, 0) };
    let number = u64::from(u16_at(head, low)) | u64::from(u16_at(head, high)) << 16;
    let flags = u16_at(head, 4);
    let key_end = NODE_HEAD_BYTES + usize::from(u16_at(head, 6));
    let key = bytes.get(NODE_HEAD_BYTES..key_end)?;
    let rest = bytes.get(key_end..)?;
    if kind == BRANCH {
        let child = number | u64::from(flags) << 32;
        return Some((Node { key, flags, value_bytes: 0, child, rest }, key_end));
    }
    let value_bytes = usize::try_from(number).ok()?;
    let inside = if flags & BIG_VALUE != 0 { 8 } else { value_bytes };
    if inside > rest.len() {
        return None;
    }
    Some((Node { key, flags, value_bytes, child: NO_PAGE, rest }, key_end + inside))
}

/// Which pages were met: one bit each.
struct Pages {
    bits: Vec<u64>,
}

impl Pages {
    fn new(last_page: u64) -> Result<Self, EngineError> {
        // The file holds them all, so this is a 32,768th of its length.
        let words = usize::try_from(last_page / 64 + 1);
        Ok(Self { bits: vec![0; words.map_err(|_| damaged("its file is impossibly long"))?] })
    }

    /// Marks a page; false if it was marked before.
    fn insert(&mut self, page: u64) -> bool {
        let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
        let Some(word) = self.bits.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}
