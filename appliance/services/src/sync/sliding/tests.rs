//! Scenes of sliding sync.

use std::time::Duration;

use appliance_model::ruma::RoomId;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::presence::PresenceState;
use appliance_model::{Caller, Kind};
use serde_json::{Value, json};

use super::request::{
    ExtensionRequests, Form, RoomConfig, RoomFilters, RoomScope, RoomWindow, SlidingRequest,
    StatePattern, StateWish, ThreadsRequest, ToDeviceRequest,
};
use crate::keys::scene::to_device;
use crate::reading::{NewReceipt, PRIVATE, PUBLIC};
use crate::scenario::{Ward, visibility};

pub(crate) fn pattern(kind: &str, key: &str) -> StatePattern {
    let some = |text: &str| (text != "*").then(|| text.to_owned());
    StatePattern { kind: some(kind), key: some(key) }
}

pub(crate) fn config(timeline_limit: usize, state: &[(&str, &str)]) -> RoomConfig {
    let lazy = |(kind, key): &&(&str, &str)| (*kind, *key) == ("m.room.member", "$LAZY");
    let lazy_members = state.iter().any(|pair| lazy(&pair));
    let include = state.iter().filter(|pair| !lazy(pair)).map(|(kind, key)| pattern(kind, key));
    let state = StateWish { include: include.collect(), exclude: Vec::new(), lazy_members };
    RoomConfig { timeline_limit, state }
}

pub(crate) fn window(last: usize, config: RoomConfig) -> RoomWindow {
    RoomWindow { ranges: Some(vec![(0, last)]), filters: RoomFilters::default(), config }
}

/// One list of the first twenty rooms.
pub(crate) fn request() -> SlidingRequest {
    let list = window(19, config(10, &[("m.room.name", ""), ("m.room.member", "$LAZY")]));
    SlidingRequest {
        form: Form::Unstable,
        pos: None,
        conn_id: "list".to_owned(),
        txn_id: None,
        timeout: Duration::ZERO,
        presence: PresenceState::Offline,
        lists: [("all".to_owned(), list)].into(),
        subscriptions: [].into(),
        extensions: ExtensionRequests::default(),
    }
}

/// The same on a connection of its own.
fn another() -> SlidingRequest {
    SlidingRequest { conn_id: "another".to_owned(), ..request() }
}

/// Every extension, for all rooms.
pub(crate) fn everything() -> ExtensionRequests {
    ExtensionRequests {
        to_device: Some(ToDeviceRequest::default()),
        e2ee: true,
        account_data: Some(RoomScope::default()),
        receipts: Some(RoomScope::default()),
        typing: Some(RoomScope::default()),
        thread_subscriptions: Some(ThreadsRequest { name: "thread_subscriptions", limit: None }),
    }
}

pub(crate) async fn ask(ward: &Ward, who: &Caller, request: &SlidingRequest) -> Value {
    let json = ward.services.sync.sliding(who, "", request).await.unwrap();
    serde_json::from_str(&json).unwrap()
}

/// Asks from where the answer ends.
pub(crate) fn after(request: &SlidingRequest, answer: &Value) -> SlidingRequest {
    let pos = answer["pos"].as_str().map(str::to_owned);
    SlidingRequest { pos, ..request.clone() }
}

async fn next(ward: &Ward, who: &Caller, request: &mut SlidingRequest, answer: &Value) -> Value {
    *request = after(request, answer);
    ask(ward, who, request).await
}

