//! Judging settings as a whole: what the types cannot say.

use std::net::IpAddr;
use std::path::Path;

use appliance_services::peers::ListAlgorithm;
use ipnet::IpNet;
use ruma::{RoomVersionId, ServerName, UserId};

use super::{FederationList, Listener, ListenerKind, Settings};
use crate::net::Address;

/// Room versions that this server can create.
const ROOM_VERSIONS: [&str; 7] = ["6", "7", "8", "9", "10", "11", "12"];

const DAY_MS: u64 = 86_400_000;

/// The smallest store that can hold a server.
const MAP_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Everything that is wrong: key and sentence.
pub fn problems(settings: &Settings, is_conformance: bool) -> Vec<(String, String)> {
    let mut check = Check { problems: Vec::new() };
    check.server(settings);
    check.listeners(settings, is_conformance);
    check.limits(settings);
    check.store(settings);
    check.registration(settings);
    check.sign_in(settings);
    check.calls(settings);
    check.support(settings);
    check.media_and_rooms(settings);
    check.rates(settings);
    check.federation(settings);
    check.egress(settings);
    check.log(settings);
    check.problems
}

struct Check {
    problems: Vec<(String, String)>,
}

impl Check {
    fn wrong(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push((key.to_owned(), message.into()));
    }

    fn require(&mut self, holds: bool, key: &str, message: &str) {
        if !holds {
            self.wrong(key, message);
        }
    }

    fn within(&mut self, key: &str, value: u64, min: u64, max: u64) {
        if value < min || value > max {
            self.wrong(key, format!("{value} is not between {min} and {max}"));
        }
    }

    fn server(&mut self, settings: &Settings) {
        let server = &settings.server;
        if server.name.is_empty() {
            self.wrong(
                "server.name",
                "is not set: write the name that follows the colon in user IDs, such as \
                 \"hospital.example\"; it cannot be changed later",
            );
        } else if let Err(error) = <&ServerName>::try_from(server.name.as_str()) {
            self.wrong("server.name", format!("\"{}\" is not a server name: {error}", server.name));
        }
        let url = &server.public_base_url;
        if !url.is_empty() && !is_base_url(url) {
            let message =
                format!("\"{url}\" is not a URL such as \"https://matrix.hospital.example\"");
            self.wrong("server.public_base_url", message);
        }
        let url = &server.photo_page_url;
        if !url.is_empty() && !is_base_url(url) {
            let message =
                format!("\"{url}\" is not a URL such as \"https://photos.hospital.example\"");
            self.wrong("server.photo_page_url", message);
        }
        self.require(server.data_dir.is_absolute(), "server.data_dir", "is not a path");
        for (index, proxy) in server.trusted_proxies.iter().enumerate() {
            if proxy != "unix" && proxy.parse::<IpAddr>().is_err() {
                let key = format!("server.trusted_proxies[{index}]");
                self.wrong(&key, format!("\"{proxy}\" is neither an IP address nor \"unix\""));
            }
        }
        self.within("server.drain_ms", server.drain_ms, 0, 600_000);
    }

    fn listeners(&mut self, settings: &Settings, is_conformance: bool) {
        let listeners = &settings.listeners;
        let has_client = listeners.iter().any(|l| l.kind == ListenerKind::Client);
        self.require(has_client, "listeners", "no listener has kind = \"client\"");
        for (index, listener) in listeners.iter().enumerate() {
            let key = format!("listeners[{index}]");
            let is_same = |other: &Listener| other.address == listener.address;
            // Port 0 is another free port each time.
            let is_any_port = listener.address.ends_with(":0");
            if !is_any_port && listeners[..index].iter().any(is_same) {
                self.wrong(&key, format!("{} is taken by another listener", listener.address));
            }
            let asks = listener.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
            if asks && !matches!(listener.kind, ListenerKind::Client | ListenerKind::SignIn) {
                let message =
                    "only listeners of kind = \"client\" or \"sign_in\" ask for certificates";
                self.wrong(&format!("{key}.tls.client_ca_file"), message.to_owned());
            }
            match listener.address.parse::<Address>() {
                Err(message) => self.wrong(&format!("{key}.address"), message),
                Ok(address) => {
                    if let Err(message) = may_listen(listener, &address, is_conformance) {
                        self.wrong(&key, message);
                    }
                }
            }
        }
    }

