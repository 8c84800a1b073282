//! Signing in by OAuth 2.0, as Element X does it: matrix-sdk registers itself and opens a browser, which is a real
//! Chromium, with a certificate of the hospital's devices and without.

use std::path::Path;

use appliance_acceptance::server::{free_port, tools};
use http::Method;
use matrix_sdk::Client;
use matrix_sdk::authentication::oauth::ClientRegistrationData;
use matrix_sdk::authentication::oauth::registration::{
    ApplicationType, ClientMetadata, Localized, OAuthGrantType,
};
use matrix_sdk::ruma::api::client::room::create_room;
use matrix_sdk::ruma::events::room::message::RoomMessageEventContent;
use matrix_sdk::ruma::serde::Raw;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::demo::Demo;
use crate::photo_page::run_node;

const DOCTOR: &str = "dr.osei";

#[tokio::test]
async fn an_app_signs_in_by_a_browser_whose_certificate_makes_the_session_managed() {
    let mut demo = Demo::start().await;
    let devices = demo.folder().join("devices");
    certify(&devices).await;
    let port = free_port();
    let tls = demo.folder().join("wardstone-data/tls");
    demo.kill();
    demo.also_listens(&json!({
        "kind": "sign_in", "address": format!("127.0.0.1:{port}"),
        "tls": {
            "certificate_file": tls.join("server.pem"), "key_file": tls.join("server.key"),
            "client_ca_file": devices.join("ca.pem"),
        },
    }));
    demo.also_sets(&format!(
        "[server]\nsign_in_url = \"https://localhost:{port}\"\n\n[sessions]\npassword_login = false\n\
         app_hosts = [\"app.example\"]\n"
    ));
    demo.start_again().await;

    let login = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": DOCTOR },
        "password": demo.password(DOCTOR),
    });
    let refused = demo.ask(Method::POST, "/_matrix/client/v3/login", "", Some(login)).await;
    assert_eq!(refused.status, 400, "{}", refused.summary());
    assert!(refused.summary().contains("on its own page"), "{}", refused.summary());
    let strange = json!({
        "client_uri": "https://app.example", "redirect_uris": ["https://evil.example/"],
        "grant_types": ["authorization_code", "refresh_token"], "token_endpoint_auth_method": "none",
    });
    let register = "/_matrix/client/unstable/io.wardstone/oauth/register";
    let refused = demo.ask(Method::POST, register, "", Some(strange)).await;
    assert_eq!(refused.status, 400, "{}", refused.summary());
    assert!(refused.summary().contains("invalid_redirect_uri"), "{}", refused.summary());

    let metadata = metadata_for_js(&demo).await;
    assert_eq!(metadata["authorization_endpoint"], format!("https://localhost:{port}/authorize"));

    let plain = sign_in(&demo, None).await;
    assert_eq!(plain.seen["app"], "Ward app");
    assert_eq!(plain.seen["host"], "app.example");
    assert!(
        plain.seen["device"].as_str().unwrap().contains("does not look after"),
        "{}",
        plain.seen
    );
    assert_eq!(plain.seen["mute"], json!([]), "a screen reader has a name for everything");
    assert!(plain.seen["spoken"].as_u64().unwrap() >= 4, "{}", plain.seen);
    assert_eq!((&plain.seen["isWide"], &plain.seen["backBefore"]), (&json!(false), &Value::Null));
    assert_eq!(plain.seen["said"], "The user name or the password is wrong.");
    assert_eq!(plain.class(&demo).await, "unmanaged");

    let managed = sign_in(&demo, Some(&devices)).await;
    assert!(
        managed.seen["device"].as_str().unwrap().contains("belongs to the hospital"),
        "{}",
        managed.seen
    );
    assert_eq!(managed.class(&demo).await, "managed");
    assert_eq!(plain.class(&demo).await, "unmanaged", "the other stays what it is");

    let room = managed.client.create_room(create_room::v3::Request::new()).await.expect("a room");
    let said = RoomMessageEventContent::text_plain("Bed 4 is free");
    room.send(said).await.expect("a message is sent");
    let before = managed.client.session_tokens().expect("tokens");
    managed.client.oauth().refresh_access_token().await.expect("a renewal");
    let after = managed.client.session_tokens().expect("tokens");
    assert!(
        before.access_token != after.access_token && before.refresh_token != after.refresh_token
    );
    managed.client.whoami().await.expect("the new token opens the door");
    assert_eq!(managed.class(&demo).await, "managed", "a renewed session is what it was");

    managed.client.oauth().logout().await.expect("a revocation");
    let whoami = "/_matrix/client/v3/account/whoami";
    let over = demo.ask(Method::GET, whoami, &after.access_token, None).await;
    assert_eq!(over.status, 401, "{}", over.summary());
    plain.client.whoami().await.expect("the other session lives on");
}

