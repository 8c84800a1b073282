//! Rooms whose servers did not reach each other for a while.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::presence::PresenceState;
use appliance_model::ruma::{OwnedRoomId, RoomVersionId as V};
use appliance_model::{Caller, Clock};
use serde_json::{Value, json};

use crate::federation::town::Town;
use crate::sync::{StateForm, SyncRequest, Token};

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

/// Somebody is banned by whoever could not know that they had just come in. The ban's past is not shown to
/// their server, which is not in the room to those who banned; it believes them if they may ban.
#[tokio::test]
async fn who_came_in_unseen_and_was_banned_hears_of_it() {
    for version in [V::V10, V::V12] {
        let town = Town::of(3, version.clone()).await;
        let [one, two, three] = [&town.wards[0], &town.wards[1], &town.wards[2]];
        let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
        let aide = three.member("aide").await;
        let name = three.services.house.server_name.clone();
        let listed = crate::peers::PeerChange::default();
        one.services.peers.describe(&name, listed, "uid 0").await.unwrap();
        let room = one.room_as(&nurse, json!({ "preset": "public_chat" })).await;
        let via = |server: &str| [server.try_into().unwrap()];
        let rooms = |ward: &crate::scenario::Ward| ward.services.clone();
        rooms(two).rooms.join_via(&doctor, &room, &via("one.example"), None).await.unwrap();
        town.cut(0, 1, true);
        town.cut(0, 2, true);
        rooms(three).rooms.join_via(&aide, &room, &via("two.example"), None).await.unwrap();
        one.say(&nurse, &room, "who is there?").await;
        one.set(&nurse, &room, &aide.user_id, M::Ban).await;
        let ban = town.state(0, &room).await[&format!("m.room.member|{}", aide.user_id)].clone();
        // Somebody without power says the same: it is not believed.
        let forged = two.try_set(&doctor, &room, &aide.user_id, M::Ban).await;
        assert!(forged.is_err());
        town.cut(0, 1, false);
        town.cut(0, 2, false);
        town.deliver(2, 0, &room, "join").await;
        let owed = one.services.peers.backlog(&name, 9).await.unwrap();
        assert_eq!(owed.0, 1, "the ban, and it alone: {version}");
        assert_eq!(three.membership(&room, &aide.user_id).await, Some(M::Join));
        town.deliver_only(0, 2, &ban).await;
        assert_eq!(three.membership(&room, &aide.user_id).await, Some(M::Ban), "{version}");
        let words = crate::scenario::text(&room, "x", "is anybody there?");
        let said = three.services.rooms.send_event(&aide, &words).await;
        assert!(said.is_err(), "nobody would hear it: {version}");
    }
}

