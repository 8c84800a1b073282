//! `wardstone peers invite | accept | add | show | list | approve-key | suspend | resume | remove | check |
//! import | export`

mod handshake;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_services::media::moment;
use appliance_services::peers::{MediaMode, PeerChange, day};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Common, exit, order, out};
use crate::admin::Order;

/// The largest file of peers: ten thousand records.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The hospitals that this server exchanges rooms with, and nobody else.
///
/// Works while the server runs (through its admin socket), at once and in both directions, and while
/// it does not. Servers that `federation.allowed_servers` names are on the list too.
#[derive(Args)]
pub struct Peers {
    #[command(subcommand)]
    command: Command,
}

// Which server. (What a struct of flattened arguments says of itself would stand in the help of each
// command that has them.)
#[derive(Args)]
struct Named {
    /// Its name: what follows the colon in its user IDs.
    #[arg(value_parser = server_name)]
    server: OwnedServerName,
    #[command(flatten)]
    common: Common,
}

// Under which contract, and from when until when.
#[derive(Args)]
struct Contract {
    /// Under which contract this is done.
    #[arg(long)]
    contract: Option<String>,
    /// The first day, in UTC. Before it, nothing is exchanged.
    #[arg(long, value_name = "YYYY-MM-DD")]
    valid_from: Option<String>,
    /// The last day, in UTC. After it, nothing is exchanged.
    #[arg(long, value_name = "YYYY-MM-DD")]
    valid_until: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    Invite(handshake::Invite),
    Accept(handshake::Accept),
    Add(Box<Add>),
    Show(Show),
    List(List),
    ApproveKey(ApproveKey),
    Suspend(Suspend),
    Resume(Resume),
    Remove(Remove),
    Check(Check),
    Import(Import),
    Export(Export),
}

/// Put a server on the list, or change what the list says of it. What is not said stays as it is; an
/// empty text ('') takes back what was said.
#[derive(Args)]
#[command(
    after_help = "Example:\n  wardstone peers add hospital-b.example --legal-name 'Hospital B' \
                        --contact '+49 30 1234' --id ods=RJ1 --valid-until 2027-12-31 \
                        --pin ed25519:a_1=Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"
)]
struct Add {
    #[command(flatten)]
    peer: Named,
    /// Its name as an organisation.
    #[arg(long)]
    legal_name: Option<String>,
    /// A number that it has in a register: REGISTER=NUMBER, e.g. ods=RJ1. Those given here are all it has.
    #[arg(long, value_name = "REGISTER=NUMBER", value_parser = pair)]
    id: Vec<(String, String)>,
    /// Whose law holds there, e.g. DE.
    #[arg(long)]
    jurisdiction: Option<String>,
    /// Whom to call there.
    #[arg(long)]
    contact: Option<String>,
    #[command(flatten)]
    contract: Contract,
    /// Whether its people may invite ours. Without this: yes.
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    may_invite: Option<bool>,
    /// Whether its people may be invited. Without this: yes.
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    may_be_invited: Option<bool>,
    /// How files are given to it: not at all (nor taken from it; so it is without this), lent for one
    /// look (servers of this kind only), marked as something to be passed on and not kept there, or as
    /// to anybody.
    #[arg(long, value_name = "deny|lease|ephemeral|allow", value_parser = media_mode)]
    media: Option<MediaMode>,
    /// A class of rooms that is shared with it: general, clinical-shared or clinical-e2ee. Those given
    /// here are all that are; without this, all three. '' takes all back.
    #[arg(long, value_name = "CLASS")]
    room_kind: Vec<String>,
    /// Connect here instead of asking where it is, e.g. 10.1.2.3:8448. An IP address may lie inside.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Whom its certificate must name at that address, if that is not its server name.
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
    /// Believe only certificates of the authorities in this PEM file.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Believe only a certificate with this public key: the SHA-256 of its SubjectPublicKeyInfo. Those
    /// given here are all that count; '' takes all back.
    #[arg(long, value_name = "sha256:HEX")]
    pin_certificate: Vec<String>,
    /// Believe that it connects only if it shows a TLS client certificate of the authorities in this PEM file.
    /// TLS must end at this server's own listener then, not at a proxy.
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// The same for a client certificate with this public key. Those given here are all that count; ''
    /// takes all back.
    #[arg(long, value_name = "sha256:HEX")]
    client_pin: Vec<String>,
    /// Whether it is shown this server's own certificate (federation.client_certificate_file).
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    show_certificate: Option<bool>,
    /// Believe nothing that this key has not vouched for: ID=KEY, as `wardstone peers check` shows it.
    /// Those given here are all that count.
    #[arg(long, value_name = "ID=KEY", value_parser = pair)]
    pin: Vec<(String, String)>,
}

