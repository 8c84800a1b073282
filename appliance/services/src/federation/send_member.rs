//! `PUT /send_join`, `/send_leave`, `/send_knock` ([spec]): a user of another server comes, goes or asks,
//! through this server, which passes it on to the rest of the room.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms

use appliance_ledger::Root;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::signatures::sign_event;
use appliance_model::ruma::{CanonicalJsonValue, EventId, RoomId, ServerName, UserId};
use appliance_model::{Error, EventNid, Kind, Pdu, RoomNid};
use appliance_rules::inbound::Standing;
use serde_json::value::RawValue;

use super::check::{Formed, formed};
use super::fetch::{Errand, Source};
use super::receive::Inflow;
use super::resident::{json_of, strings_json, turn_of};
use crate::rooms::Rooms;
use crate::rooms::arrive::Sending;

impl Rooms {
    /// Takes a join; the answer holds the state before it and what allows all of it, as JSON.
    ///
    /// `omit_members`: the other server would do without members. They are sent all the same, and the
    /// answer says so.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: this server is not in the room.
    /// * [`Kind::InvalidParam`]: the event is not what the path says.
    /// * [`Kind::Forbidden`]: the room's rules refuse the join.
    pub async fn take_join(
        &self,
        origin: &ServerName,
        (room_id, event_id): (&RoomId, &EventId),
        event: &RawValue,
    ) -> Result<String, Error> {
        let number =
            self.take_member(origin, (room_id, event_id), event, MembershipState::Join).await?;
        let event = self.house.ledger.event(number).await?;
        let room = event.room;
        let state: Vec<EventNid> = {
            let entries = self.house.ledger.states(room).all(event.state_before).await?;
            entries.into_iter().map(|(_, number)| number).collect()
        };
        let open = self.enter_for(origin, room_id).await?;
        let chain = open.auth_chain(state.iter().copied().chain([number])).await?;
        let others: Vec<_> = open.servers().map(|server| server.to_string()).collect();
        drop(open);
        let own = self.house.server_name.as_str();
        let servers = strings_json(others.iter().map(String::as_str).chain([own]));
        let chain: Vec<_> = chain.into_iter().collect();
        let (chain, state) = (self.pdus_json(&chain).await?, self.pdus_json(&state).await?);
        let event = json_of(&event);
        Ok(format!(
            r#"{{"auth_chain":{chain},"event":{event},"members_omitted":false,"origin":"{own}","servers_in_room":{servers},"state":{state}}}"#
        ))
    }

    /// Takes a leave.
    ///
    /// # Errors
    ///
    /// As [`Rooms::take_join`].
    pub async fn take_leave(
        &self,
        origin: &ServerName,
        at: (&RoomId, &EventId),
        event: &RawValue,
    ) -> Result<String, Error> {
        self.take_member(origin, at, event, MembershipState::Leave).await?;
        Ok("{}".to_owned())
    }

