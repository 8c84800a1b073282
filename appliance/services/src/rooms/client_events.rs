//! Events as one device is shown them, with all that belongs in `unsigned`.

use std::sync::Arc;

use appliance_ledger::Event;
use appliance_ledger::rows::TimelineRow;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::{Caller, DeviceNid, Error, EventNid, RoomNid};

use super::Rooms;
use super::relations::Bundle;
use crate::client_event::{self, Unsigned};
use crate::sync::write::{List, Object};

/// Events with what was looked up for showing them.
pub struct ClientEvents {
    shown: Vec<Shown>,
    device: DeviceNid,
    now_ms: u64,
}

pub(super) struct Shown {
    pub(super) event: Arc<Event>,
    /// The reader's membership at the event, where that is told.
    membership: Option<MembershipState>,
    /// The state event it replaced, and whether the reader may see it.
    replaced: Option<(Arc<Event>, bool)>,
    /// The event that redacted it.
    redaction: Option<Arc<Event>>,
    /// What relates to it, in sum.
    pub(super) bundle: Option<Box<Bundle>>,
}

impl Rooms {
    /// Looks up what belongs in `unsigned` of these events of one room, in one trip. Each comes
    /// with the reader's membership at the event ([`Rooms::visible`]), if that is to be told.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn client_events(
        &self,
        reader: &Caller,
        room: RoomNid,
        events: Vec<(Arc<Event>, Option<MembershipState>)>,
    ) -> Result<ClientEvents, Error> {
        let mut shown = self.shown(reader, room, events).await?;
        self.bundle(reader, room, &mut shown, true).await?;
        Ok(ClientEvents { shown, device: reader.device, now_ms: self.house.clock.now_ms() })
    }

    /// The same without what relates to them.
    pub(super) async fn shown(
        &self,
        reader: &Caller,
        room: RoomNid,
        events: Vec<(Arc<Event>, Option<MembershipState>)>,
    ) -> Result<Vec<Shown>, Error> {
        let ledger = &self.house.ledger;
        let pick = |part: fn(&Event) -> Option<EventNid>| -> Vec<_> {
            events.iter().filter_map(|(event, _)| part(event)).collect()
        };
        let replaced = ledger.events(&pick(|event| event.replaces)).await?;
        let redactions = ledger.events(&pick(|event| event.redacted_by)).await?;
        // "prev_content … is only returned if … the client has permission to see the previous
        // event": what was there before is judged on the state at its own time.
        let replaced: Vec<_> =
            replaced.into_iter().map(|event| (event, TimelineRow::default())).collect();
        let may_see = self.visible(reader.user, room, &replaced).await?;
        let seen = replaced.into_iter().zip(may_see);
        let mut replaced = seen.map(|((event, _), seen)| (event, seen.is_some()));
        let mut redactions = redactions.into_iter();
        let shown = events.into_iter().map(|(event, membership)| Shown {
            replaced: event.replaces.and_then(|_| replaced.next()),
            redaction: event.redacted_by.and_then(|_| redactions.next()),
            event,
            membership,
            bundle: None,
        });
        Ok(shown.collect())
    }
}

impl ClientEvents {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.shown.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Writes one of them at the end of `out`. `room_id` is left out where the place says it.
    ///
    /// # Panics
    ///
    /// If there is no such event.
    pub fn write(&self, out: &mut String, index: usize, room_id: Option<&str>) {
        self.write_one(out, &self.shown[index], room_id);
    }

    fn write_one(&self, out: &mut String, shown: &Shown, room_id: Option<&str>) {
        let Shown { event, membership, replaced, redaction, bundle } = shown;
        // "if the client being given the event is the same one which sent it".
        let own = event.txn.as_ref().filter(|(device, _)| *device == self.device);
        let redacted_because = redaction.as_ref().map(|redaction| {
            let mut json = String::new();
            let unsigned = Unsigned {
                age_ms: client_event::age_ms(redaction, self.now_ms),
                ..Unsigned::default()
            };
            client_event::write(&mut json, redaction, room_id, unsigned);
            json
        });
        let relations = bundle.as_ref().map(|bundle| self.relations(bundle, room_id));
        let prev_content = replaced.as_ref().filter(|(_, may_see)| *may_see);
        let unsigned = Unsigned {
            age_ms: client_event::age_ms(event, self.now_ms),
            transaction_id: own.map(|(_, txn_id)| txn_id.as_str()),
            prev_content: prev_content.map(|(event, _)| event.content()),
            replaces_state: replaced.as_ref().map(|(event, _)| event.event_id.as_str()),
            redacted_because: redacted_because.as_deref(),
            membership: membership.as_ref(),
            relations: relations.as_deref(),
        };
        client_event::write(out, event, room_id, unsigned);
    }

