//! The admin socket: who gets in, and that commands work with and without a server.

use std::process::Command;

use serde_json::Value;

use crate::world::{BINARY, Folder, is_root, request, set_mode, stderr, stdout};

#[test]
fn accounts_are_made_with_and_without_a_server() {
    let folder = Folder::new("");
    let output = folder.run(&["user", "create", "ada", "--administrator"], "pass phrase\n");
    assert!(output.status.success(), "{output:?}");
    let server = folder.start();
    let output = server.run(&["user", "create", "Nurse.Amara", "--generate", "--json"], "");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["user_id"], "@nurse.amara:hospital.example");

    let login = |user: &str, password: &str| {
        let body = serde_json::json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user },
            "password": password,
        });
        request(server.client(), "POST", "/_matrix/client/v3/login", "", &body.to_string())
    };
    assert_eq!(login("ada", "pass phrase").status, 200);
    let answer = login("nurse.amara", made["password"].as_str().unwrap());
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer: Value = serde_json::from_str(&answer.body).unwrap();
    let token = format!("Authorization: Bearer {}\r\n", answer["access_token"].as_str().unwrap());
    let whoami =
        || request(server.client(), "GET", "/_matrix/client/v3/account/whoami", &token, "").status;
    assert_eq!(whoami(), 200);

    let output = server.run(&["user", "reset-password", "nurse.amara"], "new words\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(whoami(), 401, "a new password ends the sessions");
    assert_eq!(login("nurse.amara", "new words").status, 200);

    server.run(&["user", "deactivate", "@nurse.amara:hospital.example"], "");
    assert_eq!(login("nurse.amara", "new words").status, 403);
    let users = stdout(&server.run(&["user", "list"], ""));
    assert!(users.contains("@ada:hospital.example") && users.contains("administrator"), "{users}");
    assert!(users.contains("deactivated"), "{users}");
}

#[test]
fn what_cannot_be_done_is_said_in_a_sentence() {
    let server = Folder::new("").start();
    let cases: [(&[&str], &str, &str); 4] = [
        (&["user", "create", "nurse"], "", "no password was given"),
        (&["user", "create", "not a name"], "pw\n", "A user name consists of"),
        (&["user", "deactivate", "nobody"], "", "There is no account of that name"),
        (&["user", "reset-password", "@x"], "pw\n", "is not a user"),
    ];
    for (words, input, expected) in cases {
        let output = server.run(words, input);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
    }
}

