//! Servers that send what they should not.

use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::signatures::hash_and_sign_event;
use appliance_model::ruma::{CanonicalJsonObject, OwnedRoomId, RoomVersionId as V};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::federation::town::Town;
use crate::scenario::Ward;

/// An event as `ward`'s server would sign it, whatever it says.
fn signed(ward: &Ward, event: Value) -> Box<RawValue> {
    let house = &ward.services.house;
    let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
    let rules = V::V11.rules().unwrap().redaction;
    let name = house.server_name.as_str();
    hash_and_sign_event(name, &house.signing_key, &mut object, &rules).unwrap();
    RawValue::from_string(serde_json::to_string(&object).unwrap()).unwrap()
}

struct Scene {
    town: Town,
    room: OwnedRoomId,
    doctor: String,
    state: std::collections::BTreeMap<String, String>,
    last: String,
}

impl Scene {
    async fn new() -> Self {
        let town = Town::of(2, V::V11).await;
        let nurse = town.wards[0].member("nurse").await;
        let doctor = town.wards[1].member("doctor").await;
        let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
        let state = town.state(0, &room).await;
        let last = state[&format!("m.room.member|{}", doctor.user_id)].clone();
        Self { town, room, doctor: doctor.user_id.to_string(), state, last }
    }

    /// A message that would be fine.
    fn message(&self) -> Value {
        let state = |key: &str| self.state[key].clone();
        json!({
            "auth_events": [
                state("m.room.create|"), state("m.room.power_levels|"),
                state(&format!("m.room.member|{}", self.doctor)),
            ],
            "prev_events": [self.last],
            "content": { "body": "hello", "msgtype": "m.text" },
            "depth": 20, "origin_server_ts": 1_700_000_000_100_u64,
            "room_id": self.room, "sender": self.doctor, "type": "m.room.message",
        })
    }

    async fn send(&self, txn: &str, events: Vec<Box<RawValue>>) -> Value {
        let rooms = &self.town.wards[0].services.rooms;
        let origin = "two.example".try_into().unwrap();
        let answer = rooms.receive_pdus(origin, txn, events).await.unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["pdus"].clone()
    }

