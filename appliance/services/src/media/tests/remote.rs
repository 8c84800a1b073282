//! Scenes in which people of another hospital show a photo.

use appliance_model::EventNid;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{OwnedRoomId, RoomVersionId as V};
use serde_json::{Value, json};

use super::*;
use crate::federation::town::Town;
use crate::media::expire::Report;
use crate::media::link::AFAR_LATER_MS;

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

/// Two servers whose people share a room, in which the first one's steward may have the power to redact.
struct Shared {
    town: Town,
    nurse: Caller,
    doctor: Caller,
    room: OwnedRoomId,
}

async fn shared(version: V, has_power: bool) -> Shared {
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
    Shared { town, nurse, doctor, room }
}

/// What the audit trail says of photos that nobody could take back.
async fn not_redacted(home: &Ward) -> usize {
    let on_record = home.audit().await;
    on_record.iter().filter(|line| line.starts_with("media.not_redacted one.example")).count()
}

async fn shown_elsewhere(version: V, has_power: bool) {
    let why = format!("version {version}, power {has_power}");
    let Shared { town, nurse, doctor, room } = shared(version, has_power).await;
    let (home, away) = (&town.wards[0], &town.wards[1]);
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
    assert_eq!(not_redacted(home).await, if has_power { 0 } else { 2 }, "{why}");
    assert_eq!(home.look().await, Report::default(), "{why}: and not tried for ever");
}

/// A photo that lies on another server: that server takes it back as its author; where it does not, ours does
/// so a minute later if it may.
#[tokio::test]
async fn what_lies_on_another_server_is_taken_back_here_if_it_is_not_there() {
    for (has_power, keeps_policy) in [(true, false), (true, true), (false, false), (false, true)] {
        let why = format!("power {has_power}, they keep the policy {keeps_policy}");
        let Shared { town, nurse, doctor, room } = shared(V::V11, has_power).await;
        let (home, away) = (&town.wards[0], &town.wards[1]);
        home.limit(&nurse, &room, MINUTE_MS).await;
        town.deliver(0, 1, &room, "limited").await;
        let new = of_type("image/jpeg");
        let uri = away.services.media.upload(&doctor, new, body(b"an arm")).await.unwrap();
        let theirs = away.show(&doctor, &room, &uri).await;
        town.deliver(1, 0, &room, "shown").await;
        let here = town.number(0, theirs.event_id.as_str()).await.expect("it came");

        home.clock.pass_ms(MINUTE_MS);
        assert_eq!(home.look().await, Report::default(), "{why}: theirs is the first turn");
        if keeps_policy {
            away.clock.pass_ms(MINUTE_MS);
            assert_eq!(away.look().await, Report { erased: 1, redacted: 1, stuck: 0 }, "{why}");
            town.deliver(1, 0, &room, "over").await;
        }
        home.clock.pass_ms(AFAR_LATER_MS);
        let redacted = usize::from(has_power && !keeps_policy);
        assert_eq!(home.look().await, Report { erased: 0, redacted, stuck: 0 }, "{why}");
        town.deliver(0, 1, &room, "taken back").await;
        for (ward, number) in [(home, here), (away, theirs.number)] {
            let is_gone = content(ward, number).await == json!({});
            assert_eq!(is_gone, has_power || keeps_policy, "{why}");
        }
        assert_eq!(not_redacted(home).await, usize::from(!has_power && !keeps_policy), "{why}");
        assert_eq!(home.look().await, Report::default(), "{why}: and not tried for ever");
    }
}

/// Where nothing limits photos, what others show stays; a limit that comes later meets it.
#[tokio::test]
async fn a_limit_that_comes_later_meets_what_lies_on_another_server() {
    let Shared { town, nurse, doctor, room } = shared(V::V11, true).await;
    let (home, away) = (&town.wards[0], &town.wards[1]);
    let shown = away.show(&doctor, &room, "mxc://two.example/anywhere").await;
    town.deliver(1, 0, &room, "shown").await;
    home.clock.pass_ms(1_000 * MINUTE_MS);
    assert_eq!(home.look().await, Report::default());
    home.limit(&nurse, &room, 2_000 * MINUTE_MS).await;
    assert_eq!(home.look().await, Report::default());
    home.clock.pass_ms(1_000 * MINUTE_MS);
    assert_eq!(home.look().await, Report { erased: 0, redacted: 1, stuck: 0 });
    let here = town.number(0, shown.event_id.as_str()).await.expect("it came");
    assert_eq!(content(home, here).await, json!({}));
}
