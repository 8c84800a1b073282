//! The token endpoint ([RFC 6749], sections 4.1.3 and 6): a code, or a refresh token, for the tokens of a
//! session.
//!
//! [RFC 6749]: https://www.rfc-editor.org/rfc/rfc6749#section-4.1.3

use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

use appliance_ledger::Digest;
use appliance_ledger::keyspaces::{DEVICES, SESSIONS};
use appliance_model::ruma::OwnedUserId;
use appliance_model::{DeviceNid, Error, Kind, SessionClass, UserNid};
use appliance_rules::Permit;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::{Accounts, NewSession, Session};
use super::authorize::{Code, Stage};
use super::{Fault, OAuthError, client_id, client_key, wrong};
use crate::limits::{Limit, Whose};
use crate::recent::Recent;

/// What an app brings with a code.
pub struct Redemption<'a> {
    /// The code.
    pub code: &'a str,
    /// Who it says it is.
    pub client_id: &'a str,
    /// Where it was sent back to.
    pub redirect_uri: &'a str,
    /// What the challenge was made of.
    pub verifier: &'a str,
    /// What the listener vouches for that it comes through.
    pub class: Option<SessionClass>,
    /// Where from.
    pub address: Option<IpAddr>,
}

/// What it gets.
#[derive(Debug)]
pub struct TokenGrant {
    /// The session.
    pub session: Session,
    /// What it may, where that was said.
    pub scope: Option<String>,
}

/// What a code is worth: whose session, and how.
struct Worth {
    user: (UserNid, OwnedUserId),
    client: Digest,
    session: NewSession,
    scope: String,
}

impl Accounts {
    /// Opens a session for the code that an app brings.
    ///
    /// # Errors
    ///
    /// [`Fault::InvalidGrant`] if it is none (any more), another app's, or the account is closed or locked;
    /// [`Kind::Limited`] after too many of those.
    pub async fn redeem(&self, brought: Redemption<'_>) -> Result<TokenGrant, OAuthError> {
        self.limits.check(Limit::Login, Whose::Address(brought.address))?;
        let digest = self.token_digest(brought.code);
        let Some(worth) = self.take_code(&digest, &brought).await? else {
            self.limits.take(Limit::Login, Whose::Address(brought.address))?;
            let why = "This code is not valid (any more). Begin anew.";
            return Err(wrong(Fault::InvalidGrant, why));
        };
        let opened = self.open_for_app(worth).await;
        let (granted, stage) = match opened {
            Ok((granted, stage)) => (Ok(granted), stage),
            Err(error) => (Err(error), Stage::Spent),
        };
        // Brought again meanwhile? Then nobody knows which of the two is the app.
        if self.settle(&digest, &stage) {
            return granted;
        }
        self.end_opened(stage).await?;
        Err(wrong(Fault::InvalidGrant, "This code was used twice. Begin anew."))
    }

    /// What a code is worth that is brought for the first time by whom it was given to. From now on it is worth
    /// nothing.
    async fn take_code(
        &self,
        digest: &Digest,
        brought: &Redemption<'_>,
    ) -> Result<Option<Worth>, Error> {
        let (worth, before) = {
            let mut codes = self.codes();
            let Some(mut code) = codes.remove(digest) else { return Ok(None) };
            let before = std::mem::replace(&mut code.stage, Stage::Spent);
            let worth = match before {
                Stage::Fresh(user, ref user_id) if self.is_for(&code, brought) => {
                    code.stage = Stage::Redeeming;
                    Some(worth(&code, (user, user_id.clone()), brought.class))
                }
                _ => None,
            };
            codes.insert(*digest, code);
            (worth, before)
        };
        // "If an authorization code is used more than once, the authorization server MUST deny the request and
        // SHOULD revoke (when possible) all tokens previously issued based on that authorization code."
        self.end_opened(before).await?;
        Ok(worth)
    }

