//! Wardstone with everything at its defaults but the address, in conformance mode: open
//! registration, no rate limits, cheap password hashes, as Synapse beside it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The settings, and the command that serves.
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
    let text = format!(
        "[server]\nname = \"bench.example\"\ndata_dir = {data:?}\n\n\
         [[listeners]]\nkind = \"client\"\naddress = \"{address}\"\n\n\
         [store]\nmaster_key_file = {key:?}\n\n\
         [rooms]\ndefault_version = \"11\"\n",
        key = folder.join("master.key"),
    );
    std::fs::write(&settings, text)?;
    let words = |words: &[&str]| {
        let mut command = vec![binary.to_string_lossy().into_owned()];
        command.extend(words.iter().map(|word| (*word).to_owned()));
        command.extend(["--config".to_owned(), settings.to_string_lossy().into_owned()]);
        command
    };
    let init = words(&["init"]);
    let output = std::process::Command::new(&init[0]).args(&init[1..]).output()?;
    if !output.status.success() {
        bail!("wardstone init: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(words(&["serve", "--conformance"]))
}
