//! Scenes in which people of another hospital show a photo.

use appliance_ledger::keyspaces::SHOWN_AFAR;
use appliance_model::EventNid;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{OwnedRoomId, RoomVersionId as V};
use serde_json::{Value, json};

use super::*;
use crate::federation::town::Town;
use crate::media::erase::Which;
use crate::media::expire::Report;
use crate::media::link::{AFAR_LATER_MS, afar_digest};
use crate::scenario::the_power_goes;

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

/// Another server erases its own photo and says so: what shows it here is taken back now, and not when its
/// time would have come; what shows it and comes later, too.
#[tokio::test]
async fn what_its_own_server_erased_is_taken_back_here_at_once() {
    let Shared { town, nurse, doctor, room } = shared(V::V11, true).await;
    let (home, away) = (&town.wards[0], &town.wards[1]);
    let uri = "mxc://two.example/arm";
    let two = away.services.house.server_name.clone();
    let theirs = away.show(&doctor, &room, uri).await;
    town.deliver(1, 0, &room, "shown").await;
    let ours = home.show(&nurse, &room, uri).await;
    let other = home.show(&nurse, &room, "mxc://two.example/leg").await;
    let taken_back = home.show(&nurse, &room, uri).await;
    super::lifetime::redact(home, &taken_back).await;
    // A limit that comes later moves what it meets, and loses nothing of it.
    home.limit(&nurse, &room, 1_000 * MINUTE_MS).await;
    assert_eq!(home.look().await, Report::default());

    let media = &home.services.media;
    for stranger in ["one.example", "three.example", "two.example:8448"] {
        let stranger = appliance_model::ruma::ServerName::parse(stranger).unwrap();
        let refused = media.erased_there(&stranger, ("two.example", "arm")).await;
        assert_eq!(kind(refused), Kind::Forbidden, "{stranger}");
    }
    assert_eq!(kind(media.erased_there(&two, ("two.example", "a/b")).await), Kind::InvalidParam);
    assert_eq!(home.look().await, Report::default(), "nothing of that counts");

    let say = || media.erased_there(&two, (two.as_str(), "arm"));
    let both = tokio::join!(say(), say());
    both.0.and(both.1).unwrap();
    assert_eq!(home.look().await, Report { erased: 0, redacted: 2, stuck: 0 });
    let here = town.number(0, theirs.event_id.as_str()).await.expect("it came");
    assert_eq!(content(home, here).await, json!({}));
    assert_eq!(content(home, ours.number).await, json!({}));
    assert_ne!(content(home, other.number).await, json!({}), "another photo stays");
    assert_eq!(home.rows(&SHOWN_AFAR).await, 1, "that of the other photo");

    let late = away.show(&doctor, &room, uri).await;
    town.deliver(1, 0, &room, "late").await;
    assert_eq!(home.look().await, Report { erased: 0, redacted: 1, stuck: 0 });
    let late = town.number(0, late.event_id.as_str()).await.expect("it came");
    assert_eq!(content(home, late).await, json!({}));
    media.erased_there(&two, (two.as_str(), "never-seen")).await.unwrap();
    let on_record = home.audit_objects().await;
    let told: Vec<_> =
        on_record.iter().filter(|line| line.starts_with("media.erased_there")).collect();
    let [arm, never] =
        ["arm", "never-seen"].map(|id| format!("media.erased_there mxc://{two}/{id}"));
    assert_eq!(told, [&arm, &never], "each once");
    super::lifetime::redact(home, &other).await;
    assert_eq!(home.rows(&SHOWN_AFAR).await, 0);
}

