//! Reading typed rows.

use std::ops::Bound;
use std::sync::Arc;

use appliance_engine::{Direction, EngineError, KeyRange, Read};
use appliance_model::{Error, Kind, Position};

use crate::codec::{KeyPart, Row};
use crate::keyspaces::Keyspace;
use crate::seal::{Unsealable, Vault};

/// A consistent look at the store. Drop it before anything slow: it pins pages.
pub struct View {
    pub(crate) read: ReadFrom,
    pub(crate) vault: Arc<Vault>,
    /// Everything up to here is complete; newer rows may be visible and must be left alone.
    pub position: Position,
}

pub(crate) enum ReadFrom {
    Newest(Arc<dyn appliance_engine::Engine>),
    Snapshot(Box<dyn Read>),
}

impl std::ops::Deref for ReadFrom {
    type Target = dyn Read;
    fn deref(&self) -> &Self::Target {
        match self {
            Self::Newest(engine) => &**engine,
            Self::Snapshot(snapshot) => snapshot.as_ref(),
        }
    }
}

/// Rows of a scan and whether more follow.
pub type Found<K, V> = (Vec<(K, V)>, bool);

impl View {
    /// One row.
    ///
    /// # Errors
    ///
    /// [`Kind::Unavailable`] or [`Kind::Internal`] if the store fails or the row is damaged.
    pub async fn get<K: KeyPart, V: Row>(
        &self,
        keyspace: &Keyspace<K, V>,
        key: &K,
    ) -> Result<Option<V>, Error> {
        let key = key.to_key();
        let sealed = self.read.get(keyspace.space, &key).await.map_err(store_error)?;
        sealed.map(|sealed| self.open(keyspace, &key, &sealed)).transpose()
    }

    /// Many rows of one keyspace, in the order asked, in one trip.
    ///
    /// # Errors
    ///
    /// As [`View::get`].
    pub async fn get_many<K: KeyPart, V: Row>(
        &self,
        keyspace: &Keyspace<K, V>,
        keys: &[K],
    ) -> Result<Vec<Option<V>>, Error> {
        let keys: Vec<_> = keys.iter().map(|key| (keyspace.space, key.to_key())).collect();
        let rows = self.read.get_many(&keys).await.map_err(store_error)?;
        let open = |(row, (_, key)): (Option<bytes::Bytes>, &(_, Vec<u8>))| {
            row.map(|sealed| self.open(keyspace, key, &sealed)).transpose()
        };
        rows.into_iter().zip(&keys).map(open).collect()
    }

    /// At most `limit` rows whose keys start with `prefix`.
    ///
    /// # Errors
    ///
    /// As [`View::get`].
    pub async fn scan<P: KeyPart, K: KeyPart, V: Row>(
        &self,
        keyspace: &Keyspace<K, V>,
        prefix: &P,
        direction: Direction,
        limit: usize,
    ) -> Result<Found<K, V>, Error> {
        self.scan_range(keyspace, &KeyRange::prefix(&prefix.to_key()), direction, limit).await
    }

    /// At most `limit` rows from `from` (included) to `to` (excluded).
    ///
    /// # Errors
    ///
    /// As [`View::get`].
    pub async fn scan_between<P: KeyPart, K: KeyPart, V: Row>(
        &self,
        keyspace: &Keyspace<K, V>,
        (from, to): (&P, &P),
        direction: Direction,
        limit: usize,
    ) -> Result<Found<K, V>, Error> {
        let range =
            KeyRange { from: Bound::Included(from.to_key()), to: Bound::Excluded(to.to_key()) };
        self.scan_range(keyspace, &range, direction, limit).await
    }

    async fn scan_range<K: KeyPart, V: Row>(
        &self,
        keyspace: &Keyspace<K, V>,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Found<K, V>, Error> {
        let page =
            self.read.scan(keyspace.space, range, direction, limit).await.map_err(store_error)?;
        let open = |(key, sealed): &(bytes::Bytes, bytes::Bytes)| {
            let typed = K::from_key(key).ok_or_else(|| damaged(keyspace.name))?;
            Ok((typed, self.open(keyspace, key, sealed)?))
        };
        Ok((page.rows.iter().map(open).collect::<Result<_, Error>>()?, page.more))
    }

    /// A scan of an index whose keys end in the target's key: both rows, in one trip.
    ///
    /// # Errors
    ///
    /// As [`View::get`].
    pub async fn scan_join<P: KeyPart, K: KeyPart, V: Row, TK: KeyPart, TV: Row>(
        &self,
        index: &Keyspace<K, V>,
        (from, to): (&P, &P),
        direction: Direction,
        limit: usize,
        target: &Keyspace<TK, TV>,
    ) -> Result<Found<K, (V, Option<TV>)>, Error> {
        const NUMBER_BYTES: usize = 8;
        let range = KeyRange::between(&from.to_key(), &to.to_key());
        let page = self
            .read
            .scan_join(index.space, &range, direction, limit, target.space, NUMBER_BYTES)
            .await
            .map_err(store_error)?;
        let open = |((key, sealed), joined): &((bytes::Bytes, bytes::Bytes), Option<_>)| {
            let typed = K::from_key(key).ok_or_else(|| damaged(index.name))?;
            let suffix = &key[key.len().saturating_sub(NUMBER_BYTES)..];
            let joined = joined.as_ref().map(|row: &bytes::Bytes| self.open(target, suffix, row));
            Ok((typed, (self.open(index, key, sealed)?, joined.transpose()?)))
        };
        Ok((page.rows.iter().map(open).collect::<Result<_, Error>>()?, page.more))
    }

    fn open<K, V: Row>(
        &self,
        keyspace: &Keyspace<K, V>,
        key: &[u8],
        sealed: &[u8],
    ) -> Result<V, Error> {
        let opened = self.vault.open(keyspace.space, key, sealed);
        let bytes = opened.map_err(|Unsealable| damaged(keyspace.name))?;
        V::from_bytes(&bytes).ok_or_else(|| damaged(keyspace.name))
    }
}

/// A row that does not open is never served; the journal names its keyspace, `store check` finds it.
pub(crate) fn damaged(keyspace: &'static str) -> Error {
    Error::internal(format!("a row of {keyspace} is damaged; run `wardstone store check`"))
}

/// What the caller hears when the store fails.
pub(crate) fn store_error(error: EngineError) -> Error {
    match error {
        EngineError::Full => Error::new(
            Kind::Unavailable,
            "The server's disk is full. Nothing was changed; try again later.",
        ),
        other => Error::internal(other),
    }
}
