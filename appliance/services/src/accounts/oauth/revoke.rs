//! An app signs its user out ([RFC 7009]): whichever of its two tokens it shows, both end, and the device with
//! its keys goes with them, as at `/logout` ([spec]).
//!
//! [RFC 7009]: https://www.rfc-editor.org/rfc/rfc7009
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#token-revocation

use std::net::IpAddr;

use appliance_ledger::keyspaces::{DEVICES, REFRESH_TOKENS, TOKENS};
use appliance_model::{Error, UserNid};
use appliance_rules::Permit;

use super::super::Accounts;
use super::{Fault, OAuthError, client_key, wrong};
use crate::limits::{Limit, Whose};

impl Accounts {
    /// Ends the session of an access or refresh token, with its device and keys. One that is none (any more) is
    /// no error: "the purpose of the revocation request, invalidating the particular token, is already achieved".
    ///
    /// Whoever shows a token without saying for which app ends its session, too: it could use it as well.
    ///
    /// # Errors
    ///
    /// [`Fault::InvalidClient`] if it is another app's; [`appliance_model::Kind::Limited`] after too many that
    /// are none.
    pub async fn revoke(
        &self,
        token: &str,
        client_id: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<(), OAuthError> {
        self.limits.check(Limit::Login, Whose::Address(address))?;
        let Some(key) = self.device_of_token(token).await? else {
            self.limits.take(Limit::Login, Whose::Address(address))?;
            return Ok(());
        };
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(key.0.0).await;
        let Some(device) = ledger.get(&DEVICES, &key).await? else { return Ok(()) };
        let is_its_own =
            |id: &str| client_key(id).is_some_and(|id| device.client.as_deref() == Some(&id));
        if client_id.is_some_and(|id| !is_its_own(id)) {
            return Err(wrong(Fault::InvalidClient, "This token was given to another app."));
        }
        let user_id = ledger.user_id(key.0).await?;
        let mut commit = ledger.begin(Permit::own("session.ended", &user_id, &key.1));
        self.end_own_device(key, device, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok(())
    }

    async fn device_of_token(&self, token: &str) -> Result<Option<(UserNid, String)>, Error> {
        let digest = self.token_digest(token);
        let ledger = &self.house.ledger;
        if let Some(row) = ledger.get(&TOKENS, &digest).await? {
            return Ok(Some((UserNid(row.user), row.device_id)));
        }
        let row = ledger.get(&REFRESH_TOKENS, &digest).await?;
        Ok(row.map(|row| (UserNid(row.user), row.device_id)))
    }
}
