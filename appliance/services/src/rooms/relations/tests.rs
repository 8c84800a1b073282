use appliance_ledger::Direction;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{EventId, RoomId};
use appliance_model::{Caller, Kind};
use serde_json::{Value, json};

use super::*;
use crate::rooms::Redaction;
use crate::scenario::{Ward, event};

async fn try_send(
    ward: &Ward,
    who: &Caller,
    room: &RoomId,
    (kind, txn_id): (&str, &str),
    content: Value,
) -> Result<String, Kind> {
    let sent = ward.services.rooms.send_event(who, &event(room, (kind, txn_id), content)).await;
    sent.map(|event_id| event_id.to_string()).map_err(|error| error.kind)
}

/// Says something that relates to another event.
async fn relate(
    ward: &Ward,
    who: &Caller,
    room: &RoomId,
    txn_id: &str,
    (rel_type, parent): (&str, &str),
) -> String {
    let content = json!({
        "body": txn_id,
        "msgtype": "m.text",
        "m.new_content": { "body": txn_id, "msgtype": "m.text" },
        "m.relates_to": { "rel_type": rel_type, "event_id": parent },
    });
    try_send(ward, who, room, ("m.room.message", txn_id), content).await.unwrap()
}

async fn react(
    ward: &Ward,
    who: &Caller,
    room: &RoomId,
    parent: &str,
    key: &str,
) -> Result<String, Kind> {
    let content = json!({
        "m.relates_to": { "rel_type": "m.annotation", "event_id": parent, "key": key },
    });
    let txn_id = ward.services.house.dice.letters(8);
    try_send(ward, who, room, ("m.reaction", &txn_id), content).await
}

async fn take_back(ward: &Ward, who: &Caller, room: &RoomId, event_id: &str) {
    let event_id = EventId::parse(event_id).unwrap();
    let txn_id = ward.services.house.dice.letters(8);
    let redaction = Redaction { event_id: &event_id, txn_id: (*txn_id).into(), reason: None };
    ward.services.rooms.redact(who, room, redaction).await.unwrap();
}

/// `m.relations` of an event, as a reader is shown them.
async fn bundled(ward: &Ward, who: &Caller, room: &RoomId, event_id: &str) -> Value {
    let event_id = EventId::parse(event_id).unwrap();
    let shown = ward.services.rooms.one_event(who, room, &event_id).await.unwrap();
    let shown: Value = serde_json::from_str(&shown.to_json(None)).unwrap();
    shown[0]["unsigned"]["m.relations"].clone()
}

fn query(rel_type: Option<&str>) -> RelationsQuery<'_> {
    RelationsQuery {
        rel_type,
        kind: None,
        direction: Direction::Backward,
        limit: 100,
        from: None,
        to: None,
        recurse: false,
    }
}

/// IDs of a page, and where the next begins.
async fn listed(
    ward: &Ward,
    who: &Caller,
    room: &RoomId,
    parent: &str,
    query: &RelationsQuery<'_>,
) -> (Vec<String>, Option<i64>) {
    let parent = EventId::parse(parent).unwrap();
    let page = ward.services.rooms.relations(who, (room, &parent), query).await.unwrap();
    (ids(&page.chunk), page.next)
}

fn ids(page: &crate::rooms::ClientEvents) -> Vec<String> {
    let events: Vec<Value> = serde_json::from_str(&page.to_json(None)).unwrap();
    events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

async fn ignore(ward: &Ward, who: &Caller, whom: &Caller) {
    let content = json!({ "ignored_users": { whom.user_id.as_str(): {} } }).to_string();
    let own = (who.user, who.user_id.as_str());
    let kind = "m.ignored_user_list";
    ward.services.personal.set_account_data(own, None, kind, &content).await.unwrap();
}

#[tokio::test]
async fn the_most_recent_valid_edit_comes_with_the_event() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let said = ward.say(&nurse, &room, "Bed 4").await;
    assert_eq!(bundled(&ward, &doctor, &room, &said).await, Value::Null);
    let mut edits = Vec::new();
    for txn_id in ["one", "two"] {
        ward.clock.pass_ms(1);
        edits.push(relate(&ward, &nurse, &room, txn_id, ("m.replace", &said)).await);
    }
    // None of these is an edit: somebody else's, another type, no new content, an edit of an edit.
    ward.clock.pass_ms(1);
    relate(&ward, &doctor, &room, "theirs", ("m.replace", &said)).await;
    let relates = json!({ "rel_type": "m.replace", "event_id": said });
    let new = json!({ "body": "x" });
    let odd = json!({ "m.new_content": new, "m.relates_to": relates });
    try_send(&ward, &nurse, &room, ("example.note", "odd"), odd).await.unwrap();
    let bare = json!({ "body": "x", "m.relates_to": relates });
    try_send(&ward, &nurse, &room, ("m.room.message", "bare"), bare).await.unwrap();
    let twice = relate(&ward, &nurse, &room, "twice", ("m.replace", &edits[1])).await;

    let found = bundled(&ward, &doctor, &room, &said).await;
    assert_eq!(found["m.replace"]["event_id"], *edits[1]);
    assert_eq!(found["m.replace"]["content"]["m.new_content"]["body"], "two");
    assert_eq!(bundled(&ward, &doctor, &room, &edits[1]).await, Value::Null, "{twice}");

    take_back(&ward, &nurse, &room, &edits[1]).await;
    let found = bundled(&ward, &doctor, &room, &said).await;
    assert_eq!(found["m.replace"]["event_id"], *edits[0]);
    let ward = ward.power_cut_and_restart().await;
    take_back(&ward, &nurse, &room, &edits[0]).await;
    assert_eq!(bundled(&ward, &doctor, &room, &said).await, Value::Null);
    relate(&ward, &nurse, &room, "three", ("m.replace", &said)).await;
    assert_ne!(bundled(&ward, &doctor, &room, &said).await, Value::Null);
    take_back(&ward, &nurse, &room, &said).await;
    assert_eq!(bundled(&ward, &doctor, &room, &said).await, Value::Null, "the original is gone");
}

