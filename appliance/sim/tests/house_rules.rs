//! The rules of the house that a reader could check by hand, checked by a machine instead.
//!
//! Each rule is a function from the repository's text (or cargo's account of it) to a list of
//! complaints. The first half of the tests asks the real repository and expects silence; the second
//! half breaks each rule on purpose in an invented one and expects to be told, so that no rule can
//! quietly stop looking. A rule that is in the way is changed here, in the open, with its reason.
//!
//! What comes from outside (licences, versions, sources) is judged in `supply_chain.rs`.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A text file of the repository. `path` is relative to its root, with forward slashes.
struct Page {
    path: String,
    text: String,
    /// Whether it is compiled for tests only, as its parent says.
    is_test: bool,
}

/// Rule 1: which crate may name which. Arrows point down or nowhere: the table of ARCHITECTURE.md.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("rules", &["model"]),
    ("engine", &[]),
    ("ledger", &["model", "rules", "engine"]),
    ("services", &["model", "rules", "ledger"]),
    ("egress", &["model", "services"]),
    ("federation", &["model", "services"]),
    ("api", &["model", "services"]),
    ("server", &["model", "rules", "engine", "ledger", "services", "egress", "federation", "api"]),
    (
        "sim",
        &[
            "model",
            "rules",
            "engine",
            "ledger",
            "services",
            "egress",
            "federation",
            "api",
            "server",
        ],
    ),
    // These two meet the server as a client does, over HTTP. Nothing of ours is linked into them.
    ("acceptance", &[]),
    ("bench", &[]),
];

/// Rule 2: each storage library, and the one file or folder stem that may name it.
const ENGINE_LIBRARIES: &[(&str, &str)] =
    &[("heed", "appliance/engine/src/lmdb"), ("sled", "appliance/engine/src/sled")];

/// Rule 5: where work may be set going, with what bounds it.
const SPAWN_SITES: &[(&str, &str)] = &[
    ("appliance/server/src/lifecycle.rs", "every long-lived task, waited for at shutdown"),
    ("appliance/engine/src/blocking.rs", "the bounded pool that waits for the disk"),
    ("appliance/engine/src/conformance.rs", "tests: readers beside a writer, all waited for"),
    ("appliance/services/src/accounts/password.rs", "password hashes, behind a semaphore"),
    ("appliance/services/src/media/thumbnail", "the bounded pool that decodes images"),
    ("appliance/services/src/search/mod.rs", "the search index, one at a time"),
    ("appliance/ledger/src/lane.rs", "syncs the acknowledged position beside the answers"),
];

/// Rule 6: where routes may be added. The API's adapter keeps the list that `api/src/every_route.rs`
/// walks as a stranger; what does not go through it is named here, with who may reach it.
const ROUTE_HOMES: &[(&str, &str)] = &[
    ("appliance/api/src/route.rs", "the list of all routes of the API"),
    (
        "appliance/api/src/photo_page/mod.rs",
        "pages, and what they ask: tests beside it walk them as a stranger",
    ),
    (
        "appliance/api/src/sign_in/mod.rs",
        "one page, and what it asks: tests beside it walk it as a stranger",
    ),
    ("appliance/server/src/admin/door.rs", "the admin socket, which asks the kernel who is there"),
    ("appliance/server/src/health.rs", "two words without a secret"),
    ("appliance/server/src/metrics.rs", "a listener on loopback or a Unix socket only"),
];

/// No text of ours is longer: a file is read in one sitting.
const LINES_MAX: usize = 700;

/// An essay says at least this much.
const ESSAY_BYTES_MIN: usize = 80;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All text of ours, without what tools made or fetched.
fn pages() -> Vec<Page> {
    const MADE_BY_TOOLS: &[&str] = &["target", "node_modules", "__pycache__", "wardstone-data"];
    const KINDS: &[&str] = &["rs", "toml", "lock", "json", "py", "mjs", "js", "ts", "sh", "md"];
    let root = repository();
    let mut pages = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !name.starts_with('.') && !MADE_BY_TOOLS.contains(&name.as_str()) {
                folders.push(entry.path());
            } else if kind.is_file() && KINDS.iter().any(|k| name.ends_with(&format!(".{k}"))) {
                let path = entry.path();
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                pages.push(Page { path, text, is_test: false });
            }
        }
    }
    pages.sort_by(|a, b| a.path.cmp(&b.path));
    mark_tests(&mut pages);
    assert!(pages.len() > 20, "the walk found the repository");
    pages
}

