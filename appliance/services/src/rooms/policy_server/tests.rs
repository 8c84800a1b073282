//! Rooms that are looked after by a server: `one.example` in all of them, with others of its kind and, as
//! the fourth, one of another kind.

use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::signatures::hash_and_sign_event;
use appliance_model::ruma::{
    CanonicalJsonObject, OwnedRoomId, RoomVersionId as V, ServerName, server_name,
};
use appliance_model::{Caller, Error, Kind};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::signature_on;
use crate::Options;
use crate::federation::town::Town;
use crate::peers::{MediaMode, PeerChange};
use crate::scenario::{Ward, event, options};

struct Scene {
    town: Town,
    room: OwnedRoomId,
    nurse: Caller,
    doctors: Vec<Caller>,
}

impl Scene {
    /// A room of the class `clinical-shared`.
    async fn of(count: usize, version: V) -> Self {
        let guarded = Options { policy_server: true, ..options() };
        Self::with(count, version, guarded).await
    }

    async fn with(count: usize, version: V, options: Options) -> Self {
        let town = Town::with_options(count, version, options).await;
        let nurse = town.wards[0].member("nurse").await;
        let class = json!({ "type": "io.wardstone.policy", "state_key": "",
            "content": { "class": "clinical-shared" } });
        let room = town.wards[0].room_as(&nurse, json!({ "initial_state": [class] })).await;
        let mut doctors = Vec::new();
        for ward in &town.wards[1..] {
            let doctor = ward.member("doctor").await;
            town.wards[0].set(&nurse, &room, &doctor.user_id, M::Invite).await;
            ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
            let peers = &town.wards[0].services.peers;
            let lends = PeerChange { media: Some(MediaMode::Lease), ..PeerChange::default() };
            peers.describe(doctor.user_id.server_name(), lends, "uid 0").await.unwrap();
            doctors.push(doctor);
        }
        let scene = Self { town, room, nurse, doctors };
        // Who came later was told through the first.
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                scene.pass_on(from, to, "join").await;
            }
        }
        scene.town.asked();
        scene
    }

    fn ward(&self, at: usize) -> &Ward {
        &self.town.wards[at]
    }

    /// The `at`th server, other than the first, is given all that `from` has said.
    async fn pass_on(&self, from: usize, to: usize, txn: &str) {
        self.town.deliver(from, to, &self.room, &format!("{from}{to}{txn}")).await;
    }

    async fn say(&self, at: usize, txn: &str, content: Value) -> Result<String, Error> {
        let who = if at == 0 { &self.nurse } else { &self.doctors[at - 1] };
        let request = event(&self.room, ("m.room.message", txn), content);
        let sent = self.ward(at).services.rooms.send_event(who, &request).await;
        sent.map(|event_id| event_id.to_string())
    }

    /// An event as it lies in the store of a server.
    async fn stored(&self, at: usize, event_id: &str) -> CanonicalJsonObject {
        let ledger = &self.ward(at).services.house.ledger;
        let event = ledger.event_by_id(event_id.try_into().unwrap()).await.unwrap().unwrap();
        serde_json::from_slice(&event.json).unwrap()
    }

    async fn is_signed(&self, at: usize, event_id: &str) -> bool {
        signature_on(&self.stored(at, event_id).await, server_name!("one.example")).is_some()
    }

    /// What a server says that asks nobody: its ID, and how it is sent.
    async fn unasked(&self, at: usize, content: Value) -> (String, Box<RawValue>) {
        let state = self.town.state(at, &self.room).await;
        let doctor = &self.doctors[at - 1].user_id;
        let (_, events) = self.ward(at).timeline(&self.room).await;
        let event = json!({
            "auth_events": [state["m.room.create|"], state["m.room.power_levels|"],
                state[&format!("m.room.member|{doctor}")]],
            "prev_events": [events.last().unwrap().0.event_id],
            "content": content, "depth": 40, "origin_server_ts": 1_700_000_000_100_u64,
            "room_id": self.room, "sender": doctor, "type": "m.room.message",
        });
        let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
        let house = &self.ward(at).services.house;
        let rules = V::V11.rules().unwrap();
        hash_and_sign_event(
            house.server_name.as_str(),
            &house.signing_key,
            &mut object,
            &rules.redaction,
        )
        .unwrap();
        let hash = appliance_model::ruma::signatures::reference_hash(&object, &rules).unwrap();
        let raw = RawValue::from_string(serde_json::to_string(&object).unwrap()).unwrap();
        (format!("${hash}"), raw)
    }

    async fn take(&self, at: usize, from: usize, raw: &RawValue) -> Value {
        let origin = self.ward(from).services.house.server_name.clone();
        let txn = format!("raw-{at}-{}", raw.get().len());
        let rooms = &self.ward(at).services.rooms;
        let answer = rooms.receive_pdus(&origin, &txn, vec![raw.to_owned()]).await.unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    async fn ask_to_sign(&self, origin: &ServerName, raw: &RawValue) -> Result<String, Error> {
        self.ward(0).services.rooms.sign_as_policy_server(origin, raw).await
    }
}

