//! Queues, with a post office that can be closed.

use std::sync::{Arc, Mutex};

use appliance_ledger::Event;
use appliance_model::ruma::{EventId, server_name};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::egress::{Failure, Opened};
use crate::peers::{Remote, Roll};
use crate::scenario::Ward;

/// Takes transactions and remembers them.
#[derive(Default)]
struct Post {
    closed: Mutex<bool>,
    taken: Mutex<Vec<(String, Value)>>,
}

#[async_trait]
impl Remote for Post {
    async fn send(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        _: Limits,
    ) -> Result<Opened, Failure> {
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        self.taken.lock().unwrap().push((format!("{server}{}", request.uri()), body));
        if *self.closed.lock().unwrap() {
            return Err(Failure::TimedOut);
        }
        let body = Box::pin(stream::iter([Ok(Bytes::from_static(b"{\"pdus\":{}}"))]));
        Ok(Opened { status: StatusCode::OK, headers: HeaderMap::new(), body })
    }

    fn look_again(&self, _: &ServerName) {}
}

impl Post {
    fn close(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
    }

    /// What was taken since the last call: where to, how many events, types of the others.
    fn taken(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

async fn ward() -> (Ward, Arc<Post>) {
    let post = Arc::new(Post::default());
    let roll = Roll::of([server_name!("b.example").to_owned()]);
    (Ward::with_peers(roll, post.clone()).await, post)
}

/// Owes `count` events, each once, to both.
async fn owe(ward: &Ward, count: usize) -> Vec<Arc<Event>> {
    let nurse = ward.member("nurse").await;
    let room = ward.room(&nurse).await;
    let mut events = Vec::new();
    for number in 0..count {
        let event_id = ward.say(&nurse, &room, &number.to_string()).await;
        let event_id = EventId::parse(event_id).unwrap();
        let house = &ward.services.house;
        let event = house.ledger.event_by_id(&event_id).await.unwrap().unwrap();
        let servers =
            vec![server_name!("b.example").to_owned(), server_name!("c.example").to_owned()];
        let mut commit = house.ledger.begin(Permit::housekeeping());
        house.owe_event(event.number, servers, &mut commit);
        house.ledger.commit(commit).await.unwrap();
        events.push(event);
    }
    events
}

fn bodies(transaction: &Value) -> Vec<&str> {
    let pdus = transaction["pdus"].as_array().unwrap();
    pdus.iter().map(|pdu| pdu["content"]["body"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_is_owed_goes_in_order_in_transactions_of_fifty() {
    let (ward, post) = ward().await;
    owe(&ward, 120).await;
    let b = server_name!("b.example");
    assert_eq!(
        ward.services.house.outbox.due(0),
        (vec![b.to_owned()], None),
        "c is not on the list"
    );
    ward.services.peers.drain(b).await.unwrap();
    let taken = post.taken();
    let sizes: Vec<_> = taken.iter().map(|(_, body)| bodies(body).len()).collect();
    assert_eq!(sizes, [50, 50, 20]);
    let all: Vec<_> = taken.iter().flat_map(|(_, body)| bodies(body)).collect();
    assert!(all.iter().enumerate().all(|(index, body)| *body == index.to_string()), "{all:?}");
    assert!(
        taken.iter().all(|(path, _)| path.starts_with("b.example/_matrix/federation/v1/send/"))
    );
    assert_eq!(taken[0].1["origin"], "hospital.example");
    ward.services.peers.drain(b).await.unwrap();
    assert!(post.taken().is_empty(), "nothing twice");
}

#[tokio::test]
async fn a_closed_post_office_is_tried_again_with_the_very_same_and_a_power_cut_forgets_nothing() {
    let (ward, post) = ward().await;
    post.close(true);
    owe(&ward, 3).await;
    let b = server_name!("b.example");
    ward.services.peers.drain(b).await.unwrap();
    let outbox = &ward.services.house.outbox;
    let state = outbox.state(b).unwrap();
    assert!(state.is_owed && state.failures == 1 && state.last_error.is_some(), "{state:?}");
    let now_ms = ward.services.house.clock.now_ms();
    assert_eq!(outbox.due(now_ms), (Vec::new(), Some(state.retry_ms)));
    let first = post.taken();

    ward.services.peers.drain(b).await.unwrap();
    assert_eq!(post.taken(), first, "the same transaction under the same ID");
    assert!(outbox.state(b).unwrap().retry_ms > state.retry_ms, "and waits longer");

    // They write to us: they are up.
    ward.services.peers.heard_from(b);
    assert_eq!(outbox.due(now_ms).0, [b.to_owned()]);

    let ward = ward.power_cut_and_restart().await;
    post.close(false);
    ward.services.peers.wake_all().await.unwrap();
    assert_eq!(ward.services.house.outbox.due(0).0, [b.to_owned()]);
    assert_eq!(ward.services.peers.backlog(b, 10).await.unwrap(), (3, 0));
    ward.services.peers.drain(b).await.unwrap();
    assert_eq!(bodies(&post.taken()[0].1), ["0", "1", "2"]);
    assert_eq!(ward.services.peers.backlog(b, 10).await.unwrap(), (0, 0));
}

/// Whoever comes back to a room waits for what was said there, not for all that another server is owed.
#[tokio::test]
async fn what_is_owed_of_one_room_is_told_from_the_rest() {
    use crate::federation::OtherServers as _;
    let (ward, post) = ward().await;
    let b = server_name!("b.example");
    let peers = &ward.services.peers;
    let nurse = ward.member("matron").await;
    let (quiet, silent) = (ward.room(&nurse).await, ward.room(&nurse).await);
    let ledger = &ward.services.house.ledger;
    let quiet = ledger.room(&quiet).await.unwrap().unwrap();
    let silent = ledger.room(&silent).await.unwrap().unwrap();
    let events = owe(&ward, 60).await;
    let busy = events[0].room;
    for room in [quiet, silent] {
        assert_eq!(peers.last_owed(b, room).await.unwrap(), None);
    }
    // Owed between others.
    let (first, last) =
        (peers.first_owed(b).await.unwrap(), peers.last_owed(b, busy).await.unwrap());
    assert!(first < last && first.is_some(), "{first:?} {last:?}");
    post.close(true);
    peers.drain(b).await.unwrap();
    tokio::time::pause();
    assert!(peers.settle(b, quiet).await.unwrap(), "nothing of that room waits");
    assert!(!peers.settle(b, busy).await.unwrap(), "the other server takes nothing");
    post.close(false);
    peers.drain(b).await.unwrap();
    assert!(peers.settle(b, busy).await.unwrap());
    assert_eq!(peers.first_owed(b).await.unwrap(), None);
}

#[tokio::test]
async fn fleeting_news_is_told_once_in_its_newest_form_and_not_to_who_is_away() {
    let (ward, post) = ward().await;
    let b = server_name!("b.example");
    let tell = |typing: bool| {
        let content = json!({ "typing": typing });
        ward.services.house.outbox.tell(&[b.to_owned()], "typing", "m.typing", &content);
    };
    tell(true);
    tell(false);
    ward.services.peers.drain(b).await.unwrap();
    let taken = post.taken();
    assert_eq!(taken.len(), 1);
    assert_eq!(
        taken[0].1["edus"],
        json!([{ "edu_type": "m.typing", "content": { "typing": false } }])
    );
    post.close(true);
    tell(true);
    for _ in 0..4 {
        ward.services.peers.drain(b).await.unwrap();
    }
    tell(false);
    post.close(false);
    post.taken();
    ward.services.peers.drain(b).await.unwrap();
    assert_eq!(post.taken().len(), 1, "only what was on its way");
}

#[tokio::test]
async fn messages_between_devices_are_owed_until_taken() {
    use appliance_model::ruma::user_id;

    use crate::keys::scene::to_device;

    let (ward, post) = ward().await;
    post.close(true);
    let nurse = ward.member("nurse").await;
    let doctor = user_id!("@doctor:b.example");
    let stranger = user_id!("@stranger:c.example");
    let messages = json!({
        doctor.as_str(): { "PHONE": { "n": 1.5 } },
        stranger.as_str(): { "*": { "n": 2 } },
    });
    let request = to_device("m.test", "txn", messages);
    ward.services.keys.send_to_device(&nurse, &request).await.unwrap();
    let b = server_name!("b.example");
    ward.services.peers.drain(b).await.unwrap();
    let ward = ward.power_cut_and_restart().await;
    post.close(false);
    post.taken();
    ward.services.peers.drain(b).await.unwrap();
    let taken = post.taken();
    let edu = &taken[0].1["edus"][0];
    assert_eq!(edu["edu_type"], "m.direct_to_device");
    assert_eq!(
        edu["content"]["messages"],
        json!({ "@doctor:b.example": { "PHONE": { "n": 1.5 } } })
    );
    assert_eq!(edu["content"]["sender"], nurse.user_id.as_str());
    assert_eq!(edu["content"]["type"], "m.test");
}

#[test]
fn waiting_doubles_and_has_an_end() {
    for (failures, least, most) in
        [(1, 750, 1_250), (2, 1_500, 2_500), (9, 192_000, 320_000), (99, 450_000, 750_000)]
    {
        for jitter in [0, 7, 499, u64::MAX] {
            let wait = wait_ms(failures, jitter, false);
            assert!((least..=most).contains(&wait), "{failures}: {wait}");
        }
    }
    assert!(wait_ms(99, u64::MAX, true) <= 2_500);
}
