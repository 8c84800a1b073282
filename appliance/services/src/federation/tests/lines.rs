//! Lines that break, and keys that cannot be had, while what comes before an event is fetched. What is judged by
//! half a state is rejected for good, on that server alone: such an event must come again instead.

use std::sync::atomic::{AtomicBool, Ordering};

use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{OwnedRoomId, RoomVersionId as V};
use appliance_model::{Caller, Error, Kind};
use serde_json::json;

use crate::federation::Ask;
use crate::federation::town::Town;

/// A public room of a nurse at the first server, which a doctor at the second has joined, and an aide at the third
/// through `via`, with so much in it that one event in ten is not much.
async fn furnished(town: &Town, via: &str) -> (OwnedRoomId, Caller, Caller) {
    let [one, two, three] = [&town.wards[0], &town.wards[1], &town.wards[2]];
    let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
    let aide = three.member("aide").await;
    let open = json!({ "preset": "public_chat", "power_level_content_override": { "invite": 0 } });
    let room = one.room_as(&nurse, open).await;
    for bed in 0..12 {
        one.state(&nurse, &room, ("example.bed", &bed.to_string()), json!({ "free": true })).await;
    }
    come_in(town, (1, &doctor), &room, "one.example").await;
    come_in(town, (2, &aide), &room, via).await;
    (room, doctor, aide)
}

async fn come_in(town: &Town, (at, who): (usize, &Caller), room: &OwnedRoomId, via: &str) {
    let via = [via.try_into().unwrap()];
    town.wards[at].services.rooms.join_via(who, room, &via, None).await.unwrap();
}

/// The line breaks as somebody's join is fetched, one event of a whole state. Without it, what they say next would
/// be rejected by the state that their own words follow.
#[tokio::test]
async fn a_state_that_a_broken_line_brought_in_part_is_fetched_another_time() {
    for version in [V::V10, V::V12] {
        let town = Town::of(3, version.clone()).await;
        let (room, doctor, aide) = furnished(&town, "two.example").await;
        let (two, three) = (&town.wards[1], &town.wards[2]);
        let join = town.state(1, &room).await[&format!("m.room.member|{}", aide.user_id)].clone();
        two.say(&doctor, &room, "welcome").await;
        let second = two.say(&doctor, &room, "how are you?").await;
        let is_whole = AtomicBool::new(false);
        town.trick(1, move |ask, honest| match ask {
            // More was missed than is told: the state before it is asked for.
            Ask::MissingEvents { .. } => Some(Ok(r#"{"events":[]}"#.to_owned())),
            Ask::Event { event_id }
                if event_id.as_str() == join && !is_whole.swap(true, Ordering::SeqCst) =>
            {
                Some(Err(Error::new(Kind::RemoteUnavailable, "The line breaks.")))
            }
            _ => Some(honest),
        });
        town.deliver_only(1, 0, &second).await;
        assert!(!town.shown(0, &room).await.contains(&second), "{version}: it may come again");
        // Nothing is said after it: it is asked for.
        let one = &town.wards[0].services;
        assert_eq!(one.rooms.ask_again().await.unwrap(), 0, "{version}: not at once");
        town.wards[0].clock.pass_ms(60_000);
        assert_eq!(one.rooms.ask_again().await.unwrap(), 1, "{version}");
        assert!(town.shown(0, &room).await.contains(&second), "{version}: it came again");
        assert_eq!(one.rooms.ask_again().await.unwrap(), 0, "{version}: once");
        town.deliver(1, 2, &room, "to-three").await;
        let answer = three.say(&aide, &room, "well").await;
        town.deliver_only(2, 0, &answer).await;
        let shown = town.shown(0, &room).await;
        assert!(shown.contains(&answer) && shown.contains(&second), "{version}");
        assert_eq!(town.state(0, &room).await, town.state(2, &room).await, "{version}");
    }
}

/// Somebody left, and the keys of their server cannot be had now. A state that ends with their leave and is used
/// without it has them in the room: who calls them back would be rejected.
#[tokio::test]
async fn a_state_that_ends_with_a_leave_that_cannot_be_checked_is_fetched_another_time() {
    for version in [V::V10, V::V12] {
        let town = Town::of(3, version.clone()).await;
        let (room, doctor, aide) = furnished(&town, "one.example").await;
        let (two, three) = (&town.wards[1], &town.wards[2]);
        let join = town.state(0, &room).await[&format!("m.room.member|{}", aide.user_id)].clone();
        town.deliver(0, 1, &room, "to-two").await;
        town.deliver_only(0, 1, &join).await;
        three.set(&aide, &room, &aide.user_id, M::Leave).await;
        let leave = town.state(2, &room).await[&format!("m.room.member|{}", aide.user_id)].clone();
        town.deliver_only(2, 1, &leave).await;
        let said = two.say(&doctor, &room, "come back").await;
        town.hide_keys("three.example", true);
        town.deliver_only(1, 0, &said).await;
        assert!(!town.shown(0, &room).await.contains(&said), "{version}: it may come again");
        town.hide_keys("three.example", false);
        two.set(&doctor, &room, &aide.user_id, M::Invite).await;
        let call = town.state(1, &room).await[&format!("m.room.member|{}", aide.user_id)].clone();
        town.deliver_only(1, 0, &call).await;
        let one = &town.wards[0];
        assert_eq!(one.membership(&room, &aide.user_id).await, Some(M::Invite), "{version}");
        assert!(town.shown(0, &room).await.contains(&said), "{version}");
        assert_eq!(town.state(0, &room).await, town.state(1, &room).await, "{version}");
    }
}