fn photo(server: &str) -> Value {
    json!({ "msgtype": "m.image", "body": "leg", "url": format!("mxc://{server}/leg") })
}

fn hello() -> Value {
    json!({ "msgtype": "m.text", "body": "hello" })
}

#[tokio::test]
async fn everything_said_in_a_guarded_room_is_signed_before_it_goes_out() {
    for version in [V::V10, V::V11, V::V12] {
        let scene = Scene::of(3, version).await;
        let named = scene.ward(0).current(&scene.room, ("m.room.policy", "")).await;
        let key = scene.ward(0).services.rooms.policy_server_public_key().await.unwrap();
        assert_eq!(named, json!({ "via": "one.example", "public_keys": { "ed25519": key } }));
        let levels = scene.ward(0).current(&scene.room, ("m.room.power_levels", "")).await;
        assert_eq!(levels["events"]["m.room.policy"], 100);

        let ours = scene.say(0, "1", hello()).await.unwrap();
        assert!(scene.is_signed(0, &ours).await);
        assert_eq!(scene.town.asked(), [""; 0], "without asking anybody");
        let theirs = scene.say(1, "2", hello()).await.unwrap();
        assert_eq!(scene.town.asked(), ["two.example -> one.example: sign"]);
        assert!(scene.is_signed(1, &theirs).await);
        for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2)] {
            scene.pass_on(from, to, "said").await;
        }
        let asked = scene.town.asked();
        assert!(!asked.iter().any(|line| line.contains("sign")), "what is signed is: {asked:?}");
        for at in 0..3 {
            let shown = scene.town.shown(at, &scene.room).await;
            assert!(shown.contains(&ours) && shown.contains(&theirs), "{at}");
            assert!(scene.is_signed(at, &theirs).await && scene.is_signed(at, &ours).await);
        }
        // Who came in through the first server was signed there.
        let state = scene.town.state(2, &scene.room).await;
        for doctor in &scene.doctors {
            let member = &state[&format!("m.room.member|{}", doctor.user_id)];
            assert!(scene.is_signed(0, member).await);
        }
    }
}

#[tokio::test]
async fn what_could_not_be_made_to_disappear_is_refused_with_a_sentence() {
    let scene = Scene::of(4, V::V11).await;
    for (at, server, why) in [
        // Of our kind: it lends.
        (1, "two.example", ""),
        (1, "three.example", ""),
        (0, "two.example", ""),
        // Of another kind; and on nobody's list.
        (3, "four.example", "files from servers that keep them"),
        (1, "four.example", "files from servers that keep them"),
        (0, "four.example", "files from servers that keep them"),
        (2, "five.example", "exchanges no files"),
    ] {
        let txn = format!("{at}-{server}");
        match scene.say(at, &txn, photo(server)).await {
            Ok(_) => assert!(why.is_empty(), "{at} {server}"),
            Err(error) => {
                assert!(!why.is_empty() && error.message.contains(why), "{at} {server}: {error}");
                assert_eq!(error.kind, Kind::NotRecommended);
            }
        }
        let again = scene.say(at, &txn, hello()).await;
        assert!(again.is_ok(), "the refused one left nothing behind: {again:?}");
    }
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let hidden = event(&scene.room, ("m.room.encrypted", "e"), encryption);
    let hidden = scene.ward(1).services.rooms.send_event(&scene.doctors[0], &hidden).await;
    assert_eq!(hidden.unwrap_err().kind, Kind::NotRecommended);
    let audit = scene.ward(0).audit().await;
    assert!(audit.contains(&"policy.refused @doctor:four.example".to_owned()), "{audit:?}");
}

