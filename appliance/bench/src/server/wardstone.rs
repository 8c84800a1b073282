//! Wardstone with everything at its defaults but the address, in conformance mode: open
//! registration, no rate limits, cheap password hashes, as Synapse beside it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Prepares a new server as its README says, and returns the command that serves.
pub(super) fn prepare(
    binary: &Path,
    folder: &Path,
    data: &Path,
    address: SocketAddr,
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
    let mut init = command(&["init", "--name", "bench.example"]);
    init.extend(["--data-dir".to_owned(), data.to_string_lossy().into_owned()]);
    let output = Command::new(&init[0]).args(&init[1..]).output()?;
    if !output.status.success() {
        bail!("wardstone init: {}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::create_dir(folder.join("conf.d"))?;
    let changes = format!(
        "listeners = [{{ kind = \"client\", address = \"{address}\" }}]\n\n\
         [rooms]\ndefault_version = \"11\"\n"
    );
    std::fs::write(folder.join("conf.d/bench.toml"), changes)?;
    Ok(command(&["serve", "--conformance"]))
}
