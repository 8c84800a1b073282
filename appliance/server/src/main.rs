//! The binary `wardstone`: settings, wiring, lifecycle, journal. Read it like a table of contents.

mod admin;
mod appservices;
mod cli;
mod conformance;
mod files;
mod fuzz;
mod health;
mod jobs;
mod keys;
mod lifecycle;
mod listen;
mod local_ca;
mod lock;
mod log;
mod metrics;
mod net;
mod serve;
mod settings;
mod still_store;
mod wiring;

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: whoever asks rustls for a provider later must find this one.
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    if provider.install_default().is_err() {
        cli::out::trouble("another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    // What is created without a mode of its own is for this user alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    cli::run()
}
