//! `kill -9` in the middle of a conversation: nobody who was answered is unheard, and everybody goes
//! on from where they were.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use appliance_acceptance::device::Device;
use appliance_acceptance::person::{Person, Session};
use appliance_acceptance::wait::until;
use http::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::ward::{Brand, Ward};

/// How often the server dies.
const DEATHS: usize = 3;

/// How many others write meanwhile, and how much before each death.
const VISITORS: usize = 4;
const WORDS_BEFORE_DEATH: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_survives_kill_9() {
    let mut ward = Ward::open().await;
    let mut nurse = ward.newcomer(Brand::Rust, "nurse").await;
    let mut doctor = ward.newcomer(Brand::Js, "doctor").await;
    let mut porter = ward.newcomer(Brand::Nio, "porter").await;
    let everyone = [nurse.user_id.clone(), doctor.user_id.clone(), porter.user_id.clone()];
    let everyone: Vec<&str> = everyone.iter().map(String::as_str).collect();
    let room = nurse.create_room(true, &everyone[1..]).await;
    doctor.join(&room).await;
    porter.join(&room).await;
    for device in [&mut nurse, &mut doctor, &mut porter] {
        device.wait_members(&room, &everyone).await;
    }
    let (visitors, corridor) = visitors(&ward).await;

    for death in 0..DEATHS {
        let writing = write_until_death(&visitors, &corridor, death).await;
        let last_words = ward.secret(&format!("before death {death}"));
        nurse.send(&room, &last_words).await;
        let tokens = sync_tokens([&mut nurse, &mut doctor, &mut porter]).await;
        ward.server.kill().await;
        let answered = writing.join_all().await;
        ward.server.start_again().await;

        for (event_id, words) in answered.iter().flatten() {
            let path = format!("/_matrix/client/v3/rooms/{corridor}/event/{event_id}");
            let event = visitors[0].get(&path).await;
            assert_eq!(event["content"]["body"], **words, "{event_id} was answered");
        }
        for (access_token, since) in tokens {
            let path = format!("/_matrix/client/v3/sync?timeout=0&since={since}");
            let http = ward.server.http();
            let answer = http.call(Method::GET, &path, Some(&access_token), None).await;
            answer.expect("an answer to an old token").ok();
        }
        let nurse_id = nurse.user_id.clone();
        for device in [&mut doctor, &mut porter] {
            device.hear(&room, &last_words, &nurse_id).await;
        }
        all_talk(&mut ward, [&mut nurse, &mut doctor, &mut porter], &room, death).await;
    }
    ward.close();
}

/// Everyone says something, and everyone else hears it.
async fn all_talk(ward: &mut Ward, mut devices: [&mut Device; 3], room: &str, death: usize) {
    for speaker in 0..devices.len() {
        let words = ward.secret(&format!("speaker {speaker} after death {death}"));
        devices[speaker].send(room, &words).await;
        let speaker_id = devices[speaker].user_id.clone();
        for (listener, device) in devices.iter_mut().enumerate() {
            if listener != speaker {
                assert!(device.hear(room, &words, &speaker_id).await, "encrypted on the way");
            }
        }
    }
}

async fn sync_tokens(devices: [&mut Device; 3]) -> Vec<(String, String)> {
    let mut tokens = Vec::new();
    for device in devices {
        tokens.push((device.token.clone(), device.sync_token().await));
    }
    tokens
}

/// People without an SDK, in an unencrypted room.
async fn visitors(ward: &Ward) -> (Vec<Arc<Session>>, String) {
    let host = Person::named("visitor0").sign_up(&ward.server).await;
    let room = host.post("/_matrix/client/v3/createRoom", json!({ "preset": "public_chat" })).await;
    let room_id = room["room_id"].as_str().expect("a room").to_owned();
    let mut visitors = vec![Arc::new(host)];
    for number in 1..VISITORS {
        let visitor = Person::named(&format!("visitor{number}")).sign_up(&ward.server).await;
        visitor.post(&format!("/_matrix/client/v3/join/{room_id}"), json!({})).await;
        visitors.push(Arc::new(visitor));
    }
    (visitors, room_id)
}

/// Sets everyone writing, and returns once enough was answered; they go on until the server is gone.
async fn write_until_death(
    visitors: &[Arc<Session>],
    corridor: &str,
    death: usize,
) -> JoinSet<Vec<(String, String)>> {
    let answered = Arc::new(AtomicUsize::new(0));
    let mut writing = JoinSet::new();
    for (number, visitor) in visitors.iter().enumerate() {
        let (visitor, answered) = (visitor.clone(), answered.clone());
        let corridor = corridor.to_owned();
        writing.spawn(async move {
            let mut kept = Vec::new();
            for word in 0.. {
                let words = format!("visitor {number}, death {death}, word {word}");
                let path = format!(
                    "/_matrix/client/v3/rooms/{corridor}/send/m.room.message/{number}-{death}-{word}"
                );
                let body = json!({ "msgtype": "m.text", "body": words });
                let token = Some(visitor.token.as_str());
                let Ok(answer) = visitor.http.call(Method::PUT, &path, token, Some(&body)).await
                else {
                    break;
                };
                let event_id = answer.ok()["event_id"].as_str().expect("an event").to_owned();
                kept.push((event_id, words));
                answered.fetch_add(1, Ordering::Relaxed);
            }
            kept
        });
    }
    until("a conversation in full swing", async || {
        (answered.load(Ordering::Relaxed) >= WORDS_BEFORE_DEATH).then_some(())
    })
    .await;
    writing
}
