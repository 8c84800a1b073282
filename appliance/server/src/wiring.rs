//! The wiring: settings taken apart, services built, routers handed to listeners.
//!
//! Everything that the shell (listeners, lifecycle, command line) needs from the house is asked for
//! here and nowhere else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use appliance_egress::{Gate, Named};
use appliance_federation::Client;
use appliance_ledger::{Blobs, Ledger, Openers};
use appliance_model::ruma::{OwnedServerName, RoomVersionId, ServerName};
use appliance_model::{OsDice, SessionClass, SystemClock};
use appliance_services::accounts::OAuthOptions;
use appliance_services::media::MediaOptions;
use appliance_services::peers::{ListAlgorithm, ListSource, ListTerms, Outbox, Roll};
use appliance_services::policy::PolicyOptions;
use appliance_services::sync::Waiters;
use appliance_services::{
    Contact, DirectoryOptions, Options, Rate, RateLimits, Registration, Secret, Services, Support,
    Turn, WhoIsFound,
};
use axum::Router;
use http::Uri;
use http::uri::Scheme;
use ipnet::IpNet;
use tokio::sync::watch;

pub use appliance_api::{ClientAddr, DoorClass};

use crate::conformance::Conformance;
use crate::jobs;
use crate::lifecycle::Tasks;
use crate::listen::{self, tls::Certificate};
use crate::lock::FolderLock;
use crate::settings::{self, EngineKind, FoundUsers, RegistrationMode, Settings};
use crate::{appservices, files, keys};

/// The lane ends when the last sender is gone; requests and jobs have ended before.
const LANE_DRAIN_MAX: Duration = Duration::from_secs(10);

/// The house: everything behind the listeners.
pub struct House {
    /// The use cases.
    pub services: Arc<Services>,
    client: Router,
    federation: Router,
    photo_page: Router,
    sign_in: Router,
    own_certificate: Option<Arc<Certificate>>,
    lane_ended: watch::Receiver<bool>,
    _lock: FolderLock,
}

impl House {
    /// Opens the store, builds the services, starts the jobs.
    ///
    /// # Errors
    ///
    /// A sentence for the administrator: what is wrong and what to do.
    pub async fn open(
        settings: &Settings,
        conformance: Option<&Conformance>,
        tasks: &Tasks,
    ) -> Result<Self, String> {
        let server_name = server_name(settings)?;
        let lock = lock_folder(&settings.server.data_dir)?;
        let signing_key = keys::read_signing_key(&settings.server.signing_key_file)?;
        let waiters = Arc::new(Waiters::default());
        let (ledger, lane_ended) =
            open_ledger(settings, &server_name, waiters.clone(), tasks).await?;
        let roll = Arc::new(roll(settings, conformance)?);
        let own_certificate = own_certificate(&settings.federation)?;
        let shown = own_certificate.clone();
        let egress = Arc::new(egress(settings, conformance, (roll.clone(), shown))?);
        let house = Arc::new(appliance_services::House {
            ledger,
            blobs: open_blobs(settings)?,
            clock: Arc::new(SystemClock),
            dice: Arc::new(OsDice),
            remote: Arc::new(Client::new(egress.clone(), roll.clone(), Arc::new(SystemClock))),
            egress,
            roll,
            outbox: Outbox::default(),
            server_name,
            signing_key,
            options: options(settings, conformance)?,
            appservices: Arc::default(),
            policy: Arc::default(),
        });
        house.policy.load(&house.ledger).await.map_err(|error| error.to_string())?;
        let services = Arc::new(Services::new(house, waiters));
        register_appservices(&services, settings, conformance.is_some()).await?;
        services.peers.load().await.map_err(|error| error.to_string())?;
        jobs::start(&services, tasks);
        let outbox = appliance_federation::outbox::run(services.clone());
        let stop = tasks.jobs().clone();
        tasks.spawn_vital("outbox", async move {
            stop.run_until_cancelled(outbox).await;
        });
        let (client, _) = appliance_api::router(services.clone());
        let (federation, _) = appliance_api::peer_router(services.clone());
        let photo_page = appliance_api::photo_page(services.clone());
        let sign_in = appliance_api::sign_in(services.clone());
        Ok(Self {
            services,
            client,
            federation,
            photo_page,
            sign_in,
            own_certificate,
            lane_ended,
            _lock: lock,
        })
    }

    /// What people's devices see.
    pub fn client(&self) -> Router {
        self.client.clone()
    }

    /// What other servers see.
    pub fn federation(&self) -> Router {
        self.federation.clone()
    }

    /// What this server shows to peers that are to see a certificate.
    pub fn own_certificate(&self) -> Option<Arc<Certificate>> {
        self.own_certificate.clone()
    }

    /// Where people look at photos, and take them, without an app.
    pub fn photo_page(&self) -> Router {
        self.photo_page.clone()
    }

