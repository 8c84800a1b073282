//! Scenes at the bedside: what each phone is told, and what it is not.

use std::sync::Arc;
use std::time::Duration;

use appliance_model::Caller;
use appliance_model::ruma::api::client::filter::FilterDefinition;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::presence::PresenceState;
use appliance_model::ruma::{EventId, RoomId};
use serde_json::{Value, json};

use super::{StateForm, SyncRequest, Token};
use crate::reading::{NewReceipt, PRIVATE, PUBLIC};
use crate::scenario::Ward;

pub(crate) fn request(since: Option<&Value>, filter: Value) -> SyncRequest {
    let filter: FilterDefinition = serde_json::from_value(filter).unwrap();
    SyncRequest {
        since: since.map(|token| Token::parse(token.as_str().unwrap()).unwrap()),
        filter: Arc::new(filter),
        full_state: false,
        timeout: Duration::ZERO,
        state_form: StateForm::Before,
        presence: PresenceState::Offline,
    }
}

pub(crate) async fn ask(ward: &Ward, who: &Caller, request: &SyncRequest) -> Value {
    let json = ward.services.sync.sync(who, "", request).await.unwrap();
    serde_json::from_str(&json).unwrap()
}

async fn sync(ward: &Ward, who: &Caller, since: Option<&Value>) -> Value {
    ask(ward, who, &request(since, json!({}))).await
}

fn bodies(room: &Value) -> Vec<&str> {
    let events = room["timeline"]["events"].as_array().unwrap();
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn types(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_phone_hears_each_message_once_and_nothing_when_nothing_is_new() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let first = sync(&ward, &doctor, None).await;
    let kinds = types(&first["account_data"]["events"]);
    assert!(kinds.contains(&"m.push_rules"), "{kinds:?}");
    assert!(kinds.contains(&"m.media_preview_config"), "{kinds:?}");

    ward.say(&nurse, &room, "Bed 4 is free").await;
    let second = sync(&ward, &doctor, Some(&first["next_batch"])).await;
    let part = &second["rooms"]["join"][room.as_str()];
    assert_eq!(bodies(part), ["Bed 4 is free"]);
    assert_eq!(part["timeline"]["limited"], false);
    assert_eq!(part["unread_notifications"]["notification_count"], 1);
    assert_eq!(part["state"]["events"], json!([]), "the timeline tells all");

    let third = sync(&ward, &doctor, Some(&second["next_batch"])).await;
    assert_eq!(third.get("rooms"), None);
    let again = sync(&ward, &doctor, Some(&first["next_batch"])).await;
    assert_eq!(bodies(&again["rooms"]["join"][room.as_str()]), ["Bed 4 is free"], "a lost answer");
}

#[tokio::test]
async fn a_gap_comes_with_the_state_that_changed_in_it() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let first = sync(&ward, &doctor, None).await;
    ward.state(&nurse, &room, ("m.room.topic", ""), json!({ "topic": "Night shift" })).await;
    for number in 0..15 {
        ward.say(&nurse, &room, &number.to_string()).await;
    }
    ward.state(&nurse, &room, ("m.room.name", ""), json!({ "name": "Ward 4" })).await;

    for form in [StateForm::Before, StateForm::After, StateForm::AfterUnstable] {
        let mut request = request(Some(&first["next_batch"]), json!({}));
        request.state_form = form;
        let answer = ask(&ward, &doctor, &request).await;
        let part = &answer["rooms"]["join"][room.as_str()];
        assert_eq!(part["timeline"]["limited"], true);
        assert_eq!(part["timeline"]["events"].as_array().unwrap().len(), 10);
        let (name, expected) = match form {
            StateForm::Before => ("state", vec!["m.room.topic"]),
            StateForm::After => ("state_after", vec!["m.room.topic", "m.room.name"]),
            StateForm::AfterUnstable => {
                ("org.matrix.msc4222.state_after", vec!["m.room.topic", "m.room.name"])
            }
        };
        assert_eq!(types(&part[name]["events"]), expected, "{name}");
    }
}

