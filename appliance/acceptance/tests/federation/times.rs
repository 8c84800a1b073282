//! Times: which message was said at one, and who is there now.

use appliance_acceptance::wait::until;
use http::Method;
use serde_json::{Value, json};

use crate::resident::Resident;
use crate::rooms::{Host, Pair};

/// Whoever came later finds what was said at a time, at the hospital that has it; and reads on from there.
pub async fn timestamp(pair: Pair, at: Host, version: &'static str) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = host.create_room(version, json!({})).await;
    let mut said: Vec<(String, u64)> = Vec::new();
    for number in 0..40 {
        let id = host.say(&room_id, &format!("line {number}")).await;
        let path = format!("/v3/rooms/{room_id}/event/{id}");
        let sent_ms = host.get(&path).await["origin_server_ts"].as_u64().expect("a time");
        said.push((id, sent_ms));
        // No two of the same millisecond.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    host.act("invite", &room_id, &guest).await;
    guest.accept(&room_id).await;
    let find = async |ts: u64, dir: &str| -> Value {
        let path = format!("/v1/rooms/{room_id}/timestamp_to_event?ts={ts}&dir={dir}");
        guest.get(&path).await
    };
    let (id, sent_ms) = &said[7];
    for dir in ["f", "b"] {
        let found = find(*sent_ms, dir).await;
        assert_eq!(found["event_id"], json!(id), "{dir}: {found}");
        assert_eq!(found["origin_server_ts"], json!(sent_ms), "{dir}: {found}");
    }
    let after = find(sent_ms + 1, "f").await;
    assert_eq!(after["event_id"], json!(said[8].0), "{after}");
    let before = find(sent_ms - 1, "b").await;
    assert_eq!(before["event_id"], json!(said[6].0), "{before}");
    // What was found can be read, with what was said around it.
    let path = format!("/v3/rooms/{room_id}/context/{id}?limit=4");
    let context = until("the context of what was found", async || {
        let answer = guest.call(Method::GET, &path, None).await;
        answer.status.is_success().then(|| answer.json())
    })
    .await;
    assert_eq!(context["event"]["event_id"], json!(id));
    let around = |list: &str| -> Vec<Value> {
        let events = context[list].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["event_id"].clone()).collect()
    };
    // Synapse shows what it has, and asks nobody for what stands around it.
    if matches!(at, Host::Synapse) {
        assert_eq!(around("events_before"), [json!(said[6].0), json!(said[5].0)], "{context}");
        assert_eq!(around("events_after"), [json!(said[8].0), json!(said[9].0)], "{context}");
    }
    // Nothing was said after the end.
    let path = format!("/v1/rooms/{room_id}/timestamp_to_event?ts=9000000000000&dir=f");
    assert_eq!(guest.call(Method::GET, &path, None).await.status, 404);
}

/// The Synapse watches who is there and tells everybody; here nobody is watched, and nothing is told.
pub async fn nobody_is_watched(pair: Pair) {
    let (nurse, doctor) = (&pair.nurse, &pair.doctor);
    let room_id = pair.room(Host::Wardstone, "11").await;
    let status = |who: &Resident| format!("/v3/presence/{}/status", who.user_id);
    for (who, note) in [(doctor, "in theatre"), (nurse, "on the ward")] {
        let body = json!({ "presence": "online", "status_msg": note });
        let answer = who.call(Method::PUT, &status(who), Some(body)).await;
        assert!(answer.status.is_success(), "{}", answer.summary());
    }
    let own = doctor.get(&status(doctor)).await;
    assert_eq!(own["status_msg"], "in theatre", "the Synapse does watch: {own}");
    let mut since = String::new();
    for round in 0..3 {
        let (one, other) = (nurse.say(&room_id, "here").await, doctor.say(&room_id, "there").await);
        nurse.wait_event(&room_id, &other).await;
        doctor.wait_event(&room_id, &one).await;
        let ours = nurse.get(&format!("/v3/sync?timeout=0{since}")).await;
        let told = &ours["presence"]["events"];
        assert!(told.as_array().is_none_or(Vec::is_empty), "round {round}: {told}");
        since = format!("&since={}", ours["next_batch"].as_str().expect("a token"));
        let theirs = doctor.get("/v3/sync?timeout=0").await;
        let told = theirs["presence"]["events"].as_array().cloned().unwrap_or_default();
        let of_nurse = told.iter().find(|event| event["sender"] == json!(nurse.user_id));
        assert_eq!(of_nurse, None, "it has got out who is on the ward");
        // Synapse gathers presence for a moment before it sends it.
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    }
    let asked = nurse.call(Method::GET, &status(doctor), None).await;
    assert!(!asked.json()["status_msg"].is_string(), "{}", asked.summary());
}
