//! `wardstone peers add | show | list | suspend | resume | remove | check`

use std::process::ExitCode;

use appliance_model::ruma::{OwnedServerName, ServerName};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Common, order};
use crate::admin::Order;

/// The hospitals that this server exchanges rooms with, and nobody else.
///
/// Works while the server runs (through its admin socket), at once and in both directions, and while
/// it does not. Servers that `federation.allowed_servers` names are on the list too.
#[derive(Args)]
pub struct Peers {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Add(Add),
    Show(Show),
    List(List),
    Suspend(Suspend),
    Resume(Resume),
    Remove(Remove),
    Check(Check),
}

/// Put a server on the list, or change what the list says of it.
#[derive(Args)]
#[command(
    after_help = "Example:\n  wardstone peers add hospital-b.example --legal-name 'Hospital B' \
                        --contact '+49 30 1234' --pin ed25519:a_1=Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"
)]
struct Add {
    /// Its name: what follows the colon in its user IDs.
    #[arg(value_parser = server_name)]
    server: OwnedServerName,
    /// Its name as an organisation.
    #[arg(long)]
    legal_name: Option<String>,
    /// Whom to call there.
    #[arg(long)]
    contact: Option<String>,
    /// Give it files, and fetch files from it. Without this, neither.
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    media: Option<bool>,
    /// Believe nothing that this key has not vouched for: ID=KEY, as `wardstone peers check` shows it.
    #[arg(long, value_name = "ID=KEY", value_parser = pin)]
    pin: Vec<(String, String)>,
    #[command(flatten)]
    common: Common,
}

/// Show how things stand with a server: keys, what waits for it, what went wrong.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers show hospital-b.example --json")]
struct Show {
    #[arg(value_parser = server_name, help = "Its name")]
    server: OwnedServerName,
    #[command(flatten)]
    common: Common,
}

/// List all peers.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers list --json | jq -r '.peers[].server_name'")]
struct List {
    #[command(flatten)]
    common: Common,
}

/// Exchange nothing with a server for now. What it is owed is kept; the rooms in which its people are
/// are listed.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers suspend hospital-b.example")]
struct Suspend {
    #[arg(value_parser = server_name, help = "Its name")]
    server: OwnedServerName,
    #[command(flatten)]
    common: Common,
}

/// Go on with a server that was suspended.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers resume hospital-b.example")]
struct Resume {
    #[arg(value_parser = server_name, help = "Its name")]
    server: OwnedServerName,
    #[command(flatten)]
    common: Common,
}

/// Take a server off the list, and forget what it is owed.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers remove hospital-b.example")]
struct Remove {
    #[arg(value_parser = server_name, help = "Its name")]
    server: OwnedServerName,
    #[command(flatten)]
    common: Common,
}

/// Ask a server on the list who it is, over the way that everything goes, and show its keys.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers check hospital-b.example")]
struct Check {
    #[arg(value_parser = server_name, help = "Its name")]
    server: OwnedServerName,
    #[command(flatten)]
    common: Common,
}

impl Peers {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Add(Add { server, legal_name, contact, media, pin, common }) => {
                let order = Order::DescribePeer {
                    server_name: server,
                    legal_name,
                    contact,
                    suspended: None,
                    media,
                    pinned_keys: (!pin.is_empty()).then_some(pin),
                };
                order::give(common, order, None, line)
            }
            Command::Show(Show { server, common }) => {
                order::give(common, Order::ShowPeer { server_name: server }, None, page)
            }
            Command::List(List { common }) => {
                order::give(common, Order::ListPeers, None, |answer| {
                    let peers = answer["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
                    match peers {
                        [] => "This server talks with nobody.".to_owned(),
                        peers => peers.iter().map(line).collect::<Vec<_>>().join("\n"),
                    }
                })
            }
            Command::Suspend(Suspend { server, common }) => suspend(common, server, true),
            Command::Resume(Resume { server, common }) => suspend(common, server, false),
            Command::Remove(Remove { server, common }) => {
                order::give(common, Order::RemovePeer { server_name: server }, None, |answer| {
                    let rest = if answer["is_allowed"] == true {
                        " `federation.allowed_servers` still names it."
                    } else {
                        ""
                    };
                    let mut lines =
                        vec![format!("{} is off the list.{rest}", text(&answer["server_name"]))];
                    lines.extend(rooms(answer));
                    lines.join("\n")
                })
            }
            Command::Check(Check { server, common }) => {
                order::give(common, Order::CheckPeer { server_name: server }, None, checked)
            }
        }
    }
}

fn suspend(common: Common, server_name: OwnedServerName, suspended: bool) -> ExitCode {
    let order = Order::DescribePeer {
        server_name,
        legal_name: None,
        contact: None,
        suspended: Some(suspended),
        media: None,
        pinned_keys: None,
    };
    order::give(common, order, None, |peer| {
        let mut lines = vec![line(peer)];
        lines.extend(rooms(peer));
        lines.join("\n")
    })
}

/// The rooms in which its people are.
fn rooms(answer: &Value) -> Vec<String> {
    let rooms = answer["rooms"].as_array().map(Vec::as_slice).unwrap_or_default();
    rooms.iter().map(|room| format!("  room: {}", text(room))).collect()
}

fn server_name(text: &str) -> Result<OwnedServerName, String> {
    ServerName::parse(text).map_err(|error| error.to_string())
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("write yes or no".to_owned()),
    }
}

fn pin(text: &str) -> Result<(String, String), String> {
    let (key_id, key) = text.split_once('=').ok_or("write it as ID=KEY")?;
    Ok((key_id.to_owned(), key.to_owned()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn line(peer: &Value) -> String {
    let waiting = peer["backlog_events"].as_u64().unwrap_or_default()
        + peer["backlog_messages"].as_u64().unwrap_or_default();
    let mut line = format!(
        "{:<40} {:<10} waiting: {waiting}",
        text(&peer["server_name"]),
        text(&peer["state"])
    );
    if let Some(error) = peer["last_error"].as_str() {
        line.push_str(&format!("  {error}"));
    }
    line
}

fn page(peer: &Value) -> String {
    let mut lines = vec![line(peer)];
    for (name, key) in [("organisation", "legal_name"), ("contact", "contact")] {
        if let Some(value) = peer[key].as_str().filter(|value| !value.is_empty()) {
            lines.push(format!("  {name}: {value}"));
        }
    }
    lines.push(format!("  files: {}", if peer["media"] == true { "yes" } else { "no" }));
    lines.extend(keys(&peer["keys"]));
    lines.extend(rooms(peer));
    lines.join("\n")
}

fn checked(answer: &Value) -> String {
    let name = text(&answer["server_name"]);
    let mut lines = vec![match answer["why_not"].as_str() {
        None => format!(
            "{name} answers: {} {}, after {} ms.",
            text(&answer["software"]),
            text(&answer["version"]),
            answer["took_ms"]
        ),
        Some(why) => format!("{name} does NOT answer: {why}"),
    }];
    lines.extend(keys(&answer["keys"]));
    lines.join("\n")
}

fn keys(answer: &Value) -> Vec<String> {
    let keys = answer["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |key: &Value| {
        let state = if key["expired_ms"].is_null() { "in use" } else { "out of use" };
        format!("  key: {}={} ({state})", text(&key["key_id"]), text(&key["key"]))
    };
    keys.iter().map(line).collect()
}