fn bodies(room: &Value) -> Vec<&str> {
    let events = room["timeline"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn state_of(room: &Value) -> Vec<(String, String)> {
    let events = room["required_state"].as_array().cloned().unwrap_or_default();
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let mut state: Vec<_> =
        events.iter().map(|event| (text(event, "type"), text(event, "state_key"))).collect();
    state.sort();
    state
}

fn shown(answer: &Value) -> Vec<String> {
    answer["rooms"].as_object().into_iter().flat_map(|rooms| rooms.keys().cloned()).collect()
}

#[tokio::test]
async fn a_room_is_told_whole_once_and_then_what_is_new() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_as(&nurse, json!({ "name": "Ward 4" })).await;
    ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
    ward.say(&nurse, &room, "one").await;
    let mut asked = request();
    let first = ask(&ward, &doctor, &asked).await;
    let part = &first["rooms"][room.as_str()];
    assert_eq!(first["lists"], json!({ "all": { "count": 1 } }));
    assert_eq!((&part["name"], &part["initial"]), (&json!("Ward 4"), &json!(true)));
    assert_eq!((&part["joined_count"], &part["invited_count"]), (&json!(2), &json!(0)));
    assert_eq!((&part["notification_count"], &part["num_live"]), (&json!(1), &json!(0)));
    assert_eq!(part["heroes"], Value::Null, "it has a name");
    assert_eq!(bodies(part), ["one"]);
    let members =
        [&doctor, &nurse].map(|who| ("m.room.member".to_owned(), who.user_id.to_string()));
    let named = ("m.room.name".to_owned(), String::new());
    assert_eq!(state_of(part), [members.to_vec(), vec![named]].concat());

    let quiet = next(&ward, &doctor, &mut asked, &first).await;
    assert!(shown(&quiet).is_empty());
    assert_eq!(quiet["lists"]["all"]["count"], 1, "always there");

    ward.say(&nurse, &room, "two").await;
    let second = next(&ward, &doctor, &mut asked, &quiet).await;
    let part = &second["rooms"][room.as_str()];
    assert_eq!((bodies(part), &part["num_live"]), (vec!["two"], &json!(1)));
    assert_eq!((&part["limited"], &part["initial"]), (&Value::Null, &Value::Null));
    assert_eq!(part["notification_count"], 2);
    assert!(state_of(part).is_empty(), "the nurse is known: {part}");

    ward.state(&nurse, &room, ("m.room.name", ""), json!({})).await;
    let third = next(&ward, &doctor, &mut asked, &second).await;
    let part = &third["rooms"][room.as_str()];
    assert_eq!(part.get("name"), Some(&Value::Null), "removed");
    assert_eq!(part["heroes"], json!([{ "user_id": nurse.user_id, "displayname": "nurse" }]));
    assert_eq!(state_of(part), [("m.room.name".to_owned(), String::new())]);
    assert!(part["bump_stamp"] == second["rooms"][room.as_str()]["bump_stamp"], "no message");
}

/// The same `pos` twice gives the same; after a restart it is unknown, and a connection that is begun
/// anew is woken as the one before was.
#[tokio::test]
async fn a_lost_answer_is_given_again() {
    let ward = Ward::new().await;
    let nurse = ward.member("nurse").await;
    let (doctor, token) = ward.signed_in("doctor").await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let mut asked = SlidingRequest { extensions: everything(), ..request() };
    let first = ask(&ward, &doctor, &asked).await;
    ward.say(&nurse, &room, "one").await;
    let message = to_device("m.test", "t", json!({ doctor.user_id.as_str(): { "*": {} } }));
    ward.services.keys.send_to_device(&nurse, &message).await.unwrap();
    asked = after(&asked, &first);
    let lost = ask(&ward, &doctor, &asked).await;
    ward.say(&nurse, &room, "two").await;
    let again = ask(&ward, &doctor, &asked).await;
    for (answer, expected) in [(&lost, vec!["one"]), (&again, vec!["one", "two"])] {
        let part = &answer["rooms"][room.as_str()];
        assert_eq!(bodies(part), expected);
        assert_eq!(answer["extensions"]["to_device"]["events"].as_array().unwrap().len(), 1);
    }
    let unknown = async |ward: &Ward, pos: &Value| {
        let asked = SlidingRequest { pos: pos.as_str().map(str::to_owned), ..request() };
        ward.services.sync.sliding(&doctor, "", &asked).await.map_err(|error| error.kind)
    };
    assert_eq!(unknown(&ward, &lost["pos"]).await, Err(Kind::UnknownPos), "taken back");
    let since = again["extensions"]["to_device"]["next_batch"].as_str().unwrap().parse();
    let since = since.map(appliance_model::Position).ok();
    asked.extensions.to_device = Some(ToDeviceRequest { limit: None, since });
    let acknowledged = next(&ward, &doctor, &mut asked, &again).await;
    assert_eq!(acknowledged["extensions"]["to_device"]["events"], json!([]));
    assert!(shown(&acknowledged).is_empty());

    let ward = ward.power_cut_and_restart().await;
    assert_eq!(unknown(&ward, &acknowledged["pos"]).await, Err(Kind::UnknownPos));
    asked.pos = None;
    let anew = ask(&ward, &doctor, &asked).await;
    assert_eq!(anew["rooms"][room.as_str()]["initial"], true);
    assert_eq!(anew["extensions"]["to_device"]["events"], json!([]), "acknowledged is gone");
    let settled = next(&ward, &doctor, &mut asked, &anew).await;
    asked = SlidingRequest { timeout: Duration::from_secs(30), ..after(&asked, &settled) };
    let sync = &ward.services.sync;
    let (woken, _) = tokio::join!(
        sync.sliding(&doctor, &token, &asked),
        ward.say(&nurse, &room, "after the dark"),
    );
    let woken: Value = serde_json::from_str(&woken.unwrap()).unwrap();
    assert_eq!(bodies(&woken["rooms"][room.as_str()]), ["after the dark"]);
}

#[tokio::test]
async fn a_kick_is_told_and_nothing_after_it() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let mut asked = request();
    asked.subscriptions = [(room.clone(), config(5, &[("*", "*")]))].into();
    let first = ask(&ward, &doctor, &asked).await;
    ward.say(&nurse, &room, "Goodbye").await;
    ward.set(&nurse, &room, &doctor.user_id, M::Leave).await;
    ward.state(&nurse, &room, ("m.room.topic", ""), json!({ "topic": "Not for you" })).await;
    ward.say(&nurse, &room, "Not for you").await;
    let kicked = next(&ward, &doctor, &mut asked, &first).await;
    let part = &kicked["rooms"][room.as_str()];
    assert_eq!(bodies(part), ["Goodbye"]);
    let own = ("m.room.member".to_owned(), doctor.user_id.to_string());
    assert_eq!(state_of(part), std::slice::from_ref(&own), "clients read it from there");
    assert!(!kicked.to_string().contains("Not for you"), "{kicked}");
    ward.say(&nurse, &room, "Not for you").await;
    let later = next(&ward, &doctor, &mut asked, &kicked).await;
    assert!(shown(&later).is_empty(), "{later}");

    // A new connection is told of it: the user may not know. Not so of a leave of one's own.
    let anew = ask(&ward, &doctor, &another()).await;
    let part = &anew["rooms"][room.as_str()];
    assert!(bodies(part).contains(&"Goodbye") && !anew.to_string().contains("Not for you"));
    assert!(state_of(part).contains(&own), "{part}");
    ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    let invited = next(&ward, &doctor, &mut asked, &later).await;
    let part = &invited["rooms"][room.as_str()];
    assert!(part["invite_state"].is_array() && part["initial"] == true, "{part}");
    ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
    let back = next(&ward, &doctor, &mut asked, &invited).await;
    assert_eq!(back["rooms"][room.as_str()]["initial"], true, "joined anew");
    ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
    let left = next(&ward, &doctor, &mut asked, &back).await;
    assert!(state_of(&left["rooms"][room.as_str()]).contains(&own));
    let anew = ask(&ward, &doctor, &another()).await;
    assert_eq!((shown(&anew).len(), &anew["lists"]["all"]["count"]), (0, &json!(0)));
}

