//! Every change wakes those it concerns, and nothing else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use appliance_model::Caller;
use appliance_model::ruma::OwnedRoomId;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::presence::PresenceState;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::sliding::SlidingRequest;
use super::sliding::tests::{after, everything, request as list};
use super::tests::request;
use crate::keys::scene::{another_device, device_keys, one_time_keys, to_device, upload};
use crate::reading::{NewReceipt, PRIVATE, PUBLIC};
use crate::scenario::Ward;

/// Much longer than any answer takes: who waits so long was not woken.
const LOST: Duration = Duration::from_secs(30);
const ROUNDS: usize = 1_000;
/// How long the clients of one user wait each time.
const PATIENCE: Duration = Duration::from_millis(200);

struct Scene {
    ward: Ward,
    nurse: Caller,
    doctor: Caller,
    /// Another device of the doctor's.
    tablet: Caller,
    token: String,
    room: OwnedRoomId,
    said: String,
}

impl Scene {
    async fn new() -> Self {
        let ward = Ward::new().await;
        let nurse = ward.member("nurse").await;
        let (doctor, token) = ward.signed_in("doctor").await;
        let tablet = another_device(&ward, &doctor, "TABLET").await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let said = ward.say(&nurse, &room, "hello").await;
        Self { ward, nurse, doctor, tablet, token, room, said }
    }

    /// Changes something that concerns the doctor; returns what both answers must hold.
    async fn change(&self, round: usize) -> String {
        let Self { ward, nurse, doctor, room, .. } = self;
        let mark = format!("round-{round}");
        let services = &ward.services;
        match round % 12 {
            0 => return ward.say(nurse, room, &mark).await,
            1 => ward.state(nurse, room, ("m.room.topic", ""), json!({ "topic": mark })).await,
            2 => {
                let event = ward.say(nurse, room, "read this").await;
                self.read(nurse, PUBLIC, &event).await;
                return "m.read\"".to_owned();
            }
            3 => {
                self.read(doctor, PRIVATE, &self.last().await).await;
                return "m.read.private".to_owned();
            }
            4 => {
                let on = (round / 12).is_multiple_of(2).then_some(60_000);
                services.reading.set_typing(nurse, room, on).await.unwrap();
                return "m.typing".to_owned();
            }
            5 => {
                let content = json!({ "mark": mark });
                let messages = json!({ doctor.user_id.as_str(): { "*": content } });
                let sent = to_device("m.test", &mark, messages);
                services.keys.send_to_device(nurse, &sent).await.unwrap();
            }
            6 => {
                let owner = (doctor.user, doctor.user_id.as_str());
                let content = json!({ "mark": mark }).to_string();
                let set = services.personal.set_account_data(owner, None, "m.test", &content);
                set.await.unwrap();
            }
            7 => {
                let number = services.house.ledger.room(room).await.unwrap();
                let owner = (doctor.user, doctor.user_id.as_str());
                let content = json!({ "mark": mark }).to_string();
                let set = services.personal.set_account_data(owner, number, "m.test", &content);
                set.await.unwrap();
            }
            8 => {
                let keys = json!({ "device_keys": device_keys(nurse, &mark) });
                services.keys.upload(nurse, &upload(keys)).await.unwrap();
                return "\"changed\":[\"@nurse".to_owned();
            }
            9 => {
                // Both devices wait, and each has counts of its own. Who uploads is told the count
                // in the answer; that others take keys away is what wakes.
                for device in [doctor, &self.tablet] {
                    let ids = [format!("{round}a"), format!("{round}b")];
                    let keys = one_time_keys(&[&ids[0], &ids[1]]);
                    let keys = upload(json!({ "one_time_keys": keys }));
                    services.keys.upload(device, &keys).await.unwrap();
                    let wanted = (device.device_id.to_string(), "signed_curve25519".to_owned());
                    let claims = [(device.user_id.clone(), [wanted].into())].into();
                    services.keys.claim(nurse, claims).await.unwrap();
                }
                return format!("\"signed_curve25519\":{}", round / 12 + 1);
            }
            10 => {
                let other = ward.room(nurse).await;
                ward.set(nurse, &other, &doctor.user_id, M::Invite).await;
                return other.to_string();
            }
            _ => {
                let other = ward.room_of(&[nurse, doctor]).await;
                ward.set(nurse, &other, &doctor.user_id, M::Leave).await;
                return other.to_string();
            }
        }
        mark
    }

    async fn last(&self) -> String {
        let (_, events) = self.ward.timeline(&self.room).await;
        events.last().map_or(self.said.clone(), |(event, _)| event.event_id.to_string())
    }

    async fn read(&self, who: &Caller, kind: u8, event: &str) {
        let new = NewReceipt { kind, event_id: event.try_into().unwrap(), thread: "" };
        self.ward.services.reading.receive(who, &self.room, new).await.unwrap();
    }
}

