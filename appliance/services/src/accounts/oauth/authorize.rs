//! What an app sends its user to the sign-in page with ([RFC 6749], section 4.1), and the code that the user
//! brings back.
//!
//! An app that is not known, or that wants its user sent where it is not at home, is told nothing: the user is,
//! on the page. All other mistakes are the app's to hear, when its user goes back: this server sends nobody
//! on who has not pressed a button, because whoever registers an app could otherwise send people anywhere
//! by way of here ([RFC 9700], section 4.11.2).
//!
//! [RFC 6749]: https://www.rfc-editor.org/rfc/rfc6749#section-4.1
//! [RFC 9700]: https://www.rfc-editor.org/rfc/rfc9700#section-4.11.2

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::PoisonError;

use appliance_ledger::Digest;
use appliance_ledger::keyspaces::{ACCOUNTS, DEVICES};
use appliance_ledger::rows::extras::OAuthClientRow;
use appliance_model::ruma::OwnedUserId;
use appliance_model::{DeviceNid, Error, SessionClass, UserNid};

use super::super::Accounts;
use super::super::authenticate::locked;
use super::super::login::wrong_password;
use super::super::session::may_take_over;
use super::redirect::{Mode, is_same, with_answer};
use super::scope::{self, Scope};
use super::{Fault, client_id};
use crate::limits::{Limit, Whose};

/// Codes given out and remembered: some 500 bytes each, and each took a right password.
pub(in super::super) const CODES_MAX: usize = 1_000;
/// "A maximum authorization code lifetime of 10 minutes is RECOMMENDED"; an app is back in seconds.
pub(super) const CODE_LIVES_MS: u64 = 60_000;
const CODE_LENGTH: usize = 43;
/// SHA-256 in Base64 without padding.
const CHALLENGE_LENGTH: usize = 43;
/// All of what an app says; a state of its own is the longest part.
const QUERY_BYTES_MAX: usize = 8 * 1_024;

/// A code, from when it is given out until it is forgotten.
pub(in super::super) struct Code {
    pub(super) stage: Stage,
    pub(super) client: Digest,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    pub(super) scope: Scope,
    pub(super) class: Option<SessionClass>,
    pub(super) expires_ms: u64,
}

/// How far a code has come.
pub(super) enum Stage {
    /// Nobody has brought it yet.
    Fresh(UserNid, OwnedUserId),
    /// An app has brought it, and its session is being opened.
    Redeeming,
    /// It has opened a session on a device: which, and when, in milliseconds since the Unix epoch.
    Redeemed((UserNid, String), DeviceNid, u64),
    /// It was brought twice, or in vain: whatever it opened ends.
    Spent,
}

/// The query of the page, each parameter once.
#[derive(Clone, Debug)]
pub struct Said(BTreeMap<String, String>);

impl Said {
    /// Reads it. "Request and response parameters MUST NOT be included more than once."
    ///
    /// # Errors
    ///
    /// A sentence: too long, or something is there twice.
    pub fn read(query: &str) -> Result<Self, Refused> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(Refused::here("The app asks with too many words."));
        }
        let mut said = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            // "Parameters sent without a value MUST be treated as if they were omitted."
            if value.is_empty() {
                continue;
            }
            if said.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(Refused::here("The app says one thing twice."));
            }
        }
        Ok(Self(said))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The app that asks, as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// What it calls itself.
    pub name: Option<String>,
    /// Its own page.
    pub uri: String,
    /// Its terms of service.
    pub tos_uri: Option<String>,
    /// What it does with people's data.
    pub policy_uri: Option<String>,
}

/// What an app asks for, and may.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asks.
    pub app: App,
    /// Whom it expects to sign in.
    pub login_hint: Option<String>,
    client: Digest,
    back: Back,
    challenge: String,
    scope: Scope,
}

impl Asked {
    /// Where a user goes who does not want to.
    pub fn declined(&self) -> String {
        self.back.with_fault(Fault::AccessDenied, "The user went back without signing in.")
    }
}

/// Why nobody can sign in so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// A sentence for the person in front of the page.
    pub why: String,
    /// Where the app hears of it, if that is known to be the app's.
    pub return_to: Option<String>,
}

impl Refused {
    fn here(why: &str) -> Self {
        Self { why: why.to_owned(), return_to: None }
    }
}

/// The way back.
#[derive(Clone, Debug)]
struct Back {
    uri: String,
    mode: Mode,
    state: Option<String>,
}

impl Back {
    fn with(&self, answer: &[(&str, &str)]) -> String {
        // "REQUIRED if the `state` parameter was present in the client authorization request."
        let state = self.state.as_deref().map(|state| ("state", state));
        let answer: Vec<_> = answer.iter().copied().chain(state).collect();
        with_answer(&self.uri, self.mode, &answer)
    }