#[tokio::test]
async fn one_person_reacts_in_one_way_once() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let said = ward.say(&nurse, &room, "Bed 4").await;
    let first = react(&ward, &nurse, &room, &said, "👍").await.unwrap();
    let again = react(&ward, &nurse, &room, &said, "👍").await;
    assert_eq!(again, Err(Kind::DuplicateAnnotation));
    let other = react(&ward, &nurse, &room, &said, "👎").await.unwrap();
    let theirs = react(&ward, &doctor, &room, &said, "👍").await.unwrap();
    let all = query(Some("m.annotation"));
    let found = listed(&ward, &doctor, &room, &said, &all).await.0;
    assert_eq!(found, [theirs.clone(), other.clone(), first.clone()]);
    assert_eq!(bundled(&ward, &nurse, &room, &said).await, Value::Null, "reactions are not summed");

    take_back(&ward, &nurse, &room, &first).await;
    assert_eq!(listed(&ward, &doctor, &room, &said, &all).await.0, [theirs, other]);
    react(&ward, &nurse, &room, &said, "👍").await.unwrap();
}

#[tokio::test]
async fn a_thread_in_short_and_the_list_of_threads() {
    let (ward, [nurse, doctor, aide]) = Ward::with_members(["nurse", "doctor", "aide"]).await;
    let room = ward.room_of(&[&nurse, &doctor, &aide]).await;
    let (one, two) = (ward.say(&nurse, &room, "1").await, ward.say(&aide, &room, "2").await);
    let first = relate(&ward, &doctor, &room, "a", ("m.thread", &one)).await;
    let second = relate(&ward, &nurse, &room, "b", ("m.thread", &one)).await;
    let other = relate(&ward, &aide, &room, "c", ("m.thread", &two)).await;
    relate(&ward, &nurse, &room, "d", ("m.replace", &second)).await;

    let thread = bundled(&ward, &doctor, &room, &one).await["m.thread"].clone();
    assert_eq!(thread["count"], 2);
    assert_eq!(thread["latest_event"]["event_id"], *second);
    let edit = &thread["latest_event"]["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(edit["content"]["body"], "d", "the newest event comes with its own edit");
    assert_eq!(thread["current_user_participated"], true);
    let to_aide = bundled(&ward, &aide, &room, &one).await;
    assert_eq!(to_aide["m.thread"]["current_user_participated"], false);

    let page = async |who: &Caller, participated: bool, limit, from| {
        let query = ThreadsQuery { participated, limit, from };
        let page = ward.services.rooms.threads(who, &room, query).await.unwrap();
        (ids(&page.chunk), page.next)
    };
    assert_eq!(page(&nurse, false, 9, None).await, (vec![two.clone(), one.clone()], None));
    assert_eq!(page(&doctor, true, 9, None).await, (vec![one.clone()], None));
    let (newest, next) = page(&nurse, false, 1, None).await;
    assert_eq!(newest, std::slice::from_ref(&two));
    assert_eq!(page(&nurse, false, 1, next).await, (vec![one.clone()], None));

    // "It does not include events sent by ignored users."
    ignore(&ward, &doctor, &nurse).await;
    let thread = bundled(&ward, &doctor, &room, &one).await["m.thread"].clone();
    assert_eq!(
        (thread["count"].as_u64(), &thread["latest_event"]["event_id"]),
        (Some(1), &json!(first))
    );

    take_back(&ward, &nurse, &room, &second).await;
    let thread = bundled(&ward, &aide, &room, &one).await["m.thread"].clone();
    assert_eq!(
        (thread["count"].as_u64(), &thread["latest_event"]["event_id"]),
        (Some(1), &json!(first))
    );
    take_back(&ward, &aide, &room, &other).await;
    assert_eq!(page(&nurse, false, 9, None).await, (vec![one.clone()], None));
    assert_eq!(bundled(&ward, &aide, &room, &two).await, Value::Null);
    // A root that is taken back keeps its thread.
    take_back(&ward, &nurse, &room, &one).await;
    assert_eq!(bundled(&ward, &aide, &room, &one).await["m.thread"]["count"], 1);
}

#[tokio::test]
async fn no_thread_starts_inside_another_relation() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let said = ward.say(&nurse, &room, "1").await;
    let inside = relate(&ward, &nurse, &room, "a", ("m.thread", &said)).await;
    let content = json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": inside } });
    let nested = try_send(&ward, &nurse, &room, ("m.room.message", "b"), content).await;
    assert_eq!(nested, Err(Kind::BadRelation));
    let reply = json!({ "body": "x", "m.relates_to": { "m.in_reply_to": { "event_id": said } } });
    let reply = try_send(&ward, &nurse, &room, ("m.room.message", "c"), reply).await.unwrap();
    relate(&ward, &nurse, &room, "d", ("m.thread", &reply)).await;
}

