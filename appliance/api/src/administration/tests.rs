//! The desk, from the side of the tools.

use serde_json::{Value, json};

use crate::scenario::Desk;

const NURSE: &str = "@nurse:hospital.example";

fn at(path: &str) -> String {
    format!("/_synapse/admin/{path}")
}

#[tokio::test]
async fn nobody_else_is_served_and_every_call_is_in_the_trail() {
    let (desk, chief) = Desk::with_chief().await;
    let nurse = desk.sign_up("nurse").await;
    let (_, routes) = crate::router(desk.services.clone());
    let routes: Vec<_> = routes
        .iter()
        .filter(|route| {
            let is_desk = ["/_synapse/admin", "/_wardstone/admin"];
            let is_desk = is_desk.iter().any(|start| route.path.starts_with(start));
            is_desk && !route.path.ends_with("/register")
        })
        .collect();
    assert!(routes.len() > 50, "{}", routes.len());
    for route in routes {
        let path =
            route.path.replace("{user_id}", NURSE).replace("{room_id}", "!r:hospital.example");
        let path = path.replace(['{', '}'], "");
        let refused = desk.call(route.method.as_str(), &path, &nurse, json!({})).await;
        assert_eq!(refused.error(), (403, "M_FORBIDDEN"), "{route:?}");
    }
    let before = desk.services.house.ledger.position();
    desk.get(&at("v2/users"), &chief).await.ok();
    assert!(desk.services.house.ledger.position() > before, "looking is written down");
}

