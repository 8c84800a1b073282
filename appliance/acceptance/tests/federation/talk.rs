//! What is said and shown in shared rooms: redactions, typing, receipts, media, profiles, spaces,
//! upgrades, a long history.

use std::collections::BTreeSet;

use appliance_acceptance::wait::until;
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::resident::Resident;
use crate::rooms::{Host, Pair};

/// The author, and who moderates, take messages back; who may do neither cannot.
pub async fn redaction(pair: Pair, at: Host, version: &'static str) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = pair.room(at, version).await;
    let own = guest.say(&room_id, "my own").await;
    let of_guest = guest.say(&room_id, "moderated").await;
    let of_host = host.say(&room_id, "not yours").await;
    host.wait_event(&room_id, &of_guest).await;
    guest.wait_event(&room_id, &of_host).await;
    let redact = async |who: &Resident, id: &str| {
        let path = format!("/v3/rooms/{room_id}/redact/{id}/r-{}", &id[1..9]);
        who.call(Method::PUT, &path, Some(json!({ "reason": "a mistake" }))).await
    };
    assert!(redact(&guest, &own).await.status.is_success());
    assert!(redact(&host, &of_guest).await.status.is_success());
    assert_eq!(redact(&guest, &of_host).await.status, 403);
    for (who, id) in [(&host, &own), (&guest, &own), (&host, &of_guest), (&guest, &of_guest)] {
        until("a message taken back", async || {
            let event = who.find_event(&room_id, id).await?;
            event["content"].as_object()?.is_empty().then_some(())
        })
        .await;
    }
    let kept = host.wait_event(&room_id, &of_host).await;
    assert_eq!(kept["content"]["body"], "not yours");
}

/// Who types and who has read what is shown at the other hospital.
pub async fn typing_and_receipts(pair: Pair, at: Host) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = pair.room(at, "11").await;
    let hello = guest.say(&room_id, "hello").await;
    host.wait_event(&room_id, &hello).await;
    let path = format!("/v3/rooms/{room_id}/typing/{}", host.user_id);
    host.put(&path, json!({ "typing": true, "timeout": 30_000 })).await;
    wait_ephemeral(&guest, &room_id, "m.typing", |content| {
        content["user_ids"].as_array().is_some_and(|users| users.contains(&json!(host.user_id)))
    })
    .await;
    host.put(&path, json!({ "typing": false })).await;
    host.post(&format!("/v3/rooms/{room_id}/receipt/m.read/{hello}"), json!({})).await;
    wait_ephemeral(&guest, &room_id, "m.receipt", |content| {
        content[&hello]["m.read"][&host.user_id].is_object()
    })
    .await;
    // Who reads in private tells nobody.
    let more = guest.say(&room_id, "more").await;
    host.wait_event(&room_id, &more).await;
    host.post(&format!("/v3/rooms/{room_id}/receipt/m.read.private/{more}"), json!({})).await;
    let after = guest.say(&room_id, "and more").await;
    host.wait_event(&room_id, &after).await;
    host.post(&format!("/v3/rooms/{room_id}/receipt/m.read/{after}"), json!({})).await;
    wait_ephemeral(&guest, &room_id, "m.receipt", |content| {
        assert!(content[&more].is_null(), "a private receipt has got out: {content}");
        content[&after]["m.read"][&host.user_id].is_object()
    })
    .await;
}

async fn wait_ephemeral(
    who: &Resident,
    room_id: &str,
    kind: &str,
    mut is_it: impl FnMut(&Value) -> bool,
) {
    let what = format!("{} sees {kind}", who.user_id);
    until(&what, async || {
        let sync = who.get("/v3/sync?full_state=true").await;
        let events = sync["rooms"]["join"][room_id]["ephemeral"]["events"].as_array()?.clone();
        let found = events.iter().any(|event| event["type"] == kind && is_it(&event["content"]));
        found.then_some(())
    })
    .await;
}

/// Names and pictures of people of the other hospital can be looked up, also before they meet.
pub async fn profiles(pair: Pair) {
    for (one, other) in [(&pair.nurse, &pair.doctor), (&pair.doctor, &pair.nurse)] {
        let path = format!("/v3/profile/{}/displayname", one.user_id);
        one.put(&path, json!({ "displayname": "Dr. Ada" })).await;
        let shown = other.get(&format!("/v3/profile/{}", one.user_id)).await;
        assert_eq!(shown["displayname"], "Dr. Ada", "{shown}");
    }
    let room_id = pair.room(Host::Synapse, "11").await;
    let path = format!("/v3/profile/{}/displayname", pair.nurse.user_id);
    pair.nurse.put(&path, json!({ "displayname": "Sister Amara" })).await;
    until("the new name in the room", async || {
        let member = pair.doctor.state(&room_id, "m.room.member", &pair.nurse.user_id).await?;
        (member["displayname"] == "Sister Amara").then_some(())
    })
    .await;
}