#[tokio::test]
async fn lazy_loading_shows_the_senders_and_oneself() {
    let (ward, [nurse, doctor, visitor]) = Ward::with_members(["nurse", "doctor", "visitor"]).await;
    let room = ward.room_of(&[&nurse, &doctor, &visitor]).await;
    for number in 0..12 {
        ward.say(&nurse, &room, &number.to_string()).await;
    }
    let lazy = json!({ "room": { "state": { "lazy_load_members": true } } });
    let answer = ask(&ward, &doctor, &request(None, lazy.clone())).await;
    let members = |part: &Value| -> Vec<String> {
        let state = part["state"]["events"].as_array().cloned().unwrap_or_default();
        let members = state.iter().filter(|event| event["type"] == "m.room.member");
        let mut keys: Vec<_> =
            members.map(|event| event["state_key"].as_str().unwrap().to_owned()).collect();
        keys.sort();
        keys
    };
    let part = &answer["rooms"]["join"][room.as_str()];
    assert_eq!(members(part), [doctor.user_id.as_str(), nurse.user_id.as_str()]);
    assert_eq!(part["summary"]["m.joined_member_count"], 3);

    ward.say(&visitor, &room, "Where is the way out?").await;
    let next = ask(&ward, &doctor, &request(Some(&answer["next_batch"]), lazy.clone())).await;
    assert_eq!(members(&next["rooms"]["join"][room.as_str()]), [visitor.user_id.as_str()]);
    ward.say(&visitor, &room, "Thank you").await;
    let last = ask(&ward, &doctor, &request(Some(&next["next_batch"]), lazy)).await;
    assert!(members(&last["rooms"]["join"][room.as_str()]).is_empty(), "known by now");
}

#[tokio::test]
async fn an_invite_a_join_and_a_kick_each_show_in_their_section() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_as(&nurse, json!({ "name": "Ward 4" })).await;
    let first = sync(&ward, &doctor, None).await;

    ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    let invited = sync(&ward, &doctor, Some(&first["next_batch"])).await;
    let shown = types(&invited["rooms"]["invite"][room.as_str()]["invite_state"]["events"]);
    assert!(shown.contains(&"m.room.name") && shown.contains(&"m.room.create"), "{shown:?}");

    ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
    let joined = sync(&ward, &doctor, Some(&invited["next_batch"])).await;
    let part = &joined["rooms"]["join"][room.as_str()];
    let all = [types(&part["state"]["events"]), types(&part["timeline"]["events"])].concat();
    assert!(all.contains(&"m.room.create"), "the whole state: {all:?}");
    assert_eq!(joined["device_lists"]["changed"], json!([nurse.user_id]));

    ward.set(&nurse, &room, &doctor.user_id, M::Leave).await;
    ward.say(&nurse, &room, "Not for the doctor").await;
    let kicked = sync(&ward, &doctor, Some(&joined["next_batch"])).await;
    let part = &kicked["rooms"]["leave"][room.as_str()];
    assert_eq!(types(&part["timeline"]["events"]), ["m.room.member"]);
    assert_eq!(kicked["rooms"].get("join"), None);
    assert_eq!(kicked["device_lists"]["left"], json!([nurse.user_id]));
    let after = sync(&ward, &doctor, Some(&kicked["next_batch"])).await;
    assert_eq!(after.get("rooms"), None, "nothing more of that room");
}