    /// Where apps send people to sign in.
    pub fn sign_in(&self) -> Router {
        self.sign_in.clone()
    }

    /// Whether requests can be answered now; the reason if not.
    pub async fn ready(&self) -> Result<(), String> {
        if *self.lane_ended.borrow() {
            Err("the store does not take writes".into())
        } else {
            Ok(())
        }
    }

    /// The last step: what is in the lane is written. No request and no job runs any more.
    ///
    /// # Errors
    ///
    /// The store did not confirm; the next start checks it.
    pub async fn close(&self) -> Result<(), String> {
        // What was noted in memory only. It is no promise: without it, the last minutes are missing.
        if let Err(error) = self.services.accounts.write_last_seen().await {
            tracing::warn!(kind = "sessions.last_seen", %error, "who was here last is not written");
        }
        if let Err(error) = self.services.peers.note_destinations().await {
            tracing::warn!(kind = "egress.list", %error, "where connections went last is not written");
        }
        // Every answer that was given is on disk already; this waits for those nobody waits for.
        let ledger = &self.services.house.ledger;
        let drained = tokio::time::timeout(LANE_DRAIN_MAX, ledger.drained()).await;
        drained.map_err(|_| "the store did not finish writing in time".to_owned())
    }
}

fn lock_folder(folder: &Path) -> Result<FolderLock, String> {
    // What is in there is for nobody else's eyes, sealed or not.
    files::create_private_dir(folder)?;
    FolderLock::take(folder)
}

async fn open_ledger(
    settings: &Settings,
    server_name: &ServerName,
    waiters: Arc<Waiters>,
    tasks: &Tasks,
) -> Result<(Ledger, watch::Receiver<bool>), String> {
    let master_key = keys::master_key_to_start(&settings.store.master_key_file)?;
    let folder: &Path = &settings.server.data_dir;
    let engine = open_engine(settings)?;
    let openers = Openers {
        server_name: server_name.as_str(),
        master_key: &master_key,
        clock: Arc::new(SystemClock),
        dice: Arc::new(OsDice),
        observer: waiters.clone(),
        folder: Some(folder),
    };
    let opened = appliance_ledger::open(engine, openers).await;
    let (ledger, lane) = opened.map_err(|error| error.to_string())?;
    let stopping = tasks.soft().clone();
    let told = waiters.clone();
    tasks.spawn_request(async move {
        stopping.cancelled().await;
        told.close();
    });
    let (ended, lane_ended) = watch::channel(false);
    let lane = async move {
        if let Err(error) = lane.run().await {
            tracing::error!(kind = "store.stopped", %error, "the store no longer takes writes");
        }
        ended.send_replace(true);
    };
    tasks
        .spawn_foundation("lane", lane)
        .map_err(|error| format!("the store's thread cannot be started: {error}"))?;
    Ok((ledger, lane_ended))
}

fn open_engine(settings: &Settings) -> Result<Arc<dyn appliance_engine::Engine>, String> {
    let folder = settings.server.data_dir.join("store");
    appliance_engine::open(engine_kind(settings), &folder, &engine_options(settings))
        .map_err(|error| error.to_string())
}

/// Which engine the settings name.
pub fn engine_kind(settings: &Settings) -> appliance_engine::Kind {
    match settings.store.engine {
        EngineKind::Lmdb => appliance_engine::Kind::Lmdb,
        EngineKind::Sled => appliance_engine::Kind::Sled,
    }
}

/// How the settings want it.
pub fn engine_options(settings: &Settings) -> appliance_engine::Options {
    appliance_engine::Options {
        lmdb_map_bytes: settings.store.map_bytes_max,
        ..appliance_engine::Options::default()
    }
}

fn open_blobs(settings: &Settings) -> Result<Blobs, String> {
    let master_key = keys::read_master_key(&settings.store.master_key_file)?;
    let folder: &Path = &settings.server.data_dir;
    Blobs::open(folder, &master_key, Arc::new(OsDice))
        .map_err(|error| format!("cannot use the media folders in {}: {error}", folder.display()))
}

fn server_name(settings: &Settings) -> Result<OwnedServerName, String> {
    ServerName::parse(settings.server.name.as_str()).map_err(|error| {
        format!(
            "`server.name` is {:?}, which is no server name ({error}); set it to the part after \
             the colon in your user IDs, e.g. \"hospital.example\"",
            settings.server.name
        )
    })
}

