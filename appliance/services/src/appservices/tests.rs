//! A bridge that listens, and one that does not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use appliance_model::ruma::RoomAliasId;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::{Caller, Kind};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::accounts::Mask;
use crate::answering::{Answering, Heard};
use crate::egress::Failure;
use crate::reading::NewReceipt;
use crate::scenario::{Ward, user_id};

const TOKEN: &str = "as-secret-token";

fn registration() -> Value {
    json!({
        "id": "bridge", "url": "http://127.0.0.1:9000/base", "as_token": TOKEN,
        "hs_token": "hs-secret-token", "sender_localpart": "bridgebot",
        "receive_ephemeral": true, "org.matrix.msc3202": true, "protocols": ["pager"],
        "namespaces": {
            "users": [{ "regex": "@pager_.*", "exclusive": true }],
            "aliases": [{ "regex": "#pager_.*", "exclusive": true }],
        },
    })
}

/// The bridge's own user, or one of its ghosts, which is made.
async fn ghost(ward: &Ward, name: &str) -> Caller {
    let accounts = &ward.services.accounts;
    if name != "bridgebot" {
        let _ = accounts.register_masked(TOKEN, name.to_owned(), None).await;
    }
    let mask = Mask { user_id: Some(user_id(name).to_string()), device_id: None };
    accounts.admit_masked(TOKEN, mask, None).await.unwrap()
}

fn work(ward: &Ward) -> JoinSet<()> {
    let services = ward.services.clone();
    let mut working = JoinSet::new();
    working.spawn(async move { services.appservices.run().await });
    working
}

fn transactions(heard: &[Heard]) -> Vec<&Heard> {
    heard.iter().filter(|one| one.line.contains("/transactions/")).collect()
}

/// The bodies of the messages told, in order.
fn said(heard: &[Heard]) -> Vec<String> {
    let events = transactions(heard)
        .into_iter()
        .flat_map(|one| one.json["events"].as_array().cloned().unwrap_or_default());
    let body = |event: Value| event["content"]["body"].as_str().map(str::to_owned);
    events.filter_map(body).collect()
}

async fn ward_with(answering: Arc<Answering>) -> Ward {
    let ward = Ward::with_egress(answering).await;
    ward.services.appservices.register(registration(), "root").await.unwrap();
    ward
}

#[tokio::test]
async fn a_bridge_is_told_what_concerns_it_and_nothing_else() {
    let bridge = Answering::with(|_| Ok((200, json!({}))));
    let ward = ward_with(bridge.clone()).await;
    let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
    let _working = work(&ward);
    let ghost = ghost(&ward, "pager_7").await;
    let private = ward.room_of(&[&nurse, &doctor]).await;
    ward.say(&nurse, &private, "not for pagers").await;
    let room = ward.room_as(&nurse, json!({ "name": "Ward 4" })).await;
    ward.say(&nurse, &room, "before the invitation").await;
    ward.set(&nurse, &room, &ghost.user_id, M::Invite).await;
    ward.set(&ghost, &room, &ghost.user_id, M::Join).await;
    ward.say(&nurse, &room, "call me").await;
    ward.say(&ghost, &room, "beep").await;
    ward.set(&nurse, &room, &ghost.user_id, M::Leave).await;
    ward.say(&nurse, &room, "after the end").await;
    ward.set(&nurse, &private, &ghost.user_id, M::Invite).await;

    let heard = bridge.until(|heard| {
        let told = transactions(heard);
        let rooms = told.iter().flat_map(|one| one.json["events"].as_array().unwrap());
        rooms.into_iter().any(|event| event["room_id"] == private.as_str())
    });
    let heard = heard.await;
    assert_eq!(said(&heard), ["call me", "beep"]);
    let first = transactions(&heard)[0];
    assert_eq!(first.bearer, "Bearer hs-secret-token");
    let start = "PUT http://127.0.0.1:9000/base/_matrix/app/v1/transactions/";
    assert!(first.line.starts_with(start), "{}", first.line);
    let events: Vec<_> = transactions(&heard)
        .iter()
        .flat_map(|one| one.json["events"].as_array().unwrap())
        .collect();
    assert_eq!(events[0]["state_key"], ghost.user_id.as_str());
    assert_eq!(events[0]["room_id"], room.as_str());
    let shown = events[0]["unsigned"]["invite_room_state"].as_array().unwrap();
    assert!(shown.iter().any(|event| event["content"]["name"] == "Ward 4"), "{shown:?}");
    assert_eq!(events[1]["unsigned"]["prev_content"]["membership"], "invite");
}

