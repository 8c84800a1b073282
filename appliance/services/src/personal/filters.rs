//! Filters ([spec]): what a client wants to hear of, kept under a short name.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#filtering

use std::sync::Arc;

use appliance_ledger::keyspaces::FILTERS;
use appliance_ledger::rows::FilterRow;
use appliance_model::ruma::api::client::filter::FilterDefinition;
use appliance_model::{Error, UserNid};
use appliance_rules::Permit;
use quick_cache::sync::Cache;

use super::Personal;

/// A filter, as JSON.
const FILTER_BYTES_MAX: usize = 65_536;
/// Parsed filters kept in memory, about 1 KB each.
const FILTERS_CACHED_MAX: usize = 1_000;

/// Longer ones are read at each request: with the parsed ones, these take 2 MB at most.
const SAID_BYTES_MAX: usize = 1_024;

/// Filters that were read before.
pub(super) struct KnownFilters {
    kept: Cache<(UserNid, u64), Arc<FilterDefinition>>,
    /// By how they were said.
    said: Cache<Box<str>, Arc<FilterDefinition>>,
}

impl KnownFilters {
    pub fn new() -> Self {
        Self { kept: Cache::new(FILTERS_CACHED_MAX), said: Cache::new(FILTERS_CACHED_MAX) }
    }
}

impl Personal {
    /// Keeps a filter and names it. The same filter gets the same name.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::BadJson`] if it is none, [`appliance_model::Kind::TooLarge`].
    pub async fn create_filter(
        &self,
        (user, who): (UserNid, &str),
        json: &str,
    ) -> Result<String, Error> {
        if json.len() > FILTER_BYTES_MAX {
            return Err(Error::too_large("A filter is at most 65536 bytes."));
        }
        serde_json::from_str::<FilterDefinition>(json)
            .map_err(|error| Error::bad_json(format!("This is not a filter: {error}")))?;
        let digest = self.house.ledger.digest(&[b"filter", json.as_bytes()]);
        let (head, _) = digest.split_first_chunk::<8>().expect("a digest has sixteen bytes");
        let number = u64::from_be_bytes(*head);
        let key = (user, number);
        if self.house.ledger.get(&FILTERS, &key).await?.is_none() {
            let mut commit = self.house.ledger.begin(Permit::own("filter.created", who, number));
            commit.put(&FILTERS, &key, &FilterRow { json: json.to_owned() });
            self.house.ledger.commit(commit).await?;
        }
        Ok(number.to_string())
    }

    /// A filter's JSON.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if the user has none of that name.
    pub async fn filter_json(&self, user: UserNid, filter_id: &str) -> Result<String, Error> {
        let unknown = || Error::not_found("There is no filter with this ID.");
        let number: u64 = filter_id.parse().map_err(|_| unknown())?;
        let row = self.house.ledger.get(&FILTERS, &(user, number)).await?;
        Ok(row.ok_or_else(unknown)?.json)
    }

    /// A filter, parsed, for sync.
    ///
    /// # Errors
    ///
    /// As [`Personal::filter_json`].
    pub async fn filter(
        &self,
        user: UserNid,
        filter_id: &str,
    ) -> Result<Arc<FilterDefinition>, Error> {
        let known =
            filter_id.parse().ok().and_then(|number| self.filters.kept.get(&(user, number)));
        if let Some(filter) = known {
            return Ok(filter);
        }
        let json = self.filter_json(user, filter_id).await?;
        let filter: FilterDefinition = serde_json::from_str(&json).map_err(Error::internal)?;
        let filter = Arc::new(filter);
        if let Ok(number) = filter_id.parse() {
            self.filters.kept.insert((user, number), filter.clone());
        }
        Ok(filter)
    }

    /// A filter that a request carries whole, in the words of the request: an app says the same with
    /// each. `read` reads what was not said lately.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub fn said_filter(
        &self,
        said: &str,
        read: impl FnOnce() -> Result<FilterDefinition, Error>,
    ) -> Result<Arc<FilterDefinition>, Error> {
        if let Some(known) = self.filters.said.get(said) {
            return Ok(known);
        }
        let filter = Arc::new(read()?);
        if said.len() <= SAID_BYTES_MAX {
            self.filters.said.insert(said.into(), filter.clone());
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn a_filter_that_is_said_again_is_not_read_again() {
        let ward = Ward::new().await;
        let reads = Cell::new(0);
        let say = |said: &str, json: &str| {
            ward.services.personal.said_filter(said, || {
                reads.set(reads.get() + 1);
                serde_json::from_str(json).map_err(Error::internal)
            })
        };
        let few = say("few", r#"{"room":{"timeline":{"limit":3}}}"#).unwrap();
        let many = say("many", r#"{"room":{"timeline":{"limit":30}}}"#).unwrap();
        let limit = |filter: &FilterDefinition| filter.room.timeline.limit.map(u64::from);
        assert_eq!((limit(&few), limit(&many)), (Some(3), Some(30)));
        assert_eq!(limit(&say("few", "").unwrap()), Some(3), "as it was read before");
        assert_eq!(reads.get(), 2);

        assert!(say("none", "[").is_err());
        assert!(say("none", "[").is_err(), "an error is not kept");
        let long = "x".repeat(SAID_BYTES_MAX + 1);
        say(&long, "{}").unwrap();
        say(&long, "{}").unwrap();
        assert_eq!(reads.get(), 6);
    }
}
