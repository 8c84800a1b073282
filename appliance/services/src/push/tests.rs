//! Gateways that take everything, that fail, and that know nobody any more.

use std::sync::atomic::{AtomicUsize, Ordering};

use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{EventId, OwnedRoomId};
use appliance_model::{Caller, Kind};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::answering::{Answering, Heard};
use crate::egress::{Failure, Purpose};
use crate::reading::{NewReceipt, PUBLIC};
use crate::scenario::{Ward, event};

const GATEWAY: &str = "https://push.example/_matrix/push/v1/notify";

fn pusher(key: &str, format: Option<&str>) -> NewPusher {
    let mut data = json!({ "url": GATEWAY, "default_payload": { "aps": {} } });
    if let Some(format) = format {
        data["format"] = format.into();
    }
    let rest = json!({
        "kind": "http", "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
        "data": data,
    });
    NewPusher {
        app_id: "example.app".to_owned(),
        pushkey: key.to_owned(),
        rest: rest.as_object().unwrap().clone(),
        append: false,
    }
}

fn work(ward: &Ward) -> JoinSet<()> {
    let services = ward.services.clone();
    let mut working = JoinSet::new();
    working.spawn(async move { services.push.run().await });
    working
}

/// What a gateway was told for a key.
fn told(heard: &[Heard], key: &str) -> Vec<Value> {
    let notifications = heard.iter().map(|one| one.json["notification"].clone());
    notifications.filter(|one| one["devices"][0]["pushkey"] == key).collect()
}

async fn scene(gateway: Arc<Answering>) -> (Ward, Caller, Caller, OwnedRoomId) {
    let ward = Ward::with_egress(gateway).await;
    let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
    let room = ward.room_as(&nurse, json!({ "name": "Ward 4" })).await;
    ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
    (ward, nurse, doctor, room)
}

#[tokio::test]
async fn a_message_rings_with_what_the_pusher_asked_for_and_reading_it_lowers_the_count() {
    let gateway = Answering::with(|_| Ok((200, json!({ "rejected": [] }))));
    let (ward, nurse, doctor, room) = scene(gateway.clone()).await;
    let push = &ward.services.push;
    push.set_pusher(&doctor, pusher("full", None)).await.unwrap();
    push.set_pusher(&doctor, pusher("short", Some("event_id_only"))).await.unwrap();
    push.set_pusher(&nurse, pusher("nurse", None)).await.unwrap();
    let _working = work(&ward);
    let one = ward.say(&nurse, &room, "one").await;
    let heard = gateway.until(|heard| heard.len() >= 2).await;
    assert!(heard.iter().all(|one| one.purpose == Purpose::PushGateway));
    assert_eq!(heard[0].line, format!("POST {GATEWAY}"));
    let full = &told(&heard, "full")[0];
    assert_eq!(full["event_id"], one.as_str());
    assert_eq!(full["sender"], nurse.user_id.as_str());
    assert_eq!(full["sender_display_name"], "nurse");
    assert_eq!(full["room_name"], "Ward 4");
    assert_eq!(full["content"]["body"], "one");
    assert_eq!(full["counts"], json!({ "unread": 1 }));
    let data = &full["devices"][0]["data"];
    assert_eq!(*data, json!({ "default_payload": { "aps": {} } }), "without the URL");
    let short = &told(&heard, "short")[0];
    let mut names: Vec<_> = short.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["counts", "devices", "event_id", "prio", "room_id"]);
    assert!(told(&heard, "nurse").is_empty(), "one's own words do not ring");

    ward.say(&nurse, &room, "two").await;
    let heard = gateway.until(|heard| heard.len() >= 4).await;
    assert_eq!(told(&heard, "full")[1]["counts"], json!({ "unread": 2 }));
    let event_id: &EventId = one.as_str().try_into().unwrap();
    let receipt = NewReceipt { kind: PUBLIC, event_id, thread: "" };
    ward.services.reading.receive(&doctor, &room, receipt).await.unwrap();
    let heard = gateway.until(|heard| heard.len() >= 6).await;
    let badge = told(&heard, "full").pop().unwrap();
    assert_eq!(badge["counts"], json!({ "unread": 1 }));
    assert!(badge.get("event_id").is_none(), "{badge}");
}

