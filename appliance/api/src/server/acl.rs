//! A room's access list keeps a server out by every endpoint, every event and every EDU ([spec]), while
//! the server has people in the room and is on this server's own list.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#server-access-control-lists-acls-for-rooms

use appliance_model::ruma::signatures::{hash_and_sign_event, reference_hash};
use appliance_model::ruma::{CanonicalJsonObject, RoomVersionId};
use serde_json::{Value, json};

use crate::town::Town;

struct Scene {
    town: Town,
    nurse: String,
    doctor: String,
    room: String,
    said: String,
}

impl Scene {
    async fn begin() -> Self {
        let town = Town::of(&["a.example", "b.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let doctor = town.desk(1).sign_up("doctor").await;
        let body = json!({ "preset": "public_chat" });
        let room = town.desk(0).post("/v3/createRoom", &nurse, body).await.text("room_id");
        let path = format!("/v3/join/{room}?via=a.example");
        town.desk(1).post(&path, &doctor, json!({})).await.ok();
        let path = format!("/v3/rooms/{room}/send/m.room.message/1");
        let said = town.desk(0).call("PUT", &path, &nurse, json!({ "body": "hello" })).await;
        let said = said.text("event_id");
        Self { town, nurse, doctor, room, said }
    }

    async fn keep_out(&self) {
        let path = format!("/v3/rooms/{}/state/m.room.server_acl/", self.room);
        let body = json!({ "allow": ["*"], "deny": ["b.example"] });
        self.town.desk(0).call("PUT", &path, &self.nurse, body).await.ok();
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.town.ask(1, "a.example", method, path, body).await
    }

    /// What the nurse's phone is told of the room beside its events.
    async fn ephemeral(&self) -> String {
        let synced = self.town.desk(0).get("/v3/sync", &self.nurse).await.ok();
        synced["rooms"]["join"][&self.room]["ephemeral"].to_string()
    }

    /// The EDUs that speak of a room.
    fn edus(&self) -> Value {
        let receipt = json!({ "event_ids": [self.said], "data": { "ts": 1 } });
        json!([
            { "edu_type": "m.typing", "content": {
                "room_id": self.room, "user_id": "@doctor:b.example", "typing": true } },
            { "edu_type": "m.receipt", "content": {
                (self.room.as_str()): { "m.read": { "@doctor:b.example": receipt } } } },
        ])
    }

    fn invite(&self) -> (String, Value) {
        let mut event: CanonicalJsonObject = serde_json::from_value(json!({
            "auth_events": [], "prev_events": [self.said], "depth": 9, "origin_server_ts": 1,
            "content": { "membership": "invite" }, "type": "m.room.member",
            "room_id": self.room, "sender": "@doctor:b.example", "state_key": "@nurse:a.example",
        }))
        .unwrap();
        let house = &self.town.desk(1).services.house;
        let rules = RoomVersionId::V11.rules().unwrap();
        hash_and_sign_event("b.example", &house.signing_key, &mut event, &rules.redaction).unwrap();
        let id = format!("${}", reference_hash(&event, &rules).unwrap());
        (id, json!({ "room_version": "11", "event": event, "invite_room_state": [] }))
    }
}

#[tokio::test]
async fn a_server_that_a_room_keeps_out_is_kept_out_of_all_of_it() {
    let scene = Scene::begin().await;
    let Scene { room, said, .. } = &scene;
    let user = "@other:b.example";
    let v2 = "/_matrix/federation/v2";
    let (invite_id, invite) = scene.invite();
    let reads = [
        ("GET", format!("/event/{said}"), Value::Null),
        ("GET", format!("/state/{room}?event_id={said}"), Value::Null),
        ("GET", format!("/state_ids/{room}?event_id={said}"), Value::Null),
        ("GET", format!("/event_auth/{room}/{said}"), Value::Null),
        ("GET", format!("/backfill/{room}?v={said}&limit=5"), Value::Null),
        ("GET", format!("/timestamp_to_event/{room}?ts=0&dir=f"), Value::Null),
        ("GET", format!("/make_join/{room}/{user}?ver=11"), Value::Null),
        ("GET", format!("/make_leave/{room}/@doctor:b.example"), Value::Null),
        (
            "POST",
            format!("/get_missing_events/{room}"),
            json!({ "earliest_events": [], "latest_events": [said], "limit": 5 }),
        ),
    ];
    for (method, path, body) in &reads {
        let (status, answer) = scene.ask(method, path, body.clone()).await;
        assert_eq!(status, 200, "{path} before: {answer}");
    }
    scene.keep_out().await;
    let others = [
        ("GET", format!("/make_knock/{room}/{user}?ver=11"), Value::Null),
        ("PUT", format!("/send_join/{room}/$x"), json!({})),
        ("PUT", format!("{v2}/send_join/{room}/$x"), json!({})),
        ("PUT", format!("/send_leave/{room}/$x"), json!({})),
        ("PUT", format!("{v2}/send_leave/{room}/$x"), json!({})),
        ("PUT", format!("/send_knock/{room}/$x"), json!({})),
        ("PUT", format!("{v2}/invite/{room}/{invite_id}"), invite),
    ];
    for (method, path, body) in reads.into_iter().chain(others) {
        let (status, answer) = scene.ask(method, &path, body).await;
        let errcode = answer["errcode"].as_str().unwrap_or_default();
        assert_eq!((status, errcode), (403, "M_FORBIDDEN"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn events_and_edus_of_a_server_that_is_kept_out_are_not_taken() {
    let scene = Scene::begin().await;
    let transaction = json!({ "pdus": [], "edus": scene.edus() });
    scene.ask("PUT", "/send/1", transaction.clone()).await;
    let told = scene.ephemeral().await;
    assert!(told.contains("m.typing") && told.contains("m.receipt"), "before: {told}");

    let scene = Scene::begin().await;
    scene.keep_out().await;
    scene.ask("PUT", "/send/2", json!({ "pdus": [], "edus": scene.edus() })).await;
    let told = scene.ephemeral().await;
    assert!(!told.contains("doctor"), "{told}");
    let path = format!("/v3/rooms/{}/send/m.room.message/2", scene.room);
    let body = json!({ "body": "let me in" });
    let said = scene.town.desk(1).call("PUT", &path, &scene.doctor, body).await.text("event_id");
    let to_a = appliance_model::ruma::server_name!("a.example");
    scene.town.desk(1).services.peers.drain(to_a).await.unwrap();
    let path = format!("/v3/rooms/{}/event/{said}", scene.room);
    assert_eq!(scene.town.desk(0).get(&path, &scene.nurse).await.status, 404);
    // The list is the room's: in other rooms the server is as welcome as before.
    let body = json!({ "preset": "public_chat" });
    let other = scene.town.desk(0).post("/v3/createRoom", &scene.nurse, body).await.text("room_id");
    let path = format!("/v3/join/{other}?via=a.example");
    scene.town.desk(1).post(&path, &scene.doctor, json!({})).await.ok();
}
