//! What clients need for calls and cannot know: the TURN servers of the house with credentials that
//! end, and where a group call meets.

use appliance_model::ruma::UserId;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::house::House;
use crate::secret::Secret;

/// A shift and a night: a call that is longer asks again.
const LIVES_SECS: u64 = 86_400;

/// The TURN servers of the house.
#[derive(Clone, Debug)]
pub struct Turn {
    uris: Vec<String>,
    secret: Secret,
}

impl Turn {
    /// Servers (`turn:` or `turns:` URIs) that share `secret` with this one.
    pub fn new(uris: Vec<String>, secret: impl Into<String>) -> Self {
        Self { uris, secret: Secret::new(secret) }
    }
}

/// What a client shows a TURN server.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnCredentials {
    /// When it ends, and whose it is.
    pub username: String,
    /// What proves it.
    pub password: String,
    /// Where to.
    pub uris: Vec<String>,
    /// How long it lives, in seconds.
    pub ttl_secs: u64,
}

impl House {
    /// Credentials for the TURN servers; none if the house has none.
    ///
    /// "TURN REST API": the user name is the second at which it ends, the password is its HMAC-SHA1
    /// under the secret that the servers share.
    pub fn turn_credentials(&self, user_id: &UserId) -> Option<TurnCredentials> {
        let turn = self.options.turn.as_ref()?;
        let ends_secs = self.clock.now_ms() / 1_000 + LIVES_SECS;
        let username = format!("{ends_secs}:{user_id}");
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, turn.secret.as_bytes());
        let password = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        Some(TurnCredentials { username, password, uris: turn.uris.clone(), ttl_secs: LIVES_SECS })
    }
}
