//! Setting and reading a room's state.

use std::sync::Arc;

use appliance_ledger::keyspaces::HEADS;
use appliance_ledger::{Event, Root};
use appliance_model::ruma::api::client::state::send_state_event::v3::Request;
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, UserId};
use appliance_model::{Caller, Error, RoomNid};

use super::Rooms;
use super::build::{Draft, content_of};
use super::membership::check_inside;
use super::room::OpenRoom;

impl Rooms {
    /// Sets one state event ([spec]). State that says so already is not set again: the answer is the
    /// event that set it.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
    ///
    /// # Errors
    ///
    /// As [`Rooms::send_event`], and
    ///
    /// * [`appliance_model::Kind::BadAlias`], [`appliance_model::Kind::InvalidParam`]: the canonical
    ///   alias names an alias that does not point at the room, or none at all.
    /// * [`appliance_model::Kind::NotFound`]: an invite for someone who does not exist.
    pub async fn send_state(
        &self,
        caller: &Caller,
        request: &Request,
    ) -> Result<OwnedEventId, Error> {
        let content = content_of(&request.body)?;
        let mut room = self.enter(&request.room_id).await?;
        let content = self.checked_state(caller, &room, request, content).await?;
        let kind = TimelineEventType::from(request.event_type.to_string());
        let draft = Draft {
            at: request.timestamp,
            ..Draft::state(caller.user_id.clone(), kind, request.state_key.as_str(), content)
        };
        let event = room.add(draft, None).await?;
        room.leave().await?;
        Ok(event.event_id.clone())
    }

    /// What the authorization rules do not look at.
    async fn checked_state(
        &self,
        caller: &Caller,
        room: &OpenRoom<'_>,
        request: &Request,
        content: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject, Error> {
        match &request.event_type {
            StateEventType::RoomMember => {
                self.checked_member(caller, room, &request.state_key, content).await
            }
            kind @ StateEventType::RoomCanonicalAlias if request.state_key.is_empty() => {
                let current = room.state(kind, "").await?;
                let current = current.and_then(|now| serde_json::from_str(now.content.get()).ok());
                self.check_canonical_alias(&content, (room.room, current.as_ref())).await?;
                Ok(content)
            }
            StateEventType::RoomEncryption => {
                // "algorithm: Required." Clients take an encryption event without it for none, and
                // would go on in the clear.
                let algorithm = content.get("algorithm").and_then(CanonicalJsonValue::as_str);
                if algorithm.is_none_or(str::is_empty) {
                    return Err(Error::bad_json("Encryption needs an `algorithm`."));
                }
                Ok(content)
            }
            _ => Ok(content),
        }
    }

    async fn checked_member(
        &self,
        caller: &Caller,
        room: &OpenRoom<'_>,
        target: &str,
        mut content: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject, Error> {
        const VOUCHER: &str = "join_authorised_via_users_server";
        let target = UserId::parse(target)
            .map_err(|_| Error::invalid_param("The state key of a member event is a user ID."))?;
        // Only this server says who vouches; a client that copies an old event would pass on a name
        // that may have left.
        content.remove(VOUCHER);
        match content.get("membership").and_then(CanonicalJsonValue::as_str) {
            Some("invite") => {
                check_inside(room, &caller.user_id).await?;
                self.check_invitable(&target).await?;
            }
            Some("join") if target == caller.user_id => {
                if let Some(voucher) = self.voucher(room, caller).await? {
                    content.insert(VOUCHER.to_owned(), voucher.to_string().into());
                }
            }
            Some(_) => {}
            None => return Err(Error::bad_json("A member event needs a `membership`.")),
        }
        Ok(content)
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
