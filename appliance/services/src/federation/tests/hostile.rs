//! Servers that send what they should not.

use appliance_ledger::keyspaces::HEADS;
use appliance_model::Caller;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::signatures::hash_and_sign_event;
use appliance_model::ruma::{CanonicalJsonObject, OwnedRoomId, RoomVersionId as V};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::federation::town::Town;
use crate::scenario::Ward;

/// An event as `ward`'s server would sign it, whatever it says.
pub(super) fn signed(ward: &Ward, event: Value) -> Box<RawValue> {
    let house = &ward.services.house;
    let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
    let rules = V::V11.rules().unwrap().redaction;
    let name = house.server_name.as_str();
    hash_and_sign_event(name, &house.signing_key, &mut object, &rules).unwrap();
    RawValue::from_string(serde_json::to_string(&object).unwrap()).unwrap()
}

/// A room of `one.example`, `two.example` and maybe others; the second is the one not to be trusted.
pub(super) struct Scene {
    pub town: Town,
    pub room: OwnedRoomId,
    pub nurse: Caller,
    pub doctor: String,
    pub state: std::collections::BTreeMap<String, String>,
    /// What a new event of the second server would follow.
    pub last: String,
}

impl Scene {
    pub async fn new() -> Self {
        Self::of(2).await
    }

    pub async fn of(count: usize) -> Self {
        let town = Town::of(count, V::V11).await;
        let nurse = town.wards[0].member("nurse").await;
        let mut doctors = Vec::new();
        for ward in &town.wards[1..] {
            doctors.push(ward.member("doctor").await);
        }
        let others: Vec<_> = (1..).zip(&doctors).collect();
        let room = town.room_of((0, &nurse), &others).await;
        let state = town.state(0, &room).await;
        let doctor = doctors[0].user_id.to_string();
        let ledger = &town.wards[0].services.house.ledger;
        let number = ledger.room(&room).await.unwrap().unwrap();
        let head = ledger.get(&HEADS, &number).await.unwrap().unwrap();
        let last = head.extremities[0].clone();
        town.asked();
        Self { town, room, nurse, doctor, state, last }
    }