#[tokio::test]
async fn accounts_are_made_changed_and_closed() {
    let (desk, chief) = Desk::with_chief().await;
    let nurse = at(&format!("v2/users/{NURSE}"));
    assert_eq!(desk.get(&nurse, &chief).await.error(), (404, "M_NOT_FOUND"));
    let made = desk.call("PUT", &nurse, &chief, json!({ "password": "nurse" })).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.json["name"], NURSE);
    let token = desk.sign_in("nurse", "PHONE").await;
    let change = json!({ "displayname": "Nurse Joy", "user_type": "bot", "admin": true });
    let changed = desk.call("PUT", &nurse, &chief, change).await.ok();
    assert_eq!(
        (&changed["displayname"], &changed["user_type"]),
        (&json!("Nurse Joy"), &json!("bot"))
    );
    assert_eq!(changed["admin"], true);
    for (kinds, total) in [("not_user_type=bot", 1), ("not_user_type=bot&not_user_type=", 0)] {
        let list = desk.get(&at(&format!("v2/users?{kinds}")), &token).await.ok();
        assert_eq!(list["total"], total, "{kinds}");
    }
    let list = desk.get(&at("v2/users?name=joy"), &token).await.ok();
    assert_eq!((list["total"].as_u64(), &list["users"][0]["name"]), (Some(1), &json!(NURSE)));
    let demoted = json!({ "admin": false, "user_type": null });
    let changed = desk.call("PUT", &nurse, &chief, demoted).await.ok();
    assert_eq!((&changed["admin"], &changed["user_type"]), (&json!(false), &Value::Null));
    assert_eq!(desk.get(&nurse, &token).await.error(), (403, "M_FORBIDDEN"), "at once");
    let own = at("v2/users/@chief:hospital.example");
    let myself = desk.call("PUT", &own, &chief, json!({ "admin": false })).await;
    assert_eq!(myself.error(), (403, "M_FORBIDDEN"));

    let devices = desk.get(&format!("{nurse}/devices"), &chief).await.ok();
    assert_eq!(devices["devices"][0]["device_id"], "PHONE");
    let ended = json!({ "devices": ["PHONE"] });
    desk.post(&format!("{nurse}/delete_devices"), &chief, ended).await.ok();
    assert!(!desk.is_in(&token).await);
    let reset = at(&format!("v1/reset_password/{NURSE}"));
    desk.post(&reset, &chief, json!({ "new_password": "nurse" })).await.ok();

    let login = at(&format!("v1/users/{NURSE}/login"));
    let refused = desk.post(&login, &chief, json!({})).await;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN"));
    assert!(refused.json["error"].as_str().unwrap().contains("synadm raw"), "{}", refused.json);
    let blank = desk.post(&format!("{login}?reason=%20"), &chief, json!({ "reason": "" })).await;
    assert_eq!(blank.error(), (403, "M_FORBIDDEN"));
    let asked = format!("{login}?reason=ticket%204712");
    assert!(desk.is_in(&desk.post(&asked, &chief, json!({})).await.text("access_token")).await);
    let entered = desk.post(&login, &chief, json!({ "reason": "ticket 4711" })).await;
    let entered = entered.text("access_token");
    assert!(desk.is_in(&entered).await);
    desk.clock.pass_ms(24 * 60 * 60 * 1_000);
    assert!(!desk.is_in(&entered).await, "for a day");

    let closed = desk.post(&at(&format!("v1/deactivate/{NURSE}")), &chief, json!({})).await.ok();
    assert_eq!(closed["id_server_unbind_result"], "success");
    assert_eq!(desk.get(&at("v2/users"), &chief).await.ok()["total"], 1);
    let all = desk.get(&at("v2/users?deactivated=true"), &chief).await.ok();
    assert_eq!(all["total"], 2);
    let taken = desk.get(&at("v1/username_available?username=nurse"), &chief).await;
    assert_eq!(taken.error(), (400, "M_USER_IN_USE"));
    let ban = desk.post(&at(&format!("v1/users/{NURSE}/shadow_ban")), &chief, json!({})).await;
    assert_eq!(ban.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn rooms_are_seen_blocked_taken_over_and_closed() {
    let (desk, chief) = Desk::with_chief().await;
    let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
    let body = json!({ "name": "Ward 4", "preset": "public_chat", "room_alias_name": "ward" });
    let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
    let list = desk.get(&at("v1/rooms?search_term=ward"), &chief).await.ok();
    assert_eq!(
        (list["total_rooms"].as_u64(), &list["rooms"][0]["room_id"]),
        (Some(1), &json!(room))
    );
    let one = desk.get(&at(&format!("v1/rooms/{room}")), &chief).await.ok();
    assert_eq!((&one["creator"], &one["joined_local_members"]), (&json!(NURSE), &json!(1)));
    let state = desk.get(&at(&format!("v1/rooms/{room}/state")), &chief).await.ok();
    assert!(state["state"].as_array().unwrap().iter().any(|e| e["type"] == "m.room.name"));

    let block = at(&format!("v1/rooms/{room}/block"));
    desk.call("PUT", &block, &chief, json!({ "block": true })).await.ok();
    let join = format!("/v3/join/{room}");
    assert_eq!(desk.post(&join, &doctor, json!({})).await.error(), (403, "M_FORBIDDEN"));
    desk.call("PUT", &block, &chief, json!({ "block": false })).await.ok();
    let body = json!({ "user_id": "@doctor:hospital.example" });
    desk.post(&at(&format!("v1/join/{room}")), &chief, body).await.ok();
    let members = desk.get(&at(&format!("v1/rooms/{room}/members")), &chief).await.ok();
    assert_eq!(members["total"], 2);

    let power = at(&format!("v1/rooms/{room}/make_room_admin"));
    let body = json!({ "user_id": "@doctor:hospital.example" });
    assert_eq!(desk.post(&power, &chief, body.clone()).await.error(), (403, "M_FORBIDDEN"));
    let power = format!("{power}?reason=the%20nurse%20has%20left%20the%20hospital");
    desk.post(&power, &chief, body).await.ok();
    let topic = format!("/v3/rooms/{room}/state/m.room.topic/");
    desk.call("PUT", &topic, &doctor, json!({ "topic": "x" })).await.ok();

    let delete = at(&format!("v2/rooms/{room}"));
    let ordered = desk.call("DELETE", &delete, &chief, json!({ "purge": true })).await;
    let id = ordered.text("delete_id");
    let status = at(&format!("v2/rooms/delete_status/{id}"));
    assert_eq!(desk.get(&status, &chief).await.ok()["status"], "active");
    assert_eq!(desk.services.administration.carry_out().await.unwrap(), 1);
    let done = desk.get(&status, &chief).await.ok();
    assert_eq!(done["status"], "complete");
    assert_eq!(done["shutdown_room"]["kicked_users"].as_array().unwrap().len(), 2);
    assert_eq!(done["shutdown_room"]["local_aliases"], json!(["#ward:hospital.example"]));
    assert_eq!(desk.get("/v3/joined_rooms", &nurse).await.ok()["joined_rooms"], json!([]));
    let read = desk.get(&format!("/v3/rooms/{room}/messages?dir=b"), &nurse).await;
    assert_eq!(read.error(), (403, "M_FORBIDDEN"), "nobody sees it any more");
}

/// A nurse says three things, a second apart, in a room of her own.
async fn three_messages(desk: &Desk) -> (String, String, [String; 3]) {
    let nurse = desk.sign_up("nurse").await;
    let room = desk.post("/v3/createRoom", &nurse, json!({})).await.text("room_id");
    let mut said = [const { String::new() }; 3];
    for (txn, said) in said.iter_mut().enumerate() {
        let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}");
        *said = desk.call("PUT", &path, &nurse, json!({ "body": "x" })).await.text("event_id");
        desk.clock.pass_ms(1_000);
    }
    (nurse, room, said)
}

