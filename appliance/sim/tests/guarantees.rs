//! The README's table of guarantees cannot lie: it is made of `guarantees.txt`, and every promise there
//! names tests that exist and run.

use std::path::{Path, PathBuf};

const START: &str = "<!-- guarantees: made of appliance/sim/guarantees.txt -->\n";
const END: &str = "<!-- end of guarantees -->";
const KINDS: [&str; 3] = ["guaranteed", "on trust", "best effort"];

struct Promise<'a> {
    kind: &'a str,
    promise: &'a str,
    /// File below `appliance/`, and name.
    tests: Vec<(&'a str, &'a str)>,
}

fn promises(text: &str) -> Vec<Promise<'_>> {
    let mut promises: Vec<Promise<'_>> = Vec::new();
    for line in text.lines() {
        if let Some((kind, promise)) =
            line.strip_prefix("= ").and_then(|line| line.split_once(" | "))
        {
            promises.push(Promise { kind, promise, tests: Vec::new() });
        } else if let (Some(last), Some(test)) = (promises.last_mut(), line.split_once(' ')) {
            last.tests.push(test);
        }
    }
    promises
}

/// As the README shows them.
fn table(promises: &[Promise<'_>]) -> String {
    let mut table = "| what | how sure | tried by |\n|---|---|---|\n".to_owned();
    for Promise { kind, promise, tests } in promises {
        let names: Vec<_> = tests.iter().map(|(_, name)| format!("`{name}`")).collect();
        let names = if names.is_empty() { "nothing can".to_owned() } else { names.join("<br>") };
        table += &format!("| {promise} | **{kind}** | {names} |\n");
    }
    table
}

fn complaints(promises: &[Promise<'_>], read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for Promise { kind, promise, tests } in promises {
        if !KINDS.contains(kind) {
            complaints.push(format!("{promise}: \"{kind}\" is no kind of promise"));
        }
        if *kind != "best effort" && tests.is_empty() {
            complaints.push(format!("{promise}: no test holds the house to it"));
        }
        for (file, name) in tests {
            match read(file) {
                None => complaints.push(format!("{promise}: there is no {file}")),
                Some(text) if !has_test(&text, name) => {
                    complaints.push(format!("{promise}: {file} has no test {name} that runs"));
                }
                Some(_) => {}
            }
        }
    }
    complaints
}

/// Whether a file has a test of that name which is not left out.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    let Some(at) =
        lines.iter().position(|line| line.trim_start_matches("async ").starts_with(&head))
    else {
        return false;
    };
    let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
    let attributes: Vec<_> = attributes.collect();
    attributes.iter().any(|line| line.contains("test"))
        && !attributes.iter().any(|l| l.contains("ignore"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_promise_is_held_by_tests_that_run() {
    let text = std::fs::read_to_string(root().join("appliance/sim/guarantees.txt")).unwrap();
    let promises = promises(&text);
    assert!(promises.len() > 10);
    let read = |file: &str| std::fs::read_to_string(root().join("appliance").join(file)).ok();
    let complaints = complaints(&promises, read);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_readme_shows_the_table() {
    let text = std::fs::read_to_string(root().join("appliance/sim/guarantees.txt")).unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let shown = readme.split_once(START).and_then(|(_, rest)| rest.split_once(END));
    let (shown, _) = shown.expect("the README has a place for the table");
    let table = table(&promises(&text));
    assert!(shown.trim() == table.trim(), "the README should show:\n\n{table}");
}

#[test]
fn a_promise_that_nothing_holds_is_noticed() {
    let text = "= guaranteed | a\n= guaranteed | b\nx.rs there\nx.rs left_out\nx.rs helper\ny.rs there\n= sure | c\nx.rs there\n";
    let read = |file: &str| {
        let left_out = "#[test]\n#[ign".to_owned() + "ore]\nfn left_out() {\n";
        let text =
            "#[tokio::test]\nasync fn there() {\n".to_owned() + &left_out + "fn helper() {\n";
        (file == "x.rs").then_some(text)
    };
    let said = complaints(&promises(text), read).join("\n");
    for part in
        ["a: no test", "no test left_out", "no test helper", "no y.rs", "\"sure\" is no kind"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.lines().count(), 5, "{said}");
}