/// Show how things stand with a server: keys, what waits for it, what went wrong.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers show hospital-b.example --json")]
struct Show {
    #[command(flatten)]
    peer: Named,
}

/// List all peers.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers list --json | jq -r '.peers[].server_name'")]
struct List {
    #[command(flatten)]
    common: Common,
}

/// Exchange nothing with a server for now. What it is owed is kept; the rooms in which its people are
/// are listed. They stay there in name only: nothing of theirs is taken, and nothing goes to them.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers suspend hospital-b.example")]
struct Suspend {
    #[command(flatten)]
    peer: Named,
    /// Take its people out of the rooms, where somebody of this server has the power to.
    #[arg(long)]
    expel: bool,
}

/// Go on with a server that was suspended.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers resume hospital-b.example")]
struct Resume {
    #[command(flatten)]
    peer: Named,
}

/// Take a server off the list, and forget what it is owed.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers remove hospital-b.example --expel")]
struct Remove {
    #[command(flatten)]
    peer: Named,
    /// Take its people out of the rooms, where somebody of this server has the power to.
    #[arg(long)]
    expel: bool,
}

/// Ask a server on the list who it is, over the way that everything goes, and show its keys. Ends with
/// code 1 if something is wrong.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers check hospital-b.example")]
struct Check {
    #[command(flatten)]
    peer: Named,
}

/// Pin a key that a peer shows and that no pinned key vouches for. Compare it with the other side on the
/// phone before: `wardstone peers show` lists what waits.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers approve-key hospital-b.example ed25519:a_2")]
struct ApproveKey {
    #[command(flatten)]
    peer: Named,
    /// The key's ID.
    key_id: String,
}

/// Describe many peers at once: all in the file, or none if one makes no sense. Those on the list that
/// are not in the file stay as they are.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers import /etc/wardstone/peers.toml")]
struct Import {
    /// A TOML file, as `wardstone peers export` prints it.
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// Print what the list says of all peers, as a file that `wardstone peers import` takes.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone peers export >/etc/wardstone/peers.toml")]
struct Export {
    #[command(flatten)]
    common: Common,
}

/// A file of peers.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct PeersFile {
    #[serde(default)]
    peers: BTreeMap<OwnedServerName, PeerChange>,
}

