//! Traps that other servers have stepped into, where no test of one use case alone would notice. The
//! whole list, with the tests that keep watch, is in `ARCHITECTURE.md`.

#![cfg(test)]

use serde_json::{Value, json};

use crate::scenario::{Answer, Desk};
use crate::town::Town;

fn device_keys(user: &str, device: &str) -> Value {
    json!({
        "user_id": user,
        "device_id": device,
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": { format!("ed25519:{device}"): "c2VjcmV0" },
        "signatures": { user: { format!("ed25519:{device}"): "c2ln" } },
    })
}

/// A phone learns in every form of sync that its one-time keys are used up, as a number that is there.
#[tokio::test]
async fn a_stock_that_is_used_up_is_told_as_zero() {
    let desk = Desk::new().await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    let key = |text: &str| json!({ "key": text, "signatures": {} });
    let body = json!({
        "device_keys": device_keys("@nurse:hospital.example", "PHONE"),
        "one_time_keys": {
            "signed_curve25519:AAAA": key("Zmlyc3Q"), "signed_curve25519:BBBB": key("c2Vjb25k"),
        },
        "fallback_keys": { "signed_curve25519:FFFF": key("ZmFsbA") },
    });
    let counts = desk.post("/v3/keys/upload", &nurse, body).await.ok();
    assert_eq!(counts["one_time_key_counts"], json!({ "signed_curve25519": 2 }));
    let mut claimed = Vec::new();
    for _ in 0..4 {
        let devices = json!({ "@nurse:hospital.example": { "PHONE": "signed_curve25519" } });
        let body = json!({ "one_time_keys": devices });
        let found = desk.post("/v3/keys/claim", &doctor, body).await.ok();
        let found = &found["one_time_keys"]["@nurse:hospital.example"]["PHONE"];
        claimed.push(found.as_object().unwrap().keys().next().unwrap().clone());
    }
    let named = |id: &str| format!("signed_curve25519:{id}");
    assert_eq!(claimed, [named("AAAA"), named("BBBB"), named("FFFF"), named("FFFF")]);
    let synced = desk.get("/v3/sync", &nurse).await.ok();
    let body = json!({ "extensions": { "e2ee": { "enabled": true } } });
    let path = "/unstable/org.matrix.simplified_msc3575/sync";
    let sliding = desk.post(path, &nurse, body).await.ok();
    for told in [&synced, &sliding["extensions"]["e2ee"]] {
        let counts = json!({ "signed_curve25519": 0 });
        assert_eq!(told["device_one_time_keys_count"], counts, "{told}");
        assert_eq!(told["device_unused_fallback_key_types"], json!([]), "{told}");
    }
}

