//! Rooms whose servers did not reach each other for a while.

use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{OwnedRoomId, RoomVersionId as V};
use serde_json::json;

use crate::federation::town::Town;

/// Brings every server's own events to all others, in `order`, until nothing is new.
async fn heal(town: &Town, room: &OwnedRoomId, txn: &str) {
    for round in 0..4 {
        for from in 0..town.wards.len() {
            for to in (0..town.wards.len()).filter(|to| *to != from) {
                town.deliver(from, to, room, &format!("{txn}-{round}")).await;
            }
        }
    }
}

async fn same_everywhere(town: &Town, room: &OwnedRoomId, case: &str) {
    let first = town.state(0, room).await;
    for at in 1..town.wards.len() {
        assert_eq!(town.state(at, room).await, first, "{case}: server {at}");
    }
}

#[tokio::test]
async fn a_ban_beyond_the_cut_wins_over_what_the_banned_did_meanwhile() {
    for version in [V::V6, V::V10, V::V11, V::V12] {
        let town = Town::of(2, version.clone()).await;
        let [one, two] = [&town.wards[0], &town.wards[1]];
        let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
        let body = json!({ "power_level_content_override": {
            "events": { "m.room.topic": 0, "m.room.name": 0 } } });
        let room = one.room_as(&nurse, body).await;
        one.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        two.set(&doctor, &room, &doctor.user_id, M::Join).await;

        town.cut(0, 1, true);
        one.set(&nurse, &room, &doctor.user_id, M::Ban).await;
        one.state(&nurse, &room, ("m.room.name", ""), json!({ "name": "Ward 4" })).await;
        two.state(&doctor, &room, ("m.room.topic", ""), json!({ "topic": "mine" })).await;
        let said = two.say(&doctor, &room, "while nobody listens").await;
        town.cut(0, 1, false);
        heal(&town, &room, "t").await;

        assert_eq!(one.membership(&room, &doctor.user_id).await, Some(M::Ban), "{version}");
        assert_eq!(two.membership(&room, &doctor.user_id).await, Some(M::Ban), "{version}");
        assert!(!town.shown(0, &room).await.contains(&said), "soft-failed: {version}");
        assert!(town.number(0, &said).await.is_some(), "but kept: {version}");
    }
}

#[tokio::test]
async fn branches_meet_in_the_same_state_on_both_sides() {
    for version in [V::V10, V::V12] {
        let town = Town::of(2, version.clone()).await;
        let [one, two] = [&town.wards[0], &town.wards[1]];
        let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
        let body = json!({ "power_level_content_override": { "state_default": 0, "events": {} } });
        let room = one.room_as(&nurse, body).await;
        one.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        two.set(&doctor, &room, &doctor.user_id, M::Join).await;
        town.cut(0, 1, true);
        for (ward, who, name) in [(one, &nurse, "A"), (two, &doctor, "B")] {
            ward.clock.pass_ms(10);
            ward.state(who, &room, ("m.room.name", ""), json!({ "name": name })).await;
            ward.state(who, &room, ("example.bed", name), json!({ "free": true })).await;
            ward.say(who, &room, name).await;
        }
        town.cut(0, 1, false);
        heal(&town, &room, "t").await;
        same_everywhere(&town, &room, version.as_str()).await;
        assert_eq!(town.state(0, &room).await.len(), town.state(1, &room).await.len());
        let open = one.services.rooms.enter(&room).await.unwrap();
        assert_eq!(open.head.extremities.len(), 2);
        drop(open);
        // The next event ties the ends together.
        one.say(&nurse, &room, "together").await;
        let open = one.services.rooms.enter(&room).await.unwrap();
        assert_eq!(open.head.extremities.len(), 1);
        drop(open);
        heal(&town, &room, "u").await;
        same_everywhere(&town, &room, version.as_str()).await;
    }
}
