//! `wardstone quickstart`

mod accounts;
mod page;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::init::fill_in;
use super::{exit, out};
use crate::local_ca::LocalCa;
use crate::serve::{Plan, run};
use crate::settings::load::{Loaded, Sources, load};
use crate::{files, keys};
use accounts::Logins;

/// The name of a server that only this machine reaches.
const SERVER_NAME: &str = "localhost";

/// Start a ready-to-use server on this machine only, to try Wardstone.
///
/// Makes keys, a certificate authority for this machine, settings, an administrator and two demo
/// clinicians under one folder, then serves until Ctrl-C. A second run goes on where the first one
/// stopped. For a server to keep, use `wardstone init`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  wardstone quickstart\n  wardstone quickstart --folder \
                        /tmp/ward --port 9443 --http-port 9080")]
pub struct Quickstart {
    /// Everything is kept here. Delete it to start anew.
    #[arg(long, value_name = "DIR", default_value = "./wardstone-data")]
    folder: PathBuf,

    /// The port for clients, with TLS.
    #[arg(long, default_value_t = 8443)]
    port: u16,

    /// The port for clients on this machine that cannot be told about a certificate.
    #[arg(long, default_value_t = 8008)]
    http_port: u16,

    /// The port of the photo page, with TLS: for browsers on devices that may not keep photos.
    #[arg(long, default_value_t = 8444)]
    photo_port: u16,

    /// The port for Prometheus.
    #[arg(long, default_value_t = 9008)]
    metrics_port: u16,
}

impl Quickstart {
    /// Prepares what is missing, then serves.
    pub fn run(self) -> ExitCode {
        match self.plan() {
            Ok(plan) => run(plan),
            Err(reason) => {
                out::trouble(&reason);
                exit::FAILED.into()
            }
        }
    }

    fn plan(&self) -> Result<Plan, String> {
        let folder = std::path::absolute(&self.folder)
            .map_err(|error| format!("{}: {error}", self.folder.display()))?;
        files::create_private_dir(&folder)?;
        let config = folder.join("wardstone.toml");
        if !config.exists() {
            prepare(&folder, &config)?;
        }
        self.write_listeners(&folder)?;
        let ca = LocalCa::open(&folder.join("tls"))?;
        ca.issue()?;
        let loaded = load_or_explain(config)?;
        let logins = Logins::open(&folder.join("logins.txt"))?;
        let page = page::Page {
            folder: &folder,
            ca: &ca.certificate_file(),
            port: self.port,
            http_port: self.http_port,
            photo_port: self.photo_port,
            metrics_port: self.metrics_port,
            logins: &logins,
        };
        let announcement = page.text();
        Ok(Plan {
            loaded,
            is_conformance: false,
            prepare: Some(Box::new(move |house| Box::pin(logins.create_in(house)))),
            announcement: Some(announcement),
        })
    }

    /// The ports of this run. They are written anew each time, the settings beside are yours.
    fn write_listeners(&self, folder: &Path) -> Result<(), String> {
        let Self { port, http_port, photo_port, metrics_port, .. } = self;
        let dir = folder.join("conf.d");
        files::create_private_dir(&dir)?;
        let tls =
            "tls = { certificate_file = \"tls/server.pem\", key_file = \"tls/server.key\" }\n";
        let text = format!(
            "# Written by `wardstone quickstart` at every start.\n\
             [server]\npublic_base_url = \"https://{SERVER_NAME}:{port}\"\n\
             photo_page_url = \"https://{SERVER_NAME}:{photo_port}\"\n\n\
             [[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:{port}\"\n{tls}\n\
             [[listeners]]\nkind = \"photo_page\"\naddress = \"127.0.0.1:{photo_port}\"\n{tls}\n\
             [[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:{http_port}\"\n\n\
             [[listeners]]\nkind = \"metrics\"\naddress = \"127.0.0.1:{metrics_port}\"\n"
        );
        files::replace(&dir.join("quickstart.toml"), &text, 0o600)
    }
}

/// Keys and settings; the settings last, because they say that the rest is there.
fn prepare(folder: &Path, config: &Path) -> Result<(), String> {
    let data_dir = folder.join("data");
    files::create_private_dir(&data_dir)?;
    let (signing_key, master_key) = (data_dir.join("signing.key"), folder.join("master.key"));
    if !signing_key.exists() {
        keys::create_signing_key(&signing_key)?;
    }
    if !master_key.exists() {
        keys::create_master_key(&master_key)?;
    }
    // Relative, so that the folder can be moved.
    let settings = fill_in(&[
        ("name", SERVER_NAME),
        ("data_dir", "data"),
        ("master_key_file", "master.key"),
        ("socket", "admin.sock"),
    ]);
    files::create(config, &settings, 0o600)
}

fn load_or_explain(config: PathBuf) -> Result<Loaded, String> {
    let sources = Sources { file: Some(config), ..Sources::of_this_process(None) };
    load(&sources, false).map_err(|problems| {
        let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
        list.join("\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_reuses_what_the_first_made() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("ward");
        let quickstart = Quickstart {
            folder: folder.clone(),
            port: 1_443,
            http_port: 1_080,
            photo_port: 1_444,
            metrics_port: 1_090,
        };
        let first = quickstart.plan().unwrap();
        assert_eq!(first.loaded.settings.server.name, "localhost");
        assert_eq!(first.loaded.settings.listeners.len(), 4);
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let names =
            ["wardstone.toml", "logins.txt", "master.key", "data/signing.key", "tls/ca.pem"];
        let before: Vec<_> = names.iter().map(|name| read(name)).collect();

        let second = Quickstart { port: 2_443, ..quickstart }.plan().unwrap();
        let after: Vec<_> = names.iter().map(|name| read(name)).collect();
        assert_eq!(before, after);
        assert_eq!(second.loaded.settings.listeners[0].address, "127.0.0.1:2443");
    }
}