/// A file is a test if it says so itself, its parent declares it under `#[cfg(test)]`, or it lies in
/// a folder of tests.
fn mark_tests(pages: &mut [Page]) {
    let mut tests = Vec::new();
    for page in pages.iter().filter(|page| page.path.ends_with(".rs")) {
        let stem = page.path.trim_end_matches(".rs");
        let home = ["/lib", "/main", "/mod"].iter().find_map(|name| stem.strip_suffix(name));
        let lines: Vec<&str> = page.text.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let declared = pair[1].rsplit_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
            tests.extend(declared.map(|name| format!("{}/{name}", home.unwrap_or(stem))));
        }
    }
    for page in pages {
        let is_declared = tests.iter().any(|test| {
            let rest = page.path.strip_prefix(test.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
        let says_so = page.text.contains("\n#![cfg(test)]\n");
        page.is_test = is_declared || says_so || page.path.contains("/tests/");
    }
}

fn cargo_metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version=1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The part of a Rust file that ships: without comments, without the tests at its end.
fn shipped(page: &Page) -> impl Iterator<Item = (usize, &str)> {
    let end = if page.is_test { 0 } else { tests_start(&page.text) };
    page.text[..end].lines().enumerate().map(|(number, line)| {
        let code = if line.trim_start().starts_with("//") { "" } else { line };
        (number + 1, code.split(" // ").next().unwrap_or_default())
    })
}

/// Where the test module at the end of a file begins, or the file's length.
fn tests_start(text: &str) -> usize {
    let mark = "#[cfg(test)]\n";
    text.match_indices(mark)
        .find(|(at, _)| {
            let rest = text[at + mark.len()..].trim_start();
            rest.starts_with("mod ") && !rest.lines().next().unwrap_or_default().ends_with(';')
        })
        .map_or(text.len(), |(at, _)| at)
}

fn has_word(line: &str, word: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_letter) && !line[at + word.len()..].starts_with(is_letter)
    })
}

/// Rust files of the crates that make up the server; guests, tests and the bench are not it.
fn is_house_code(path: &str) -> bool {
    let outside = ["appliance/acceptance/", "appliance/bench/", "appliance/sim/"];
    path.starts_with("appliance/")
        && path.ends_with(".rs")
        && !outside.iter().any(|folder| path.starts_with(folder))
}

// Rule 1.
fn crate_edges(metadata: &Value) -> Vec<String> {
    let table: BTreeMap<_, _> = MAY_NAME.iter().copied().collect();
    let mut complaints = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let Some(from) = package["name"].as_str().unwrap().strip_prefix("appliance-") else {
            continue;
        };
        let Some(named) = table.get(from) else {
            complaints.push(format!("crate `{from}` is not in the table of rule 1"));
            continue;
        };
        let reached = reached_from(from, &table);
        for dependency in package["dependencies"].as_array().unwrap() {
            let Some(to) = dependency["name"].as_str().unwrap().strip_prefix("appliance-") else {
                continue;
            };
            // Tests set a scene with what lies below them anyway; they may not reach sideways.
            let is_test_edge = dependency["kind"] == "dev";
            let is_fine = named.contains(&to) || (is_test_edge && reached.contains(to));
            if !is_fine {
                complaints.push(format!("`{from}` may not name `{to}`"));
            }
        }
    }
    complaints
}

fn reached_from<'a>(from: &str, table: &BTreeMap<&'a str, &'a [&'a str]>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = table[from].to_vec();
    while let Some(name) = open.pop() {
        if reached.insert(name) {
            open.extend(table[name]);
        }
    }
    reached
}

