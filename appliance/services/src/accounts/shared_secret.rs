//! Synapse's shared-secret registration, which public conformance suites and load generators use:
//! whoever knows the secret makes accounts, administrators among them. There is no such endpoint
//! outside of conformance mode.

use std::sync::PoisonError;

use appliance_model::ruma::OwnedUserId;
use appliance_model::{Error, Kind};
use appliance_rules::Permit;
use aws_lc_rs::hmac;
use serde::Deserialize;

use super::{Accounts, NewAccount, NewSession, Session};
use crate::secret::Secret;

/// Nonces given out and not used: more than any suite has at once.
pub(super) const NONCES_MAX: usize = 1_000;
const NONCE_LENGTH: usize = 64;
/// A nonce is for now.
const NONCE_LIVES_MS: u64 = 60_000;

/// What the holder of the secret asks for.
#[derive(Clone, Deserialize)]
pub struct SharedSecretRegistration {
    nonce: String,
    username: String,
    password: String,
    displayname: Option<String>,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    mac: String,
    #[serde(default)]
    inhibit_login: bool,
}

impl Accounts {
    /// A nonce for one registration within a minute.
    ///
    /// # Errors
    ///
    /// [`Kind::Unrecognized`] if this server has no shared secret.
    pub fn registration_nonce(&self) -> Result<String, Error> {
        self.shared_secret()?;
        let nonce = self.house.dice.letters(NONCE_LENGTH);
        let expires_ms = self.house.clock.now_ms().saturating_add(NONCE_LIVES_MS);
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.insert(nonce.clone(), expires_ms);
        Ok(nonce)
    }

    /// Makes an account for the holder of the secret.
    ///
    /// # Errors
    ///
    /// [`Kind::Unrecognized`] if this server has no shared secret, [`Kind::InvalidParam`] if the
    /// nonce is not one, [`Kind::Forbidden`] if the request was not signed with the secret, and
    /// those of [`Accounts::create_account`].
    pub async fn register_by_secret(
        &self,
        request: SharedSecretRegistration,
    ) -> Result<(OwnedUserId, Option<Session>), Error> {
        let secret = self.shared_secret()?;
        if !self.take_nonce(&request.nonce) {
            return Err(Error::invalid_param("This nonce was not given out, or is used up."));
        }
        if !is_signed(secret, &request) {
            return Err(Error::forbidden("The MAC is wrong."));
        }
        let user_id = self.new_user_id(Some(&request.username))?;
        let new = NewAccount {
            localpart: Some(request.username),
            password: Some(request.password),
            displayname: request.displayname,
            administrator: request.admin,
        };
        let session = (!request.inhibit_login).then(NewSession::default);
        let permit = Permit::administration("account.created", "shared secret", &user_id);
        self.make_account(user_id, new, session, permit).await
    }

    fn shared_secret(&self) -> Result<&Secret, Error> {
        let secret = self.house.options.shared_secret.as_ref();
        secret.ok_or_else(|| Error::new(Kind::Unrecognized, "This server has no such endpoint."))
    }

    /// Whether a nonce was given out and not used; from now on it is used.
    fn take_nonce(&self, nonce: &str) -> bool {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        let expires_ms = nonces.remove(&nonce.to_owned());
        expires_ms.is_some_and(|expires_ms| expires_ms > self.house.clock.now_ms())
    }
}

/// HMAC-SHA1 over nonce, user name, password, "admin" or "notadmin" and, if there is one, the user
/// type, with NULs between.
fn is_signed(secret: &Secret, request: &SharedSecretRegistration) -> bool {
    let role = if request.admin { "admin" } else { "notadmin" };
    let mut parts = vec![&*request.nonce, &*request.username, &*request.password, role];
    parts.extend(request.user_type.as_deref());
    let Some(mac) = from_hex(&request.mac) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    hmac::verify(&key, parts.join("\0").as_bytes(), &mac).is_ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
