//! Fuzz targets of what reads files and pages of strangers, and the administrator's. See
//! [`appliance_model::scenario::fuzz`].

#![cfg(test)]

use std::io::Cursor;

use appliance_model::Pdu;
use appliance_model::ruma::{OwnedEventId, OwnedRoomId, server_name};
use appliance_model::scenario::fuzz::Inputs;
use image::codecs::gif::GifEncoder;
use image::{DynamicImage, Frame, ImageFormat, RgbaImage};
use serde_json::Value;

use crate::appservices::Registration;

use crate::media::kind::agrees;
use crate::media::page::properties;
use crate::media::tests::{film, read_parts, try_renderings};
use crate::peers::canonical_json;

fn inputs(target: &'static str, seeds: &[&[u8]]) -> Inputs {
    Inputs::of(target, env!("CARGO_MANIFEST_DIR"), seeds)
}

/// What is taken out of the answer is a part of it.
#[tokio::test]
async fn fuzz_multipart() {
    let whole =
        b"--x\r\nContent-Type: application/json\r\n\r\n{}\r\n--x\r\nContent-Type: image/png\
        \r\nContent-Disposition: inline\r\n\r\nPNG\r\n--x--\r\n";
    let location = b"--x\r\n\r\n{}\r\n--x\r\nLocation: https://a.example/\r\n\r\n\r\n--x--";
    let mut inputs = inputs("multipart", &[whole, location]);
    while let Some(input) = inputs.next() {
        for piece_bytes in [1, 7, 10_000] {
            if let Some(file) = read_parts(input, piece_bytes).await {
                let is_part = input.windows(file.len().max(1)).any(|part| part == file);
                assert!(file.is_empty() || is_part);
            }
        }
    }
}

#[test]
fn fuzz_pictures() {
    let picture = RgbaImage::from_fn(20, 16, |x, y| image::Rgba([(x * y % 250) as u8, 1, 2, 200]));
    let mut seeds = Vec::new();
    for format in [ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Jpeg] {
        let mut seed = Vec::new();
        let picture = DynamicImage::ImageRgba8(picture.clone());
        let picture = if format == ImageFormat::Jpeg { picture.to_rgb8().into() } else { picture };
        picture.write_to(&mut Cursor::new(&mut seed), format).unwrap();
        seeds.push(seed);
    }
    let mut moving = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut moving, 30);
    for _ in 0..3 {
        encoder.encode_frame(Frame::new(picture.clone())).unwrap();
    }
    drop(encoder);
    seeds.push(moving);
    seeds.push(film());
    let seeds: Vec<_> = seeds.iter().map(Vec::as_slice).collect();
    let mut inputs = inputs("pictures", &seeds);
    while let Some(input) = inputs.next() {
        for bytes in try_renderings(input, 100_000) {
            let made = image::load_from_memory(&bytes).unwrap();
            assert!(made.width() <= 320 && made.height() <= 320);
        }
    }
}

#[test]
fn fuzz_page() {
    let page = b"<!doctype html><title>a &amp; b</title><meta property=og:image content='x'>\
        <script><!-- <script> --></script><style>x</style></head><body>";
    let mut inputs = inputs("page", &[page, b"<?xml version='1.0'?><svg/>", b"<![CDATA[<meta"]);
    while let Some(text) = inputs.next_text() {
        let found = properties(&text);
        assert!(found.len() <= 34 && found.keys().all(|name| name.starts_with("og:")));
        let _ = agrees("image/png", Some(&text));
    }
}

#[test]
fn fuzz_registration() {
    let seed = br#"{"id":"b","url":"http://localhost:1","as_token":"a","hs_token":"h","sender_localpart":"bot","rate_limited":false,"namespaces":{"users":[{"exclusive":true,"regex":"@_irc_.*:hospital\\.example"}],"aliases":[],"rooms":[{"exclusive":false,"regex":"!(a|b)+"}]},"protocols":["irc"],"receive_ephemeral":true,"org.matrix.msc3202":true}"#;
    let mut inputs = inputs("registration", &[seed]);
    while let Some(input) = inputs.next() {
        let Ok(json) = serde_json::from_slice::<Value>(input) else { continue };
        let server = server_name!("hospital.example");
        if let Ok(registration) = Registration::read(json, server) {
            let user = appliance_model::ruma::user_id!("@_irc_aaaaaaaaaaaaaaaa:hospital.example");
            registration.speaks_as(user);
            registration.owns_user(user);
        }
    }
}

/// Canonical JSON is JSON of the same meaning, and its own canonical form.
#[test]
fn fuzz_canonical_json_and_events() {
    let event = br#"{"auth_events":["$a"],"content":{"body":"x","redacts":"$r"},"depth":3,"hashes":{"sha256":"AA"},"origin_server_ts":1,"prev_events":["$b"],"room_id":"!a:b","sender":"@a:b","signatures":{},"type":"m.room.redaction","redacts":"$r","state_key":""}"#;
    let mut inputs = inputs("canonical-json", &[event, br#"{"b":[1,-2,"\u00e9\n"],"a":null}"#]);
    let event_id = OwnedEventId::try_from("$event").unwrap();
    let room_id = OwnedRoomId::try_from("!a:b").unwrap();
    while let Some(input) = inputs.next() {
        let Ok(value) = serde_json::from_slice::<Value>(input) else { continue };
        let once = canonical_json(&value);
        let again: Value = serde_json::from_str(&once).unwrap();
        assert_eq!(canonical_json(&again), once);
        let json = bytes::Bytes::from(once);
        for in_content in [true, false] {
            let pdu = Pdu::parse(event_id.clone(), room_id.clone(), json.clone(), in_content);
            if let Ok(pdu) = pdu {
                let content = &json[pdu.spans.content.0 as usize..pdu.spans.content.1 as usize];
                assert!(serde_json::from_slice::<Value>(content).is_ok());
            }
        }
    }
}