#[tokio::test]
async fn what_nobody_was_asked_about_is_asked_about_by_those_who_get_it() {
    let scene = Scene::of(3, V::V11).await;
    let (text, raw) = scene.unasked(1, hello()).await;
    let (image, raw_image) = scene.unasked(1, photo("five.example")).await;
    for (at, line) in [(0, None), (2, Some("three.example -> one.example: sign"))] {
        scene.town.asked();
        scene.take(at, 1, &raw).await;
        assert_eq!(
            scene.town.asked().into_iter().find(|line| line.contains("sign")).as_deref(),
            line
        );
        let answer = scene.take(at, 1, &raw_image).await;
        assert_eq!(answer["pdus"][&image], json!({}), "the server did nothing wrong");
        let shown = scene.town.shown(at, &scene.room).await;
        assert!(shown.contains(&text) && !shown.contains(&image), "{at}: {shown:?}");
        assert!(scene.town.kept(at, &scene.room).await.contains(&image), "soft-failed, not lost");
        assert!(scene.is_signed(at, &text).await, "the signature goes on to whoever asks");
        assert!(!scene.is_signed(at, &image).await);
        let next = scene.say(at, "next", hello()).await.unwrap();
        let follows = scene.stored(at, &next).await["prev_events"].clone();
        assert!(!format!("{follows:?}").contains(&image), "nothing is built on it");
    }
}

#[tokio::test]
async fn without_its_policy_server_a_room_is_silent_until_it_is_taken_off() {
    let scene = Scene::of(3, V::V11).await;
    let (text, raw) = scene.unasked(2, hello()).await;
    scene.town.cut(0, 1, true);
    scene.town.asked();
    for _ in 0..2 {
        let error = scene.say(1, "1", hello()).await.unwrap_err();
        assert_eq!(error.kind, Kind::RemoteUnavailable);
        assert!(error.message.contains("one.example"), "{error}");
    }
    assert_eq!(scene.town.asked().len(), 1, "the second did not wait");
    scene.take(1, 2, &raw).await;
    assert!(!scene.town.shown(1, &scene.room).await.contains(&text), "nor is it shown");
    assert!(scene.say(0, "1", hello()).await.is_ok(), "the policy server's own people go on");

    // Later it is asked again.
    scene.town.cut(0, 1, false);
    assert!(scene.say(1, "1", hello()).await.is_err(), "not yet");
    scene.ward(1).clock.pass_ms(5_001);
    assert!(scene.say(1, "1", hello()).await.is_ok());

    // A room can always take it off: that is not asked about. (Of two at the same time, any would hold.)
    scene.ward(0).clock.pass_ms(10_000);
    scene.ward(0).state(&scene.nurse, &scene.room, ("m.room.policy", ""), json!({})).await;
    scene.pass_on(0, 1, "off").await;
    scene.town.cut(0, 1, true);
    scene.town.asked();
    let said = scene.say(1, "2", photo("five.example")).await.unwrap();
    assert!(!scene.is_signed(1, &said).await && scene.town.asked().is_empty());
}

#[tokio::test]
async fn a_server_without_anybody_in_the_room_looks_after_nothing() {
    let scene = Scene::with(3, V::V11, options()).await;
    let none = scene.town.state(0, &scene.room).await;
    assert!(!none.contains_key("m.room.policy|"), "the operator did not ask for it");
    let key = scene.ward(2).services.rooms.policy_server_public_key().await.unwrap();
    let named = |via: &str| json!({ "via": via, "public_keys": { "ed25519": key } });
    let set = async |content| {
        let place = ("m.room.policy", "");
        scene.ward(0).state(&scene.nurse, &scene.room, place, content).await;
    };
    for (txn, content) in [
        ("1", named("five.example")),
        ("2", json!({ "via": "three.example" })),
        ("3", json!({ "via": 7, "public_keys": { "ed25519": key } })),
    ] {
        set(content).await;
        assert!(scene.say(0, txn, hello()).await.is_ok());
        assert_eq!(scene.town.asked(), [""; 0]);
    }
    set(named("three.example")).await;
    scene.pass_on(0, 2, "named").await;
    scene.say(0, "4", hello()).await.unwrap();
    assert_eq!(scene.town.asked().last().unwrap(), "one.example -> three.example: sign");
    // The kick of the last of its people is the last that it signs.
    let doctor = &scene.doctors[1].user_id;
    scene.ward(0).set(&scene.nurse, &scene.room, doctor, M::Leave).await;
    scene.town.asked();
    scene.say(0, "5", hello()).await.unwrap();
    assert_eq!(scene.town.asked(), [""; 0]);
}

