//! The line to another hospital is cut: whoever shares a room with it is told once, and once of its end.

use appliance_model::ruma::server_name;
use serde_json::json;

use crate::town::Town;

const MINUTE_MS: u64 = 60 * 1_000;

struct Scene {
    town: Town,
    nurse: String,
    room: String,
}

impl Scene {
    async fn begin() -> Self {
        let town = Town::of(&["a.example", "b.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        // Shares nothing with anybody.
        town.desk(0).sign_up("cleaner").await;
        let doctor = town.desk(1).sign_up("doctor").await;
        let body = json!({ "preset": "public_chat", "name": "Ward 4" });
        let room = town.desk(0).post("/v3/createRoom", &nurse, body).await.text("room_id");
        let path = format!("/v3/join/{room}?via=a.example");
        town.desk(1).post(&path, &doctor, json!({})).await.ok();
        Self { town, nurse, room }
    }

    /// Says something, and tries to deliver it.
    async fn say(&self, txn: &str) {
        let path = format!("/v3/rooms/{}/send/m.room.message/{txn}", self.room);
        self.town.desk(0).call("PUT", &path, &self.nurse, json!({ "body": "hello" })).await.ok();
        self.deliver().await;
    }

    async fn deliver(&self) {
        self.town.desk(0).services.peers.drain(server_name!("b.example")).await.unwrap();
    }

    /// Looks, and returns how many were told.
    async fn look(&self) -> usize {
        self.town.desk(0).services.administration.tell_of_outages().await.unwrap()
    }

    /// Notices that the nurse has: she is called to their room first.
    async fn notices(&self) -> Vec<String> {
        let desk = self.town.desk(0);
        let synced = desk.get("/v3/sync", &self.nurse).await.ok();
        for (room, _) in synced["rooms"]["invite"].as_object().into_iter().flatten() {
            desk.post(&format!("/v3/join/{room}"), &self.nurse, json!({})).await.ok();
        }
        let synced = desk.get("/v3/sync", &self.nurse).await.ok();
        let rooms = synced["rooms"]["join"].as_object().unwrap();
        let others = rooms.iter().filter(|(room, _)| **room != self.room);
        let events = others.flat_map(|(_, room)| room["timeline"]["events"].as_array().unwrap());
        let said = events.filter(|event| event["type"] == "m.room.message");
        said.map(|event| event["content"]["body"].as_str().unwrap().to_owned()).collect()
    }

    fn pass_ms(&self, ms: u64) {
        self.town.desk(0).clock.pass_ms(ms);
    }
}

#[tokio::test]
async fn people_are_told_of_an_outage_once_and_of_its_end_once() {
    let scene = Scene::begin().await;
    scene.say("1").await;
    scene.town.line.set_up("b.example", false);
    scene.say("2").await;
    assert_eq!(scene.look().await, 0, "a short break is told to nobody");
    scene.pass_ms(11 * MINUTE_MS);
    assert_eq!(scene.look().await, 1, "the nurse, and nobody who shares nothing with b");
    assert_eq!(scene.look().await, 0);
    scene.say("3").await;
    scene.pass_ms(60 * MINUTE_MS);
    assert_eq!(scene.look().await, 0, "still the same outage");
    // Who comes to the room meanwhile shares it from now on.
    let porter = scene.town.desk(0).sign_up("porter").await;
    assert_eq!(scene.look().await, 0);
    let path = format!("/v3/join/{}", scene.room);
    scene.town.desk(0).post(&path, &porter, json!({})).await.ok();
    assert_eq!(scene.look().await, 1, "somebody who came later");
    assert_eq!(scene.look().await, 0);
    let notices = scene.notices().await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    let first = &notices[0];
    assert!(first.starts_with("b.example cannot be reached since 20"), "{first}");
    assert!(first.contains(": Ward 4.") && first.contains("delivered when"), "{first}");

    // An administrator sees it, too.
    let chief = scene.town.desk(0).chief().await;
    let path = format!("/_synapse/admin/v1/rooms/{}", scene.room);
    let view = scene.town.desk(0).get(&path, &chief).await.ok();
    assert_eq!(view["io.wardstone.unreachable_servers"], json!(["b.example"]));

    scene.town.line.set_up("b.example", true);
    scene.deliver().await;
    assert_eq!(scene.look().await, 2);
    assert_eq!(scene.look().await, 0);
    let notices = scene.notices().await;
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[1].starts_with("b.example can be reached again since"), "{notices:?}");

    // A line that comes and goes is no news; one that is cut again an hour later is.
    scene.town.line.set_up("b.example", false);
    scene.say("4").await;
    scene.pass_ms(11 * MINUTE_MS);
    assert_eq!(scene.look().await, 0, "it was back for a moment only");
    scene.pass_ms(20 * MINUTE_MS);
    assert_eq!(scene.look().await, 2);
    let row = scene.town.desk(0).services.peers.report(server_name!("b.example")).await.unwrap();
    assert!(row.queue.failing_since_ms.is_some());
}
