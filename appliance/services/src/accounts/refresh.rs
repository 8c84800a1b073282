//! Renewing a session's access token.

use std::net::IpAddr;

use appliance_ledger::Digest;
use appliance_ledger::keyspaces::{ACCOUNTS, DEVICES, REFRESH_TOKENS};
use appliance_model::{Error, UserNid};
use appliance_rules::Permit;

use super::authenticate::{locked, unknown_token};
use super::session::Tokens;
use super::{Accounts, Session};
use crate::limits::{Limit, Whose};

impl Accounts {
    /// New tokens for a refresh token.
    ///
    /// "The old refresh token remains valid until the new access token or refresh token is used"
    /// ([spec]), and so does the old access token, until its time: a client that loses the answer
    /// asks again. Asking again with the old one replaces the new pair, which nobody has used.
    ///
    /// No audit entry: a session stays what it was, and there would be one every five minutes for
    /// every phone in the house.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3refresh
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::UnknownToken`]: "The provided token was unknown, or has already
    /// been used"; [`appliance_model::Kind::Limited`] after too many of those.
    pub async fn refresh(
        &self,
        refresh_token: &str,
        address: Option<IpAddr>,
    ) -> Result<Session, Error> {
        self.limits.check(Limit::Login, Whose::Address(address))?;
        match self.renew(refresh_token, None).await? {
            Some(session) => Ok(session),
            None => {
                self.limits.take(Limit::Login, Whose::Address(address))?;
                Err(unknown_token())
            }
        }
    }

    /// New tokens for one that was given to `client`; none if it is none (any more), or not its own.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::UserLocked`] if the account is locked.
    pub(super) async fn renew(
        &self,
        refresh_token: &str,
        client: Option<&Digest>,
    ) -> Result<Option<Session>, Error> {
        let ledger = &self.house.ledger;
        let shown = self.token_digest(refresh_token);
        let Some(row) = ledger.get(&REFRESH_TOKENS, &shown).await? else { return Ok(None) };
        let key = (UserNid(row.user), row.device_id);
        let inside = self.doors.enter(row.user).await;
        let account = ledger.get(&ACCOUNTS, &key.0).await?;
        let Some(account) = account.filter(|account| !account.deactivated) else { return Ok(None) };
        if account.locked == Some(true) {
            return Err(locked());
        }
        let Some(mut device) = ledger.get(&DEVICES, &key).await? else { return Ok(None) };
        // "The refresh token is bound to the client to which it was issued" (RFC 6749, section 6), and
        // those of a session without one are renewed at `/refresh` alone.
        if device.client.as_deref() != client.map(Digest::as_slice) {
            return Ok(None);
        }
        if self.is_session_over(key.0, &key.1, &device).await? {
            return Ok(None);
        }
        let is_shown = |kept: &Option<Vec<u8>>| kept.as_deref() == Some(&shown[..]);
        let mut commit = ledger.begin(Permit::housekeeping());
        if is_shown(&device.refresh) {
            self.end_tokens_before(&mut device, &mut commit);
            device.token_before = Some(std::mem::take(&mut device.token));
            device.refresh_before = device.refresh.take();
        } else if is_shown(&device.refresh_before) {
            self.end_newest_tokens(&mut device, &mut commit);
        } else {
            return Ok(None);
        }
        let Tokens { access, refresh, expires_in_ms } =
            self.issue(&key, &mut device, true, &mut commit);
        commit.put(&DEVICES, &key, &device);
        commit.hold(inside);
        let user_id = ledger.user_id(key.0).await?;
        ledger.commit(commit).await?;
        Ok(Some(Session {
            user_id,
            device_id: key.1.into(),
            access_token: access,
            refresh_token: refresh,
            expires_in_ms,
        }))
    }
}
