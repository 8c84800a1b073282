//! Turning down an invite to a room that this server is not in, and taking back a knock ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites

use std::sync::Arc;

use appliance_ledger::keyspaces::{CALLS, USER_ROOMS};
use appliance_ledger::rows::MembershipRow;
use appliance_ledger::{Commit, membership};
use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::ruma::{RoomId, ServerName, UserId};
use appliance_model::{Caller, Error, EventNid, Pdu, RoomNid, UserNid};
use appliance_rules::Permit;

use super::join::Made;
use super::line::Ask;
use crate::rooms::Rooms;
use crate::rooms::build::{Draft, Place, content_from};

impl Rooms {
    /// Takes the caller out of a room that this server is not in. The other servers are told if they can
    /// be reached; the caller is out in any case.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if the caller is neither invited nor has knocked.
    pub(crate) async fn leave_elsewhere(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        reason: Option<String>,
    ) -> Result<(), Error> {
        let (room, _) = self.known(room_id).await?;
        let row = self.house.ledger.get(&USER_ROOMS, &(caller.user, room)).await?;
        let row = match row {
            Some(row) if matches!(row.membership, membership::LEAVE) => return Ok(()),
            Some(row) if row.membership != membership::BAN => row,
            _ => return Err(Error::forbidden("You are neither in this room nor invited to it.")),
        };
        let mut told = None;
        if let Ok(ways) = self.ways_in(caller, room_id, &[]).await {
            for server in ways {
                match self
                    .leave_through(&server, &caller.user_id, room_id, (reason.clone(), 0))
                    .await
                {
                    Ok(pdu) => {
                        told = Some(pdu);
                        break;
                    }
                    Err(error) => tracing::info!(kind = "federation.leave", %server, %error,
                        room.id = %room_id, "another server could not be told of a leave"),
                }
            }
        }
        let pdu = match told {
            Some(pdu) => pdu,
            None => self.leave_untold(caller, room_id, EventNid(row.event), reason).await?,
        };
        let mut open = self.enter(room_id).await?;
        let mut commit = open.begin(Permit::own("event.sent", &caller.user_id, &pdu.event_id));
        let event = open.add_outlier(&Arc::new(pdu), &mut commit).await?;
        commit.delete(&CALLS, &(room, caller.user));
        self.stand_outside((caller.user, room), membership::LEAVE, event, &mut commit).await?;
        open.resume(commit);
        open.leave().await?;
        Ok(())
    }

    /// Has another server take a leave, dated later than `after_ms` (milliseconds since the Unix epoch).
    pub(super) async fn leave_through(
        &self,
        server: &ServerName,
        user_id: &UserId,
        room_id: &RoomId,
        (reason, after_ms): (Option<String>, u64),
    ) -> Result<Pdu, Error> {
        let mut content = RoomMemberEventContent::new(MembershipState::Leave);
        content.reason = reason;
        let Made { pdu, .. } = self.made_by(server, (user_id, room_id), content, after_ms).await?;
        let event = String::from_utf8_lossy(&pdu.json).into_owned();
        let (room_id, event_id) = (room_id.to_owned(), pdu.event_id.clone());
        let _: serde_json::Value =
            self.ask(server, Ask::SendLeave { room_id, event_id, event }).await?;
        Ok(pdu)
    }

    /// A leave that nobody else could be told of: it follows the invite, for our own user's devices.
    async fn leave_untold(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        invite: EventNid,
        reason: Option<String>,
    ) -> Result<Pdu, Error> {
        let open = self.enter(room_id).await?;
        let invite = open.pdu(invite).await?;
        let mut content = RoomMemberEventContent::new(MembershipState::Leave);
        content.reason = reason;
        let kind = appliance_model::ruma::events::TimelineEventType::RoomMember;
        let (user_id, content) = (&caller.user_id, content_from(&content)?);
        let draft = Draft::state(user_id.clone(), kind, user_id.as_str(), content);
        let before = [invite.event_id.clone()];
        let place = Place {
            room_id: Some(room_id),
            prev_events: &before,
            auth_events: &before,
            depth: invite.depth + 1,
        };
        draft.sign(&self.house, &open.rules, &place)
    }

    /// Writes down what a local user is to a room that this server is not in.
    pub(super) async fn stand_outside(
        &self,
        (user, room): (UserNid, RoomNid),
        code: u8,
        event: EventNid,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let known = self.house.ledger.get(&USER_ROOMS, &(user, room)).await?;
        let joined_until = known.and_then(|row| row.joined_until);
        commit.stamp(move |position, rows| {
            let row = MembershipRow {
                membership: code,
                position: position.0,
                event: event.0,
                forgotten: false,
                since: position.0,
                joined_until,
            };
            rows.put(&USER_ROOMS, &(user, room), &row);
        });
        commit.touched().users.push(user);
        commit.touched().memberships.push((user, room, false));
        Ok(())
    }
}