impl Peers {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Invite(invite) => invite.run(),
            Command::Accept(accept) => accept.run(),
            Command::Add(add) => add.run(),
            Command::Show(Show { peer: Named { server, common } }) => {
                order::give(common, Order::ShowPeer { server_name: server }, None, page)
            }
            Command::List(List { common }) => {
                order::give(common, Order::ListPeers, None, |answer| {
                    let peers = answer["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
                    let lines =
                        peers.iter().map(line).chain(signed_list(&answer["federation_list"]));
                    let lines = lines.chain(beyond(&answer["rooms_beyond_power"]));
                    let lines = lines.chain(halted(&answer["access_lists_halted"]));
                    match lines.collect::<Vec<_>>() {
                        lines if lines.is_empty() => "This server talks with nobody.".to_owned(),
                        lines => lines.join("\n"),
                    }
                })
            }
            Command::ApproveKey(ApproveKey { peer: Named { server, common }, key_id }) => {
                let order = Order::ApprovePeerKey { server_name: server, key_id };
                order::give(common, order, None, approved)
            }
            Command::Suspend(Suspend { peer: Named { server, common }, expel }) => {
                let order = Order::SuspendPeer { server_name: server, expel };
                order::give(common, order, None, |peer| {
                    let mut lines = vec![line(peer)];
                    lines.extend(rooms(peer));
                    lines.join("\n")
                })
            }
            Command::Resume(Resume { peer: Named { server, common } }) => {
                let change = PeerChange { suspended: Some(false), ..PeerChange::default() };
                let order = Order::DescribePeer { server_name: server, change: Box::new(change) };
                order::give(common, order, None, line)
            }
            Command::Remove(Remove { peer: Named { server, common }, expel }) => {
                let order = Order::RemovePeer { server_name: server, expel };
                order::give(common, order, None, |answer| {
                    let name = text(&answer["server_name"]);
                    let mut lines = vec![match answer["is_allowed"] == true {
                        true => format!(
                            "The record of {name} is gone. The settings or the signed list still name it."
                        ),
                        false => format!(
                            "{name} is off the list. Forgotten what waited for it: {} events, {} messages.",
                            answer["forgotten_events"], answer["forgotten_messages"]
                        ),
                    }];
                    lines.extend(rooms(answer));
                    lines.join("\n")
                })
            }
            Command::Check(Check { peer: Named { server, common } }) => {
                let order = Order::CheckPeer { server_name: server };
                order::give_judged(common, order, checked, |answer| answer["ok"] == true)
            }
            Command::Import(import) => import.run(),
            Command::Export(Export { common }) => {
                order::give(common, Order::ExportPeers, None, file)
            }
        }
    }
}

impl Add {
    fn run(self) -> ExitCode {
        let read = |file: Option<&Path>| file.map(read_ca).transpose();
        let (authorities, client_authorities) =
            match (read(self.ca.as_deref()), read(self.client_ca.as_deref())) {
                (Ok(authorities), Ok(of_clients)) => (authorities, of_clients),
                (Err(why), _) | (_, Err(why)) => return refuse(&why),
            };
        let change = PeerChange {
            legal_name: self.legal_name,
            jurisdiction: self.jurisdiction,
            contact: self.contact,
            contract: self.contract.contract,
            valid_from: self.contract.valid_from,
            valid_until: self.contract.valid_until,
            suspended: None,
            may_invite: self.may_invite,
            may_be_invited: self.may_be_invited,
            media: self.media,
            room_kinds: all_or_none(self.room_kind),
            address: self.address,
            tls_name: self.tls_name,
            authorities,
            certificate_pins: all_or_none(self.pin_certificate),
            client_authorities,
            client_pins: all_or_none(self.client_pin),
            show_certificate: self.show_certificate,
            pinned_keys: (!self.pin.is_empty()).then(|| self.pin.into_iter().collect()),
            identifiers: (!self.id.is_empty()).then(|| self.id.into_iter().collect()),
        };
        let order = Order::DescribePeer { server_name: self.peer.server, change: Box::new(change) };
        order::give(self.peer.common, order, None, line)
    }
}

/// What was given is all there is; nothing given says nothing, and an empty text takes all back.
fn all_or_none(given: Vec<String>) -> Option<Vec<String>> {
    let is_said = !given.is_empty();
    let said = given.into_iter().filter(|text| !text.is_empty()).collect();
    is_said.then_some(said)
}

impl Import {
    fn run(self) -> ExitCode {
        match read_file(&self.file) {
            Ok(PeersFile { peers }) => {
                order::give(self.common, Order::ImportPeers { peers }, None, |answer| {
                    format!(
                        "{} added, {} changed, {} as they were.",
                        answer["added"], answer["changed"], answer["unchanged"]
                    )
                })
            }
            Err(why) => refuse(&why),
        }
    }
}

fn refuse(why: &str) -> ExitCode {
    out::trouble(why);
    exit::BAD_SETTINGS.into()
}

fn read_file(file: &Path) -> Result<PeersFile, String> {
    let text = read_text(file)?;
    toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}

