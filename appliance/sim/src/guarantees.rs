//! The README's table of guarantees, made of `guarantees.txt` and of the results of a run of the tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the table stands in the README.
const START: &str = "<!-- guarantees: made of appliance/sim/guarantees.txt by `make test` -->\n";
const END: &str = "<!-- end of guarantees -->";
/// How sure a promise can be.
pub const KINDS: [&str; 3] = ["guaranteed", "on trust", "best effort"];

/// One line of the table.
#[derive(Debug)]
pub struct Promise<'a> {
    /// One of [`KINDS`].
    pub kind: &'a str,
    /// The sentence.
    pub promise: &'a str,
    /// What holds the house to it: the binary and the path of the test, `binary path::to::test`.
    pub tests: Vec<&'a str>,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran to its end.
    Passed,
    /// It ran and did not.
    Failed,
    /// It is there and was left out.
    LeftOut,
}

/// Reads `guarantees.txt`. What stands before the first promise is for people.
pub fn promises(text: &str) -> Vec<Promise<'_>> {
    let mut promises: Vec<Promise<'_>> = Vec::new();
    for line in text.lines() {
        if let Some((kind, promise)) =
            line.strip_prefix("= ").and_then(|line| line.split_once(" | "))
        {
            promises.push(Promise { kind, promise, tests: Vec::new() });
        } else if let Some(last) = promises.last_mut().filter(|_| line.contains(' ')) {
            last.tests.push(line);
        }
    }
    promises
}

/// Reads the results of a run as nextest writes them (JUnit): how each test ended, by its full name.
///
/// # Errors
///
/// A sentence, if they cannot be read.
pub fn results(xml: &str) -> Result<BTreeMap<String, Outcome>, String> {
    let whole = roxmltree::Document::parse(xml).map_err(|error| error.to_string())?;
    let cases = whole.descendants().filter(|node| node.has_tag_name("testcase"));
    let outcomes = cases.map(|case| {
        let said = |name| case.attribute(name).unwrap_or_default();
        let has = |tag| case.children().any(|child| child.has_tag_name(tag));
        let outcome = match (has("failure") || has("error"), has("skipped")) {
            (true, _) => Outcome::Failed,
            (false, true) => Outcome::LeftOut,
            (false, false) => Outcome::Passed,
        };
        (format!("{} {}", said("classname"), said("name")), outcome)
    });
    Ok(outcomes.collect())
}

/// What is wrong with promises that a run does not bear out.
pub fn unproven(promises: &[Promise<'_>], results: &BTreeMap<String, Outcome>) -> Vec<String> {
    let tests = promises.iter().flat_map(|it| it.tests.iter().map(|test| (it.promise, *test)));
    tests
        .filter_map(|(promise, test)| {
            let why = match results.get(test) {
                Some(Outcome::Passed) => return None,
                Some(Outcome::Failed) => "failed",
                Some(Outcome::LeftOut) => "was left out",
                None => "did not run",
            };
            Some(format!("\"{promise}\": {test} {why}"))
        })
        .collect()
}

/// As the README shows them. A promise is as sure as it says only if all of its tests are `proven`.
pub fn table(promises: &[Promise<'_>], proven: impl Fn(&str) -> bool) -> String {
    let mut table = "| what | how sure | tried by |\n|---|---|---|\n".to_owned();
    for Promise { kind, promise, tests } in promises {
        let name = |test: &&str| format!("`{}`", test.rsplit("::").next().unwrap_or(test));
        let names: Vec<_> = tests.iter().map(name).collect();
        let names = if names.is_empty() { "nothing can".to_owned() } else { names.join("<br>") };
        let kind = if tests.iter().all(|test| proven(test)) { kind } else { "NOT TRIED" };
        table += &format!("| {promise} | **{kind}** | {names} |\n");
    }
    table
}

/// The table that a README shows, if it has a place for it.
pub fn shown(readme: &str) -> Option<&str> {
    readme.split_once(START)?.1.split_once(END).map(|(shown, _)| shown)
}

/// The README with another table.
pub fn with_table(readme: &str, table: &str) -> Option<String> {
    let (before, rest) = readme.split_once(START)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{START}{table}{END}{after}"))
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `guarantees.txt` and the README.
///
/// # Errors
///
/// If one of them cannot be read.
pub fn pages() -> std::io::Result<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(root().join(path));
    Ok((read("appliance/sim/guarantees.txt")?, read("README.md")?))
}
