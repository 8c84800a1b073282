//! Coming and going between servers.

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::membership;
use appliance_model::Kind;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{RoomId, RoomVersionId as V, ServerName, UserId};
use serde_json::json;

use crate::federation::town::Town;
use crate::peers::PeerChange;

#[tokio::test]
async fn two_hospitals_share_a_room_in_every_version() {
    for version in crate::rooms::ROOM_VERSIONS {
        let town = Town::of(2, version.clone()).await;
        let (nurse, doctor) =
            (town.wards[0].member("nurse").await, town.wards[1].member("doctor").await);
        let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
        assert_eq!(town.state(0, &room).await, town.state(1, &room).await, "{version}");
        let said = town.wards[0].say(&nurse, &room, "Bed 4 is free").await;
        let answers = town.deliver(0, 1, &room, "t1").await;
        assert!(answers[0].contains(&said) && !answers[0].contains("error"), "{answers:?}");
        assert!(town.shown(1, &room).await.contains(&said), "{version}");
        let heard = town.wards[1].say(&doctor, &room, "Thank you").await;
        town.deliver(1, 0, &room, "t1").await;
        assert!(town.shown(0, &room).await.contains(&heard), "{version}");
        town.wards[0].state(&nurse, &room, ("m.room.name", ""), json!({ "name": "Ward" })).await;
        town.wards[1].set(&doctor, &room, &doctor.user_id, M::Leave).await;
        town.deliver(1, 0, &room, "t2").await;
        town.deliver(0, 1, &room, "t2").await;
        assert_eq!(town.wards[0].membership(&room, &doctor.user_id).await, Some(M::Leave));
    }
}

#[tokio::test]
async fn what_a_send_owes_is_in_its_commit() {
    let town = Town::of(3, V::V11).await;
    let (nurse, doctor) =
        (town.wards[0].member("nurse").await, town.wards[1].member("doctor").await);
    let third = town.wards[2].member("aide").await;
    let room = town.room_of((0, &nurse), &[(1, &doctor), (2, &third)]).await;
    let servers = |index: usize| {
        let rooms = town.wards[index].services.rooms.clone();
        let room = room.clone();
        async move {
            let open = rooms.enter(&room).await.unwrap();
            let mut names: Vec<_> = open.servers().map(|name| name.to_string()).collect();
            names.sort_unstable();
            names
        }
    };
    town.deliver(0, 1, &room, "t").await;
    assert_eq!(servers(0).await, ["three.example", "two.example"]);
    assert_eq!(servers(2).await, ["one.example", "two.example"]);
}

/// Who is off the list is not asked, not let in, and not sat down beside.
#[tokio::test]
async fn strangers_stay_outside_and_rooms_with_strangers_are_left() {
    let town = Town::of(3, V::V11).await;
    let [one, two, three] = [&town.wards[0], &town.wards[1], &town.wards[2]];
    let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
    let stranger = three.member("stranger").await;
    let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
    let with_stranger = town.room_of((2, &stranger), &[(1, &doctor)]).await;
    two.set(&doctor, &with_stranger, &nurse.user_id, M::Invite).await;

    town.estrange("three.example");
    town.asked();
    let refused = one.try_set(&nurse, &room, &stranger.user_id, M::Invite).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    let via = ["three.example".try_into().unwrap()];
    let unknown = RoomId::parse("!x:three.example").unwrap();
    let refused = one.services.rooms.join_via(&nurse, &unknown, &via, None).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    assert_eq!(town.asked(), Vec::<String>::new(), "nobody was asked");

    // An allowed server lets us in, and the stranger is there: out again.
    let refused = one.try_set(&nurse, &with_stranger, &nurse.user_id, M::Join).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    let asked = town.asked();
    assert!(asked.contains(&"one.example -> two.example: send_leave".to_owned()), "{asked:?}");
    assert!(asked.iter().all(|asked| !asked.contains("three")), "{asked:?}");
    let at_two = two.membership(&with_stranger, &nurse.user_id).await;
    assert_eq!(at_two, Some(M::Leave));
    assert!(!one.services.rooms.joined_rooms(&nurse).await.unwrap().contains(&with_stranger));
}

/// Nobody of them is there yet; but the room's access list is made for them.
#[tokio::test]
async fn a_room_that_lets_a_stranger_in_by_name_is_left() {
    let town = Town::of(2, V::V11).await;
    let [one, two] = [&town.wards[0], &town.wards[1]];
    let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
    town.estrange("three.example");
    for (allow, is_let_in) in [
        (json!(["*"]), true),
        (json!(["one.example", "two.example", "*.example"]), true),
        (json!(["one.example", "two.example", "three.example"]), false),
    ] {
        let room = two.room(&doctor).await;
        two.state(&doctor, &room, ("m.room.server_acl", ""), json!({ "allow": allow })).await;
        two.set(&doctor, &room, &nurse.user_id, M::Invite).await;
        let joined = one.try_set(&nurse, &room, &nurse.user_id, M::Join).await;
        assert_eq!(joined.is_ok(), is_let_in, "{allow}: {joined:?}");
    }
}