/// Who has left, and who came later where history is for members only, finds no way to what was said
/// without them: by no endpoint that shows events.
#[tokio::test]
async fn what_was_said_without_somebody_is_nowhere_for_them() {
    let desk = Desk::new().await;
    let nurse = desk.sign_up("nurse").await;
    let (leaver, late) = (desk.sign_up("leaver").await, desk.sign_up("late").await);
    let history = json!([{
        "type": "m.room.history_visibility", "content": { "history_visibility": "joined" },
    }]);
    let body = json!({ "preset": "public_chat", "initial_state": history });
    let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
    desk.post(&format!("/v3/join/{room}"), &leaver, json!({})).await.ok();
    let since = desk.get("/v3/sync", &leaver).await.text("next_batch");
    desk.post(&format!("/v3/rooms/{room}/leave"), &leaver, json!({})).await.ok();
    let say = async |txn: &str, content: Value| {
        let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}");
        desk.call("PUT", &path, &nurse, content).await.text("event_id")
    };
    let root = say("1", json!({ "msgtype": "m.text", "body": "SECRET root" })).await;
    let relates = json!({ "rel_type": "m.thread", "event_id": root });
    let reply = json!({ "msgtype": "m.text", "body": "SECRET", "m.relates_to": relates });
    say("2", reply).await;
    desk.post(&format!("/v3/join/{room}"), &late, json!({})).await.ok();
    say("3", json!({ "msgtype": "m.text", "body": "open" })).await;

    let has_secret = |answer: &Answer| answer.json.to_string().contains("SECRET");
    let look = async |who: &str| {
        let mut answers = Vec::new();
        for path in [
            format!("/v3/rooms/{room}/messages?dir=b&limit=100"),
            format!("/v3/rooms/{room}/messages?dir=f&limit=100"),
            format!("/v3/rooms/{room}/context/{root}?limit=50"),
            format!("/v3/rooms/{room}/event/{root}"),
            format!("/v3/events/{root}"),
            format!("/v1/rooms/{room}/relations/{root}"),
            format!("/v1/rooms/{room}/threads"),
            format!("/v1/rooms/{room}/timestamp_to_event?ts=0&dir=f"),
            format!("/v3/sync?since={since}"),
            "/v3/sync?filter=%7B%22room%22:%7B%22include_leave%22:true%7D%7D".to_owned(),
            "/v3/events?from=s0".to_owned(),
            "/v3/initialSync?archived=true&limit=50".to_owned(),
            format!("/v3/rooms/{room}/initialSync"),
            "/v3/notifications".to_owned(),
        ] {
            answers.push((path.clone(), desk.get(&path, who).await));
        }
        let search = json!({ "search_term": "SECRET", "event_context": {} });
        let search = json!({ "search_categories": { "room_events": search } });
        answers.push(("search".to_owned(), desk.post("/v3/search", who, search).await));
        for limit in [1, 50] {
            let part = json!({ "timeline_limit": limit, "required_state": [["*", "*"]] });
            let body = json!({ "room_subscriptions": { &room: part } });
            let path = "/unstable/org.matrix.simplified_msc3575/sync";
            answers.push((path.to_owned(), desk.post(path, who, body).await));
        }
        answers
    };
    for who in [&leaver, &late] {
        for (path, answer) in look(who).await {
            assert!(!has_secret(&answer) && answer.status < 500, "{path}: {answer:?}");
        }
    }
    let seen = look(&nurse).await.iter().filter(|(_, answer)| has_secret(answer)).count();
    assert!(seen >= 10, "who was there finds it in {seen} ways");
}

/// "Must not be more than 50 PDUs … 100 EDUs": as many are taken, more are refused, and the same
/// transaction is answered the same again.
#[tokio::test]
async fn a_transaction_is_full_and_no_fuller() {
    let town = Town::of(&["a.example", "b.example"]).await;
    let send = async |txn: &str, pdus: usize, edus: usize| {
        let pdu = json!({ "type": "m.x", "room_id": "!none:b.example", "sender": "@n:a.example" });
        let edu = json!({ "edu_type": "m.unknown", "content": {} });
        let body = json!({
            "origin": "a.example", "origin_server_ts": 1,
            "pdus": vec![pdu; pdus], "edus": vec![edu; edus],
        });
        town.ask(0, "b.example", "PUT", &format!("/send/{txn}"), body).await
    };
    let full = send("full", 50, 100).await;
    assert_eq!(full.0, 200, "{full:?}");
    assert_eq!(send("full", 50, 100).await, full, "the same again");
    assert_eq!(send("more", 51, 0).await.0, 400);
    assert_eq!(send("next", 0, 1).await.0, 200, "nothing is in the way of the next");
}

