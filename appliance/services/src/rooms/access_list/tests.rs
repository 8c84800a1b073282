//! Scenes of rooms that say who may take part.

use appliance_ledger::rows::peers::PeerRow;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{RoomVersionId as V, ServerName};
use appliance_model::{Caller, Kind};
use serde_json::{Value, json};

use super::ACCESS_LIST_PEERS_MAX;
use crate::Options;
use crate::federation::town::Town;
use crate::peers::{PeerChange, Uncounted};
use crate::rooms::{ROOM_VERSIONS, Upgrade};
use crate::scenario::{Ward, options, state};

async fn ward(version: V) -> Ward {
    let default_room_version = version;
    Ward::with_options(Options { access_lists: true, default_room_version, ..options() }).await
}

async fn describe(ward: &Ward, server: &str, suspended: bool) {
    let server = ServerName::parse(server).unwrap();
    let change = PeerChange { suspended: Some(suspended), ..PeerChange::default() };
    ward.services.peers.describe(&server, change, "uid 0").await.unwrap();
}

/// The state event, if there is one.
async fn acl(ward: &Ward, room: &appliance_model::ruma::RoomId) -> Option<Value> {
    let open = ward.services.rooms.enter(room).await.unwrap();
    let event = open.state(&"m.room.server_acl".into(), "").await.unwrap()?;
    serde_json::from_str(event.content.get()).ok()
}

async fn set(
    ward: &Ward,
    who: &Caller,
    room: &appliance_model::ruma::RoomId,
    content: Value,
) -> Result<(), (Kind, String)> {
    let request = state(room, ("m.room.server_acl", ""), content);
    let set = ward.services.rooms.send_state(who, &request).await;
    set.map(drop).map_err(|error| (error.kind, error.message.into_owned()))
}

#[tokio::test]
async fn new_rooms_name_this_server_and_its_peers_in_every_version() {
    for version in ROOM_VERSIONS {
        let ward = ward(version.clone()).await;
        let [nurse] = ward.members(["nurse"]).await;
        let before = ward.room(&nurse).await;
        assert_eq!(acl(&ward, &before).await, None, "{version}: it talks with nobody");
        describe(&ward, "b.example:8448", false).await;
        describe(&ward, "c.example", true).await;
        let room = ward.room(&nurse).await;
        let expected = json!(["b.example", "hospital.example"]);
        assert_eq!(acl(&ward, &room).await.unwrap()["allow"], expected, "{version}");

        // Whatever levels the creator asks for, and however the room is made.
        let levels = json!({ "events": { "m.room.server_acl": 101 }, "state_default": 100 });
        let high = ward.room_as(&nurse, json!({ "power_level_content_override": levels })).await;
        assert_eq!(acl(&ward, &high).await.unwrap()["allow"], expected, "{version}");
        let inside = json!({ "creation_content": { "m.federate": false } });
        assert_eq!(acl(&ward, &ward.room_as(&nurse, inside).await).await, None, "{version}");
        let own = json!({ "initial_state": [{ "type": "m.room.server_acl",
            "content": { "allow": ["hospital.example"] } }] });
        let own = ward.room_as(&nurse, own).await;
        assert_eq!(acl(&ward, &own).await, Some(json!({ "allow": ["hospital.example"] })));
    }
}

#[tokio::test]
async fn people_spell_no_strangers_and_lock_nobody_out_who_lives_here() {
    let ward = ward(V::V11).await;
    let [nurse] = ward.members(["nurse"]).await;
    describe(&ward, "b.example", false).await;
    let room = ward.room(&nurse).await;
    let refused = set(&ward, &nurse, &room, json!({ "allow": ["*", "x.example"] })).await;
    let (kind, why) = refused.unwrap_err();
    assert!(kind == Kind::Forbidden && why.starts_with("x.example is not on"), "{why}");
    let refused = set(&ward, &nurse, &room, json!({ "allow": ["b.example"] })).await;
    assert_eq!(refused.unwrap_err().0, Kind::Forbidden, "this server would be out");
    // What moderation bots say.
    set(&ward, &nurse, &room, json!({ "allow": ["*"], "deny": ["evil.example"] })).await.unwrap();
    let now = acl(&ward, &room).await.unwrap();
    assert_eq!(now["allow"], json!(["b.example", "hospital.example"]));
    assert_eq!(now["deny"], json!(["evil.example"]));
    let body = json!({ "initial_state": [{ "type": "m.room.server_acl",
        "content": { "allow": ["hospital.example", "x.example"] } }] });
    let made =
        ward.services.rooms.create_room(&nurse, &crate::scenario::create_request(body)).await;
    assert!(made.unwrap_err().message.contains("x.example"));
}

