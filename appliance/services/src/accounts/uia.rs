//! User-interactive authentication ([UIA]): for what matters, a token is not enough.
//!
//! A use case calls [`Accounts::require`] with the flows it accepts. Each answer that asks for more
//! opens or continues a session that is bound to the account and to the very request it was opened
//! for. Sessions live in memory: all stages here can be passed in a single request, so after a
//! restart the client's next attempt passes in a session of its own, and strangers cannot make this
//! server write to disk by asking.
//!
//! [UIA]: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api

use std::net::IpAddr;
use std::sync::PoisonError;

use appliance_ledger::Digest;
use appliance_model::ruma::UserId;
use appliance_model::{Caller, Error, Kind, Uia, UserNid};
use appliance_rules::Denial;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Accounts;

/// Sessions kept: about 200 bytes each. One that is forgotten too early costs its owner a second
/// prompt.
pub(super) const SESSIONS_MAX: usize = 10_000;
/// As long as a person looks for a password.
const SESSION_LIVES_MS: u64 = 15 * 60 * 1_000;
const SESSION_ID_LENGTH: usize = 24;

/// A step of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The caller's password.
    Password,
    /// Nothing.
    Dummy,
    /// A registration token.
    RegistrationToken,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Password, Self::Dummy, Self::RegistrationToken];

    /// Its name in the spec.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "m.login.password",
            Self::Dummy => "m.login.dummy",
            Self::RegistrationToken => "m.login.registration_token",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }
}

/// The flows of which one must be completed.
pub type Flows = &'static [&'static [Stage]];

/// The owner of the account must show their password.
pub const OWN_PASSWORD: Flows = &[&[Stage::Password]];

/// What comes with a request that needs authentication.
pub struct Proof {
    /// What the client shows.
    pub attempt: Option<Attempt>,
    /// What it asks for ([`Accounts::operation`]).
    pub operation: Digest,
    /// Where from.
    pub address: Option<IpAddr>,
}

/// The `auth` of a request.
#[derive(Clone, Default, Deserialize)]
pub struct Attempt {
    #[serde(rename = "type")]
    stage: Option<String>,
    session: Option<String>,
    identifier: Option<Map<String, Value>>,
    // Of before r0.5; matrix-nio and others still send it.
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stage, session, .. } = self;
        f.debug_struct("Attempt")
            .field("stage", stage)
            .field("session", session)
            .finish_non_exhaustive()
    }
}

impl Attempt {
    /// The registration token, if one is shown.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Reads the `auth` of a request's body.
    ///
    /// # Errors
    ///
    /// [`Kind::BadJson`] if it has not the form it needs.
    pub fn from_json(auth: Value) -> Result<Self, Error> {
        // The detail of a parser could repeat the password.
        serde_json::from_value(auth)
            .map_err(|_| Error::bad_json("`auth` has not the form of authentication data."))
    }
}

/// How far somebody has come.
#[derive(Clone, Debug)]
pub(super) struct UiaSession {
    operation: Digest,
    user: Option<UserNid>,
    completed: Vec<Stage>,
    expires_ms: u64,
}

impl Accounts {
    /// A short name for what a request asks for: its method, its path, its body without `auth`.
    pub fn operation(&self, parts: &[&[u8]]) -> Digest {
        self.house.ledger.digest(parts)
    }

    /// Lets those pass who have completed one of the `flows` for this very request.
    ///
    /// # Errors
    ///
    /// [`Kind::Uia`] until then, with the session to continue and why the last attempt failed;
    /// [`Kind::Limited`] after too many wrong attempts; [`Kind::Forbidden`] if the session belongs
    /// to another request or another account.
    pub async fn require(
        &self,
        who: Option<&Caller>,
        flows: Flows,
        proof: Proof,
    ) -> Result<(), Error> {
        // Nobody is there to be asked for a password: "application services … without … the
        // User-Interactive Authentication" (device management, cross-signing keys).
        if who.is_some_and(|caller| caller.appservice.is_some()) {
            return Ok(());
        }
        let user = who.map(|caller| caller.user);
        let attempt = proof.attempt.as_ref();
        let claimed = attempt.and_then(|attempt| attempt.session.as_deref());
        let (session_id, mut session) = match claimed.and_then(|id| self.uia_session(id)) {
            // "The homeserver should verify … that the client is still trying to do the same
            // thing": otherwise what the owner agreed to could be swapped for something else.
            Some((_, session)) if session.user != user || session.operation != proof.operation => {
                return Err(Error::forbidden("This session was opened for another request."));
            }
            Some(known) => known,
            None => self.new_uia_session(user, proof.operation),
        };
        let failure = match attempt.and_then(|attempt| attempt.stage.as_deref()) {
            // "May be omitted if `session` is given", to ask how far it has come.
            None => None,
            Some(stage) => {
                self.try_stage(who, flows, stage, &proof).await.map_or_else(Some, |stage| {
                    session.completed.push(stage);
                    None
                })
            }
        };
        if let Some(limited @ Error { kind: Kind::Limited { .. }, .. }) = failure {
            return Err(limited);
        }
        let is_done = |flow: &&[Stage]| flow.iter().all(|stage| session.completed.contains(stage));
        let mut sessions = self.uia.lock().unwrap_or_else(PoisonError::into_inner);
        if flows.iter().any(is_done) {
            sessions.remove(&session_id);
            return Ok(());
        }
        session.completed.dedup();
        sessions.insert(session_id.clone(), session.clone());
        drop(sessions);
        Err(more_needed(session_id, flows, &session.completed, failure))
    }

