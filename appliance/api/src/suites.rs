//! What the public conformance suites look at beyond the letter of the specification, or between its
//! lines: each of these broke a suite once.

use appliance_services::{ForSuites, Options};
use serde_json::{Value, json};

use crate::scenario::{Desk, open_house};

const NURSE: &str = "@nurse:hospital.example";
const DOCTOR: &str = "@doctor:hospital.example";

/// A room of the nurse's that anybody may enter.
async fn open_room(desk: &Desk, nurse: &str) -> String {
    let body = json!({ "preset": "public_chat" });
    desk.post("/v3/createRoom", nurse, body).await.text("room_id")
}

async fn sync(desk: &Desk, token: &str, since: Option<&Value>, query: &str) -> Value {
    let since = since.and_then(Value::as_str).map(|since| format!("&since={since}"));
    let path = format!("/v3/sync?timeout=0{}{query}", since.unwrap_or_default());
    desk.get(&path, token).await.ok()
}

async fn say(desk: &Desk, token: &str, room: &str, txn: &str, content: Value) -> String {
    let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}");
    desk.call("PUT", &path, token, content).await.text("event_id")
}

#[tokio::test]
async fn a_joined_room_always_has_state_and_ephemeral() {
    let desk = Desk::new().await;
    let nurse = desk.sign_up("nurse").await;
    let room = open_room(&desk, &nurse).await;
    let first = sync(&desk, &nurse, None, "").await;
    let again = sync(&desk, &nurse, Some(&first["next_batch"]), "&full_state=true").await;
    for answer in [first, again] {
        let part = &answer["rooms"]["join"][&room];
        assert!(part["state"]["events"].is_array(), "{part}");
        assert_eq!(part["ephemeral"], json!({ "events": [] }));
        assert!(part["timeline"]["prev_batch"].is_string());
    }
}

/// Who comes in knows nothing of the room: if the answer does not begin with its beginning, there is
/// more to ask for.
#[tokio::test]
async fn a_room_just_entered_is_limited_unless_all_of_it_is_shown() {
    let desk = Desk::new().await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    let room = open_room(&desk, &nurse).await;
    say(&desk, &nurse, &room, "1", json!({ "msgtype": "m.text", "body": "Bed 4" })).await;
    let before = sync(&desk, &doctor, None, "").await["next_batch"].clone();
    desk.post(&format!("/v3/join/{room}"), &doctor, Value::Null).await.ok();
    let whole = sync(&desk, &doctor, Some(&before), "").await;
    assert_eq!(whole["rooms"]["join"][&room]["timeline"]["limited"], false);
    let filter = "&filter=%7B%22room%22:%7B%22timeline%22:%7B%22types%22:%5B%22m.room.message%22%5D%7D%7D%7D";
    let part = sync(&desk, &doctor, Some(&before), filter).await;
    let timeline = &part["rooms"]["join"][&room]["timeline"];
    assert_eq!(timeline["events"].as_array().map(Vec::len), Some(1), "{timeline}");
    assert_eq!(timeline["limited"], true);
}

#[tokio::test]
async fn what_comes_with_a_join_is_in_the_member_event() {
    let desk = Desk::new().await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    let room = open_room(&desk, &nurse).await;
    let body = json!({
        "pager": "4711",
        "reason": "Night shift",
        "membership": "ban",
        "displayname": "The Director",
        "join_authorised_via_users_server": NURSE,
    });
    desk.post(&format!("/v3/rooms/{room}/join"), &doctor, body).await.ok();
    let path = format!("/v3/rooms/{room}/state/m.room.member/{DOCTOR}");
    let member = desk.get(&path, &nurse).await.ok();
    assert_eq!((&member["pager"], &member["reason"]), (&json!("4711"), &json!("Night shift")));
    assert_eq!((&member["membership"], &member["displayname"]), (&json!("join"), &json!("doctor")));
    assert_eq!(member.get("join_authorised_via_users_server"), None);
    let joined = desk.get(&format!("/v3/rooms/{room}/joined_members"), &nurse).await.ok();
    let doctor = json!({ "avatar_url": null, "display_name": "doctor" });
    assert_eq!(joined["joined"][DOCTOR], doctor);
}

