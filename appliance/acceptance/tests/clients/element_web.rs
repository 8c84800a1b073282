//! What Element Web does besides talking, done by matrix-js-sdk: threads, relations, spaces, search,
//! and the state of a room after a gap (`use_state_after`).

use appliance_acceptance::device::{Device, meet};
use serde_json::{Value, json};

use crate::ward::{Brand, Ward};

/// More than one answer to `/sync` shows of a room.
const MORE_THAN_A_SYNC: usize = 25;

async fn ward() -> (Ward, Device, Device, String) {
    let mut ward = Ward::open().await;
    let mut nurse = ward.newcomer(Brand::Js, "nurse").await;
    let mut doctor = ward.newcomer(Brand::Js, "doctor").await;
    let room = meet(&mut nurse, &mut doctor, false).await;
    (ward, nurse, doctor, room)
}

fn event_id(answer: &Value) -> String {
    answer["event_id"].as_str().expect("an event ID").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn element_web_threads_and_relates() {
    let (ward, mut nurse, mut doctor, room) = ward().await;
    let root = nurse.send(&room, "Bed 4?").await;
    doctor.hear(&room, "Bed 4?", &nurse.user_id).await;
    let mut replies = Vec::new();
    for (length, body) in [(1, "free from noon"), (2, "thank you")] {
        let given = json!({ "room_id": room, "root": root, "body": body });
        let by = if length == 1 { &mut doctor } else { &mut nurse };
        replies.push(event_id(&by.command("reply_in_thread", given).await));
        let given = json!({ "room_id": room, "root": root, "length": length, "body": body });
        for who in [&mut nurse, &mut doctor] {
            let seen = who.command("wait_thread", given.clone()).await;
            assert_eq!(seen["participated"], true, "the root is the nurse's: {seen}");
            let bodies = seen["bodies"].as_array().expect("the thread's words");
            assert!(bodies.contains(&json!(body)), "{seen}");
        }
    }
    // One in the thread is unread, and one beside it; each is read for itself.
    nurse.send(&room, "Bed 5?").await;
    let unread = |in_thread: u32, in_room: u32| json!({ "room_id": room, "root": root, "in_thread": in_thread, "in_room": in_room });
    doctor.command("wait_unread", unread(1, 2)).await;
    doctor.command("read_thread", json!({ "room_id": room, "root": root })).await;
    doctor.command("wait_unread", unread(0, 2)).await;
    let roots = doctor.command("threads", json!({ "room_id": room })).await;
    assert_eq!(roots["roots"], json!([root]));

    let react = json!({ "room_id": room, "event_id": root, "key": "\u{1f44d}" });
    let reaction = event_id(&doctor.command("react", react.clone()).await);
    nurse.command("react", react).await;
    let edit = json!({ "room_id": room, "event_id": root, "body": "Bed 6?" });
    let edit = event_id(&nurse.command("edit", edit).await);
    let related = json!({
        "room_id": room, "event_id": root, "body": "Bed 6?", "key": "\u{1f44d}", "reactions": 2,
    });
    for who in [&mut nurse, &mut doctor] {
        who.command("wait_related", related.clone()).await;
    }
    for (rel_type, wanted) in [("m.replace", &edit), ("m.annotation", &reaction)] {
        let given = json!({ "room_id": room, "event_id": root, "rel_type": rel_type });
        let found = doctor.command("relations", given).await;
        let found = found["event_ids"].as_array().expect("events").clone();
        assert!(found.contains(&json!(wanted)), "{rel_type}: {found:?}");
    }
    let given = json!({ "room_id": room, "event_id": root, "rel_type": "m.thread" });
    let mut found = doctor.command("relations", given).await["event_ids"].clone();
    if let Some(found) = found.as_array_mut() {
        found.reverse();
    }
    assert_eq!(found, json!(replies), "all of the thread, newest first");
    ward.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn element_web_searches_and_finds_rooms() {
    let (ward, mut nurse, mut doctor, room) = ward().await;
    let wanted = nurse.send(&room, "the penicillin is in the cupboard").await;
    nurse.send(&room, "the tea is in the kitchen").await;
    let private = nurse.create_room(false, &[]).await;
    nurse.send(&private, "penicillin makes me sneeze").await;
    let found = doctor.command("search", json!({ "term": "penicillin" })).await;
    assert_eq!(found, json!({ "count": 1, "event_ids": [wanted] }));
    assert_eq!(nurse.command("search", json!({ "term": "penicillin" })).await["count"], 2);

    let inner = json!({ "name": "Second floor", "children": [private] });
    let inner = nurse.command("create_space", inner).await["room_id"].clone();
    let outer = json!({ "name": "House", "children": [room, inner] });
    let outer = nurse.command("create_space", outer).await["room_id"].clone();
    let shown = nurse.command("hierarchy", json!({ "room_id": outer })).await;
    let shown = shown["rooms"].as_array().expect("rooms").clone();
    let ids: Vec<_> = shown.iter().map(|room| room["room_id"].clone()).collect();
    assert_eq!(ids.first(), Some(&outer), "the space itself comes first");
    for id in [&json!(room), &inner, &json!(private)] {
        assert!(ids.contains(id), "{shown:?}");
    }
    assert_eq!(shown.iter().filter(|room| room["type"] == "m.space").count(), 2);
    ward.close();
}

/// matrix-js-sdk reads the state of a room from `state_after` alone.
#[tokio::test(flavor = "multi_thread")]
async fn element_web_knows_the_state_after_a_gap() {
    let (ward, mut nurse, mut doctor, room) = ward().await;
    let topic = |topic: &str| json!({ "room_id": room, "type": "m.room.topic", "content": { "topic": topic } });
    let name =
        |name: &str| json!({ "room_id": room, "type": "m.room.name", "content": { "name": name } });
    nurse.command("set_state", topic("quiet hours from nine")).await;
    doctor.command("wait_state", topic("quiet hours from nine")).await;
    doctor.command("go_away", json!({})).await;
    // One change lies in the gap, the other in what is shown of the timeline.
    nurse.command("set_state", topic("quiet hours from ten")).await;
    for number in 0..MORE_THAN_A_SYNC {
        nurse.send(&room, &format!("message {number}")).await;
    }
    nurse.command("set_state", name("Ward 5")).await;
    doctor.command("come_back", json!({})).await;
    doctor.command("wait_state", topic("quiet hours from ten")).await;
    let shown = doctor.command("wait_state", name("Ward 5")).await;
    assert_eq!(shown["name"], "Ward 5");
    let how = doctor.command("synced_how", json!({})).await;
    assert_eq!((&how["without"], &how["before"]), (&json!(0), &json!(0)), "{how}");
    assert!(how["after"].as_u64() > Some(0) && how["limited"].as_u64() > Some(0), "{how}");
    ward.close();
}