// Rule 2.
fn engine_libraries(pages: &[Page]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (library, home) in ENGINE_LIBRARIES {
        for page in pages.iter().filter(|p| p.path.starts_with("appliance/")) {
            let is_manifest = page.path.ends_with("/Cargo.toml");
            if is_manifest && page.path != "appliance/engine/Cargo.toml" {
                let names = |l: &str| l.split(['.', '=', ' ']).next() == Some(library);
                if page.text.lines().any(names) {
                    complaints.push(format!("{}: only engine may depend on {library}", page.path));
                }
            }
            if is_house_code(&page.path) && !page.path.starts_with(home) {
                for (number, line) in page.text.lines().enumerate() {
                    let path = format!("{library}::");
                    let at = line.find(&path).filter(|at| !line[..*at].ends_with("::"));
                    if at.is_some() && !line.trim_start().starts_with("//") {
                        let line = number + 1;
                        complaints.push(format!("{}:{line}: {library} outside {home}", page.path));
                    }
                }
            }
        }
    }
    complaints
}

// Rule 3.
fn rules_stay_pure(pages: &[Page]) -> Vec<String> {
    const IMPURE: &[&str] = &["async", "await", "Mutex", "RwLock", "tokio"];
    const IMPURE_PATHS: &[&str] = &["std::fs", "std::net", "std::env", "std::time", "std::process"];
    let mut complaints = Vec::new();
    for page in pages.iter().filter(|p| p.path.starts_with("appliance/rules/src/")) {
        for (number, line) in shipped(page) {
            let word = IMPURE.iter().find(|word| has_word(line, word));
            let path = IMPURE_PATHS.iter().find(|path| line.contains(*path));
            if let Some(found) = word.or(path) {
                complaints.push(format!("{}:{number}: a judgement knows no {found}", page.path));
            }
        }
    }
    complaints
}

// Rule 4.
fn errcodes_have_one_home(pages: &[Page]) -> Vec<String> {
    let mut complaints = Vec::new();
    for page in pages.iter().filter(|p| is_house_code(&p.path)) {
        if page.path == "appliance/api/src/error.rs" {
            continue;
        }
        for (number, line) in shipped(page) {
            if line.contains("\"M_") {
                complaints
                    .push(format!("{}:{number}: errcodes live in api/src/error.rs", page.path));
            }
        }
    }
    complaints
}

// Rule 5.
fn spawns_have_one_home(pages: &[Page]) -> Vec<String> {
    const CALLS: &[&str] = &["spawn", "spawn_blocking", "spawn_local", "spawn_on"];
    let mut complaints = Vec::new();
    for page in pages.iter().filter(|p| is_house_code(&p.path)) {
        if SPAWN_SITES.iter().any(|(site, _)| page.path.starts_with(site)) {
            continue;
        }
        for (number, line) in shipped(page) {
            let is_definition = has_word(line, "fn");
            let call = CALLS.iter().find(|call| {
                has_word(line, call)
                    && (line.contains(&format!("{call}(")) || line.contains(&format!("{call}::<")))
            });
            if let (Some(call), false) = (call, is_definition) {
                complaints.push(format!("{}:{number}: `{call}` outside its homes", page.path));
            }
        }
    }
    complaints
}

// Rule 6. That every route asks who is there is seen by the test that walks the list; here only that
// no route is missing from it.
fn routes_have_one_home(pages: &[Page]) -> Vec<String> {
    const ADDS: &[&str] = &["axum::routing", ".route(", ".route_service(", ".nest(", ".fallback("];
    let mut complaints = Vec::new();
    for page in pages.iter().filter(|p| is_house_code(&p.path)) {
        if ROUTE_HOMES.iter().any(|(home, _)| page.path == *home) {
            continue;
        }
        for (number, line) in shipped(page) {
            if ADDS.iter().any(|add| line.contains(add)) {
                complaints.push(format!("{}:{number}: a route outside the list", page.path));
            }
        }
    }
    let walks = pages.iter().any(|page| {
        page.path == "appliance/api/src/every_route.rs"
            && page.text.contains("fn strangers_are_turned_away_everywhere")
    });
    if !walks {
        complaints.push("nobody walks the list of routes as a stranger".to_owned());
    }
    complaints
}

