//! `PUT /rooms/{roomId}/send/{eventType}/{txnId}` ([spec]): one person says one thing in one room.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid

use appliance_model::ruma::api::client::message::send_message_event::v3::Request;
use appliance_model::ruma::events::{MessageLikeEventType, TimelineEventType};
use appliance_model::ruma::{OwnedEventId, RoomId, TransactionId};
use appliance_model::{Caller, Error};

use super::Rooms;
use super::build::{Draft, content_of};
use super::txns::Txn;
use crate::policy::prepare;

impl Rooms {
    /// Adds one message event to a room; returns when the event would survive a power cut.
    ///
    /// The event, its timeline place, the transaction ID, the outgoing federation work and the
    /// audit entry are one commit: after a crash all of them exist or none does. Repeating `txn_id`
    /// from the same device, room and event type returns the first event ID and writes nothing.
    /// The limit is [`appliance_model::EVENT_BYTES_MAX`] bytes of canonical JSON.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: this server does not know the room.
    /// * [`appliance_model::Kind::BadJson`]: the content is no canonical JSON object.
    /// * [`appliance_model::Kind::TooLarge`]: the signed event exceeds the limit.
    /// * [`appliance_model::Kind::Forbidden`]: the room's rules or the house policy refuse it. Only
    ///   the refusal is recorded, in the audit trail.
    /// * [`appliance_model::Kind::Limited`]: the caller says too much at once; nothing was sent.
    /// * [`appliance_model::Kind::Unavailable`]: the disk did not confirm. Retrying with the same
    ///   `txn_id` is safe.
    pub async fn send_event(
        &self,
        caller: &Caller,
        request: &Request,
    ) -> Result<OwnedEventId, Error> {
        let kind = request.event_type.to_string();
        let txn = self.txn_of_event(caller, (&request.room_id, &kind), &request.txn_id);
        // Only one writer is inside a room at a time, so what we read below stays true.
        let mut room = self.enter(&request.room_id).await?;
        if let Some(event_id) = self.answered(&txn).await? {
            return Ok(event_id);
        }
        self.limits.message(caller.user)?;
        let mut content = content_of(&request.body)?;
        prepare(&self.house, &room, &mut content).await?;
        let draft = Draft {
            at: request.timestamp.filter(|_| caller.appservice.is_some()),
            ..Draft::message(caller.user_id.clone(), TimelineEventType::from(kind), content)
        };
        let event = room.add(draft, Some(txn.of_event())).await?;
        if let Some(commit) = room.commit_mut() {
            self.remember(&txn, &event.event_id, commit);
        }
        room.leave().await?;
        Ok(event.event_id.clone())
    }

    /// The event that this transaction has sent already, if it has.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn sent_before(
        &self,
        caller: &Caller,
        (room_id, kind): (&RoomId, &MessageLikeEventType),
        txn_id: &TransactionId,
    ) -> Result<Option<OwnedEventId>, Error> {
        self.answered(&self.txn_of_event(caller, (room_id, &kind.to_string()), txn_id)).await
    }

    fn txn_of_event(
        &self,
        caller: &Caller,
        (room_id, kind): (&RoomId, &str),
        txn_id: &TransactionId,
    ) -> Txn {
        self.txn(caller, &[b"send", room_id.as_bytes(), kind.as_bytes()], txn_id)
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;

    use crate::scenario::{Ward, text};

    /// A nurse's phone loses the answer, not the message: the retry must not say it twice.
    #[tokio::test]
    async fn a_retry_after_a_power_cut_sends_once() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let request = text(&room, "txn-1", "Bed 4 is free");
        let first = ward.services.rooms.send_event(&nurse, &request).await.unwrap();
        let entries = ward.audit().await;

        let ward = ward.power_cut_and_restart().await;
        assert_eq!(ward.audit().await, entries, "what was acknowledged is still there");
        let again = ward.services.rooms.send_event(&nurse, &request).await.unwrap();

        assert_eq!(first, again);
        assert_eq!(ward.audit().await, entries, "the retry wrote nothing");
        let other = ward.services.rooms.send_event(&doctor, &request).await.unwrap();
        assert_ne!(first, other, "a transaction ID belongs to one device");
    }

    #[tokio::test]
    async fn a_stranger_is_refused_and_only_the_audit_trail_remembers() {
        let (ward, [nurse, visitor]) = Ward::with_members(["nurse", "visitor"]).await;
        let room = ward.room(&nurse).await;
        let refused = ward.services.rooms.send_event(&visitor, &text(&room, "t", "hello")).await;

        assert_eq!(refused.unwrap_err().kind, Kind::Forbidden);
        assert_eq!(ward.audit().await.last().unwrap(), "event.refused @visitor:hospital.example");
    }
}