    /// "Ensure that the code was issued to `client_id` in the request", went to that very `redirect_uri`, is not
    /// over, and that the verifier is what the challenge was made of (RFC 7636, section 4.6).
    fn is_for(&self, code: &Code, brought: &Redemption<'_>) -> bool {
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, brought.verifier.as_bytes()));
        let is_proved =
            verify_slices_are_equal(challenge.as_bytes(), code.challenge.as_bytes()).is_ok();
        is_proved
            && is_verifier(brought.verifier)
            && client_key(brought.client_id) == Some(code.client)
            && brought.redirect_uri == code.redirect_uri
            && code.expires_ms > self.house.clock.now_ms()
    }

    async fn open_for_app(&self, worth: Worth) -> Result<(TokenGrant, Stage), OAuthError> {
        let Worth { user: (user, user_id), client, mut session, scope } = worth;
        let Some((_, row)) = self.client(&client_id(&client)).await? else {
            return Err(wrong(Fault::InvalidClient, "This app is not registered (any more)."));
        };
        self.note_client_used(&client).await?;
        let permit = Permit::own("session.opened", &user_id, format!("{user_id} with {}", row.uri));
        session.display_name = row.name.or(Some(row.uri));
        let session = self.sign_in((user, user_id), session, permit).await.map_err(|error| {
            match error.kind {
                Kind::Forbidden | Kind::UserLocked | Kind::InvalidParam => {
                    wrong(Fault::InvalidGrant, error.message)
                }
                _ => OAuthError::House(error),
            }
        })?;
        let key = (user, session.device_id.to_string());
        let device = self.house.ledger.get(&DEVICES, &key).await?;
        let device = DeviceNid(device.map_or(0, |device| device.device));
        let opened = self.house.ledger.get(&SESSIONS, &device).await?;
        let opened_ms = opened.map_or(0, |row| row.opened_ms);
        let stage = Stage::Redeemed(key, device, opened_ms);
        Ok((TokenGrant { session, scope: Some(scope) }, stage))
    }

    /// Writes down what became of a code; false if it was brought again meanwhile.
    fn settle(&self, digest: &Digest, stage: &Stage) -> bool {
        let mut codes = self.codes();
        let Some(mut code) = codes.remove(digest) else { return true };
        let is_first = matches!(code.stage, Stage::Redeeming);
        if let (true, Stage::Redeemed(key, device, opened_ms)) = (is_first, stage) {
            code.stage = Stage::Redeemed(key.clone(), *device, *opened_ms);
        } else {
            code.stage = Stage::Spent;
        }
        codes.insert(*digest, code);
        is_first
    }

    /// Ends the session that a code has opened, if it is still that one.
    async fn end_opened(&self, stage: Stage) -> Result<(), Error> {
        let Stage::Redeemed(key, number, opened_ms) = stage else { return Ok(()) };
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(key.0.0).await;
        let session = ledger.get(&SESSIONS, &number).await?;
        let Some(device) = ledger.get(&DEVICES, &key).await? else { return Ok(()) };
        if session.is_none_or(|row| row.opened_ms != opened_ms) || device.device != number.0 {
            return Ok(());
        }
        let user_id = ledger.user_id(key.0).await?;
        tracing::warn!(kind = "oauth.code_used_twice", "the session that it opened is ended");
        let permit = Permit::own("session.code_used_twice", &user_id, &key.1);
        let mut commit = ledger.begin(permit);
        self.end_device(key, device, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    fn codes(&self) -> MutexGuard<'_, Recent<Digest, Code>> {
        self.codes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New tokens for the refresh token of an app: the rules are those of [`Accounts::refresh`].
    ///
    /// # Errors
    ///
    /// [`Fault::InvalidGrant`] if it is none (any more), or another app's; [`Kind::Limited`] after too many of
    /// those.
    pub async fn refresh_for(
        &self,
        client_id: &str,
        refresh_token: &str,
        address: Option<IpAddr>,
    ) -> Result<TokenGrant, OAuthError> {
        self.limits.check(Limit::Login, Whose::Address(address))?;
        let renewed = match client_key(client_id) {
            Some(client) => self.renew(refresh_token, Some(&client)).await?,
            None => None,
        };
        let Some(session) = renewed else {
            self.limits.take(Limit::Login, Whose::Address(address))?;
            let why = "This refresh token is not valid (any more). Sign in again.";
            return Err(wrong(Fault::InvalidGrant, why));
        };
        Ok(TokenGrant { session, scope: None })
    }
}

/// "A high-entropy cryptographic random STRING using the unreserved characters … with a minimum length of 43
/// characters and a maximum length of 128 characters."
fn is_verifier(verifier: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (43..=128).contains(&verifier.len()) && verifier.bytes().all(is_unreserved)
}

/// A browser on a managed device may open an app that comes in by another door, and the other way round.
fn worth(code: &Code, user: (UserNid, OwnedUserId), door: Option<SessionClass>) -> Worth {
    let session = NewSession {
        device_id: Some(code.scope.device_id.as_str().into()),
        refreshable: true,
        class: code.class.or(door),
        client: Some(code.client),
        ..NewSession::default()
    };
    Worth { user, client: code.client, session, scope: code.scope.said.clone() }
}
