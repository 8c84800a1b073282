//! Servers that want to keep this one busy: what they can make it ask, keep and say is bounded, and
//! others do not wait for it.

use std::sync::atomic::{AtomicU64, Ordering};

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::EVENTS;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::{Error, Kind};
use serde_json::{Value, json};

use super::hostile::{Scene, signed};
use crate::federation::line::Ask;

/// A name of an event that nobody has.
fn unknown(number: u64) -> String {
    format!("${number:0>43}")
}

async fn rows(scene: &Scene) -> usize {
    let view = scene.town.wards[0].services.house.ledger.newest();
    view.scan(&EVENTS, &(), Direction::Forward, 100_000).await.unwrap().0.len()
}

fn asked_of_two(scene: &Scene) -> usize {
    let asked = scene.town.asked();
    asked.iter().filter(|asked| asked.starts_with("one.example -> two.example")).count()
}

/// A transaction of fifty events, each after one that nobody has.
async fn fifty_from_nowhere(scene: &Scene, txn: &str) -> Value {
    let events = (0..50_u64).map(|number| {
        let mut event = scene.message();
        event["prev_events"] = json!([unknown(number)]);
        event["origin_server_ts"] = json!(1_700_000_001_000 + number);
        signed(&scene.town.wards[1], event)
    });
    scene.send(txn, events.collect()).await
}

/// However far back the other server leads, somewhere the walk ends, and it is alarmed about once.
#[tokio::test]
async fn walks_that_never_end_are_ended() {
    let scene = Scene::new().await;
    let (ward, counter) = (&scene.town.wards[1], AtomicU64::new(1_000));
    let house = ward.services.house.clone();
    let message = scene.message();
    scene.town.trick(1, move |ask, honest| {
        let Ask::MissingEvents { .. } = ask else { return Some(honest) };
        // Ever new events, each after two that are not there either.
        let events = (0..50).map(|_| {
            let mut event = message.clone();
            let number = counter.fetch_add(2, Ordering::Relaxed);
            event["prev_events"] = json!([unknown(number), unknown(number + 1)]);
            event["origin_server_ts"] = json!(1_700_000_001_000 + number);
            let mut object = serde_json::from_value(event).unwrap();
            let rules = appliance_model::ruma::RoomVersionId::V11.rules().unwrap().redaction;
            let (name, key) = (house.server_name.as_str(), &house.signing_key);
            use appliance_model::ruma::signatures::hash_and_sign_event;
            hash_and_sign_event(name, key, &mut object, &rules).unwrap();
            serde_json::to_value(object).unwrap()
        });
        Some(Ok(json!({ "events": events.collect::<Vec<_>>() }).to_string()))
    });
    let before = rows(&scene).await;
    for number in 0..3 {
        fifty_from_nowhere(&scene, &number.to_string()).await;
        let asked = asked_of_two(&scene);
        assert!(asked <= 200, "{asked} questions for one transaction");
    }
    assert_eq!(rows(&scene).await, before, "nothing of it is kept");
    let alarms = scene.town.wards[0].services.rooms.alarms.all();
    assert!(alarms.contains_key("federation.endless two.example"), "{alarms:?}");
    assert!(alarms.len() <= 3, "a line for each cause, not for each event: {alarms:?}");
    // The room and the server go on as if nothing had been.
    assert_eq!(scene.verdict("fine", |_| ()).await, "");
}

/// A server that sends but does not answer is not asked again for every event.
#[tokio::test]
async fn who_does_not_answer_is_not_asked_for_each_event() {
    let scene = Scene::new().await;
    scene.town.trick(1, |_, _| Some(Err(Error::new(Kind::RemoteUnavailable, "no answer"))));
    let answer = fifty_from_nowhere(&scene, "t").await;
    assert!(answer.as_object().unwrap().values().all(|verdict| verdict["error"].is_string()));
    let asked = asked_of_two(&scene);
    assert!(asked <= 4, "{asked} questions");
    assert_eq!(scene.verdict("fine", |_| ()).await, "");
}

