//! `wardstone status`

use std::process::ExitCode;

use super::{Common, order};
use crate::admin::Order;

/// Ask the server that runs with these settings how it is.
///
/// Exit code 0: it answers, with or without being ready; 3: none runs.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wardstone status --json")]
pub struct Status {
    #[command(flatten)]
    common: Common,
}

impl Status {
    /// Asks.
    pub fn run(self) -> ExitCode {
        order::give(self.common, Order::Status, None, |answer| {
            let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
            let state = match answer["not_ready_because"].as_str() {
                None => "ready".to_owned(),
                Some(reason) => format!("NOT ready: {reason}"),
            };
            let mut lines = vec![format!(
                "{} (wardstone {}, process {}) is {state}.",
                text("server_name"),
                text("version"),
                answer["pid"]
            )];
            let number = |key: &str| answer[key].as_u64().filter(|number| *number > 0);
            if let Some(files) = number("files_being_erased") {
                lines.push(format!("{files} files are being erased: `wardstone media purging`."));
            }
            if let Some(servers) = number("erasures_unconfirmed") {
                lines.push(format!(
                    "{servers} erasures are not confirmed by other servers: `wardstone media unconfirmed`."
                ));
            }
            if let Some(reached_ms) = number("clock_set_back_from_ms") {
                lines.push(format!(
                    "The clock was set back: what was here is judged by {reached_ms} (ms since 1970). Look \
                     after the clock of this machine."
                ));
            }
            lines.join("\n")
        })
    }
}
