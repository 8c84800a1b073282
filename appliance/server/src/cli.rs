//! The command line: one file per command.

mod config;
mod egress;
mod enrol;
pub mod exit;
mod init;
mod media;
mod order;
pub mod out;
mod password;
mod peers;
mod policy;
mod quickstart;
mod serve;
mod status;
mod store;
mod user;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::settings::layer::Problem;

/// Wardstone: the Matrix homeserver a hospital runs on its own machines.
#[derive(Parser)]
#[command(
    name = "wardstone",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes:\n  0  done\n  1  it did not work; the reason is on standard error\n  \
                  2  the arguments or the settings are wrong\n  3  the server does not answer on \
                  its admin socket\n  4  the store is damaged\n\nFirst steps:\n  wardstone \
                  quickstart                     a server to try, on this machine only\n  wardstone \
                  init --name hospital.example   prepare a server to keep\n  wardstone config check\n  \
                  wardstone serve"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(quickstart::Quickstart),
    Serve(serve::Serve),
    Init(init::Init),
    Config(config::Config),
    User(user::User),
    Policy(policy::Policy),
    Enrol(enrol::Enrol),
    Media(media::Media),
    Device(media::Device),
    Store(store::Store),
    Peers(peers::Peers),
    Egress(egress::Egress),
    Status(status::Status),
    Version(version::Version),
}

/// Arguments of every command that reads the settings.
#[derive(Args)]
pub struct Common {
    /// The settings file; `conf.d/*.toml` beside it is read too.
    /// [default: /etc/wardstone/wardstone.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs what the arguments ask for.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(command) => command.run(),
        Command::Quickstart(command) => command.run(),
        Command::Init(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::User(command) => command.run(),
        Command::Policy(command) => command.run(),
        Command::Enrol(command) => command.run(),
        Command::Media(command) => command.run(),
        Command::Device(command) => command.run(),
        Command::Store(command) => command.run(),
        Command::Peers(command) => command.run(),
        Command::Egress(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Version(command) => command.run(),
    }
}

/// Lists what is wrong with the settings on standard error.
fn print_problems(problems: &[Problem]) {
    for problem in problems {
        out::trouble(&problem.to_string());
    }
}
