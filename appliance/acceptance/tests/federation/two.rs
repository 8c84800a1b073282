//! Two Wardstones, and the power that fails in the middle of joins and sends: nothing that was answered
//! is lost, and both tell the same story in the end.

use std::sync::Arc;
use std::time::Duration;

use appliance_acceptance::wait::until;
use http::Method;
use serde_json::json;
use tokio::time::sleep;

use crate::resident::Resident;
use crate::scenes::Scenes;
use crate::town::{FRIEND, Town};

/// Power cuts in the middle of a conversation, each server in turn.
const CUTS: u64 = 6;
/// Power cuts in the middle of joins.
const JOINS: u64 = 4;

/// One at each Wardstone.
type Two = [Arc<Resident>; 2];

#[tokio::test(flavor = "multi_thread")]
async fn two_wardstones_through_power_cuts() {
    let town = Town::found();
    let [one, other] = town.open_sisters(&FRIEND).await;
    let two = [Arc::new(one.hire("nurse").await), Arc::new(other.hire("doctor").await)];
    let mut scenes = Scenes::default();
    scenes.play("they share a room", shared(two.clone())).await;
    scenes.play("power cuts in mid-conversation", conversation(two.clone())).await;
    scenes.play("power cuts in mid-join", joins(two.clone())).await;
    scenes.end();
}

async fn room_of(two: &Two) -> String {
    let [nurse, doctor] = two;
    let room_id = nurse.create_room("12", json!({})).await;
    nurse.bring(&room_id, doctor).await;
    room_id
}

async fn shared(two: Two) {
    let room_id = room_of(&two).await;
    for (from, to) in [(&two[0], &two[1]), (&two[1], &two[0])] {
        let said = from.say(&room_id, "hello").await;
        to.wait_event(&room_id, &said).await;
    }
    assert_eq!(two[0].all_state(&room_id).await, two[1].all_state(&room_id).await);
}

/// Both speak without a pause while one after the other loses power.
async fn conversation(two: Two) {
    let room_id = room_of(&two).await;
    let stop = tokio::sync::watch::channel(false).0;
    let talk = async |who: &Resident| {
        let (mut acknowledged, mut number, stopped) = (Vec::new(), 0_u32, stop.subscribe());
        while !*stopped.borrow() {
            number += 1;
            let path = format!("/v3/rooms/{room_id}/send/m.room.message/k{number}");
            let body = json!({ "msgtype": "m.text", "body": format!("line {number}") });
            match who.try_call(Method::PUT, &path, Some(body)).await {
                Some(answer) if answer.status.is_success() => {
                    let id = answer.json()["event_id"].as_str().expect("an ID").to_owned();
                    acknowledged.push(id);
                }
                // No power, or no answer: whether it was sent is not known, and does not count.
                _ => sleep(Duration::from_millis(20)).await,
            }
            sleep(Duration::from_millis(10)).await;
        }
        acknowledged
    };
    let cuts = async {
        for cut in 0..CUTS {
            let victim = &two[usize::from(cut % 2 == 1)].hospital;
            sleep(Duration::from_millis(300 + 97 * cut)).await;
            victim.kill().await;
            sleep(Duration::from_millis(50 * cut)).await;
            victim.start_again().await;
        }
        stop.send_replace(true);
    };
    let (of_nurse, of_doctor, ()) = tokio::join!(talk(&two[0]), talk(&two[1]), cuts);
    assert!(of_nurse.len() > 20 && of_doctor.len() > 20, "too little was said");
    for who in &two {
        for id in of_nurse.iter().chain(&of_doctor) {
            let path = format!("/v3/rooms/{room_id}/event/{id}");
            until("what was acknowledged", async || {
                let answer = who.call(Method::GET, &path, None).await;
                answer.status.is_success().then_some(())
            })
            .await;
        }
    }
    assert_eq!(two[0].all_state(&room_id).await, two[1].all_state(&room_id).await);
}

/// A join is on its way when the power of one of the two fails: it succeeds when tried again, and
/// whoever was told that they are in, is in.
async fn joins(two: Two) {
    let [nurse, doctor] = &two;
    for round in 0..JOINS {
        let room_id = nurse.create_room("11", json!({ "preset": "public_chat" })).await;
        let there = &nurse.hospital.name;
        let path = format!("/v3/join/{room_id}?via={there}");
        let victim = &two[usize::from(round % 2 == 1)].hospital;
        let (first, ()) =
            tokio::join!(doctor.try_call(Method::POST, &path, Some(json!({}))), async {
                sleep(Duration::from_millis(3 + 11 * (round / 2))).await;
                victim.kill().await;
            });
        victim.start_again().await;
        if first.is_none_or(|answer| !answer.status.is_success()) {
            until("the second attempt", async || {
                let answer = doctor.try_call(Method::POST, &path, Some(json!({}))).await?;
                answer.status.is_success().then_some(())
            })
            .await;
        }
        nurse.wait_is(&room_id, doctor, "join").await;
        let said = doctor.say(&room_id, "I am in").await;
        nurse.wait_event(&room_id, &said).await;
        let answer = nurse.say(&room_id, "so you are").await;
        doctor.wait_event(&room_id, &answer).await;
    }
}