fn options(settings: &Settings, conformance: Option<&Conformance>) -> Result<Options, String> {
    let version = conformance.map_or(&settings.rooms.default_version, |c| &c.default_room_version);
    let default_room_version = RoomVersionId::try_from(version.as_str())
        .map_err(|_| format!("`rooms.default_version` is {version:?}; use \"6\" to \"12\""))?;
    let registration = match settings.registration.mode {
        _ if conformance.is_some_and(|c| c.dummy_registration) => Registration::Open,
        RegistrationMode::Closed => Registration::Closed,
        RegistrationMode::Token => Registration::Token(
            settings.registration.tokens.iter().map(|token| Secret::new(token.reveal())).collect(),
        ),
    };
    let url = &settings.server.public_base_url;
    let secret = conformance.and_then(|c| c.shared_secret_registration.as_ref());
    let is_limited = conformance.is_none_or(|c| !c.no_rate_limits);
    Ok(Options {
        registration,
        shared_secret: secret.map(|secret| Secret::new(secret.reveal())),
        default_room_version,
        public_base_url: (!url.is_empty()).then(|| url.clone()),
        federation_address: Some(settings.federation.address.clone()).filter(|a| !a.is_empty()),
        federation_list: federation_list(&settings.federation.list)?,
        away_notice_ms: Some(settings.federation.away_notice_ms)
            .filter(|ms| *ms > 0 && conformance.is_none()),
        // Suites count the events of a new room.
        access_lists: settings.federation.access_lists && conformance.is_none(),
        policy_server: settings.federation.policy_server,
        quick_retries: conformance.is_some_and(|c| c.quick_retries),
        cheap_password_hash: conformance.is_some_and(|c| c.cheap_password_hash),
        presence: settings.presence.enabled || conformance.is_some_and(|c| c.presence),
        media: MediaOptions {
            ttl_ms: settings.media.ttl_ms,
            upload_bytes_max: settings.media.upload_bytes_max,
            unused_ms: settings.media.unused_ms,
            pixels_max: settings.media.pixels_max,
            user_bytes_max: settings.media.user_bytes_max,
            total_bytes_max: settings.media.total_bytes_max,
            renderings_bytes_max: settings.media.renderings_bytes_max,
        },
        previews: !settings.egress.preview_hosts.is_empty()
            || conformance.is_some_and(|c| c.previews),
        rate_limits: is_limited.then(|| rate_limits(&settings.rate_limits)),
        support: support(&settings.support),
        directory: directory(settings, conformance),
        turn: turn(&settings.calls),
        rtc_livekit_url: Some(settings.calls.livekit_service_url.clone())
            .filter(|url| !url.is_empty()),
        search_folder: Some(settings.server.data_dir.join("search")),
        access_token_ms: settings.sessions.access_token_ms,
        policy: PolicyOptions {
            session_class: SessionClass::parse(&settings.sessions.default_class)
                .unwrap_or_default(),
            is_off: conformance.is_some_and(|c| c.no_policy_classes),
        },
        photo_page_url: Some(settings.server.photo_page_url.clone()).filter(|url| !url.is_empty()),
        oauth: oauth(settings),
        password_login: settings.sessions.password_login,
        for_suites: conformance.map(|c| c.for_suites).unwrap_or_default(),
        notices_localpart: conformance
            .map_or(Options::default().notices_localpart, |c| c.notices_localpart.to_owned()),
    })
}

fn oauth(settings: &Settings) -> Option<OAuthOptions> {
    let origin = |url: &str| url.trim_end_matches('/').to_owned();
    let sign_in_url = &settings.server.sign_in_url;
    (!sign_in_url.is_empty()).then(|| OAuthOptions {
        sign_in_url: origin(sign_in_url),
        api_url: origin(&settings.server.public_base_url),
        app_hosts: settings.sessions.app_hosts.clone(),
    })
}

fn roll(settings: &Settings, conformance: Option<&Conformance>) -> Result<Roll, String> {
    if conformance.is_some_and(|c| c.any_peer) {
        return Ok(Roll::of_anyone());
    }
    let names = settings.federation.allowed_servers.iter();
    let parsed = names.map(|name| {
        ServerName::parse(name.as_str()).map_err(|error| format!("\"{name}\": {error}"))
    });
    Ok(Roll::of(parsed.collect::<Result<Vec<_>, _>>()?))
}

/// The list's source, if it is a URL that may be asked.
pub fn list_url(source: &str) -> Option<Uri> {
    let url: Uri = source.parse().ok()?;
    (url.scheme() == Some(&Scheme::HTTPS) && url.host().is_some()).then_some(url)
}

fn federation_list(list: &settings::FederationList) -> Result<Option<Arc<ListTerms>>, String> {
    if list.source.is_empty() {
        return Ok(None);
    }
    let wrong = |key: &str, why: String| format!("`federation.list.{key}`: {why}");
    let algorithm = ListAlgorithm::parse(&list.algorithm)
        .ok_or_else(|| wrong("algorithm", format!("{:?} is not known", list.algorithm)))?;
    let file = &list.key_file;
    let key = keys::read_public_key(file)
        .map_err(|why| wrong("key_file", format!("{}: {why}", file.display())))?;
    let source = match list_url(&list.source) {
        Some(url) => ListSource::Url(url),
        None => ListSource::File(list.source.clone().into()),
    };
    let (refresh_ms, keep_ms) = (list.refresh_ms, list.keep_ms);
    Ok(Some(Arc::new(ListTerms { source, algorithm, key, refresh_ms, keep_ms })))
}