#[tokio::test]
async fn a_key_that_the_room_does_not_name_is_worth_nothing() {
    let scene = Scene::of(2, V::V11).await;
    let other = scene.ward(1).services.rooms.policy_server_public_key().await.unwrap();
    let named = json!({ "via": "one.example", "public_keys": { "ed25519": other } });
    scene.ward(0).state(&scene.nurse, &scene.room, ("m.room.policy", ""), named).await;
    scene.pass_on(0, 1, "key").await;
    for at in 0..2 {
        let error = scene.say(at, "1", hello()).await.unwrap_err();
        assert!(error.message.contains("another key"), "{error}");
    }
    // In the other alphabet of Base64, as in the specification's own example.
    let own = scene.ward(0).services.rooms.policy_server_public_key().await.unwrap();
    let own = own.replace('+', "-").replace('/', "_");
    let named = json!({ "via": "one.example", "public_keys": { "ed25519": own } });
    scene.ward(0).state(&scene.nurse, &scene.room, ("m.room.policy", ""), named).await;
    scene.pass_on(0, 1, "again").await;
    for at in 0..2 {
        scene.say(at, "1", hello()).await.unwrap();
    }
}

#[tokio::test]
async fn who_asks_is_in_the_room_and_shows_all_of_it() {
    let scene = Scene::of(3, V::V11).await;
    let two = server_name!("two.example");
    let (_, raw) = scene.unasked(1, photo("five.example")).await;
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut event: Value = serde_json::from_str(raw.get()).unwrap();
        change(&mut event);
        RawValue::from_string(event.to_string()).unwrap()
    };
    // What a redaction leaves has the same hashes: signed, it would be good for the photo.
    let stripped = changed(&|event| event["content"] = json!({}));
    let error = scene.ask_to_sign(two, &stripped).await.unwrap_err();
    assert!(error.kind == Kind::NotRecommended && error.message.contains("whole"), "{error}");
    let forged =
        changed(&|event| event["signatures"]["two.example"] = json!({ "ed25519:a_1": "AA" }));
    assert_eq!(scene.ask_to_sign(two, &forged).await.unwrap_err().kind, Kind::NotRecommended);
    let elsewhere = changed(&|event| event["room_id"] = json!("!none:one.example"));
    assert_eq!(scene.ask_to_sign(two, &elsewhere).await.unwrap_err().kind, Kind::NotFound);
    for bad in ["{}", "7", "[]", r#"{"room_id":1}"#, r#"{"a":1.5}"#] {
        let bad = RawValue::from_string(bad.to_owned()).unwrap();
        assert_eq!(scene.ask_to_sign(two, &bad).await.unwrap_err().kind, Kind::BadJson, "{bad}");
    }
    let (_, fine) = scene.unasked(1, hello()).await;
    let signed = scene.ask_to_sign(two, &fine).await.unwrap();
    let signed: Value = serde_json::from_str(&signed).unwrap();
    assert!(signed["one.example"]["ed25519:policy_server"].is_string(), "{signed}");
    assert_eq!(signed["one.example"].as_object().unwrap().len(), 1, "nothing else");
    // Anybody in the room may ask about anybody's event; nobody else learns that there is one.
    let three = server_name!("three.example");
    assert_eq!(scene.ask_to_sign(three, &fine).await.unwrap(), signed.to_string());
    let nobody = server_name!("five.example");
    assert_eq!(scene.ask_to_sign(nobody, &fine).await.unwrap_err().kind, Kind::NotFound);
    let acl = json!({ "allow": ["one.example", "three.example"], "deny": [] });
    scene.ward(0).state(&scene.nurse, &scene.room, ("m.room.server_acl", ""), acl).await;
    assert_eq!(scene.ask_to_sign(two, &fine).await.unwrap_err().kind, Kind::Forbidden);
}

#[tokio::test]
async fn who_says_too_much_is_told_to_wait() {
    let limited = Options {
        policy_server: true,
        rate_limits: Some(crate::RateLimits {
            message: crate::Rate { per_second: 1.0, burst: 3 },
            ..crate::RateLimits::default()
        }),
        ..options()
    };
    let scene = Scene::with(2, V::V11, limited).await;
    let mut signed = 0;
    let outcome = loop {
        let (_, raw) = scene.unasked(1, json!({ "body": format!("{signed}") })).await;
        match scene.ask_to_sign(server_name!("two.example"), &raw).await {
            Ok(_) => signed += 1,
            Err(error) => break error.kind,
        }
    };
    assert!((1..=3).contains(&signed) && matches!(outcome, Kind::Limited { .. }), "{outcome:?}");
    scene.ward(0).clock.pass_ms(1_000);
    let (_, raw) = scene.unasked(1, hello()).await;
    scene.ask_to_sign(server_name!("two.example"), &raw).await.unwrap();
}