    fn federation_list(&mut self, list: &FederationList) {
        if list.source.is_empty() {
            return;
        }
        if list.source.contains("://") && crate::wiring::list_url(&list.source).is_none() {
            let message = format!("\"{}\" is neither a file nor an https URL", list.source);
            self.wrong("federation.list.source", message);
        }
        if ListAlgorithm::parse(&list.algorithm).is_none() {
            let message = format!(
                "\"{}\" is none of \"ES256\", \"ES384\", \"EdDSA\", \"PS256\"",
                list.algorithm
            );
            self.wrong("federation.list.algorithm", message);
        }
        let key = "federation.list.key_file";
        self.require(!list.key_file.as_os_str().is_empty(), key, "is not set: who signs the list?");
        self.within("federation.list.refresh_ms", list.refresh_ms, 10_000, 7 * DAY_MS);
        self.within("federation.list.keep_ms", list.keep_ms, list.refresh_ms, 90 * DAY_MS);
    }

    fn limits(&mut self, settings: &Settings) {
        let limits = &settings.limits;
        for (key, value) in [
            ("limits.handshake_ms", limits.handshake_ms),
            ("limits.header_ms", limits.header_ms),
            ("limits.body_ms", limits.body_ms),
            ("limits.idle_ms", limits.idle_ms),
            ("limits.request_ms", limits.request_ms),
        ] {
            self.within(key, value, 100, DAY_MS);
        }
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        self.within("limits.connections_max", count(limits.connections_max), 1, 1_000_000);
        let per_ip = count(limits.connections_per_ip_max);
        self.within("limits.connections_per_ip_max", per_ip, 1, 1_000_000);
        self.within("limits.header_bytes_max", count(limits.header_bytes_max), 8_192, 1_048_576);
    }

    fn store(&mut self, settings: &Settings) {
        let (store, data_dir) = (&settings.store, &settings.server.data_dir);
        self.within("store.map_bytes_max", store.map_bytes_max, MAP_BYTES_MIN, 1 << 46);
        self.require(
            !store.master_key_file.as_os_str().is_empty(),
            "store.master_key_file",
            "is not set: name a file of 32 bytes outside the data folder, or pass the systemd \
             credential \"master_key\"",
        );
        self.require(
            !is_inside(&store.master_key_file, data_dir),
            "store.master_key_file",
            "is inside server.data_dir: whoever copies the data would have the key to it; keep \
             the key elsewhere",
        );
    }

