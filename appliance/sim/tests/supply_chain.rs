//! What the appliance links from outside, held against `deny.toml` without a network.
//!
//! The advisories need one and are asked by `make advisories`; everything else in that file
//! (banned crates, second versions, licences, sources) is asked here, of what cargo would really
//! link into the `wardstone` binary, so that an ordinary test run catches it.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use semver::{Version, VersionReq};
use toml::{Table, Value};

/// One crate that is linked into the binary or runs while it is built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Linked {
    name: String,
    version: Version,
    licence: String,
    /// Whether cargo printed a place beside the version: a path or a git address.
    is_local: bool,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Cargo's own account, after features and targets: `cargo metadata` lists what could be linked,
/// `cargo tree` what is.
fn linked() -> Vec<Linked> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--package=appliance-server"])
        .args(["--edges=normal,build", "--prefix=none", "--no-dedupe", "--format={p}|{l}"])
        .args(["--target=x86_64-unknown-linux-gnu"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: BTreeSet<Linked> =
        String::from_utf8(output.stdout).unwrap().lines().filter_map(parse_line).collect();
    assert!(lines.len() > 100, "cargo tree told what is linked");
    lines.into_iter().collect()
}

/// Reads `name v1.2.3 (proc-macro) (/path)|LICENCE`.
fn parse_line(line: &str) -> Option<Linked> {
    let (package, licence) = line.split_once('|')?;
    let mut words = package.split(' ');
    let name = words.next()?.to_owned();
    let version = Version::parse(words.next()?.strip_prefix('v')?).ok()?;
    let is_local = words.any(|word| word.starts_with("(/") || word.contains("://"));
    Some(Linked { name, version, licence: licence.to_owned(), is_local })
}

fn policy() -> Table {
    let text = std::fs::read_to_string(repository().join("appliance/deny.toml")).unwrap();
    text.parse().unwrap()
}

fn list<'a>(policy: &'a Table, section: &str, key: &str) -> &'a [Value] {
    policy[section][key].as_array().unwrap()
}

/// A `crate = "name@range"` entry: its name, and its range where it has one.
fn entry(value: &Value) -> (&str, VersionReq) {
    let spec = value["crate"].as_str().unwrap();
    let (name, range) = spec.split_once('@').unwrap_or((spec, "*"));
    (name, VersionReq::parse(range).unwrap())
}

fn banned(policy: &Table, linked: &[Linked]) -> Vec<String> {
    let mut complaints = Vec::new();
    for ban in list(policy, "bans", "deny") {
        let (name, range) = entry(ban);
        for found in linked.iter().filter(|l| l.name == name && range.matches(&l.version)) {
            complaints.push(format!("{} {}: {}", name, found.version, ban["reason"]));
        }
    }
    complaints
}

fn second_versions(policy: &Table, linked: &[Linked]) -> Vec<String> {
    let skips: Vec<_> = list(policy, "bans", "skip").iter().map(entry).collect();
    let mut versions: BTreeMap<&str, Vec<&Version>> = BTreeMap::new();
    for found in linked {
        let is_skipped =
            skips.iter().any(|(name, range)| *name == found.name && range.matches(&found.version));
        if !is_skipped {
            versions.entry(&found.name).or_default().push(&found.version);
        }
    }
    let mut complaints: Vec<String> = versions
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| format!("{name} is linked {} times: {versions:?}", versions.len()))
        .collect();
    for (name, range) in &skips {
        // An exception that is no longer needed would hide the next one.
        if !linked.iter().any(|l| l.name == *name && range.matches(&l.version)) {
            complaints.push(format!("{name}@{range} is excused, but no longer linked"));
        }
    }
    complaints
}

fn licences(policy: &Table, linked: &[Linked]) -> Vec<String> {
    let allowed: BTreeSet<&str> =
        list(policy, "licenses", "allow").iter().map(|v| v.as_str().unwrap()).collect();
    let excused: BTreeSet<(&str, &str)> = list(policy, "licenses", "exceptions")
        .iter()
        .flat_map(|e| {
            let licences = e["allow"].as_array().unwrap().iter();
            licences.map(|l| (e["crate"].as_str().unwrap(), l.as_str().unwrap()))
        })
        .collect();
    let mut complaints = Vec::new();
    for found in linked {
        let lax = spdx::ParseMode::LAX;
        let Ok(expression) = spdx::Expression::parse_mode(&found.licence, lax) else {
            complaints.push(format!("{}: cannot read licence {:?}", found.name, found.licence));
            continue;
        };
        let is_fine = expression.evaluate(|requirement| {
            let licence = requirement.to_string();
            allowed.contains(licence.as_str())
                || excused.contains(&(found.name.as_str(), licence.as_str()))
        });
        if !is_fine {
            complaints.push(format!("{}: licence {} is not allowed", found.name, found.licence));
        }
    }
    complaints
}

