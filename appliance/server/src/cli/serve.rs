//! `wardstone serve`

use std::path::PathBuf;
use std::process::ExitCode;

use crate::serve;

/// Run the server until it is told to stop.
#[derive(clap::Args)]
pub struct Serve {
    /// The settings file. `conf.d/*.toml` beside it is read too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// For public conformance suites in a sandbox ONLY: open registration, plain HTTP everywhere,
    /// no rate limits.
    #[arg(long)]
    conformance: bool,
}

impl Serve {
    /// Serves.
    pub fn run(self) -> ExitCode {
        let settings = match crate::settings::load::load(self.config.as_deref()) {
            Ok(settings) => settings,
            Err(error) => {
                eprintln!("wardstone: {error}");
                return ExitCode::FAILURE;
            }
        };
        serve::run(&settings, self.conformance)
    }
}
