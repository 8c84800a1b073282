//! The two wire forms: names and places differ, what is told does not.

use std::fmt::Write as _;

use super::super::write::{List, Object, write_map, write_string, write_strings};
use super::answer::{AccountData, Answer, Extensions, Hero, RoomAnswer};
use super::request::Form;

impl Answer {
    /// The answer as JSON, with the `pos` to come back with.
    pub fn to_json(&self, pos: &str, form: Form) -> String {
        let mut out = String::with_capacity(1_024);
        let mut object = Object::begin(&mut out);
        object.field("extensions", |out| self.extensions.write(out));
        object.field("lists", |out| {
            let mut object = Object::begin(out);
            for (name, count) in &self.counts {
                object.field(name, |out| {
                    let _ = write!(out, "{{\"count\":{count}}}");
                });
            }
            object.end();
        });
        object.text("pos", pos);
        write_map(&mut object, "rooms", &self.rooms, |room, out| room.write(out, form));
        if let Some(txn_id) = &self.txn_id {
            object.text("txn_id", txn_id);
        }
        object.end();
        out
    }
}

impl RoomAnswer {
    fn write(&self, out: &mut String, form: Form) {
        let merged = form == Form::Merged;
        let mut object = Object::begin(out);
        if let Some(stamp) = self.bump_stamp {
            object.number("bump_stamp", stamp);
        }
        if merged {
            object.text("membership", self.membership);
            if !self.lists.is_empty() {
                let lists = self.lists.iter().map(String::as_str);
                object.field("lists", |out| write_strings(out, lists));
            }
        }
        if self.initial {
            object.field("initial", write_true);
        }
        if let Some(state) = &self.stripped_state {
            let name = if merged { "stripped_state" } else { "invite_state" };
            object.field(name, |out| state.write(out));
        }
        self.write_face(&mut object);
        self.write_events(&mut object, merged);
        object.end();
    }

    fn write_face(&self, object: &mut Object<'_>) {
        for (name, value) in [("name", &self.name), ("avatar", &self.avatar)] {
            match value {
                Some(Some(text)) => object.text(name, text),
                Some(None) => object.field(name, |out| out.push_str("null")),
                None => {}
            }
        }
        if let Some(heroes) = &self.heroes {
            object.field("heroes", |out| {
                let mut list = List::default();
                heroes.iter().for_each(|hero| list.push(|out| hero.write(out)));
                list.write(out);
            });
        }
        if let Some(is_dm) = self.is_dm {
            object.field("is_dm", |out| out.push_str(if is_dm { "true" } else { "false" }));
        }
        if let Some((joined, invited)) = self.members {
            object.number("invited_count", invited);
            object.number("joined_count", joined);
        }
        if let Some(unread) = self.unread {
            object.number("highlight_count", unread.highlights);
            object.number("notification_count", unread.notifications);
        }
    }

    fn write_events(&self, object: &mut Object<'_>, merged: bool) {
        let mut state = self.required_state.clone();
        if merged {
            for (kind, key) in &self.gone {
                state.push(|out| {
                    let mut object = Object::begin(out);
                    object.text("state_key", key);
                    object.text("type", kind);
                    object.end();
                });
            }
        }
        if !state.is_empty() {
            object.field("required_state", |out| state.write(out));
        }
        if !self.timeline.is_empty() {
            let name = if merged { "timeline_events" } else { "timeline" };
            object.field(name, |out| self.timeline.write(out));
            object.number("num_live", self.num_live);
        }
        if self.expanded {
            let name = if merged { "expanded_timeline" } else { "unstable_expanded_timeline" };
            object.field(name, write_true);
        }
        if self.limited {
            object.field("limited", write_true);
        }
        if let Some(token) = &self.prev_batch {
            object.text("prev_batch", token);
        }
    }
}

impl Hero {
    fn write(&self, out: &mut String) {
        let mut object = Object::begin(out);
        if let Some(avatar) = &self.avatar {
            object.text("avatar_url", avatar);
        }
        if let Some(name) = &self.name {
            object.text("displayname", name);
        }
        object.text("user_id", &self.user_id);
        object.end();
    }
}

impl Extensions {
    fn write(&self, out: &mut String) {
        let mut object = Object::begin(out);
        if let Some(data) = self.account_data.as_ref().filter(|data| !data.is_empty()) {
            object.field("account_data", |out| data.write(out));
        }
        if let Some(e2ee) = &self.e2ee {
            object.field("e2ee", |out| {
                let mut object = Object::begin(out);
                if let Some(lists) = &e2ee.device_lists {
                    object.field("device_lists", |out| lists.write(out));
                }
                e2ee.key_counts.write(&mut object);
                object.end();
            });
        }
        for (name, rooms) in [("receipts", &self.receipts), ("typing", &self.typing)] {
            let Some(rooms) = rooms.as_ref().filter(|rooms| !rooms.is_empty()) else { continue };
            object.field(name, |out| {
                let mut object = Object::begin(out);
                object.field("rooms", |out| {
                    let mut object = Object::begin(out);
                    for (room_id, event) in rooms {
                        object.field(room_id, |out| out.push_str(event));
                    }
                    object.end();
                });
                object.end();
            });
        }
        let threads = self.thread_subscriptions.as_ref();
        if let Some((name, changes)) = threads.filter(|(_, changes)| !changes.is_empty()) {
            object.field(name, |out| {
                let mut object = Object::begin(out);
                for (part, value) in changes {
                    object.field(part, |out| {
                        let _ = write!(out, "{value}");
                    });
                }
                object.end();
            });
        }
        // Ruma wants `next_batch` whenever the extension is on.
        if let Some(messages) = &self.to_device {
            object.field("to_device", |out| {
                let mut object = Object::begin(out);
                object.field("events", |out| messages.events.write(out));
                object.text("next_batch", &messages.next_batch.to_string());
                object.end();
            });
        }
        object.end();
    }
}

impl AccountData {
    fn write(&self, out: &mut String) {
        let mut object = Object::begin(out);
        object.field("global", |out| self.global.write(out));
        object.field("rooms", |out| {
            let mut object = Object::begin(out);
            for (room_id, events) in &self.rooms {
                object.field(room_id, |out| events.write(out));
            }
            object.end();
        });
        object.end();
    }
}

fn write_true(out: &mut String) {
    out.push_str("true");
}

/// What a request hears that was given up for a later one: nothing new, and where it was.
pub(super) fn nothing_new(pos: Option<&str>) -> String {
    let mut out = String::from("{\"extensions\":{},\"lists\":{},\"pos\":");
    write_string(&mut out, pos.unwrap_or_default());
    out.push('}');
    out
}
