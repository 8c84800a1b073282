//! `wardstone serve`

use std::path::PathBuf;
use std::process::ExitCode;

use crate::serve;
use crate::settings::load::{Sources, load};

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
        let sources = Sources::of_this_process(self.config);
        let loaded = match load(&sources, self.conformance) {
            Ok(loaded) => loaded,
            Err(problems) => {
                for problem in problems {
                    eprintln!("wardstone: {problem}");
                }
                return ExitCode::FAILURE;
            }
        };
        serve::run(&loaded, self.conformance)
    }
}