fn sources(linked: &[Linked]) -> Vec<String> {
    linked
        .iter()
        .filter(|l| l.is_local && !l.name.starts_with("appliance-"))
        .map(|l| format!("{} comes from neither this repository nor the registry", l.name))
        .collect()
}

/// Every exception and every ban says why.
fn reasons(policy: &Table) -> Vec<String> {
    [("bans", "deny"), ("bans", "skip"), ("advisories", "ignore")]
        .iter()
        .flat_map(|(section, key)| list(policy, section, key))
        .filter(|e| e.get("reason").and_then(Value::as_str).is_none_or(|r| r.len() < 5))
        .map(|e| format!("{e} gives no reason"))
        .collect()
}

#[test]
fn what_ships_is_allowed_to() {
    let (policy, linked) = (policy(), linked());
    let complaints = [
        banned(&policy, &linked),
        second_versions(&policy, &linked),
        licences(&policy, &linked),
        sources(&linked),
        reasons(&policy),
    ]
    .concat();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

mod what_may_not_ship_is_told {
    use super::*;

    fn policy() -> Table {
        r#"
        [advisories]
        ignore = []
        [bans]
        deny = [{ crate = "openssl", reason = "one provider" }]
        skip = [{ crate = "rand@0.9", reason = "metrics" }]
        [licenses]
        allow = ["MIT", "Apache-2.0"]
        exceptions = [{ crate = "as_variant", allow = ["MPL-2.0"] }]
        "#
        .parse()
        .unwrap()
    }

    fn tree(lines: &[&str]) -> Vec<Linked> {
        lines.iter().map(|line| parse_line(line).unwrap()).collect()
    }

    #[test]
    fn a_banned_crate() {
        assert_eq!(banned(&policy(), &tree(&["openssl v0.10.1|MIT"])).len(), 1);
        assert_eq!(banned(&policy(), &tree(&["rustls v0.23.1|MIT"])).len(), 0);
    }

    #[test]
    fn a_second_version_and_a_stale_excuse() {
        let twice = tree(&["syn v2.0.1|MIT", "syn v3.0.1|MIT", "rand v0.9.5|MIT"]);
        assert_eq!(second_versions(&policy(), &twice).len(), 1);
        let excused = tree(&["rand v0.9.5|MIT", "rand v0.10.1|MIT"]);
        assert_eq!(second_versions(&policy(), &excused).len(), 0);
        assert_eq!(second_versions(&policy(), &tree(&["rand v0.10.1|MIT"])).len(), 1, "stale");
    }

    #[test]
    fn a_licence_we_may_not_pass_on() {
        let found = |line| licences(&policy(), &tree(&[line])).len();
        assert_eq!(found("a v1.0.0|GPL-3.0-only"), 1);
        assert_eq!(found("a v1.0.0|MIT AND GPL-3.0-only"), 1);
        assert_eq!(found("a v1.0.0|"), 1, "none named");
        assert_eq!(found("a v1.0.0|GPL-3.0-only OR MIT"), 0);
        assert_eq!(found("a v1.0.0|MIT/Apache-2.0"), 0);
        assert_eq!(found("as_variant v1.0.0|MPL-2.0"), 0);
        assert_eq!(found("other v1.0.0|MPL-2.0"), 1, "the exception is for one crate");
    }

    #[test]
    fn a_crate_from_somewhere_else() {
        assert_eq!(sources(&tree(&["a v1.0.0 (https://git.example/a#1234)|MIT"])).len(), 1);
        assert_eq!(sources(&tree(&["a v1.0.0 (/home/me/a)|MIT"])).len(), 1);
        assert_eq!(sources(&tree(&["appliance-api v0.1.0 (/src/api)|MIT"])).len(), 0);
        assert_eq!(sources(&tree(&["serde_derive v1.0.0 (proc-macro)|MIT"])).len(), 0);
    }
}
