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
