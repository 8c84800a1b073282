//! `wardstone media where | erase | purging | unconfirmed | quota` and `wardstone device lost`

use std::process::ExitCode;

use appliance_model::ruma::{OwnedEventId, OwnedMxcUri, OwnedRoomId, OwnedUserId};
use appliance_services::media::erase::Which;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Common, exit, order, out, password};
use crate::admin::{self, Order};

/// Find out who was given a file, and erase files.
#[derive(Args)]
pub struct Media {
    #[command(subcommand)]
    command: MediaCommand,
}

#[derive(Subcommand)]
enum MediaCommand {
    Where(Where),
    Erase(Erase),
    Purging(Purging),
    Unconfirmed(Unconfirmed),
    Quota(Quota),
}

/// List the devices that were given a file, in which form, and what may be left of it.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone media where mxc://hospital.example/AbCdEf")]
struct Where {
    /// The file: `mxc://server/id`.
    uri: OwnedMxcUri,
    #[command(flatten)]
    common: Common,
}

/// Erase files as one act, with a receipt. All that is said must hold; one of room, user, event and
/// patient is needed. What shows files of other servers is taken back with them, unless a user is named: whose
/// they are is known there.
#[derive(Args)]
#[command(after_help = "Examples, the photo of the wrong patient, and all of one patient:\n  \
                        wardstone media erase --event '$event-id'\n  \
                        wardstone media erase --patient-from-stdin <<< MRN-7")]
struct Erase {
    /// Those shown in this room.
    #[arg(long)]
    room: Option<OwnedRoomId>,
    /// Those that this user uploaded.
    #[arg(long)]
    user: Option<OwnedUserId>,
    /// Those uploaded since: milliseconds since the Unix epoch.
    #[arg(long, value_name = "MS")]
    since: Option<u64>,
    /// Those uploaded before: milliseconds since the Unix epoch.
    #[arg(long, value_name = "MS")]
    until: Option<u64>,
    /// Those that this event shows.
    #[arg(long)]
    event: Option<OwnedEventId>,
    /// Those that the photo page sent with this patient's reference, which is read from standard input: it
    /// is nobody's business who lists this machine's processes.
    #[arg(long)]
    patient_from_stdin: bool,
    #[command(flatten)]
    common: Common,
}

/// List the files that nobody gets any more and that are not erased from the disk yet.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone media purging")]
struct Purging {
    #[command(flatten)]
    common: Common,
}

/// List the servers that were given a file and have not confirmed that nothing of it is left there.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone media unconfirmed")]
struct Unconfirmed {
    #[command(flatten)]
    common: Common,
}

/// Show how much a user has here and may have, or give them another limit than everyone's.
#[derive(Args)]
#[command(
    after_help = "Example:\n  wardstone media quota @amara:hospital.example --bytes 1073741824"
)]
struct Quota {
    /// Whose.
    user: OwnedUserId,
    /// The most bytes that their files may have together.
    #[arg(long, conflicts_with = "general")]
    bytes: Option<u64>,
    /// The limit that everyone has.
    #[arg(long)]
    general: bool,
    #[command(flatten)]
    common: Common,
}

/// Look after people's devices.
#[derive(Args)]
pub struct Device {
    #[command(subcommand)]
    command: DeviceCommand,
}

#[derive(Subcommand)]
enum DeviceCommand {
    Lost(Lost),
}

/// A phone is lost: end its session, remove its keys and notifications, and list what it may hold.
///
/// The app removes what it keeps when it next reaches the server; a phone that stays offline keeps it.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone device lost @amara:hospital.example ABCDEFGHIJ")]
struct Lost {
    /// Whose it is.
    user: OwnedUserId,
    /// The ID of its session.
    device: String,
    #[command(flatten)]
    common: Common,
}

