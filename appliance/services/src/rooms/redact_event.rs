//! `PUT /rooms/{roomId}/redact/{eventId}/{txnId}` ([spec]), and what a redaction does, however it
//! was sent.
//!
//! The redaction and its effect are one commit: the target's row is overwritten with what the
//! room version's redaction algorithm leaves, so the content is gone from the store, and files that
//! only the target showed go with it.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid

use std::sync::Arc;

use appliance_ledger::keyspaces::{EVENTS, WAITING_REDACTIONS};
use appliance_ledger::{Commit, Event};
use appliance_model::ruma::canonical_json::redact_in_place;
use appliance_model::ruma::events::TimelineEventType;
use appliance_model::ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedUserId, RoomId, TransactionId, UserId,
};
use appliance_model::{Caller, Error, EventNid, Kind, Pdu, Role};
use appliance_rules::Denial;
use bytes::Bytes;
use quick_cache::sync::Cache;

use super::Rooms;
use super::build::Draft;
use super::membership::check_inside;
use super::room::OpenRoom;
use crate::media::link::unlink;

/// What to take back.
#[derive(Clone, Debug)]
pub struct Redaction<'a> {
    /// The event.
    pub event_id: &'a EventId,
    /// So that a retry does it once.
    pub txn_id: &'a TransactionId,
    /// Why.
    pub reason: Option<String>,
}

impl Rooms {
    /// Takes an event back; returns the redaction's ID when it would survive a power cut.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: the room has no such event.
    /// * [`appliance_model::Kind::Forbidden`]: it is another's, and the caller lacks the power.
    pub async fn redact(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        redaction: Redaction<'_>,
    ) -> Result<OwnedEventId, Error> {
        let path: &[&[u8]] = &[b"redact", room_id.as_bytes(), redaction.event_id.as_bytes()];
        let txn = self.txn(caller, path, redaction.txn_id);
        let mut room = self.enter(room_id).await?;
        if let Some(event_id) = self.answered(&txn).await? {
            return Ok(event_id);
        }
        self.limits.message(caller.user)?;
        // Who is not in the room learns nothing of what is.
        check_inside(&room, &caller.user_id).await?;
        let event = self.house.ledger.event_by_id(redaction.event_id).await?;
        let event = event.filter(|event| event.room == room.room);
        let event = event.ok_or_else(|| Error::not_found("The room has no such event."))?;
        // "Redact their own events" is what the suspended still may.
        let author = event.part(event.spans.sender).trim_matches('"');
        if caller.role == Role::Suspended && author != caller.user_id.as_str() {
            let why = "While you are suspended you can only take back your own messages.";
            return Err(Error::new(Kind::UserSuspended, why));
        }
        let mut content = CanonicalJsonObject::from([(
            "redacts".to_owned(),
            redaction.event_id.to_string().into(),
        )]);
        if let Some(reason) = redaction.reason {
            content.insert("reason".to_owned(), reason.into());
        }
        let kind = TimelineEventType::RoomRedaction;
        let draft = Draft::message(caller.user_id.clone(), kind, content);
        let sent = room.add(draft, Some(txn.of_event())).await?;
        if let Some(commit) = room.commit_mut() {
            self.remember(&txn, &sent.event_id, commit);
        }
        room.leave().await?;
        Ok(sent.event_id.clone())
    }
}

