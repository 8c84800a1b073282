//! `GET /make_join`, `/make_leave`, `/make_knock` ([spec]): the event with which a user of another server
//! would come, go or ask, for that server to sign.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms

use appliance_ledger::keyspaces::MEMBERS;
use appliance_ledger::membership;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::ruma::{OwnedUserId, RoomId, RoomVersionId, ServerName, UserId};
use appliance_model::{Error, Kind};
use appliance_rules::event_auth::may_send;
use appliance_rules::restricted::rooms_that_open;

use crate::rooms::build::{Draft, content_from};
use crate::rooms::{OpenRoom, Rooms};

impl Rooms {
    /// A template for the member event of a user of `origin`, as the JSON answer.
    ///
    /// `versions` are the room versions that the other server speaks; all, if it says none.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: this server is not in the room.
    /// * [`Kind::Forbidden`]: the user is not the other server's, the access list keeps that server out,
    ///   or the room's rules would refuse the event.
    /// * [`Kind::IncompatibleRoomVersion`]: the other server does not speak the room's version.
    /// * [`Kind::UnableToAuthoriseJoin`], [`Kind::UnableToGrantJoin`]: this server cannot vouch for a
    ///   join; another may.
    pub async fn make_member(
        &self,
        origin: &ServerName,
        (room_id, user_id): (&RoomId, &UserId),
        membership: MembershipState,
        versions: &[RoomVersionId],
    ) -> Result<String, Error> {
        if user_id.server_name() != origin {
            return Err(Error::forbidden("A server can only ask for its own users."));
        }
        let (_, version) = self.known(room_id).await?;
        let open = self.enter_for(origin, room_id).await?;
        if membership != MembershipState::Leave {
            self.check_shared(open.room, origin).await?;
        }
        if !versions.is_empty() && !versions.contains(&version) {
            let room_version = version.to_string();
            return Err(Error::new(
                Kind::IncompatibleRoomVersion { room_version },
                "Your server does not support this room's version.",
            ));
        }
        let mut content = RoomMemberEventContent::new(membership.clone());
        if membership == MembershipState::Join {
            content.join_authorized_via_users_server =
                self.voucher_for_other(&open, user_id).await?;
        }
        let kind = StateEventType::RoomMember.to_string();
        let draft =
            Draft::state(user_id.to_owned(), kind, user_id.as_str(), content_from(&content)?);
        let draft = open.dated(draft).await?;
        let (named, prev_events, auth_events) = open.references(&draft).await?;
        let place = open.place(&prev_events, &auth_events);
        let template = draft.clone().object(&self.house, &open.rules, &place)?;
        // Judged as if it were signed already: a template that would be refused helps nobody.
        let judged = draft.sign(&self.house, &open.rules, &place)?;
        if let Err(denial) = may_send(&judged, &named, &open.rules.authorization) {
            return Err(denial.error());
        }
        let event = serde_json::to_string(&template).map_err(Error::internal)?;
        Ok(format!(r#"{{"event":{event},"room_version":"{version}"}}"#))
    }

    /// Who vouches for a join of another server's user to a restricted room; none if nobody needs to.
    ///
    /// # Errors
    ///
    /// [`Kind::UnableToAuthoriseJoin`]: this server is in none of the rooms that open it;
    /// [`Kind::UnableToGrantJoin`]: nobody of ours may invite; [`Kind::Forbidden`]: the user is in none of
    /// those rooms.
    pub(super) async fn voucher_for_other(
        &self,
        open: &OpenRoom<'_>,
        user_id: &UserId,
    ) -> Result<Option<OwnedUserId>, Error> {
        let now = open.membership(user_id).await?;
        if matches!(now, Some(MembershipState::Invite | MembershipState::Join)) {
            return Ok(None);
        }
        let rule = open.state(&StateEventType::RoomJoinRules, "").await?;
        let rooms = rule.and_then(|rule| rooms_that_open(&rule, &open.rules.authorization));
        let Some(rooms) = rooms else { return Ok(None) };
        let ledger = &self.house.ledger;
        let (mut knows_one, mut is_in) = (false, false);
        for room_id in rooms {
            let Some(room) = ledger.room(&room_id).await? else { continue };
            // What a room was when our people left it says nothing of now.
            if !self.is_resident(room).await? {
                continue;
            }
            knows_one = true;
            if let Some(user) = ledger.user(user_id).await?
                && ledger.get(&MEMBERS, &(room, membership::JOIN, user)).await?.is_some()
            {
                is_in = true;
                break;
            }
        }
        if !is_in {
            return Err(match knows_one {
                true => {
                    Error::forbidden("You are not invited, nor a member of a room that opens this.")
                }
                false => Error::new(
                    Kind::UnableToAuthoriseJoin,
                    "This server is in none of the rooms whose members may join.",
                ),
            });
        }
        let found = self.member_who_may_invite(open).await?;
        found.map(Some).ok_or_else(|| {
            Error::new(Kind::UnableToGrantJoin, "Nobody on this server may invite to the room.")
        })
    }
}
