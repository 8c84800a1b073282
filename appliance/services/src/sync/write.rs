//! The answer of `/v3/sync` as JSON, written once, never parsed again.

use std::fmt::Write as _;

use super::devices::{Company, DeviceLists, KeyCounts};

/// A JSON array that grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    json: String,
    /// How many elements it has.
    pub len: usize,
}

impl List {
    /// Adds what `write` writes.
    pub fn push(&mut self, write: impl FnOnce(&mut String)) {
        self.json.push(if self.len == 0 { '[' } else { ',' });
        self.len += 1;
        write(&mut self.json);
    }

    /// Adds an element that is JSON already.
    pub fn push_json(&mut self, element: &str) {
        self.push(|json| json.push_str(element));
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn write(&self, out: &mut String) {
        out.push_str(if self.is_empty() { "[" } else { &self.json });
        out.push(']');
    }
}

/// A JSON object that grows.
pub(crate) struct Object<'a> {
    out: &'a mut String,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    /// Adds a field whose value `write` writes.
    pub fn field(&mut self, name: &str, write: impl FnOnce(&mut String)) {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
        write_string(self.out, name);
        self.out.push(':');
        write(self.out);
    }

    pub fn text(&mut self, name: &str, value: &str) {
        self.field(name, |out| write_string(out, value));
    }

    pub fn number(&mut self, name: &str, value: u64) {
        self.field(name, |out| {
            let _ = write!(out, "{value}");
        });
    }

    pub fn flag(&mut self, name: &str, value: bool) {
        self.field(name, |out| out.push_str(if value { "true" } else { "false" }));
    }

    /// Adds `{"events": […]}` unless there are none.
    pub fn events(&mut self, name: &str, events: &List) {
        if !events.is_empty() {
            self.list(name, events);
        }
    }

    /// Adds `{"events": […]}`.
    pub fn list(&mut self, name: &str, events: &List) {
        self.field(name, |out| {
            let mut object = Object::begin(out);
            object.field("events", |out| events.write(out));
            object.end();
        });
    }

    pub fn end(self) {
        self.out.push('}');
    }
}

/// `text` as a JSON string.
pub(crate) fn write_string(out: &mut String, text: &str) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

pub(crate) fn write_strings<'a>(out: &mut String, texts: impl IntoIterator<Item = &'a str>) {
    let mut list = List::default();
    for text in texts {
        list.push(|json| write_string(json, text));
    }
    list.write(out);
}

/// Unread counts, of a room or of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Events that notify.
    pub notifications: u64,
    /// Among them, those that are for the user in particular.
    pub highlights: u64,
}

impl Unread {
    fn write(self, out: &mut String) {
        let Self { notifications, highlights } = self;
        let _ = write!(
            out,
            "{{\"highlight_count\":{highlights},\"notification_count\":{notifications}}}"
        );
    }
}

/// Which of the two forms of state a client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateForm {
    /// The state at the start of the timeline.
    #[default]
    Before,
    /// `state_after`: the state at its end.
    After,
    /// The same under the name of before its acceptance.
    AfterUnstable,
}

impl StateForm {
    fn name(self) -> &'static str {
        match self {
            Self::Before => "state",
            Self::After => "state_after",
            Self::AfterUnstable => "org.matrix.msc4222.state_after",
        }
    }
}

/// A joined or left room in the answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoomPart {
    pub state_form: StateForm,
    pub state: List,
    pub timeline: List,
    pub limited: bool,
    pub prev_batch: String,
    pub ephemeral: List,
    pub account_data: List,
    pub summary: Option<Summary>,
    pub unread: Option<Unread>,
    pub unread_threads: Option<Vec<(String, Unread)>>,
    /// Must be shown even if it holds nothing: the user has just joined or left.
    pub must_show: bool,
}

/// `m.heroes` and counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub heroes: Option<Vec<String>>,
    pub joined: u64,
    pub invited: u64,
}

impl RoomPart {
    pub fn is_empty(&self) -> bool {
        !self.must_show
            && self.state.is_empty()
            && self.timeline.is_empty()
            && self.ephemeral.is_empty()
            && self.account_data.is_empty()
    }

    pub fn write_joined(&self, out: &mut String) {
        let mut object = Object::begin(out);
        object.events("account_data", &self.account_data);
        // Empty or not: old clients look into it without asking whether it is there.
        object.list("ephemeral", &self.ephemeral);
        self.write_rest(object);
    }

    pub fn write_left(&self, out: &mut String) {
        let mut object = Object::begin(out);
        object.events("account_data", &self.account_data);
        self.write_rest(object);
    }

    fn write_rest(&self, mut object: Object<'_>) {
        // Empty or not, as above. With `use_state_after` it is how the client knows that the server
        // understood.
        object.list(self.state_form.name(), &self.state);
        if let Some(summary) = &self.summary {
            object.field("summary", |out| summary.write(out));
        }
        object.field("timeline", |out| {
            let mut object = Object::begin(out);
            object.field("events", |out| self.timeline.write(out));
            object.flag("limited", self.limited);
            object.text("prev_batch", &self.prev_batch);
            object.end();
        });
        if let Some(unread) = self.unread {
            object.field("unread_notifications", |out| unread.write(out));
        }
        if let Some(threads) = &self.unread_threads {
            object.field("unread_thread_notifications", |out| {
                let mut object = Object::begin(out);
                for (root, unread) in threads {
                    object.field(root, |out| unread.write(out));
                }
                object.end();
            });
        }
        object.end();
    }
}