#[tokio::test]
async fn the_key_survives_a_power_cut_and_a_room_keeps_its_guard_when_it_is_upgraded() {
    let ward = Ward::with_options(Options { policy_server: true, ..options() }).await;
    let nurse = ward.member("nurse").await;
    let class = json!({ "type": "io.wardstone.policy", "content": { "class": "clinical-shared" } });
    let room = ward.room_as(&nurse, json!({ "initial_state": [class] })).await;
    let key = ward.services.rooms.policy_server_public_key().await.unwrap();
    let ward = ward.power_cut_and_restart().await;
    assert_eq!(ward.services.rooms.policy_server_public_key().await.unwrap(), key);
    ward.say(&nurse, &room, "hello").await;
    let upgrade = crate::rooms::Upgrade { version: V::V12, additional_creators: Vec::new() };
    let new = ward.services.rooms.upgrade(&nurse, &room, &upgrade).await.unwrap();
    let named = ward.current(&new, ("m.room.policy", "")).await;
    assert_eq!(named["public_keys"]["ed25519"], key);
    for class in ["general", "clinical-photo", "clinical-e2ee"] {
        let class = json!({ "type": "io.wardstone.policy", "content": { "class": class } });
        let room = ward.room_as(&nurse, json!({ "initial_state": [class] })).await;
        let open = ward.services.rooms.enter(&room).await.unwrap();
        assert!(open.state(&"m.room.policy".into(), "").await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_policy_server_that_is_parted_with_does_not_keep_its_people_in() {
    let scene = Scene::with(2, V::V11, options()).await;
    let key = scene.ward(1).services.rooms.policy_server_public_key().await.unwrap();
    let named = json!({ "via": "two.example", "public_keys": { "ed25519": key } });
    scene.ward(0).state(&scene.nurse, &scene.room, ("m.room.policy", ""), named).await;
    scene.town.cut(0, 1, true);
    assert!(scene.say(0, "1", hello()).await.is_err(), "nobody is there to sign");
    let (server, one) = (server_name!("two.example"), &scene.ward(0).services);
    let suspended = PeerChange { suspended: Some(true), ..PeerChange::default() };
    one.peers.describe(server, suspended, "uid 0").await.unwrap();
    let expelled = one.administration.expel(server, "uid 0").await.unwrap();
    assert_eq!(expelled[0].left, [scene.doctors[0].user_id.clone()], "{expelled:?}");
    scene.say(0, "2", hello()).await.unwrap();
}

#[tokio::test]
async fn an_access_list_waits_for_the_policy_server_and_holds_up_no_other_room() {
    let keeps = Options { access_lists: true, ..options() };
    let scene = Scene::with(2, V::V11, keeps).await;
    let (one, key) = (scene.ward(0), scene.ward(1));
    let key = key.services.rooms.policy_server_public_key().await.unwrap();
    let named = json!({ "via": "two.example", "public_keys": { "ed25519": key } });
    one.state(&scene.nurse, &scene.room, ("m.room.policy", ""), named).await;
    scene.pass_on(0, 1, "named").await;
    scene.town.cut(0, 1, true);
    let other = server_name!("three.example");
    one.services.peers.describe(other, PeerChange::default(), "uid 0").await.unwrap();
    let listed = async || {
        let list = one.current(&scene.room, ("m.room.server_acl", "")).await;
        list["allow"].to_string().contains("three.example")
    };
    assert_eq!(one.services.rooms.keep_access_lists().await.unwrap(), 0, "not now");
    scene.town.cut(0, 1, false);
    assert_eq!(one.services.rooms.keep_access_lists().await.unwrap(), 0, "not at once");
    one.clock.pass_ms(60_000);
    assert_eq!(one.services.rooms.keep_access_lists().await.unwrap(), 1);
    assert!(listed().await);
    one.clock.pass_ms(60_000);
    assert_eq!(one.services.rooms.keep_access_lists().await.unwrap(), 0, "that was all");
}
