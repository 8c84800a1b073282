//! Servers whose answers are not to be trusted: what lets one of our users in, what tells us of the past.

use appliance_model::Kind;
use appliance_model::ruma::RoomVersionId as V;
use appliance_model::ruma::events::room::member::MembershipState as M;
use serde_json::{Value, json};

use super::hostile::signed;
use crate::federation::line::Ask;
use crate::federation::town::Town;

/// What is made of a true answer.
type Lie = fn(Value) -> Value;

/// A server that holds a room, and answers a join with `lie` instead of what it has.
struct Trap {
    town: Town,
    room: appliance_model::ruma::OwnedRoomId,
    guest: appliance_model::Caller,
    doctor: String,
}

impl Trap {
    /// `two.example` holds the room and has invited the guest of `one.example`.
    async fn set() -> Self {
        let town = Town::of(2, V::V11).await;
        let guest = town.wards[0].member("guest").await;
        let doctor = town.wards[1].member("doctor").await;
        let room = town.wards[1].room(&doctor).await;
        town.wards[1].set(&doctor, &room, &guest.user_id, M::Invite).await;
        Self { town, room, guest, doctor: doctor.user_id.to_string() }
    }

    async fn join_told(
        &self,
        lie: impl Fn(Value) -> Value + Send + Sync + 'static,
    ) -> Option<Kind> {
        self.town.trick(1, move |ask, honest| {
            let Ask::SendJoin { .. } = ask else { return Some(honest) };
            let told: Value = serde_json::from_str(&honest.unwrap()).unwrap();
            Some(Ok(lie(told).to_string()))
        });
        let rooms = &self.town.wards[0].services.rooms;
        rooms.join(&self.guest, &self.room, None).await.err().map(|error| error.kind)
    }

    /// An event of the doctor's with the right signature.
    fn state_event(&self, told: &Value, (kind, key): (&str, &str), content: &Value) -> Value {
        let allowing = told["state"].as_array().unwrap().iter().filter(|event| {
            let kind = event["type"].as_str().unwrap();
            kind == "m.room.create"
                || kind == "m.room.power_levels"
                || (kind == "m.room.member" && event["state_key"] == *self.doctor)
        });
        let allowing: Vec<_> = allowing.map(id_of).collect();
        let event = json!({
            "auth_events": allowing, "prev_events": [allowing[0]], "content": content, "depth": 9,
            "origin_server_ts": 1_700_000_000_050_u64, "room_id": self.room,
            "sender": self.doctor, "type": kind, "state_key": key,
        });
        serde_json::from_str(signed(&self.town.wards[1], event).get()).unwrap()
    }

    /// The true answer to a join, as the other server would give it.
    async fn truth(&self) -> Value {
        let ledger = &self.town.wards[1].services.house.ledger;
        let mut state = Vec::new();
        for id in self.town.state(1, &self.room).await.values() {
            let event = ledger.event_by_id(id.as_str().try_into().unwrap()).await.unwrap().unwrap();
            state.push(serde_json::from_slice::<Value>(&event.json).unwrap());
        }
        json!({ "state": state })
    }
}

fn id_of(event: &Value) -> String {
    let object = serde_json::from_value(event.clone()).unwrap();
    let rules = V::V11.rules().unwrap();
    let hash = appliance_model::ruma::signatures::reference_hash(&object, &rules).unwrap();
    format!("${hash}")
}

/// What is forged is no part of the room; the rest is, and the guest is in.
#[tokio::test]
async fn forged_state_in_the_answer_to_a_join_is_left_out() {
    let trap = Trap::set().await;
    let truth = trap.truth().await;
    let power = json!({ "users": { (trap.doctor.as_str()): 100, "@crook:two.example": 100 } });
    // Signed, but by somebody who is not in the room.
    let mut by_crook = trap.state_event(&truth, ("m.room.topic", ""), &json!({ "topic": "crook" }));
    by_crook["sender"] = json!("@crook:two.example");
    let object = by_crook.as_object_mut().unwrap();
    object.remove("signatures");
    object.remove("hashes");
    let by_crook = signed(&trap.town.wards[1], by_crook);
    let by_crook: Value = serde_json::from_str(by_crook.get()).unwrap();
    // Not signed by whom it names.
    let mut unsigned = trap.state_event(&truth, ("m.room.name", ""), &json!({ "name": "forged" }));
    unsigned["sender"] = json!(trap.guest.user_id);
    let mut broken = trap.state_event(&truth, ("example.broken", ""), &power);
    broken["signatures"]["two.example"] = json!({ "ed25519:a_1": "AAAA" });
    let mut elsewhere = trap.state_event(&truth, ("example.elsewhere", ""), &power);
    elsewhere["room_id"] = json!("!other:two.example");
    let good = trap.state_event(&truth, ("example.good", ""), &json!({ "n": 1 }));
    let lies = vec![by_crook, unsigned, broken, elsewhere, json!(7), json!({}), good];
    let refused = trap
        .join_told(move |mut told| {
            told["state"].as_array_mut().unwrap().extend(lies.clone());
            told["auth_chain"].as_array_mut().unwrap().extend(lies.clone());
            told
        })
        .await;
    assert_eq!(refused, None);
    let state = trap.town.state(0, &trap.room).await;
    for kind in ["m.room.topic", "m.room.name", "example.broken", "example.elsewhere"] {
        assert!(!state.contains_key(&format!("{kind}|")), "{kind}");
    }
    assert!(state.contains_key("example.good|"));
    assert_eq!(trap.town.wards[0].membership(&trap.room, &trap.guest.user_id).await, Some(M::Join));
    let alarms = trap.town.wards[0].services.rooms.alarms.all();
    assert_eq!(alarms.keys().collect::<Vec<_>>(), ["event.dropped two.example"]);
}

