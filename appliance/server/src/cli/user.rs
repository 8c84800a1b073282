//! `wardstone user create | list | deactivate | reset-password`

use std::process::ExitCode;

use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Dice, OsDice};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Common, order, out, password};
use crate::admin::{Order, Spoken};
use crate::settings::Secret;
use crate::settings::load::{Sources, load};

/// 20 letters and digits: 119 bits.
const PASSWORD_LENGTH: usize = 20;

/// Create, list and close accounts, and give new passwords.
///
/// Works while the server runs (through its admin socket) and while it does not.
#[derive(Args)]
pub struct User {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Deactivate(Deactivate),
    ResetPassword(ResetPassword),
}

/// Where a password comes from. It is never an argument: those are in every process list.
#[derive(Args)]
struct PasswordSource {
    /// Make a password and print it, instead of asking for one.
    #[arg(long)]
    generate: bool,
}

/// Create an account.
///
/// The password is asked for twice on a terminal, read from the first line of standard input
/// otherwise, or made with --generate.
#[derive(Args)]
#[command(after_help = "Examples:\n  wardstone user create --administrator ada\n  wardstone user \
                        create nurse.amara --generate\n  pass show amara | wardstone user create \
                        nurse.amara")]
struct Create {
    /// The part before the colon: a-z, 0-9 and . _ = - / +
    name: String,
    /// May use the administration endpoints.
    #[arg(long)]
    administrator: bool,
    #[command(flatten)]
    password: PasswordSource,
    #[command(flatten)]
    common: Common,
}

/// List all accounts.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone user list --json | jq -r '.users[].user_id'")]
struct List {
    #[command(flatten)]
    common: Common,
}

/// Close an account for good: nobody can sign in to it, all its sessions end, and the name is not
/// given to anyone else.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone user deactivate nurse.amara")]
struct Deactivate {
    /// The name before the colon, or the whole user ID.
    user: String,
    #[command(flatten)]
    common: Common,
}

/// Give an account a new password. All its sessions end, unless --keep-sessions.
#[derive(Args)]
#[command(after_help = "Example:\n  wardstone user reset-password nurse.amara --generate")]
struct ResetPassword {
    /// The name before the colon, or the whole user ID.
    user: String,
    /// Leave the sessions that are open.
    #[arg(long)]
    keep_sessions: bool,
    #[command(flatten)]
    password: PasswordSource,
    #[command(flatten)]
    common: Common,
}

impl User {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Create(command) => command.run(),
            Command::List(command) => Ok(command.run()),
            Command::Deactivate(command) => command.run(),
            Command::ResetPassword(command) => command.run(),
        };
        result.unwrap_or_else(|reason| {
            out::trouble(&reason);
            super::exit::FAILED.into()
        })
    }
}

impl PasswordSource {
    /// The password, and once more in clear if it was made here.
    fn get(&self) -> Result<(Secret, Option<String>), String> {
        if !self.generate {
            return Ok((password::ask("Password")?, None));
        }
        let made = OsDice.letters(PASSWORD_LENGTH);
        Ok((Secret::new(made.clone()), Some(made)))
    }
}

impl Create {
    fn run(self) -> Result<ExitCode, String> {
        let (password, made) = self.password.get()?;
        let order = Order::CreateUser {
            localpart: self.name,
            password: Spoken(password),
            administrator: self.administrator,
        };
        Ok(order::give(self.common, order, made, |answer| {
            format!("Created {}.", text(answer, "user_id"))
        }))
    }
}

impl List {
    fn run(self) -> ExitCode {
        order::give(self.common, Order::ListUsers, None, |answer| {
            let users = answer["users"].as_array().map(Vec::as_slice).unwrap_or_default();
            let lines = users.iter().map(|user| {
                let mut marks = Vec::new();
                if user["administrator"] == true {
                    marks.push("administrator");
                }
                if user["deactivated"] == true {
                    marks.push("deactivated");
                }
                format!("{:<48} {}", text(user, "user_id"), marks.join(", ")).trim_end().to_owned()
            });
            lines.collect::<Vec<_>>().join("\n")
        })
    }
}

impl Deactivate {
    fn run(self) -> Result<ExitCode, String> {
        let user_id = user_id(&self.user, &self.common)?;
        let order = Order::DeactivateUser { user_id };
        Ok(order::give(self.common, order, None, |answer| {
            format!("Deactivated {}. Its sessions have ended.", text(answer, "user_id"))
        }))
    }
}

impl ResetPassword {
    fn run(self) -> Result<ExitCode, String> {
        let user_id = user_id(&self.user, &self.common)?;
        let (password, made) = self.password.get()?;
        let keep_sessions = self.keep_sessions;
        let order = Order::ResetPassword { user_id, password: Spoken(password), keep_sessions };
        Ok(order::give(self.common, order, made, move |answer| {
            let sessions = if keep_sessions { "stay" } else { "have ended" };
            format!("{} has a new password; its sessions {sessions}.", text(answer, "user_id"))
        }))
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A whole user ID, or a name on this server.
fn user_id(user: &str, common: &Common) -> Result<OwnedUserId, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("\"{user}\" is not a user: {error}");
    if user.starts_with('@') {
        return UserId::parse(user).map_err(|error| wrong(&error));
    }
    let sources = Sources::of_this_process(common.config.clone());
    let loaded = load(&sources, false).map_err(|problems| problems[0].to_string())?;
    let whole = format!("@{user}:{}", loaded.settings.server.name);
    UserId::parse(whole).map_err(|error| wrong(&error))
}
