//! What is over is nowhere: two apps against the server that a new user starts, a photo with a place in
//! it, words with a time, a kill, every byte of the data folder, and an old copy of it.

use std::path::Path;
use std::time::Duration;

use appliance_acceptance::device::{Device, Process};
use appliance_acceptance::person::{Person, sha256};
use appliance_acceptance::wait::until;
use http::Method;
use serde_json::json;

use crate::demo::Demo;

const WORDS: &str = "planted words: the knee of bed seven";
const PLACE: &str = "GPS-PLANTED-51.5074N";
/// Long enough to be seen on the busiest machine, short enough to wait for.
const TTL_MS: u64 = 25_000;

/// A PNG with a place beside the picture.
fn photo() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 64, 64);
    encoder.set_color(png::ColorType::Rgb);
    encoder.add_text_chunk("Location".to_owned(), PLACE.to_owned()).expect("a text");
    let mut writer = encoder.write_header().expect("a PNG header");
    writer.write_image_data(&[200, 20, 30].repeat(64 * 64)).expect("PNG pixels");
    writer.finish().expect("a PNG");
    bytes
}

/// The files below a folder that hold some bytes.
fn holders(folder: &Path, wanted: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(holders(&path, wanted));
        } else if std::fs::read(&path).is_ok_and(|b| b.windows(wanted.len()).any(|w| w == wanted)) {
            found.push(path);
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp").success());
}

/// Everything that the doctor can ask for that may hold the words or the photo.
async fn reads(demo: &Demo, token: &str, room: &str, (words, mxc): (&str, &str)) -> Vec<String> {
    let mut told = Vec::new();
    let paths = [
        format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=50"),
        format!("/_matrix/client/v3/rooms/{room}/context/{words}"),
        format!("/_matrix/client/v3/rooms/{room}/event/{words}"),
        "/_matrix/client/v3/sync".to_owned(),
        mxc.replacen("mxc://", "/_matrix/client/v1/media/download/", 1),
        mxc.replacen("mxc://", "/_matrix/client/v1/media/thumbnail/", 1) + "?width=32&height=32",
    ];
    for path in paths {
        let answer = demo.ask(Method::GET, &path, token, None).await;
        let has_words = answer.body.windows(WORDS.len()).any(|part| part == WORDS.as_bytes());
        if has_words || (path.contains("/media/") && answer.status.is_success()) {
            told.push(path);
        }
    }
    let search =
        json!({ "search_categories": { "room_events": { "search_term": "planted knee" } } });
    let answer = demo.ask(Method::POST, "/_matrix/client/v3/search", token, Some(search)).await;
    if answer.json()["search_categories"]["room_events"]["count"] != 0 {
        told.push("search".to_owned());
    }
    told
}

#[tokio::test]
async fn what_is_over_is_nowhere_not_even_in_an_old_copy_of_the_store() {
    let mut demo = Demo::start().await;
    let person = |name: &str| Person { localpart: name.into(), password: demo.password(name) };
    let (doctor, nurse) = (person("dr.osei"), person("nurse.amara"));
    let url = demo.base_url();
    let mut doctor = Device::log_in_at(Box::new(Process::nio()), &doctor, &url).await;
    let mut nurse = Device::log_in_at(Box::new(Process::js()), &nurse, &url).await;
    let room = doctor.create_room(false, &[&nurse.user_id]).await;
    nurse.join(&room).await;
    let policy = json!({
        "timeline": { "ttl_ms": TTL_MS }, "media": { "ttl_ms": TTL_MS },
        "device": { "strip_metadata": true },
    });
    let path = format!("/rooms/{room}/state/io.wardstone.policy");
    demo.call(Method::PUT, &path, &doctor.token, Some(policy)).await;

    let (file, original) = (demo.folder().join("wound.png"), photo());
    std::fs::write(&file, &original).expect("a photo");
    let shown = doctor.send_photo(&room, &file, false).await;
    let words = doctor.send(&room, WORDS).await;
    nurse.hear(&room, WORDS, &doctor.user_id).await;
    assert_ne!(nurse.see_photo(&room, &shown).await, sha256(&original), "it was cleaned");
    let download = shown.mxc.replacen("mxc://", "/_matrix/client/v1/media/download/", 1);
    let bytes = demo.ask(Method::GET, &download, &nurse.token, None).await.body;
    assert!(bytes.starts_with(b"\x89PNG") && holds(&original, PLACE) && !holds(&bytes, PLACE));
    let asked = (words.as_str(), shown.mxc.as_str());
    assert_eq!(reads(&demo, &nurse.token, &room, asked).await.len(), 7, "all of it is there");

    // A copy, as somebody makes who knows no better; then the power goes, and its time comes.
    demo.kill();
    let (data, old) = (demo.data_folder(), demo.folder().join("old-copy"));
    copy(&data, &old);
    tokio::time::sleep(Duration::from_millis(TTL_MS)).await;
    demo.start_again().await;
    let none: Vec<String> = Vec::new();
    assert_eq!(reads(&demo, &nurse.token, &room, asked).await, none, "from the first answer on");
    assert_eq!(nurse.download(&shown.mxc).await.0, 404);
    until("the file to be erased", async || {
        let media = data.join("media");
        (files_below(&media) == 0).then_some(())
    })
    .await;
    demo.kill();
    for marker in [WORDS, PLACE] {
        assert_eq!(holders(&data, marker.as_bytes()), Vec::<std::path::PathBuf>::new());
    }
    assert_eq!(holders(demo.folder(), PLACE.as_bytes()), [file], "the search finds what is there");

    std::fs::remove_dir_all(&data).expect("the data folder");
    copy(&old, &data);
    demo.start_again().await;
    assert_eq!(reads(&demo, &nurse.token, &room, asked).await, none, "an old copy shows nothing");
}

fn holds(bytes: &[u8], marker: &str) -> bool {
    bytes.windows(marker.len()).any(|part| part == marker.as_bytes())
}

fn files_below(folder: &Path) -> usize {
    let entries =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}