impl OpenRoom<'_> {
    /// Whether the sender of a redaction may take its target back: with the power to, or because it
    /// is their own.
    ///
    /// "the power level of the redaction event's sender is greater than or equal to the redact
    /// level" ([redactions]); for others' events on the same server the rule of the domain would
    /// let any colleague in, so people need to be the author.
    ///
    /// [redactions]: https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions
    pub(super) async fn may_redact(&self, redaction: &Pdu) -> Result<(), Error> {
        let Some(target) = self.redacted_event(redaction).await? else { return Ok(()) };
        let author = target.part(target.spans.sender).trim_matches('"');
        let own = author == redaction.sender.as_str();
        let why = match target.kind() {
            // What is left of these opens the room to what they keep out: a room without its
            // creator, or without its list of servers.
            "m.room.create" | "m.room.server_acl" => {
                "What the room stands on cannot be taken back; set it anew."
            }
            _ if own || self.has_power(&redaction.sender).await? => return Ok(()),
            _ => "You can only take back your own messages here.",
        };
        let denial = Denial {
            verb: "event.refused",
            who: redaction.sender.to_string(),
            object: format!("{} m.room.redaction {}", self.room_id, target.event_id),
            why: why.into(),
        };
        Err(self.rooms.house.ledger.refuse(denial).await)
    }

    async fn has_power(&self, user_id: &UserId) -> Result<bool, Error> {
        let levels = self.rooms.power_levels(self.room).await?;
        Ok(levels.for_user(user_id) >= levels.redact)
    }

    /// The event of this room that a redaction names, if this server has it.
    async fn redacted_event(&self, redaction: &Pdu) -> Result<Option<Arc<Event>>, Error> {
        let Some(event_id) = &redaction.redacts else { return Ok(None) };
        let event = self.rooms.house.ledger.event_by_id(event_id).await?;
        Ok(event.filter(|event| event.room == self.room))
    }

    /// Whether another server's redaction counts: "the power level of the redaction event's sender is
    /// greater than or equal to the redact level", or "the domain of the redaction event's sender
    /// matches that of the original event's sender" ([redactions]).
    ///
    /// [redactions]: https://spec.matrix.org/v1.19/rooms/v11/#handling-redactions
    pub(crate) async fn redaction_counts(
        &self,
        redaction: &Pdu,
        author: &UserId,
    ) -> Result<bool, Error> {
        Ok(author.server_name() == redaction.sender.server_name()
            || self.has_power(&redaction.sender).await?)
    }

    /// The author of what a redaction takes back, if this server has it.
    pub(crate) async fn author_of_target(
        &self,
        redaction: &Pdu,
    ) -> Result<Option<OwnedUserId>, Error> {
        let target = self.redacted_event(redaction).await?;
        Ok(target.and_then(|target| {
            UserId::parse(target.part(target.spans.sender).trim_matches('"')).ok()
        }))
    }

    /// An event whose redaction came before it: what is left of it, and the redaction.
    pub(super) async fn taken_back_already(
        &self,
        pdu: &Pdu,
        commit: &mut Commit,
    ) -> Result<Option<(Arc<Pdu>, EventNid)>, Error> {
        let ledger = &self.rooms.house.ledger;
        if self.rooms.house.is_ours(&pdu.sender) {
            return Ok(None);
        }
        let waiting = ledger.event_digest(&pdu.event_id);
        let Some(number) = ledger.get(&WAITING_REDACTIONS, &waiting).await? else {
            return Ok(None);
        };
        let redaction = self.pdu(EventNid(number)).await?;
        commit.delete(&WAITING_REDACTIONS, &waiting);
        if !self.redaction_counts(&redaction, &pdu.sender).await? {
            return Ok(None);
        }
        let mut pruned = self.pruned(&pdu.event_id, &pdu.json)?;
        pruned.rejected = pdu.rejected;
        Ok(Some((Arc::new(pruned), EventNid(number))))
    }

    /// What the room version's redaction algorithm leaves of an event.
    pub(crate) fn pruned(&self, event_id: &EventId, json: &[u8]) -> Result<Pdu, Error> {
        let mut object: CanonicalJsonObject =
            serde_json::from_slice(json).map_err(Error::internal)?;
        redact_in_place(&mut object, &self.rules.redaction, None).map_err(Error::internal)?;
        let json = Bytes::from(serde_json::to_vec(&object).map_err(Error::internal)?);
        Pdu::parse(
            event_id.to_owned(),
            self.room_id.clone(),
            json,
            self.rules.redaction.content_field_redacts,
        )
        .map_err(Error::internal)
    }

    /// Prunes the target in the commit of its redaction.
    pub(super) async fn apply_redaction(
        &mut self,
        redaction: &Pdu,
        number: EventNid,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let Some(target) = self.redacted_event(redaction).await? else { return Ok(()) };
        if target.redacted_by.is_some() {
            return Ok(());
        }
        let pruned = self.pruned(&target.event_id, &target.json)?;
        let json = pruned.json.clone();
        let event =
            Event { json, spans: pruned.spans, redacted_by: Some(number), ..(*target).clone() };
        commit.put(&EVENTS, &target.number, &event.to_row());
        unlink(&self.rooms.house, self.room, target.number, commit).await?;
        self.drop_relation(&target, commit).await?;
        let due_ms = self.rotated_ms().await?;
        self.let_session_go(&target, due_ms, commit);
        // In this order: the count of rewrites goes up before the parsed form is forgotten.
        commit.hold(self.rooms.house.ledger.rewriting(target.number));
        commit.hold(Reparsed { pdus: self.rooms.pdus.clone(), number: target.number });
        Ok(())
    }
}

