//! Accounts, sessions and devices.
//!
//! A session is a device and the tokens that open it. Tokens are kept as keyed digests only; what a
//! token stands for is cached ([`callers`]), and the cache is emptied by the commit that ends the
//! session, before anybody hears that it ended.

mod administer;
mod authenticate;
mod callers;
mod change_password;
mod deactivate;
mod dehydrated;
mod devices;
mod enrol;
mod last_seen;
mod leave_rooms;
mod login;
mod login_token;
mod logout;
mod masquerade;
mod oauth;
mod openid;
mod password;
mod refresh;
mod register;
mod registration_tokens;
mod session;
mod session_class;
mod shared_secret;
mod standing;
mod steward;
mod uia;

use std::sync::{Arc, Mutex};

use appliance_ledger::Digest;
use appliance_model::DeviceNid;
use tokio::sync::Semaphore;

pub use administer::AccountSummary;
pub use dehydrated::{Dehydrated, NewDehydrated, WaitingEvents};
pub use devices::Device;
pub use enrol::CODE_MS_MAX;
pub use login::Login;
pub use login_token::LoginToken;
pub use masquerade::Mask;
pub use oauth::{
    App, Asked, ClientMetadata, Fault, OAuthError, OAuthOptions, Redemption, Refused, Said,
    TokenGrant,
};
pub use openid::OpenIdToken;
pub use register::NewAccount;
pub use registration_tokens::{NewRegistrationToken, RegistrationToken, TokenChange, TokenTerms};
pub use session::{NewSession, Session};
pub use shared_secret::SharedSecretRegistration;
pub use standing::{Judgement, Standing};
pub use uia::{Attempt, Flows, OWN_PASSWORD, Proof, Stage};

use crate::doors::Doors;
use crate::house::House;
use crate::keys::Keys;
use crate::limits::Limits;
use crate::recent::Recent;
use crate::rooms::Rooms;

/// The accounts of the house.
pub struct Accounts {
    pub(crate) house: Arc<House>,
    /// One writer at a time inside an account; door 0 is that of names nobody has yet.
    pub(crate) doors: Doors,
    limits: Arc<Limits>,
    pub(crate) keys: Arc<Keys>,
    rooms: Arc<Rooms>,
    hashing: Arc<Semaphore>,
    hash_queue: Arc<Semaphore>,
    callers: Arc<callers::Callers>,
    login_tokens: Mutex<Recent<Digest, login_token::Entry>>,
    codes: Mutex<Recent<Digest, oauth::Code>>,
    nonces: Mutex<Recent<String, u64>>,
    uia: Mutex<Recent<String, uia::UiaSession>>,
    seen: Mutex<Recent<DeviceNid, last_seen::Seen>>,
}

/// Hashing a password takes 19 MiB and a core for tens of milliseconds: more at once would let
/// strangers fill the memory.
const HASHES_AT_ONCE_MAX: usize = 2;
/// Beyond this many waiting, the last would wait longer than its client does.
const HASHES_WAITING_MAX: usize = 256;

impl Accounts {
    pub(crate) fn new(
        house: Arc<House>,
        limits: Arc<Limits>,
        keys: Arc<Keys>,
        rooms: Arc<Rooms>,
    ) -> Self {
        Self {
            house,
            doors: Doors::default(),
            limits,
            keys,
            rooms,
            hashing: Arc::new(Semaphore::new(HASHES_AT_ONCE_MAX)),
            hash_queue: Arc::new(Semaphore::new(HASHES_WAITING_MAX)),
            callers: Arc::default(),
            login_tokens: Mutex::new(Recent::new(login_token::TOKENS_MAX)),
            codes: Mutex::new(Recent::new(oauth::CODES_MAX)),
            nonces: Mutex::new(Recent::new(shared_secret::NONCES_MAX)),
            uia: Mutex::new(Recent::new(uia::SESSIONS_MAX)),
            seen: Mutex::new(Recent::new(last_seen::DEVICES_MAX)),
        }
    }

    /// The key under which a token is kept. The token itself is nowhere in the store.
    pub(crate) fn token_digest(&self, token: &str) -> Digest {
        self.house.ledger.digest(&[b"token", token.as_bytes()])
    }
}
