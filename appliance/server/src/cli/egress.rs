//! `wardstone egress list`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Common, order};
use crate::admin::Order;

/// Where connections go that this server opens.
#[derive(Args)]
pub struct Egress {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List),
}

/// List every destination that was contacted or refused, the newest first.
#[derive(Args)]
#[command(after_help = "Example, what was refused:\n  wardstone egress list --json | jq \
                        '.destinations[] | select(.refused > 0)'")]
struct List {
    #[command(flatten)]
    common: Common,
}

impl Egress {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        let Command::List(List { common }) = self.command;
        order::give(common, Order::ListEgress, None, table)
    }
}

fn table(answer: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines =
        vec![format!("{:<32} {:<40} {:>9} {:>8}", "purpose", "host", "connected", "refused")];
    for seen in answer["destinations"].as_array().map(Vec::as_slice).unwrap_or_default() {
        lines.push(format!(
            "{:<32} {:<40} {:>9} {:>8}  {}",
            text(&seen["purpose"]),
            text(&seen["host"]),
            seen["connected"].to_string(),
            seen["refused"].to_string(),
            text(&seen["why_refused"]),
        ));
    }
    lines.join("\n")
}