/// A change wakes a long-poll of either kind, whenever it happens: before the poll looks, between
/// its look and its wait, while it waits. A thousand rounds, each with another kind of change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost() {
    let scene = Arc::new(Scene::new().await);
    let (mut tasks, turns) = (JoinSet::new(), Arc::new(tokio::sync::Barrier::new(3)));
    let marks = tokio::sync::watch::Sender::new(String::new());
    let (heard, there) = (marks.subscribe(), turns.clone());
    let at = scene.clone();
    tasks.spawn(async move {
        let sync = &at.ward.services.sync;
        let mut asked = request(None, json!({}));
        let mut since = sync.sync(&at.doctor, &at.token, &asked).await.unwrap();
        asked.timeout = LOST * 2;
        for round in 0..ROUNDS {
            there.wait().await;
            loop {
                let answer: Value = serde_json::from_str(&since).unwrap();
                asked.since = super::Token::parse(answer["next_batch"].as_str().unwrap()).ok();
                let answer = sync.sync(&at.tablet, &at.token, &asked);
                let answer = tokio::time::timeout(LOST, answer).await;
                since = answer.unwrap_or_else(|_| panic!("v3: lost in round {round}")).unwrap();
                // What woke may have been an earlier part of the change.
                if has_mark(&since, &heard).await {
                    break;
                }
            }
            there.wait().await;
        }
    });
    let (heard, there) = (marks.subscribe(), turns.clone());
    let at = scene.clone();
    tasks.spawn(async move {
        let sync = &at.ward.services.sync;
        let begin = SlidingRequest { extensions: everything(), ..list() };
        let first = sync.sliding(&at.doctor, &at.token, &begin).await.unwrap();
        let mut asked = SlidingRequest { timeout: LOST * 2, ..begin };
        let mut last = first;
        for round in 0..ROUNDS {
            there.wait().await;
            loop {
                let answer: Value = serde_json::from_str(&last).unwrap();
                let next = &answer["extensions"]["to_device"]["next_batch"];
                let since = next.as_str().and_then(|next| next.parse().ok());
                asked.extensions.to_device.as_mut().unwrap().since =
                    since.map(appliance_model::Position);
                asked = after(&asked, &answer);
                let answer = sync.sliding(&at.doctor, &at.token, &asked);
                let answer = tokio::time::timeout(LOST, answer).await;
                last = answer.unwrap_or_else(|_| panic!("sliding: lost in round {round}")).unwrap();
                if has_mark(&last, &heard).await {
                    break;
                }
            }
            there.wait().await;
        }
    });
    for round in 0..ROUNDS {
        turns.wait().await;
        let mark = scene.change(round).await;
        marks.send_replace(mark);
        turns.wait().await;
        marks.send_replace(String::new());
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// Whether an answer holds what the round changes, once that is known.
async fn has_mark(answer: &str, mark: &tokio::sync::watch::Receiver<String>) -> bool {
    let mut mark = mark.clone();
    let known = mark.wait_for(|mark| !mark.is_empty()).await.unwrap().clone();
    answer.contains(&known)
}

/// The tablet idle, the phone online, and it with two more connections: each asks no more often than
/// its time-outs make it, however slow the machine is.
#[tokio::test]
async fn the_clients_of_one_user_do_not_keep_each_other_awake() {
    let scene = Scene::new().await;
    let Scene { ward, doctor, tablet, token, .. } = &scene;
    let asked = |presence| {
        let mut asked = request(None, json!({}));
        (asked.timeout, asked.presence) = (PATIENCE, presence);
        asked
    };
    let counts: [AtomicUsize; 4] = std::array::from_fn(|_| AtomicUsize::new(0));
    let sync = &ward.services.sync;
    let v3 = async |who: &Caller, presence: PresenceState, count: &AtomicUsize| {
        let mut asked = asked(presence);
        loop {
            let answer = sync.sync(who, token, &asked).await.unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            asked.since = super::Token::parse(answer["next_batch"].as_str().unwrap()).ok();
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let sliding = async |conn_id: &str, count: &AtomicUsize| {
        let mut asked = SlidingRequest {
            timeout: PATIENCE,
            conn_id: conn_id.to_owned(),
            extensions: everything(),
            presence: PresenceState::Unavailable,
            ..list()
        };
        loop {
            let answer = sync.sliding(doctor, token, &asked).await.unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            asked = after(&asked, &answer);
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let for_ever = async {
        tokio::join!(
            v3(doctor, PresenceState::Online, &counts[0]),
            v3(tablet, PresenceState::Unavailable, &counts[1]),
            sliding("one", &counts[2]),
            sliding("two", &counts[3]),
        );
    };
    let _ = tokio::time::timeout(PATIENCE * 10, for_ever).await;
    for count in &counts {
        let count = count.load(Ordering::Relaxed);
        assert!((1..=20).contains(&count), "{counts:?}");
    }
}
