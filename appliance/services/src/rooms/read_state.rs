//! `GET /rooms/{roomId}/state` and `/state/{eventType}/{stateKey}` ([spec]): the current state for
//! those in the room, the state as of their leaving for those who left.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstate

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::{Event, Root, membership};
use appliance_model::ruma::RoomId;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::history_visibility::HistoryVisibility;
use appliance_model::{Caller, Error, RoomNid};

use super::Rooms;
use super::visible::visibility_set_by;
use crate::client_event::{self, Unsigned};

/// What is returned of a state event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateForm {
    /// Its content.
    #[default]
    Content,
    /// All of it, in client form.
    Event,
}

/// From where a reader looks at a room's state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standpoint {
    pub room: RoomNid,
    /// The state they may read.
    pub root: Root,
    /// Those who left see nothing from this position on.
    pub until: Option<i64>,
}

impl Rooms {
    /// All state events, as a JSON array in client form.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] for those who never were in the room.
    pub async fn full_state(&self, caller: &Caller, room_id: &RoomId) -> Result<String, Error> {
        let at = self.standpoint(caller, room_id).await?;
        let ledger = &self.house.ledger;
        let entries = ledger.states(at.room).all(at.root).await?;
        let numbers: Vec<_> = entries.into_iter().map(|(_, number)| number).collect();
        let events = ledger.events(&numbers).await?;
        Ok(self.plain_list(events.iter().map(|event| &**event), room_id))
    }

    /// One state event, as JSON.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`] for those who never were in the room.
    /// * [`appliance_model::Kind::NotFound`]: there is no such state.
    pub async fn state_event(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        (kind, key): (&StateEventType, &str),
        form: StateForm,
    ) -> Result<String, Error> {
        let at = self.standpoint(caller, room_id).await?;
        let event = self.state_at(at.room, at.root, kind, key).await?;
        let event = event.ok_or_else(|| Error::not_found("The room has no such state."))?;
        match form {
            StateForm::Content => Ok(event.content().to_owned()),
            StateForm::Event => {
                let events = self.client_events(caller, at.room, vec![(event, None)]).await?;
                let mut json = String::new();
                events.write(&mut json, 0, Some(room_id.as_str()));
                Ok(json)
            }
        }
    }

