//! What all services share: the ledger, time, chance, the server's name and signing key.

use std::path::PathBuf;
use std::sync::Arc;

use appliance_ledger::{Blobs, Ledger};
use appliance_model::ruma::signatures::Ed25519KeyPair;
use appliance_model::ruma::{OwnedServerName, RoomVersionId, UserId};
use appliance_model::{Clock, Dice};

use crate::accounts::OAuthOptions;
use crate::appservices::Registry;
use crate::calls::Turn;
use crate::egress::Egress;
use crate::limits::RateLimits;
use crate::media::MediaOptions;
use crate::peers::{ListTerms, Outbox, Remote, Roll};
use crate::policy::{Held, PolicyOptions};
use crate::secret::Secret;

/// The house.
pub struct House {
    /// Typed rows to read, commits to make.
    pub ledger: Ledger,
    /// Files, outside the store.
    pub blobs: Blobs,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub dice: Arc<dyn Dice>,
    /// The servers that this one talks with.
    pub roll: Arc<Roll>,
    /// The one door out.
    pub egress: Arc<dyn Egress>,
    /// The way to other servers, through that door.
    pub remote: Arc<dyn Remote>,
    /// What other servers are owed.
    pub outbox: Outbox,
    /// The name of this server.
    pub server_name: OwnedServerName,
    /// The key that signs this server's events.
    pub signing_key: Ed25519KeyPair,
    /// What the operator chose.
    pub options: Options,
    /// The application services that are registered.
    pub appservices: Arc<Registry>,
    /// The clinical policy that the administrator set.
    pub policy: Arc<Held>,
}

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may make an account.
    pub registration: Registration,
    /// The secret of Synapse's shared-secret registration; `None` means that there is no such
    /// endpoint. For conformance suites only.
    pub shared_secret: Option<Secret>,
    /// The room version of new rooms.
    pub default_room_version: RoomVersionId,
    /// The URL clients reach this server at, for `.well-known`.
    pub public_base_url: Option<String>,
    /// Where other servers reach this one, for `.well-known`: a host, with or without a port.
    pub federation_address: Option<String>,
    /// The signed list of servers to talk with, beside those that are named.
    pub federation_list: Option<Arc<ListTerms>>,
    /// Write into rooms which servers may take part, and keep that in step with the list of peers.
    pub access_lists: bool,
    /// Rooms of the class `clinical-shared` that are made here name this server as their policy server.
    pub policy_server: bool,
    /// After how long people are told that a hospital cannot be reached with which they share rooms, in
    /// milliseconds; none: they are not.
    pub away_notice_ms: Option<u64>,
    /// Whom to ask for help, for `.well-known`.
    pub support: Support,
    /// How long an access token lives whose client can refresh it, in milliseconds.
    pub access_token_ms: u64,
    /// Hash passwords cheaply: for conformance suites only.
    pub cheap_password_hash: bool,
    /// Show who is online.
    pub presence: bool,
    /// How often things may be done; `None` limits nothing: for conformance suites only.
    pub rate_limits: Option<RateLimits>,
    /// Files and how long they live.
    pub media: MediaOptions,
    /// Who finds whom and what.
    pub directory: DirectoryOptions,
    /// The TURN servers for calls between two; `None`: there are none.
    pub turn: Option<Turn>,
    /// Where group calls meet: the URL of the service that lets people in to LiveKit.
    pub rtc_livekit_url: Option<String>,
    /// Where the search index lies; `None` keeps it in memory: for tests.
    pub search_folder: Option<PathBuf>,
    /// Try other servers again at once: for conformance suites only.
    pub quick_retries: bool,
    /// Classes of sessions.
    pub policy: PolicyOptions,
    /// Make previews of pages that messages point at.
    pub previews: bool,
    /// Where people look at photos, and take them, on devices that may not keep any.
    pub photo_page_url: Option<String>,
    /// Where apps send people to sign in; none: there is no OAuth 2.0.
    pub oauth: Option<OAuthOptions>,
    /// Whether `/login` takes passwords.
    pub password_login: bool,
    /// What suites ask for.
    pub for_suites: ForSuites,
    /// The local part of the account that speaks for the house.
    pub notices_localpart: String,
}

/// What conformance suites ask for of before the present specification: for them only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForSuites {
    /// Serve files at the routes of before v1.11, too, to whoever is signed in.
    pub legacy_media: bool,
    /// Ring for messages that have somebody's name in their text: predefined rules of before v1.17.
    pub legacy_mentions: bool,
    /// Make previews of pages that are served without TLS.
    pub plain_previews: bool,
}

/// Who finds whom and what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryOptions {
    /// Who is found in the user directory.
    pub users: WhoIsFound,
    /// Strangers may list the published rooms and look at those that are open: for conformance
    /// suites only.
    pub rooms_open: bool,
}

/// Who is found in the user directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhoIsFound {
    /// Everyone with an account here.
    #[default]
    Everyone,
    /// Those who share a room with whoever asks, or are in a published one.
    SharedRooms,
}

/// Five minutes: a stolen access token opens little, and a phone in use renews it 12 times an hour.
const ACCESS_TOKEN_MS: u64 = 5 * 60 * 1_000;

/// A restart or a short break of the line is over by then.
const AWAY_NOTICE_MS: u64 = 10 * 60 * 1_000;

impl Default for Options {
    fn default() -> Self {
        Self {
            registration: Registration::Closed,
            shared_secret: None,
            default_room_version: RoomVersionId::V11,
            public_base_url: None,
            federation_address: None,
            federation_list: None,
            access_lists: false,
            policy_server: false,
            away_notice_ms: Some(AWAY_NOTICE_MS),
            support: Support::default(),
            access_token_ms: ACCESS_TOKEN_MS,
            cheap_password_hash: false,
            presence: false,
            rate_limits: Some(RateLimits::default()),
            media: MediaOptions::default(),
            directory: DirectoryOptions::default(),
            turn: None,
            rtc_livekit_url: None,
            search_folder: None,
            quick_retries: false,
            policy: PolicyOptions::default(),
            previews: false,
            photo_page_url: None,
            oauth: None,
            password_login: true,
            for_suites: ForSuites::default(),
            notices_localpart: "server-notices".to_owned(),
        }
    }
}

/// Who may make an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Only the administrator.
    Closed,
    /// Whoever has one of these registration tokens.
    Token(Vec<Secret>),
    /// Anyone: for conformance suites only.
    Open,
}

/// Whom to ask for help.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Support {
    /// People.
    pub contacts: Vec<Contact>,
    /// The URL of a page with help.
    pub page: Option<String>,
}

/// A person to ask for help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// What for, e.g. `m.role.admin`.
    pub role: String,
    /// Their Matrix ID.
    pub matrix_id: Option<String>,
    /// Their e-mail address.
    pub email_address: Option<String>,
}

impl House {
    /// "admin_contact … a URI … to contact the administrator": of those the operator named, or the
    /// document that says who they are.
    pub fn admin_contact(&self) -> String {
        let support = &self.options.support;
        let email = support.contacts.iter().find_map(|contact| contact.email_address.as_ref());
        match (email, &support.page) {
            (Some(email), _) => format!("mailto:{email}"),
            (None, Some(page)) => page.clone(),
            (None, None) => format!("https://{}/.well-known/matrix/support", self.server_name),
        }
    }

    /// Whether a user is one of ours.
    pub fn is_ours(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.server_name
    }
}
