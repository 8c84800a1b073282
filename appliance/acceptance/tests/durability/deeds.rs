//! What people do while the server dies, and what must be true of it afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use appliance_acceptance::http::Answer;
use appliance_acceptance::person::{Session, sha256};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

/// One thing done, with words that occur nowhere else.
#[derive(Clone, Debug)]
pub enum Deed {
    /// A message in the room.
    Say { words: String },
    /// A note to oneself: account data, counted upward.
    Note { count: u64 },
    /// A message to the reader's device.
    Whisper { words: String },
    /// A file.
    Upload { words: String },
    /// The room's topic, counted upward.
    Topic { count: u64 },
    /// One of the reader's one-time keys.
    Claim,
}

/// A deed the server answered.
#[derive(Debug)]
pub struct Done {
    /// What was done.
    pub deed: Deed,
    /// What the answer named: an event, a file, a key; empty otherwise.
    pub name: String,
}

/// What one person saw until the server went away.
#[derive(Debug, Default)]
pub struct Diary {
    /// Whose.
    pub writer: usize,
    /// Answered, in order.
    pub done: Vec<Done>,
    /// Sent, and never answered.
    pub unsure: Option<Deed>,
}

/// Where the deeds happen.
#[derive(Debug)]
pub struct Scene {
    /// The room everyone is in.
    pub room_id: String,
    /// Who listens.
    pub reader_id: String,
    /// Their device.
    pub reader_device: String,
}