/// Two power levels in one answer: whichever we took, somebody could have chosen it for us.
#[tokio::test]
async fn a_state_that_says_two_things_is_not_believed() {
    let trap = Trap::set().await;
    let truth = trap.truth().await;
    let power = json!({ "users": { (trap.doctor.as_str()): 100, "@crook:two.example": 100 } });
    let other = trap.state_event(&truth, ("m.room.power_levels", ""), &power);
    let refused = trap
        .join_told(move |mut told| {
            told["state"].as_array_mut().unwrap().push(other.clone());
            told
        })
        .await;
    assert_eq!(refused, Some(Kind::RemoteUnavailable));
    let joined = trap.town.wards[0].services.rooms.joined_rooms(&trap.guest).await.unwrap();
    assert!(!joined.contains(&trap.room));
}

#[tokio::test]
async fn an_answer_that_is_no_room_lets_nobody_in() {
    let lies: [(&str, Lie); 6] = [
        ("nothing", |_| json!({ "state": [], "auth_chain": [] })),
        ("no form", |_| json!([])),
        ("numbers", |_| json!({ "state": 7, "auth_chain": 7 })),
        ("no create event", |mut told| {
            let is_create = |event: &Value| event["type"] == "m.room.create";
            for part in ["state", "auth_chain"] {
                told[part].as_array_mut().unwrap().retain(|event| !is_create(event));
            }
            told
        }),
        ("no invite", |mut told| {
            let is_invite = |event: &Value| event["content"]["membership"] == "invite";
            told["state"].as_array_mut().unwrap().retain(|event| !is_invite(event));
            told
        }),
        ("no power levels", |mut told| {
            let is_power = |event: &Value| event["type"] == "m.room.power_levels";
            for part in ["state", "auth_chain"] {
                told[part].as_array_mut().unwrap().retain(|event| !is_power(event));
            }
            told
        }),
    ];
    for (case, lie) in lies {
        let trap = Trap::set().await;
        assert_eq!(trap.join_told(lie).await, Some(Kind::RemoteUnavailable), "{case}");
        let rooms = &trap.town.wards[0].services.rooms;
        assert!(rooms.joined_rooms(&trap.guest).await.unwrap().is_empty(), "{case}");
        // The house is none the worse: another room, and this one told true, can be joined.
        trap.town.trick(1, |_, honest| Some(honest));
        rooms.join(&trap.guest, &trap.room, None).await.unwrap();
        assert_eq!(trap.town.state(0, &trap.room).await, trap.town.state(1, &trap.room).await);
    }
}

/// A version nobody knows, a room that is not the one asked for: "Outbound federation rejects …".
#[tokio::test]
async fn a_template_for_something_else_is_not_signed() {
    for (case, field, value) in [
        ("unknown", "room_version", json!("99")),
        ("old", "room_version", json!("1")),
        ("no version", "room_version", Value::Null),
    ] {
        let trap = Trap::set().await;
        trap.town.trick(1, move |ask, honest| {
            let Ask::MakeJoin { .. } = ask else { return Some(honest) };
            let mut told: Value = serde_json::from_str(&honest.unwrap()).unwrap();
            told[field] = value.clone();
            Some(Ok(told.to_string()))
        });
        let rooms = &trap.town.wards[0].services.rooms;
        let error = rooms.join(&trap.guest, &trap.room, None).await;
        // The invite told the version: without one in the template that is the room's.
        assert_eq!(error.is_ok(), case == "no version", "{case}");
        let asked = trap.town.asked();
        let sent = asked.iter().any(|asked| asked.ends_with("send_join"));
        assert_eq!(sent, case == "no version", "{case}: {asked:?}");
    }
}