    fn registration(&mut self, settings: &Settings) {
        let registration = &settings.registration;
        // "Tokens … opaque string … 0-9A-Za-z._~-, length 1 to 64": client-server API,
        // m.login.registration_token.
        let is_token = |token: &str| {
            (1..=64).contains(&token.len())
                && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b))
        };
        for (index, token) in registration.tokens.iter().enumerate() {
            let key = format!("registration.tokens[{index}]");
            let message = "is not 1 to 64 characters of A-Z a-z 0-9 . _ ~ -";
            self.require(is_token(token.reveal()), &key, message);
        }
        self.within("sessions.access_token_ms", settings.sessions.access_token_ms, 1_000, DAY_MS);
        let class = &settings.sessions.default_class;
        if !matches!(class.as_str(), "managed" | "unmanaged" | "browser-kiosk") {
            let message =
                format!("\"{class}\" is not \"managed\", \"unmanaged\" or \"browser-kiosk\"");
            self.wrong("sessions.default_class", message);
        }
    }

    fn sign_in(&mut self, settings: &Settings) {
        let Settings { server, sessions, listeners, .. } = settings;
        let url = &server.sign_in_url;
        let has_listener = listeners.iter().any(|l| l.kind == ListenerKind::SignIn);
        if url.is_empty() {
            let key = "sessions.password_login";
            self.require(
                sessions.password_login,
                key,
                "false leaves no way in: set server.sign_in_url",
            );
            let key = "server.sign_in_url";
            self.require(!has_listener, key, "is not set: nobody finds the listener \"sign_in\"");
            return;
        }
        let key = "server.sign_in_url";
        self.require(
            is_origin(url),
            key,
            "is not an https origin such as \"https://login.hospital.example\"",
        );
        self.require(has_listener, key, "needs a listener of kind = \"sign_in\"");
        // Whatever runs on another page of the same origin could read what is typed.
        for (other, name) in [
            (&server.public_base_url, "server.public_base_url"),
            (&server.photo_page_url, "server.photo_page_url"),
        ] {
            let is_same = other.trim_end_matches('/') == url.trim_end_matches('/');
            self.require(!is_same, key, &format!("is {name}, and must be an origin of its own"));
        }
        let is_https = server.public_base_url.starts_with("https://");
        let message = "must be an https URL: apps that people sign in to by server.sign_in_url fetch \
                       their tokens there";
        self.require(is_https, "server.public_base_url", message);
        // Whoever registers an app could otherwise send somebody here whose browser has a certificate, and come
        // away with a managed session on a device of their own.
        let vouches = listeners
            .iter()
            .filter(|l| l.kind == ListenerKind::SignIn)
            .any(|listener| listener.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some()));
        self.require(
            !vouches || !sessions.app_hosts.is_empty(),
            "sessions.app_hosts",
            "is empty: name the apps that may have managed sessions where a listener \"sign_in\" asks for \
             certificates (tls.client_ca_file)",
        );
        for (index, host) in sessions.app_hosts.iter().enumerate() {
            if host.is_empty() || host.contains(['/', ':', '*']) || *host != host.to_lowercase() {
                let key = format!("sessions.app_hosts[{index}]");
                self.wrong(&key, format!("\"{host}\" is no host such as \"element.example\""));
            }
        }
    }

    fn calls(&mut self, settings: &Settings) {
        let calls = &settings.calls;
        for (index, uri) in calls.turn_uris.iter().enumerate() {
            let key = format!("calls.turn_uris[{index}]");
            if !["turn:", "turns:", "stun:"].iter().any(|scheme| uri.starts_with(scheme)) {
                self.wrong(
                    &key,
                    format!("\"{uri}\" is not a URI such as \"turn:turn.hospital.example:3478\""),
                );
            }
        }
        self.require(
            calls.turn_uris.is_empty() || !calls.turn_shared_secret.is_empty(),
            "calls.turn_shared_secret",
            "is not set: the TURN servers would refuse everybody",
        );
        let url = &calls.livekit_service_url;
        if !url.is_empty() && !is_base_url(url) {
            let message =
                format!("\"{url}\" is not a URL such as \"https://calls.hospital.example\"");
            self.wrong("calls.livekit_service_url", message);
        }
    }

    fn support(&mut self, settings: &Settings) {
        let support = &settings.support;
        if !support.page.is_empty() && !is_base_url(&support.page) {
            let message =
                format!("\"{}\" is no URL such as \"https://help.hospital.example\"", support.page);
            self.wrong("support.page", message);
        }
        for (key, id) in [
            ("support.admin_matrix_id", &support.admin_matrix_id),
            ("support.security_matrix_id", &support.security_matrix_id),
        ] {
            if !id.is_empty() && <&UserId>::try_from(id.as_str()).is_err() {
                self.wrong(key, format!("\"{id}\" is no user ID such as \"@it:hospital.example\""));
            }
        }
        for (key, email) in [
            ("support.admin_email", &support.admin_email),
            ("support.security_email", &support.security_email),
        ] {
            if !email.is_empty() && !email.contains('@') {
                self.wrong(key, format!("\"{email}\" is no e-mail address"));
            }
        }
    }

    fn media_and_rooms(&mut self, settings: &Settings) {
        let media = &settings.media;
        // 100 years: as long as a hospital keeps anything.
        self.within("media.ttl_ms", media.ttl_ms, 1_000, 3_155_760_000_000);
        self.within("media.unused_ms", media.unused_ms, 1_000, 604_800_000);
        self.within("media.upload_bytes_max", media.upload_bytes_max, 1, 4 << 30);
        self.within("media.pixels_max", media.pixels_max, 1, 1_000_000_000);
        self.within("media.renderings_bytes_max", media.renderings_bytes_max, 1 << 20, 1 << 50);
        let version = settings.rooms.default_version.as_str();
        let is_known = RoomVersionId::try_from(version).is_ok() && ROOM_VERSIONS.contains(&version);
        let message = format!("\"{version}\" is not one of {}", ROOM_VERSIONS.join(", "));
        self.require(is_known, "rooms.default_version", &message);
    }

    fn rates(&mut self, settings: &Settings) {
        let rates = &settings.rate_limits;
        for (key, rate) in [
            ("rate_limits.message", rates.message),
            ("rate_limits.login", rates.login),
            ("rate_limits.failed_login", rates.failed_login),
            ("rate_limits.registration", rates.registration),
            ("rate_limits.room", rates.room),
            ("rate_limits.media", rates.media),
        ] {
            let is_rate = rate.per_second.is_finite() && rate.per_second > 0.0 && rate.burst > 0;
            self.require(is_rate, key, "per_second and burst must be more than nothing");
        }
    }

    fn federation(&mut self, settings: &Settings) {
        let federation = &settings.federation;
        self.federation_list(&federation.list);
        let is_named = |file: &std::path::Path| !file.as_os_str().is_empty();
        let both =
            is_named(&federation.client_certificate_file) == is_named(&federation.client_key_file);
        let key = "federation.client_key_file";
        self.require(both, key, "goes together with federation.client_certificate_file");
        self.within("federation.away_notice_ms", federation.away_notice_ms, 0, DAY_MS);
        for (index, name) in federation.allowed_servers.iter().enumerate() {
            if let Err(error) = <&ServerName>::try_from(name.as_str()) {
                let key = format!("federation.allowed_servers[{index}]");
                self.wrong(&key, format!("\"{name}\" is not a server name: {error}"));
            }
        }
        let address = &federation.address;
        if !address.is_empty()
            && let Err(error) = <&ServerName>::try_from(address.as_str())
        {
            let message = format!("\"{address}\" is not a host with or without a port: {error}");
            self.wrong("federation.address", message);
        }
    }

    fn egress(&mut self, settings: &Settings) {
        for (index, network) in settings.egress.networks.iter().enumerate() {
            if network.parse::<IpNet>().is_err() {
                let key = format!("egress.networks[{index}]");
                self.wrong(&key, format!("\"{network}\" is no network such as \"10.20.0.0/16\""));
            }
        }
        for (index, host) in settings.egress.push_gateways.iter().enumerate() {
            // A URL or a port would never match.
            if host.is_empty() || host.contains(['/', ':']) {
                let key = format!("egress.push_gateways[{index}]");
                self.wrong(&key, format!("\"{host}\" is no host such as \"push.example\""));
            }
        }
        for (index, host) in settings.egress.preview_hosts.iter().enumerate() {
            let (name, port) = host.rsplit_once(':').unwrap_or((host, "443"));
            let name = name.strip_prefix("*.").unwrap_or(name);
            // A star alone would be everybody.
            if name.is_empty() || name.contains(['/', ':', '*']) || port.parse::<u16>().is_err() {
                let key = format!("egress.preview_hosts[{index}]");
                let message =
                    "is no host such as \"wiki.example\", \"*.example\" or \"a.example:8443\"";
                self.wrong(&key, format!("\"{host}\" {message}"));
            }
        }
    }

    fn log(&mut self, settings: &Settings) {
        let level = &settings.log.level;
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(level) {
            self.wrong("log.level", format!("\"{level}\" is not a log level: {error}"));
        }
    }
}

/// Whether a listener may be opened where it says. A socket from systemd is judged when it is there.
///
/// # Errors
///
/// A sentence that says what to do.
pub fn may_listen(
    listener: &Listener,
    address: &Address,
    is_conformance: bool,
) -> Result<(), String> {
    if is_conformance || address.is_local() || matches!(address, Address::Systemd(_)) {
        return Ok(());
    }
    if listener.kind == ListenerKind::Metrics {
        return Err(format!(
            "{address} is not on this machine: metrics tell strangers too much; listen on \
             127.0.0.1 or a Unix socket"
        ));
    }
    if listener.tls.is_none() {
        return Err(format!(
            "{address} would speak plain HTTP to the network: add tls = {{ certificate_file = \
             \"...\", key_file = \"...\" }}, or listen on 127.0.0.1 or a Unix socket behind a \
             reverse proxy"
        ));
    }
    Ok(())
}

fn is_inside(path: &Path, dir: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.starts_with(dir) || real(path).starts_with(real(dir))
}

/// A scheme, a host, perhaps a port, and nothing behind.
fn is_origin(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    is_base_url(url) && uri.scheme_str() == Some("https") && uri.path() == "/"
}

fn is_base_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    is_http && uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none()
}