/// Nothing and an empty file take back what was said.
fn read_ca(file: &Path) -> Result<String, String> {
    if file.as_os_str().is_empty() { Ok(String::new()) } else { read_text(file) }
}

fn read_text(file: &Path) -> Result<String, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let length = std::fs::metadata(file).map_err(|error| wrong(&error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong(&format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(file).map_err(|error| wrong(&error))
}

/// The list as a file.
fn file(answer: &Value) -> String {
    let read =
        serde_json::from_value::<PeersFile>(answer.clone()).map_err(|error| error.to_string());
    read.and_then(|file| toml::to_string(&file).map_err(|error| error.to_string()))
        // What came through the socket was written by this very release, or is shown as it came.
        .unwrap_or_else(|_| answer.to_string())
}

/// The rooms in which its people are, and what became of them there.
fn rooms(answer: &Value) -> Vec<String> {
    let rooms = answer["rooms"].as_array().map(Vec::as_slice).unwrap_or_default();
    let expelled = answer["expelled"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |room: &Value| match expelled.iter().find(|one| one["room_id"] == *room) {
        None => format!("  room: {}", text(room)),
        Some(one) => {
            let count = |name: &str| one[name].as_array().map_or(0, Vec::len);
            let (left, stay) = (count("left"), count("quarantined"));
            format!("  room: {} ({left} taken out, {stay} there in name only)", text(room))
        }
    };
    rooms.iter().map(line).collect()
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

fn media_mode(text: &str) -> Result<MediaMode, String> {
    let word = match text {
        "yes" => "allow",
        "no" => "deny",
        word => word,
    };
    let mode = MediaMode::WORDS.iter().find(|(known, _)| *known == word).map(|(_, mode)| *mode);
    mode.ok_or_else(|| "write deny, lease, ephemeral or allow".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
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
    if let Some(since_ms) = peer["unreachable_since_ms"].as_u64() {
        line.push_str(&format!("  unreachable since {}", moment(since_ms)));
    }
    if let Some(error) = peer["last_error"].as_str() {
        line.push_str(&format!("  {error}"));
    }
    line
}

/// A line about the signed list, if there is one.
fn signed_list(list: &Value) -> Option<String> {
    let problem = list["problem"].as_str().map(|why| format!("; WRONG: {why}"));
    let problem = problem.unwrap_or_default();
    let servers = &list["servers"];
    match (&list["version"], list["until_ms"].as_u64()) {
        (Value::Null, _) if list.is_null() => None,
        (version, Some(until_ms)) => Some(format!(
            "and {servers} servers of the signed list, version {version}, which counts until {}{problem}",
            day(until_ms)
        )),
        _ => Some(format!("and nobody of the signed list: there never was a good one{problem}")),
    }
}

/// Rooms that go on letting in whom they named before.
fn beyond(rooms: &Value) -> Option<String> {
    let rooms = rooms.as_array().filter(|rooms| !rooms.is_empty())?;
    let rooms: Vec<_> = rooms.iter().map(text).collect();
    Some(format!(
        "Nobody of this server may write any more which servers take part in these rooms of its own: {}",
        rooms.join(" ")
    ))
}

fn halted(why: &Value) -> Option<String> {
    let why = why.as_str()?;
    Some(format!(
        "Rooms are not told which servers may take part (m.room.server_acl), because {why}: new rooms go \
         without such a list, and whoever is a peer since then cannot come into those that have one. Nothing \
         goes to a server off the list all the same."
    ))
}

fn page(peer: &Value) -> String {
    let mut lines = vec![line(peer)];
    for (name, key) in [
        ("organisation", "legal_name"),
        ("jurisdiction", "jurisdiction"),
        ("contact", "contact"),
        ("contract", "contract"),
        ("first day", "valid_from"),
        ("last day", "valid_until"),
        ("address", "address"),
        ("certificate for", "tls_name"),
        ("check phrase", "check_phrase"),
    ] {
        if let Some(value) = peer[key].as_str().filter(|value| !value.is_empty()) {
            lines.push(format!("  {name}: {value}"));
        }
    }
    for (register, number) in peer["identifiers"].as_object().into_iter().flatten() {
        lines.push(format!("  {register}: {}", text(number)));
    }
    if let Some(mode) = peer["media"].as_str() {
        lines.push(format!("  files: {mode}"));
    }
    if let Some(kinds) = peer["room_kinds"].as_array() {
        let kinds: Vec<_> = kinds.iter().map(text).collect();
        lines.push(format!("  rooms: {}", kinds.join(", ")));
    }
    for (name, key) in [("may invite", "may_invite"), ("may be invited", "may_be_invited")] {
        if let Some(is_so) = peer[key].as_bool() {
            lines.push(format!("  {name}: {}", if is_so { "yes" } else { "no" }));
        }
    }
    if peer["authorities"].is_string() {
        lines.push("  certificate: of pinned authorities only".to_owned());
    }
    for pin in peer["certificate_pins"].as_array().into_iter().flatten() {
        lines.push(format!("  pinned certificate: {}", text(pin)));
    }
    if peer["client_authorities"].is_string() {
        lines.push("  must show a certificate: of pinned authorities only".to_owned());
    }
    for pin in peer["client_pins"].as_array().into_iter().flatten() {
        lines.push(format!("  must show a certificate: {}", text(pin)));
    }
    if peer["show_certificate"] == true {
        lines.push("  is shown this server's certificate".to_owned());
    }
    for (key_id, key) in peer["pinned_keys"].as_object().into_iter().flatten() {
        lines.push(format!("  pinned key: {key_id}={}", text(key)));
    }
    lines.extend(keys(&peer["keys"]));
    lines.extend(rooms(peer));
    lines.join("\n")
}

fn approved(peer: &Value) -> String {
    let (name, key_id) = (text(&peer["server_name"]), text(&peer["approved"]));
    let mut lines = vec![format!("{key_id} of {name} is pinned.")];
    if peer["fetched"] != true {
        lines.push(
            "It could not be asked for its keys now; that is tried when one is needed.".into(),
        );
    }
    lines.extend(keys(&peer["keys"]));
    lines.join("\n")
}

fn checked(answer: &Value) -> String {
    let findings = answer["findings"].as_array().into_iter().flatten();
    let mut lines: Vec<_> = findings
        .map(|finding| {
            let mark = if finding["ok"] == true { "ok   " } else { "WRONG" };
            format!("{mark}  {}", text(&finding["sentence"]))
        })
        .collect();
    lines.extend(keys(&answer["keys"]));
    lines.join("\n")
}

fn keys(answer: &Value) -> Vec<String> {
    let listed = |name: &str| answer[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let spelt = |key: &Value| format!("{}={}", text(&key["key_id"]), text(&key["key"]));
    let state = |key: &Value| if key["expired_ms"].is_null() { "in use" } else { "out of use" };
    let known = listed("keys").iter().map(|key| format!("  key: {} ({})", spelt(key), state(key)));
    let waiting = listed("unapproved").iter();
    let waiting =
        waiting.map(|key| format!("  key: {} (NOT APPROVED, does not count)", spelt(key)));
    known.chain(waiting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example is read by the program that it is an example for, and comes back as it was.
    #[test]
    fn the_example_is_a_file_of_peers() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/peers.example.toml");
        let read = read_file(Path::new(example)).unwrap();
        assert_eq!(read.peers.len(), 2);
        let written = file(&serde_json::to_value(&read).unwrap());
        assert_eq!(toml::from_str::<PeersFile>(&written).unwrap(), read);
        let shown: Vec<_> = read.peers.values().filter(|peer| peer.pinned_keys.is_some()).collect();
        assert_eq!(shown.len(), 1);
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.toml");
        std::fs::write(&path, "[peers.\"b.example\"]\nlegal_nam = \"B\"\n").unwrap();
        let why = read_file(&path).unwrap_err();
        assert!(why.contains("legal_nam") && why.contains("peers.toml"), "{why}");
    }
}
