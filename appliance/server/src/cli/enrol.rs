//! `wardstone enrol`

use std::process::ExitCode;

use appliance_model::ruma::OwnedUserId;
use clap::Args;

use super::{Common, order};
use crate::admin::Order;

const HOUR_MS: u64 = 60 * 60 * 1_000;

/// Print a one-time code that raises one session to a class of devices that the hospital looks after.
///
/// The person who holds the device gives its session the code for a name (in most apps: Settings,
/// Sessions, Rename). The server takes the code, raises the session, and keeps the old name.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone enrol --user @amara:hospital.example")]
pub struct Enrol {
    /// The class: managed, browser-kiosk, bot or unmanaged.
    #[arg(long, default_value = "managed")]
    class: String,
    /// The only user who may use the code. Without it: whoever shows it first.
    #[arg(long)]
    user: Option<OwnedUserId>,
    /// For how many hours it is good; a week at most.
    #[arg(long, default_value_t = 24)]
    hours: u64,
    #[command(flatten)]
    common: Common,
}

impl Enrol {
    /// Asks for the code.
    pub fn run(self) -> ExitCode {
        let valid_ms = self.hours.saturating_mul(HOUR_MS);
        let order = Order::Enrol { class: self.class, user_id: self.user, valid_ms };
        order::give(self.common, order, None, |answer| {
            answer["code"].as_str().unwrap_or_default().to_owned()
        })
    }
}
