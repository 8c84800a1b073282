//! This crate's list of lints is the workspace's, but for the one line that lets it map a file.

use std::path::Path;

/// The tables of lints, in order, without comments.
fn lints(manifest: &str, table: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if line.starts_with('[') {
            inside = line.starts_with(table);
        }
        if inside {
            found.push(line.replacen(table, "[lints", 1));
        }
    }
    found
}

#[test]
fn only_unsafe_code_differs_and_only_from_forbidden_to_denied() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = std::fs::read_to_string(here.join("Cargo.toml")).unwrap();
    let root = std::fs::read_to_string(here.join("../../Cargo.toml")).unwrap();
    let house = lints(&root, "[workspace.lints");
    assert!(house.len() > 20, "the workspace's lints were found");
    let expected: Vec<String> = house
        .into_iter()
        .map(|line| line.replace("unsafe_code = \"forbid\"", "unsafe_code = \"deny\""))
        .collect();
    assert_eq!(lints(&own, "[lints"), expected);
}