/// An event whose parsed form is forgotten when the commit that rewrites it is done.
pub(super) struct Reparsed {
    pub pdus: Arc<Cache<EventNid, Arc<Pdu>>>,
    pub number: EventNid,
}

impl Drop for Reparsed {
    fn drop(&mut self) {
        self.pdus.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use serde_json::{Value, json};

    use super::*;
    use crate::scenario::Ward;

    fn taking_back<'a>(event_id: &'a str, txn_id: &'a str) -> Redaction<'a> {
        Redaction {
            event_id: event_id.try_into().unwrap(),
            txn_id: txn_id.into(),
            reason: Some("wrong patient".to_owned()),
        }
    }

    #[tokio::test]
    async fn what_is_taken_back_is_gone_from_the_store_in_every_room_version() {
        for version in crate::rooms::ROOM_VERSIONS {
            let ward = Ward::of_version(version.clone()).await;
            let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
            let room = ward.room_of(&[&nurse, &doctor]).await;
            let said = ward.say(&doctor, &room, "Mrs Marker, bed 4").await;
            let rooms = &ward.services.rooms;
            let first = rooms.redact(&doctor, &room, taking_back(&said, "t1")).await.unwrap();
            let again = rooms.redact(&doctor, &room, taking_back(&said, "t1")).await.unwrap();
            assert_eq!(first, again, "a retry does it once");

            for _ in 0..2 {
                let event_id: &EventId = said.as_str().try_into().unwrap();
                let shown = ward.services.rooms.one_event(&nurse, &room, event_id).await.unwrap();
                let shown: Value = serde_json::from_str(&shown.to_json(None)).unwrap();
                assert_eq!(shown[0]["content"], json!({}), "{version}");
                let because = &shown[0]["unsigned"]["redacted_because"];
                assert_eq!(because["event_id"], first.as_str());
                assert_eq!(because["redacts"], said.as_str(), "{version}");
            }
            let ward = ward.power_cut_and_restart().await;
            let (_, events) = ward.timeline(&room).await;
            let kept: String = events.iter().map(|(event, _)| event.content()).collect();
            assert!(!kept.contains("Marker"), "{version}");
        }
    }

    #[tokio::test]
    async fn others_messages_need_power_and_state_keeps_what_rooms_stand_on() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let said = ward.say(&nurse, &room, "Bed 4 is free").await;
        let rooms = &ward.services.rooms;
        let refused = rooms.redact(&doctor, &room, taking_back(&said, "t1")).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden);
        rooms.redact(&nurse, &room, taking_back(&said, "t1")).await.unwrap();
        let unknown = taking_back("$unknown", "t2");
        let unknown = rooms.redact(&nurse, &room, unknown).await.unwrap_err();
        assert_eq!(unknown.kind, Kind::NotFound);

        // The creator takes back the doctor's join: the doctor stays in.
        let number = ward.services.house.ledger.room(&room).await.unwrap().unwrap();
        let kind = appliance_model::ruma::events::StateEventType::RoomMember;
        let join = rooms.current(number, &kind, doctor.user_id.as_str()).await.unwrap().unwrap();
        let join_id = join.event_id.to_string();
        rooms.redact(&nurse, &room, taking_back(&join_id, "t3")).await.unwrap();
        ward.say(&doctor, &room, "still here").await;
        let join = rooms.current(number, &kind, doctor.user_id.as_str()).await.unwrap().unwrap();
        assert_eq!(join.content(), r#"{"membership":"join"}"#);
    }

