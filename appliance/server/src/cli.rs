//! The command line: one file per command.

mod serve;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Wardstone: the Matrix homeserver a hospital runs on its own machines.
#[derive(Parser)]
#[command(name = "wardstone", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Version(version::Version),
}

/// Runs what the arguments ask for.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(command) => command.run(),
        Command::Version(command) => command.run(),
    }
}
