//! How typed keys become bytes that sort like their parts, and rows become bytes that last.
//!
//! Keys: fixed-width big-endian numbers; text only at the end. Rows: CBOR arrays with numbered
//! fields (`minicbor`): a field is never renumbered, a new one is optional, so old rows stay
//! readable.

use appliance_model::{DeviceNid, EventNid, MediaNid, Position, RoomNid, StateKeyNid, UserNid};

/// A key or a part of one.
pub trait KeyPart: Sized {
    /// Appends the key's bytes.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes the key off the front of `bytes`.
    fn take(bytes: &mut &[u8]) -> Option<Self>;

    /// The key's bytes.
    fn to_key(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        self.put(&mut out);
        out
    }

    /// The key from its bytes, if they are exactly one.
    fn from_key(mut bytes: &[u8]) -> Option<Self> {
        let key = Self::take(&mut bytes)?;
        bytes.is_empty().then_some(key)
    }
}

impl KeyPart for () {
    fn put(&self, _: &mut Vec<u8>) {}
    fn take(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl KeyPart for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        *bytes = rest;
        Some(Self::from_be_bytes(*head))
    }
}

impl KeyPart for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first()?;
        *bytes = rest;
        Some(*head)
    }
}

/// Signed numbers sort by value: the sign bit is turned over.
impl KeyPart for i64 {
    fn put(&self, out: &mut Vec<u8>) {
        (self.cast_unsigned() ^ (1 << 63)).put(out);
    }
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        u64::take(bytes).map(|number| (number ^ (1 << 63)).cast_signed())
    }
}

impl<const N: usize> KeyPart for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*head)
    }
}

/// Text takes all that is left: it can only be the last part.
impl KeyPart for String {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.to_owned();
        *bytes = &[];
        Some(text)
    }
}

macro_rules! nid_key {
    ($($name:ident)*) => {$(
        impl KeyPart for $name {
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }
            fn take(bytes: &mut &[u8]) -> Option<Self> {
                u64::take(bytes).map(Self)
            }
        }
    )*};
}
nid_key!(Position RoomNid UserNid DeviceNid EventNid StateKeyNid MediaNid);

macro_rules! tuple_key {
    ($(($($part:ident $index:tt),*))*) => {$(
        impl<$($part: KeyPart),*> KeyPart for ($($part,)*) {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$index.put(out);)*
            }
            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($part::take(bytes)?,)*))
            }
        }
    )*};
}
tuple_key!((A 0, B 1) (A 0, B 1, C 2) (A 0, B 1, C 2, D 3));

/// A row of the store.
pub trait Row: Sized {
    /// The row's bytes.
    fn to_bytes(&self) -> Vec<u8>;
    /// The row from its bytes.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl<T> Row for T
where
    T: minicbor::Encode<()> + for<'b> minicbor::Decode<'b, ()>,
{
    fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to memory does not fail")
    }
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        minicbor::decode(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_like_their_parts_and_come_back() {
        let keys = [
            (RoomNid(1), i64::MIN),
            (RoomNid(1), -1),
            (RoomNid(1), 0),
            (RoomNid(1), 7),
            (RoomNid(2), -5),
            (RoomNid(256), 0),
        ];
        let bytes: Vec<_> = keys.iter().map(KeyPart::to_key).collect();
        assert!(bytes.is_sorted());
        for (key, bytes) in keys.iter().zip(&bytes) {
            assert_eq!(<(RoomNid, i64)>::from_key(bytes), Some(*key));
        }
        assert_eq!(u64::from_key(&[1, 2, 3]), None);
        assert_eq!(u64::from_key(&[0; 9]), None, "left-over bytes are not a key");
    }
}
