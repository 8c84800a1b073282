//! A web client on a shared machine: its service worker fetches files with a token and a plain `fetch()`, and
//! the browser's rules decide what stays in the profile.

use http::Method;
use serde_json::json;

use crate::demo::Demo;
use crate::photo_page::run_node;

const DOCTOR: &str = "dr.osei";

#[tokio::test]
async fn a_web_client_s_browser_keeps_no_photo_after_it_is_closed() {
    let demo = Demo::start().await;
    let doctor = demo.sign_in(DOCTOR).await;
    let uri = demo.upload(&doctor, noise()).await;
    let content = json!({ "msgtype": "m.image", "body": "wound.png", "url": uri });
    let made = demo.call(Method::POST, "/createRoom", &doctor, Some(json!({}))).await;
    let path = format!("/rooms/{}/send/m.room.message/t1", made["room_id"].as_str().unwrap());
    demo.call(Method::PUT, &path, &doctor, Some(content)).await;

    let given = json!({
        "homeserver": demo.base_url(),
        "token": doctor,
        "governed": uri.trim_start_matches("mxc://"),
        "profile": demo.folder().join("chromium"),
    });
    let seen = run_node("browser_cache.mjs", &given).await;
    assert_eq!(seen["width"], 128, "it was shown: {seen}");
    assert_eq!(seen["governed"], 0, "`no-store` is kept by browsers: {seen}");
    assert_ne!(seen["control"], 0, "the search finds what a browser keeps: {seen}");
}

/// A picture whose middle occurs nowhere else.
fn noise() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 128, 128);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().expect("a PNG header");
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    let pixels: Vec<u8> = (0..128 * 128 * 3).map(|_| next()).collect();
    writer.write_image_data(&pixels).expect("PNG pixels");
    writer.finish().expect("a PNG");
    bytes
}