/// A photo sent at one hospital is seen at the other, whole and as a thumbnail.
pub async fn media(pair: Pair, at: Host) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = pair.room(at, "11").await;
    let photo = crate::resident::a_photo();
    let uri = host.upload("image/png", photo.clone()).await;
    host.send(
        &room_id,
        "m.room.message",
        json!({ "msgtype": "m.image", "body": "wound.png", "url": uri, "info": {} }),
    )
    .await;
    let place = uri.strip_prefix("mxc://").expect("an mxc URI");
    let answer = guest.call(Method::GET, &format!("/v1/media/download/{place}"), None).await;
    assert_eq!(answer.status, 200, "{}", answer.summary());
    assert!(answer.body == photo, "the photo came changed");
    assert_eq!(answer.headers["content-type"], "image/png");
    let path = format!("/v1/media/thumbnail/{place}?width=32&height=32&method=scale");
    let answer = guest.call(Method::GET, &path, None).await;
    assert_eq!(answer.status, 200, "{}", answer.summary());
    let none = guest.call(Method::GET, &format!("/v1/media/download/{place}x"), None).await;
    assert_eq!(none.status, 404, "{}", none.summary());
}

/// A space of one hospital shows its rooms to a member at the other.
pub async fn space(pair: Pair, at: Host) {
    let (host, guest) = pair.host_and_guest(at);
    let space = host
        .create_room(
            "11",
            json!({
                "preset": "public_chat", "name": "House",
                "creation_content": { "type": "m.space" },
            }),
        )
        .await;
    let lobby = host.create_room("11", json!({ "preset": "public_chat", "name": "Lobby" })).await;
    let via = json!({ "via": [host.hospital.name] });
    host.set(&space, "m.space.child", &lobby, via).await;
    guest.join(&space, &host.hospital).await;
    until("the space with its room", async || {
        let tree = guest.call(Method::GET, &format!("/v1/rooms/{space}/hierarchy"), None).await;
        let tree = tree.status.is_success().then(|| tree.json())?;
        let rooms = tree["rooms"].as_array()?;
        rooms.iter().any(|room| room["room_id"] == json!(lobby)).then_some(())
    })
    .await;
    let path = format!("/v1/room_summary/{lobby}?via={}", host.hospital.name);
    let summary = guest.get(&path).await;
    assert_eq!(summary["name"], "Lobby", "{summary}");
}

/// The room gets a new version; the guest follows.
pub async fn upgrade(pair: Pair, at: Host) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = pair.room(at, "10").await;
    let made =
        host.post(&format!("/v3/rooms/{room_id}/upgrade"), json!({ "new_version": "12" })).await;
    let new = made["replacement_room"].as_str().expect("a room ID").to_owned();
    until("the tombstone", async || {
        let tombstone = guest.state(&room_id, "m.room.tombstone", "").await?;
        (tombstone["replacement_room"] == json!(new)).then_some(())
    })
    .await;
    host.bring(&new, &guest).await;
    let create = guest.state(&new, "m.room.create", "").await.expect("a create event");
    assert_eq!(create["predecessor"]["room_id"], json!(room_id));
    let hello = guest.say(&new, "hello").await;
    host.wait_event(&new, &hello).await;
}

/// People of a hospital speak at the same time: so many messages are under way at once.
const AT_ONCE: usize = 20;

/// What was said before the guest came is read to its beginning, all of it and nothing twice.
pub async fn long_history(pair: Pair, at: Host, count: usize) {
    let (host, guest) = pair.host_and_guest(at);
    let room_id = host.create_room("11", json!({})).await;
    let mut wanted = BTreeSet::new();
    for first in (0..count).step_by(AT_ONCE) {
        let lines = (first..count.min(first + AT_ONCE)).map(|number| format!("line {number}"));
        let saying = lines.map(|line| {
            let (host, room_id) = (&host, &room_id);
            async move { host.say(room_id, &line).await }
        });
        wanted.extend(join_all(saying).await);
    }
    assert_eq!(wanted.len(), count);
    host.act("invite", &room_id, &guest).await;
    guest.accept(&room_id).await;
    let (mut from, mut empty, mut shown) = (String::new(), 0, BTreeSet::new());
    while !wanted.is_empty() {
        let path = format!("/v3/rooms/{room_id}/messages?dir=b&limit=100{from}");
        let page = guest.get(&path).await;
        let before = wanted.len();
        for event in page["chunk"].as_array().expect("a list") {
            let id = event["event_id"].as_str().expect("an ID");
            assert!(shown.insert(id.to_owned()), "{id} is shown twice");
            wanted.remove(id);
        }
        // A page that brings nothing may be followed by one that does, but not for ever.
        empty = if wanted.len() == before { empty + 1 } else { 0 };
        assert!(empty < 20, "{} of {count} lines are missing", wanted.len());
        let Some(end) = page["end"].as_str() else { break };
        from = format!("&from={end}");
    }
    assert_eq!(wanted.len(), 0, "the history ends too early");
}