#[tokio::test]
async fn an_invite_that_ends_is_told_without_the_room() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_as(&nurse, json!({ "name": "Ward 4" })).await;
    let mut asked = request();
    let none = ask(&ward, &doctor, &asked).await;
    ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    let invited = next(&ward, &doctor, &mut asked, &none).await;
    let part = &invited["rooms"][room.as_str()];
    let names: Vec<_> =
        part["invite_state"].as_array().unwrap().iter().map(|e| &e["type"]).collect();
    assert!(names.contains(&&json!("m.room.name")) && names.contains(&&json!("m.room.member")));
    assert_eq!(part.get("timeline"), None);
    ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
    let ended = next(&ward, &doctor, &mut asked, &invited).await;
    let part = &ended["rooms"][room.as_str()];
    assert_eq!(state_of(part), [("m.room.member".to_owned(), doctor.user_id.to_string())]);
    assert_eq!(part["timeline"].as_array().unwrap().len(), 1);
    assert_eq!((part.get("invite_state"), part.get("name")), (None, None));
    let over = next(&ward, &doctor, &mut asked, &ended).await;
    assert_eq!((shown(&over).len(), &over["lists"]["all"]["count"]), (0, &json!(0)));
}

/// A list grows; a room that was out of its range and comes back is told all it missed.
#[tokio::test]
async fn lists_are_counted_off_by_activity() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let mut rooms = Vec::new();
    for number in 0..5 {
        rooms.push(ward.room_as(&nurse, json!({ "name": number.to_string() })).await);
    }
    ward.say(&nurse, &rooms[0], "newest").await;
    let mut asked = request();
    let set_last = |asked: &mut SlidingRequest, last| {
        asked.lists.get_mut("all").unwrap().ranges = Some(vec![(0, last)]);
    };
    let ids = |wanted: &[usize]| {
        let mut ids: Vec<_> = wanted.iter().map(|index| rooms[*index].to_string()).collect();
        ids.sort();
        ids
    };
    set_last(&mut asked, 1);
    let two = ask(&ward, &nurse, &asked).await;
    assert_eq!((shown(&two), &two["lists"]["all"]["count"]), (ids(&[0, 4]), &json!(5)));
    set_last(&mut asked, 3);
    let four = next(&ward, &nurse, &mut asked, &two).await;
    assert_eq!(shown(&four), ids(&[3, 2]), "the others are known");

    set_last(&mut asked, 0);
    ward.say(&nurse, &rooms[4], "unseen").await;
    ward.say(&nurse, &rooms[3], "seen").await;
    let one = next(&ward, &nurse, &mut asked, &four).await;
    assert_eq!(shown(&one), ids(&[3]));
    set_last(&mut asked, 19);
    let all = next(&ward, &nurse, &mut asked, &one).await;
    assert_eq!(shown(&all), ids(&[4, 1]));
    let part = &all["rooms"][rooms[4].as_str()];
    assert_eq!((bodies(part), &part["initial"]), (vec!["unseen"], &Value::Null));
    assert_eq!(all["rooms"][rooms[1].as_str()]["initial"], true);
    let stamps = [&four, &one, &all].map(|answer| {
        let rooms = answer["rooms"].as_object().unwrap().values();
        rooms.map(|room| room["bump_stamp"].as_u64().unwrap()).max().unwrap()
    });
    assert!(stamps[0] < stamps[1] && stamps[1] > stamps[2], "{stamps:?}");
}