/// The bridge is down, the power fails, the bridge comes back: every event once, in order, and the
/// transaction it did not take under the same ID with the same content.
#[tokio::test]
async fn what_was_not_taken_is_sent_again_after_a_power_cut() {
    let failing = Answering::with(|_| Err(Failure::Unreachable("down".to_owned())));
    let ward = ward_with(failing.clone()).await;
    let nurse = ward.member("nurse").await;
    let bot = ghost(&ward, "bridgebot").await;
    let room = ward.room_of(&[&nurse, &bot]).await;
    let working = work(&ward);
    ward.say(&nurse, &room, "one").await;
    let before = failing.until(|heard| transactions(heard).len() >= 2).await;
    let attempts = transactions(&before);
    assert!(
        attempts.iter().all(|one| one.line == attempts[0].line && one.json == attempts[0].json)
    );
    let (line, json) = (attempts[0].line.clone(), attempts[0].json.clone());
    for body in ["two", "three"] {
        ward.say(&nurse, &room, body).await;
    }
    drop(working);

    let calls = AtomicUsize::new(0);
    let healing = Answering::with(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Ok((500, json!({}))),
        _ => Ok((200, json!({}))),
    });
    let ward = ward.power_cut_and_restart_with(healing.clone()).await;
    ward.services.appservices.begin_with(Vec::new()).await.unwrap();
    let _working = work(&ward);
    ward.say(&nurse, &room, "four").await;
    let heard = healing.until(|heard| said(heard).contains(&"four".to_owned())).await;
    let told = transactions(&heard);
    assert_eq!((&told[0].line, &told[0].json), (&line, &json), "the very same transaction");
    assert_eq!((&told[1].line, &told[1].json), (&line, &json), "until it is taken");
    assert_ne!(told[2].line, line);
    let mut rest: Vec<_> = said(&heard[1..]);
    rest.dedup();
    assert_eq!(rest, ["one", "two", "three", "four"], "each once, in order");
}