    /// A message that would be fine.
    pub fn message(&self) -> Value {
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

    pub async fn send(&self, txn: &str, events: Vec<Box<RawValue>>) -> Value {
        let rooms = &self.town.wards[0].services.rooms;
        let origin = "two.example".try_into().unwrap();
        let answer = rooms.receive_pdus(origin, txn, events).await.unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["pdus"].clone()
    }

    /// The error of the only event of a transaction; empty if there is none.
    pub async fn verdict(&self, txn: &str, change: impl FnOnce(&mut Value)) -> String {
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
    let mut event = scene.message();
    event["auth_events"][0] = json!(create);
    let answer = scene.send("t", vec![signed(&scene.town.wards[1], event)]).await;
    let (id, verdict) = answer.as_object().unwrap().iter().next().unwrap();
    assert!(verdict["error"].as_str().unwrap().contains("another room"), "{answer}");
    // "rejected": kept, not shown; and what follows it needs nothing that would have to be asked for.
    let ledger = &scene.town.wards[0].services.house.ledger;
    let event = ledger.event_by_id(id.as_str().try_into().unwrap()).await.unwrap().unwrap();
    assert!(event.rejected);
    scene.town.asked();
    assert_eq!(scene.verdict("u", |e| e["prev_events"] = json!([id])).await, "");
    assert_eq!(scene.town.asked(), Vec::<String>::new());
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

/// "A PDU … must not be larger than 65536 bytes"; identifiers 255; 20 predecessors; 10 allowing events.
#[tokio::test]
async fn events_beyond_a_limit_are_dropped() {
    let scene = Scene::new().await;
    let before = scene.town.kept(0, &scene.room).await;
    let ids = |count: usize| -> Vec<String> {
        (0..count).map(|number| format!("${number:0>43}")).collect()
    };
    let long = "x".repeat(256);
    let change = |path: &str, value: Value| {
        let mut event = scene.message();
        event[path] = value;
        event
    };
    let (mut with_key, doctor) = (scene.message(), &scene.doctor);
    with_key["state_key"] = json!(long);
    let sized = |bytes: usize| {
        let empty = signed(&scene.town.wards[1], change("content", json!({ "body": "" })));
        let body = "x".repeat(bytes - empty.get().len());
        signed(&scene.town.wards[1], change("content", json!({ "body": body })))
    };
    let mut events: Vec<_> = [
        change("prev_events", json!(ids(21))),
        change("auth_events", json!(ids(11))),
        change("type", json!(long)),
        change("room_id", json!(format!("!{long}:one.example"))),
        change("sender", json!(format!("@{long}:two.example"))),
        change("depth", json!(-1)),
        with_key,
    ]
    .into_iter()
    .map(|event| signed(&scene.town.wards[1], event))
    .collect();
    events.push(sized(65_537));
    let fine = signed(&scene.town.wards[1], scene.message());
    for number in ["0.5", "1e2", "9007199254740992", "-9007199254740992", "1E400", "-0.0"] {
        let text = fine.get().replace(r#""hello""#, number);
        events.push(RawValue::from_string(text).unwrap());
    }
    let count = events.len();
    assert_eq!(scene.send("t", events).await, json!({}), "none of {count} has a name");
    assert_eq!(scene.town.kept(0, &scene.room).await, before);
    assert_eq!(scene.town.asked().iter().filter(|what| what.starts_with("one")).count(), 0);
    let alarms = scene.town.wards[0].services.rooms.alarms.all();
    assert_eq!(alarms.len(), 1, "one line: {alarms:?}");
    // In the form of the first room versions it has a name, and its verdict is an error.
    let old = json!([["$old", { "sha256": "form" }]]);
    let verdict = scene.verdict("old", |event| event["prev_events"] = old).await;
    assert!(verdict.contains("well-formed"), "{verdict}");
    let largest = scene.send("u", vec![sized(65_535)]).await;
    let good = largest.as_object().unwrap().values().all(|verdict| *verdict == json!({}));
    assert!(good && !largest.as_object().unwrap().is_empty(), "of {doctor}: {largest}");
}

/// What a rejected event allows is rejected; what our users say next is built on neither, nor on what
/// was soft-failed.
#[tokio::test]
async fn nothing_is_built_on_what_does_not_count() {
    let scene = Scene::new().await;
    let [one, two] = [&scene.town.wards[0], &scene.town.wards[1]];
    let member = format!("m.room.member|{}", scene.doctor);
    let mut join = scene.message();
    (join["type"], join["state_key"]) = (json!("m.room.member"), json!(scene.doctor));
    join["content"] = json!({ "membership": "join", "displayname": "Chief" });
    // Allowed by nothing: the room's create event is missing among what it names.
    join["auth_events"] = json!([scene.state["m.room.power_levels|"], scene.state[&member]]);
    let answer = scene.send("t", vec![signed(two, join)]).await;
    let rejected = answer.as_object().unwrap().keys().next().unwrap().clone();
    assert!(answer[&rejected]["error"].is_string(), "{answer}");
    let verdict = scene.verdict("u", |e| e["auth_events"][2] = json!(rejected)).await;
    assert!(verdict.contains("reject"), "{verdict}");

    let doctor = scene.doctor.as_str().try_into().unwrap();
    one.set(&scene.nurse, &scene.room, doctor, M::Ban).await;
    // It follows what was before the ban: allowed there, not here.
    let soft = scene.send("v", vec![signed(two, scene.message())]).await;
    let soft_failed = soft.as_object().unwrap().keys().next().unwrap().clone();
    assert_eq!(soft[&soft_failed], json!({}), "no error of the other server's");
    let again = scene.verdict("w", |e| e["prev_events"] = json!([soft_failed])).await;
    assert_eq!(again, "", "a second one neither");
    let said = one.say(&scene.nurse, &scene.room, "good morning").await;
    let ledger = &one.services.house.ledger;
    let event = ledger.event_by_id(said.as_str().try_into().unwrap()).await.unwrap().unwrap();
    let event: Value = serde_json::from_slice(&event.json).unwrap();
    let named = format!("{}{}", event["prev_events"], event["auth_events"]);
    assert!(!named.contains(&rejected) && !named.contains(&soft_failed), "{named}");
    let shown = scene.town.shown(0, &scene.room).await;
    assert!(!shown.contains(&rejected) && !shown.contains(&soft_failed));
}