#[tokio::test]
async fn a_subscription_shows_more_than_the_list_did() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    for number in 0..6 {
        ward.say(&nurse, &room, &number.to_string()).await;
    }
    ward.state(&nurse, &room, ("m.room.topic", ""), json!({ "topic": "Night shift" })).await;
    let mut asked = request();
    asked.lists.get_mut("all").unwrap().config = config(1, &[("m.room.create", "")]);
    let first = ask(&ward, &doctor, &asked).await;
    let part = &first["rooms"][room.as_str()];
    assert_eq!((part["timeline"].as_array().unwrap().len(), &part["limited"]), (1, &json!(true)));

    let topic = ("m.room.topic".to_owned(), String::new());
    asked.subscriptions = [(room.clone(), config(4, &[("m.room.topic", "*")]))].into();
    let wider = next(&ward, &doctor, &mut asked, &first).await;
    let part = &wider["rooms"][room.as_str()];
    assert_eq!(bodies(part), ["3", "4", "5"]);
    assert_eq!(part["unstable_expanded_timeline"], true);
    assert_eq!((&part["num_live"], &part["initial"]), (&json!(0), &Value::Null));
    assert_eq!(state_of(part), std::slice::from_ref(&topic), "the create event is known");
    let quiet = next(&ward, &doctor, &mut asked, &wider).await;
    assert!(shown(&quiet).is_empty());
    asked.subscriptions.get_mut(&room).unwrap().timeline_limit = 100;
    let all = next(&ward, &doctor, &mut asked, &quiet).await;
    let part = &all["rooms"][room.as_str()];
    assert_eq!((bodies(part).len(), &part["limited"]), (6, &Value::Null), "from the beginning");
    // Neither less nor all again is more than all.
    for limit in [1, 200] {
        asked.subscriptions.get_mut(&room).unwrap().timeline_limit = limit;
        let again = ask(&ward, &doctor, &after(&asked, &all)).await;
        assert!(shown(&again).is_empty(), "{limit}");
    }
}