#[tokio::test]
async fn typing_receipts_presence_and_messages_to_devices() {
    let bridge = Answering::with(|_| Ok((200, json!({}))));
    let ward = ward_with(bridge.clone()).await;
    let nurse = ward.member("nurse").await;
    let ghost = ghost(&ward, "pager_7").await;
    let accounts = &ward.services.accounts;
    accounts.put_device(&ghost, "BEEP".into(), None).await.unwrap();
    let room = ward.room_of(&[&nurse, &ghost]).await;
    let event = ward.say(&ghost, &room, "beep").await;
    let _working = work(&ward);

    let reading = &ward.services.reading;
    reading.set_typing(&nurse, &room, Some(30_000)).await.unwrap();
    let event_id: &appliance_model::ruma::EventId = event.as_str().try_into().unwrap();
    let new = |kind| NewReceipt { kind, event_id, thread: "" };
    reading.receive(&nurse, &room, new(crate::reading::PRIVATE)).await.unwrap();
    reading.receive(&nurse, &room, new(PUBLIC_RECEIPT)).await.unwrap();
    let online = (appliance_model::ruma::presence::PresenceState::Online, None);
    reading.set_presence(&nurse, &nurse.user_id, online).unwrap();
    let request = to_device(&ghost);
    ward.services.keys.send_to_device(&nurse, &request).await.unwrap();

    let of_kind = |heard: &[Heard], kind: &str| -> Vec<Value> {
        let all = transactions(heard).into_iter();
        let all = all.flat_map(|one| one.json["ephemeral"].as_array().cloned().unwrap_or_default());
        all.filter(|event| event["type"] == kind).collect()
    };
    let kinds = ["m.typing", "m.receipt", "m.presence"];
    let heard = bridge
        .until(|heard| {
            let to_device = transactions(heard).into_iter().any(|one| {
                one.json["de.sorunome.msc2409.to_device"].as_array().is_some_and(|a| !a.is_empty())
            });
            to_device && kinds.iter().all(|kind| !of_kind(heard, kind).is_empty())
        })
        .await;
    let typing = &of_kind(&heard, "m.typing")[0];
    assert_eq!(typing["room_id"], room.as_str());
    assert_eq!(typing["content"]["user_ids"], json!([nurse.user_id]));
    for receipt in of_kind(&heard, "m.receipt") {
        assert_eq!(receipt["room_id"], room.as_str());
        assert!(receipt["content"][&event].get("m.read.private").is_none(), "{receipt}");
    }
    assert_eq!(of_kind(&heard, "m.presence")[0]["sender"], nurse.user_id.as_str());
    let with_device = transactions(&heard).into_iter().find(|one| {
        one.json["de.sorunome.msc2409.to_device"].as_array().is_some_and(|a| !a.is_empty())
    });
    let with_device = &with_device.unwrap().json;
    let expected = json!([{
        "type": "m.test", "sender": nurse.user_id, "content": { "n": 1 },
        "to_user_id": ghost.user_id, "to_device_id": "BEEP",
    }]);
    assert_eq!(with_device["de.sorunome.msc2409.to_device"], expected);
    let counts = &with_device["org.matrix.msc3202.device_one_time_keys_count"];
    assert_eq!(counts[ghost.user_id.as_str()]["BEEP"]["signed_curve25519"], 0);
}

const PUBLIC_RECEIPT: u8 = crate::reading::PUBLIC;

fn to_device(
    to: &Caller,
) -> appliance_model::ruma::api::client::to_device::send_event_to_device::v3::Request {
    use appliance_model::ruma::api::IncomingRequestExt;
    let body = json!({ "messages": { to.user_id.as_str(): { "*": { "n": 1 } } } }).to_string();
    let request = http::Request::put("/").body(body.as_bytes()).unwrap();
    IncomingRequestExt::try_from_http_request(request, &["m.test", "txn"]).unwrap()
}

#[tokio::test]
async fn a_bridge_makes_rooms_and_users_when_they_are_asked_for() {
    let bridge = Answering::with(|heard| match heard.line.as_str() {
        line if line.contains("/rooms/%23pager_ward%3A") => Ok((200, json!({}))),
        _ => Ok((404, json!({ "errcode": "M_NOT_FOUND" }))),
    });
    let ward = ward_with(bridge.clone()).await;
    let nurse = ward.member("nurse").await;
    let rooms = &ward.services.rooms;
    let alias = RoomAliasId::parse("#pager_ward:hospital.example").unwrap();
    // It says that it has made the room, and has not.
    assert_eq!(rooms.resolve_alias(&alias).await.unwrap_err().kind, Kind::NotFound);
    let other = RoomAliasId::parse("#ward:hospital.example").unwrap();
    assert_eq!(rooms.resolve_alias(&other).await.unwrap_err().kind, Kind::NotFound);
    let room = ward.room(&nurse).await;
    let missing = rooms.invite(&nurse, &room, &user_id("pager_9"), None).await;
    assert_eq!(missing.unwrap_err().kind, Kind::NotFound);
    let lines: Vec<_> = bridge.heard().into_iter().map(|heard| heard.line).collect();
    assert_eq!(
        lines,
        [
            "GET http://127.0.0.1:9000/base/_matrix/app/v1/rooms/%23pager_ward%3Ahospital.example",
            "GET http://127.0.0.1:9000/base/_matrix/app/v1/users/%40pager_9%3Ahospital.example",
        ],
        "nobody is asked about what is not theirs"
    );
}