/// The power goes at every commit in which another server's word is taken: it has an answer only when nothing
/// is left, and it asks again if it has none.
#[tokio::test]
async fn whichever_commit_is_the_last_before_a_power_cut_what_was_confirmed_is_gone() {
    let uri = "mxc://two.example/arm";
    let mut commits_seen = 0;
    for kept in [0, 1] {
        for commits in 0.. {
            let why = format!("{kept} kept, after {commits} commits");
            let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
            let room = ward.room_of(&[&nurse]).await;
            ward.show(&nurse, &room, uri).await;
            let two = appliance_model::ruma::server_name!("two.example");
            ward.engine().fail_commit_after(commits, the_power_goes());
            let media = &ward.services.media;
            let is_answered = media.erased_there(two, ("two.example", "arm")).await.is_ok();
            let is_done = is_answered && media.activate().await.is_ok();
            let ward = ward.power_cut_keeping_and_restart(kept).await;
            let media = &ward.services.media;
            let file = afar_digest(media.ledger(), uri);
            let has_ended = media.has_ended(&file).await.unwrap();
            assert!(has_ended || !is_answered, "{why}: a word that was given");
            // Without an answer it asks again.
            if !is_answered {
                media.erased_there(two, ("two.example", "arm")).await.unwrap();
            }
            ward.look().await;
            assert_eq!(ward.redactions(&room).await.len(), 1, "{why}: taken back, once");
            assert!(media.has_ended(&file).await.unwrap(), "{why}");
            let on_record = ward.audit().await;
            let told = on_record.iter().filter(|line| line.starts_with("media.erased_there"));
            assert_eq!(told.count(), 1, "{why}");
            if is_done {
                commits_seen = commits_seen.max(commits);
                break;
            }
        }
    }
    assert!(commits_seen >= 2, "its word and what follows from it are commits of their own");
}

/// By room, event and patient an erasure meets what shows photos of other servers, too.
#[tokio::test]
async fn an_erasure_in_bulk_takes_back_what_shows_photos_of_other_servers() {
    let Shared { town, nurse, doctor, room } = shared(V::V11, true).await;
    let (home, away) = (&town.wards[0], &town.wards[1]);
    let media = &home.services.media;
    let of_patient = |reference: &str, name: &str| {
        json!({
            "msgtype": "m.image", "body": "arm", "url": format!("mxc://two.example/{name}"),
            "io.wardstone.capture": { "patient_reference": reference },
        })
    };
    let mut shown = Vec::new();
    for (reference, name) in [("MRN-7", "a"), ("MRN-8", "b"), ("-", "c"), ("-", "d")] {
        let event = away.send(&doctor, &room, "m.room.message", of_patient(reference, name)).await;
        shown.push(event.event_id.clone());
        away.clock.pass_ms(1);
        home.clock.pass_ms(MINUTE_MS);
        town.deliver(1, 0, &room, name).await;
    }
    let now_ms = home.services.house.clock.now_ms();
    let gone = async |index: usize| {
        let number = town.number(0, shown[index].as_str()).await.expect("it came");
        content(home, number).await == json!({})
    };
    let erase = async |which: Which| {
        let receipt = media.erase(&which, "root").await.unwrap();
        assert!(receipt.uris.is_empty());
        let redacted = receipt.events;
        assert_eq!(home.look().await, Report { erased: 0, redacted, stuck: 0 });
        redacted
    };
    let of = |reference: &str| Which { reference: Some(reference.to_owned()), ..Which::default() };
    assert_eq!(erase(of("mrn 7")).await, 1);
    assert!(gone(0).await && !gone(1).await);
    assert_eq!(erase(of("mrn 7")).await, 0, "once");
    let event = Some(shown[1].clone());
    assert_eq!(erase(Which { event, ..Which::default() }).await, 1);
    let in_room = || Which { room: Some(room.clone()), ..Which::default() };
    let user = Some(nurse.user_id.clone());
    assert_eq!(erase(Which { user, ..in_room() }).await, 0, "nobody here has uploaded them");
    assert_eq!(erase(Which { since_ms: Some(now_ms), ..in_room() }).await, 1, "the last one");
    assert!(gone(1).await && !gone(2).await && gone(3).await);
    assert_eq!(erase(in_room()).await, 1);
    let on_record = home.audit_objects().await;
    let receipts = on_record.iter().filter(|line| line.contains("files=0 events=1 "));
    assert_eq!(receipts.count(), 4);
}
