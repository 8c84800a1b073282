//! `guarantees RESULTS [--write]`, the last step of `make test`: the README's table of guarantees, made
//! again from the results of a run of all tests. It fails if a test that a promise names did not run and
//! pass, or if the README shows anything else; `--write` puts the table into the README.

#![expect(clippy::print_stderr, reason = "it speaks to whoever ran the tests")]

use std::process::ExitCode;

use appliance_sim::guarantees::{
    Outcome, pages, promises, results, root, shown, table, unproven, with_table,
};

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let (path, writes) = match given[..] {
        [path] => (path, false),
        [path, "--write"] => (path, true),
        _ => {
            eprintln!("guarantees RESULTS [--write]");
            return ExitCode::FAILURE;
        }
    };
    match judge(path, writes) {
        Ok(said) => {
            eprintln!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("The README promises what this run does not prove:\n{why}");
            ExitCode::FAILURE
        }
    }
}

fn judge(path: &str, writes: bool) -> Result<String, String> {
    let xml = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let results = results(&xml).map_err(|error| format!("{path}: {error}"))?;
    let (text, readme) = pages().map_err(|error| error.to_string())?;
    let promises = promises(&text);
    let unproven = unproven(&promises, &results);
    let made = table(&promises, |test| results.get(test) == Some(&Outcome::Passed));
    if writes {
        let readme = with_table(&readme, &made).ok_or("the README has no place for the table")?;
        std::fs::write(root().join("README.md"), readme).map_err(|error| error.to_string())?;
    }
    if !unproven.is_empty() {
        return Err(unproven.join("\n"));
    }
    if !writes && shown(&readme) != Some(&made) {
        return Err(format!("It should show this (`{path} --write` does it):\n\n{made}"));
    }
    let tests: usize = promises.iter().map(|promise| promise.tests.len()).sum();
    Ok(format!(
        "guarantees: {} promises, held by {tests} tests that ran and passed",
        promises.len()
    ))
}