// Rule 7.
fn one_ruma(metadata: &Value) -> Vec<String> {
    let ids: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), node))
        .collect();
    let packages: BTreeMap<&str, (&str, &str)> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (&p["id"], &p["name"], &p["version"]))
        .map(|(id, name, v)| (id.as_str().unwrap(), (name.as_str().unwrap(), v.as_str().unwrap())))
        .collect();
    // Acceptance brings clients, and the clients their own ruma. They meet ours over HTTP.
    let mut open: Vec<&str> = ids
        .keys()
        .copied()
        .filter(|id| packages[id].0.starts_with("appliance-"))
        .filter(|id| packages[id].0 != "appliance-acceptance")
        .collect();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            let (name, version) = packages[id];
            if name == "ruma" || name.starts_with("ruma-") {
                versions.entry(name).or_default().insert(version);
            }
            let dependencies = ids[id]["dependencies"].as_array().unwrap();
            open.extend(dependencies.iter().map(|d| d.as_str().unwrap()));
        }
    }
    versions
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| format!("two of {name}: {versions:?}"))
        .collect()
}

fn files_are_short(pages: &[Page]) -> Vec<String> {
    let made = |path: &str| path.ends_with(".lock") || path.ends_with(".json");
    pages
        .iter()
        .filter(|page| !made(&page.path))
        .map(|page| (&page.path, page.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines, at most {LINES_MAX}"))
        .collect()
}

fn nothing_is_left_for_later(pages: &[Page]) -> Vec<String> {
    // Written in two halves, so that this file does not complain of itself.
    let later = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore")];
    let mut complaints = Vec::new();
    for page in pages.iter().filter(|p| p.path.ends_with(".rs")) {
        for (number, line) in page.text.lines().enumerate() {
            if let Some(found) = later.iter().find(|word| line.contains(*word)) {
                complaints.push(format!("{}:{}: {found}", page.path, number + 1));
            }
        }
    }
    complaints
}

/// Lock files name packages and hashes; where to fetch them is the machine's own business.
fn lock_files_name_no_host(pages: &[Page]) -> Vec<String> {
    let mut complaints = Vec::new();
    for page in pages {
        if page.path.ends_with("package-lock.json") && page.text.contains("\"resolved\"") {
            complaints.push(format!("{}: `resolved` names a host", page.path));
        }
        if page.path.ends_with("Cargo.lock") {
            let sources = page.text.lines().filter(|line| line.starts_with("source = "));
            let index = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
            for odd in sources.filter(|line| *line != index) {
                complaints.push(format!("{}: {odd}", page.path));
            }
        }
    }
    complaints
}

fn crates_explain_themselves(pages: &[Page]) -> Vec<String> {
    let mut complaints = Vec::new();
    for page in pages.iter().filter(|p| p.path.ends_with("/Cargo.toml")) {
        let folder = page.path.trim_end_matches("Cargo.toml");
        let roots = [format!("{folder}src/lib.rs"), format!("{folder}src/main.rs")];
        let Some(root) = pages.iter().find(|p| roots.contains(&p.path)) else { continue };
        if root.text.trim().is_empty() {
            continue;
        }
        let essay = root.text.lines().take_while(|line| line.starts_with("//!"));
        if essay.map(str::len).sum::<usize>() < ESSAY_BYTES_MIN {
            complaints.push(format!("{}: begins with no essay on the crate", root.path));
        }
    }
    complaints
}

#[test]
fn the_house_keeps_its_rules() {
    let pages = pages();
    let metadata = cargo_metadata();
    let complaints = [
        ("1, crate edges", crate_edges(&metadata)),
        ("2, engine libraries", engine_libraries(&pages)),
        ("3, pure rules", rules_stay_pure(&pages)),
        ("4, errcodes", errcodes_have_one_home(&pages)),
        ("5, spawn sites", spawns_have_one_home(&pages)),
        ("6, routes", routes_have_one_home(&pages)),
        ("7, one ruma", one_ruma(&metadata)),
        ("short files", files_are_short(&pages)),
        ("nothing for later", nothing_is_left_for_later(&pages)),
        ("lock files", lock_files_name_no_host(&pages)),
        ("essays", crates_explain_themselves(&pages)),
    ];
    let told: Vec<String> = complaints
        .iter()
        .flat_map(|(rule, found)| found.iter().map(move |line| format!("rule {rule}: {line}")))
        .collect();
    assert!(told.is_empty(), "\n{}\n", told.join("\n"));
}

mod a_broken_rule_is_told {
    use serde_json::json;

    use super::*;

    fn page(path: &str, text: &str) -> Vec<Page> {
        vec![Page { path: path.to_owned(), text: text.to_owned(), is_test: false }]
    }

    fn crates(edges: &[(&str, &str, Value)]) -> Value {
        let packages: Vec<Value> = edges
            .iter()
            .map(|(from, to, kind)| {
                json!({"name": from, "dependencies": [{"name": to, "kind": kind}]})
            })
            .collect();
        json!({ "packages": packages })
    }

    #[test]
    fn by_an_edge_that_points_up() {
        let edge = |from, to, kind| crate_edges(&crates(&[(from, to, kind)])).len();
        assert_eq!(edge("appliance-ledger", "appliance-services", Value::Null), 1);
        assert_eq!(edge("appliance-api", "appliance-ledger", Value::Null), 1);
        assert_eq!(edge("appliance-api", "appliance-ledger", json!("dev")), 0, "a test's scene");
        assert_eq!(edge("appliance-api", "appliance-federation", json!("dev")), 1, "sideways");
        assert_eq!(edge("appliance-bench", "appliance-model", Value::Null), 1);
        assert_eq!(edge("appliance-attic", "serde", Value::Null), 1, "an unknown crate");
        assert_eq!(edge("appliance-ledger", "appliance-engine", Value::Null), 0);
    }

    #[test]
    fn by_an_engine_library_outside_its_file() {
        let found = |path, text| engine_libraries(&page(path, text)).len();
        assert_eq!(found("appliance/ledger/src/lane.rs", "use heed::Env;"), 1);
        assert_eq!(found("appliance/engine/src/lmdb.rs", "use sled::Db;"), 1);
        assert_eq!(found("appliance/engine/src/lmdb.rs", "use heed::Env;"), 0);
        assert_eq!(found("appliance/engine/src/lib.rs", "Self::Sled(sled) => crate::sled::x"), 0);
        assert_eq!(found("appliance/services/Cargo.toml", "heed = { workspace = true }"), 1);
        assert_eq!(found("appliance/services/Cargo.toml", "sled.workspace = true"), 1);
    }

    #[test]
    fn by_a_judgement_that_waits_or_reads() {
        let found = |text| rules_stay_pure(&page("appliance/rules/src/send.rs", text)).len();
        assert_eq!(found("pub async fn may_send() {}"), 1);
        assert_eq!(found("use std::sync::Mutex;"), 1);
        assert_eq!(found("let p = std::fs::read(path);"), 1);
        assert_eq!(found("/// Never async.\nfn asynchrony() {}"), 0);
        assert_eq!(found("#[cfg(test)]\nmod tests { use std::fs; }"), 0);
    }

    #[test]
    fn by_an_errcode_at_another_desk() {
        let found = |path, text| errcodes_have_one_home(&page(path, text)).len();
        assert_eq!(found("appliance/api/src/client/login.rs", r#"json("M_FORBIDDEN")"#), 1);
        assert_eq!(found("appliance/server/src/listen.rs", r#"r"{"errcode":"M_UNKNOWN"}""#), 1);
        assert_eq!(found("appliance/api/src/error.rs", r#""M_FORBIDDEN""#), 0);
        assert_eq!(found("appliance/acceptance/tests/sweep.rs", r#""M_FORBIDDEN""#), 0);
    }

    #[test]
    fn by_a_spawn_somewhere_else() {
        let found = |path, text| spawns_have_one_home(&page(path, text)).len();
        assert_eq!(found("appliance/services/src/sync.rs", "tokio::spawn(async {})"), 1);
        assert_eq!(found("appliance/services/src/sync.rs", "set.spawn(work)"), 1);
        assert_eq!(found("appliance/api/src/route.rs", "spawn_blocking(|| hash())"), 1);
        assert_eq!(found("appliance/server/src/lifecycle.rs", "tracker.spawn(job)"), 0);
        assert_eq!(found("appliance/services/src/sync.rs", "// no spawn(here)"), 0);
    }

    #[test]
    fn by_a_route_that_nobody_walks() {
        let walk = "async fn strangers_are_turned_away_everywhere() {}";
        let found = |path, text| {
            let mut pages = page("appliance/api/src/every_route.rs", walk);
            pages.extend(page(path, text));
            routes_have_one_home(&pages).len()
        };
        assert_eq!(found("appliance/api/src/client/x.rs", "router.route(\"/x\", get(x))"), 1);
        assert_eq!(found("appliance/server/src/serve.rs", "use axum::routing::get;"), 1);
        assert_eq!(found("appliance/api/src/route.rs", "router.route(path, on(x))"), 0);
        assert_eq!(routes_have_one_home(&page("appliance/api/src/route.rs", "")).len(), 1);
    }

    #[test]
    fn unless_its_parent_says_it_is_a_test() {
        let mut pages = page("appliance/ledger/src/lib.rs", "#[cfg(test)]\nmod scenario;\n");
        pages.extend(page("appliance/ledger/src/scenario.rs", "tasks.spawn(work)"));
        pages.extend(page("appliance/ledger/src/state.rs", "#[cfg(test)]\npub mod scene;\n"));
        pages.extend(page("appliance/ledger/src/state/scene.rs", "tasks.spawn(work)"));
        assert_eq!(spawns_have_one_home(&pages).len(), 2, "nobody has said so yet");
        mark_tests(&mut pages);
        assert_eq!(spawns_have_one_home(&pages).len(), 0);
        pages.extend(page("appliance/ledger/src/scenario_of_life.rs", "tasks.spawn(work)"));
        mark_tests(&mut pages);
        assert_eq!(spawns_have_one_home(&pages).len(), 1, "a name that only begins alike");
    }

    #[test]
    fn by_a_second_ruma() {
        let metadata = |second: &str| {
            json!({
                "packages": [
                    {"id": "a", "name": "appliance-api", "version": "0.1.0"},
                    {"id": "b", "name": "appliance-acceptance", "version": "0.1.0"},
                    {"id": "r17", "name": "ruma", "version": "0.17.2"},
                    {"id": "r16", "name": "ruma", "version": "0.16.0"},
                ],
                "resolve": {"nodes": [
                    {"id": "a", "dependencies": ["r17", second]},
                    {"id": "b", "dependencies": ["r16"]},
                    {"id": "r17", "dependencies": []},
                    {"id": "r16", "dependencies": []},
                ]},
            })
        };
        assert_eq!(one_ruma(&metadata("r16")).len(), 1);
        assert_eq!(one_ruma(&metadata("r17")).len(), 0, "the acceptance clients bring their own");
    }

    #[test]
    fn by_a_long_file_or_one_that_waits_for_later() {
        let long = "// line\n".repeat(LINES_MAX + 1);
        assert_eq!(files_are_short(&page("appliance/api/src/route.rs", &long)).len(), 1);
        assert_eq!(files_are_short(&page("Cargo.lock", &long)).len(), 0);
        let later = format!("{}()", concat!("to", "do!"));
        assert_eq!(nothing_is_left_for_later(&page("appliance/api/src/x.rs", &later)).len(), 1);
        let skipped = format!("{}]", concat!("#[ig", "nore"));
        assert_eq!(nothing_is_left_for_later(&page("bridges/kit/src/x.rs", &skipped)).len(), 1);
    }

    #[test]
    fn by_a_lock_file_that_names_a_host() {
        let npm = r#"{"resolved": "https://registry.example/a.tgz"}"#;
        assert_eq!(lock_files_name_no_host(&page("a/package-lock.json", npm)).len(), 1);
        let cargo = "source = \"registry+https://mirror.example/index\"";
        assert_eq!(lock_files_name_no_host(&page("Cargo.lock", cargo)).len(), 1);
    }

    #[test]
    fn by_a_crate_without_an_essay() {
        let with_root = |text: &str| {
            let mut pages = page("appliance/api/Cargo.toml", "");
            pages.extend(page("appliance/api/src/lib.rs", text));
            crates_explain_themselves(&pages).len()
        };
        assert_eq!(with_root("//! HTTP in.\n\nmod route;\n"), 1);
        assert_eq!(with_root(&"//! What this crate is for, and why.\n".repeat(5)), 0);
    }
}