#[tokio::test]
async fn pings_and_look_ups() {
    let answers = |heard: &Heard| match &heard.line {
        line if line.contains("/ping") && heard.json["transaction_id"] == "good" => {
            Ok((200, json!({})))
        }
        line if line.contains("/ping") && heard.json["transaction_id"] == "slow" => {
            Err(Failure::TimedOut)
        }
        line if line.contains("/ping") => Ok((403, json!({ "errcode": "M_FORBIDDEN" }))),
        line if line.contains("/protocol/pager") => {
            Ok((200, json!({ "user_fields": ["n"], "instances": [{ "network_id": "p1" }] })))
        }
        line if line.ends_with("/thirdparty/user/pager?n=7%208") => {
            Ok((200, json!([{ "userid": "@pager_7:hospital.example" }])))
        }
        _ => Err(Failure::Unreachable("down".to_owned())),
    };
    let ward = ward_with(Answering::with(answers)).await;
    let nurse = ward.member("nurse").await;
    let bot = ghost(&ward, "bridgebot").await;
    let appservices = &ward.services.appservices;
    let ping = async |who: &Caller, id: &str, txn: &str| {
        appservices.ping(who, id, Some(txn.to_owned())).await.map_err(|error| error.kind)
    };
    assert_eq!(ping(&bot, "bridge", "good").await, Ok(0));
    assert_eq!(ping(&bot, "bridge", "slow").await, Err(Kind::ConnectionTimeout));
    let bad = ping(&bot, "bridge", "bad").await.unwrap_err();
    assert!(matches!(bad, Kind::BadStatus { status: 403, .. }), "{bad:?}");
    assert_eq!(ping(&nurse, "bridge", "good").await, Err(Kind::Forbidden));
    assert_eq!(ping(&bot, "other", "good").await, Err(Kind::Forbidden));

    let protocols = appservices.protocols(None).await;
    assert_eq!(protocols["pager"]["instances"][0]["instance_id"], "bridge|p1");
    assert!(appservices.protocols(Some("irc")).await.is_empty());
    let query = [("n".to_owned(), "7 8".to_owned())];
    let users = appservices.third_party("user", Some("pager"), &query).await;
    assert_eq!(users[0]["userid"], "@pager_7:hospital.example");
    assert!(appservices.third_party("location", Some("pager"), &[]).await.is_empty());
}

/// A service that is silent for long keeps nobody else waiting, and is not asked every moment.
#[tokio::test]
async fn one_silent_service_does_not_hold_up_another() {
    let both = Answering::with(|heard| match heard.line.contains(":9000") {
        true => Err(Failure::TimedOut),
        false => Ok((200, json!({}))),
    });
    let ward = ward_with(both.clone()).await;
    let mut second = registration();
    second["id"] = "second".into();
    second["url"] = "http://127.0.0.1:9001".into();
    second["as_token"] = "another-secret".into();
    second["sender_localpart"] = "secondbot".into();
    second["namespaces"]["users"][0]["exclusive"] = false.into();
    ward.services.appservices.register(second, "root").await.unwrap();
    let nurse = ward.member("nurse").await;
    let ghost = ghost(&ward, "pager_7").await;
    let room = ward.room_of(&[&nurse, &ghost]).await;
    let _working = work(&ward);
    ward.say(&nurse, &room, "one").await;
    let of = |heard: &[Heard], port: &str| -> Vec<Heard> {
        heard.iter().filter(|one| one.line.contains(port)).cloned().collect()
    };
    both.until(|heard| said(&of(heard, ":9001")).contains(&"one".to_owned())).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    ward.say(&nurse, &room, "two").await;
    let heard = both.until(|heard| said(&of(heard, ":9001")).contains(&"two".to_owned())).await;
    let attempts = of(&heard, ":9000").len();
    assert!((2..=4).contains(&attempts), "{attempts} attempts within four seconds");
}
