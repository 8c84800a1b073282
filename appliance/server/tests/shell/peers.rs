//! Peers on the command line: what is said of one can be shown, checked, printed and read back.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::world::{Folder, stderr, stdout};

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

#[test]
fn a_peer_is_described_shown_exported_and_imported() {
    let server = Folder::new("").start();
    let key = "ed25519:a_1=Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw";
    let pin = format!("sha256:{}", "ab".repeat(32));
    let words = [
        "peers",
        "add",
        "b.example",
        "--legal-name",
        "Hospital B",
        "--id",
        "ods=RJ1",
        "--jurisdiction",
        "UK",
        "--contact",
        "+44 1",
        "--contract",
        "17",
        "--valid-from",
        "2026-01-01",
        "--valid-until",
        "2999-12-31",
        "--may-invite",
        "no",
        "--media",
        "yes",
        "--address",
        "192.0.2.1:8448",
        "--tls-name",
        "matrix.b.example",
        "--pin",
        key,
        "--pin-certificate",
        &pin,
    ];
    let output = server.run(&words, "");
    assert!(output.status.success(), "{output:?}");
    let shown = stdout(&server.run(&["peers", "show", "b.example"], ""));
    for expected in [
        "active",
        "Hospital B",
        "ods: RJ1",
        "contract: 17",
        "first day: 2026-01-01",
        "last day: 2999-12-31",
        "may invite: no",
        "may be invited: yes",
        "files: allow",
        "address: 192.0.2.1:8448",
        key,
        &pin,
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let exported = stdout(&server.run(&["peers", "export"], ""));
    server.run(&["peers", "remove", "b.example"], "");
    let file = server.folder.write("peers.toml", &exported);
    let file = file.to_str().unwrap();
    let imported = json(&server.run(&["peers", "import", file, "--json"], "").stdout);
    assert_eq!(imported["added"], 1, "{imported}");
    assert_eq!(stdout(&server.run(&["peers", "export"], "")), exported, "it comes back as it was");

    let out = server.run(&["peers", "suspend", "b.example", "--expel", "--json"], "");
    let out = json(&out.stdout);
    assert_eq!((&out["state"], &out["expelled"]), (&"suspended".into(), &serde_json::json!([])));
    server.run(&["peers", "resume", "b.example"], "");
    let over = server.run(&["peers", "add", "b.example", "--valid-until", "2026-01-02"], "");
    assert!(stdout(&over).contains("expired"), "{over:?}");
    let check = json(&server.run(&["peers", "check", "b.example", "--json"], "").stdout);
    let said = check["findings"][0]["sentence"].as_str().unwrap();
    assert!(said.contains("last day of b.example was 2026-01-02"), "{check}");
    assert_eq!(check["ok"], false);
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let server = Folder::new("").start();
    let pem = server.folder.write("ca.pem", "no certificate");
    let cases: [(&[&str], &str); 5] = [
        (&["--valid-from", "today"], "is no day"),
        (&["--pin-certificate", "abc"], "64 hexadecimal digits"),
        (&["--tls-name", "b.example"], "goes with an address"),
        (&["--ca", pem.to_str().unwrap()], "The authorities are wrong"),
        (&["--ca", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
    ];
    for (words, expected) in cases {
        let all: Vec<&str> = ["peers", "add", "b.example"].iter().chain(words).copied().collect();
        let output = server.run(&all, "");
        assert!(!output.status.success(), "{words:?}");
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
    }
    let approve = server.run(&["peers", "approve-key", "b.example", "ed25519:a"], "");
    assert!(stderr(&approve).contains("waits for approval"), "{approve:?}");
    assert_eq!(stdout(&server.run(&["peers", "list"], "")), "This server talks with nobody.\n");
}

/// From the first word to the last: two servers, two administrators, two letters.
#[test]
fn two_hospitals_shake_hands() {
    let a = Folder::new("").start();
    let b = Folder::named("b.example", "").start();
    let offer = a.run(&["peers", "invite", "b.example", "--our-name", "Hospital A"], "");
    let offer = stdout(&offer);
    assert!(offer.contains('█'), "a picture: {offer}");
    let letter =
        |text: &str| text.lines().find(|line| line.starts_with("wardstone-")).unwrap().to_owned();
    let accepted = b.run(&["peers", "accept", "-", "--our-name", "Hospital B"], &letter(&offer));
    let accepted = stdout(&accepted);
    assert!(accepted.contains("wardstone peers resume hospital.example"), "{accepted}");
    let answer = letter(&accepted);
    let done = json(&a.run(&["peers", "accept", &answer, "--json"], "").stdout);
    assert_eq!((&done["state"], &done["legal_name"]), (&"suspended".into(), &"Hospital B".into()));
    let words = done["check_phrase"].as_str().unwrap();
    assert!(accepted.contains(words), "{words}: {accepted}");
    let again = a.run(&["peers", "accept", &answer], "");
    assert!(stderr(&again).contains("answers no offer that is open"), "{again:?}");
    let resumed = a.run(&["peers", "resume", "b.example"], "");
    assert!(stdout(&resumed).contains("active"), "{resumed:?}");
}

/// The settings name a list and its key; the server says how things stand with it.
#[test]
fn a_signed_list_lets_in_who_is_on_it() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let key = STANDARD.encode(pair.public_key().as_der().unwrap().as_ref());
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let payload = "{\"version\":3,\"domainList\":[{\"domain\":\"b.example\"}]}";
    let signed = format!("{}.{}", part("{\"alg\":\"ES256\"}"), part(payload));
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    let jws = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));

    let folder = Folder::new("");
    let list = folder.write("list.jws", &jws);
    let key = format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n");
    let key = folder.write("list.pem", &key);
    let settings = format!("[federation.list]\nsource = {list:?}\nkey_file = {key:?}\n");
    folder.write("conf.d/30-list.toml", &settings);
    let server = folder.start();
    let shown = || json(&server.run(&["peers", "show", "b.example", "--json"], "").stdout);
    let since = std::time::Instant::now();
    while shown()["state"] != "active" && since.elapsed() < crate::world::PATIENCE {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let shown = shown();
    assert_eq!((&shown["state"], &shown["from"]), (&"active".into(), &"signed_list".into()));
    let listed = stdout(&server.run(&["peers", "list"], ""));
    assert!(listed.contains("1 servers of the signed list, version 3"), "{listed}");

    let wrong = Folder::new("[federation.list]\nsource = \"http://list.example/\"\n");
    let output = wrong.run(&["config", "check"], "");
    let said = stdout(&output) + &stderr(&output);
    assert!(said.contains("neither a file nor an https URL"), "{said}");
    assert!(said.contains("who signs the list?"), "{said}");
}

/// Where somebody wanted to go is known after the process that wanted it has ended.
#[test]
fn what_was_refused_is_on_the_list_of_destinations() {
    let folder = Folder::new("");
    folder.run(&["peers", "add", "b.example", "--address", "localhost:1"], "");
    let check = json(&folder.run(&["peers", "check", "b.example", "--json"], "").stdout);
    assert_eq!(check["ok"], false);
    let said = check["findings"].to_string();
    assert!(said.contains("is not let out to it") && said.contains("egress.networks"), "{said}");
    let listed = json(&folder.run(&["egress", "list", "--json"], "").stdout);
    let seen = &listed["destinations"][0];
    assert_eq!(
        (&seen["purpose"], &seen["host"]),
        (&"peer b.example".into(), &"localhost:1".into())
    );
    assert_eq!(seen["connected"], 0);
}
