//! Many short lives of one store.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use appliance_acceptance::person::{Person, Session};
use appliance_acceptance::server::{Options, Server};
use appliance_acceptance::wait::until;
use serde_json::json;
use tokio::task::JoinSet;

use crate::deeds::{Diary, Scene, check, write_until_the_end};
use crate::reader::Reader;

/// Lives of the server in one campaign. `WARDSTONE_TEST_LIVES` asks for more or fewer.
const LIVES: usize = 200;

/// How many write at once: enough that commits come in groups.
const WRITERS: usize = 6;

/// Every so many lives one more ends before the server is even ready.
const STILLBORN_EVERY: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_kill_9_on_lmdb() {
    campaign("lmdb").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_kill_9_on_sled() {
    campaign("sled").await;
}

async fn campaign(engine: &'static str) {
    let lives = std::env::var("WARDSTONE_TEST_LIVES")
        .map_or(LIVES, |lives| lives.parse().expect("WARDSTONE_TEST_LIVES: a number"));
    let mut server = Server::start(Options { engine, ..Options::default() }).await;
    let (writers, mut reader, scene) = gather(&server).await;
    let mut all_said = Vec::new();
    let mut claimed = HashSet::new();
    let mut answered_in_all = 0;

    for life in 0..lives {
        reader.offer_keys(life).await;
        let diaries = live_and_die(&mut server, &writers, &scene, life).await;
        if life % STILLBORN_EVERY == 0 {
            server.start_and_kill(life as u64).await;
        }
        server.start_again().await;

        let (mut said, mut whispered) = (Vec::new(), Vec::new());
        for diary in &diaries {
            answered_in_all += diary.done.len();
            let heard = check(&writers[diary.writer], &scene, diary).await;
            said.extend(heard.said);
            whispered.extend(heard.whispered);
            for key in heard.claimed {
                let once = key.is_empty() || claimed.insert(key.clone());
                assert!(once, "one-time key {key} was handed out twice");
            }
        }
        reader.listen().await;
        reader.assert_heard(&said, &whispered);
        all_said.extend(said);
    }

    reader.assert_history(&all_said).await;
    assert!(answered_in_all >= lives * 5, "{answered_in_all} answers in {lives} lives: no load");
    assert!(!claimed.is_empty(), "keys were claimed");
}

async fn gather(server: &Server) -> (Vec<Arc<Session>>, Reader, Arc<Scene>) {
    let reader = Person::named("reader").sign_up(server).await;
    let room =
        reader.post("/_matrix/client/v3/createRoom", json!({ "preset": "public_chat" })).await;
    let room_id = room["room_id"].as_str().expect("a room").to_owned();
    // Every writer may write the topic.
    let path = format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.power_levels/");
    let mut levels = reader.get(&path).await;
    levels["state_default"] = json!(0);
    reader.put(&path, levels).await;
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let writer = Person::named(&format!("writer{number}")).sign_up(server).await;
        writer.post(&format!("/_matrix/client/v3/join/{room_id}"), json!({})).await;
        writers.push(Arc::new(writer));
    }
    let scene = Scene {
        room_id: room_id.clone(),
        reader_id: reader.user_id.clone(),
        reader_device: reader.device_id.clone(),
    };
    let mut reader = Reader::new(reader, &room_id);
    reader.listen().await;
    (writers, reader, Arc::new(scene))
}

/// Lets everyone write, and kills the server in the middle of it, sooner or later.
async fn live_and_die(
    server: &mut Server,
    writers: &[Arc<Session>],
    scene: &Arc<Scene>,
    life: usize,
) -> Vec<Diary> {
    let answered = Arc::new(AtomicUsize::new(0));
    let mut writing = JoinSet::new();
    for (number, session) in writers.iter().enumerate() {
        let (session, scene, answered) = (session.clone(), scene.clone(), answered.clone());
        writing.spawn(write_until_the_end(number, session, scene, life, answered));
    }
    // Between 6 and 80 answers, another number each time.
    let enough = 6 + (life * 31) % 75;
    until("enough answers", async || (answered.load(Ordering::Relaxed) >= enough).then_some(()))
        .await;
    server.kill().await;
    writing.join_all().await
}