/// Somebody who has signed in.
struct SignedIn {
    client: Client,
    seen: Value,
}

impl SignedIn {
    /// The class that the server gives to the session.
    async fn class(&self, demo: &Demo) -> String {
        let user = self.client.user_id().expect("a user").to_string();
        let device = self.client.device_id().expect("a device").to_string();
        let words = ["policy", "explain", "--user", &user, "--device", &device];
        demo.order(&words).await["session_class"].as_str().expect("a class").to_owned()
    }
}

async fn sign_in(demo: &Demo, devices: Option<&Path>) -> SignedIn {
    let name = if devices.is_some() { "managed" } else { "plain" };
    let client = Client::builder()
        .homeserver_url(format!("https://localhost:{}", demo.tls_port))
        .disable_ssl_verification()
        .build()
        .await
        .expect("a client");
    let home = "https://app.example/".parse().expect("a URL");
    // "It MUST have no port in the registered redirect URI."
    let redirect_uris = vec!["http://127.0.0.1/back".parse().expect("a URL")];
    let grants = vec![OAuthGrantType::AuthorizationCode { redirect_uris }];
    let home = Localized::new(home, None);
    let mut metadata = ClientMetadata::new(ApplicationType::Native, grants, home);
    metadata.client_name = Some(Localized::new("Ward app".to_owned(), None));
    let metadata = Raw::new(&metadata).expect("metadata");
    let port = free_port();
    let back = format!("http://127.0.0.1:{port}/back").parse().expect("a URL");
    let oauth = client.oauth();
    let registration = Some(ClientRegistrationData::new(metadata));
    let asked = oauth.login(back, None, registration, None).build().await.expect("an address");
    let device = devices
        .map(|folder| json!({ "home": folder.join("home"), "policies": folder.join("policies") }));
    let screenshots = tools().join("screenshots");
    std::fs::create_dir_all(&screenshots).expect("a folder");
    let given = json!({
        "url": asked.url.as_str(), "user": DOCTOR, "password": demo.password(DOCTOR), "port": port,
        "profile": demo.folder().join(format!("chromium-{name}")), "device": device,
        "screenshot": screenshots.join(format!("oauth-{name}.png")),
    });
    let seen = run_node("sign_in.mjs", &given).await;
    let called = seen["back"].as_str().expect("the app is called");
    let called = format!("http://127.0.0.1:{port}{called}").parse().expect("a URL");
    let called: matrix_sdk::reqwest::Url = called;
    client.oauth().finish_login(called.into()).await.expect("the app is signed in");
    SignedIn { client, seen }
}

/// An authority of openssl's making, a device's certificate in a browser's database, and the policy of a house
/// that shows it to its own server without asking.
async fn certify(folder: &Path) {
    let script = r#"
        set -e
        mkdir -p home/.pki/nssdb policies/policies/managed
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj '/CN=Devices of the house' -keyout ca.key -out ca.pem
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -subj '/CN=tablet-7' -keyout device.key -out device.csr
        printf 'extendedKeyUsage=clientAuth\n' > usage
        openssl x509 -req -in device.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile usage -out device.pem
        openssl pkcs12 -export -name tablet-7 -inkey device.key -in device.pem -out device.p12 -passout pass:
        certutil -N -d sql:home/.pki/nssdb --empty-password
        pk12util -i device.p12 -d sql:home/.pki/nssdb -W ''
        echo '{"AutoSelectCertificateForUrls": ["{\"pattern\":\"https://localhost\",\"filter\":{}}"]}' \
            > policies/policies/managed/certificate.json
    "#;
    std::fs::create_dir_all(folder).expect("a folder");
    let output = Command::new("bash").args(["-c", script]).current_dir(folder).output().await;
    let output = output.expect("run openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn metadata_for_js(demo: &Demo) -> Value {
    let script = format!("{}/js/auth_metadata.mjs", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("node").args([script, demo.base_url()]).output().await;
    let output = output.expect("run node");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("metadata")
}
