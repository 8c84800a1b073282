//! `wardstone store check | stats | export | import | rotate-key`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Common, order, out};
use crate::admin::Order;

/// Look after the store: check it, measure it, copy it, move it, change its key.
///
/// `check`, `stats` and `export` work while the server runs and while it does not; `import` and
/// `rotate-key` need a server that is stopped.
#[derive(Args)]
pub struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(Check),
    Stats(Stats),
    Export(Export),
    Import(Import),
    RotateKey(RotateKey),
}

/// Read every row, see that it is as it was written, and follow the audit chain.
///
/// Exit code 4 if something is damaged. While the server does not run, the engine's own structure is
/// read through as well.
#[derive(Args)]
#[command(after_help = "Example, every night:\n  wardstone store check || systemctl start alarm")]
struct Check {
    #[command(flatten)]
    common: Common,
}

/// Count rows and bytes, by keyspace.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone store stats --json | jq .disk_bytes")]
struct Stats {
    #[command(flatten)]
    common: Common,
}

/// Write the whole store to a file: the backup, and the way to another engine.
///
/// The file is sealed as the store is, and of use only with the same master key. It shows one moment,
/// also while the server runs (with the engine sled the server must be stopped). Media files are not
/// in it: copy the folder `media` of the data folder beside it.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone store export /backup/ward-$(date +%F).export")]
struct Export {
    /// The file to write. It must not exist; its folder must be writable for the server.
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// Read an export into an empty store, made by any engine.
#[derive(Args)]
#[command(after_help = "To another engine:\n  systemctl stop wardstone\n  wardstone store export \
                        /backup/move.export\n  mv /var/lib/wardstone/store /var/lib/wardstone/store.old\n  \
                        (set store.engine = \"sled\")\n  wardstone store import /backup/move.export")]
struct Import {
    /// What `wardstone store export` wrote.
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// Give the store a new master key. The server must be stopped.
///
/// The old key is kept beside the new one, because backups made until now need it; destroy it when no
/// such backup is left.
#[derive(Args)]
#[command(
    after_help = "Example:\n  systemctl stop wardstone\n  wardstone store rotate-key\n  systemctl \
                        start wardstone"
)]
struct RotateKey {
    /// Write the new key here, and leave the old file alone: for keys that come from a systemd
    /// credential. If the file exists, an interrupted rotation to it goes on.
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

impl Store {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Check(Check { common }) => order::give(common, Order::CheckStore, None, |a| {
                format!("The store is whole: {} rows up to position {}.", a["rows"], a["position"])
            }),
            Command::Stats(Stats { common }) => order::give(common, Order::StoreStats, None, table),
            Command::Export(Export { file, common }) => with_path(file, |file| {
                order::give(common, Order::ExportStore { to: file }, None, |a| {
                    format!("Exported {} rows, {} bytes, to {}.", a["rows"], a["bytes"], a["file"])
                })
            }),
            Command::Import(Import { file, common }) => with_path(file, |file| {
                order::give(common, Order::ImportStore { from: file }, None, |a| {
                    format!("Imported {} rows up to position {}.", a["rows"], a["position"])
                })
            }),
            Command::RotateKey(RotateKey { new_key_file, common }) => {
                let order = Order::RotateKey { new_key_file };
                order::give(common, order, None, |a| {
                    format!(
                        "The store has a new master key: {}\nThe old one is in {}; backups made \
                         until now need it. Keep a copy of the new one outside this machine.",
                        a["new_key_file"], a["old_key_file"]
                    )
                })
            }
        }
    }
}

/// The server has another working folder than the person who types.
fn with_path(path: PathBuf, then: impl FnOnce(PathBuf) -> ExitCode) -> ExitCode {
    match std::path::absolute(&path) {
        Ok(path) => then(path),
        Err(error) => {
            out::trouble(&format!("{}: {error}", path.display()));
            super::exit::FAILED.into()
        }
    }
}

fn table(answer: &Value) -> String {
    let mut lines = vec![format!("{:<20} {:>14} {:>16}", "keyspace", "rows", "bytes")];
    for keyspace in answer["keyspaces"].as_array().map(Vec::as_slice).unwrap_or_default() {
        lines.push(format!(
            "{:<20} {:>14} {:>16}",
            keyspace["name"].as_str().unwrap_or_default(),
            keyspace["rows"].to_string(),
            keyspace["bytes"].to_string(),
        ));
    }
    lines.push(format!(
        "\non disk: {} bytes; position {}",
        answer["disk_bytes"], answer["position"]
    ));
    lines.join("\n")
}