#[tokio::test]
async fn filters_pick_rooms() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let direct = ward.room_of(&[&nurse, &doctor]).await;
    let secret = ward.room_as(
        &nurse,
        json!({ "initial_state": [{
        "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
    }] }),
    );
    let secret = secret.await;
    let space = ward.room_as(&nurse, json!({ "creation_content": { "type": "m.space" } })).await;
    let invited = ward.room(&doctor).await;
    ward.set(&doctor, &invited, &nurse.user_id, M::Invite).await;
    let child = json!({ "via": ["hospital.example"] });
    ward.state(&nurse, &space, ("m.space.child", secret.as_str()), child).await;
    ward.state(&nurse, &space, ("m.space.child", direct.as_str()), json!({})).await;
    let owner = (nurse.user, nurse.user_id.as_str());
    let personal = &ward.services.personal;
    let content = json!({ doctor.user_id.as_str(): [direct] }).to_string();
    personal.set_account_data(owner, None, "m.direct", &content).await.unwrap();
    let number = ward.services.house.ledger.room(&secret).await.unwrap();
    let tags = r#"{"tags":{"m.favourite":{}}}"#;
    personal.set_account_data(owner, number, "m.tag", tags).await.unwrap();

    let kinds = |kind: Option<&str>| vec![kind.map(str::to_owned)];
    let none = RoomFilters::default;
    let cases = [
        (none(), vec![&direct, &secret, &space, &invited]),
        (RoomFilters { is_dm: Some(true), ..none() }, vec![&direct]),
        (RoomFilters { is_dm: Some(false), ..none() }, vec![&secret, &space, &invited]),
        (RoomFilters { is_encrypted: Some(true), ..none() }, vec![&secret]),
        (RoomFilters { is_encrypted: Some(false), ..none() }, vec![&direct, &space, &invited]),
        (RoomFilters { is_invited: Some(true), ..none() }, vec![&invited]),
        (RoomFilters { is_invited: Some(false), ..none() }, vec![&direct, &secret, &space]),
        (RoomFilters { room_types: Some(kinds(Some("m.space"))), ..none() }, vec![&space]),
        (RoomFilters { room_types: Some(kinds(None)), ..none() }, vec![&direct, &secret, &invited]),
        (RoomFilters { not_room_types: kinds(None), ..none() }, vec![&space]),
        (RoomFilters { spaces: Some(vec![space.clone()]), ..none() }, vec![&secret]),
        (RoomFilters { spaces: Some(vec![invited.clone()]), ..none() }, vec![]),
        (RoomFilters { tags: Some(vec!["m.favourite".to_owned()]), ..none() }, vec![&secret]),
        (
            RoomFilters { not_tags: vec!["m.favourite".to_owned()], ..none() },
            vec![&direct, &space, &invited],
        ),
    ];
    for (filters, expected) in cases {
        let mut asked = request();
        asked.lists.get_mut("all").unwrap().filters = filters.clone();
        let answer = ask(&ward, &nurse, &asked).await;
        let mut expected: Vec<_> = expected.into_iter().map(ToString::to_string).collect();
        expected.sort();
        assert_eq!(shown(&answer), expected, "{filters:?}");
        assert_eq!(answer["lists"]["all"]["count"], expected.len());
    }
    // What is direct is told, and when it ceases to be.
    let mut asked = request();
    let first = ask(&ward, &nurse, &asked).await;
    assert_eq!(first["rooms"][direct.as_str()]["is_dm"], true);
    assert_eq!(first["rooms"][secret.as_str()].get("is_dm"), None);
    personal.set_account_data(owner, None, "m.direct", "{}").await.unwrap();
    let second = next(&ward, &nurse, &mut asked, &first).await;
    assert_eq!(shown(&second), [direct.to_string()]);
    assert_eq!(second["rooms"][direct.as_str()]["is_dm"], false);
}