    /// Since v1.18 `/send` takes redactions, with `redacts` in the content in every version.
    #[tokio::test]
    async fn a_redaction_by_send_does_the_same() {
        for version in super::super::ROOM_VERSIONS {
            let ward = Ward::of_version(version.clone()).await;
            let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
            let room = ward.room_of(&[&nurse, &doctor]).await;
            let said = ward.say(&nurse, &room, "Mrs Marker, bed 4").await;
            let send = async |who: &Caller, txn: &str| {
                let content = json!({ "redacts": said, "reason": "wrong room" });
                let request = crate::scenario::event(&room, ("m.room.redaction", txn), content);
                ward.services.rooms.send_event(who, &request).await
            };
            let refused = send(&doctor, "t1").await.unwrap_err();
            assert_eq!(refused.kind, Kind::Forbidden, "{version}");
            let first = send(&nurse, "t1").await.unwrap();
            assert_eq!(send(&nurse, "t1").await.unwrap(), first, "{version}");
            let (_, events) = ward.timeline(&room).await;
            let kept: String = events.iter().map(|(event, _)| event.content()).collect();
            assert!(!kept.contains("Marker"), "{version}");
        }
    }

    #[tokio::test]
    async fn what_a_room_stands_on_stays() {
        let (ward, [nurse, visitor]) = Ward::with_members(["nurse", "visitor"]).await;
        let room = ward.room(&nurse).await;
        let acl = json!({ "allow": ["*"], "deny": ["elsewhere.example"] });
        ward.state(&nurse, &room, ("m.room.server_acl", ""), acl).await;
        let (_, events) = ward.timeline(&room).await;
        let rooms = &ward.services.rooms;
        for kind in ["m.room.create", "m.room.server_acl"] {
            let (event, _) = events.iter().find(|(event, _)| event.kind() == kind).unwrap();
            let target = taking_back(event.event_id.as_str(), kind);
            let refused = rooms.redact(&nurse, &room, target).await.unwrap_err();
            assert_eq!(refused.kind, Kind::Forbidden, "{kind}");
        }
        let unknown = rooms.redact(&visitor, &room, taking_back("$unknown", "t")).await;
        assert_eq!(unknown.unwrap_err().kind, Kind::Forbidden, "strangers learn nothing");
        let other = ward.room(&nurse).await;
        let elsewhere = ward.say(&nurse, &other, "in another room").await;
        let elsewhere = rooms.redact(&nurse, &room, taking_back(&elsewhere, "t")).await;
        assert_eq!(elsewhere.unwrap_err().kind, Kind::NotFound);
    }

    /// Judging reads parsed events from memory: none of them may still say what was taken back.
    #[tokio::test]
    async fn judgements_read_what_is_left() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let raised = json!({
            "users": { (nurse.user_id.as_str()): 100, (doctor.user_id.as_str()): 50 },
            "notifications": { "room": 7 },
        });
        ward.state(&nurse, &room, ("m.room.power_levels", ""), raised).await;
        ward.state(&nurse, &room, ("m.room.name", ""), json!({ "name": "Mrs Marker" })).await;
        ward.state(&doctor, &room, ("m.room.topic", ""), json!({ "topic": "x" })).await;
        assert_eq!(ward.current(&room, ("m.room.name", "")).await["name"], "Mrs Marker");
        let (_, events) = ward.timeline(&room).await;
        for kind in ["m.room.name", "m.room.power_levels"] {
            let (event, _) = events.iter().rev().find(|(event, _)| event.kind() == kind).unwrap();
            let target = taking_back(event.event_id.as_str(), kind);
            ward.services.rooms.redact(&nurse, &room, target).await.unwrap();
        }
        assert_eq!(ward.current(&room, ("m.room.name", "")).await, json!({}));
        let levels = ward.current(&room, ("m.room.power_levels", "")).await;
        assert_eq!(levels["users"][doctor.user_id.as_str()], 50, "levels are kept");
        assert_eq!(levels["notifications"], json!(null), "the rest is not");
    }
}
