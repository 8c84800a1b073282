//! Who may come and who must go: refused invites, kicks, bans, restricted rooms, knocks.

use appliance_acceptance::wait::until;
use serde_json::json;

use crate::rooms::{Host, Pair};

/// Turns an invite down; the host sees it, and may invite again.
pub async fn refused_invite(pair: Pair, at: Host, version: &'static str) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = host.create_room(version, json!({})).await;
    host.act("invite", &room_id, &guest).await;
    guest.wait_membership("invite", &room_id).await;
    guest.leave(&room_id).await;
    host.wait_is(&room_id, &guest, "leave").await;
    host.bring(&room_id, &guest).await;
}

/// Takes an invite back before it is answered.
pub async fn invite_taken_back(pair: Pair, at: Host) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = host.create_room("11", json!({})).await;
    host.act("invite", &room_id, &guest).await;
    guest.wait_membership("invite", &room_id).await;
    host.act("kick", &room_id, &guest).await;
    // Synapse shows such a room neither as left nor as one invited to.
    until("the invite is gone", async || {
        let sync = guest.get("/v3/sync").await;
        sync["rooms"]["invite"].get(&room_id).is_none().then_some(())
    })
    .await;
}

/// Leaves, comes back by invite, leaves with the room to the host.
pub async fn leave_and_return(pair: Pair, at: Host, version: &'static str) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = pair.room(at, version).await;
    guest.leave(&room_id).await;
    host.wait_is(&room_id, &guest, "leave").await;
    let away = host.say(&room_id, "while you were away").await;
    host.bring(&room_id, &guest).await;
    let back = guest.say(&room_id, "back").await;
    host.wait_event(&room_id, &back).await;
    guest.wait_event(&room_id, &away).await;
    assert_eq!(host.all_state(&room_id).await, guest.all_state(&room_id).await);
}

/// Kick, ban, a join that the ban forbids, the end of the ban, a return.
pub async fn kick_and_ban(pair: Pair, at: Host, version: &'static str) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = pair.room(at, version).await;
    host.act("kick", &room_id, &guest).await;
    guest.wait_membership("leave", &room_id).await;
    host.bring(&room_id, &guest).await;
    host.act("ban", &room_id, &guest).await;
    guest.wait_membership("leave", &room_id).await;
    let path = format!("/v3/join/{room_id}?via={0}&server_name={0}", host.hospital.name);
    let refused = guest.call(http::Method::POST, &path, Some(json!({}))).await;
    assert_eq!(refused.status, 403, "{}", refused.summary());
    host.act("unban", &room_id, &guest).await;
    host.bring(&room_id, &guest).await;
}

/// A public room is joined by its alias; a stranger to it sees it in the directory of its hospital.
pub async fn directory(pair: Pair, at: Host) {
    let (host, guest) = pair.host_and_guest(at);
    let local = format!("lobby-{at:?}").to_lowercase();
    let room_id = host
        .create_room(
            "11",
            json!({
                "preset": "public_chat", "visibility": "public", "name": "Lobby",
                "room_alias_name": local,
            }),
        )
        .await;
    let alias = format!("%23{local}:{}", host.hospital.name);
    let found = guest.get(&format!("/v3/directory/room/{alias}")).await;
    assert_eq!(found["room_id"], json!(room_id), "{found}");
    let there = &host.hospital.name;
    let rooms = guest.get(&format!("/v3/publicRooms?server={there}")).await;
    let chunk = rooms["chunk"].as_array().expect("a list");
    assert!(chunk.iter().any(|room| room["room_id"] == json!(room_id)), "{rooms}");
    let body = json!({ "filter": { "generic_search_term": "lobb" } });
    let rooms = guest.post(&format!("/v3/publicRooms?server={there}"), body).await;
    let chunk = rooms["chunk"].as_array().expect("a list");
    assert!(chunk.iter().any(|room| room["room_id"] == json!(room_id)), "{rooms}");
    let joined = guest.post(&format!("/v3/join/{alias}"), json!({})).await;
    assert_eq!(joined["room_id"], json!(room_id));
    host.wait_is(&room_id, &guest, "join").await;
    let hello = guest.say(&room_id, "hello").await;
    host.wait_event(&room_id, &hello).await;
}

/// Members of one room may join another without an invite.
pub async fn restricted(pair: Pair, at: Host, version: &'static str) {
    let (host, guest) = pair.host_and_guest(at);
    let opens = pair.room(at, version).await;
    let rule = json!({
        "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": opens }],
    });
    let state = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    let room_id = host.create_room(version, json!({ "initial_state": state })).await;
    guest.join(&room_id, &host.hospital).await;
    host.wait_is(&room_id, &guest, "join").await;
    let member = guest.state(&room_id, "m.room.member", &guest.user_id).await.expect("a member");
    assert_eq!(member["join_authorised_via_users_server"], json!(host.user_id), "{member}");
    let hello = guest.say(&room_id, "hello").await;
    host.wait_event(&room_id, &hello).await;
    // Who is in neither stays out.
    let closed = host.create_room(version, json!({})).await;
    let rule = json!({
        "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": closed }],
    });
    host.set(&room_id, "m.room.join_rules", "", rule).await;
    guest.leave(&room_id).await;
    host.wait_is(&room_id, &guest, "leave").await;
    let path = format!("/v3/join/{room_id}?via={0}&server_name={0}", host.hospital.name);
    let refused = guest.call(http::Method::POST, &path, Some(json!({}))).await;
    assert_eq!(refused.status, 403, "{}", refused.summary());
}

/// Knocks; is turned down; knocks again, and is let in.
pub async fn knock(pair: Pair, at: Host, version: &'static str) {
    let (host, guest) = pair.host_and_guest(at);
    let rule = json!({ "join_rule": "knock" });
    let state = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    let more = json!({ "initial_state": state, "name": "Theatre 2" });
    let room_id = host.create_room(version, more).await;
    let there = &host.hospital.name;
    let path = format!("/v3/knock/{room_id}?via={there}&server_name={there}");
    guest.post(&path, json!({ "reason": "on call" })).await;
    let knocked = guest.wait_membership("knock", &room_id).await;
    let shown = knocked["knock_state"]["events"].as_array().expect("a list");
    assert!(shown.iter().any(|event| event["type"] == "m.room.name"), "{knocked}");
    host.wait_is(&room_id, &guest, "knock").await;
    host.act("kick", &room_id, &guest).await;
    // Synapse does not tell the server of somebody whose knock it refuses.
    if matches!(at, Host::Wardstone) {
        host.wait_is(&room_id, &guest, "leave").await;
    }
    guest.post(&path, json!({})).await;
    host.wait_is(&room_id, &guest, "knock").await;
    host.bring(&room_id, &guest).await;
}
