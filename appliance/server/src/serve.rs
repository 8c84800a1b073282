//! Serving: open the house, open the doors, wait for the end, close in order.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use appliance_model::SessionClass;
use appliance_services::peers::PeerCertificate;
use axum::extract::Request;
use axum::middleware::map_request;
use axum::{Extension, Router};

use crate::admin::door;
use crate::cli::out;
use crate::conformance::{self, Conformance};
use crate::health;
use crate::lifecycle::{Lifecycle, Tasks};
use crate::listen::caps::Caps;
use crate::listen::connection::{Timeouts, TrustedProxies};
use crate::listen::tls::{Certificate, Reload, TlsDoor, read_authorities};
use crate::listen::{self, Listener};
use crate::log;
use crate::metrics::Metrics;
use crate::net::{Address, Socket};
use crate::settings::check::may_listen;
use crate::settings::layer::Origin;
use crate::settings::load::Loaded;
use crate::settings::{self, Limits, ListenerKind, Settings};
use crate::wiring::{DoorClass, House};

/// A proxy in another group must be able to connect; peers are not authenticated by the file.
const CLIENT_SOCKET_MODE: u32 = 0o666;

/// No route takes a longer body, uploads excepted; each has a lower limit of its own.
const JSON_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How much more than the largest body is read: one piece of a body tells that it is too large.
const BODY_BYTES_OVER: usize = 1024 * 1024;

/// Connections to the admin socket and to the listeners for metrics, together.
const INTERNAL_CONNECTIONS_MAX: usize = 64;

/// How often certificate files are looked at.
const CERTIFICATE_POLL: Duration = Duration::from_secs(5);

/// Something to do in the open house, before anybody comes in.
pub type Prepare = Box<dyn FnOnce(Arc<House>) -> Preparing>;
/// The doing of it.
pub type Preparing = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// What to serve.
pub struct Plan {
    /// The settings.
    pub loaded: Loaded,
    /// Whether `--conformance` was given.
    pub is_conformance: bool,
    /// Done once the house is open.
    pub prepare: Option<Prepare>,
    /// Printed once the doors are open.
    pub announcement: Option<String>,
}

/// Runs the server. Returns the exit code of the process.
pub fn run(plan: Plan) -> ExitCode {
    // Dropped last, so that everything said below is written.
    let _log = match log::start(&plan.loaded.settings.log) {
        Ok(log) => log,
        Err(reason) => {
            out::trouble(&reason);
            return ExitCode::FAILURE;
        }
    };
    let served = runtime().and_then(|runtime| runtime.block_on(serve(plan)));
    served.unwrap_or_else(|reason| {
        tracing::error!(kind = "server.start_failed", "{reason}");
        ExitCode::FAILURE
    })
}

/// The runtime of servers and of commands.
///
/// # Errors
///
/// The operating system gives no threads.
pub fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))
}

async fn serve(plan: Plan) -> Result<ExitCode, String> {
    let Plan { loaded, is_conformance, prepare, announcement } = plan;
    let settings = &loaded.settings;
    let lifecycle = Lifecycle::new().map_err(|error| format!("signal handlers: {error}"))?;
    let tasks = lifecycle.tasks();
    let metrics = Metrics::install()?;
    tasks.spawn_vital("metrics", metrics.clone().upkeep(tasks.jobs().clone()));
    let room_version_is_set = loaded.origin("rooms.default_version") != Origin::Default;
    let conformance = is_conformance.then(|| Conformance::new(settings, room_version_is_set));
    if conformance.is_some() {
        tasks.spawn_vital("conformance", conformance::warn_until(tasks.jobs().clone()));
    }
    let house = Arc::new(House::open(settings, conformance.as_ref(), &tasks).await?);
    if let Some(prepare) = prepare {
        prepare(house.clone()).await?;
    }
    let certificates =
        open_doors(&Doors::new((settings, is_conformance), &metrics, &house), &tasks)?;
    let watched = certificates.clone();
    tasks.spawn_vital("certificates", watch_certificates(watched, tasks.clone()));
    if let Some(announcement) = announcement {
        out::line(&announcement);
    }
    let drain = Duration::from_millis(settings.server.drain_ms);
    let reload = || certificates.iter().for_each(|certificate| report(&certificate.reload()));
    let code = lifecycle.run(drain, reload).await;
    house.close().await?;
    tracing::info!(kind = "server.stopped", "stopped");
    Ok(code)
}

/// Opens every listener and the admin socket; returns the certificates to watch.
fn open_doors(doors: &Doors<'_>, tasks: &Tasks) -> Result<Arc<Vec<Arc<Certificate>>>, String> {
    let settings = doors.settings;
    let shared = listen::House {
        tasks: tasks.clone(),
        timeouts: timeouts(&settings.limits, settings.media.upload_bytes_max),
        proxies: Arc::new(trusted_proxies(&settings.server.trusted_proxies)),
    };
    let mut certificates: Vec<_> = doors.house.own_certificate().into_iter().collect();
    let mut listeners = Vec::new();
    for listener in &settings.listeners {
        let certificate = listener.tls.clone().map(Certificate::read).transpose()?;
        listeners.push(doors.open(listener, certificate.as_ref())?);
        certificates.extend(certificate);
    }
    listeners.push(doors.open_admin_socket()?);
    // Nobody is let in before every door could be opened.
    for listener in listeners {
        let name = listener.name;
        tracing::info!(kind = "listener.open", listener = name, address = %listener.socket.address,
            tls = listener.tls.is_some(), "listening");
        tasks.spawn_vital(name, listen::accept(shared.clone(), listener));
    }
    Ok(Arc::new(certificates))
}

