//! Which rooms are shared with whom: classes that stay inside, and classes that a peer's record names.

use appliance_model::Kind;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{RoomVersionId as V, ServerName};
use serde_json::{Value, json};

use crate::federation::town::Town;
use crate::peers::PeerChange;
use crate::rooms::ROOM_VERSIONS;
use crate::scenario::{Ward, create_request, state};

fn of_class(class: &str) -> Value {
    json!({ "initial_state": [{ "type": "io.wardstone.policy", "content": { "class": class } }] })
}

async fn share(ward: &Ward, server: &str, kinds: &[&str]) {
    let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let change = PeerChange { room_kinds: Some(kinds), ..PeerChange::default() };
    let server = ServerName::parse(server).unwrap();
    ward.services.peers.describe(&server, change, "uid 0").await.unwrap();
}

#[tokio::test]
async fn clinical_photos_stay_inside_in_every_version() {
    for version in ROOM_VERSIONS {
        let town = Town::of(2, version.clone()).await;
        let [one, two] = [&town.wards[0], &town.wards[1]];
        let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
        let mut body = of_class("clinical-photo");
        let room = one.room_as(&nurse, body.clone()).await;
        let create = one.current(&room, ("m.room.create", "")).await;
        assert_eq!(create["m.federate"], false, "{version}");
        let refused = one.try_set(&nurse, &room, &doctor.user_id, M::Invite).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden, "{version}");
        let rule = json!({ "join_rule": "public" });
        one.state(&nurse, &room, ("m.room.join_rules", ""), rule).await;
        let via = ["one.example".try_into().unwrap()];
        let refused = two.services.rooms.join_via(&doctor, &room, &via, None).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden, "{version}");

        let rooms = &one.services.rooms;
        body["invite"] = json!([doctor.user_id]);
        let refused = rooms.create_room(&nurse, &create_request(body.clone())).await.unwrap_err();
        assert_eq!(
            refused.kind,
            Kind::Forbidden,
            "{version}: nobody from elsewhere is called to it"
        );
        body["invite"] = json!([]);
        body["creation_content"] = json!({ "m.federate": true });
        let refused = rooms.create_room(&nurse, &create_request(body)).await.unwrap_err();
        assert_eq!(refused.kind, Kind::InvalidParam, "{version}: {}", refused.message);
    }
}

/// A room that was shared cannot be made one that stays inside over the heads of those in it; one that
/// nobody else is in can, and nobody else comes in then.
#[tokio::test]
async fn a_room_becomes_internal_only_when_nobody_else_is_in_it() {
    let town = Town::of(2, V::V11).await;
    let [one, two] = [&town.wards[0], &town.wards[1]];
    let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
    let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
    let photo = state(&room, ("io.wardstone.policy", ""), json!({ "class": "clinical-photo" }));
    let refused = one.services.rooms.send_state(&nurse, &photo).await.unwrap_err();
    assert!(refused.message.contains("People of two.example"), "{}", refused.message);
    one.set(&nurse, &room, &doctor.user_id, M::Leave).await;
    town.deliver(0, 1, &room, "kick").await;
    one.services.rooms.send_state(&nurse, &photo).await.unwrap();
    let refused = one.try_set(&nurse, &room, &doctor.user_id, M::Invite).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    one.state(&nurse, &room, ("m.room.join_rules", ""), json!({ "join_rule": "public" })).await;
    let via = ["one.example".try_into().unwrap()];
    let refused = two.services.rooms.join_via(&doctor, &room, &via, None).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);

    // The policy of the house may keep more inside.
    let pack = json!({ "class": { "general": { "federation": { "rooms": "internal" } } } });
    one.services.policy.set(&pack, "uid 0").await.unwrap();
    let general = one.room(&nurse).await;
    let create = one.current(&general, ("m.room.create", "")).await;
    assert_eq!(create["m.federate"], false);
}

/// The record of a peer names what is shared with it, both ways.
#[tokio::test]
async fn rooms_are_shared_only_in_the_classes_that_a_record_names() {
    let town = Town::of(2, V::V11).await;
    let [one, two] = [&town.wards[0], &town.wards[1]];
    let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
    let make = async |class: &str| {
        let general = json!({});
        let body = if class.is_empty() { general } else { of_class(class) };
        (one.room_as(&nurse, body.clone()).await, two.room_as(&doctor, body).await)
    };
    // What each may: nobody said anything; general only; shared only.
    let cases: [(&[&str], [bool; 3]); 3] = [
        (&[], [true, true, true]),
        (&["general"], [true, true, false]),
        (&["clinical-shared"], [false, false, true]),
    ];
    for (kinds, expected) in cases {
        share(one, "two.example", kinds).await;
        for (class, is_shared) in ["", "general", "clinical-shared"].into_iter().zip(expected) {
            let (ours, theirs) = make(class).await;
            let case = format!("{kinds:?} {class:?}");
            let out = one.try_set(&nurse, &ours, &doctor.user_id, M::Invite).await;
            assert_eq!(out.is_ok(), is_shared, "{case}: {out:?}");
            let back = two.try_set(&doctor, &theirs, &nurse.user_id, M::Invite).await;
            assert_eq!(back.is_ok(), is_shared, "{case}: {back:?}");
            // Without an invite, too.
            let rule = json!({ "join_rule": "public" });
            for (ward, who, room) in [(one, &nurse, &ours), (two, &doctor, &theirs)] {
                ward.state(who, room, ("m.room.join_rules", ""), rule.clone()).await;
            }
            let via = |name: &str| [name.try_into().unwrap()];
            let (rooms, at) = (&two.services.rooms, via("one.example"));
            let inward = rooms.join_via(&doctor, &ours, &at, None).await;
            assert_eq!(inward.is_ok(), is_shared, "{case}: {inward:?}");
            let (rooms, at) = (&one.services.rooms, via("two.example"));
            let outward = rooms.join_via(&nurse, &theirs, &at, None).await;
            assert_eq!(outward.is_ok(), is_shared, "{case}: {outward:?}");
            if !is_shared {
                let left = two.membership(&theirs, &nurse.user_id).await;
                assert_eq!(left, Some(M::Leave), "{case}: out again at once");
            }
        }
    }
}
