//! Serving: open the house, open the doors, wait for the end, close in order.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::out;
use crate::conformance::{self, Conformance};
use crate::health;
use crate::lifecycle::Lifecycle;
use crate::listen::caps::Caps;
use crate::listen::connection::{Timeouts, TrustedProxies};
use crate::listen::tls::{Certificate, Reload, TlsDoor};
use crate::listen::{self, Listener};
use crate::log;
use crate::metrics::Metrics;
use crate::net::{Address, Socket};
use crate::settings::layer::Origin;
use crate::settings::load::Loaded;
use crate::settings::{self, Limits, ListenerKind, Settings};
use crate::wiring::House;

/// A proxy in another group must be able to connect; peers are not authenticated by the file.
const CLIENT_SOCKET_MODE: u32 = 0o666;

/// How often certificate files are looked at.
const CERTIFICATE_POLL: Duration = Duration::from_secs(5);

/// Runs the server. Returns the exit code of the process.
pub fn run(loaded: &Loaded, is_conformance: bool) -> ExitCode {
    // Dropped last, so that everything said below is written.
    let _log = match log::start(&loaded.settings.log) {
        Ok(log) => log,
        Err(reason) => {
            out::trouble(&reason);
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out::trouble(&format!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(loaded, is_conformance)) {
        Ok(code) => code,
        Err(reason) => {
            tracing::error!(kind = "server.start_failed", "{reason}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(loaded: &Loaded, is_conformance: bool) -> Result<ExitCode, String> {
    let settings = &loaded.settings;
    let lifecycle = Lifecycle::new().map_err(|error| format!("signal handlers: {error}"))?;
    let tasks = lifecycle.tasks();
    let metrics = Metrics::install()?;
    tasks.spawn_vital("metrics", metrics.clone().upkeep(tasks.jobs().clone()));
    let conformance = is_conformance.then(|| {
        Conformance::new(settings, loaded.origin("rooms.default_version") != Origin::Default)
    });
    if conformance.is_some() {
        tasks.spawn_vital("conformance", conformance::warn_until(tasks.jobs().clone()));
    }
    let house = Arc::new(House::open(settings, conformance.as_ref(), &tasks).await?);
    let shared = listen::House {
        tasks: tasks.clone(),
        caps: Caps::new(settings.limits.connections_max, settings.limits.connections_per_ip_max),
        timeouts: timeouts(&settings.limits, settings.media.upload_bytes_max),
        proxies: Arc::new(TrustedProxies::default()),
    };
    let mut certificates = Vec::new();
    for listener in open_listeners(settings, &metrics, &house, &mut certificates)? {
        let name = listener.name;
        tracing::info!(kind = "listener.open", listener = name, address = %listener.socket.address,
            tls = listener.tls.is_some(), "listening");
        tasks.spawn_vital(name, listen::accept(shared.clone(), listener));
    }
    let certificates = Arc::new(certificates);
    let stop = tasks.jobs().clone();
    let watched = certificates.clone();
    tasks.spawn_vital("certificates", async move {
        let mut tick = tokio::time::interval(CERTIFICATE_POLL);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            watched.iter().for_each(|certificate| report(&certificate.reload_if_changed()));
        }
    });
    let drain = Duration::from_millis(settings.server.drain_ms);
    let code = lifecycle
        .run(drain, || certificates.iter().for_each(|certificate| report(&certificate.reload())))
        .await;
    house.close().await?;
    tracing::info!(kind = "server.stopped", "stopped");
    Ok(code)
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

fn open_listeners(
    settings: &Settings,
    metrics: &Metrics,
    house: &Arc<House>,
    certificates: &mut Vec<Arc<Certificate>>,
) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    for listener in &settings.listeners {
        listeners.push(open_listener(listener, metrics, house, certificates)?);
    }
    Ok(listeners)
}

fn open_listener(
    listener: &settings::Listener,
    metrics: &Metrics,
    house: &Arc<House>,
    certificates: &mut Vec<Arc<Certificate>>,
) -> Result<Listener, String> {
    let name = listener.kind.as_str();
    let address: Address = listener.address.parse()?;
    let socket = Socket::bind(&address, CLIENT_SOCKET_MODE)
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let tls = match &listener.tls {
        None => None,
        Some(files) => {
            let certificate = Certificate::read(files.clone())?;
            certificates.push(certificate.clone());
            Some(TlsDoor::new(certificate)?)
        }
    };
    let router = match listener.kind {
        ListenerKind::Client => house.client(),
        ListenerKind::Federation => house.federation(),
        ListenerKind::Metrics => metrics.router(),
    };
    let router = router.merge(health::router(house.clone()));
    Ok(Listener { name, socket, tls, router })
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
        body_bytes_max: limits.body_bytes_max.max(upload_bytes_max),
    }
}