#[tokio::test]
async fn a_rooms_past_is_purged_up_to_an_event_and_the_rest_stays() {
    let (desk, chief) = Desk::with_chief().await;
    let (nurse, room, said) = three_messages(&desk).await;
    let purge = at(&format!("v1/purge_history/{room}"));
    for (body, errcode) in [
        (json!({ "delete_local_events": true }), "M_BAD_JSON"),
        (json!({ "purge_up_to_event_id": said[2] }), "M_INVALID_PARAM"),
        (json!({ "delete_local_events": true, "purge_up_to_ts": 1_u64 << 50 }), "M_INVALID_PARAM"),
    ] {
        assert_eq!(desk.post(&purge, &chief, body).await.error(), (400, errcode));
    }
    let body = json!({ "delete_local_events": true, "purge_up_to_event_id": "$nothing" });
    assert_eq!(desk.post(&purge, &chief, body).await.error(), (404, "M_NOT_FOUND"));
    let whole = json!({ "delete_local_events": true });
    let of_nurse = desk.post(&format!("{purge}/{}", said[2]), &nurse, whole.clone()).await;
    assert_eq!(of_nurse.error(), (403, "M_FORBIDDEN"));

    let id = desk.post(&format!("{purge}/{}", said[2]), &chief, whole).await.text("purge_id");
    let status = at(&format!("v1/purge_history_status/{id}"));
    assert_eq!(desk.get(&status, &chief).await.ok(), json!({ "status": "active" }));
    desk.services.administration.carry_out().await.unwrap();
    assert_eq!(desk.get(&status, &chief).await.ok(), json!({ "status": "complete" }));
    let unknown = at("v1/purge_history_status/nothing");
    assert_eq!(desk.get(&unknown, &chief).await.error(), (404, "M_NOT_FOUND"));
    for (event, status) in [(&said[0], 404), (&said[1], 404), (&said[2], 200)] {
        let shown = desk.get(&format!("/v3/rooms/{room}/event/{event}"), &nurse).await;
        assert_eq!(shown.status, status, "{event}");
    }
}

#[tokio::test]
async fn what_somebody_said_is_taken_back_and_the_house_speaks() {
    let (desk, chief) = Desk::with_chief().await;
    let (nurse, room, said) = three_messages(&desk).await;
    let path = at(&format!("v1/user/{NURSE}/redact"));
    let id = desk.post(&path, &chief, json!({ "rooms": [] })).await.text("redact_id");
    desk.services.administration.carry_out().await.unwrap();
    let status = desk.get(&at(&format!("v1/user/redact_status/{id}")), &chief).await.ok();
    assert_eq!(
        (&status["status"], &status["failed_redactions"]),
        (&json!("completed"), &json!({}))
    );
    for event in said {
        let event = desk.get(&format!("/v3/rooms/{room}/event/{event}"), &nurse).await.ok();
        assert_eq!(event["content"], json!({}));
    }

    let content = json!({ "msgtype": "m.text", "body": "The server restarts at noon." });
    let body = json!({ "user_id": NURSE, "content": content });
    for _ in 0..2 {
        desk.post(&at("v1/send_server_notice"), &chief, body.clone()).await.text("event_id");
    }
    let sync = desk.get("/v3/sync", &nurse).await.ok();
    let invites: Vec<_> = sync["rooms"]["invite"].as_object().unwrap().keys().collect();
    assert_eq!(invites.len(), 1, "one room for all notices");
    let tags = format!("/v3/user/{NURSE}/rooms/{}/tags", invites[0]);
    assert!(desk.get(&tags, &nurse).await.ok()["tags"]["m.server_notice"].is_object());
}

#[tokio::test]
async fn files_are_listed_locked_away_and_erased() {
    let (desk, chief) = Desk::with_chief().await;
    let nurse = desk.sign_up("nurse").await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let uri = desk.post("/_matrix/media/v3/upload", &nurse, json!({ "x": 1 })).await;
        ids.push(uri.text("content_uri").rsplit('/').next().unwrap().to_owned());
    }
    let fetch = async |id: &str| {
        let path = format!("/_matrix/client/v1/media/download/hospital.example/{id}");
        desk.get(&path, &nurse).await.status
    };
    let list = desk.get(&at(&format!("v1/users/{NURSE}/media")), &chief).await.ok();
    assert_eq!((list["total"].as_u64(), &list["media"][0]["media_id"]), (Some(2), &json!(ids[0])));
    desk.post(&at(&format!("v1/media/protect/{}", ids[1])), &chief, json!({})).await.ok();
    let all = at(&format!("v1/user/{NURSE}/media/quarantine"));
    assert_eq!(desk.post(&all, &chief, json!({})).await.ok()["num_quarantined"], 1);
    assert_eq!((fetch(&ids[0]).await, fetch(&ids[1]).await), (404, 200));
    let release = at(&format!("v1/media/unquarantine/hospital.example/{}", ids[0]));
    desk.post(&release, &chief, json!({})).await.ok();
    assert_eq!(fetch(&ids[0]).await, 200);
    let delete = at(&format!("v1/media/hospital.example/{}", ids[0]));
    let deleted = desk.call("DELETE", &delete, &chief, json!({})).await.ok();
    assert_eq!(deleted["deleted_media"], json!([ids[0]]));
    assert_eq!(fetch(&ids[0]).await, 404);
}
