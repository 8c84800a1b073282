//! `wardstone policy show | set | explain | simulate`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use appliance_api::governance::PolicyQuestion;
use appliance_model::ruma::{OwnedMxcUri, OwnedRoomId, OwnedUserId};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Common, order, out};
use crate::admin::Order;

/// A pack is a page of text.
const PACK_BYTES_MAX: u64 = 32_768;

/// See and set who gets which file on which device, for how long, and how long sessions last.
///
/// A policy pack is a TOML file; those of `config/policies/` are a start. Rooms can only be stricter.
#[derive(Args)]
pub struct Policy {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Show(Show),
    Set(Set),
    Explain(Explain),
    Simulate(Simulate),
}

/// Print the policy of the house.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone policy show")]
struct Show {
    #[command(flatten)]
    common: Common,
}

/// Set the policy of the house. It holds from the next request on; sessions that it does not allow
/// end within a minute.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone policy set config/policies/uk-nhs.toml")]
struct Set {
    /// A policy pack.
    pack: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// Say what holds for somebody somewhere, and which scope said it.
#[derive(Args)]
#[command(
    after_help = "Example:\n  wardstone policy explain --user @amara:hospital.example --device \
                        ABCDEFGHIJ --room '!ward:hospital.example' --photo \
                        mxc://hospital.example/AbCdEf"
)]
struct Explain {
    #[command(flatten)]
    about: About,
    /// A file of this server, with its deadline, how often it was opened, and the rules of all rooms that show
    /// it: `mxc://server/id`.
    #[arg(long, value_name = "MXC")]
    photo: Option<OwnedMxcUri>,
    #[command(flatten)]
    common: Common,
}

/// Say the same for now and for a pack that is not set.
#[derive(Args)]
#[command(
    after_help = "Example:\n  wardstone policy simulate config/policies/strict.toml --class \
                        unmanaged --room '!ward:hospital.example'"
)]
struct Simulate {
    /// A policy pack.
    pack: PathBuf,
    #[command(flatten)]
    about: About,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct About {
    /// The user ID.
    #[arg(long)]
    user: Option<OwnedUserId>,
    /// One of their devices.
    #[arg(long, requires = "user")]
    device: Option<String>,
    /// A class of sessions, in place of that of a device.
    #[arg(long)]
    class: Option<String>,
    /// The room ID.
    #[arg(long)]
    room: Option<OwnedRoomId>,
}

impl About {
    fn question(self) -> PolicyQuestion {
        let Self { user, device, class, room } = self;
        PolicyQuestion { user_id: user, device_id: device, class, room_id: room, uri: None }
    }
}

impl Policy {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Show(Show { common }) => {
                Ok(order::give(common, Order::ShowPolicy, None, pretty))
            }
            Command::Set(Set { pack, common }) => read(&pack).map(|pack| {
                order::give(common, Order::SetPolicy { pack }, None, |answer| {
                    format!("The policy is set: {}.", answer["name"])
                })
            }),
            Command::Explain(Explain { about, photo, common }) => {
                let question = PolicyQuestion { uri: photo, ..about.question() };
                let order = Order::ExplainPolicy { question, pack: None };
                Ok(order::give(common, order, None, in_words))
            }
            Command::Simulate(Simulate { pack, about, common }) => read(&pack).map(|pack| {
                let order = Order::ExplainPolicy { question: about.question(), pack: Some(pack) };
                order::give(common, order, None, |answer| {
                    format!(
                        "NOW\n{}\n\nTHEN\n{}",
                        in_words(&answer["now"]),
                        in_words(&answer["then"])
                    )
                })
            }),
        };
        result.unwrap_or_else(|reason| {
            out::trouble(&reason);
            super::exit::FAILED.into()
        })
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// One line for each rule: what it is, what it says, who said it.
fn in_words(answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let mut lines = vec![format!(
        "A session of class {}, a room of class {}: {}.",
        text("session_class"),
        text("room_class"),
        text("mode")
    )];
    lines.extend(rules_and_verdicts(answer));
    let ignored: Vec<_> = answer["ignored_of_room"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !ignored.is_empty() {
        lines.push(format!("  The room asks for more than it gets: {}", ignored.join(", ")));
    }
    let photo = &answer["photo"];
    if photo.is_object() {
        let whose = if photo["is_uploader"] == true { "their own" } else { "somebody's" };
        lines.push(format!(
            "{}, {whose}: opened {} times, {} of them by this user; it ends at {} (ms since 1970).",
            photo["uri"].as_str().unwrap_or_default(),
            photo["opens"],
            photo["opens_of_user"],
            photo["deadline_ms"]
        ));
        lines.extend(rules_and_verdicts(photo));
    }
    lines.join("\n")
}

fn rules_and_verdicts(said: &Value) -> Vec<String> {
    let pairs = |key: &str| said[key].as_object().into_iter().flatten();
    let rules = pairs("rules").map(|(rule, said)| {
        let by = said["by"].as_str().unwrap_or_default();
        format!("  {rule:<36} {:<20} {by}", said["value"].to_string())
    });
    let verdicts = pairs("verdicts")
        .map(|(what, verdict)| format!("  {what:<36} {}", verdict.as_str().unwrap_or_default()));
    rules.chain(verdicts).collect()
}

/// Reads a pack.
fn read(path: &Path) -> Result<Value, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(|error| wrong(&error))?.len();
    if size > PACK_BYTES_MAX {
        return Err(wrong(&"larger than a policy pack can be (32 KiB)"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    toml::from_str(&text).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use appliance_rules::policy::HousePolicy;

    use super::*;

    /// Those who start from a pack start from one that works, and that says where each line comes from.
    #[test]
    fn every_pack_that_we_ship_can_be_kept_and_gives_its_reasons() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/policies");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let pack = HousePolicy::from_json(&read(&path).unwrap());
            assert_eq!(pack.unwrap_or_else(|why| panic!("{name}: {why}")).name, name);
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = text.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                let is_rule = line.contains(" = ") && !line.starts_with('#');
                let has_reason =
                    line.contains('#') || (number > 0 && lines[number - 1].starts_with('#'));
                assert!(!is_rule || has_reason, "{name}: `{line}` gives no reason");
            }
            names.push(name);
        }
        names.sort_unstable();
        assert_eq!(names, ["au", "de", "relaxed", "strict", "uk-nhs", "us"]);
    }
}