/// A state of sixty thousand names that lead nowhere.
#[tokio::test]
async fn a_state_of_nothing_but_names_is_not_chased() {
    let scene = Scene::new().await;
    scene.town.trick(1, |ask, honest| match ask {
        Ask::MissingEvents { .. } => Some(Ok(r#"{"events":[]}"#.to_owned())),
        Ask::StateIds { .. } => {
            let ids: Vec<_> = (0..60_000).map(unknown).collect();
            Some(Ok(json!({ "pdu_ids": ids, "auth_chain_ids": ids }).to_string()))
        }
        Ask::Event { .. } | Ask::State { .. } => {
            Some(Err(Error::new(Kind::NotFound, "I have made it up")))
        }
        _ => Some(honest),
    });
    let before = rows(&scene).await;
    fifty_from_nowhere(&scene, "t").await;
    let asked = asked_of_two(&scene);
    assert!(asked <= 200, "{asked} questions");
    assert_eq!(rows(&scene).await, before);
    assert_eq!(scene.verdict("fine", |_| ()).await, "");
}

/// While one server lets us wait for an answer, another's events of the same room come in, our own
/// people write, and other rooms notice nothing.
#[tokio::test]
async fn a_server_that_stalls_holds_up_nobody_else() {
    let scene = Scene::of(3).await;
    scene.town.trick(1, |_, _| None);
    let mut event = scene.message();
    event["prev_events"] = json!([unknown(1)]);
    let event = signed(&scene.town.wards[1], event);
    let stalled = scene.send("t", vec![event]);
    tokio::pin!(stalled);
    loop {
        tokio::select! {
            biased;
            _ = &mut stalled => panic!("it was answered"),
            () = tokio::task::yield_now() => {}
        }
        if asked_of_two(&scene) > 0 {
            break;
        }
    }
    let third = &scene.town.wards[2];
    let mut of_third = scene.message();
    let aide = "@doctor:three.example";
    of_third["sender"] = json!(aide);
    of_third["auth_events"][2] = json!(scene.state[&format!("m.room.member|{aide}")]);
    let of_third = signed(third, of_third);
    let others = async {
        let rooms = &scene.town.wards[0].services.rooms;
        let origin = "three.example".try_into().unwrap();
        let answer = rooms.receive_pdus(origin, "t", vec![of_third]).await.unwrap();
        assert!(!answer.contains("error") && answer.contains('$'), "{answer}");
        scene.town.wards[0].say(&scene.nurse, &scene.room, "and we go on").await;
        // An invite goes out to the third, and comes back signed.
        let late = third.member("late").await;
        let (ward, target) = (&scene.town.wards[0], &late.user_id);
        ward.set(&scene.nurse, &scene.room, target, M::Invite).await;
    };
    tokio::select! {
        biased;
        _ = &mut stalled => panic!("it was answered"),
        () = others => {}
    }
}

/// Two thousand state events that all follow the same one: the ends of the room stay few.
#[tokio::test]
async fn thousands_of_ends_stay_twenty() {
    let scene = Scene::new().await;
    let power = json!({ "users": { "@nurse:one.example": 100, (scene.doctor.as_str()): 50 } });
    let ward = &scene.town.wards[0];
    ward.state(&scene.nurse, &scene.room, ("m.room.power_levels", ""), power).await;
    let state = scene.town.state(0, &scene.room).await;
    for part in 0..40_u64 {
        let events = (0..50_u64).map(|number| {
            let mut event = scene.message();
            event["origin_server_ts"] = json!(1_700_000_001_000 + 50 * part + number);
            event["auth_events"][1] = json!(state["m.room.power_levels|"]);
            event["prev_events"] = json!([state["m.room.power_levels|"]]);
            (event["type"], event["state_key"]) = (json!("example.bed"), json!(number.to_string()));
            signed(&scene.town.wards[1], event)
        });
        let answer = scene.send(&part.to_string(), events.collect()).await;
        assert!(answer.as_object().unwrap().values().all(|v| *v == json!({})), "{answer}");
    }
    let open = ward.services.rooms.enter(&scene.room).await.unwrap();
    assert!(open.head.extremities.len() <= 20);
    drop(open);
    let alarms = ward.services.rooms.alarms.all();
    assert_eq!(alarms.keys().count(), 1, "{alarms:?}");
    ward.say(&scene.nurse, &scene.room, "still here").await;
    let open = ward.services.rooms.enter(&scene.room).await.unwrap();
    assert_eq!(open.head.extremities.len(), 1, "one event ties them together");
}

/// An event that rests on three thousand others, each on the one before.
#[tokio::test]
async fn a_deep_chain_of_allowing_events_is_walked_once() {
    let scene = Scene::new().await;
    let (ward, member) = (&scene.town.wards[1], format!("m.room.member|{}", scene.doctor));
    let (mut chain, mut last) = (Vec::new(), scene.state[&member].clone());
    let rules = appliance_model::ruma::RoomVersionId::V11.rules().unwrap();
    let state = |key: &str| scene.state[key].clone();
    for number in 0..3_000_u64 {
        let mut event = scene.message();
        (event["type"], event["state_key"]) = (json!("m.room.member"), json!(scene.doctor));
        event["content"] = json!({ "membership": "join", "displayname": number.to_string() });
        event["auth_events"] = json!([
            state("m.room.create|"),
            state("m.room.power_levels|"),
            state("m.room.join_rules|"),
            last,
        ]);
        event["prev_events"] = json!([last]);
        let raw = signed(ward, event);
        let object = serde_json::from_str(raw.get()).unwrap();
        let hash = appliance_model::ruma::signatures::reference_hash(&object, &rules).unwrap();
        last = format!("${hash}");
        chain.push(raw);
    }
    let answer = format!(
        r#"{{"auth_chain":[{}]}}"#,
        chain.iter().map(|raw| raw.get()).collect::<Vec<_>>().join(",")
    );
    scene.town.trick(1, move |ask, honest| match ask {
        Ask::EventAuth { .. } => Some(Ok(answer.clone())),
        _ => Some(honest),
    });
    let before = rows(&scene).await;
    let verdict = scene.verdict("t", |event| event["auth_events"][2] = json!(last)).await;
    // By its own allowing events it is fine; by the state before it, its sender is who they were.
    assert_eq!(verdict, "");
    assert_eq!(rows(&scene).await - before, 3_001, "each is kept once");
    assert!(asked_of_two(&scene) <= 2);
    let again = scene.verdict("u", |event| {
        event["auth_events"][2] = json!(last);
        event["origin_server_ts"] = json!(1_700_000_000_200_u64);
    });
    assert_eq!(again.await, "");
    assert_eq!(asked_of_two(&scene), 0, "what is known is not asked for");
}

/// How a server tells of a state of a hundred beds, some of them strangers'.
struct Beds {
    /// Events of servers off the list, by whose names they are in the state.
    strangers: usize,
    /// Names of events that it does not give.
    withheld: usize,
    /// Events of servers off the list that it gives though nobody asked for them.
    beside: usize,
}

impl Beds {
    /// What becomes of an event that follows this state.
    async fn verdict(&self, scene: &Scene, txn: &str) -> String {
        let of = |number: usize, sender: &str| {
            let mut event = scene.message();
            (event["type"], event["state_key"]) = (json!("example.bed"), json!(number.to_string()));
            event["sender"] = json!(sender);
            event["content"] = json!({ "of": txn });
            let raw = signed(&scene.town.wards[1], event);
            (id_of(&raw), raw)
        };
        let stranger = "@visitor:off.example";
        let beds: Vec<_> = (0..100 - self.strangers).map(|n| of(n, &scene.doctor)).collect();
        let strangers: Vec<_> = (100..100 + self.strangers).map(|n| of(n, stranger)).collect();
        let beside: Vec<_> = (300..300 + self.beside).map(|n| of(n, stranger)).collect();
        let named = beds.iter().chain(&strangers).map(|(id, _)| id.clone());
        let named: Vec<_> = named.chain(scene.state.values().cloned()).collect();
        let given: Vec<_> =
            beds.iter().skip(self.withheld).chain(&strangers).chain(&beside).cloned().collect();
        let room = scene.town.state(1, &scene.room).await;
        let allowing: Vec<_> = room.values().cloned().collect();
        scene.town.trick(1, move |ask, honest| match ask {
            Ask::MissingEvents { .. } => Some(Ok(r#"{"events":[]}"#.to_owned())),
            Ask::StateIds { .. } => {
                Some(Ok(json!({ "pdu_ids": named, "auth_chain_ids": allowing }).to_string()))
            }
            Ask::State { .. } => {
                let all: Vec<_> = given.iter().map(|(_, raw)| raw).collect();
                Some(Ok(json!({ "pdus": all, "auth_chain": [] }).to_string()))
            }
            Ask::Event { event_id } => {
                Some(match given.iter().find(|(id, _)| id.as_str() == event_id.as_str()) {
                    Some((_, raw)) => Ok(json!({ "pdus": [raw] }).to_string()),
                    None => Err(Error::new(Kind::NotFound, "I have it not")),
                })
            }
            _ => Some(honest),
        });
        scene.verdict(txn, |event| event["prev_events"] = json!([unknown(7)])).await
    }
}

fn id_of(raw: &serde_json::value::RawValue) -> String {
    let object = serde_json::from_str(raw.get()).unwrap();
    let rules = appliance_model::ruma::RoomVersionId::V11.rules().unwrap();
    format!("${}", appliance_model::ruma::signatures::reference_hash(&object, &rules).unwrap())
}

/// More is absent than is asked for one by one. Strangers whom the other server has let in are left out
/// and not missed; but nobody can hide behind them what they keep from us.
#[tokio::test]
async fn strangers_in_a_state_are_not_missed_and_hide_nothing() {
    for (case, strangers, withheld, beside, is_taken) in [
        ("all of it", 0, 0, 0, true),
        ("a few are not given", 0, 9, 0, true),
        ("too many are not", 0, 15, 0, false),
        ("strangers among them", 12, 0, 0, true),
        ("more strangers than are asked for", 80, 0, 0, true),
        ("strangers, and too many not given", 12, 15, 0, false),
        ("strangers shown instead", 0, 90, 90, false),
    ] {
        let scene = Scene::new().await;
        scene.town.estrange("off.example");
        let verdict = Beds { strangers, withheld, beside }.verdict(&scene, "t").await;
        assert_eq!(verdict.is_empty(), is_taken, "{case}: {verdict:?}");
        let asked = asked_of_two(&scene);
        assert!(asked <= 70, "{case}: {asked} questions");
        let kept = scene.town.kept(0, &scene.room).await.len();
        let alarms = scene.town.wards[0].services.rooms.alarms.all();
        assert!(alarms.len() <= 2, "{case}: {alarms:?}");
        let rows = rows(&scene).await;
        assert!(rows <= kept + 100, "{case}: strangers' events are kept: {rows}");
        let view = scene.town.wards[0].services.house.ledger.newest();
        let (all, _) = view.scan(&EVENTS, &(), Direction::Forward, 10_000).await.unwrap();
        let of_stranger = |json: &[u8]| String::from_utf8_lossy(json).contains("off.example");
        assert!(!all.iter().any(|(_, row)| of_stranger(&row.json)), "{case}");
    }
}
