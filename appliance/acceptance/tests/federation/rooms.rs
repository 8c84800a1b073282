//! Rooms shared with a Synapse: who made them, who came, who went, and what was said.

use std::sync::Arc;

use serde_json::json;

use crate::resident::Resident;
use crate::scenes::Scenes;
use crate::town::Town;
use crate::{branches, members, talk, times};

/// Two people, one at each hospital.
#[derive(Clone)]
pub struct Pair {
    /// At the Wardstone.
    pub nurse: Arc<Resident>,
    /// At the Synapse.
    pub doctor: Arc<Resident>,
}

impl Pair {
    /// The one who makes rooms, and the one who comes.
    pub fn host_and_guest(&self, at: Host) -> (Arc<Resident>, Arc<Resident>) {
        match at {
            Host::Wardstone => (self.nurse.clone(), self.doctor.clone()),
            Host::Synapse => (self.doctor.clone(), self.nurse.clone()),
        }
    }

    /// A private room of one of them that both are in.
    pub async fn room(&self, at: Host, version: &str) -> String {
        let (host, guest) = self.host_and_guest(at);
        let room_id = host.create_room(version, json!({})).await;
        host.bring(&room_id, &guest).await;
        room_id
    }
}

/// Where a room is made.
#[derive(Clone, Copy, Debug)]
pub enum Host {
    Wardstone,
    Synapse,
}

const BOTH: [Host; 2] = [Host::Synapse, Host::Wardstone];
/// The versions of rooms that are tried.
pub const VERSIONS: [&str; 3] = ["12", "11", "10"];

#[tokio::test(flavor = "multi_thread")]
async fn rooms_with_a_synapse() {
    let (ours, theirs) = Town::found().open_both().await;
    let pair = Pair {
        nurse: Arc::new(ours.hire("nurse").await),
        doctor: Arc::new(theirs.hire("doctor").await),
    };
    let mut scenes = Scenes::default();
    for at in BOTH {
        for version in VERSIONS {
            let name = format!("a conversation, {version}, made at {at:?}");
            scenes.play(&name, conversation(pair.clone(), at, version)).await;
        }
    }
    for at in BOTH {
        let named = |what: &str| format!("{what}, made at {at:?}");
        let p = || pair.clone();
        scenes.play(&named("invite taken back"), members::invite_taken_back(p(), at)).await;
        scenes.play(&named("directory"), members::directory(p(), at)).await;
        for version in VERSIONS {
            let named = |what: &str| format!("{what}, {version}, made at {at:?}");
            let refused = members::refused_invite(p(), at, version);
            scenes.play(&named("refused invite"), refused).await;
            let returned = members::leave_and_return(p(), at, version);
            scenes.play(&named("leave and return"), returned).await;
            let banned = members::kick_and_ban(p(), at, version);
            scenes.play(&named("kick and ban"), banned).await;
            scenes.play(&named("knock"), members::knock(p(), at, version)).await;
            let restricted = members::restricted(p(), at, version);
            scenes.play(&named("restricted"), restricted).await;
            scenes.play(&named("redaction"), talk::redaction(p(), at, version)).await;
            let timestamp = times::timestamp(p(), at, version);
            scenes.play(&named("what was said when"), timestamp).await;
            scenes.play(&named("conflict"), branches::conflict(p(), at, version)).await;
            let fight = branches::power_fight(p(), at, version);
            scenes.play(&named("power fight"), fight).await;
        }
        scenes.play(&named("typing and receipts"), talk::typing_and_receipts(p(), at)).await;
        scenes.play(&named("media"), talk::media(p(), at)).await;
        scenes.play(&named("space"), talk::space(p(), at)).await;
        scenes.play(&named("upgrade"), talk::upgrade(p(), at)).await;
    }
    scenes.play("a server is killed", killed(pair.clone())).await;
    scenes.play("profiles", talk::profiles(pair.clone())).await;
    scenes.play("nobody is watched", times::nobody_is_watched(pair.clone())).await;
    scenes.end();
}

/// How many messages a history has that is read at the other hospital: many pages of backfill. A Synapse
/// takes a minute and a half of processor time to make and to read 5,000; `WARDSTONE_TEST_HISTORY=5000` plays that.
fn history() -> usize {
    let count = std::env::var("WARDSTONE_TEST_HISTORY").ok();
    count.map_or(1_500, |count| count.parse().expect("a number"))
}

/// A long past, read to its beginning in each direction.
#[tokio::test(flavor = "multi_thread")]
async fn long_histories_with_a_synapse() {
    let (ours, theirs) = Town::found().open_both().await;
    let pair = Pair {
        nurse: Arc::new(ours.hire("nurse").await),
        doctor: Arc::new(theirs.hire("doctor").await),
    };
    let mut scenes = Scenes::default();
    for at in [Host::Wardstone, Host::Synapse] {
        let count = history();
        let name = format!("a history of {count}, made at {at:?}");
        scenes.play(&name, talk::long_history(pair.clone(), at, count)).await;
    }
    scenes.end();
}

async fn conversation(pair: Pair, at: Host, version: &'static str) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = host.create_room(version, json!({ "name": "Ward 3" })).await;
    let before = host.say(&room_id, "before you came").await;
    host.act("invite", &room_id, &guest).await;
    let invite = guest.wait_membership("invite", &room_id).await;
    let shown = invite["invite_state"]["events"].as_array().expect("a list");
    assert!(shown.iter().any(|event| event["type"] == "m.room.name"), "{invite}");
    guest.accept(&room_id).await;
    host.wait_is(&room_id, &guest, "join").await;
    let hello = guest.say(&room_id, "hello").await;
    let event = host.wait_event(&room_id, &hello).await;
    assert_eq!(event["content"]["body"], "hello");
    assert_eq!(event["sender"], json!(guest.user_id));
    let answer = host.say(&room_id, "welcome").await;
    guest.wait_event(&room_id, &answer).await;
    for number in 0..5 {
        let (one, other) =
            tokio::join!(async { host.say(&room_id, &format!("host {number}")).await }, async {
                guest.say(&room_id, &format!("guest {number}")).await
            },);
        guest.wait_event(&room_id, &one).await;
        host.wait_event(&room_id, &other).await;
    }
    let name = guest.state(&room_id, "m.room.name", "").await.expect("a name");
    assert_eq!(name["name"], "Ward 3");
    // History is shared in a private room: what was said before the invite comes on paging back.
    guest.wait_event(&room_id, &before).await;
    assert_eq!(host.all_state(&room_id).await, guest.all_state(&room_id).await);
}

/// Each server is killed while the other speaks; what was said comes when it is back.
async fn killed(pair: Pair) {
    let room_id = pair.room(Host::Synapse, "11").await;
    for (victim, other) in [(&pair.nurse, &pair.doctor), (&pair.doctor, &pair.nurse)] {
        victim.hospital.kill().await;
        let away = other.say(&room_id, "are you there?").await;
        victim.hospital.start_again().await;
        victim.wait_event(&room_id, &away).await;
        let back = victim.say(&room_id, "again").await;
        other.wait_event(&room_id, &back).await;
    }
}