    fn uia_session(&self, id: &str) -> Option<(String, UiaSession)> {
        let sessions = self.uia.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get(&id.to_owned())?;
        let alive = session.expires_ms > self.house.clock.now_ms();
        alive.then(|| (id.to_owned(), session.clone()))
    }

    fn new_uia_session(&self, user: Option<UserNid>, operation: Digest) -> (String, UiaSession) {
        let expires_ms = self.house.clock.now_ms().saturating_add(SESSION_LIVES_MS);
        let session = UiaSession { operation, user, completed: Vec::new(), expires_ms };
        (self.house.dice.letters(SESSION_ID_LENGTH), session)
    }

    async fn try_stage(
        &self,
        who: Option<&Caller>,
        flows: Flows,
        name: &str,
        proof: &Proof,
    ) -> Result<Stage, Error> {
        let unknown = || Error::new(Kind::Unrecognized, "No flow here has such a stage.");
        let stage = Stage::named(name).ok_or_else(unknown)?;
        if !flows.iter().any(|flow| flow.contains(&stage)) {
            return Err(unknown());
        }
        let Some(attempt) = &proof.attempt else { return Err(unknown()) };
        match (stage, who) {
            (Stage::Dummy, _) => {}
            (Stage::RegistrationToken, _) => {
                self.check_registration_token(attempt, proof.address).await?;
            }
            (Stage::Password, Some(caller)) => {
                self.check_own_password(caller, attempt, proof.address).await?;
            }
            (Stage::Password, None) => return Err(unknown()),
        }
        Ok(stage)
    }

    async fn check_own_password(
        &self,
        caller: &Caller,
        attempt: &Attempt,
        address: Option<IpAddr>,
    ) -> Result<(), Error> {
        let missing = || Error::new(Kind::MissingParam, "The password is missing.");
        let password = attempt.password.clone().ok_or_else(missing)?;
        let named = attempt.identifier.as_ref().and_then(|identifier| identifier.get("user"));
        let named = named.and_then(Value::as_str).or(attempt.user.as_deref());
        let is_other = |named: &str| self.local_user_id(named).as_ref() != Some(&caller.user_id);
        if named.is_some_and(is_other) {
            return Err(self.refuse_password(&caller.user_id).await);
        }
        match self.check_password(&caller.user_id, password, address).await {
            Ok(_) => Ok(()),
            Err(Error { kind: Kind::Forbidden, .. }) => {
                Err(self.refuse_password(&caller.user_id).await)
            }
            Err(error) => Err(error),
        }
    }

    /// Somebody holds a session and not the password: that belongs into the audit trail.
    async fn refuse_password(&self, user_id: &UserId) -> Error {
        let denial = Denial {
            verb: "password.refused",
            who: user_id.to_string(),
            object: user_id.to_string(),
            why: "The password is wrong.".into(),
        };
        self.house.ledger.refuse(denial).await
    }

    async fn check_registration_token(
        &self,
        attempt: &Attempt,
        address: Option<IpAddr>,
    ) -> Result<(), Error> {
        let missing = || Error::new(Kind::MissingParam, "The registration token is missing.");
        let token = attempt.token.as_deref().ok_or_else(missing)?;
        if self.is_registration_token(token, address).await? {
            return Ok(());
        }
        Err(Error::forbidden("This registration token is not valid."))
    }
}

fn more_needed(
    session: String,
    flows: Flows,
    completed: &[Stage],
    failure: Option<Error>,
) -> Error {
    let names = |stages: &[Stage]| stages.iter().map(|stage| stage.as_str().to_owned()).collect();
    let uia = Uia {
        session,
        flows: flows.iter().map(|flow| names(flow)).collect(),
        completed: names(completed),
        failure: failure.map(Box::new),
    };
    Error::new(Kind::Uia(Box::new(uia)), "More authentication is needed.")
}
