//! How a row is stored in sled's one tree: short values beside their key, long ones in chunks.
//!
//! ```text
//! ROW   space key            -> WHOLE value
//! ROW   space key            -> CHUNKED number length
//! CHUNK number place         -> a part of that value
//! ```
//!
//! The number is the value's own: a value that replaces another has other chunks, so a reader never
//! joins parts of two.

use bytes::Bytes;
use sled::IVec;

use crate::layout::stored_key;
use crate::{EngineError, Space, VALUE_BYTES_MAX};

/// Pages hold sixteen rows and more, so this keeps them far below the limit.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;
/// First byte of the key of a row, followed by its space and key.
pub(crate) const ROW: u8 = 0;
/// First byte of the key of a chunk, followed by the number of its value and its place in it.
pub(crate) const CHUNK: u8 = 1;
/// First byte of a value that follows.
pub(crate) const WHOLE: u8 = 0;
/// First byte of a value in chunks: its number and length follow.
pub(crate) const CHUNKED: u8 = 1;
pub(crate) const CHUNKED_BYTES: usize = 13;

/// What a row holds.
pub(crate) enum Stored {
    Whole(Bytes),
    Chunked { number: u64, bytes: usize },
}

pub(crate) fn parse(stored: IVec) -> Result<Stored, EngineError> {
    match stored.split_first() {
        Some((&WHOLE, value)) if value.len() <= CHUNK_BYTES => {
            Ok(Stored::Whole(Bytes::copy_from_slice(value)))
        }
        Some((&CHUNKED, rest)) if stored.len() == CHUNKED_BYTES => {
            let (number, bytes) = rest.split_at(8);
            let number = number.first_chunk().copied().map(u64::from_be_bytes);
            let bytes = bytes.first_chunk().copied().map(u32::from_be_bytes);
            match (number, bytes) {
                (Some(number), Some(bytes)) if bytes as usize <= VALUE_BYTES_MAX => {
                    Ok(Stored::Chunked { number, bytes: bytes as usize })
                }
                _ => Err(damaged("a value has an impossible length")),
            }
        }
        _ => Err(damaged("a row does not hold a value")),
    }
}

pub(crate) fn row_key(space: Space, key: &[u8]) -> Vec<u8> {
    as_row(stored_key(space, key))
}

pub(crate) fn as_row(mut stored: Vec<u8>) -> Vec<u8> {
    stored.insert(0, ROW);
    stored
}

pub(crate) fn chunk_key(number: u64, place: u32) -> [u8; 13] {
    let mut key = [CHUNK; 13];
    key[1..9].copy_from_slice(&number.to_be_bytes());
    key[9..].copy_from_slice(&place.to_be_bytes());
    key
}

/// How many chunks a value of this length has.
pub(crate) fn chunks(bytes: usize) -> u32 {
    // At most VALUE_BYTES_MAX / CHUNK_BYTES.
    bytes.div_ceil(CHUNK_BYTES) as u32
}

pub(crate) fn damaged(what: &str) -> EngineError {
    EngineError::Damaged(what.to_owned())
}
