//! From an access token to the caller.

use std::net::IpAddr;
use std::sync::Arc;

use appliance_ledger::Digest;
use appliance_ledger::keyspaces::{ACCOUNTS, DEVICES, SESSIONS, TOKENS};
use appliance_ledger::rows::{AccountRow, TokenRow};
use appliance_model::{Caller, DeviceNid, Error, Kind, Role, UserNid};
use appliance_rules::Permit;

use super::{Accounts, Mask};

impl Accounts {
    /// Lets somebody in who shows this access token, and remembers that they were here.
    ///
    /// # Errors
    ///
    /// As [`Accounts::authenticate`].
    pub async fn admit(&self, token: &str, address: Option<IpAddr>) -> Result<Caller, Error> {
        let caller = self.authenticate(token).await?;
        self.note_seen(&caller, address, self.house.clock.now_ms());
        Ok(caller)
    }

    /// Who shows this access token; for an application service, its own user.
    ///
    /// # Errors
    ///
    /// [`Kind::UnknownToken`] if nobody (any more), [`Kind::UserLocked`] if an administrator has
    /// locked the account.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, Error> {
        self.authenticate_to(token, Purpose::Anything).await
    }

    /// The same for somebody who wants to sign out, which those who are locked out may.
    ///
    /// # Errors
    ///
    /// [`Kind::UnknownToken`] if nobody (any more).
    pub async fn authenticate_to_sign_out(&self, token: &str) -> Result<Caller, Error> {
        self.authenticate_to(token, Purpose::SigningOut).await
    }

    async fn authenticate_to(&self, token: &str, purpose: Purpose) -> Result<Caller, Error> {
        if let Some(service) = self.house.appservices.by_token(token) {
            return self.unmask(&service.registration, Mask::default()).await;
        }
        let digest = self.token_digest(token);
        let now_ms = self.house.clock.now_ms();
        let caller = match self.callers.get(&digest, now_ms) {
            Some(caller) => caller,
            None => self.look_up(digest, now_ms, purpose).await?,
        };
        Ok(Arc::unwrap_or_clone(caller))
    }

    async fn look_up(
        &self,
        digest: Digest,
        now_ms: u64,
        purpose: Purpose,
    ) -> Result<Arc<Caller>, Error> {
        let ticket = self.callers.ticket();
        let ledger = &self.house.ledger;
        let token = ledger.get(&TOKENS, &digest).await?.ok_or_else(unknown_token)?;
        let user = UserNid(token.user);
        let account = ledger.get(&ACCOUNTS, &user).await?.ok_or_else(unknown_token)?;
        if account.deactivated {
            return Err(unknown_token());
        }
        let role = role_of(&account);
        let device = DeviceNid(token.device);
        let session = ledger.get(&SESSIONS, &device).await?;
        let place = (device, token.device_id.as_str());
        let session_end = self.session_end((user, role), place, session.as_ref()).await?;
        if session_end.is_some_and(|end_ms| end_ms <= now_ms) {
            return Err(unknown_token());
        }
        if token.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
            return Err(self.expired(user, &token).await);
        }
        let caller = Arc::new(Caller {
            user_id: ledger.user_id(user).await?,
            user,
            device_id: token.device_id.as_str().into(),
            device,
            role,
            appservice: None,
            class: self.house.class_in(session.as_ref()),
        });
        // "…on all but the following: POST /logout, POST /logout/all" (account locking).
        if account.locked == Some(true) {
            return if purpose == Purpose::SigningOut { Ok(caller) } else { Err(locked()) };
        }
        if token.unused == Some(true) {
            if let Err(error) = self.first_use(digest).await {
                // A full disk must not keep people from reading. The next request tries again.
                tracing::warn!(kind = "session.first_use", %error, "old tokens live on");
            }
        } else {
            // An end by idleness moves on with every request: it is looked up again when it comes.
            let until_ms = [token.expires_ms, session_end].into_iter().flatten().min();
            self.callers.remember(ticket, digest, caller.clone(), until_ms);
        }
        Ok(caller)
    }

    /// "The old refresh token remains valid until the new access token or refresh token is used"
    /// ([spec]): now is that time.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3refresh
    async fn first_use(&self, digest: Digest) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let Some(token) = ledger.get(&TOKENS, &digest).await? else { return Ok(()) };
        let inside = self.doors.enter(token.user).await;
        let Some(token) = ledger.get(&TOKENS, &digest).await? else { return Ok(()) };
        let key = (UserNid(token.user), token.device_id.clone());
        let device = ledger.get(&DEVICES, &key).await?;
        let (Some(mut device), Some(true)) = (device, token.unused) else { return Ok(()) };
        let mut commit = ledger.begin(Permit::housekeeping());
        // One that was itself replaced before anybody used it ends nothing.
        if device.token == digest {
            self.end_tokens_before(&mut device, &mut commit);
            commit.put(&DEVICES, &key, &device);
        }
        commit.put(&TOKENS, &digest, &TokenRow { unused: None, ..token });
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    /// "soft_logout: true" says that the client may keep its data and "obtain a new access token"
    /// ([spec]); that is so as long as the session has a refresh token.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#soft-logout
    async fn expired(&self, user: UserNid, token: &TokenRow) -> Error {
        let key = (user, token.device_id.clone());
        match self.house.ledger.get(&DEVICES, &key).await {
            Ok(Some(device)) if device.refresh.is_some() => Error::new(
                Kind::UnknownToken { soft_logout: true },
                "This access token has expired. Renew it with the refresh token.",
            ),
            Ok(_) => unknown_token(),
            Err(error) => error,
        }
    }
}

/// What a token is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Anything,
    SigningOut,
}

/// What an account may do.
pub(super) fn role_of(account: &AccountRow) -> Role {
    match account {
        AccountRow { suspended: Some(true), .. } => Role::Suspended,
        AccountRow { administrator: true, .. } => Role::Administrator,
        _ => Role::User,
    }
}

/// What somebody hears whose account is locked.
pub(super) fn locked() -> Error {
    Error::new(Kind::UserLocked, "An administrator of this server has locked this account.")
}

/// "The access token … was not recognised" ([spec]). The session is over: `soft_logout` is false,
/// so that the client removes what it kept.
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#using-access-tokens
pub(super) fn unknown_token() -> Error {
    Error::new(
        Kind::UnknownToken { soft_logout: false },
        "This access token is not valid (any more). Sign in again.",
    )
}
