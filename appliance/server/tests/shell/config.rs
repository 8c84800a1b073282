//! Settings that are wrong, and what the administrator hears.

use serde_json::Value;

use crate::world::{Folder, stderr, stdout};

#[test]
fn a_misspelt_key_stops_the_start_with_file_line_and_nearest_name() {
    let folder = Folder::new("\n[media]\nttl_sm = 1\n");
    for command in ["serve", "config check", "config show", "user list"] {
        let words: Vec<&str> = command.split(' ').collect();
        let output = folder.run(&words, "");
        assert_eq!(output.status.code(), Some(2), "{command}");
        let file = folder.path("conf.d/20-extra.toml");
        let expected = format!(
            "{}:3: media.ttl_sm: unknown key; did you mean \"media.ttl_ms\"?",
            file.display()
        );
        assert!(stderr(&output).contains(&expected), "{command}: {}", stderr(&output));
    }
}

#[test]
fn check_answers_in_json_too() {
    let folder = Folder::new("");
    let output = folder.run(&["config", "check", "--json"], "");
    assert_eq!(stdout(&output), "{\"ok\":true,\"problems\":[]}\n");
    let folder = Folder::new("[rooms]\ndefault_version = \"99\"\n");
    let output = folder.run(&["config", "check", "--json"], "");
    assert_eq!(output.status.code(), Some(2));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["problems"][0]["key"], "rooms.default_version");
}

#[test]
fn show_masks_secrets_and_names_origins() {
    let folder = Folder::new("[registration]\nmode = \"token\"\ntokens = [\"planted-token\"]\n");
    let text = stdout(&folder.run(&["config", "show"], ""));
    assert!(!text.contains("planted-token"), "{text}");
    assert!(text.contains("registration.tokens = [\"***\"]"), "{text}");
    assert!(text.contains("media.ttl_ms = 604800000"), "{text}");

    let json: Value =
        serde_json::from_slice(&folder.run(&["config", "show", "--json"], "").stdout).unwrap();
    assert_eq!(json["registration.tokens"]["value"][0], "***");
    assert_eq!(json["limits.idle_ms"]["origin"], "default");
    let origin = json["registration.mode"]["origin"].as_str().unwrap();
    assert!(origin.ends_with("conf.d/20-extra.toml:2"), "{origin}");
}

#[test]
fn a_certificate_that_cannot_be_read_is_found_by_check() {
    let folder = Folder::new(
        "[[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:0\"\ntls = { certificate_file = \
         \"no.pem\", key_file = \"no.key\" }\n",
    );
    let output = folder.run(&["config", "check"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no.pem"), "{}", stderr(&output));
}

#[test]
fn plain_http_to_the_network_is_refused_with_advice_unless_in_conformance() {
    let listener = "[[listeners]]\nkind = \"client\"\naddress = \"0.0.0.0:0\"\n\
                    [[listeners]]\nkind = \"metrics\"\naddress = \"127.0.0.1:0\"\n";
    let output = Folder::new(listener).run(&["serve"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("would speak plain HTTP to the network: add tls"));

    let mut server = Folder::new(listener).argument("--conformance").start();
    let metrics = crate::world::get(server.metrics(), "/metrics").body;
    assert!(metrics.contains("wardstone_conformance_mode 1"), "{metrics}");
    server.signal("TERM");
    server.wait_for("server.stopping");
    let (status, log) = server.wait();
    assert!(status.success());
    assert!(log.contains("CONFORMANCE MODE: this server protects nobody"), "{log}");
}

#[test]
fn signing_in_on_a_page_needs_all_that_it_stands_on() {
    let page = "[[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:0\"\n\
                [[listeners]]\nkind = \"sign_in\"\naddress = \"127.0.0.1:0\"\n";
    let client = "[[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:0\"\n";
    let good = "[server]\nsign_in_url = \"https://login.example\"\n\
                public_base_url = \"https://matrix.example\"\n";
    let whole =
        format!("{good}[sessions]\npassword_login = false\napp_hosts = [\"element.io\"]\n{page}");
    let output = Folder::new(&whole).run(&["config", "check"], "");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for (settings, said) in [
        (
            "[sessions]\npassword_login = false\n".to_owned(),
            "sessions.password_login: false leaves no way in",
        ),
        (page.to_owned(), "server.sign_in_url: is not set"),
        (format!("{good}{client}"), "server.sign_in_url: needs a listener"),
        (
            format!("[server]\nsign_in_url = \"https://login.example\"\n{page}"),
            "server.public_base_url: must be an https URL",
        ),
        (
            format!("{}{page}", good.replace("login.example", "matrix.example/")),
            "server.sign_in_url: is server.public_base_url",
        ),
        (
            format!("{}{page}", good.replace("https://login.example", "http://login.example")),
            "server.sign_in_url: is not an https origin",
        ),
        (
            format!("{}{page}", good.replace("login.example", "login.example/page")),
            "server.sign_in_url: is not an https origin",
        ),
        (
            format!(
                "{good}{page}tls = {{ certificate_file = \"c\", key_file = \"k\", client_ca_file = \"a\" }}\n"
            ),
            "sessions.app_hosts: is empty",
        ),
        (
            format!("{good}[sessions]\napp_hosts = [\"https://element.io\"]\n{page}"),
            "sessions.app_hosts[0]",
        ),
    ] {
        let output = Folder::new(&settings).run(&["config", "check"], "");
        assert_eq!(output.status.code(), Some(2), "{settings}");
        assert!(stderr(&output).contains(said), "{settings}: {}", stderr(&output));
    }
}