    /// Events as a JSON array, with nothing in `unsigned` but their age: what long lists need.
    pub(super) fn plain_list<'a>(
        &self,
        events: impl Iterator<Item = &'a Event>,
        room_id: &RoomId,
    ) -> String {
        let now_ms = self.house.clock.now_ms();
        let mut out = String::from("[");
        for event in events {
            if out.len() > 1 {
                out.push(',');
            }
            let age_ms = client_event::age_ms(event, now_ms);
            let unsigned = Unsigned { age_ms, ..Unsigned::default() };
            client_event::write(&mut out, event, Some(room_id.as_str()), unsigned);
        }
        out.push(']');
        out
    }

    /// From where the caller may look at the room.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if nowhere.
    pub(super) async fn standpoint(
        &self,
        caller: &Caller,
        room_id: &RoomId,
    ) -> Result<Standpoint, Error> {
        // A room that does not exist looks like one that the caller is not in.
        let not_in = || Error::forbidden("You are not in this room and never were.");
        let ledger = &self.house.ledger;
        let room = ledger.room(room_id).await?.ok_or_else(not_in)?;
        let row = ledger.get(&USER_ROOMS, &(caller.user, room)).await?;
        let row = row.filter(|row| !row.forgotten);
        let is_in = row.as_ref().is_some_and(|row| row.membership == membership::JOIN);
        if is_in || self.is_world_readable(room).await? {
            return Ok(Standpoint { room, root: self.current_root(room).await?, until: None });
        }
        let until = row.and_then(|row| row.joined_until).ok_or_else(not_in)?.cast_signed();
        let root = self.root_before(room, until).await?;
        Ok(Standpoint { room, root, until: Some(until) })
    }

    /// The state of a room before a place in its timeline.
    pub(super) async fn root_before(&self, room: RoomNid, place: i64) -> Result<Root, Error> {
        let newest = self.house.ledger.recent(room, (i64::MIN, place), 1).await?;
        Ok(newest.events.first().map(|(_, row)| Root(row.state_after)).unwrap_or_default())
    }

    pub(super) async fn is_joined(&self, caller: &Caller, room: RoomNid) -> Result<bool, Error> {
        let row = self.house.ledger.get(&USER_ROOMS, &(caller.user, room)).await?;
        Ok(row.is_some_and(|row| row.membership == membership::JOIN))
    }

    pub(super) async fn is_world_readable(&self, room: RoomNid) -> Result<bool, Error> {
        let kind = StateEventType::RoomHistoryVisibility;
        let event = self.current(room, &kind, "").await?;
        let visibility = event.map(|event| visibility_set_by(&event));
        Ok(visibility == Some(HistoryVisibility::WorldReadable))
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use serde_json::{Value, json};

    use super::*;
    use crate::scenario::{Ward, visibility};

    async fn name(ward: &Ward, who: &Caller, room: &RoomId) -> Result<Value, Kind> {
        let kind = (&StateEventType::RoomName, "");
        let read = ward.services.rooms.state_event(who, room, kind, StateForm::Content).await;
        read.map(|json| serde_json::from_str(&json).unwrap()).map_err(|error| error.kind)
    }

    #[tokio::test]
    async fn who_left_reads_the_state_of_their_time() {
        let (ward, [nurse, doctor, visitor]) =
            Ward::with_members(["nurse", "doctor", "visitor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let rename = async |to: &str| {
            ward.state(&nurse, &room, ("m.room.name", ""), json!({ "name": to })).await;
        };
        assert_eq!(name(&ward, &nurse, &room).await, Err(Kind::NotFound), "nothing set yet");
        rename("Ward 4").await;
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        rename("Ward 5").await;
        assert_eq!(name(&ward, &nurse, &room).await, Ok(json!({ "name": "Ward 5" })));
        assert_eq!(name(&ward, &doctor, &room).await, Ok(json!({ "name": "Ward 4" })));
        // An invite that is turned down opens nothing new.
        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        assert_eq!(name(&ward, &doctor, &room).await, Ok(json!({ "name": "Ward 4" })));
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        assert_eq!(name(&ward, &doctor, &room).await, Ok(json!({ "name": "Ward 4" })));
        ward.services.rooms.forget(&doctor, &room).await.unwrap();
        assert_eq!(name(&ward, &doctor, &room).await, Err(Kind::Forbidden));

        assert_eq!(name(&ward, &visitor, &room).await, Err(Kind::Forbidden));
        ward.set(&nurse, &room, &visitor.user_id, M::Invite).await;
        assert_eq!(name(&ward, &visitor, &room).await, Err(Kind::Forbidden), "invited only");
        visibility(&ward, &nurse, &room, "world_readable").await;
        assert_eq!(name(&ward, &visitor, &room).await, Ok(json!({ "name": "Ward 5" })));
        let nowhere = RoomId::parse("!nowhere:hospital.example").unwrap();
        assert_eq!(name(&ward, &nurse, &nowhere).await, Err(Kind::Forbidden));
    }

    #[tokio::test]
    async fn all_state_and_one_whole_event() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let room = ward.room_as(&nurse, json!({ "name": "Ward 4" })).await;
        ward.state(&nurse, &room, ("m.room.name", ""), json!({ "name": "Ward 5" })).await;
        let rooms = &ward.services.rooms;
        let all: Value =
            serde_json::from_str(&rooms.full_state(&nurse, &room).await.unwrap()).unwrap();
        let mut kinds: Vec<_> =
            all.as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
        kinds.sort_unstable();
        assert_eq!(
            kinds,
            [
                "m.room.create",
                "m.room.guest_access",
                "m.room.history_visibility",
                "m.room.join_rules",
                "m.room.member",
                "m.room.name",
                "m.room.power_levels",
            ]
        );
        let kind = (&StateEventType::RoomName, "");
        let event = rooms.state_event(&nurse, &room, kind, StateForm::Event).await.unwrap();
        let event: Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["content"], json!({ "name": "Ward 5" }));
        assert_eq!(event["room_id"], room.as_str());
        assert_eq!(event["unsigned"]["prev_content"], json!({ "name": "Ward 4" }));
    }
}