/// The list says who may invite whom.
#[tokio::test]
async fn invites_go_only_in_the_directions_that_the_list_allows() {
    let town = Town::of(2, V::V11).await;
    let [one, two] = [&town.wards[0], &town.wards[1]];
    let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
    let (ours, theirs) = (one.room(&nurse).await, two.room(&doctor).await);
    let say = async |may_invite: bool, may_be_invited: bool| {
        let (may_invite, may_be_invited) = (Some(may_invite), Some(may_be_invited));
        let change = PeerChange { may_invite, may_be_invited, ..PeerChange::default() };
        let name = ServerName::parse("two.example").unwrap();
        one.services.peers.describe(&name, change, "uid 0").await.unwrap();
    };
    say(false, false).await;
    let refused = one.try_set(&nurse, &ours, &doctor.user_id, M::Invite).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    let refused = two.try_set(&doctor, &theirs, &nurse.user_id, M::Invite).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    say(true, true).await;
    one.set(&nurse, &ours, &doctor.user_id, M::Invite).await;
    two.set(&doctor, &theirs, &nurse.user_id, M::Invite).await;
}

#[tokio::test]
async fn an_access_list_keeps_a_server_out_of_everything() {
    let town = Town::of(3, V::V11).await;
    let [one, two, three] = [&town.wards[0], &town.wards[1], &town.wards[2]];
    let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
    let other = three.member("other").await;
    let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
    let acl = json!({ "allow": ["*"], "deny": ["THREE.example", "two.*"] });
    one.state(&nurse, &room, ("m.room.server_acl", ""), acl).await;
    one.state(&nurse, &room, ("m.room.join_rules", ""), json!({ "join_rule": "public" })).await;
    let via = ["one.example".try_into().unwrap()];
    let refused = three.services.rooms.join_via(&other, &room, &via, None).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    let said = two.say(&doctor, &room, "let me in").await;
    let answers = town.deliver(1, 0, &room, "t").await;
    assert!(answers[0].contains("access list"), "{answers:?}");
    assert!(!town.shown(0, &room).await.contains(&said));
}

#[tokio::test]
async fn restricted_rooms_open_for_members_of_other_servers() {
    for version in [V::V8, V::V10, V::V12] {
        let town = Town::of(2, version.clone()).await;
        let [one, two] = [&town.wards[0], &town.wards[1]];
        let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
        let visitor = two.member("visitor").await;
        let hall = town.room_of((0, &nurse), &[(1, &doctor)]).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": hall }]);
        let body = json!({ "initial_state": [{ "type": "m.room.join_rules",
            "content": { "join_rule": "restricted", "allow": allow } }] });
        let side = one.room_as(&nurse, body).await;
        let via = ["one.example".try_into().unwrap()];
        let refused = two.services.rooms.join_via(&visitor, &side, &via, None).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden, "{version}");
        two.services.rooms.join_via(&doctor, &side, &via, None).await.unwrap();
        let member = two.current(&side, ("m.room.member", doctor.user_id.as_str())).await;
        assert_eq!(member["join_authorised_via_users_server"], nurse.user_id.as_str());
        assert_eq!(town.state(0, &side).await, town.state(1, &side).await, "{version}");
    }
}

#[tokio::test]
async fn invites_are_turned_down_and_taken_back_and_knocks_are_heard() {
    let town = Town::of(2, V::V11).await;
    let [one, two] = [&town.wards[0], &town.wards[1]];
    let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
    let body = json!({ "name": "Ward 4", "initial_state": [{ "type": "m.room.join_rules",
        "content": { "join_rule": "knock" } }] });
    let room = one.room_as(&nurse, body).await;
    let rooms = &two.services.rooms;
    let number = async || {
        let ledger = &two.services.house.ledger;
        let number = ledger.room(&room).await.unwrap().unwrap();
        let row = ledger.get(&USER_ROOMS, &(doctor.user, number)).await.unwrap().unwrap();
        (number, row)
    };
    one.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    let (at, row) = number().await;
    assert_eq!(row.membership, membership::INVITE);
    let face = rooms.stripped_state(at, &row, &doctor).await.unwrap().join(",");
    assert!(face.contains("Ward 4") && face.contains("m.room.create"), "{face}");
    assert!(!face.contains("auth_events"), "only what clients are to see: {face}");
    two.set(&doctor, &room, &doctor.user_id, M::Leave).await;
    assert_eq!(number().await.1.membership, membership::LEAVE);
    assert_eq!(one.membership(&room, &doctor.user_id).await, Some(M::Leave));

    one.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    one.set(&nurse, &room, &doctor.user_id, M::Leave).await;
    town.deliver(0, 1, &room, "kick").await;
    assert_eq!(number().await.1.membership, membership::LEAVE, "an invite that was taken back");

    let via = ["one.example".try_into().unwrap()];
    rooms.knock_via(&doctor, &room, &via, None).await.unwrap();
    assert_eq!(number().await.1.membership, membership::KNOCK);
    assert_eq!(one.membership(&room, &doctor.user_id).await, Some(M::Knock));
    one.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    two.set(&doctor, &room, &doctor.user_id, M::Join).await;
    assert_eq!(town.state(0, &room).await, town.state(1, &room).await);

    // With the line dead an invite can still be turned down.
    let other = one.room(&nurse).await;
    one.set(&nurse, &other, &doctor.user_id, M::Invite).await;
    town.cut(0, 1, true);
    two.set(&doctor, &other, &doctor.user_id, M::Leave).await;
    let nobody = UserId::parse("@x:two.example").unwrap();
    let refused = one.try_set(&nurse, &room, &nobody, M::Invite).await;
    assert_eq!(refused.unwrap_err().kind, Kind::RemoteUnavailable);
}
