//! Setting and reading a room's state.

use std::sync::Arc;

use appliance_ledger::keyspaces::HEADS;
use appliance_ledger::{Event, Root};
use appliance_model::ruma::OwnedEventId;
use appliance_model::ruma::api::client::state::send_state_event::v3::Request;
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::{Caller, Error, RoomNid};

use super::Rooms;
use super::build::{Draft, content_of};

impl Rooms {
    /// Sets one state event ([spec]).
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
    ///
    /// # Errors
    ///
    /// As [`Rooms::send_event`].
    pub async fn send_state(
        &self,
        caller: &Caller,
        request: &Request,
    ) -> Result<OwnedEventId, Error> {
        let mut room = self.enter(&request.room_id).await?;
        let content = content_of(&request.body)?;
        let kind = TimelineEventType::from(request.event_type.to_string());
        let draft = Draft {
            at: request.timestamp,
            ..Draft::state(caller.user_id.clone(), kind, request.state_key.as_str(), content)
        };
        let event = room.add(draft, None).await?;
        room.leave().await?;
        Ok(event.event_id.clone())
    }

    /// A current state event, without entering the room.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn current(
        &self,
        room: RoomNid,
        kind: &StateEventType,
        key: &str,
    ) -> Result<Option<Arc<Event>>, Error> {
        let root = self.current_root(room).await?;
        self.state_at(room, root, kind, key).await
    }

    /// The root of a room's current state.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn current_root(&self, room: RoomNid) -> Result<Root, Error> {
        let head = self.house.ledger.get(&HEADS, &room).await?.unwrap_or_default();
        Ok(Root(head.state_root))
    }

    /// A state event of the state `root`.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn state_at(
        &self,
        room: RoomNid,
        root: Root,
        kind: &StateEventType,
        key: &str,
    ) -> Result<Option<Arc<Event>>, Error> {
        let ledger = &self.house.ledger;
        let Some(key) = ledger.state_key(kind, key).await? else { return Ok(None) };
        let Some(number) = ledger.states(room).get(root, key).await? else { return Ok(None) };
        ledger.event(number).await.map(Some)
    }
}