#[tokio::test]
async fn state_comes_as_wished() {
    let (ward, [nurse, doctor, visitor]) = Ward::with_members(["nurse", "doctor", "visitor"]).await;
    let room = ward.room_of(&[&nurse, &doctor, &visitor]).await;
    let call = "org.matrix.msc3401.call.member";
    ward.state(&nurse, &room, (call, "_a"), json!({ "x": 1 })).await;
    ward.state(&nurse, &room, (call, "_b"), json!({ "x": 1 })).await;
    let get = async |wish: &[(&str, &str)]| {
        let mut asked = request();
        asked.lists.get_mut("all").unwrap().config = config(1, wish);
        state_of(&ask(&ward, &doctor, &asked).await["rooms"][room.as_str()])
    };
    let pair = |kind: &str, key: &str| (kind.to_owned(), key.to_owned());
    assert_eq!(get(&[(call, "*")]).await, [pair(call, "_a"), pair(call, "_b")]);
    assert_eq!(get(&[("*", "_a")]).await, [pair(call, "_a")]);
    let me = doctor.user_id.as_str();
    assert_eq!(get(&[("m.room.member", me)]).await, [pair("m.room.member", me)]);
    assert_eq!(get(&[("m.room.member", "*")]).await.len(), 3);
    let all = get(&[("*", "*")]).await;
    assert_eq!(all.len(), 2 + 3 + 5, "{all:?}");
    let lazy = get(&[("*", "*"), ("m.room.member", "$LAZY")]).await;
    assert_eq!(lazy.len(), 2 + 1 + 5, "only whose event is shown: {lazy:?}");
    assert_eq!(get(&[]).await, []);

    // A change of any of them is told, by whichever wish; under lazy loading all changed members.
    let mut asked = request();
    asked.lists.get_mut("all").unwrap().config =
        config(10, &[(call, "*"), ("m.room.member", "$LAZY")]);
    let first = ask(&ward, &doctor, &asked).await;
    ward.state(&nurse, &room, (call, "_b"), json!({ "x": 2 })).await;
    ward.set(&visitor, &room, &visitor.user_id, M::Leave).await;
    let second = next(&ward, &doctor, &mut asked, &first).await;
    let part = &second["rooms"][room.as_str()];
    let gone = pair("m.room.member", visitor.user_id.as_str());
    assert_eq!(state_of(part), [gone, pair(call, "_b")]);
    assert_eq!(part["joined_count"], 2);
}