    /// `m.relations` of an event.
    fn relations(&self, bundle: &Bundle, room_id: Option<&str>) -> String {
        let mut json = String::new();
        let mut object = Object::begin(&mut json);
        if !bundle.references.is_empty() {
            object.field("m.reference", |out| {
                let mut object = Object::begin(out);
                object.field("chunk", |out| {
                    let mut list = List::default();
                    for event_id in &bundle.references {
                        list.push(|out| {
                            let mut object = Object::begin(out);
                            object.text("event_id", event_id.as_str());
                            object.end();
                        });
                    }
                    list.write(out);
                });
                object.end();
            });
        }
        if let Some(edit) = &bundle.edit {
            object.field("m.replace", |out| self.write_one(out, edit, room_id));
        }
        if let Some(thread) = &bundle.thread {
            object.field("m.thread", |out| {
                let mut object = Object::begin(out);
                object.number("count", thread.count);
                object.flag("current_user_participated", thread.participated);
                object.field("latest_event", |out| self.write_one(out, &thread.latest, room_id));
                object.end();
            });
        }
        object.end();
        json
    }

    /// The same in the other order.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.shown.reverse();
        self
    }

    /// All of them, as a JSON array.
    pub fn to_json(&self, room_id: Option<&str>) -> String {
        let mut out = String::from("[");
        for index in 0..self.len() {
            if index > 0 {
                out.push(',');
            }
            self.write(&mut out, index, room_id);
        }
        out.push(']');
        out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::scenario::{Ward, text};

    use MembershipState as M;

    /// Everything a reader may see of a room, in client form, oldest first.
    async fn shown(ward: &Ward, reader: &Caller, room_id: &str) -> Vec<Value> {
        let rooms = &ward.services.rooms;
        let (room, events) = ward.timeline(room_id.try_into().unwrap()).await;
        let seen = rooms.visible(reader.user, room, &events).await.unwrap();
        let events = events.into_iter().zip(seen).filter(|(_, seen)| seen.is_some());
        let events = events.map(|((event, _), seen)| (event, seen)).collect();
        let page = rooms.client_events(reader, room, events).await.unwrap();
        serde_json::from_str(&page.to_json(Some(room_id))).unwrap()
    }

    #[tokio::test]
    async fn only_the_sending_device_hears_its_transaction_id() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let sent = text(&room, "txn \"1\"", "Bed 4 is free");
        ward.services.rooms.send_event(&nurse, &sent).await.unwrap();
        ward.clock.pass_ms(1_234);

        let to_nurse = shown(&ward, &nurse, room.as_str()).await.pop().unwrap();
        let expected = json!({ "age": 1_234, "membership": "join", "transaction_id": "txn \"1\"" });
        assert_eq!(to_nurse["unsigned"], expected);
        assert_eq!(to_nurse["room_id"], room.as_str());
        let to_doctor = shown(&ward, &doctor, room.as_str()).await.pop().unwrap();
        assert_eq!(to_doctor["unsigned"]["transaction_id"], Value::Null);
    }

    #[tokio::test]
    async fn what_was_there_before_is_shown_to_those_who_saw_it() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let body = json!({ "name": "Ward 1", "initial_state": [{
            "type": "m.room.history_visibility",
            "content": { "history_visibility": "joined" },
        }] });
        let room = ward.room_as(&nurse, body).await;
        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
        ward.state(&nurse, &room, ("m.room.name", ""), json!({ "name": "Ward 2" })).await;
        ward.state(&nurse, &room, ("m.room.name", ""), json!({ "name": "Ward 3" })).await;

        let to_nurse = shown(&ward, &nurse, room.as_str()).await;
        let names: Vec<_> = to_nurse.iter().filter(|e| e["type"] == "m.room.name").collect();
        assert_eq!(names[1]["unsigned"]["prev_content"], json!({ "name": "Ward 1" }));
        assert_eq!(names[1]["unsigned"]["replaces_state"], names[0]["event_id"]);

        let to_doctor = shown(&ward, &doctor, room.as_str()).await;
        let seen: Vec<_> = to_doctor.iter().filter(|e| e["type"] == "m.room.name").collect();
        assert_eq!(seen.len(), 2, "the first name was given before the doctor came");
        assert_eq!(seen[0]["unsigned"]["prev_content"], Value::Null);
        assert_eq!(seen[0]["unsigned"]["replaces_state"], names[0]["event_id"]);
        assert_eq!(seen[1]["unsigned"]["prev_content"], json!({ "name": "Ward 2" }));
    }
}