/// Does one thing after the other until the server is gone. `answered` counts over all writers.
pub async fn write_until_the_end(
    writer: usize,
    session: Arc<Session>,
    scene: Arc<Scene>,
    cycle: usize,
    answered: Arc<AtomicUsize>,
) -> Diary {
    let mut diary = Diary { writer, ..Diary::default() };
    for number in 0.. {
        let deed = choose(writer, cycle, number);
        match session.http.send(deed.request(&session, &scene)).await {
            Err(_) => {
                diary.unsure = Some(deed);
                break;
            }
            Ok(answer) => {
                let name = deed.name_in(answer);
                diary.done.push(Done { deed, name });
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    diary
}

/// Mostly words, as in life; the same for the same numbers, so that a campaign can be repeated.
fn choose(writer: usize, cycle: usize, number: usize) -> Deed {
    let words = format!("writer {writer} cycle {cycle} number {number}");
    let count = (cycle * 100_000 + number) as u64;
    match (writer + number) % 10 {
        3 => Deed::Note { count },
        5 => Deed::Whisper { words },
        7 => Deed::Upload { words },
        8 => Deed::Topic { count },
        9 => Deed::Claim,
        _ => Deed::Say { words },
    }
}

impl Deed {
    /// The request that does it. Doing it again sends the same transaction ID.
    pub fn request(&self, session: &Session, scene: &Scene) -> Request<Full<Bytes>> {
        let room = format!("/_matrix/client/v3/rooms/{}", scene.room_id);
        let txn = |words: &str| words.replace(' ', "-");
        let (method, path, body) = match self {
            Self::Say { words } => (
                Method::PUT,
                format!("{room}/send/m.room.message/{}", txn(words)),
                json!({ "msgtype": "m.text", "body": words }),
            ),
            Self::Note { count } => (
                Method::PUT,
                format!("/_matrix/client/v3/user/{}/account_data/io.example.note", session.user_id),
                json!({ "count": count }),
            ),
            Self::Whisper { words } => (
                Method::PUT,
                format!("/_matrix/client/v3/sendToDevice/io.example.whisper/{}", txn(words)),
                json!({ "messages": { &scene.reader_id: { &scene.reader_device: { "body": words } } } }),
            ),
            Self::Upload { .. } => {
                (Method::POST, "/_matrix/media/v3/upload".to_owned(), Value::Null)
            }
            Self::Topic { count } => (
                Method::PUT,
                format!("{room}/state/io.example.topic/{}", session.device_id),
                json!({ "count": count }),
            ),
            Self::Claim => (
                Method::POST,
                "/_matrix/client/v3/keys/claim".to_owned(),
                json!({ "one_time_keys": { &scene.reader_id: { &scene.reader_device: "signed_curve25519" } } }),
            ),
        };
        let body = match self {
            Self::Upload { words } => Bytes::from(file_of(words)),
            _ => Bytes::from(body.to_string()),
        };
        Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {}", session.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("a request")
    }

    /// What an answer names; a refusal here is a fault of the server.
    pub fn name_in(&self, answer: Answer) -> String {
        let field = match self {
            Self::Say { .. } | Self::Topic { .. } => "event_id",
            Self::Upload { .. } => "content_uri",
            Self::Claim => return key_in(&answer.ok()).unwrap_or_default(),
            Self::Note { .. } | Self::Whisper { .. } => {
                answer.ok();
                return String::new();
            }
        };
        answer.ok()[field].as_str().expect("a name in the answer").to_owned()
    }
}

/// The one-time key in an answer to a claim; a fallback key is no one-time key.
fn key_in(answer: &Value) -> Option<String> {
    let devices = answer["one_time_keys"].as_object()?.values().next()?.as_object()?;
    let keys = devices.values().next()?.as_object()?;
    keys.keys().next().cloned()
}

/// A file of a few kilobytes, told apart from all others by its first words.
fn file_of(words: &str) -> Vec<u8> {
    let mut file = words.as_bytes().to_vec();
    file.resize(6_000, b'.');
    file
}

/// Asks the restarted server for everything it had answered to one writer, and repeats what it had
/// not. Returns the words said and whispered: each must reach the reader exactly once.
pub async fn check(session: &Session, scene: &Scene, diary: &Diary) -> Heard {
    let mut heard = Heard::default();
    let (mut note, mut topic) = (None, None);
    for Done { deed, name } in &diary.done {
        match deed {
            Deed::Say { words } => {
                let path = format!("/_matrix/client/v3/rooms/{}/event/{name}", scene.room_id);
                let event = session.get(&path).await;
                assert_eq!(event["content"]["body"], *words, "the event that was answered: {name}");
                heard.said.push(words.clone());
            }
            Deed::Upload { words } => {
                let path = name.replacen("mxc://", "/_matrix/client/v1/media/download/", 1);
                let token = Some(session.token.as_str());
                let answer = session.http.call(Method::GET, &path, token, None).await;
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 200, "{name}: {}", answer.summary());
                assert_eq!(sha256(&answer.body), sha256(&file_of(words)), "the bytes of {name}");
            }
            Deed::Whisper { words } => heard.whispered.push(words.clone()),
            Deed::Note { count } => note = Some(*count),
            Deed::Topic { count } => topic = Some(*count),
            Deed::Claim => heard.claimed.push(name.clone()),
        }
    }

    // What was not answered may have been kept or not; asked again, it is kept once.
    if let Some(deed) = &diary.unsure {
        let answer = session.http.send(deed.request(session, scene)).await.expect("an answer");
        let name = deed.name_in(answer);
        match deed {
            Deed::Say { words } => heard.said.push(words.clone()),
            Deed::Whisper { words } => heard.whispered.push(words.clone()),
            Deed::Note { count } => note = Some(*count),
            Deed::Topic { count } => topic = Some(*count),
            Deed::Claim => heard.claimed.push(name),
            Deed::Upload { .. } => {}
        }
    }

    if let Some(count) = note {
        let path =
            format!("/_matrix/client/v3/user/{}/account_data/io.example.note", session.user_id);
        assert_eq!(session.get(&path).await["count"], count, "the last note of {}", diary.writer);
    }
    if let Some(count) = topic {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/io.example.topic/{}",
            scene.room_id, session.device_id
        );
        assert_eq!(session.get(&path).await["count"], count, "the last topic of {}", diary.writer);
    }
    heard
}

/// What must reach the reader.
#[derive(Debug, Default)]
pub struct Heard {
    /// Words in the room, in each writer's order.
    pub said: Vec<String>,
    /// Words to the device.
    pub whispered: Vec<String>,
    /// Keys handed out.
    pub claimed: Vec<String>,
}