/// A clinical room's words stay in the house.
#[tokio::test]
async fn governed_rooms_send_nothing_but_ids() {
    let gateway = Answering::with(|_| Ok((200, json!({ "rejected": [] }))));
    let (ward, nurse, doctor, room) = scene(gateway.clone()).await;
    let policy = json!({ "class": "clinical-photo" });
    ward.state(&nurse, &room, (appliance_rules::policy::POLICY_TYPE, ""), policy).await;
    ward.services.push.set_pusher(&doctor, pusher("full", None)).await.unwrap();
    let _working = work(&ward);
    let said = ward.say(&nurse, &room, "bed 4").await;
    let heard = gateway.until(|heard| !heard.is_empty()).await;
    let all = heard[0].json.to_string();
    assert_eq!(heard[0].json["notification"]["event_id"], said.as_str());
    assert!(!all.contains("bed 4") && !all.contains("Ward 4") && !all.contains("nurse"), "{all}");
}

/// "Wake and wipe": an app that is closed comes, is told that its session is over, and removes what it keeps.
#[tokio::test]
async fn a_session_that_was_ended_is_rung_once_more_with_nothing_but_ids() {
    let gateway = Answering::with(|_| Ok((200, json!({ "rejected": [] }))));
    let (ward, nurse, doctor, room) = scene(gateway.clone()).await;
    let push = &ward.services.push;
    push.set_pusher(&doctor, pusher("doctor", None)).await.unwrap();
    push.set_pusher(&nurse, pusher("nurse", None)).await.unwrap();
    let said = ward.say(&nurse, &room, "bed 4").await;
    assert_eq!(push.say_farewell().await.unwrap(), 0, "nobody has left");
    ward.services.accounts.logout(&nurse).await.unwrap();
    assert_eq!(push.say_farewell().await.unwrap(), 0, "who signs out knows that");

    let device_id = doctor.device_id.as_str();
    ward.services.accounts.device_lost(&doctor.user_id, device_id, "root").await.unwrap();
    assert!(push.pushers(&doctor).await.unwrap().is_empty());
    let ward = ward.power_cut_and_restart().await;
    let push = &ward.services.push;
    assert_eq!(push.say_farewell().await.unwrap(), 1);
    assert_eq!(push.say_farewell().await.unwrap(), 0, "once");
    let heard = gateway.until(|heard| !heard.is_empty()).await;
    assert_eq!(heard.len(), 1);
    let told = &heard[0].json["notification"];
    let mut names: Vec<_> = told.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["devices", "event_id", "prio", "room_id"]);
    assert_eq!(
        (&told["event_id"], &told["devices"][0]["pushkey"]),
        (&json!(said), &json!("doctor"))
    );
}

#[tokio::test]
async fn a_last_ring_that_nobody_takes_is_tried_each_minute_for_an_hour() {
    let gateway = Answering::with(|_| Ok((503, json!({}))));
    let (ward, nurse, doctor, _) = scene(gateway.clone()).await;
    let push = &ward.services.push;
    push.set_pusher(&doctor, pusher("doctor", None)).await.unwrap();
    let device_id = doctor.device_id.as_str();
    ward.services.accounts.device_lost(&doctor.user_id, device_id, "root").await.unwrap();
    for second in 0..3 * 3_600 {
        if second % 100 == 0 {
            // A server at work commits all the time.
            let permit = appliance_rules::Permit::own("test", &nurse.user_id, second);
            let ledger = &ward.services.house.ledger;
            ledger.commit(ledger.begin(permit)).await.unwrap();
        }
        assert_eq!(push.say_farewell().await.unwrap(), 0);
        ward.clock.pass_ms(1_000);
    }
    let asked = gateway.until(|heard| !heard.is_empty()).await.len();
    assert!((30..=61).contains(&asked), "{asked}");
}

#[tokio::test]
async fn mentions_are_urgent_and_invitations_ring() {
    let gateway = Answering::with(|_| Ok((200, json!({}))));
    let (ward, nurse, doctor, room) = scene(gateway.clone()).await;
    let aide = ward.member("aide").await;
    ward.set(&nurse, &room, &aide.user_id, M::Invite).await;
    ward.set(&aide, &room, &aide.user_id, M::Join).await;
    ward.services.push.set_pusher(&doctor, pusher("key", None)).await.unwrap();
    let _working = work(&ward);
    ward.say(&nurse, &room, "all").await;
    gateway.until(|heard| !heard.is_empty()).await;
    let content = json!({
        "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [doctor.user_id] },
    });
    let request = event(&room, ("m.room.message", "mention"), content);
    ward.services.rooms.send_event(&nurse, &request).await.unwrap();
    gateway.until(|heard| heard.len() >= 2).await;
    let other = ward.room(&nurse).await;
    ward.set(&nurse, &other, &doctor.user_id, M::Invite).await;
    let heard = gateway.until(|heard| heard.len() >= 3).await;
    let all = told(&heard, "key");
    assert_eq!((&all[0]["prio"], &all[0]["devices"][0]["tweaks"]), (&json!("low"), &json!({})));
    let tweaks = json!({ "sound": "default", "highlight": true });
    assert_eq!((&all[1]["prio"], &all[1]["devices"][0]["tweaks"]), (&json!("high"), &tweaks));
    assert_eq!(all[2]["room_id"], other.as_str());
    assert_eq!(all[2]["user_is_target"], true);
}

