//! `wardstone serve`

use std::path::PathBuf;
use std::process::ExitCode;

use crate::serve::{self, Plan};
use crate::settings::load::{Sources, load};

/// Run the server until it is told to stop.
///
/// SIGTERM or SIGINT stops it: no new connections, requests in flight finish, then the store closes.
/// SIGHUP reads the certificates again.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  wardstone serve\n  wardstone serve --config \
                        ./wardstone-data/wardstone.toml")]
pub struct Serve {
    /// The settings file; `conf.d/*.toml` beside it is read too.
    /// [default: /etc/wardstone/wardstone.toml]
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
        match load(&Sources::of_this_process(self.config), self.conformance) {
            Ok(loaded) => serve::run(Plan {
                loaded,
                is_conformance: self.conformance,
                prepare: None,
                announcement: None,
            }),
            Err(problems) => {
                super::print_problems(&problems);
                super::exit::BAD_SETTINGS.into()
            }
        }
    }
}