/// The certificate for clients, if the settings name one. Its key is said in the journal: that is what peers
/// pin.
fn own_certificate(federation: &settings::Federation) -> Result<Option<Arc<Certificate>>, String> {
    let (certificate_file, key_file) =
        (federation.client_certificate_file.clone(), federation.client_key_file.clone());
    if certificate_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let files = settings::Tls { certificate_file, key_file, client_ca_file: None };
    let certificate = Certificate::read(files)
        .map_err(|why| format!("`federation.client_certificate_file`: {why}"))?;
    let key = certificate.current().cert.first().map(listen::peer::key_sha256).transpose()?;
    let key = key.map(|key| appliance_services::peers::spell_pin(&key)).unwrap_or_default();
    tracing::info!(
        kind = "tls.own_certificate",
        key,
        "peers may be shown a certificate with this key"
    );
    Ok(Some(certificate))
}

fn egress(
    settings: &Settings,
    conformance: Option<&Conformance>,
    (roll, shown): (Arc<Roll>, Option<Arc<Certificate>>),
) -> Result<Gate, String> {
    let extra_ca_file = &settings.federation.extra_ca_file;
    let extra_ca_file = (!extra_ca_file.as_os_str().is_empty()).then_some(extra_ca_file.as_path());
    let networks =
        settings.egress.networks.iter().map(|network| {
            network.parse::<IpNet>().map_err(|error| format!("\"{network}\": {error}"))
        });
    let named = Named {
        anything: conformance.is_some_and(|c| c.any_peer),
        networks: networks.collect::<Result<_, _>>()?,
        push_gateways: settings.egress.push_gateways.clone(),
        previews: settings.egress.preview_hosts.clone(),
        federation_list: list_url(&settings.federation.list.source),
    };
    let shown = shown.map(|certificate| certificate as appliance_egress::OwnCertificate);
    let trust = appliance_egress::trust(extra_ca_file, shown)?;
    Ok(Gate::new(named, roll, trust, Arc::new(SystemClock)))
}

/// Those of the settings' folders, beside those that the administrator registered before.
async fn register_appservices(
    services: &Services,
    settings: &Settings,
    is_conformance: bool,
) -> Result<(), String> {
    let mut files = appservices::read(&settings.appservices.registrations_dir)?;
    if is_conformance {
        files.extend(appservices::read(&settings.conformance.appservice_dir)?);
    }
    services.appservices.begin_with(files).await.map_err(|error| error.to_string())
}

fn directory(settings: &Settings, conformance: Option<&Conformance>) -> DirectoryOptions {
    let is_open = conformance.is_some_and(|c| c.open_directory);
    let users = match settings.directory.users {
        FoundUsers::Everyone if !is_open => WhoIsFound::Everyone,
        FoundUsers::Everyone | FoundUsers::SharedRooms => WhoIsFound::SharedRooms,
    };
    DirectoryOptions { users, rooms_open: is_open }
}

fn turn(settings: &settings::Calls) -> Option<Turn> {
    let secret = settings.turn_shared_secret.reveal();
    (!settings.turn_uris.is_empty()).then(|| Turn::new(settings.turn_uris.clone(), secret))
}

fn support(settings: &settings::Support) -> Support {
    let said = |text: &String| (!text.is_empty()).then(|| text.clone());
    let contacts = [
        ("m.role.admin", &settings.admin_matrix_id, &settings.admin_email),
        ("m.role.security", &settings.security_matrix_id, &settings.security_email),
    ];
    let contact = |(role, matrix_id, email): (&str, &String, &String)| Contact {
        role: role.to_owned(),
        matrix_id: said(matrix_id),
        email_address: said(email),
    };
    // "At least one of `matrix_id` or `email_address` is required."
    let reachable =
        |contact: &Contact| contact.matrix_id.is_some() || contact.email_address.is_some();
    let contacts = contacts.into_iter().map(contact).filter(reachable).collect();
    Support { contacts, page: said(&settings.page) }
}

fn rate_limits(settings: &settings::RateLimits) -> RateLimits {
    let rate = |rate: settings::Rate| Rate { per_second: rate.per_second, burst: rate.burst };
    RateLimits {
        message: rate(settings.message),
        login: rate(settings.login),
        failed_login: rate(settings.failed_login),
        registration: rate(settings.registration),
        room: rate(settings.room),
        media: rate(settings.media),
    }
}
