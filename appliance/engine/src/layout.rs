//! How a space and a key become the one key that is stored.
//!
//! Every engine keeps all spaces in one ordered map, the number of the space in front of the key. One
//! map instead of one per space, because a commit touches several spaces and a shared root is one page
//! to write instead of one per space, and because only a single sled tree takes an atomic batch.

use std::ops::Bound;

use crate::{Batch, EngineError, KEY_BYTES_MAX, KeyRange, Space, VALUE_BYTES_MAX, Write};

/// Both ends of a range of stored keys.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The key under which `key` of `space` is stored.
pub(crate) fn stored_key(space: Space, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(space.0);
    stored.extend_from_slice(key);
    stored
}

/// The stored keys that `range` of `space` covers; `None` if no key can be in it. (Ordered maps differ
/// in what they do with a range that ends before it begins; some panic.)
pub(crate) fn stored_bounds(space: Space, range: &KeyRange) -> Option<Bounds> {
    let from = match &range.from {
        Bound::Included(key) => Bound::Included(stored_key(space, key)),
        Bound::Excluded(key) => Bound::Excluded(stored_key(space, key)),
        Bound::Unbounded => Bound::Included(vec![space.0]),
    };
    let to = match &range.to {
        Bound::Included(key) => Bound::Included(stored_key(space, key)),
        Bound::Excluded(key) => Bound::Excluded(stored_key(space, key)),
        Bound::Unbounded => match space.0.checked_add(1) {
            Some(next) => Bound::Excluded(vec![next]),
            None => Bound::Unbounded,
        },
    };
    let empty = match (&from, &to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    };
    (!empty).then_some((from, to))
}

/// The part of an index key that names a key of the target space, if the index key is long enough.
pub(crate) fn join_key(index_key: &[u8], suffix_bytes: usize) -> Option<&[u8]> {
    let at = index_key.len().checked_sub(suffix_bytes)?;
    Some(&index_key[at..])
}

/// Refuses what no engine takes, before anything is written.
pub(crate) fn check_lengths(batches: &[Batch]) -> Result<(), EngineError> {
    for write in batches.iter().flat_map(|batch| &batch.writes) {
        let (key, value_bytes) = match write {
            Write::Put(_, key, value) => (key, value.len()),
            Write::Delete(_, key) => (key, 0),
        };
        if key.len() > KEY_BYTES_MAX {
            return Err(EngineError::KeyTooLong(key.len()));
        }
        if value_bytes > VALUE_BYTES_MAX {
            return Err(EngineError::KeyTooLong(value_bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_without_bounds_is_exactly_its_space() {
        let all = KeyRange { from: Bound::Unbounded, to: Bound::Unbounded };
        assert_eq!(
            stored_bounds(Space(7), &all),
            Some((Bound::Included(vec![7]), Bound::Excluded(vec![8])))
        );
        assert_eq!(
            stored_bounds(Space(255), &all),
            Some((Bound::Included(vec![255]), Bound::Unbounded)),
            "the last space ends with the map"
        );
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_empty() {
        assert_eq!(stored_bounds(Space(1), &KeyRange::between(b"b", b"a")), None);
        assert_eq!(stored_bounds(Space(1), &KeyRange::between(b"a", b"a")), None);
        let one = KeyRange { from: Bound::Included(vec![1]), to: Bound::Included(vec![1]) };
        assert!(stored_bounds(Space(1), &one).is_some(), "a single key is a range");
        let none = KeyRange { from: Bound::Excluded(vec![1]), to: Bound::Excluded(vec![1]) };
        assert_eq!(stored_bounds(Space(1), &none), None);
    }

    #[test]
    fn a_prefix_of_all_ones_reaches_the_end_of_its_space() {
        let (from, to) = stored_bounds(Space(3), &KeyRange::prefix(&[255, 255])).unwrap();
        assert_eq!(from, Bound::Included(vec![3, 255, 255]));
        assert_eq!(to, Bound::Excluded(vec![4]));
    }

    #[test]
    fn a_key_too_short_to_join_joins_nothing() {
        assert_eq!(join_key(b"abc", 4), None);
        assert_eq!(join_key(b"abc", 3), Some(&b"abc"[..]));
        assert_eq!(join_key(b"abc", 0), Some(&b""[..]));
    }
}