/// Peers come and go: rooms of ours follow, those of others and those left to themselves do not.
#[tokio::test]
async fn rooms_follow_the_list_of_peers() {
    for version in [V::V6, V::V11, V::V12] {
        let options = Options { access_lists: true, ..options() };
        let town = Town::with_options(3, version.clone(), options).await;
        let [one, two, three] = [&town.wards[0], &town.wards[1], &town.wards[2]];
        let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
        let keep = async || one.services.rooms.keep_access_lists().await.unwrap();
        // From before this server talked with anybody, and shared since.
        let old = town.room_of((0, &nurse), &[(1, &doctor)]).await;
        let alone = one.room(&nurse).await;
        let theirs = town.room_of((1, &doctor), &[(0, &nurse)]).await;
        assert_eq!(acl(one, &old).await, None);
        describe(one, "two.example", false).await;
        let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
        assert_eq!(keep().await, 1, "{version}: the shared room of before");
        assert_eq!(keep().await, 0, "{version}: and that is all");
        assert_eq!(acl(one, &alone).await, None);
        assert_eq!(acl(one, &theirs).await, None);

        // People chose for one room that only these two take part.
        let chosen = town.room_of((0, &nurse), &[(1, &doctor)]).await;
        set(one, &nurse, &chosen, json!({ "allow": ["one.example", "two.example"], "x": 1 }))
            .await
            .unwrap();
        describe(one, "three.example", false).await;
        assert_eq!(keep().await, 2, "{version}");
        for (room, third) in [(&old, true), (&room, true), (&chosen, false)] {
            let list = acl(one, room).await.unwrap()["allow"].clone();
            let list: Vec<_> =
                list.as_array().unwrap().iter().map(|name| name.to_string()).collect();
            assert_eq!(
                list.contains(&"\"three.example\"".to_owned()),
                third,
                "{version}: {list:?}"
            );
        }
        // Everybody in the room reads it, and holds to it.
        let visitor = three.member("visitor").await;
        one.set(&nurse, &room, &visitor.user_id, M::Invite).await;
        three.set(&visitor, &room, &visitor.user_id, M::Join).await;
        town.deliver(0, 1, &room, "t").await;
        assert_eq!(acl(two, &room).await, acl(one, &room).await);
        describe(one, "three.example", true).await;
        assert_eq!(keep().await, 2, "{version}");
        let cut = three.say(&visitor, &room, "let me in").await;
        let answers = town.deliver(2, 0, &room, "t").await;
        assert!(answers[0].contains("access list"), "{answers:?}");
        assert!(!town.shown(0, &room).await.contains(&cut));

        // Nobody of ours has the power any more.
        if version != V::V12 {
            let levels = json!({ "users": {}, "events": { "m.room.server_acl": 100 } });
            one.state(&nurse, &room, ("m.room.power_levels", ""), levels).await;
            describe(one, "two.example", true).await;
            assert_eq!(keep().await, 2, "{version}");
            assert_eq!(one.services.rooms.rooms_beyond_power(), std::slice::from_ref(&room));
        }
        let facts = one.audit().await;
        assert!(facts.iter().any(|fact| fact == "room.access_list_kept peers"), "{facts:?}");
    }
}

#[tokio::test]
async fn a_room_that_is_replaced_takes_its_list_along_without_strangers() {
    let ward = ward(V::V10).await;
    let [nurse] = ward.members(["nurse"]).await;
    describe(&ward, "b.example", false).await;
    describe(&ward, "c.example", false).await;
    let room = ward.room(&nurse).await;
    let chosen = json!({ "allow": ["hospital.example", "c.example"], "deny": [] });
    set(&ward, &nurse, &room, chosen).await.unwrap();
    describe(&ward, "c.example", true).await;
    let upgrade = Upgrade { version: V::V12, additional_creators: Vec::new() };
    let new = ward.services.rooms.upgrade(&nurse, &room, &upgrade).await.unwrap();
    assert_eq!(acl(&ward, &new).await.unwrap()["allow"], json!(["hospital.example"]));
    ward.services.rooms.keep_access_lists().await.unwrap();
    let old = acl(&ward, &room).await.unwrap();
    assert_eq!(old["allow"].as_array().unwrap().len(), 2, "nobody writes in a room that is over");
}

/// With more peers than a list may name none is written, whoever runs the server is told, and what people
/// write themselves is looked at all the same.
#[tokio::test]
async fn more_peers_than_a_list_can_name_are_not_named_and_that_is_said() {
    let ward = ward(V::V11).await;
    let [nurse] = ward.members(["nurse"]).await;
    let rooms = &ward.services.rooms;
    describe(&ward, "b.example", false).await;
    let before = ward.room(&nurse).await;
    assert_eq!(rooms.access_lists_halted(), None);
    for number in 0..ACCESS_LIST_PEERS_MAX {
        let peer = ServerName::parse(format!("p{number}.example")).unwrap();
        ward.services.house.roll.describe(peer, Some(PeerRow::default()));
    }
    assert_eq!(rooms.access_lists_halted(), Some(Uncounted::TooMany));
    assert_eq!(rooms.keep_access_lists().await.unwrap(), 0);
    let names = json!(["b.example", "hospital.example"]);
    assert_eq!(acl(&ward, &before).await.unwrap()["allow"], names, "it stays as it is");
    let room = ward.room(&nurse).await;
    assert_eq!(acl(&ward, &room).await, None);
    let refused = set(&ward, &nurse, &room, json!({ "allow": ["*", "x.example"] })).await;
    assert!(refused.unwrap_err().1.starts_with("x.example is not on"));
    let refused = set(&ward, &nurse, &room, json!({ "allow": ["p7.example"] })).await;
    assert!(refused.unwrap_err().1.contains("your own server"));
    let all = json!({ "allow": ["*"], "deny": ["evil.example"] });
    set(&ward, &nurse, &room, all.clone()).await.unwrap();
    assert_eq!(acl(&ward, &room).await, Some(all));

    ward.services.house.roll.describe(ServerName::parse("p0.example").unwrap(), None);
    assert_eq!(rooms.access_lists_halted(), None);
    assert_eq!(rooms.keep_access_lists().await.unwrap(), 2, "both name all again");
    assert_eq!(
        acl(&ward, &before).await.unwrap()["allow"].as_array().unwrap().len(),
        ACCESS_LIST_PEERS_MAX + 1
    );
}