    fn with_fault(&self, fault: Fault, why: &str) -> String {
        self.with(&[("error", fault.as_str()), ("error_description", why)])
    }

    fn refuse(&self, fault: Fault, why: &'static str) -> Refused {
        Refused { why: why.to_owned(), return_to: Some(self.with_fault(fault, why)) }
    }
}

impl Accounts {
    /// Judges what an app asks for. Nothing changes.
    ///
    /// # Errors
    ///
    /// If the store fails; `Ok(Err(…))` if the app may not.
    pub async fn authorization(&self, said: &Said) -> Result<Result<Asked, Refused>, Error> {
        self.oauth()?;
        let client = match said.get("client_id") {
            Some(client_id) => self.client(client_id).await?,
            None => None,
        };
        let Some((key, row)) = client else {
            let why =
                "This server does not know the app that sent you here. Begin anew in the app.";
            return Ok(Err(Refused::here(why)));
        };
        Ok(judge(said, key, row))
    }

    /// Signs a user in for an app; returns where their browser goes, with the code.
    ///
    /// # Errors
    ///
    /// As [`Accounts::login`]; [`appliance_model::Kind::Forbidden`] if the device is another app's.
    pub async fn grant(
        &self,
        asked: Asked,
        (user, password): (&str, String),
        class: Option<SessionClass>,
        address: Option<IpAddr>,
    ) -> Result<String, Error> {
        self.limits.take(Limit::Login, Whose::Address(address))?;
        let user_id = self.local_user_id(user).ok_or_else(wrong_password)?;
        let user = self.check_password(&user_id, password, address).await?;
        let ledger = &self.house.ledger;
        let account = ledger.get(&ACCOUNTS, &user).await?;
        if account.is_some_and(|account| account.locked == Some(true)) {
            return Err(locked());
        }
        let device = ledger.get(&DEVICES, &(user, asked.scope.device_id.clone())).await?;
        device.map_or(Ok(()), |device| may_take_over(&device, Some(&asked.client)))?;

        let code = format!("wsc_{}", self.house.dice.letters(CODE_LENGTH));
        let back = asked.back.with(&[("code", &code)]);
        let entry = Code {
            stage: Stage::Fresh(user, user_id),
            client: asked.client,
            redirect_uri: asked.back.uri,
            challenge: asked.challenge,
            scope: asked.scope,
            class,
            expires_ms: self.house.clock.now_ms().saturating_add(CODE_LIVES_MS),
        };
        let digest = self.token_digest(&code);
        self.codes.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, entry);
        tracing::debug!(client = client_id(&asked.client), "a code was given out");
        Ok(back)
    }
}

fn judge(said: &Said, client: Digest, row: OAuthClientRow) -> Result<Asked, Refused> {
    let uri = said.get("redirect_uri").unwrap_or_default();
    // "The full redirect URI must be included in the authorization request."
    if !row.redirect_uris.iter().any(|registered| is_same(registered, uri)) {
        let why = "The app wants to send you to a place that is not its own. Do not sign in here; \
                   tell those who look after this server.";
        return Err(Refused::here(why));
    }
    let state = said.get("state").map(str::to_owned);
    let mut back = Back { uri: uri.to_owned(), mode: Mode::Query, state };
    back.mode = match said.get("response_mode") {
        None | Some("query") => Mode::Query,
        Some("fragment") => Mode::Fragment,
        Some(_) => {
            let why = "The app asks for an answer in a way that this server does not give.";
            return Err(back.refuse(Fault::InvalidRequest, why));
        }
    };
    if said.get("response_type") != Some("code") {
        let why = "The app asks for another answer than a code.";
        return Err(back.refuse(Fault::UnsupportedResponseType, why));
    }
    // "Those clients are public and therefore must use PKCE with the S256 code challenge mechanism"; without a
    // method it would be `plain`.
    let challenge = said.get("code_challenge").unwrap_or_default();
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_challenge = challenge.len() == CHALLENGE_LENGTH && challenge.bytes().all(is_base64);
    if said.get("code_challenge_method") != Some("S256") || !is_challenge {
        let why = "The app does not prove that it is the one that began (PKCE with S256).";
        return Err(back.refuse(Fault::InvalidRequest, why));
    }
    let scope = scope::read(said.get("scope").unwrap_or_default())
        .map_err(|why| back.refuse(Fault::InvalidScope, why))?;
    let app =
        App { name: row.name, uri: row.uri, tos_uri: row.tos_uri, policy_uri: row.policy_uri };
    let hint = said.get("login_hint").map(|hint| hint.strip_prefix("mxid:").unwrap_or(hint));
    let (login_hint, challenge) = (hint.map(str::to_owned), challenge.to_owned());
    Ok(Asked { app, login_hint, client, back, challenge, scope })
}