/// The kernel says who knocks; a file mode that somebody loosened does not let strangers in.
#[test]
fn another_user_is_refused() {
    let server = Folder::new("").start();
    if !is_root() {
        // Only root can become somebody else. What is left to see here: our own user gets in.
        assert!(server.run(&["user", "list"], "").status.success());
        return;
    }
    let folder = &server.folder;
    for name in ["", "data", "conf.d"] {
        set_mode(&folder.path(name), 0o755);
    }
    for name in ["wardstone.toml", "conf.d/10-test.toml", "conf.d/20-extra.toml"] {
        set_mode(&folder.path(name), 0o644);
    }
    let binary = folder.path("wardstone");
    std::fs::copy(BINARY, &binary).unwrap();
    let as_nobody = || {
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(["user", "list", "--config"])
            .arg(folder.path("wardstone.toml"))
            .output()
            .unwrap()
    };
    let output = as_nobody();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(stderr(&output).contains("only root and the server's own user"), "{output:?}");

    set_mode(&folder.path("data/admin.sock"), 0o666);
    let output = as_nobody();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("only root and the server's own user"), "{output:?}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn two_servers_do_not_share_a_folder() {
    let server = Folder::new("").start();
    let output = server.run(&["serve"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another Wardstone uses the data folder"), "{output:?}");
}

/// What an administrator reads before and after a rule is set: who decides what for whom.
#[test]
fn the_policy_is_explained_and_tried_before_it_is_set() {
    let server = Folder::new("").start();
    let made = server.run(&["user", "create", "amara", "--generate", "--json"], "");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let login = serde_json::json!({
        "type": "m.login.password", "device_id": "PHONE", "password": made["password"],
        "identifier": { "type": "m.id.user", "user": "amara" },
    });
    let ask = |method: &str, path: &str, token: &str, body: Value| -> Value {
        let token = format!("Authorization: Bearer {token}\r\n");
        let answer = request(server.client(), method, path, &token, &body.to_string());
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    };
    let token = ask("POST", "/_matrix/client/v3/login", "", login)["access_token"].clone();
    let token = token.as_str().unwrap();
    let room = serde_json::json!({ "initial_state": [{
        "type": "io.wardstone.policy",
        "content": { "class": "clinical-photo", "media": { "ttl_ms": 3_600_000, "max_opens_per_user": 9 } },
    }] });
    let room = ask("POST", "/_matrix/client/v3/createRoom", token, room)["room_id"].clone();
    let room = room.as_str().unwrap();
    let mxc =
        ask("POST", "/_matrix/media/v3/upload?filename=a.txt", token, Value::Null)["content_uri"]
            .clone();
    let mxc = mxc.as_str().unwrap();

    let said = |words: &[&str]| {
        let output = server.run(words, "");
        assert!(output.status.success(), "{words:?}: {output:?}");
        stdout(&output)
    };
    let line = |text: &str, name: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let user = "@amara:hospital.example";
    let about = ["--user", user, "--device", "PHONE", "--room", room];
    let explained = said(&[&["policy", "explain"], &about[..], &["--photo", mxc]].concat());
    let first = "A session of class unmanaged, a room of class clinical-photo: placeholder.";
    assert!(explained.starts_with(first), "{explained}");
    assert_eq!(line(&explained, "media.ttl_ms"), ["media.ttl_ms", "3600000", "room"]);
    assert_eq!(
        line(&explained, "device.unmanaged"),
        ["device.unmanaged", "\"placeholder\"", "class"]
    );
    assert!(
        explained.contains("The room asks for more than it gets: media.max_opens_per_user"),
        "{explained}"
    );
    assert!(explained.contains("download picture                     placeholder"), "{explained}");
    assert!(explained.contains(&format!("{mxc}, their own: opened 0 times")), "{explained}");
    assert_eq!(line(&explained, "encryption"), ["encryption", "allowed"]);

    let pack = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/policies/strict.toml");
    let before = said(&["policy", "show"]);
    let tried = said(&["policy", "simulate", pack, "--class", "managed"]);
    let (now, then) = tried.split_once("\n\nTHEN\n").expect("two parts");
    assert!(
        now.starts_with("NOW\nA session of class managed, a room of class general: original."),
        "{now}"
    );
    assert!(
        then.starts_with("A session of class managed, a room of class clinical-photo: original."),
        "{then}"
    );
    assert_eq!(line(then, "device.strip_metadata"), ["device.strip_metadata", "true", "server"]);
    assert_eq!(said(&["policy", "show"]), before, "nothing is set");
    assert_eq!(said(&["policy", "set", pack]).trim(), "The policy is set: \"strict\".");
    let held = said(&["policy", "explain", "--class", "managed"]);
    assert_eq!(held.trim(), then.trim(), "what was promised holds");

    let none =
        server.folder.write("none.toml", "[server.device]\nunmanaged_encryption = \"none\"\n");
    said(&["policy", "set", none.to_str().unwrap()]);
    let explained = said(&[&["policy", "explain"], &about[..]].concat());
    assert_eq!(line(&explained, "encryption")[1], "refused:");

    let wrong = server
        .folder
        .write("wrong.toml", "[class.clinical-e2ee.device]\nunmanaged_encryption = \"none\"\n");
    let cases: [(&[&str], &str); 4] = [
        (&["policy", "set", wrong.to_str().unwrap()], "is said for the whole house only"),
        (
            &["policy", "explain", "--user", user, "--device", "NONE"],
            "This user has no such device",
        ),
        (&["policy", "explain", "--class", "nurse"], "is no class of sessions"),
        (&["policy", "simulate", "/nowhere.toml"], "No such file"),
    ];
    for (words, why) in cases {
        let output = server.run(words, "");
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        assert!(stderr(&output).contains(why), "{words:?}: {}", stderr(&output));
    }
}