/// "The server should automatically transfer/replicate some of the user's personalized settings such
/// as notifications, tags, etc." Also where a client did the upgrade by hand.
#[tokio::test]
async fn notifications_and_tags_follow_into_an_upgraded_room() {
    let desk = Desk::new().await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    for by_hand in [false, true] {
        let old = open_room(&desk, &nurse).await;
        desk.post(&format!("/v3/join/{old}"), &doctor, Value::Null).await.ok();
        let tags = json!({ "tags": { "m.favourite": { "order": 0.5 } } });
        for (token, user) in [(&nurse, NURSE), (&doctor, DOCTOR)] {
            let rule = json!({ "actions": ["dont_notify"] });
            let path = format!("/v3/pushrules/global/room/{old}");
            desk.call("PUT", &path, token, rule).await.ok();
            let path = format!("/v3/user/{user}/rooms/{old}/tags/m.favourite");
            desk.call("PUT", &path, token, tags["tags"]["m.favourite"].clone()).await.ok();
        }
        let path = format!("/v3/pushrules/global/room/{old}/enabled");
        desk.call("PUT", &path, &doctor, json!({ "enabled": false })).await.ok();
        let new = if by_hand {
            let creation = json!({ "predecessor": { "room_id": old } });
            let body = json!({ "preset": "public_chat", "creation_content": creation });
            desk.post("/v3/createRoom", &nurse, body).await.text("room_id")
        } else {
            let upgrade = json!({ "new_version": "11" });
            let path = format!("/v3/rooms/{old}/upgrade");
            desk.post(&path, &nurse, upgrade).await.text("replacement_room")
        };
        desk.post(&format!("/v3/join/{new}"), &doctor, Value::Null).await.ok();
        for (token, user, enabled) in [(&nurse, NURSE, true), (&doctor, DOCTOR, false)] {
            let rule = desk.get(&format!("/v3/pushrules/global/room/{new}"), token).await.ok();
            assert_eq!(rule["enabled"], enabled, "{by_hand} {user}: {rule}");
            let path = format!("/v3/user/{user}/rooms/{new}/tags");
            assert_eq!(desk.get(&path, token).await.ok(), tags, "{by_hand} {user}");
        }
    }
}

