//! An app makes itself known ([RFC 7591]). Its name on the wire comes from what it says of itself, so that the
//! same app on a thousand phones is one row, and a second registration changes nothing.
//!
//! [RFC 7591]: https://www.rfc-editor.org/rfc/rfc7591

use std::net::IpAddr;

use appliance_ledger::keyspaces::OAUTH_CLIENTS;
use appliance_ledger::rows::extras::OAuthClientRow;
use appliance_ledger::{Digest, Direction};
use appliance_model::Error;
use appliance_rules::Permit;
use serde_json::Value;
use url::Url;

use super::super::Accounts;
use super::{ClientMetadata, Fault, OAuthError, OAuthOptions, client_id, client_key, wrong};
use crate::limits::{Limit, Whose};

/// Apps that are known: about 500 bytes each. A house uses a dozen.
const CLIENTS_MAX: usize = 2_000;
/// Nobody signed in with it: it registers anew when somebody wants to.
const UNUSED_MS: u64 = 7 * DAY_MS;
/// Apps keep their name, and do not ask for another when it is gone.
const USED_MS: u64 = 400 * DAY_MS;
/// How exactly it is known when somebody signed in last: a change of shift is one write.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

impl Accounts {
    /// Registers an app; returns its `client_id`.
    ///
    /// # Errors
    ///
    /// [`Fault::InvalidClientMetadata`] if the operator does not let it, or there are too many;
    /// [`appliance_model::Kind::Limited`] after too many new ones from one address.
    pub async fn register_client(
        &self,
        metadata: ClientMetadata,
        address: Option<IpAddr>,
    ) -> Result<String, OAuthError> {
        if !self.oauth()?.takes(&metadata.uri) {
            let why = "This server signs people in to certain apps only, and this is none of them.";
            return Err(wrong(Fault::InvalidClientMetadata, why));
        }
        let ledger = &self.house.ledger;
        let said = Value::Object(metadata.to_json()).to_string();
        let key = ledger.digest(&[b"oauth client", said.as_bytes()]);
        let inside = self.doors.enter(0).await;
        if ledger.get(&OAUTH_CLIENTS, &key).await?.is_some() {
            return Ok(client_id(&key));
        }
        self.limits.take(Limit::Registration, Whose::Address(address))?;
        let permit = Permit::own("app.registered", client_id(&key), &metadata.uri);
        let mut commit = ledger.begin(permit);
        if let Some(oldest) = self.client_in_the_way().await? {
            commit.delete(&OAUTH_CLIENTS, &oldest);
        }
        commit.put(&OAUTH_CLIENTS, &key, &metadata.into_row(self.house.clock.now_ms()));
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok(client_id(&key))
    }

    /// When as many are known as may be, the oldest that nobody has used gives way.
    async fn client_in_the_way(&self) -> Result<Option<Digest>, OAuthError> {
        let clients = self.clients().await?;
        if clients.len() < CLIENTS_MAX {
            return Ok(None);
        }
        let unused = clients.into_iter().filter(|(_, row)| row.used_ms.is_none());
        let oldest = unused.min_by_key(|(_, row)| row.registered_ms).map(|(key, _)| key);
        let full = || wrong(Fault::InvalidClientMetadata, "This server knows too many apps.");
        oldest.map(Some).ok_or_else(full)
    }

    async fn clients(&self) -> Result<Vec<(Digest, OAuthClientRow)>, Error> {
        let newest = self.house.ledger.newest();
        let (rows, _) = newest.scan(&OAUTH_CLIENTS, &(), Direction::Forward, CLIENTS_MAX).await?;
        Ok(rows)
    }

    /// An app that is known, by its `client_id`, if the operator lets it: one that registered before others were
    /// named is as good as unknown.
    pub(super) async fn client(
        &self,
        client_id: &str,
    ) -> Result<Option<(Digest, OAuthClientRow)>, Error> {
        let Some(key) = client_key(client_id) else { return Ok(None) };
        let options = self.oauth()?;
        let row = self.house.ledger.get(&OAUTH_CLIENTS, &key).await?;
        let row = row.filter(|row| Url::parse(&row.uri).is_ok_and(|uri| options.takes(&uri)));
        Ok(row.map(|row| (key, row)))
    }

    /// Somebody signs in with an app: it is kept.
    pub(super) async fn note_client_used(&self, key: &Digest) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let now_ms = self.house.clock.now_ms();
        let inside = self.doors.enter(0).await;
        let Some(row) = ledger.get(&OAUTH_CLIENTS, key).await? else { return Ok(()) };
        if row.used_ms.is_some_and(|used_ms| now_ms.saturating_sub(used_ms) < DAY_MS) {
            return Ok(());
        }
        let mut commit = ledger.begin(Permit::housekeeping());
        let used = OAuthClientRow { used_ms: Some(now_ms), ..row };
        commit.put(&OAUTH_CLIENTS, key, &used);
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    /// Forgets apps that nobody uses; a reconciler, to be called now and then. Returns how many.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn forget_clients(&self) -> Result<usize, Error> {
        let ledger = &self.house.ledger;
        let now_ms = self.house.clock.now_ms();
        let is_over = |row: &OAuthClientRow| {
            let (since_ms, kept_ms) = match row.used_ms {
                Some(used_ms) => (used_ms, USED_MS),
                None => (row.registered_ms, UNUSED_MS),
            };
            since_ms.saturating_add(kept_ms) <= now_ms
        };
        let inside = self.doors.enter(0).await;
        let clients = self.clients().await?;
        let over: Vec<_> = clients.into_iter().filter(|(_, row)| is_over(row)).collect();
        if over.is_empty() {
            return Ok(0);
        }
        let mut commit = ledger.begin(Permit::housekeeping());
        for (key, _) in &over {
            commit.delete(&OAUTH_CLIENTS, key);
        }
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok(over.len())
    }

    pub(super) fn oauth(&self) -> Result<&OAuthOptions, Error> {
        let none = || Error::not_found("This server has no OAuth 2.0.");
        self.house.options.oauth.as_ref().ok_or_else(none)
    }
}
