//! From an access token to the caller.

use appliance_ledger::keyspaces::{ACCOUNTS, TOKENS};
use appliance_model::{Caller, DeviceNid, Error, Kind, Role, UserNid};

use super::Accounts;

impl Accounts {
    /// Who shows this access token.
    ///
    /// # Errors
    ///
    /// [`Kind::UnknownToken`] if nobody (any more).
    pub async fn authenticate(&self, token: &str) -> Result<Caller, Error> {
        let digest = self.token_digest(token);
        if let Some(caller) = self.callers.get(&digest) {
            return Ok(caller);
        }
        let ledger = &self.house.ledger;
        let row = ledger.get(&TOKENS, &digest).await?.ok_or_else(unknown_token)?;
        if row.expires_ms.is_some_and(|expires_ms| expires_ms <= self.house.clock.now_ms()) {
            return Err(Error::new(
                Kind::UnknownToken { soft_logout: true },
                "This access token has expired. Renew it with the refresh token.",
            ));
        }
        let user = UserNid(row.user);
        let account = ledger.get(&ACCOUNTS, &user).await?.ok_or_else(unknown_token)?;
        if account.deactivated {
            return Err(unknown_token());
        }
        let caller = Caller {
            user_id: ledger.user_id(user).await?,
            user,
            device_id: row.device_id.into(),
            device: DeviceNid(row.device),
            role: if account.administrator { Role::Administrator } else { Role::User },
        };
        if row.expires_ms.is_none() {
            self.callers.insert(digest, caller.clone());
        }
        Ok(caller)
    }

    /// The key under which a token is kept. The token itself is nowhere in the store.
    pub(crate) fn token_digest(&self, token: &str) -> appliance_ledger::Digest {
        self.house.ledger.digest(&[b"token", token.as_bytes()])
    }
}

/// "The access token … was not recognised" ([spec]). The session is over: `soft_logout` is false,
/// so that the client removes what it kept.
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#using-access-tokens
fn unknown_token() -> Error {
    Error::new(
        Kind::UnknownToken { soft_logout: false },
        "This access token is not valid (any more). Sign in again.",
    )
}
