//! `POST /login/get_token` ([spec]): a token with which a user who is signed in signs in another
//! device. It works once, soon, and lives in memory: after a restart the user asks for another.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token

use std::net::IpAddr;
use std::sync::PoisonError;

use appliance_model::{Caller, Error, UserNid};
use appliance_rules::Permit;

use super::{Accounts, NewSession, OWN_PASSWORD, Proof, Session};
use crate::limits::{Limit, Whose};

/// "We recommend that the token lives for two minutes"; a second device is in the other hand.
const LIVES_MS: u64 = 120_000;
const TOKEN_LENGTH: usize = 43;
/// Tokens given out and not used: about 60 bytes each.
pub(super) const TOKENS_MAX: usize = 1_000;

/// A token that was given out.
pub(super) struct Entry {
    user: UserNid,
    expires_ms: u64,
}

/// What the user gets.
#[derive(Clone)]
pub struct LoginToken {
    /// The secret to show.
    pub login_token: String,
    /// How long it lives.
    pub expires_in_ms: u64,
}

impl Accounts {
    /// Makes a token that signs the caller in once, on another device, once they have proved who
    /// they are.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Uia`] until the proof is complete.
    pub async fn login_token(&self, caller: &Caller, proof: Proof) -> Result<LoginToken, Error> {
        self.require(Some(caller), OWN_PASSWORD, proof).await?;
        let login_token = format!("wsl_{}", self.house.dice.letters(TOKEN_LENGTH));
        let permit = Permit::own("login_token.issued", &caller.user_id, &caller.device_id);
        self.house.ledger.commit(self.house.ledger.begin(permit)).await?;
        let expires_ms = self.house.clock.now_ms().saturating_add(LIVES_MS);
        let entry = Entry { user: caller.user, expires_ms };
        let digest = self.token_digest(&login_token);
        self.login_tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, entry);
        Ok(LoginToken { login_token, expires_in_ms: LIVES_MS })
    }

    /// Signs in with such a token.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if it is none, or used up, or over;
    /// [`appliance_model::Kind::Limited`] after too many attempts.
    pub async fn login_with_token(
        &self,
        token: &str,
        session: NewSession,
        address: Option<IpAddr>,
    ) -> Result<Session, Error> {
        self.limits.take(Limit::Login, Whose::Address(address))?;
        let entry = {
            let mut tokens = self.login_tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.remove(&self.token_digest(token))
        };
        let none = || Error::forbidden("This login token is not valid (any more).");
        let entry = entry.filter(|entry| entry.expires_ms > self.house.clock.now_ms());
        let user = entry.ok_or_else(none)?.user;
        let user_id = self.house.ledger.user_id(user).await?;
        let permit = Permit::own("session.opened", &user_id, &user_id);
        self.sign_in((user, user_id), session, permit).await
    }
}