impl Media {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        match self.command {
            MediaCommand::Where(Where { uri, common }) => {
                order::give(common, Order::WhereIsMedia { uri }, None, whereabouts)
            }
            MediaCommand::Erase(erase) => {
                let Erase { room, user, since, until, event, patient_from_stdin, common } = erase;
                let reference = match patient_from_stdin.then(password::read_line).transpose() {
                    Ok(reference) => reference,
                    Err(error) => {
                        out::trouble(&error);
                        return exit::FAILED.into();
                    }
                };
                let (since_ms, until_ms) = (since, until);
                let which = Which { room, user, since_ms, until_ms, event, reference };
                let order = Order::EraseMedia { which };
                order::give(common, order, None, |answer| {
                    format!(
                        "Nobody gets these {} files any more, and {} events that show files of other \
                         servers are taken back. Receipt: {}.",
                        answer["files"],
                        answer["events"],
                        answer["receipt"].as_str().unwrap_or_default()
                    )
                })
            }
            MediaCommand::Quota(Quota { user, bytes, general, common }) => {
                let general = general.then_some(admin::Quota::General);
                let quota = bytes.map(admin::Quota::Bytes).or(general);
                order::give(common, Order::MediaQuota { user_id: user, quota }, None, |answer| {
                    let limit = answer["quota_bytes"].as_u64();
                    let limit = limit.map_or("any number of".to_owned(), |n| n.to_string());
                    format!(
                        "{} has {} files of {} bytes here, and may have {limit} bytes.",
                        text(answer, "user_id"),
                        answer["files"],
                        answer["bytes"]
                    )
                })
            }
            MediaCommand::Unconfirmed(Unconfirmed { common }) => {
                order::give(common, Order::UnconfirmedErasures, None, |answer| {
                    let lines = list(answer, "unconfirmed").map(|one| {
                        format!(
                            "{} {} since {} (told {} times)",
                            text(one, "server_name"),
                            text(one, "uri"),
                            one["since_ms"],
                            one["times"]
                        )
                    });
                    let lines: Vec<_> = lines.collect();
                    if lines.is_empty() {
                        return "Every server has confirmed what it was told.".to_owned();
                    }
                    lines.join("\n")
                })
            }
            MediaCommand::Purging(Purging { common }) => {
                order::give(common, Order::PurgingMedia, None, |answer| {
                    let lines = list(answer, "purging").map(|one| {
                        format!(
                            "{} {} since {}",
                            text(one, "uri"),
                            text(one, "reason"),
                            one["since_ms"]
                        )
                    });
                    let lines: Vec<_> = lines.collect();
                    if lines.is_empty() {
                        return "Nothing waits to be erased.".to_owned();
                    }
                    lines.join("\n")
                })
            }
        }
    }
}

impl Device {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        let DeviceCommand::Lost(Lost { user, device, common }) = self.command;
        let order = Order::DeviceLost { user_id: user, device_id: device };
        order::give(common, order, None, |answer| {
            let mut lines = vec![format!(
                "{} of {} is signed out for good. It was last here at {} (ms since 1970).",
                text(answer, "device_id"),
                text(answer, "user_id"),
                answer["last_seen_ms"]
            )];
            let held: Vec<_> = list(answer, "may_hold").filter_map(Value::as_str).collect();
            lines.push(format!("Until it comes back it may hold {} files:", held.len()));
            lines.extend(held.into_iter().map(|uri| format!("  {uri}")));
            lines.join("\n")
        })
    }
}

fn whereabouts(answer: &Value) -> String {
    let mut lines = vec![match answer["erasure"].as_object() {
        None => format!("{} is there.", text(answer, "uri")),
        Some(erasure) => format!(
            "{}: nobody gets it since {} ({}).",
            text(answer, "uri"),
            erasure["refused_since_ms"],
            erasure["reason"].as_str().unwrap_or_default()
        ),
    }];
    for copy in list(answer, "copies") {
        let forms: Vec<_> = list(copy, "forms").filter_map(Value::as_str).collect();
        lines.push(format!(
            "  {} {} {} at {}: {}",
            text(copy, "user_id"),
            text(copy, "device_id"),
            forms.join("+"),
            copy["at_ms"],
            text(copy, "left")
        ));
    }
    lines.join("\n")
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
