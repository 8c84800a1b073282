//! Synapse from its package on SQLite: one process, log level WARNING, no rate limits, the cheapest
//! password hash, presence off. The acceptance tests' environment is used, and made if it is missing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Peer;

/// Pinned: the ratio is against this release.
pub(crate) const VERSION: &str = "1.163.2";

const LOGGING: &str = "\
version: 1
formatters: {plain: {format: '%(asctime)s %(levelname)s %(name)s %(message)s'}}
handlers: {console: {class: logging.StreamHandler, formatter: plain}}
root: {level: WARNING, handlers: [console]}
disable_existing_loggers: false
";

/// The settings, and the command that serves.
pub(super) fn prepare(
    folder: &Path,
    data: &Path,
    (address, peer): (SocketAddr, Option<&Peer>),
) -> Result<Vec<String>> {
    let python = install()?;
    std::fs::write(folder.join("logging.yaml"), LOGGING)?;
    std::fs::write(folder.join("homeserver.yaml"), settings(folder, data, (address, peer)))?;
    let command = |more: &[&str]| {
        let mut words = vec![python.to_string_lossy().into_owned()];
        words.extend(["-m", "synapse.app.homeserver", "-c"].map(str::to_owned));
        words.push(folder.join("homeserver.yaml").to_string_lossy().into_owned());
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    };
    let keys = command(&["--generate-keys"]);
    run(Command::new(&keys[0]).args(&keys[1..])).context("make Synapse's signing key")?;
    Ok(command(&[]))
}

/// The interpreter of the environment that the acceptance tests keep for Synapse.
fn install() -> Result<PathBuf> {
    let python = PathBuf::from("target/acceptance/synapse/bin/python");
    let version = || {
        let print = "import importlib.metadata as m; print(m.version('matrix-synapse'), end='')";
        let output = Command::new(&python).args(["-c", print]).output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    if version().as_deref() != Some(VERSION) {
        eprintln!("installing Synapse {VERSION}");
        run(&mut Command::new("appliance/acceptance/prepare"))?;
    }
    match version() {
        Some(found) if found == VERSION => Ok(std::path::absolute(python)?),
        found => bail!("wanted Synapse {VERSION}, found {}", found.unwrap_or_default()),
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn settings(folder: &Path, data: &Path, (address, peer): (SocketAddr, Option<&Peer>)) -> String {
    let mut text = format!(
        r#"
server_name: "{name}"
report_stats: false
listeners:
  - {{port: {port}, bind_addresses: ["{ip}"], type: http, tls: false, resources: [{{names: [client]}}]}}
{for_peers}database: {{name: sqlite3, args: {{database: {database:?}}}}}
media_store_path: {media:?}
signing_key_path: {key:?}
log_config: {log:?}
pid_file: {pid:?}
default_room_version: "11"
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
presence: {{enabled: false}}
trusted_key_servers: []
suppress_key_server_warning: true
max_upload_size: 50M
macaroon_secret_key: bench
form_secret: bench
"#,
        name = peer.map_or("bench.example", |peer| &peer.name),
        for_peers = peer.map(listener).unwrap_or_default(),
        port = address.port(),
        ip = address.ip(),
        database = data.join("homeserver.db"),
        media = data.join("media"),
        key = folder.join("signing.key"),
        log = folder.join("logging.yaml"),
        pid = folder.join("homeserver.pid"),
    );
    // No measured request may be refused for coming too soon.
    let free = "{per_second: 1000000, burst_count: 1000000}";
    for limit in ["message", "registration", "registration_token_validity", "admin_redaction"] {
        text += &format!("rc_{limit}: {free}\n");
    }
    text += &format!("rc_login: {{address: {free}, account: {free}, failed_attempts: {free}}}\n");
    text += &format!("rc_joins: {{local: {free}, remote: {free}}}\n");
    text += &format!("rc_joins_per_room: {free}\n");
    text += &format!("rc_room_creation: {free}\n");
    text += &format!("rc_invites: {{per_room: {free}, per_user: {free}, per_issuer: {free}}}\n");
    text += &format!("rc_media_create: {free}\n");
    if let Some(peer) = peer {
        text += &peering(peer);
    }
    text
}

/// One more listener.
fn listener(peer: &Peer) -> String {
    format!(
        "  - {{port: {}, bind_addresses: [\"{}\"], type: http, tls: true, \
         resources: [{{names: [federation]}}]}}\n",
        peer.address.port(),
        peer.address.ip()
    )
}

/// TLS, no limits that other servers could reach, and quick retries, as Wardstone has them here.
fn peering(peer: &Peer) -> String {
    let file = |name: &str| peer.tls.join(name);
    format!(
        r#"
tls_certificate_path: {certificate:?}
tls_private_key_path: {key:?}
federation_custom_ca_list: [{authority:?}]
ip_range_blacklist: []
federation_ip_range_blacklist: []
rc_federation: {{reject_limit: 100000, concurrent: 50}}
federation_rr_transactions_per_room_per_second: 1000
federation:
  destination_min_retry_interval: 500
  destination_retry_multiplier: 2
  destination_max_retry_interval: 2s
  max_short_retries: 1
  max_long_retries: 1
  max_short_retry_delay: 1s
  max_long_retry_delay: 2s
"#,
        certificate = file("server.pem"),
        key = file("server.key"),
        authority = file("ca.pem"),
    )
}
