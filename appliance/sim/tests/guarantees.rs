//! The README's table of guarantees cannot lie. `make test` ends by making it from the results of its run
//! (`guarantees`, the binary); here stands what can be seen without a run: that the README shows the table,
//! and that every test it names is in the source, unconditionally. That tool is tried here, too.

use appliance_sim::guarantees::{
    KINDS, Promise, pages, promises, results, root, shown, table, unproven, with_table,
};

fn complaints(promises: &[Promise<'_>], read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for Promise { kind, promise, tests } in promises {
        if !KINDS.contains(kind) {
            complaints.push(format!("{promise}: \"{kind}\" is no kind of promise"));
        }
        if *kind != "best effort" && tests.is_empty() {
            complaints.push(format!("{promise}: no test holds the house to it"));
        }
        for test in tests {
            if !is_there(test, &read) {
                complaints.push(format!("{promise}: there is no test {test} that always runs"));
            }
        }
    }
    complaints
}

/// Whether the source has a test of that full name that is not left out anywhere.
fn is_there(test: &str, read: &impl Fn(&str) -> Option<String>) -> bool {
    let Some((binary, path)) = test.split_once(' ') else { return false };
    let mut parts: Vec<&str> = path.split("::").collect();
    let name = parts.pop().unwrap_or_default();
    let crate_and_target = binary.strip_prefix("appliance-").unwrap_or(binary);
    let home = match crate_and_target.split_once("::") {
        Some((folder, target)) => format!("{folder}/tests/{target}"),
        None => format!("{crate_and_target}/src"),
    };
    // A module is a file, or stands in the file of the module around it.
    loop {
        let stem = [&home, "/", &parts.join("/")].concat();
        let stem = stem.trim_end_matches('/');
        for file in [format!("{stem}.rs"), format!("{stem}/mod.rs"), format!("{stem}/main.rs")] {
            if let Some(text) = read(&file) {
                return has_test(&text, name);
            }
        }
        if parts.pop().is_none() {
            return false;
        }
    }
}

/// Whether a file has a test of that name which is neither left out nor conditional.
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
        && !attributes.iter().any(|line| line.contains("ignore") || line.contains("cfg"))
}

#[test]
fn every_promise_is_held_by_tests_that_run() {
    let (text, _) = pages().unwrap();
    let promises = promises(&text);
    assert!(promises.len() > 10);
    let read = |file: &str| std::fs::read_to_string(root().join("appliance").join(file)).ok();
    let complaints = complaints(&promises, read);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_readme_shows_the_table() {
    let (text, readme) = pages().unwrap();
    let shown = shown(&readme).expect("the README has a place for the table");
    let table = table(&promises(&text), |_| true);
    assert!(shown == table, "the README should show:\n\n{table}");
}

#[test]
fn a_promise_that_nothing_holds_is_noticed() {
    let text = "= guaranteed | a\n= guaranteed | b\nappliance-x one::tests::there\n\
        appliance-x one::tests::left_out\nappliance-x one::tests::conditional\n\
        appliance-x one::tests::helper\nappliance-x::two there\nappliance-x::three four::there\n\
        = sure | c\nappliance-x::two mine::there\n";
    let read = |file: &str| {
        let left_out = "#[test]\n#[ign".to_owned() + "ore]\nfn left_out() {\n";
        let text = "#[tokio::test]\nasync fn there() {\n".to_owned()
            + &left_out
            + "#[test]\n#[cfg(unix)]\nfn conditional() {\nfn helper() {\n";
        ["x/src/one.rs", "x/tests/two/main.rs", "x/tests/two/mine.rs"]
            .contains(&file)
            .then_some(text)
    };
    let said = complaints(&promises(text), read).join("\n");
    for part in
        ["a: no test", "::left_out", "::conditional", "::helper", "four::there", "\"sure\" is no"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.lines().count(), 6, "{said}");
}

#[test]
fn what_did_not_run_and_pass_is_not_promised() {
    let text = "= guaranteed | a\nx one::good\n= on trust | b\nx one::good\nx one::bad\n\
        = best effort | c\nx one::out\n= best effort | d\nx one::absent\n= best effort | e\n";
    let xml = r#"<?xml version="1.0" encoding="UTF-8"?><testsuites name="nextest-run"><testsuite name="x">
        <testcase name="one::good" classname="x" time="0.1"/>
        <testcase name="one::absent" classname="another" time="0.1"/>
        <testcase name="one::bad" classname="x"><failure type="test failure">no</failure></testcase>
        <testcase name="one::out" classname="x"><skipped/></testcase></testsuite></testsuites>"#;
    let (promises, results) = (promises(text), results(xml).unwrap());
    let said = unproven(&promises, &results);
    let wanted = ["\"b\": x one::bad failed", "\"c\": x one::out was left out"];
    assert_eq!(said[..2], wanted);
    assert_eq!(said[2..], ["\"d\": x one::absent did not run"]);
    let is_good = |test: &str| test == "x one::good";
    let made = table(&promises, is_good);
    assert!(made.contains("| a | **guaranteed** | `good` |"), "{made}");
    assert_eq!(made.matches("NOT TRIED").count(), 3, "{made}");

    let (_, readme) = pages().unwrap();
    let changed = with_table(&readme, &made).unwrap();
    assert_eq!(shown(&changed), Some(made.as_str()));
    assert_eq!(changed.len() + shown(&readme).unwrap().len(), readme.len() + made.len());
    assert!(appliance_sim::guarantees::results("<testsuites").is_err(), "half a file is no result");
}
