//! What an administrator can set, with the defaults, read once and then taken apart.
//!
//! Layers, weakest first: the defaults below, `wardstone.toml`, `conf.d/*.toml` beside it (sorted by
//! name), `WARDSTONE__SECTION__KEY` variables, and the files of `$CREDENTIALS_DIRECTORY` for secrets.
//! A list is replaced as a whole, never merged. [`load`] tells where each value came from, refuses
//! what it does not know, and [`check`] judges the result as a whole.
//!
//! Only this crate can name these types: `wiring` hands single values to constructors.

pub mod check;
pub mod layer;
pub mod load;
pub mod secret;
pub mod shape;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use secret::Secret;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who this server is and where it keeps things.
    pub server: Server,
    /// Where it listens.
    pub listeners: Vec<Listener>,
    /// What one peer may cost.
    pub limits: Limits,
    /// The engine under the ledger.
    pub store: Store,
    /// Who may create an account.
    pub registration: Registration,
    /// How people stay signed in.
    pub sessions: Sessions,
    /// Files and how long they live.
    pub media: Media,
    /// Defaults for new rooms.
    pub rooms: Rooms,
    /// Who is online.
    pub presence: Presence,
    /// Who finds whom.
    pub directory: Directory,
    /// How often one person or address may ask.
    pub rate_limits: RateLimits,
    /// Other servers.
    pub federation: Federation,
    /// Where connections may go.
    pub egress: Egress,
    /// Programs that speak as many users.
    pub appservices: Appservices,
    /// Voice and video.
    pub calls: Calls,
    /// Whom people may ask for help.
    pub support: Support,
    /// What is written to the journal.
    pub log: Log,
    /// The socket for `wardstone user`, `wardstone store` and their like.
    pub admin: Admin,
    /// What only `serve --conformance` looks at.
    pub conformance: ConformanceSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: Server::default(),
            listeners: vec![
                Listener::plain(ListenerKind::Client, "127.0.0.1:8008"),
                Listener::plain(ListenerKind::Metrics, "127.0.0.1:9008"),
            ],
            limits: Limits::default(),
            store: Store::default(),
            registration: Registration::default(),
            sessions: Sessions::default(),
            media: Media::default(),
            rooms: Rooms::default(),
            presence: Presence::default(),
            directory: Directory::default(),
            rate_limits: RateLimits::default(),
            federation: Federation::default(),
            egress: Egress::default(),
            appservices: Appservices::default(),
            calls: Calls::default(),
            support: Support::default(),
            log: Log::default(),
            admin: Admin::default(),
            conformance: ConformanceSettings::default(),
        }
    }
}

/// Who this server is and where it keeps things.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// The name after the colon in every user ID. Cannot be changed later.
    pub name: String,
    /// The folder of the store, the media and the signing key.
    pub data_dir: PathBuf,
    /// Where clients reach this server, for `.well-known`; empty: this server does not say.
    pub public_base_url: String,
    /// Where browsers reach the listener of kind `photo_page`, for the sentences and pictures that
    /// point to it; empty: there is none.
    pub photo_page_url: String,
    /// The origin of the listener of kind `sign_in`, where apps send people to sign in (OAuth 2.0); empty:
    /// there is none.
    pub sign_in_url: String,
    /// The Ed25519 key that signs events; empty: `<data_dir>/signing.key`.
    pub signing_key_file: PathBuf,
    /// Addresses of reverse proxies whose `X-Forwarded-For` is believed; `"unix"` for Unix sockets.
    pub trusted_proxies: Vec<String>,
    /// How long requests in flight may take to finish after a stop was asked for.
    pub drain_ms: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            name: String::new(),
            data_dir: "/var/lib/wardstone".into(),
            public_base_url: String::new(),
            photo_page_url: String::new(),
            sign_in_url: String::new(),
            signing_key_file: PathBuf::new(),
            trusted_proxies: Vec::new(),
            drain_ms: 60_000,
        }
    }
}

/// One place to listen.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Who is served here.
    pub kind: ListenerKind,
    /// `host:port`, `unix:/path/to.sock`, or `systemd:NAME` for a socket that systemd opened.
    pub address: String,
    /// Certificate chain and key in PEM; without it, plain HTTP on loopback or a Unix socket only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Listener {
    /// A listener without TLS.
    pub fn plain(kind: ListenerKind, address: &str) -> Self {
        Self { kind, address: address.into(), tls: None }
    }
}

/// Who is served on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerKind {
    /// People's devices: the Client-Server API.
    Client,
    /// Other servers: the Server-Server API.
    Federation,
    /// Browsers on devices that may not keep photos: looking at them and taking them.
    PhotoPage,
    /// Browsers that apps open: signing in.
    SignIn,
    /// Prometheus: `/metrics`, and nothing else.
    Metrics,
}

impl ListenerKind {
    /// The word in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Federation => "federation",
            Self::PhotoPage => "photo_page",
            Self::SignIn => "sign_in",
            Self::Metrics => "metrics",
        }
    }
}

