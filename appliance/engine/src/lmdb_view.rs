//! Reading LMDB: the same rules for single reads and for snapshots.
//!
//! Nothing here trusts what it finds. A damaged page can give a value of any length and keys in any
//! order; a read that went along would copy gigabytes or never end.

use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use heed::{MdbError, RoTxn, WithoutTls};

use crate::layout::{join_key, stored_bounds, stored_key};
use crate::lmdb::{Map, Rows};
use crate::open::failed;
use crate::{
    Direction, EngineError, JoinedPage, KEY_BYTES_MAX, KeyRange, Page, Read, Space, VALUE_BYTES_MAX,
};

/// Rows at one moment: the rules of reading, for single reads and snapshots alike.
pub(crate) struct View<'a> {
    pub(crate) rows: &'a Rows,
    pub(crate) txn: &'a RoTxn<'a, WithoutTls>,
}

impl View<'_> {
    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.rows.get(self.txn, &stored_key(space, key)).map_err(reading)? {
            Some(value) => Ok(Some(owned(value)?)),
            None => Ok(None),
        }
    }

    pub(crate) fn get_many(
        &self,
        keys: &[(Space, Vec<u8>)],
    ) -> Result<Vec<Option<Bytes>>, EngineError> {
        keys.iter().map(|(space, key)| self.get(*space, key)).collect()
    }

    pub(crate) fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, EngineError> {
        let Some((from, to)) = stored_bounds(space, range) else { return Ok(Page::default()) };
        let bounds = (as_slice(&from), as_slice(&to));
        match direction {
            Direction::Forward => {
                page(self.rows.range(self.txn, &bounds).map_err(reading)?, limit, |a, b| a < b)
            }
            Direction::Backward => {
                page(self.rows.rev_range(self.txn, &bounds).map_err(reading)?, limit, |a, b| a > b)
            }
        }
    }

    pub(crate) fn scan_join(
        &self,
        (index, range): (Space, &KeyRange),
        direction: Direction,
        limit: usize,
        (target, suffix_bytes): (Space, usize),
    ) -> Result<JoinedPage, EngineError> {
        let found = self.scan(index, range, direction, limit)?;
        let mut joined =
            JoinedPage { rows: Vec::with_capacity(found.rows.len()), more: found.more };
        for row in found.rows {
            let value = match join_key(&row.0, suffix_bytes) {
                Some(key) => self.get(target, key)?,
                None => None,
            };
            joined.rows.push((row, value));
        }
        Ok(joined)
    }
}

/// Takes up to `limit` rows. Keys that do not follow each other are damage, and would never end if they
/// went in a circle.
fn page<'t>(
    found: impl Iterator<Item = heed::Result<(&'t [u8], &'t [u8])>>,
    limit: usize,
    in_order: impl Fn(&[u8], &[u8]) -> bool,
) -> Result<Page, EngineError> {
    let mut page = Page::default();
    for row in found {
        let (stored, value) = row.map_err(reading)?;
        if page.rows.len() == limit {
            page.more = true;
            break;
        }
        if stored.is_empty() || stored.len() > 1 + KEY_BYTES_MAX {
            return Err(EngineError::Damaged(format!("a key has {} bytes", stored.len())));
        }
        let key = Bytes::copy_from_slice(&stored[1..]);
        if page.rows.last().is_some_and(|(last, _)| !in_order(last, &key)) {
            return Err(EngineError::Damaged("its keys are out of order".to_owned()));
        }
        page.rows.push((key, owned(value)?));
    }
    Ok(page)
}

/// Copies a value out of the map, if its length can be true.
fn owned(value: &[u8]) -> Result<Bytes, EngineError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(EngineError::Damaged(format!("a value has {} bytes", value.len())));
    }
    Ok(Bytes::copy_from_slice(value))
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// What an error means that did not come from a commit.
pub(crate) fn reading(error: heed::Error) -> EngineError {
    match error {
        heed::Error::Io(io) => failed(io),
        heed::Error::Mdb(
            damage @ (MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::Invalid
            | MdbError::VersionMismatch
            | MdbError::CursorFull
            | MdbError::PageFull
            | MdbError::Incompatible
            | MdbError::BadValSize
            | MdbError::Problem),
        ) => EngineError::Damaged(damage.to_string()),
        other => EngineError::Failed(other.to_string()),
    }
}

/// A view that stays as it is. The transaction ends before the map it looks through.
pub(crate) struct Snapshot {
    txn: Mutex<RoTxn<'static, WithoutTls>>,
    map: Arc<Map>,
}

impl Snapshot {
    pub(crate) fn take(map: Arc<Map>) -> Result<Self, EngineError> {
        let txn = map.env.clone().static_read_txn().map_err(reading)?;
        Ok(Self { txn: Mutex::new(txn), map })
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&View<'_>) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let txn = self.txn.lock().unwrap_or_else(PoisonError::into_inner);
        read(&View { rows: &self.map.rows, txn: &txn })
    }
}

#[async_trait]
impl Read for Snapshot {
    async fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.read(|view| view.get(space, key))
    }

    async fn get_many(&self, keys: &[(Space, Vec<u8>)]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.read(|view| view.get_many(keys))
    }

    async fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Page, EngineError> {
        self.read(|view| view.scan(space, range, direction, limit))
    }

    async fn scan_join(
        &self,
        index: Space,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
        target: Space,
        suffix_bytes: usize,
    ) -> Result<JoinedPage, EngineError> {
        self.read(|view| view.scan_join((index, range), direction, limit, (target, suffix_bytes)))
    }
}
