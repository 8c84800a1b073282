//! `wardstone config check` and `wardstone config show`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::listen::tls::Certificate;
use crate::settings::Settings;
use crate::settings::layer::Problem;
use crate::settings::load::{Loaded, Sources, load};

/// Look at the settings.
#[derive(Args)]
pub struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(Check),
    Show(Show),
}

/// Judge the settings without starting anything.
///
/// Every problem is listed with its file and line, and what to write instead. Certificates are read
/// too. Exit code 0: a server would start with them; 2: it would not.
#[derive(Args)]
#[command(after_help = "Examples:\n  wardstone config check\n  wardstone config check --config \
                        /etc/wardstone/wardstone.toml --json")]
struct Check {
    #[command(flatten)]
    common: super::Common,
}

/// Print every setting with where its value came from. Secrets are masked.
#[derive(Args)]
#[command(after_help = "Examples:\n  wardstone config show\n  wardstone config show --json | jq \
                        '.[\"media.ttl_ms\"]'")]
struct Show {
    #[command(flatten)]
    common: super::Common,
}

impl Config {
    /// Runs the subcommand.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Check(Check { common }) => check(common),
            Command::Show(Show { common }) => show(common),
        }
    }
}

fn check(common: super::Common) -> ExitCode {
    let problems = match load(&Sources::of_this_process(common.config), false) {
        Ok(loaded) => unreadable_files(&loaded),
        Err(problems) => problems,
    };
    if common.json {
        let list: Vec<Value> = problems.iter().map(to_json).collect();
        super::out::json(&json!({ "ok": list.is_empty(), "problems": list }));
    } else if problems.is_empty() {
        super::out::line("The settings are fine.");
    } else {
        super::print_problems(&problems);
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { super::exit::BAD_SETTINGS.into() }
}

/// Files that the settings name and the server must be able to read.
fn unreadable_files(loaded: &Loaded) -> Vec<Problem> {
    let Settings { listeners, .. } = &loaded.settings;
    let mut problems = Vec::new();
    for (index, listener) in listeners.iter().enumerate() {
        let Some(files) = &listener.tls else { continue };
        if let Err(message) = Certificate::read(files.clone()) {
            let key = format!("listeners[{index}].tls");
            problems.push(Problem { origin: loaded.origin(&key), key, message });
        }
    }
    problems
}

fn to_json(problem: &Problem) -> Value {
    json!({ "origin": problem.origin.to_string(), "key": problem.key, "message": problem.message })
}

fn show(common: super::Common) -> ExitCode {
    let loaded = match load(&Sources::of_this_process(common.config), false) {
        Ok(loaded) => loaded,
        Err(problems) => {
            super::print_problems(&problems);
            return super::exit::BAD_SETTINGS.into();
        }
    };
    let values = serde_json::to_value(&loaded.settings).expect("settings are plain data");
    let mut leaves = Vec::new();
    collect("", &values, &mut leaves);
    if common.json {
        let object: serde_json::Map<String, Value> = leaves
            .into_iter()
            .map(|(key, value)| {
                let origin = loaded.origin(&key).to_string();
                (key, json!({ "value": value, "origin": origin }))
            })
            .collect();
        super::out::line(&format!("{:#}", Value::Object(object)));
    } else {
        for (key, value) in leaves {
            let origin = loaded.origin(&key);
            super::out::line(&format!("{:60} # {origin}", format!("{key} = {value}")));
        }
    }
    ExitCode::SUCCESS
}

/// The values that are not sections, with their dotted names.
fn collect(prefix: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                collect(&crate::settings::shape::join(prefix, key), value, leaves);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (index, value) in list.iter().enumerate() {
                collect(&format!("{prefix}[{index}]"), value, leaves);
            }
        }
        leaf => leaves.push((prefix.to_owned(), leaf.clone())),
    }
}