/// A certificate chain and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The server's certificate first, then the intermediates.
    pub certificate_file: PathBuf,
    /// The private key: PKCS#8, SEC1 or PKCS#1.
    pub key_file: PathBuf,
    /// The authorities of devices' certificates. On a listener for clients everybody must show one, and who
    /// signs in there is on a managed device; where people sign in for apps, those are who show one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

/// What one peer may cost.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections, all listeners together.
    pub connections_max: usize,
    /// Open connections from one IPv4 address or one IPv6 /64. A ward behind one NAT counts as one.
    pub connections_per_ip_max: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_ms: u64,
    /// From the first byte of a request to the end of its head.
    pub header_ms: u64,
    /// Between two pieces of a request's body.
    pub body_ms: u64,
    /// Without any request, until the connection is closed; also a response the client does not read.
    pub idle_ms: u64,
    /// One request, from its head to the end of its answer. Long-polls and uploads must fit.
    pub request_ms: u64,
    /// The head of a request: line and headers together.
    pub header_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            connections_per_ip_max: 1_024,
            handshake_ms: 10_000,
            header_ms: 10_000,
            body_ms: 30_000,
            idle_ms: 75_000,
            request_ms: 900_000,
            header_bytes_max: 32_768,
        }
    }
}

/// The engine under the ledger.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Which engine.
    pub engine: EngineKind,
    /// 32 bytes, outside the data folder. The credential `master_key` takes its place.
    pub master_key_file: PathBuf,
    /// How large the store may grow (LMDB reserves this much address space, not disk).
    pub map_bytes_max: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            engine: EngineKind::Lmdb,
            master_key_file: "/etc/wardstone/master.key".into(),
            map_bytes_max: 256 * 1024 * 1024 * 1024,
        }
    }
}

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// LMDB, the default.
    Lmdb,
    /// sled 0.34.
    Sled,
}

/// Who may create an account.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registration {
    /// `closed`: only `wardstone user create`. `token`: also whoever holds one of `tokens`.
    pub mode: RegistrationMode,
    /// Registration tokens (`m.login.registration_token`).
    pub tokens: Vec<Secret>,
    /// For Synapse's shared-secret registration; answers under `--conformance` only.
    pub shared_secret: Secret,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            mode: RegistrationMode::Closed,
            tokens: Vec::new(),
            shared_secret: Secret::default(),
        }
    }
}

/// Who may create an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationMode {
    /// Only the administrator.
    Closed,
    /// Also whoever holds a token.
    Token,
}

/// How people stay signed in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// How long an access token lives whose client can refresh it. Others live until signed out.
    pub access_token_ms: u64,
    /// The class of a session about which nothing else is known: `managed`, `unmanaged` or
    /// `browser-kiosk`. Enrolment codes (`wardstone enrol`) raise single sessions.
    pub default_class: String,
    /// Whether apps may sign people in with a password themselves; without, they send them to
    /// `server.sign_in_url`.
    pub password_login: bool,
    /// The apps that may send people there, by the host of their own page (`client_uri`); empty: any.
    pub app_hosts: Vec<String>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            access_token_ms: 300_000,
            default_class: "unmanaged".into(),
            password_login: true,
            app_hosts: Vec::new(),
        }
    }
}

/// Whom people may ask for help: `.well-known/matrix/support`. What is empty is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Support {
    /// The URL of a page with help.
    pub page: String,
    /// The administrator's Matrix ID.
    pub admin_matrix_id: String,
    /// The administrator's e-mail address.
    pub admin_email: String,
    /// The Matrix ID for sensitive reports.
    pub security_matrix_id: String,
    /// The e-mail address for sensitive reports.
    pub security_email: String,
}

/// Files and how long they live.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Media {
    /// From upload until no endpoint returns the bytes. A room can only make it shorter.
    pub ttl_ms: u64,
    /// One upload.
    pub upload_bytes_max: u64,
    /// How long a reserved but not yet uploaded file (`/create`) stays reserved.
    pub unused_ms: u64,
    /// The most pixels an image may have before a thumbnail of it is refused.
    pub pixels_max: u64,
    /// All files of one user together; 0: no limit.
    pub user_bytes_max: u64,
    /// All files of all users together; 0: no limit but the disk.
    pub total_bytes_max: u64,
    /// All thumbnails that are kept.
    pub renderings_bytes_max: u64,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            ttl_ms: 604_800_000,
            upload_bytes_max: 52_428_800,
            unused_ms: 86_400_000,
            pixels_max: 40_000_000,
            user_bytes_max: 10_737_418_240,
            total_bytes_max: 0,
            renderings_bytes_max: 4_294_967_296,
        }
    }
}

/// Defaults for new rooms.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rooms {
    /// The version of rooms whose creator names none.
    pub default_version: String,
}

impl Default for Rooms {
    fn default() -> Self {
        Self { default_version: "11".into() }
    }
}

/// Who finds whom.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Directory {
    /// Who is found by name.
    pub users: FoundUsers,
}

/// Who is found by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundUsers {
    /// Everyone with an account here.
    #[default]
    Everyone,
    /// Those who share a room with whoever asks.
    SharedRooms,
}

