//! `serve --conformance`: everything that a public conformance suite needs and a hospital must not
//! have, in one value.
//!
//! The value exists only if the flag was given, so no relaxation can be reached from a settings
//! file. It shouts at the start, every minute, and in the metrics.

use std::time::Duration;

use appliance_services::ForSuites;
use tokio_util::sync::CancellationToken;

use crate::settings::{Secret, Settings};

/// The room version of a server that a suite runs against, unless the settings name one.
const ROOM_VERSION: &str = "10";

/// Who speaks for the house where suites look.
const NOTICES_LOCALPART: &str = "_server";

/// How often the warning is repeated.
const REMIND: Duration = Duration::from_secs(60);

const WARNING: &str = "CONFORMANCE MODE: this server protects nobody. Plain HTTP on every address, \
                       open registration, no rate limits, cheap password hashes, federation with \
                       any host. Never put a patient's data here";

/// The relaxations of `--conformance`. Whoever holds one may relax. (Plain HTTP on any address is
/// allowed where the settings are checked, before this value exists.)
#[derive(Clone, Debug)]
pub struct Conformance {
    /// Registration with `m.login.dummy`, open to everyone.
    pub dummy_registration: bool,
    /// Synapse's `/_synapse/admin/v1/register`, if there is a secret.
    pub shared_secret_registration: Option<Secret>,
    /// No rate limits at all.
    pub no_rate_limits: bool,
    /// A password hash that costs nothing.
    pub cheap_password_hash: bool,
    /// Federation with any host, at any address.
    pub any_peer: bool,
    /// Other servers are tried again at once.
    pub quick_retries: bool,
    /// Sessions and rooms have no classes.
    pub no_policy_classes: bool,
    /// Presence is on.
    pub presence: bool,
    /// Strangers may list the published rooms, and people are found by whom they can meet.
    pub open_directory: bool,
    /// What suites ask for of before the present specification.
    pub for_suites: ForSuites,
    /// Previews are made of any page.
    pub previews: bool,
    /// Who speaks for the house, as suites expect it.
    pub notices_localpart: &'static str,
    /// The version of new rooms.
    pub default_room_version: String,
}

impl Conformance {
    /// All relaxations; `room_version_is_set` tells whether the settings name a room version.
    pub fn new(settings: &Settings, room_version_is_set: bool) -> Self {
        let secret = &settings.registration.shared_secret;
        Self {
            dummy_registration: true,
            shared_secret_registration: (!secret.is_empty()).then(|| secret.clone()),
            no_rate_limits: true,
            cheap_password_hash: true,
            any_peer: true,
            quick_retries: true,
            no_policy_classes: true,
            presence: true,
            open_directory: true,
            for_suites: ForSuites {
                legacy_media: true,
                legacy_mentions: true,
                plain_previews: true,
            },
            previews: true,
            notices_localpart: NOTICES_LOCALPART,
            default_room_version: if room_version_is_set {
                settings.rooms.default_version.clone()
            } else {
                ROOM_VERSION.into()
            },
        }
    }
}

/// Warns now and every minute until the jobs stop.
pub async fn warn_until(stop: CancellationToken) {
    metrics::gauge!("wardstone_conformance_mode").set(1.0);
    let mut tick = tokio::time::interval(REMIND);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        tracing::warn!(kind = "server.conformance", "{WARNING}");
    }
}