#[tokio::test]
async fn extensions_tell_what_is_new_of_them() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let [one, two] = [ward.say(&nurse, &room, "one").await, ward.say(&nurse, &room, "two").await];
    let read = async |who: &Caller, kind, event: &str| {
        let new = NewReceipt { kind, event_id: event.try_into().unwrap(), thread: "" };
        ward.services.reading.receive(who, &room, new).await.unwrap();
    };
    read(&doctor, PRIVATE, &one).await;
    read(&nurse, PUBLIC, &two).await;
    let mut asked = SlidingRequest { extensions: everything(), ..request() };
    asked.lists.get_mut("all").unwrap().config = config(1, &[]);
    let first = ask(&ward, &doctor, &asked).await;
    let told = &first["extensions"];
    let global = told["account_data"]["global"].as_array().unwrap();
    assert!(global.iter().any(|datum| datum["type"] == "m.push_rules"), "{told}");
    assert_eq!(told["e2ee"]["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    assert_eq!(told["e2ee"]["device_unused_fallback_key_types"], json!([]));
    assert_eq!(told["e2ee"].get("device_lists"), None);
    assert!(told["to_device"]["next_batch"].is_string());
    let receipts = &told["receipts"]["rooms"][room.as_str()];
    assert_eq!(receipts["type"], "m.receipt");
    assert!(receipts["content"][&two]["m.read"].get(nurse.user_id.as_str()).is_some());
    let own = &receipts["content"][&one]["m.read.private"];
    assert!(own.get(doctor.user_id.as_str()).is_some(), "one's own, however old: {receipts}");
    assert_eq!(told.get("typing"), None);
    assert_eq!(first["rooms"][room.as_str()]["notification_count"], 1);

    let quiet = next(&ward, &doctor, &mut asked, &first).await;
    assert_eq!(quiet["extensions"].get("receipts"), None);
    assert_eq!(quiet["extensions"].get("account_data"), None);
    read(&doctor, PRIVATE, &two).await;
    ward.services.reading.set_typing(&nurse, &room, Some(5_000)).await.unwrap();
    let number = ward.services.house.ledger.room(&room).await.unwrap();
    let owner = (doctor.user, doctor.user_id.as_str());
    let personal = &ward.services.personal;
    personal.set_account_data(owner, number, "m.marked_unread", "{}").await.unwrap();
    let news = next(&ward, &doctor, &mut asked, &quiet).await;
    let told = &news["extensions"];
    let typing = &told["typing"]["rooms"][room.as_str()]["content"]["user_ids"];
    assert_eq!(typing, &json!([nurse.user_id]));
    let data = &told["account_data"]["rooms"][room.as_str()];
    assert_eq!(data, &json!([{ "type": "m.marked_unread", "content": {} }]));
    let receipts = &told["receipts"]["rooms"][room.as_str()]["content"];
    assert!(receipts[&two].get("m.read.private").is_some());
    assert_eq!(news["rooms"][room.as_str()]["notification_count"], 0, "read elsewhere");
    assert_eq!(news["rooms"][room.as_str()].get("timeline"), None);

    // Only where asked for: no list, and this room is not subscribed to.
    let scope = RoomScope { lists: Some(Vec::new()), rooms: None };
    asked.extensions.receipts = Some(scope.clone());
    asked.extensions.typing = Some(scope);
    read(&nurse, PRIVATE, &two).await;
    let three = ward.say(&doctor, &room, "three").await;
    read(&nurse, PUBLIC, &three).await;
    ward.services.reading.set_typing(&nurse, &room, None).await.unwrap();
    let out = next(&ward, &doctor, &mut asked, &news).await;
    assert_eq!(out["extensions"].get("receipts"), None);
    assert_eq!(out["extensions"].get("typing"), None);
    asked.extensions.receipts = Some(RoomScope::default());
    let back = next(&ward, &doctor, &mut asked, &out).await;
    let receipts = &back["extensions"]["receipts"]["rooms"][room.as_str()]["content"];
    assert!(receipts[&three]["m.read"].get(nurse.user_id.as_str()).is_some(), "not lost: {back}");
}

/// A connection without rooms hears of keys; each connection stands where it stands.
#[tokio::test]
async fn connections_are_independent() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let mut list = request();
    let mut encryption = SlidingRequest {
        conn_id: "encryption".to_owned(),
        lists: [].into(),
        extensions: ExtensionRequests {
            e2ee: true,
            to_device: Some(ToDeviceRequest::default()),
            ..ExtensionRequests::default()
        },
        ..request()
    };
    let (of_list, of_keys) = (ask(&ward, &doctor, &list).await, ask(&ward, &doctor, &encryption));
    let of_keys = of_keys.await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let of_keys = next(&ward, &doctor, &mut encryption, &of_keys).await;
    let lists = &of_keys["extensions"]["e2ee"]["device_lists"];
    assert_eq!(lists["changed"], json!([nurse.user_id]));
    assert_eq!(of_keys.get("rooms"), None);
    let of_list = next(&ward, &doctor, &mut list, &of_list).await;
    assert_eq!(shown(&of_list), [room.to_string()]);
    ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
    let of_keys = next(&ward, &doctor, &mut encryption, &of_keys).await;
    assert_eq!(of_keys["extensions"]["e2ee"]["device_lists"]["left"], json!([nurse.user_id]));
    let other = SlidingRequest { pos: list.pos.clone(), ..encryption.clone() };
    let mixed = ward.services.sync.sliding(&doctor, "", &other).await;
    assert_eq!(mixed.unwrap_err().kind, Kind::UnknownPos);
}