/// Who is online.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Presence {
    /// Whether people see who is online. Off: it costs much and watches staff.
    pub enabled: bool,
}

/// How often one person or address may ask.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// Messages and other writes of one person.
    pub message: Rate,
    /// Log-in attempts from one address.
    pub login: Rate,
    /// Failed log-in attempts on one account from one address; ten times that from all together.
    pub failed_login: Rate,
    /// Account creations from one address.
    pub registration: Rate,
    /// Rooms created, joined or invited to by one person.
    pub room: Rate,
    /// Uploads of one person.
    pub media: Rate,
}

/// A bucket that holds `burst` and fills with `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// How many per second in the long run.
    pub per_second: f64,
    /// How many at once.
    pub burst: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            message: Rate { per_second: 10.0, burst: 100 },
            login: Rate { per_second: 1.0, burst: 30 },
            failed_login: Rate { per_second: 0.1, burst: 5 },
            registration: Rate { per_second: 0.1, burst: 5 },
            room: Rate { per_second: 1.0, burst: 30 },
            media: Rate { per_second: 5.0, burst: 50 },
        }
    }
}

/// Other servers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Federation {
    /// Servers that may talk with this one; empty: none.
    pub allowed_servers: Vec<String>,
    /// PEM file with certificate authorities that other servers' certificates may come from, beside
    /// those of the operating system.
    pub extra_ca_file: PathBuf,
    /// The certificate that this server shows to peers whose records say so: PEM, the certificate first,
    /// then the intermediates; empty: none.
    pub client_certificate_file: PathBuf,
    /// Its private key.
    pub client_key_file: PathBuf,
    /// Where other servers reach this one, for `.well-known/matrix/server`; empty: not said.
    pub address: String,
    /// Write into rooms which servers may take part (`m.room.server_acl`).
    pub access_lists: bool,
    /// Rooms of the class `clinical-shared` that are made here name this server as their policy server
    /// (`m.room.policy`).
    pub policy_server: bool,
    /// After how long people are told that a hospital with which they share rooms cannot be reached; 0:
    /// they are not.
    pub away_notice_ms: u64,
    /// A signed list of more servers that may talk with this one.
    pub list: FederationList,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            allowed_servers: Vec::new(),
            extra_ca_file: PathBuf::new(),
            client_certificate_file: PathBuf::new(),
            client_key_file: PathBuf::new(),
            address: String::new(),
            access_lists: true,
            policy_server: false,
            away_notice_ms: 600_000,
            list: FederationList::default(),
        }
    }
}

/// A signed list of servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationList {
    /// A file, or an `https` URL; empty: there is no list.
    pub source: String,
    /// `ES256`, `ES384`, `EdDSA` or `PS256`. What the list says of itself does not count.
    pub algorithm: String,
    /// Who signs it: a public key or a certificate in PEM.
    pub key_file: PathBuf,
    /// How often it is looked for.
    pub refresh_ms: u64,
    /// How long the last good one counts while there is no other.
    pub keep_ms: u64,
}

impl Default for FederationList {
    fn default() -> Self {
        Self {
            source: String::new(),
            algorithm: "ES256".into(),
            key_file: PathBuf::new(),
            refresh_ms: 3_600_000,
            keep_ms: 604_800_000,
        }
    }
}

/// Where connections may go, beside the allowed servers and the registered application services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Networks that are not public and may be reached all the same, e.g. `10.20.0.0/16`.
    pub networks: Vec<String>,
    /// Hosts of push gateways that people's pushers may name.
    pub push_gateways: Vec<String>,
    /// Hosts whose pages are asked for URL previews, e.g. `wiki.hospital.example` or
    /// `*.hospital.example`, with a port where it is not 443; empty: there are no previews.
    pub preview_hosts: Vec<String>,
}

/// Application services: bridges and bots that speak as many users.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Appservices {
    /// A folder of registrations (`*.yaml`); empty: none.
    pub registrations_dir: PathBuf,
}

/// Voice and video: servers beside this one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calls {
    /// `turn:` and `turns:` URIs of TURN servers; empty: there are none.
    pub turn_uris: Vec<String>,
    /// The secret that they share with this server.
    pub turn_shared_secret: Secret,
    /// The URL of the service that lets people in to LiveKit; empty: there are no group calls.
    pub livekit_service_url: String,
}

/// What is written to the journal.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,appliance_api=debug`.
    pub level: String,
    /// Where lines go and how they look.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto }
    }
}

/// Where lines go and how they look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// The journal under systemd, otherwise `text`.
    Auto,
    /// Readable lines on standard error.
    Text,
    /// One JSON object per line on standard error.
    Json,
}

/// The socket for administration on this machine.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// A Unix socket; empty: `<data_dir>/admin.sock`. Only root and the server's own user get in.
    pub socket: PathBuf,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: "/run/wardstone/admin.sock".into() }
    }
}

/// What only `serve --conformance` looks at.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConformanceSettings {
    /// A folder of application service registrations (`*.yaml`).
    pub appservice_dir: PathBuf,
}
