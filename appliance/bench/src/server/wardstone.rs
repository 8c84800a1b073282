//! Wardstone with everything at its defaults but the address, in conformance mode: open
//! registration, no rate limits, cheap password hashes, as Synapse beside it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Peer;

/// Prepares a new server as its README says, and returns the command that serves.
pub(super) fn prepare(
    binary: &Path,
    folder: &Path,
    data: &Path,
    (address, peer): (SocketAddr, Option<&Peer>),
) -> Result<Vec<String>> {
    let binary = binary.canonicalize().with_context(|| {
        format!("no {}: build it with `cargo build --release --bin wardstone`", binary.display())
    })?;
    let settings = folder.join("wardstone.toml");
    let command = |words: &[&str]| {
        let mut command = vec![binary.to_string_lossy().into_owned()];
        command.extend(words.iter().map(|word| (*word).to_owned()));
        command.extend(["--config".to_owned(), settings.to_string_lossy().into_owned()]);
        command
    };
    let name = peer.map_or("bench.example", |peer| &peer.name);
    let mut init = command(&["init", "--name", name]);
    init.extend(["--data-dir".to_owned(), data.to_string_lossy().into_owned()]);
    let output = Command::new(&init[0]).args(&init[1..]).output()?;
    if !output.status.success() {
        bail!("wardstone init: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::create_dir(folder.join("conf.d"))?;
    let for_peers = peer.map(listener).unwrap_or_default();
    let mut changes = format!(
        "listeners = [{{ kind = \"client\", address = \"{address}\" }}{for_peers}]\n\n\
         [rooms]\ndefault_version = \"11\"\n"
    );
    if let Some(peer) = peer {
        let authority = peer.tls.join("ca.pem");
        changes += &format!("\n[federation]\nextra_ca_file = {authority:?}\n");
    }
    std::fs::write(folder.join("conf.d/bench.toml"), changes)?;
    Ok(command(&["serve", "--conformance"]))
}

/// One more listener, in TOML.
fn listener(peer: &Peer) -> String {
    let (certificate, key) = (peer.tls.join("server.pem"), peer.tls.join("server.key"));
    format!(
        ", {{ kind = \"federation\", address = \"{}\", \
         tls = {{ certificate_file = {certificate:?}, key_file = {key:?} }} }}",
        peer.address
    )
}