/// The gateway is down, the power fails, the gateway comes back: it still rings.
#[tokio::test]
async fn what_a_gateway_did_not_take_is_told_after_a_power_cut() {
    let down = Answering::with(|_| Err(Failure::Unreachable("down".to_owned())));
    let (ward, nurse, doctor, room) = scene(down.clone()).await;
    ward.services.push.set_pusher(&doctor, pusher("key", None)).await.unwrap();
    let working = work(&ward);
    let one = ward.say(&nurse, &room, "one").await;
    down.until(|heard| heard.len() >= 2).await;
    drop(working);

    let calls = AtomicUsize::new(0);
    let back = Answering::with(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Ok((503, json!({}))),
        _ => Ok((200, json!({}))),
    });
    let ward = ward.power_cut_and_restart_with(back.clone()).await;
    let two = ward.say(&nurse, &room, "two").await;
    let _working = work(&ward);
    let last =
        |heard: &[Heard]| told(heard, "key").last().is_some_and(|n| n["event_id"] == two.as_str());
    let heard = back.until(last).await;
    let ids: Vec<_> = told(&heard, "key").iter().map(|n| n["event_id"].clone()).collect();
    assert_eq!(ids[..2], [json!(one), json!(one)], "again until it is taken");
    assert_eq!(*ids.last().unwrap(), json!(two));
}

/// The gateway was down while something was said whose time is over when it comes back: nothing rings, and
/// nothing counts it.
#[tokio::test]
async fn what_is_over_rings_nowhere() {
    const MINUTE_MS: u64 = 60_000;
    let down = Answering::with(|_| Err(Failure::Unreachable("down".to_owned())));
    let (ward, nurse, doctor, room) = scene(down.clone()).await;
    let policy = json!({ "timeline": { "ttl_ms": MINUTE_MS } });
    ward.state(&nurse, &room, ("io.wardstone.policy", ""), policy).await;
    ward.services.push.set_pusher(&doctor, pusher("key", None)).await.unwrap();
    let working = work(&ward);
    let one = ward.say(&nurse, &room, "one").await;
    down.until(|heard| !told(heard, "key").is_empty()).await;
    drop(working);

    let back = Answering::with(|_| Ok((200, json!({}))));
    let ward = ward.power_cut_and_restart_with(back.clone()).await;
    ward.clock.pass_ms(MINUTE_MS);
    let two = ward.say(&nurse, &room, "two").await;
    let _working = work(&ward);
    let is_told =
        |heard: &[Heard]| told(heard, "key").iter().any(|n| n["event_id"] == two.as_str());
    let heard = back.until(is_told).await;
    let told = told(&heard, "key");
    assert!(told.iter().all(|n| n["event_id"] != one.as_str()), "{told:?}");
    assert_eq!(told.last().unwrap()["counts"]["unread"], 1, "{told:?}");
}

#[tokio::test]
async fn rejected_keys_are_removed_and_forbidden_gateways_are_not_asked_again() {
    let gateway = Answering::with(|heard| {
        let key = &heard.json["notification"]["devices"][0]["pushkey"];
        match key.as_str() {
            Some("gone") => Ok((200, json!({ "rejected": ["gone"] }))),
            Some("secret") => Err(Failure::Refused("not named".to_owned())),
            _ => Ok((200, json!({ "rejected": ["somebody else's"] }))),
        }
    });
    let (ward, nurse, doctor, room) = scene(gateway.clone()).await;
    let push = &ward.services.push;
    for key in ["gone", "secret", "key"] {
        push.set_pusher(&doctor, pusher(key, None)).await.unwrap();
    }
    let _working = work(&ward);
    ward.say(&nurse, &room, "one").await;
    gateway.until(|heard| heard.len() >= 3).await;
    ward.say(&nurse, &room, "two").await;
    let heard = gateway.until(|heard| told(heard, "key").len() >= 2).await;
    assert_eq!(told(&heard, "gone").len(), 1);
    let left: Vec<_> = push.pushers(&doctor).await.unwrap();
    let mut left: Vec<_> = left.iter().map(|pusher| pusher.pushkey.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["key", "secret"]);
}