    /// Takes a knock; the answer is what the room shows to those not in it.
    ///
    /// # Errors
    ///
    /// As [`Rooms::take_join`].
    pub async fn take_knock(
        &self,
        origin: &ServerName,
        at: (&RoomId, &EventId),
        event: &RawValue,
    ) -> Result<String, Error> {
        let number = self.take_member(origin, at, event, MembershipState::Knock).await?;
        let event = self.house.ledger.event(number).await?;
        let face = self.face_pdus(event.room, event.state_before).await?;
        Ok(format!(r#"{{"knock_room_state":[{}]}}"#, face.join(",")))
    }

    /// What a room shows of itself to servers whose users are not in it yet: full events ([MSC4311]).
    ///
    /// [MSC4311]: https://github.com/matrix-org/matrix-spec-proposals/pull/4311
    pub(super) async fn face_pdus(&self, room: RoomNid, root: Root) -> Result<Vec<String>, Error> {
        let mut face = Vec::new();
        // The policy, too: whoever is called learns of which class the room is.
        let policy = StateEventType::from(appliance_rules::policy::POLICY_TYPE);
        for kind in crate::rooms::FACE.into_iter().chain([policy]) {
            let event = self.state_at(room, root, &kind, "").await?;
            face.extend(event.map(|event| json_of(&event).to_owned()));
        }
        Ok(face)
    }

    async fn take_member(
        &self,
        origin: &ServerName,
        (room_id, event_id): (&RoomId, &EventId),
        event: &RawValue,
        membership: MembershipState,
    ) -> Result<EventNid, Error> {
        let (room, room_id, rules) = self.known_room(room_id).await?;
        drop(self.enter_for(origin, &room_id).await?);
        if membership != MembershipState::Leave {
            self.check_shared(room, origin).await?;
        }
        let mut formed = formed(event, &rules).map_err(Error::invalid_param)?;
        if formed.room_id != room_id || formed.event_id != *event_id {
            return Err(Error::invalid_param("The event is not the one that the path names."));
        }
        let user_id = own_member(&formed, origin, &membership)?;
        if membership == MembershipState::Join {
            self.vouch(&mut formed, &room_id, &user_id).await?;
        }
        let pdu = self.verified(formed, &rules).await?.map_err(Error::forbidden)?;
        let _turn = self.receiving.enter(turn_of(self, &room_id, origin)).await;
        self.is_of_now(&room_id, &user_id, &pdu).await?;
        let errand = Errand::begin(&self.house);
        let mut inflow = Inflow::new(self, Source::new(origin, &room_id, &rules, &errand));
        inflow.sending = Sending::AllBut(origin.to_owned());
        let standing = inflow.live(pdu).await?;
        inflow.flush().await?;
        match standing {
            Standing::Accepted => {
                let number = self.house.ledger.event_number(event_id).await?;
                number.ok_or_else(|| Error::internal("an accepted event is not there"))
            }
            Standing::SoftFailed(why) | Standing::Rejected(why) => Err(Error::forbidden(why)),
        }
    }

    /// A request that was under way for long, or comes a second time, must not undo what was asked for since:
    /// whoever has come back meanwhile does not leave by what they sent before.
    async fn is_of_now(&self, room_id: &RoomId, user_id: &UserId, pdu: &Pdu) -> Result<(), Error> {
        let known = self.house.ledger.event_by_id(&pdu.event_id).await?;
        if known.is_some_and(|known| !known.outlier) {
            return Ok(());
        }
        let open = self.enter(room_id).await?;
        let now = open.state(&StateEventType::RoomMember, user_id.as_str()).await?;
        match now.is_none_or(|now| pdu.auth_events.contains(&now.event_id)) {
            true => Ok(()),
            false => Err(Error::forbidden("The room has gone on since this was made: ask anew.")),
        }
    }

    /// "the resident server … must sign the event" if one of its users vouches for the join: after
    /// looking again whether that is so.
    async fn vouch(
        &self,
        formed: &mut Formed,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), Error> {
        let content = formed.object.get("content").and_then(CanonicalJsonValue::as_object);
        let voucher = content
            .and_then(|content| content.get("join_authorised_via_users_server"))
            .and_then(CanonicalJsonValue::as_str)
            .and_then(|voucher| UserId::parse(voucher).ok());
        let Some(voucher) = voucher.filter(|voucher| self.house.is_ours(voucher)) else {
            return Ok(());
        };
        let open = self.enter(room_id).await?;
        let now = open.membership(user_id).await?;
        if !matches!(now, Some(MembershipState::Invite | MembershipState::Join)) {
            self.voucher_for_other(&open, user_id).await?;
        }
        let levels = self.power_levels(open.room).await?;
        let is_in = open.membership(&voucher).await? == Some(MembershipState::Join);
        if !is_in || !levels.user_can_invite(&voucher) {
            return Err(Error::new(Kind::UnableToGrantJoin, "Who is to vouch may not invite."));
        }
        let (own, key) = (self.house.server_name.as_str(), &self.house.signing_key);
        sign_event(own, key, &mut formed.object, &open.rules.redaction).map_err(Error::internal)
    }
}

/// The user whose own member event this is, and whose server sends it.
pub(super) fn own_member(
    formed: &Formed,
    origin: &ServerName,
    membership: &MembershipState,
) -> Result<appliance_model::ruma::OwnedUserId, Error> {
    let text = |name: &str| formed.object.get(name).and_then(CanonicalJsonValue::as_str);
    let content = formed.object.get("content").and_then(CanonicalJsonValue::as_object);
    let says =
        content.and_then(|content| content.get("membership")).and_then(CanonicalJsonValue::as_str);
    let is_member = text("type") == Some(&*StateEventType::RoomMember.to_string());
    if !is_member || says != Some(membership.as_str()) || text("sender") != text("state_key") {
        return Err(Error::invalid_param("The event is not a member event of its sender's own."));
    }
    let user_id = text("sender").and_then(|sender| UserId::parse(sender).ok());
    user_id.filter(|user_id| user_id.server_name() == origin).ok_or_else(|| {
        Error::forbidden("The event's sender is not a user of the server that sends it.")
    })
}
