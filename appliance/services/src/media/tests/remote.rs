//! Scenes in which people of another hospital show a photo.

use appliance_model::EventNid;
use appliance_model::ruma::RoomVersionId as V;
use appliance_model::ruma::events::room::member::MembershipState as M;
use serde_json::{Value, json};

use super::*;
use crate::federation::town::Town;
use crate::media::expire::Report;

const MINUTE_MS: u64 = 60_000;

/// The content of an event as a server shows it now.
async fn content(ward: &Ward, number: EventNid) -> Value {
    let event = ward.services.house.ledger.event(number).await.unwrap();
    serde_json::from_str(event.content()).unwrap()
}

/// A colleague of another server shows a photo of ours once more, with words of their own. Nobody here is its
/// author: the steward takes it back where it has the power to, and every server applies that.
#[tokio::test]
async fn what_another_server_s_people_show_is_redacted_by_the_steward_or_on_record() {
    for version in [V::V6, V::V9, V::V10, V::V11, V::V12] {
        for has_power in [true, false] {
            shown_elsewhere(version.clone(), has_power).await;
        }
    }
}

async fn shown_elsewhere(version: V, has_power: bool) {
    let why = format!("version {version}, power {has_power}");
    let town = Town::of(2, version).await;
    let (home, away) = (&town.wards[0], &town.wards[1]);
    let [nurse, steward] = home.members(["nurse", "policy"]).await;
    let doctor = away.member("doctor").await;
    let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
    home.set(&nurse, &room, &steward.user_id, M::Invite).await;
    home.set(&steward, &room, &steward.user_id, M::Join).await;
    if has_power {
        let mut levels = home.current(&room, ("m.room.power_levels", "")).await;
        levels["users"][steward.user_id.as_str()] = 50.into();
        home.state(&nurse, &room, ("m.room.power_levels", ""), levels).await;
    }
    home.limit(&nurse, &room, MINUTE_MS).await;
    let photo = b"a leg";
    let new = of_type("image/jpeg");
    let uri = home.services.media.upload(&nurse, new, body(photo)).await.unwrap();
    let own = home.show(&nurse, &room, &uri).await;
    town.deliver(0, 1, &room, "shown").await;
    let theirs = away.show(&doctor, &room, &uri).await;
    let again = json!({ "msgtype": "m.image", "body": "look at the leg", "url": uri });
    assert_eq!(away.send(&doctor, &room, "m.room.message", again).await.kind(), "m.room.message");
    town.deliver(1, 0, &room, "again").await;
    let here = town.number(0, theirs.event_id.as_str()).await.expect("it came");

    home.clock.pass_ms(MINUTE_MS);
    let redacted = if has_power { 3 } else { 1 };
    assert_eq!(home.look().await, Report { erased: 1, redacted, stuck: 0 }, "{why}");
    assert_eq!(content(home, own.number).await, json!({}), "{why}: its author's own");
    town.deliver(0, 1, &room, "over").await;
    for (ward, number) in [(home, here), (away, theirs.number)] {
        assert_eq!(content(ward, number).await == json!({}), has_power, "{why}");
    }
    let on_record = home.audit().await;
    let on_record =
        on_record.iter().filter(|line| line.starts_with("media.not_redacted one.example"));
    assert_eq!(on_record.count(), if has_power { 0 } else { 2 }, "{why}");
    assert_eq!(home.look().await, Report::default(), "{why}: and not tried for ever");
}
