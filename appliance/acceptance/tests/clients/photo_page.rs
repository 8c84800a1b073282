//! The photo page in a real browser, on a screen of a phone's size: signed in, a photo taken with the camera,
//! sent and looked at, all by keyboard, then covered and closed. Then every file that the browser left
//! behind is searched for it.

use appliance_acceptance::server::tools;
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::demo::Demo;

const DOCTOR: &str = "dr.osei";

#[tokio::test]
async fn a_photo_is_taken_and_seen_in_a_browser_that_keeps_none_of_it() {
    let demo = Demo::start().await;
    let doctor = demo.sign_in(DOCTOR).await;
    let policy = json!({
        "class": "clinical-photo",
        "camera": { "consent": "required", "reference": "required" },
        "device": { "upload_from_unmanaged": "capture-page-only" },
    });
    let ward = json!({
        "name": "Wounds",
        "initial_state": [{ "type": "io.wardstone.policy", "content": policy }],
    });
    let made = demo.call(Method::POST, "/createRoom", &doctor, Some(ward)).await;
    let room = made["room_id"].as_str().unwrap().to_owned();

    let screenshots = tools().join("screenshots");
    std::fs::create_dir_all(&screenshots).unwrap();
    let given = json!({
        "url": format!("https://localhost:{}/", demo.photo_port),
        "user": DOCTOR,
        "password": demo.password(DOCTOR),
        "room": "Wounds",
        "profile": demo.folder().join("chromium"),
        "screenshots": screenshots,
    });
    let seen = run_node("photo_page.mjs", &given).await;

    assert_eq!(seen["cookieInScripts"], "", "no script can read the session");
    assert_eq!(seen["sendsWithoutConsent"], false);
    assert_eq!(seen["mute"], json!([]), "a screen reader has a name for everything");
    assert!(seen["spoken"].as_u64().unwrap() > 10, "{seen}");
    assert_eq!(seen["wide"], json!([]), "it fits on a phone's screen");
    assert_eq!(seen["said"], "The photo is in the room.");
    assert!(seen["entry"].as_str().unwrap().contains("patient MRN-7"), "{seen}");
    assert_eq!(seen["shownBeforeLook"], false, "a page is inert");
    assert!(seen["size"][0].as_u64().unwrap() >= 320, "{seen}");
    assert!(seen["photoBytes"].as_u64().unwrap() > 10_000, "{seen}");
    assert_eq!(seen["coveredWhenHidden"], true);
    assert_eq!(seen["sourceAfterClose"], Value::Null);
    assert_eq!(seen["stored"], 0);
    assert_ne!(seen["controlKept"], 0, "the search finds what a browser keeps: {seen}");
    assert_eq!((&seen["photoKept"], &seen["holdersBefore"]), (&json!(0), &json!(0)), "{seen}");

    let path = format!("/rooms/{room}/messages?dir=b");
    let page = demo.call(Method::GET, &path, &doctor, None).await;
    let photo = &page["chunk"][0]["content"];
    assert_eq!(photo["msgtype"], "m.image");
    let told = json!({ "consent": true, "patient_reference": "MRN-7" });
    assert_eq!(photo["io.wardstone.capture"], told);
}

/// Runs one of our scripts with what it is given; returns its report.
pub async fn run_node(script: &str, given: &Value) -> Value {
    let script = format!("{}/js/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("node").args([script, given.to_string()]).output().await;
    let output = output.expect("run node");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("a report")
}
