//! Telling servers about the keys of servers ([spec]). This server asks nobody but the owner about a
//! key; but who asks this one is told what the owner said, with this server's signature below.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server

use appliance_model::Error;
use appliance_model::ruma::signatures::sign_json;
use appliance_model::ruma::{CanonicalJsonObject, OwnedServerName};

use super::Peers;

/// Servers in one question. A bigger room is asked about in pieces.
const SERVERS_MAX: usize = 100;

impl Peers {
    /// What is known about the keys of servers: which servers, and until when their keys should be
    /// valid (milliseconds since the Unix epoch). Those unknown, or not on the list, are left out.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn tell_keys(
        &self,
        wanted: Vec<(OwnedServerName, u64)>,
    ) -> Result<Vec<CanonicalJsonObject>, Error> {
        let mut told = Vec::new();
        for (server, valid_until_ms) in wanted.into_iter().take(SERVERS_MAX) {
            if server == self.house.server_name {
                told.push(self.house.own_keys()?);
                continue;
            }
            let known = self.known_keys(&server).await?;
            let is_fresh = known.as_ref().is_some_and(|row| row.valid_until_ms >= valid_until_ms);
            let row = if is_fresh || !self.house.roll.allows(&server) {
                known
            } else {
                self.fetch_keys(&server).await?
            };
            let Some(row) = row.filter(|row| !row.json.is_empty()) else { continue };
            // What was kept was read before.
            let said = serde_json::from_slice::<CanonicalJsonObject>(&row.json);
            let mut said = said.map_err(Error::internal)?;
            let name = self.house.server_name.as_str();
            sign_json(name, &self.house.signing_key, &mut said).map_err(Error::internal)?;
            told.push(said);
        }
        Ok(told)
    }
}