/// Neither who never came in nor who has gone hears what the room is like now.
#[tokio::test]
async fn those_outside_hear_only_of_their_own_membership() {
    let (ward, [nurse, doctor, visitor]) = Ward::with_members(["nurse", "doctor", "visitor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let of_doctor = sync(&ward, &doctor, None).await;
    let of_visitor = sync(&ward, &visitor, None).await;
    ward.set(&nurse, &room, &visitor.user_id, M::Invite).await;
    ward.set(&visitor, &room, &visitor.user_id, M::Leave).await;
    ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
    ward.state(&nurse, &room, ("m.room.topic", ""), json!({ "topic": "Not for you" })).await;
    let left = sync(&ward, &doctor, Some(&of_doctor["next_batch"])).await;
    ward.set(&nurse, &room, &doctor.user_id, M::Ban).await;

    for (who, since) in [(&visitor, Some(&of_visitor["next_batch"])), (&visitor, None)] {
        let filter = json!({ "room": { "include_leave": true } });
        let answer = ask(&ward, who, &request(since, filter)).await;
        let part = &answer["rooms"]["leave"][room.as_str()];
        assert_eq!(types(&part["timeline"]["events"]), ["m.room.member"]);
        assert_eq!(part["state"]["events"], json!([]), "{part}");
        assert_eq!(answer.get("device_lists"), None, "who is in there is none of theirs");
    }
    for since in [&of_doctor["next_batch"], &left["next_batch"]] {
        let mut request = request(Some(since), json!({}));
        request.state_form = StateForm::After;
        let answer = ask(&ward, &doctor, &request).await;
        let part = &answer["rooms"]["leave"][room.as_str()];
        let events = part["timeline"]["events"].as_array().unwrap();
        assert_eq!(events.last().unwrap()["content"]["membership"], "ban");
        assert!(!part.to_string().contains("Not for you"), "{part}");
    }
}

#[tokio::test]
async fn receipts_are_shown_moved_forward_and_clear_the_counts() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let one = ward.say(&nurse, &room, "one").await;
    let two = ward.say(&nurse, &room, "two").await;
    let before = sync(&ward, &doctor, None).await;
    let count = |answer: &Value| {
        answer["rooms"]["join"][room.as_str()]["unread_notifications"]["notification_count"].clone()
    };
    assert_eq!(count(&before), 2);
    let nurse_before = sync(&ward, &nurse, None).await;
    let read = async |kind, event: &str| {
        let event_id: &EventId = event.try_into().unwrap();
        let new = NewReceipt { kind, event_id, thread: "" };
        ward.services.reading.receive(&doctor, &room, new).await.unwrap();
    };
    read(PRIVATE, &one).await;
    let private = sync(&ward, &doctor, Some(&before["next_batch"])).await;
    assert_eq!(count(&private), 1);
    let shown = &private["rooms"]["join"][room.as_str()]["ephemeral"]["events"][0]["content"];
    assert!(shown[&one]["m.read.private"].get(doctor.user_id.as_str()).is_some());
    let to_nurse = sync(&ward, &nurse, Some(&nurse_before["next_batch"])).await;
    assert_eq!(to_nurse.get("rooms"), None, "private stays private");

    read(PUBLIC, &two).await;
    read(PUBLIC, &one).await;
    let public = sync(&ward, &doctor, Some(&private["next_batch"])).await;
    assert_eq!(count(&public), 0);
    let to_nurse = sync(&ward, &nurse, Some(&nurse_before["next_batch"])).await;
    let shown = &to_nurse["rooms"]["join"][room.as_str()]["ephemeral"]["events"][0]["content"];
    assert!(shown[&two]["m.read"].get(doctor.user_id.as_str()).is_some());
    assert_eq!(shown.get(&one), None, "a receipt does not move back");
}

#[tokio::test]
async fn typing_is_told_and_ends_by_itself() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let first = sync(&ward, &doctor, None).await;
    let reading = &ward.services.reading;
    reading.set_typing(&nurse, &room, Some(5_000)).await.unwrap();
    let typists = |answer: &Value| {
        answer["rooms"]["join"][room.as_str()]["ephemeral"]["events"][0]["content"]["user_ids"]
            .clone()
    };
    let typing = sync(&ward, &doctor, Some(&first["next_batch"])).await;
    assert_eq!(typists(&typing), json!([nurse.user_id]));
    let quiet = sync(&ward, &doctor, Some(&typing["next_batch"])).await;
    assert_eq!(quiet.get("rooms"), None);
    ward.clock.pass_ms(6_000);
    reading.expire_typing();
    let ended = sync(&ward, &doctor, Some(&quiet["next_batch"])).await;
    assert_eq!(typists(&ended), json!([]));
}

#[tokio::test]
async fn account_data_is_told_once_also_after_a_restart() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let first = sync(&ward, &nurse, None).await;
    let owner = (nurse.user, nurse.user_id.as_str());
    let number = ward.services.house.ledger.room(&room).await.unwrap();
    let personal = &ward.services.personal;
    personal.set_account_data(owner, None, "m.direct", r#"{"@a:h":[]}"#).await.unwrap();
    personal.set_account_data(owner, number, "m.tag", r#"{"tags":{}}"#).await.unwrap();
    personal.set_account_data(owner, None, "m.direct", r#"{"@b:h":[]}"#).await.unwrap();

    let ward = ward.power_cut_and_restart().await;
    let told = sync(&ward, &nurse, Some(&first["next_batch"])).await;
    let expected = json!([{ "type": "m.direct", "content": { "@b:h": [] } }]);
    assert_eq!(told["account_data"]["events"], expected, "only the newest value");
    let of_room = &told["rooms"]["join"][room.as_str()]["account_data"]["events"];
    assert_eq!(types(of_room), ["m.tag"]);
    let quiet = sync(&ward, &nurse, Some(&told["next_batch"])).await;
    assert_eq!(quiet.get("account_data"), None);
}

#[tokio::test]
async fn nobody_wakes_for_a_room_they_are_not_in() {
    let (ward, [nurse, doctor, visitor]) = Ward::with_members(["nurse", "doctor", "visitor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    sync(&ward, &visitor, None).await;
    let waiters = ward.services.sync.waiters.clone();
    let mut subscription = waiters.subscribe(visitor.user);
    ward.services.sync.memberships(&visitor, &subscription).await.unwrap();
    subscription.rearm();
    ward.say(&nurse, &room, "Bed 4 is free").await;
    tokio::select! {
        biased;
        _ = subscription.woken() => panic!("woken by a message in another room"),
        () = tokio::task::yield_now() => {}
    }
    let _: &RoomId = &room;
}