/// News of somebody's devices that leave a gap are not believed in part: the whole list is asked for.
#[tokio::test]
async fn a_gap_in_the_news_of_devices_is_filled() {
    let town = Town::of(&["a.example", "b.example"]).await;
    let (nurse, doctor) =
        (town.desk(0).sign_up("nurse").await, town.desk(1).sign_up("doctor").await);
    let user = "@nurse:a.example";
    let upload = async |token: &str, device: &str| {
        let body = json!({ "device_keys": device_keys(user, device) });
        town.desk(0).post("/v3/keys/upload", token, body).await.ok();
    };
    upload(&nurse, "PHONE").await;
    let body = json!({ "preset": "public_chat" });
    let room = town.desk(0).post("/v3/createRoom", &nurse, body).await.text("room_id");
    let path = format!("/v3/join/{room}?via=a.example&server_name=a.example");
    town.desk(1).post(&path, &doctor, json!({})).await.ok();
    let known = async || {
        let body = json!({ "device_keys": { user: [] } });
        let found = town.desk(1).post("/v3/keys/query", &doctor, body).await.ok();
        let devices = found["device_keys"][user].as_object().cloned().unwrap_or_default();
        devices.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(known().await, ["PHONE"]);
    town.line.set_up("a.example", false);
    assert_eq!(known().await, ["PHONE"], "remembered");
    town.line.set_up("a.example", true);
    let tablet = town.desk(0).sign_in("nurse", "TABLET").await;
    upload(&tablet, "TABLET").await;
    let content = json!({
        "user_id": user, "device_id": "LAPTOP", "stream_id": 900, "prev_id": [800],
        "device_display_name": null,
    });
    let edus = json!([{ "edu_type": "m.device_list_update", "content": content }]);
    let body = json!({ "origin": "a.example", "origin_server_ts": 1, "pdus": [], "edus": edus });
    let (status, _) = town.ask(0, "b.example", "PUT", "/send/gap", body).await;
    assert_eq!(status, 200);
    assert_eq!(known().await, ["PHONE", "TABLET"], "the whole list was asked for");
}

/// In an encrypted room the server cannot tell what concerns whom: each event counts as one, an own one
/// ends what is unread, and so does reading on another device.
#[tokio::test]
async fn every_encrypted_event_counts_as_one_until_it_is_read() {
    let desk = Desk::new().await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    let tablet = desk.sign_in("nurse", "TABLET").await;
    let encryption = json!([{
        "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
    }]);
    let body = json!({ "preset": "public_chat", "initial_state": encryption });
    let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
    desk.post(&format!("/v3/join/{room}"), &doctor, json!({})).await.ok();
    // A third person, so that it is no conversation of two.
    let visitor = desk.sign_up("visitor").await;
    desk.post(&format!("/v3/join/{room}"), &visitor, json!({})).await.ok();
    let send = async |who: &str, txn: &str| {
        let path = format!("/v3/rooms/{room}/send/m.room.encrypted/{txn}");
        let body = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AAAA" });
        desk.call("PUT", &path, who, body).await.text("event_id")
    };
    let unread = async || {
        let synced = desk.get("/v3/sync", &nurse).await.ok();
        let counts = &synced["rooms"]["join"][&room]["unread_notifications"];
        counts["notification_count"].as_u64().unwrap()
    };
    send(&doctor, "1").await;
    let last = send(&doctor, "2").await;
    assert_eq!(unread().await, 2);
    let path = format!("/v3/rooms/{room}/receipt/m.read/{last}");
    desk.post(&path, &tablet, json!({})).await.ok();
    assert_eq!(unread().await, 0, "read on the tablet");
    send(&doctor, "3").await;
    assert_eq!(unread().await, 1);
    send(&nurse, "4").await;
    assert_eq!(unread().await, 0, "who writes has read");
}

/// The call to the room of the server's notices is not turned down; who has come may leave.
#[tokio::test]
async fn the_call_to_the_server_s_notices_stands() {
    let (desk, chief) = Desk::with_chief().await;
    let nurse = desk.sign_up("nurse").await;
    let content = json!({ "msgtype": "m.text", "body": "The server stops at ten." });
    let body = json!({ "user_id": "@nurse:hospital.example", "content": content });
    desk.post("/_synapse/admin/v1/send_server_notice", &chief, body).await.ok();
    let synced = desk.get("/v3/sync", &nurse).await.ok();
    let room = synced["rooms"]["invite"].as_object().unwrap().keys().next().unwrap().clone();
    let leave = format!("/v3/rooms/{room}/leave");
    let refused = desk.post(&leave, &nurse, json!({})).await;
    assert_eq!(refused.error(), (403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"));
    desk.post(&format!("/v3/join/{room}"), &nurse, json!({})).await.ok();
    desk.post(&leave, &nurse, json!({})).await.ok();
}