#[tokio::test]
async fn relations_in_pages_both_ways_and_at_any_distance() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let said = ward.say(&nurse, &room, "1").await;
    let mut all = Vec::new();
    for number in 0..7 {
        let rel_type = if number % 2 == 0 { "m.reference" } else { "m.thread" };
        all.push(relate(&ward, &nurse, &room, &number.to_string(), (rel_type, &said)).await);
    }
    for direction in [Direction::Forward, Direction::Backward] {
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let query = RelationsQuery { direction, limit: 2, from, ..query(None) };
            let (page, next) = listed(&ward, &nurse, &room, &said, &query).await;
            found.extend(page);
            from = next;
            if from.is_none() {
                break;
            }
        }
        if direction == Direction::Backward {
            found.reverse();
        }
        assert_eq!(found, all);
    }
    let references = listed(&ward, &nurse, &room, &said, &query(Some("m.reference"))).await.0;
    assert_eq!(references.len(), 4);
    let chunk = bundled(&ward, &nurse, &room, &said).await["m.reference"]["chunk"].clone();
    assert_eq!(chunk.as_array().unwrap().len(), 4);
    assert_eq!(chunk[0]["event_id"], *all[0]);
    let odd = RelationsQuery { kind: Some("m.reaction"), ..query(Some("m.reference")) };
    assert_eq!(listed(&ward, &nurse, &room, &said, &odd).await.0, Vec::<String>::new());

    let thumb = react(&ward, &nurse, &room, &all[1], "👍").await.unwrap();
    assert!(!listed(&ward, &nurse, &room, &said, &query(None)).await.0.contains(&thumb));
    let deep = RelationsQuery { recurse: true, ..query(None) };
    let found = listed(&ward, &nurse, &room, &said, &deep).await.0;
    assert_eq!(found.len(), 8);
    assert_eq!(found[0], thumb);
    let only = RelationsQuery { recurse: true, ..query(Some("m.annotation")) };
    assert_eq!(listed(&ward, &nurse, &room, &said, &only).await.0, [thumb]);
}

/// Trap 14: who left sees the event, but not what was said of it afterwards.
#[tokio::test]
async fn who_left_sees_nothing_that_came_later() {
    let (ward, [nurse, doctor, visitor]) = Ward::with_members(["nurse", "doctor", "visitor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let said = ward.say(&nurse, &room, "1").await;
    let early = relate(&ward, &nurse, &room, "early", ("m.replace", &said)).await;
    let reply = relate(&ward, &nurse, &room, "reply", ("m.thread", &said)).await;
    let poll = relate(&ward, &nurse, &room, "vote", ("m.reference", &said)).await;
    ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
    ward.clock.pass_ms(1);
    for (txn_id, rel_type) in [("x", "m.replace"), ("y", "m.thread"), ("z", "m.reference")] {
        relate(&ward, &nurse, &room, txn_id, (rel_type, &said)).await;
    }
    let found = bundled(&ward, &doctor, &room, &said).await;
    assert_eq!(found["m.replace"]["event_id"], *early);
    assert_eq!(found["m.thread"]["latest_event"]["event_id"], *reply);
    assert_eq!(found["m.thread"]["count"], 1);
    assert_eq!(found["m.reference"]["chunk"], json!([{ "event_id": poll }]));
    assert_eq!(listed(&ward, &doctor, &room, &said, &query(None)).await.0.len(), 3);

    let parent = EventId::parse(&*said).unwrap();
    let rooms = &ward.services.rooms;
    let refused = rooms.relations(&visitor, (&room, &parent), &query(None)).await;
    assert_eq!(refused.err().map(|error| error.kind), Some(Kind::Forbidden));
    let nothing = EventId::parse("$nothing").unwrap();
    let refused = rooms.relations(&nurse, (&room, &nothing), &query(None)).await;
    assert_eq!(refused.err().map(|error| error.kind), Some(Kind::NotFound));
}
