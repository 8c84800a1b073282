//! The one who listens with `/sync`, from the token before each kill.

use std::collections::HashMap;

use appliance_acceptance::person::Session;
use serde_json::{Value, json};

/// More than one life of the server brings, so that no gap appears.
const TIMELINE_MAX: usize = 500;

/// More keys than one life of the server hands out.
const KEYS_LOW: u64 = 40;

/// A syncing device.
#[derive(Debug)]
pub struct Reader {
    /// Their session.
    pub session: Session,
    room_id: String,
    since: Option<String>,
    /// The events that brought each word, over all lives.
    said: HashMap<String, Vec<String>>,
    whispered: HashMap<String, usize>,
}

impl Reader {
    /// Somebody who hears one room.
    pub fn new(session: Session, room_id: &str) -> Self {
        Self {
            session,
            room_id: room_id.into(),
            since: None,
            said: HashMap::new(),
            whispered: HashMap::new(),
        }
    }

    /// Syncs until nothing new comes.
    pub async fn listen(&mut self) {
        loop {
            let answer = self.session.get(&self.path()).await;
            let next = answer["next_batch"].as_str().expect("next_batch").to_owned();
            let news = self.take(&answer);
            let moved = self.since.as_deref() != Some(&next);
            self.since = Some(next);
            if !news && !moved {
                return;
            }
            if !news {
                // A token may move on for reasons of its own; once more shows that all is quiet.
                let quiet = self.session.get(&self.path()).await;
                if !self.take(&quiet) {
                    self.since = quiet["next_batch"].as_str().map(str::to_owned);
                    return;
                }
                self.since = quiet["next_batch"].as_str().map(str::to_owned);
            }
        }
    }

    fn path(&self) -> String {
        let filter = json!({ "room": { "timeline": { "limit": TIMELINE_MAX } } }).to_string();
        let filter: String = form_urlencoded::byte_serialize(filter.as_bytes()).collect();
        let since = self.since.as_ref().map(|s| format!("&since={s}")).unwrap_or_default();
        format!("/_matrix/client/v3/sync?timeout=0&filter={filter}{since}")
    }

    fn take(&mut self, answer: &Value) -> bool {
        let mut news = false;
        let timeline = &answer["rooms"]["join"][&self.room_id]["timeline"];
        if self.since.is_some() {
            assert_ne!(timeline["limited"], json!(true), "a gap after an old token");
        }
        for event in timeline["events"].as_array().into_iter().flatten() {
            news = true;
            if let (Some("m.room.message"), Some(body)) =
                (event["type"].as_str(), event["content"]["body"].as_str())
            {
                let event_id = event["event_id"].as_str().unwrap_or_default().to_owned();
                self.said.entry(body.to_owned()).or_default().push(event_id);
            }
        }
        for event in answer["to_device"]["events"].as_array().into_iter().flatten() {
            news = true;
            if let Some(body) = event["content"]["body"].as_str() {
                *self.whispered.entry(body.to_owned()).or_default() += 1;
            }
        }
        news
    }

    /// Every word came, and came once.
    pub fn assert_heard(&self, said: &[String], whispered: &[String]) {
        for words in said {
            let events = self.said.get(words);
            assert_eq!(events.map(Vec::len), Some(1), "`{words}` was heard as {events:?}");
        }
        for words in whispered {
            assert_eq!(self.whispered.get(words), Some(&1), "how often `{words}` was whispered");
        }
    }

    /// Puts one-time keys out for claiming when they run low; their names never occur again.
    pub async fn offer_keys(&self, cycle: usize) {
        let path = "/_matrix/client/v3/keys/upload";
        let left = self.session.post(path, json!({})).await;
        let left = left["one_time_key_counts"]["signed_curve25519"].as_u64().unwrap_or_default();
        if left >= KEYS_LOW {
            return;
        }
        let keys: serde_json::Map<String, Value> = (0..2 * KEYS_LOW)
            .map(|n| {
                let key = json!({ "key": format!("key{cycle}x{n}"), "signatures": {} });
                (format!("signed_curve25519:c{cycle}n{n}"), key)
            })
            .collect();
        self.session.post(path, json!({ "one_time_keys": keys })).await;
    }

    /// Walks the whole room backwards: every word is there once, whatever /sync brought.
    pub async fn assert_history(&self, said: &[String]) {
        let mut found: HashMap<String, usize> = HashMap::new();
        let mut from: Option<String> = None;
        loop {
            let start = from.as_ref().map(|f| format!("&from={f}")).unwrap_or_default();
            let path = format!(
                "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100{start}",
                self.room_id
            );
            let page = self.session.get(&path).await;
            for event in page["chunk"].as_array().into_iter().flatten() {
                if let Some(body) = event["content"]["body"].as_str() {
                    *found.entry(body.to_owned()).or_default() += 1;
                }
            }
            match page["end"].as_str() {
                Some(end) if page["chunk"].as_array().is_some_and(|c| !c.is_empty()) => {
                    from = Some(end.to_owned());
                }
                _ => break,
            }
        }
        for words in said {
            assert_eq!(found.get(words), Some(&1), "how often `{words}` is in the history");
        }
    }
}