#[tokio::test]
async fn a_message_without_a_transaction_id_arrives() {
    let desk = Desk::new().await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    let room = open_room(&desk, &nurse).await;
    let path = format!("/r0/rooms/{room}/send/m.room.message");
    let content = json!({ "msgtype": "m.text", "body": "Bed 4" });
    let one = desk.post(&path, &nurse, content.clone()).await.text("event_id");
    let two = desk.post(&path, &nurse, content.clone()).await.text("event_id");
    assert_ne!(one, two, "nobody said that it is the same");
    let event = desk.get(&format!("/v3/rooms/{room}/event/{two}"), &nurse).await.ok();
    assert_eq!(event["content"], content);
    let stranger = desk.post(&path, &doctor, content).await;
    assert_eq!(stranger.error(), (403, "M_FORBIDDEN"));
    let no_object = desk.post(&format!("{path}/txn"), &nurse, json!("text")).await;
    assert_eq!(no_object.error(), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn two_receipts_of_one_reader_on_one_event_are_both_shown() {
    let desk = Desk::new().await;
    let nurse = desk.sign_up("nurse").await;
    let room = open_room(&desk, &nurse).await;
    let text = json!({ "msgtype": "m.text", "body": "Bed 4" });
    let root = say(&desk, &nurse, &room, "1", text).await;
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let reply = json!({ "msgtype": "m.text", "body": "Free", "m.relates_to": relation });
    let reply = say(&desk, &nurse, &room, "2", reply).await;
    for body in [json!({}), json!({ "thread_id": root })] {
        let path = format!("/v3/rooms/{room}/receipt/m.read/{reply}");
        desk.post(&path, &nurse, body).await.ok();
    }
    let shown = sync(&desk, &nurse, None, "").await;
    let events = shown["rooms"]["join"][&room]["ephemeral"]["events"].as_array().cloned();
    let threads: Vec<_> = events
        .into_iter()
        .flatten()
        .map(|event| event["content"][&reply]["m.read"][NURSE]["thread_id"].clone())
        .collect();
    assert_eq!(threads, [Value::Null, json!(root)]);
}

#[tokio::test]
async fn before_its_first_event_a_room_has_the_one_who_made_it() {
    let desk = Desk::new().await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    let room = open_room(&desk, &nurse).await;
    let shown = sync(&desk, &nurse, None, "").await;
    let at = shown["rooms"]["join"][&room]["timeline"]["prev_batch"].as_str().unwrap();
    desk.post(&format!("/v3/join/{room}"), &doctor, Value::Null).await.ok();
    let members = desk.get(&format!("/v3/rooms/{room}/members?at={at}"), &nurse).await.ok();
    let members: Vec<_> =
        members["chunk"].as_array().unwrap().iter().map(|event| &event["state_key"]).collect();
    assert_eq!(members, [NURSE]);
}

#[tokio::test]
async fn a_page_of_history_from_which_the_beginning_was_left_out_has_an_end() {
    let desk = Desk::new().await;
    let nurse = desk.sign_up("nurse").await;
    let room = open_room(&desk, &nurse).await;
    let photo = json!({ "msgtype": "m.file", "body": "x", "url": "mxc://hospital.example/x" });
    say(&desk, &nurse, &room, "1", photo).await;
    let filter = "%7B%22contains_url%22:true%7D";
    let path = format!("/v3/rooms/{room}/messages?dir=b&filter={filter}");
    let page = desk.get(&path, &nurse).await.ok();
    assert_eq!(page["chunk"].as_array().map(Vec::len), Some(1));
    let end = page["end"].as_str().expect("the first event was left out");
    let rest = desk.get(&format!("{path}&from={end}"), &nurse).await.ok();
    assert_eq!((&rest["chunk"], rest.get("end")), (&json!([]), None));
    let whole = desk.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=50"), &nurse).await.ok();
    assert_eq!(whole.get("end"), None, "the room's first event is in it");
}

#[tokio::test]
async fn creators_of_version_12_in_the_power_levels_are_bad_content() {
    let desk = Desk::new().await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    let creation = json!({ "additional_creators": [DOCTOR] });
    let body = json!({
        "room_version": "12", "preset": "public_chat", "creation_content": creation,
    });
    let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
    desk.post(&format!("/v3/join/{room}"), &doctor, Value::Null).await.ok();
    let path = format!("/v3/rooms/{room}/state/m.room.power_levels");
    for creator in [NURSE, DOCTOR] {
        let levels = json!({ "users": { creator: 100 } });
        let refused = desk.call("PUT", &path, &doctor, levels).await;
        assert_eq!(refused.error(), (400, "M_INVALID_PARAM"), "{creator}");
    }
    let levels = json!({ "users": { "@lab:hospital.example": 50 } });
    desk.call("PUT", &path, &doctor, levels).await.ok();
}

#[tokio::test]
async fn device_keys_without_signatures_are_taken() {
    let desk = Desk::new().await;
    let nurse = desk.sign_up("nurse").await;
    let device = desk.get("/v3/account/whoami", &nurse).await.text("device_id");
    let key = |name: &str| format!("{name}:{device}");
    let whole = json!({
        "user_id": NURSE,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { key("ed25519"): "a".repeat(43), key("curve25519"): "b".repeat(43) },
    });
    desk.post("/v3/keys/upload", &nurse, json!({ "device_keys": whole })).await.ok();
    let ask = json!({ "device_keys": { NURSE: [] } });
    let found = desk.post("/v3/keys/query", &nurse, ask).await.ok();
    assert_eq!(found["device_keys"][NURSE][&device]["keys"], whole["keys"]);
    let part = json!({ "user_id": NURSE, "device_id": device });
    let refused = desk.post("/v3/keys/upload", &nurse, json!({ "device_keys": part })).await;
    assert_eq!(refused.error(), (400, "M_BAD_JSON"));
}

/// What somebody said in so many words is followed by what their client says, but a phone in a pocket
/// does not make somebody idle whose other client is online.
#[tokio::test]
async fn presence_is_told_to_those_whom_one_meets_and_follows_the_clients() {
    let desk = Desk::with(Options { presence: true, ..open_house() }).await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    let room = open_room(&desk, &nurse).await;
    let before = sync(&desk, &nurse, None, "").await["next_batch"].clone();
    desk.post(&format!("/v3/join/{room}"), &doctor, Value::Null).await.ok();
    let presence = |answer: &Value, of: &str| {
        let events = answer["presence"]["events"].as_array().cloned().unwrap_or_default();
        let of: Vec<_> = events.into_iter().filter(|event| event["sender"] == of).collect();
        assert!(of.len() < 2, "told once: {of:?}");
        of.first().map(|event| event["content"]["presence"].clone())
    };
    let met = sync(&desk, &nurse, Some(&before), "").await;
    assert_eq!(presence(&met, DOCTOR), Some(json!("offline")), "never seen to sync");
    assert_eq!(presence(&sync(&desk, &nurse, None, "").await, DOCTOR), Some(json!("offline")));

    let status = format!("/v3/presence/{DOCTOR}/status");
    desk.call("PUT", &status, &doctor, json!({ "presence": "online" })).await.ok();
    let online = sync(&desk, &nurse, Some(&met["next_batch"]), "").await;
    assert_eq!(presence(&online, DOCTOR), Some(json!("online")));
    sync(&desk, &doctor, None, "&set_presence=unavailable").await;
    let away = sync(&desk, &nurse, Some(&online["next_batch"]), "").await;
    assert_eq!(presence(&away, DOCTOR), Some(json!("unavailable")));
    let phone = desk.sign_in("doctor", "POCKET").await;
    sync(&desk, &doctor, None, "").await;
    sync(&desk, &phone, None, "&set_presence=unavailable").await;
    let back = sync(&desk, &nurse, Some(&away["next_batch"]), "").await;
    assert_eq!(presence(&back, DOCTOR), Some(json!("online")), "at the desk");
}

#[tokio::test]
async fn what_is_past_is_there_for_suites_only() {
    let for_suites =
        ForSuites { legacy_media: true, legacy_mentions: true, ..ForSuites::default() };
    for (options, is_there) in
        [(open_house(), false), (Options { for_suites, ..open_house() }, true)]
    {
        let desk = Desk::with(options).await;
        let nurse = desk.sign_up("nurse").await;
        let rules = desk.get("/v3/pushrules/", &nurse).await.ok().to_string();
        assert_eq!(rules.contains(".m.rule.contains_user_name"), is_there);
        let uri =
            desk.post("/_matrix/media/v1/create", &nurse, Value::Null).await.text("content_uri");
        let file = uri.trim_start_matches("mxc://");
        let path = format!("/_matrix/media/v3/download/{file}?timeout_ms=1");
        let told = desk.get(&path, &nurse).await;
        let expected = if is_there { "M_NOT_YET_UPLOADED" } else { "M_NOT_FOUND" };
        assert_eq!(told.errcode(), expected);
        assert_eq!(desk.get(&path, "").await.errcode(), "M_NOT_FOUND", "strangers get nothing");
    }
}