#[tokio::test]
async fn one_device_rings_for_one_user_unless_asked_and_dies_with_its_session() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let push = &ward.services.push;
    let keys = async |who: &Caller| push.pushers(who).await.unwrap().len();
    push.set_pusher(&nurse, pusher("shared", None)).await.unwrap();
    push.set_pusher(&nurse, pusher("shared", None)).await.unwrap();
    assert_eq!(keys(&nurse).await, 1, "the same again is the same");
    push.set_pusher(&doctor, NewPusher { append: true, ..pusher("shared", None) }).await.unwrap();
    assert_eq!((keys(&nurse).await, keys(&doctor).await), (1, 1));
    push.set_pusher(&doctor, pusher("shared", None)).await.unwrap();
    assert_eq!((keys(&nurse).await, keys(&doctor).await), (0, 1));
    push.remove_pusher(&doctor, ("example.app", "other")).await.unwrap();
    push.remove_pusher(&doctor, ("example.app", "shared")).await.unwrap();
    assert_eq!(keys(&doctor).await, 0);
    push.set_pusher(&doctor, pusher("key", None)).await.unwrap();
    ward.services.accounts.logout(&doctor).await.unwrap();
    assert_eq!(keys(&doctor).await, 0);
}

#[tokio::test]
async fn pushers_that_cannot_be() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let push = &ward.services.push;
    let refused = async |change: &dyn Fn(&mut NewPusher)| {
        let mut new = pusher("key", None);
        change(&mut new);
        push.set_pusher(&nurse, new).await.unwrap_err().kind
    };
    for url in [
        "",
        "push.example",
        "ftp://push.example/_matrix/push/v1/notify",
        "https://push.example/",
        "https://push.example/_matrix/push/v1/notify?x=1",
    ] {
        let kind = refused(&|new| new.rest["data"]["url"] = url.into()).await;
        assert_eq!(kind, Kind::InvalidParam, "{url}");
    }
    assert_eq!(refused(&|new| new.pushkey = "x".repeat(513)).await, Kind::InvalidParam);
    assert_eq!(refused(&|new| new.app_id = "x".repeat(65)).await, Kind::InvalidParam);
    assert_eq!(refused(&|new| new.rest["kind"] = "email".into()).await, Kind::InvalidParam);
    assert_eq!(refused(&|new| drop(new.rest.remove("lang"))).await, Kind::MissingParam);
    assert_eq!(refused(&|new| drop(new.rest.remove("data"))).await, Kind::MissingParam);
    for number in 0..100 {
        push.set_pusher(&nurse, pusher(&number.to_string(), None)).await.unwrap();
    }
    assert_eq!(refused(&|_| {}).await, Kind::InvalidParam, "one too many");
}

#[tokio::test]
async fn notifications_are_listed_page_by_page() {
    let (ward, [nurse, doctor, visitor]) = Ward::with_members(["nurse", "doctor", "visitor"]).await;
    let room = ward.room(&nurse).await;
    ward.say(&nurse, &room, "before").await;
    ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
    let elsewhere = ward.room_of(&[&nurse, &visitor]).await;
    let mut said = Vec::new();
    for number in 0..5 {
        said.push(ward.say(&nurse, &room, &number.to_string()).await);
        ward.say(&nurse, &elsewhere, "not for the doctor").await;
    }
    let push = &ward.services.push;
    let event_id: &EventId = said[1].as_str().try_into().unwrap();
    let receipt = NewReceipt { kind: PUBLIC, event_id, thread: "" };
    ward.services.reading.receive(&doctor, &room, receipt).await.unwrap();
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = push.notifications(&doctor, (from.as_deref(), Some(2)), false).await.unwrap();
        found.extend(page.notifications);
        from = page.next_token;
        if from.is_none() {
            break;
        }
    }
    let ids: Vec<_> = found.iter().map(|one| one["event"]["event_id"].as_str().unwrap()).collect();
    let newest_first: Vec<_> = said.iter().rev().map(String::as_str).collect();
    assert_eq!(ids, newest_first);
    let read: Vec<_> = found.iter().map(|one| one["read"] == true).collect();
    assert_eq!(read, [false, false, false, true, true]);
    assert_eq!(found[0]["room_id"], room.as_str());
    let none = push.notifications(&doctor, (None, None), true).await.unwrap();
    assert!(none.notifications.is_empty(), "nothing was for the doctor in particular");
    let odd = push.notifications(&doctor, (Some("yesterday"), None), false).await;
    assert_eq!(odd.unwrap_err().kind, Kind::InvalidParam);
}