    /// The error of the only event of a transaction; empty if there is none.
    async fn verdict(&self, txn: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut event = self.message();
        change(&mut event);
        let answer = self.send(txn, vec![signed(&self.town.wards[1], event)]).await;
        let first = answer.as_object().unwrap().values().next().cloned().unwrap_or_default();
        first["error"].as_str().unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn each_forgery_gets_its_verdict_and_the_room_goes_on() {
    let scene = Scene::new().await;
    let before = scene.town.shown(0, &scene.room).await;
    let nurse = "@nurse:one.example";
    for (case, error, change) in [
        (
            "another's name",
            "wrong signature",
            Box::new(|e: &mut Value| e["sender"] = json!(nurse)) as Box<dyn FnOnce(&mut Value)>,
        ),
        (
            "no auth events",
            "no `m.room.create`",
            Box::new(|e: &mut Value| e["auth_events"] = json!([])),
        ),
        (
            "twice the same",
            "duplicate",
            Box::new(|e: &mut Value| {
                let first = e["auth_events"][0].clone();
                e["auth_events"].as_array_mut().unwrap().push(first);
            }),
        ),
        (
            "too much power",
            "power",
            Box::new(|e: &mut Value| {
                (e["type"], e["state_key"]) = (json!("m.room.power_levels"), json!(""));
                e["content"] = json!({ "users": { "@doctor:two.example": 100 } });
            }),
        ),
        (
            "an unknown allowing event",
            "cannot be had",
            Box::new(|e: &mut Value| {
                e["auth_events"][0] = json!("$nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn");
            }),
        ),
        (
            "predecessors nobody has",
            "",
            Box::new(|e: &mut Value| {
                e["prev_events"] = json!(["$mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm"]);
            }),
        ),
    ] {
        let verdict = scene.verdict(case, change).await;
        assert!(verdict.contains(error) && !verdict.is_empty(), "{case}: {verdict:?}");
    }
    assert_eq!(scene.town.shown(0, &scene.room).await, before, "nothing of it is shown");
    assert_eq!(scene.verdict("fine", |_| ()).await, "");
    assert_eq!(scene.town.shown(0, &scene.room).await.len(), before.len() + 1);
}

#[tokio::test]
async fn malformed_events_are_dropped_and_the_others_of_the_transaction_kept() {
    let scene = Scene::new().await;
    let raw = |json: String| RawValue::from_string(json).unwrap();
    let fine = signed(&scene.town.wards[1], scene.message());
    let room = &scene.room;
    let events = vec![
        raw("7".to_owned()),
        raw(format!(r#"{{"room_id":"{room}","depth":0.5}}"#)),
        raw(fine.get().replace(r#""depth":20"#, r#""depth":-20"#)),
        raw(fine.get().replace(r#""depth":20"#, r#""depth":1e400"#)),
        raw(format!(r#"{{"room_id":"{room}","content":{}1{}}}"#, "[".repeat(120), "]".repeat(120))),
        raw(fine.get().replace("hello", &"x".repeat(66_000))),
        fine.clone(),
    ];
    let answer = scene.send("t", events).await;
    let good: Vec<_> = answer.as_object().unwrap().values().filter(|v| **v == json!({})).collect();
    assert_eq!(good.len(), 1, "{answer}");
    assert!(scene.town.shown(0, room).await.len() > 5);
}

/// The hash is wrong, the signature right: what is left is the redacted event.
#[tokio::test]
async fn a_changed_content_is_not_believed() {
    let scene = Scene::new().await;
    let fine = signed(&scene.town.wards[1], scene.message());
    let changed = RawValue::from_string(fine.get().replace("hello", "hullo")).unwrap();
    let answer = scene.send("t", vec![changed]).await;
    let id = answer.as_object().unwrap().keys().next().unwrap().clone();
    assert_eq!(answer[&id], json!({}));
    let ledger = &scene.town.wards[0].services.house.ledger;
    let event = ledger.event_by_id(id.as_str().try_into().unwrap()).await.unwrap().unwrap();
    assert_eq!(event.content(), "{}");
}

#[tokio::test]
async fn allowing_events_of_another_room_allow_nothing() {
    let scene = Scene::new().await;
    let nurse = scene.town.wards[0].member("other-nurse").await;
    let doctor = scene.town.wards[1].member("other").await;
    let other = scene.town.room_of((0, &nurse), &[(1, &doctor)]).await;
    let create = scene.town.state(0, &other).await["m.room.create|"].clone();
    let verdict = scene.verdict("t", |e| e["auth_events"][0] = json!(create)).await;
    assert!(!verdict.is_empty());
    assert_eq!(scene.town.wards[0].membership(&scene.room, &doctor.user_id).await, None::<M>);
}

/// A transaction that comes twice is answered the same and does nothing the second time.
#[tokio::test]
async fn a_transaction_counts_once() {
    let scene = Scene::new().await;
    let fine = signed(&scene.town.wards[1], scene.message());
    let first = scene.send("t", vec![fine.clone()]).await;
    let position = scene.town.wards[0].services.house.ledger.position();
    assert_eq!(scene.send("t", vec![fine]).await, first);
    assert_eq!(scene.town.wards[0].services.house.ledger.position(), position);
}

/// A thousand loose ends: each is kept, none costs more than the one before.
#[tokio::test]
async fn loose_ends_are_bounded() {
    let scene = Scene::new().await;
    for part in 0..4_u64 {
        let events = (0..25_u64).map(|number| {
            let mut event = scene.message();
            event["origin_server_ts"] = json!(1_700_000_001_000 + 100 * part + number);
            signed(&scene.town.wards[1], event)
        });
        let answer = scene.send(&part.to_string(), events.collect()).await;
        assert!(answer.as_object().unwrap().values().all(|v| *v == json!({})), "{answer}");
    }
    let open = scene.town.wards[0].services.rooms.enter(&scene.room).await.unwrap();
    assert!(open.head.extremities.len() <= 20);
}

/// A server sends what the room rests on once more, as if it were news: it still stands.
#[tokio::test]
async fn the_foundations_sent_again_stay_what_they_are() {
    let scene = Scene::new().await;
    let (_, events) = scene.town.wards[0].timeline(&scene.room).await;
    let json = |json: &[u8]| RawValue::from_string(String::from_utf8(json.to_vec()).unwrap());
    let events: Vec<_> = events.iter().map(|(event, _)| json(&event.json).unwrap()).collect();
    let before = scene.town.state(1, &scene.room).await;
    let rooms = &scene.town.wards[1].services.rooms;
    let origin = "one.example".try_into().unwrap();
    let answer = rooms.receive_pdus(origin, "again", events).await.unwrap();
    assert!(!answer.contains("error"), "{answer}");
    assert_eq!(scene.town.state(1, &scene.room).await, before);
    let ledger = &scene.town.wards[1].services.house.ledger;
    for id in before.values() {
        let event = ledger.event_by_id(id.as_str().try_into().unwrap()).await.unwrap().unwrap();
        assert!(!event.rejected, "{}", event.kind());
    }
}
