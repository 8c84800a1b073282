//! A Synapse and two Wardstones in one room, made at the Synapse (it is the hub) or at a Wardstone (it is a
//! leaf): what two of them cannot tell each other comes by way of the third.

use std::sync::Arc;

use serde_json::json;

use crate::resident::Resident;
use crate::rooms::Host;
use crate::scenes::Scenes;
use crate::town::{FRIEND, Town};

/// One at each: at a Wardstone, at another, at the Synapse.
#[derive(Clone)]
struct Three {
    nurse: Arc<Resident>,
    porter: Arc<Resident>,
    doctor: Arc<Resident>,
}

impl Three {
    fn all(&self) -> [&Arc<Resident>; 3] {
        [&self.nurse, &self.porter, &self.doctor]
    }

    /// A room of all three, each of whom knows of the others.
    async fn room(&self, at: Host, version: &str) -> String {
        let (host, guests) = match at {
            Host::Synapse => (&self.doctor, [&self.nurse, &self.porter]),
            Host::Wardstone => (&self.nurse, [&self.porter, &self.doctor]),
        };
        let room_id = host.create_room(version, json!({})).await;
        for guest in guests {
            host.act("invite", &room_id, guest).await;
            guest.accept(&room_id).await;
        }
        for one in self.all() {
            for other in self.all() {
                one.wait_is(&room_id, other, "join").await;
            }
        }
        room_id
    }

    /// Everybody says something, and hears the others.
    async fn talk(&self, room_id: &str) {
        for speaker in self.all() {
            let said = speaker.say(room_id, "hello").await;
            for other in self.all() {
                other.wait_event(room_id, &said).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synapse_between_two_wardstones() {
    let town = Town::found();
    let [one, other, synapse] = town.open_three(&FRIEND, &FRIEND).await;
    let three = Three {
        nurse: Arc::new(one.hire("nurse").await),
        porter: Arc::new(other.hire("porter").await),
        doctor: Arc::new(synapse.hire("doctor").await),
    };
    let mut scenes = Scenes::default();
    // Synapse waits long before it calls a server again that was dark; versions are played in `rooms.rs`.
    for (at, version) in [(Host::Synapse, "12"), (Host::Wardstone, "10")] {
        let name = format!("passed on, {version}, made at {at:?}");
        scenes.play(&name, passed_on(three.clone(), at, version)).await;
    }
    scenes.end();
}

/// One Wardstone is dark while the other speaks, and the other when it is back: the Synapse has it.
async fn passed_on(three: Three, at: Host, version: &'static str) {
    let Three { nurse, porter, doctor } = &three;
    let room_id = three.room(at, version).await;
    three.talk(&room_id).await;
    nurse.hospital.kill().await;
    let said = porter.say(&room_id, "is the nurse there?").await;
    let topic = json!({ "topic": "set while the nurse was away" });
    let has_power = matches!(at, Host::Synapse);
    if has_power {
        doctor.set(&room_id, "m.room.topic", "", topic.clone()).await;
    }
    doctor.wait_event(&room_id, &said).await;
    porter.hospital.kill().await;
    nurse.hospital.start_again().await;
    let next = doctor.say(&room_id, "now she is").await;
    nurse.wait_event(&room_id, &next).await;
    nurse.wait_event(&room_id, &said).await;
    if has_power {
        assert_eq!(nurse.state(&room_id, "m.room.topic", "").await, Some(topic));
    }
    porter.hospital.start_again().await;
    porter.wait_event(&room_id, &next).await;
    three.talk(&room_id).await;
    let state = doctor.all_state(&room_id).await;
    for one in [nurse, porter] {
        assert_eq!(one.all_state(&room_id).await, state);
    }
}