/// Somebody's last words and their leave wait while the line is cut. Their server is not in the room any more
/// when it is asked for what the leave builds on, and answers: nobody else may have it.
#[tokio::test]
async fn a_leave_is_believed_with_all_that_was_said_before_it() {
    for version in [V::V10, V::V12] {
        let town = Town::of(3, version.clone()).await;
        let [one, two, three] = [&town.wards[0], &town.wards[1], &town.wards[2]];
        let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
        let aide = three.member("aide").await;
        let room = town.room_of((0, &nurse), &[(1, &doctor), (2, &aide)]).await;
        town.deliver(0, 1, &room, "call").await;
        town.deliver(2, 1, &room, "join").await;
        town.cut(0, 1, true);
        town.cut(1, 2, true);
        let said = two.say(&doctor, &room, "goodbye").await;
        two.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        let leave =
            town.state(1, &room).await[&format!("m.room.member|{}", doctor.user_id)].clone();
        town.cut(1, 2, false);
        town.deliver_only(1, 2, &leave).await;
        assert_eq!(three.membership(&room, &doctor.user_id).await, Some(M::Leave), "{version}");
        assert!(town.shown(2, &room).await.contains(&said), "{version}: their last words");
        // Whoever was not in the room then learns nothing of it.
        let said = said.as_str().try_into().unwrap();
        let rooms = &two.services.rooms;
        let [member, stranger] = ["three.example", "four.example"]
            .map(|name| appliance_model::ruma::OwnedServerName::try_from(name).unwrap());
        assert!(rooms.event_for(&member, said).await.is_ok());
        assert!(rooms.event_for(&stranger, said).await.is_err());
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

#[tokio::test]
async fn a_phone_hears_of_state_that_came_back_when_branches_met() {
    for version in [V::V10, V::V12] {
        let town = Town::of(2, version.clone()).await;
        let [one, two] = [&town.wards[0], &town.wards[1]];
        let nurse = one.member("nurse").await;
        let (doctor, porter) = (two.member("doctor").await, two.member("porter").await);
        let body = json!({ "power_level_content_override": { "events": { "m.room.topic": 0 } } });
        let room = one.room_as(&nurse, body).await;
        for who in [&doctor, &porter] {
            one.set(&nurse, &room, &who.user_id, M::Invite).await;
            heal(&town, &room, who.user_id.localpart()).await;
            two.set(who, &room, &who.user_id, M::Join).await;
        }
        one.state(&nurse, &room, ("m.room.topic", ""), json!({ "topic": "true" })).await;
        heal(&town, &room, "s").await;
        town.cut(0, 1, true);
        two.state(&doctor, &room, ("m.room.topic", ""), json!({ "topic": "mine" })).await;
        let phone = async |since: Option<&str>| {
            let request = SyncRequest {
                since: since.map(|token| Token::parse(token).unwrap()),
                filter: Arc::default(),
                full_state: false,
                timeout: Duration::ZERO,
                state_form: StateForm::Before,
                presence: PresenceState::Offline,
            };
            let json = two.services.sync.sync(&porter, "", &request).await.unwrap();
            serde_json::from_str::<Value>(&json).unwrap()
        };
        let before = phone(None).await;
        one.set(&nurse, &room, &doctor.user_id, M::Ban).await;
        town.cut(0, 1, false);
        heal(&town, &room, "t").await;

        let topics = |answer: &Value| {
            let part = &answer["rooms"]["join"][room.as_str()];
            let state = part["state"]["events"].as_array().cloned().unwrap_or_default();
            let timeline = part["timeline"]["events"].as_array().cloned().unwrap_or_default();
            let all = state.into_iter().chain(timeline);
            let topics = all.filter(|event| event["type"] == "m.room.topic");
            topics.map(|event| event["content"]["topic"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(topics(&before).last().unwrap(), "mine");
        let after = phone(before["next_batch"].as_str()).await;
        assert_eq!(topics(&after), ["true"], "{version}: {after}");
    }
}

struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// One thing that somebody does, allowed or not.
async fn act(town: &Town, dice: &mut Dice, room: &OwnedRoomId, people: &[Caller]) {
    let at = dice.throw(people.len());
    let (ward, who) = (&town.wards[at], &people[at]);
    ward.clock.pass_ms(u64::try_from(dice.throw(50)).unwrap());
    let txn = format!("{}-{}", ward.clock.now_ms(), dice.throw(1_000_000));
    let other = &people[dice.throw(people.len())];
    let value = dice.throw(100);
    let set = async |kind: &str, key: &str, content| {
        let request = crate::scenario::state(room, (kind, key), content);
        let _ = ward.services.rooms.send_state(who, &request).await;
    };
    match dice.throw(9) {
        0 => set("m.room.name", "", json!({ "name": value.to_string() })).await,
        1 => set("m.room.topic", "", json!({ "topic": value.to_string() })).await,
        2 => set("example.bed", &dice.throw(3).to_string(), json!({ "n": value })).await,
        3 => {
            let mut levels = ward.current(room, ("m.room.power_levels", "")).await;
            levels["users"][other.user_id.as_str()] = json!([0, 50, 60][dice.throw(3)]);
            set("m.room.power_levels", "", levels).await;
        }
        4 if other.user_id != people[0].user_id => {
            let _ = ward.try_set(who, room, &other.user_id, M::Ban).await;
        }
        5 if other.user_id != who.user_id => {
            let _ = ward.try_set(who, room, &other.user_id, M::Leave).await;
        }
        _ => {
            let request = crate::scenario::text(room, &txn, &value.to_string());
            let _ = ward.services.rooms.send_event(who, &request).await;
        }
    }
}

/// Three servers, one seed: cuts, lost, repeated and reordered deliveries; then all lines mended.
async fn a_night(seed: u64, version: V) {
    let town = Town::of(3, version.clone()).await;
    let mut people = Vec::new();
    for (ward, name) in town.wards.iter().zip(["nurse", "doctor", "aide"]) {
        people.push(ward.member(name).await);
    }
    let body = json!({ "power_level_content_override": { "state_default": 0, "events": {} } });
    let room = town.wards[0].room_as(&people[0], body).await;
    for at in [1, 2] {
        let target = &people[at].user_id;
        town.wards[0].set(&people[0], &room, target, M::Invite).await;
        heal(&town, &room, &format!("i{at}")).await;
        town.wards[at].set(&people[at], &room, target, M::Join).await;
        heal(&town, &room, &format!("j{at}")).await;
    }
    same_everywhere(&town, &room, &format!("seed {seed}, all in")).await;
    let before: BTreeSet<String> = {
        let mut before = BTreeSet::new();
        for at in 0..3 {
            before.extend(town.kept(at, &room).await);
        }
        before
    };
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for step in 0..24 {
        act(&town, &mut dice, &room, &people).await;
        let (a, b) = (dice.throw(3), dice.throw(3));
        match dice.throw(4) {
            0 if a != b => town.cut(a, b, true),
            1 if a != b => town.cut(a, b, false),
            // A delivery that does not come is one that was lost.
            2 if a != b && town.reaches(a, b) => {
                town.deliver(a, b, &room, &format!("s{step}")).await;
            }
            _ => {}
        }
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        town.cut(a, b, false);
    }
    heal(&town, &room, "healed").await;
    // What one server soft-failed and another did not counts everywhere once something is built on it.
    for round in 0..2 {
        for (ward, who) in town.wards.iter().zip(&people) {
            let request = crate::scenario::text(&room, &format!("morning-{round}"), "morning");
            let _ = ward.services.rooms.send_event(who, &request).await;
            heal(&town, &room, &format!("morning-{round}-{}", who.user_id)).await;
        }
    }
    let case = format!("seed {seed}, version {version}");
    // Those who were put out hear no more; those who are in agree.
    let mut residents = Vec::new();
    for (at, ward) in town.wards.iter().enumerate() {
        let open = ward.services.rooms.enter(&room).await.unwrap();
        if open.is_resident() {
            residents.push(at);
        }
    }
    let Some(first) = residents.first().copied() else { return };
    let state = town.state(first, &room).await;
    let all: Vec<BTreeSet<String>> = {
        let mut all = Vec::new();
        for at in &residents {
            all.push(&town.kept(*at, &room).await - &before);
        }
        all
    };
    for (at, kept) in residents.iter().zip(&all) {
        assert_eq!(town.state(*at, &room).await, state, "{case}: the state at server {at}");
        assert_eq!(kept, &all[0], "{case}: the events at server {at}");
    }
}

#[tokio::test]
async fn after_any_night_all_agree() {
    for seed in 0..6 {
        let versions = [V::V10, V::V11, V::V12];
        a_night(seed, versions[usize::try_from(seed % 3).unwrap()].clone()).await;
    }
}
