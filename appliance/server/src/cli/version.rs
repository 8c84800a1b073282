//! `wardstone version`

use std::process::ExitCode;

/// Print the version.
#[derive(clap::Args)]
pub struct Version {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Version {
    /// Prints the version.
    pub fn run(self) -> ExitCode {
        let version = env!("CARGO_PKG_VERSION");
        if self.json {
            super::out::json(&serde_json::json!({ "name": "wardstone", "version": version }));
        } else {
            super::out::line(&format!("wardstone {version}"));
        }
        ExitCode::SUCCESS
    }
}
