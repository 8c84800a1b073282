//! Two hospitals whose line is cut while both go on: what they make of it together.

use appliance_acceptance::wait::until;
use serde_json::json;

use crate::rooms::{Host, Pair};

/// Both change the same state while cut off; healed, both show the same.
pub async fn conflict(pair: Pair, at: Host, version: &'static str) {
    let (nurse, doctor) = (&pair.nurse, &pair.doctor);
    let room_id = pair.room(at, version).await;
    let (host, guest) = pair.host_and_guest(at);
    let mut levels = host.state(&room_id, "m.room.power_levels", "").await.expect("levels");
    levels["users"][&guest.user_id] = json!(50);
    host.set(&room_id, "m.room.power_levels", "", levels).await;
    until("the guest may set state", async || {
        let levels = guest.state(&room_id, "m.room.power_levels", "").await?;
        (levels["users"][&guest.user_id] == json!(50)).then_some(())
    })
    .await;

    cut(&pair, true).await;
    for (who, name) in [(nurse, "by the nurse"), (doctor, "by the doctor")] {
        who.set(&room_id, "m.room.topic", "", json!({ "topic": name })).await;
        who.set(&room_id, "m.room.name", "", json!({ "name": name })).await;
        let bed = name.replace(" ", "-");
        who.set(&room_id, "example.bed", &bed, json!({ "free": true })).await;
    }
    let (one, other) = (nurse.say(&room_id, "here").await, doctor.say(&room_id, "there").await);
    cut(&pair, false).await;
    doctor.wait_event(&room_id, &one).await;
    nurse.wait_event(&room_id, &other).await;
    agreed(&pair, &room_id).await;
    let tied = nurse.say(&room_id, "together again").await;
    doctor.wait_event(&room_id, &tied).await;
    agreed(&pair, &room_id).await;
}

/// The host takes the guest's power while the guest uses it against others.
pub async fn power_fight(pair: Pair, at: Host, version: &'static str) {
    let room_id = pair.room(at, version).await;
    let (host, guest) = pair.host_and_guest(at);
    let mut levels = host.state(&room_id, "m.room.power_levels", "").await.expect("levels");
    levels["users"][&guest.user_id] = json!(50);
    host.set(&room_id, "m.room.power_levels", "", levels.clone()).await;
    until("the guest may set state", async || {
        let levels = guest.state(&room_id, "m.room.power_levels", "").await?;
        (levels["users"][&guest.user_id] == json!(50)).then_some(())
    })
    .await;
    cut(&pair, true).await;
    guest.set(&room_id, "m.room.topic", "", json!({ "topic": "mine" })).await;
    levels["users"][&guest.user_id] = json!(0);
    host.set(&room_id, "m.room.power_levels", "", levels).await;
    let last = host.say(&room_id, "that is over").await;
    cut(&pair, false).await;
    guest.wait_event(&room_id, &last).await;
    agreed(&pair, &room_id).await;
    let path = format!("/v3/rooms/{room_id}/state/m.room.topic/");
    let answer = guest.call(http::Method::PUT, &path, Some(json!({ "topic": "again" }))).await;
    assert_eq!(answer.status, 403, "{}", answer.summary());
}

/// Cuts the line by taking the peer off our list for a while: we refuse it and send it nothing, it
/// fails and tries again, and both serve their own people.
async fn cut(pair: &Pair, is_cut: bool) {
    let verb = if is_cut { "suspend" } else { "resume" };
    pair.nurse.hospital.order(&["peers", verb, &pair.doctor.hospital.name]).await;
}

/// Waits until both servers show the very same state.
async fn agreed(pair: &Pair, room_id: &str) {
    let mut both = (Vec::new(), Vec::new());
    for _ in 0..200 {
        both = (pair.nurse.all_state(room_id).await, pair.doctor.all_state(room_id).await);
        if both.0 == both.1 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("no agreement: {:#?}", both);
}