/// A room's past is hidden from those who come later, in an expanded timeline too.
#[tokio::test]
async fn hidden_history_stays_hidden() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room(&nurse).await;
    visibility(&ward, &nurse, &room, "joined").await;
    ward.say(&nurse, &room, "Not for you").await;
    ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
    ward.say(&nurse, &room, "Welcome").await;
    let mut asked = request();
    asked.lists.get_mut("all").unwrap().config.timeline_limit = 1;
    let first = ask(&ward, &doctor, &asked).await;
    asked.lists.get_mut("all").unwrap().config.timeline_limit = 50;
    let wide = next(&ward, &doctor, &mut asked, &first).await;
    assert_eq!(bodies(&wide["rooms"][room.as_str()]), ["Welcome"]);
    let stranger: &RoomId = "!nowhere:hospital.example".try_into().unwrap();
    asked.subscriptions = [(stranger.to_owned(), config(1, &[("*", "*")]))].into();
    let foreign = ward.room(&nurse).await;
    asked.subscriptions.insert(foreign.clone(), config(1, &[("*", "*")]));
    let none = next(&ward, &doctor, &mut asked, &wide).await;
    assert!(shown(&none).is_empty(), "{none}");
}

/// The ledger of copies asks whether a device was told of a redaction: only a connection that shows
/// all of its rooms answers that.
#[tokio::test]
async fn a_device_has_read_as_far_as_all_of_its_rooms_were_shown_to_it() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let (one, other) = (ward.room(&nurse).await, ward.room(&nurse).await);
    ward.say(&nurse, &one, "first").await;
    let read = async || {
        let trace = ward.services.accounts.last_trace(nurse.user, nurse.device).await;
        trace.unwrap().1
    };
    let mut keys = SlidingRequest { lists: [].into(), extensions: everything(), ..another() };
    let mut narrow = SlidingRequest { conn_id: "narrow".to_owned(), ..request() };
    narrow.lists.get_mut("all").unwrap().ranges = Some(vec![(0, 0)]);
    for asked in [&mut keys, &mut narrow] {
        let first = ask(&ward, &nurse, asked).await;
        next(&ward, &nurse, asked, &first).await;
        assert_eq!(read().await, 0, "it was not shown all rooms");
    }
    let mut whole = request();
    let first = ask(&ward, &nurse, &whole).await;
    assert_eq!(read().await, 0, "the answer may be lost");
    let shown_up_to = ward.services.house.ledger.position().0;
    ward.say(&nurse, &other, "second").await;
    next(&ward, &nurse, &mut whole, &first).await;
    assert_eq!(read().await, shown_up_to);
}