impl Summary {
    fn write(&self, out: &mut String) {
        let mut object = Object::begin(out);
        if let Some(heroes) = &self.heroes {
            object.field("m.heroes", |out| {
                write_strings(out, heroes.iter().map(String::as_str));
            });
        }
        object.number("m.invited_member_count", self.invited);
        object.number("m.joined_member_count", self.joined);
        object.end();
    }
}

/// The whole answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub next_batch: String,
    pub account_data: List,
    pub presence: List,
    pub to_device: List,
    pub device_lists: Option<DeviceLists>,
    pub key_counts: KeyCounts,
    pub join: Vec<(String, RoomPart)>,
    pub leave: Vec<(String, RoomPart)>,
    pub invite: Vec<(String, List)>,
    pub knock: Vec<(String, List)>,
    /// Who came and went, for the device lists.
    pub company: Company,
    /// Something that is always in the answer has changed: key counts.
    pub counts_changed: bool,
}

impl Answer {
    /// Whether it tells nothing new.
    pub fn is_empty(&self) -> bool {
        self.account_data.is_empty()
            && self.presence.is_empty()
            && self.to_device.is_empty()
            && self.device_lists.is_none()
            && self.join.is_empty()
            && self.leave.is_empty()
            && self.invite.is_empty()
            && self.knock.is_empty()
            && !self.counts_changed
    }

    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(1_024);
        let mut object = Object::begin(&mut out);
        object.events("account_data", &self.account_data);
        if let Some(lists) = &self.device_lists {
            object.field("device_lists", |out| lists.write(out));
        }
        self.key_counts.write(&mut object);
        object.text("next_batch", &self.next_batch);
        object.events("presence", &self.presence);
        self.write_rooms(&mut object);
        object.events("to_device", &self.to_device);
        object.end();
        out
    }

    fn write_rooms(&self, object: &mut Object<'_>) {
        let nothing = self.join.is_empty()
            && self.leave.is_empty()
            && self.invite.is_empty()
            && self.knock.is_empty();
        if nothing {
            return;
        }
        object.field("rooms", |out| {
            let mut object = Object::begin(out);
            for (name, state_name, rooms) in
                [("invite", "invite_state", &self.invite), ("knock", "knock_state", &self.knock)]
            {
                write_map(&mut object, name, rooms, |state, out| {
                    let mut object = Object::begin(out);
                    object.field(state_name, |out| {
                        let mut object = Object::begin(out);
                        object.field("events", |out| state.write(out));
                        object.end();
                    });
                    object.end();
                });
            }
            write_map(&mut object, "join", &self.join, RoomPart::write_joined);
            write_map(&mut object, "leave", &self.leave, RoomPart::write_left);
            object.end();
        });
    }
}

impl DeviceLists {
    pub(super) fn write(&self, out: &mut String) {
        let mut object = Object::begin(out);
        for (name, ids) in [("changed", &self.changed), ("left", &self.left)] {
            object.field(name, |out| write_strings(out, ids.iter().map(String::as_str)));
        }
        object.end();
    }
}

impl KeyCounts {
    /// Always explicit: a missing count means zero to clients, and a missing list of fallback keys
    /// means that the server has none at all.
    pub(super) fn write(&self, object: &mut Object<'_>) {
        object.field("device_one_time_keys_count", |out| {
            let mut object = Object::begin(out);
            for (algorithm, count) in &self.one_time {
                object.number(algorithm, *count);
            }
            object.end();
        });
        object.field("device_unused_fallback_key_types", |out| {
            write_strings(out, self.unused_fallbacks.iter().map(String::as_str));
        });
    }
}

pub(super) fn write_map<T>(
    object: &mut Object<'_>,
    name: &str,
    rooms: &[(String, T)],
    write: impl Fn(&T, &mut String),
) {
    if rooms.is_empty() {
        return;
    }
    object.field(name, |out| {
        let mut object = Object::begin(out);
        for (room_id, part) in rooms {
            object.field(room_id, |out| write(part, out));
        }
        object.end();
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_empty_answer_still_counts_keys() {
        let answer = Answer {
            next_batch: "s1".to_owned(),
            key_counts: KeyCounts {
                one_time: vec![("signed_curve25519".to_owned(), 0)],
                unused_fallbacks: Vec::new(),
            },
            ..Answer::default()
        };
        assert!(answer.is_empty());
        let expected = json!({
            "next_batch": "s1",
            "device_one_time_keys_count": { "signed_curve25519": 0 },
            "device_unused_fallback_key_types": [],
        });
        assert_eq!(serde_json::from_str::<Value>(&answer.to_json()).unwrap(), expected);
    }

    #[test]
    fn strange_names_stay_inside_their_strings() {
        let mut part = RoomPart { prev_batch: "t1".to_owned(), ..RoomPart::default() };
        part.timeline.push_json("{\"a\":1}");
        part.timeline.push_json("{\"b\":2}");
        part.unread = Some(Unread { notifications: 2, highlights: 1 });
        let answer = Answer {
            join: vec![("!a\"b\\c\n:h".to_owned(), part)],
            device_lists: Some(DeviceLists { changed: vec!["@a:h".to_owned()], left: Vec::new() }),
            ..Answer::default()
        };
        let read: Value = serde_json::from_str(&answer.to_json()).unwrap();
        let room = &read["rooms"]["join"]["!a\"b\\c\n:h"];
        assert_eq!(room["timeline"]["events"], json!([{ "a": 1 }, { "b": 2 }]));
        assert_eq!(room["unread_notifications"]["notification_count"], 2);
        assert_eq!(read["device_lists"]["changed"], json!(["@a:h"]));
        assert!(!answer.is_empty());
    }
}