async fn watch_certificates(certificates: Arc<Vec<Arc<Certificate>>>, tasks: Tasks) {
    let mut tick = tokio::time::interval(CERTIFICATE_POLL);
    while tasks.jobs().run_until_cancelled(tick.tick()).await.is_some() {
        certificates.iter().for_each(|certificate| report(&certificate.reload_if_changed()));
    }
}

fn report(reload: &Reload) {
    match reload {
        Reload::Unchanged => {}
        Reload::Replaced => tracing::info!(kind = "tls.reloaded", "certificate replaced"),
        Reload::Refused(reason) => {
            tracing::error!(kind = "tls.refused", reason, "new certificate refused; the old stays");
        }
    }
}

/// What it takes to open a door.
struct Doors<'a> {
    settings: &'a Settings,
    is_conformance: bool,
    metrics: &'a Metrics,
    house: &'a Arc<House>,
    /// Shared by all listeners for people and other servers.
    public: Arc<Caps>,
    /// When the public ones are full, the administrator and Prometheus still get in.
    internal: Arc<Caps>,
}

impl<'a> Doors<'a> {
    fn new(
        (settings, is_conformance): (&'a Settings, bool),
        metrics: &'a Metrics,
        house: &'a Arc<House>,
    ) -> Self {
        let limits = &settings.limits;
        Self {
            settings,
            is_conformance,
            metrics,
            house,
            public: Caps::new("public", limits.connections_max, limits.connections_per_ip_max),
            internal: Caps::new("internal", INTERNAL_CONNECTIONS_MAX, INTERNAL_CONNECTIONS_MAX),
        }
    }

    fn open(
        &self,
        listener: &settings::Listener,
        certificate: Option<&Arc<Certificate>>,
    ) -> Result<Listener, String> {
        let socket = bind(&listener.address.parse()?, CLIENT_SOCKET_MODE)?;
        may_listen(listener, &socket.address, self.is_conformance)?;
        let tls = match (certificate.cloned(), listener.kind) {
            (None, _) => None,
            (Some(certificate), ListenerKind::Federation) => {
                let services = self.house.services.clone();
                let asks = move || services.house.roll.asks_for_certificates();
                Some(TlsDoor::for_servers(certificate, Arc::new(asks))?)
            }
            (Some(certificate), ListenerKind::SignIn) => Some(TlsDoor::for_browsers(certificate)?),
            (Some(certificate), _) => Some(TlsDoor::new(certificate)?),
        };
        let (router, caps) = match listener.kind {
            ListenerKind::Client => (self.house.client(), &self.public),
            ListenerKind::Federation => (self.house.federation(), &self.public),
            ListenerKind::PhotoPage => (self.house.photo_page(), &self.public),
            ListenerKind::SignIn => (self.house.sign_in(), &self.public),
            ListenerKind::Metrics => (self.metrics.router(), &self.internal),
        };
        let mut router = router.merge(health::router(self.house.clone()));
        let authorities = listener.tls.as_ref().and_then(|tls| tls.client_ca_file.as_deref());
        router = match (authorities, listener.kind) {
            (None, _) => router,
            (Some(file), ListenerKind::SignIn) => vouching(router, file)?,
            (Some(_), _) => router.layer(Extension(DoorClass(SessionClass::Managed))),
        };
        let (name, caps) = (listener.kind.as_str(), caps.clone());
        Ok(Listener { name, caps, socket, tls, router })
    }

    fn open_admin_socket(&self) -> Result<Listener, String> {
        let path = &self.settings.admin.socket;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        }
        let socket = bind(&Address::Unix(path.clone()), door::SOCKET_MODE)?;
        let router = door::router(self.house.clone());
        let caps = self.internal.clone();
        Ok(Listener { name: "admin", caps, socket, tls: None, router })
    }
}

/// Whoever shows a certificate of these authorities is on a managed device. Looked at with every request: a
/// certificate ends, and a connection may outlive it.
fn vouching(router: Router, authorities: &Path) -> Result<Router, String> {
    let authorities: Arc<str> = read_authorities(authorities)?.into();
    Ok(router.layer(map_request(move |mut request: Request| {
        let authorities = authorities.clone();
        async move {
            if let Some(PeerCertificate(shown)) = request.extensions().get() {
                match shown.comes_from(&authorities) {
                    Ok(()) => {
                        request.extensions_mut().insert(DoorClass(SessionClass::Managed));
                    }
                    Err(why) => {
                        tracing::info!(kind = "sign_in.certificate", why, "vouches for nothing");
                    }
                }
            }
            request
        }
    })))
}

fn bind(address: &Address, unix_mode: u32) -> Result<Socket, String> {
    Socket::bind(address, unix_mode).map_err(|error| format!("cannot listen on {address}: {error}"))
}

/// The settings were checked: what is not an address is `"unix"`.
fn trusted_proxies(proxies: &[String]) -> TrustedProxies {
    TrustedProxies {
        addresses: proxies.iter().filter_map(|proxy| proxy.parse().ok()).collect(),
        unix: proxies.iter().any(|proxy| proxy == "unix"),
    }
}

fn timeouts(limits: &Limits, upload_bytes_max: u64) -> Timeouts {
    let upload_bytes_max = usize::try_from(upload_bytes_max).unwrap_or(usize::MAX);
    Timeouts {
        handshake: Duration::from_millis(limits.handshake_ms),
        header: Duration::from_millis(limits.header_ms),
        body: Duration::from_millis(limits.body_ms),
        idle: Duration::from_millis(limits.idle_ms),
        request: Duration::from_millis(limits.request_ms),
        header_bytes_max: limits.header_bytes_max,
        // A little more than the endpoints take, so that they say `M_TOO_LARGE` themselves.
        body_bytes_max: upload_bytes_max.max(JSON_BODY_BYTES_MAX).saturating_add(BODY_BYTES_OVER),
    }
}
