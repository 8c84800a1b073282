//! `POST /rooms/{roomId}/join` and `POST /join/{roomIdOrAlias}` ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#joining-rooms

use appliance_ledger::keyspaces::{MEMBERS, USER_ROOMS};
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
};
use appliance_model::{Caller, Error, Kind};
use appliance_rules::restricted::rooms_that_open;

use super::Rooms;
use super::build::{Draft, content_from};
use super::membership::checked_reason;
use super::room::OpenRoom;

/// Members are looked at in pages of this size when someone must vouch for a join.
const MEMBERS_PAGE: usize = 200;
/// A room in which none of so many members may invite has nobody to vouch.
const MEMBERS_LOOKED_AT_MAX: usize = 10_000;

/// What rules and other servers judge by.
const NOT_SAID_BY_JOINERS: [&str; 3] =
    ["membership", "join_authorised_via_users_server", "third_party_invite"];

/// What somebody says as they come in.
#[derive(Clone, Debug, Default)]
pub struct Joining {
    /// Why.
    pub reason: Option<String>,
    /// What else their member event is to hold; it cannot replace what this server puts there.
    pub more: CanonicalJsonObject,
}

impl From<Option<String>> for Joining {
    fn from(reason: Option<String>) -> Self {
        Self { reason, ..Self::default() }
    }
}

impl Rooms {
    /// Joins the caller to a room; returns when it would survive a power cut. Joining again does
    /// nothing.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: this server does not know the room.
    /// * [`appliance_model::Kind::Forbidden`]: not invited, banned, or no condition of a restricted
    ///   room is met.
    pub async fn join(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        reason: Option<String>,
    ) -> Result<(), Error> {
        self.join_via(caller, room_id, &[], reason).await
    }

    /// The same, where the caller says which other servers may know the room.
    ///
    /// # Errors
    ///
    /// As [`Rooms::join`]; also what the other servers say, and
    /// [`appliance_model::Kind::RemoteUnavailable`] if none of them can be reached.
    pub async fn join_via(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        via: &[OwnedServerName],
        joining: impl Into<Joining>,
    ) -> Result<(), Error> {
        self.limits.room(caller.user)?;
        let Joining { reason, more } = joining.into();
        let reason = checked_reason(reason)?;
        self.check_not_blocked(room_id).await?;
        let here = match self.house.ledger.room(room_id).await? {
            Some(room) => self.is_resident(room).await?,
            None => false,
        };
        if !here {
            return self.join_elsewhere(caller, room_id, via, reason).await;
        }
        let joining = Joining { reason, more };
        self.join_resident(caller, room_id, via, joining).await
    }

    /// Joins a room that this server is in.
    pub(crate) async fn join_resident(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        via: &[OwnedServerName],
        joining: Joining,
    ) -> Result<(), Error> {
        let reason = joining.reason.clone();
        match self.join_here(caller, room_id, joining).await {
            // Nobody of ours may let the caller in: somebody of another server in the room may.
            Err(refused) if refused.kind == Kind::Forbidden => {
                match self.others_may_vouch(caller, room_id).await? {
                    true => self.join_by_voucher(caller, room_id, via, reason).await,
                    false => Err(refused),
                }
            }
            joined => joined,
        }
    }

    /// Whether a restricted room has other servers in it, and the caller needs somebody to vouch.
    async fn others_may_vouch(&self, caller: &Caller, room_id: &RoomId) -> Result<bool, Error> {
        let room = self.enter(room_id).await?;
        if room.servers().next().is_none()
            || room.membership(&caller.user_id).await? == Some(MembershipState::Ban)
        {
            return Ok(false);
        }
        let rule = room.state(&StateEventType::RoomJoinRules, "").await?;
        Ok(rule.is_some_and(|rule| rooms_that_open(&rule, &room.rules.authorization).is_some()))
    }

    async fn join_here(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        joining: Joining,
    ) -> Result<(), Error> {
        let mut room = self.enter(room_id).await?;
        if room.membership(&caller.user_id).await? == Some(MembershipState::Join) {
            return Ok(());
        }
        let mut content = self.joining_content(caller).await?;
        content.reason = joining.reason;
        content.join_authorized_via_users_server = self.voucher(&room, caller).await?;
        let mut content = content_from(&content)?;
        for (name, value) in joining.more {
            // Who vouches is said by this server or by nobody.
            if !NOT_SAID_BY_JOINERS.contains(&name.as_str()) {
                content.entry(name).or_insert(value);
            }
        }
        let kind = StateEventType::RoomMember;
        let draft = Draft::state(caller.user_id.clone(), kind, caller.user_id.as_str(), content);
        room.add(draft, None).await?;
        room.leave().await?;
        Ok(())
    }

    /// Who vouches for a join to a restricted room: a member of ours who may invite, if the caller
    /// is in one of the rooms that open it. None if nobody needs to (the caller is invited or in
    /// the room, or the room is not restricted), or if the rules will refuse the join.
    pub(super) async fn voucher(
        &self,
        room: &OpenRoom<'_>,
        caller: &Caller,
    ) -> Result<Option<OwnedUserId>, Error> {
        let now = room.membership(&caller.user_id).await?;
        if matches!(now, Some(MembershipState::Invite | MembershipState::Join)) {
            return Ok(None);
        }
        let Some(join_rules) = room.state(&StateEventType::RoomJoinRules, "").await? else {
            return Ok(None);
        };
        let Some(rooms) = rooms_that_open(&join_rules, &room.rules.authorization) else {
            return Ok(None);
        };
        if !self.is_in_any(caller, &rooms).await? {
            return Ok(None);
        }
        let found = self.member_who_may_invite(room).await?;
        if found.is_none() {
            tracing::info!(
                kind = "join.nobody_vouches",
                room_id = %room.room_id,
                "no local member of a restricted room may invite, so nobody can join through it"
            );
        }
        Ok(found)
    }

    pub(super) async fn is_in_any(
        &self,
        caller: &Caller,
        rooms: &[OwnedRoomId],
    ) -> Result<bool, Error> {
        let ledger = &self.house.ledger;
        for room_id in rooms {
            let Some(room) = ledger.room(room_id).await? else { continue };
            let row = ledger.get(&USER_ROOMS, &(caller.user, room)).await?;
            if row.is_some_and(|row| row.membership == membership::JOIN) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) async fn member_who_may_invite(
        &self,
        room: &OpenRoom<'_>,
    ) -> Result<Option<OwnedUserId>, Error> {
        let levels = self.power_levels(room.room).await?;
        let ours =
            |user_id: &OwnedUserId| self.house.is_ours(user_id) && levels.user_can_invite(user_id);
        // Those with a level of their own first: usually one of them may.
        let creator = room.state(&StateEventType::RoomCreate, "").await?;
        let named = levels.users.keys().cloned().chain(creator.map(|event| event.sender.clone()));
        for user_id in named.filter(ours) {
            if room.membership(&user_id).await? == Some(MembershipState::Join) {
                return Ok(Some(user_id));
            }
        }
        let view = self.house.ledger.newest();
        let mut from = (room.room, membership::JOIN, appliance_model::UserNid(0));
        let to = (room.room, membership::JOIN + 1, appliance_model::UserNid(0));
        for _ in 0..MEMBERS_LOOKED_AT_MAX / MEMBERS_PAGE {
            let (rows, more) =
                view.scan_between(&MEMBERS, (&from, &to), Direction::Forward, MEMBERS_PAGE).await?;
            for ((_, _, user), _) in &rows {
                let user_id = self.house.ledger.user_id(*user).await?;
                if ours(&user_id) {
                    return Ok(Some(user_id));
                }
                from.2 = appliance_model::UserNid(user.0 + 1);
            }
            if !more {
                break;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::RoomVersionId as V;
    use serde_json::json;

    use super::*;
    use crate::scenario::Ward;

    use MembershipState as M;

    #[tokio::test]
    async fn an_invite_opens_a_room_once_and_joining_again_does_nothing() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room(&nurse).await;
        let refused = ward.try_set(&doctor, &room, &doctor.user_id, M::Join).await.unwrap_err();
        assert_eq!((refused.kind, &*refused.message), (Kind::Forbidden, NOT_INVITED));
        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
        let length = ward.timeline(&room).await.1.len();
        ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
        assert_eq!(ward.timeline(&room).await.1.len(), length);
    }

    const NOT_INVITED: &str = "You are not invited to this room.";

    #[tokio::test]
    async fn a_room_nobody_knows_is_not_found() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let room = RoomId::parse("!nowhere:hospital.example").unwrap();
        let refused = ward.services.rooms.join(&nurse, &room, None).await;
        assert_eq!(refused.unwrap_err().kind, Kind::NotFound);
    }

    /// A ward's side room opens for everyone in the ward, in every version that knows the rule.
    #[tokio::test]
    async fn members_of_the_ward_may_enter_its_side_room() {
        for (version, rule) in [
            (V::V8, "restricted"),
            (V::V9, "restricted"),
            (V::V10, "knock_restricted"),
            (V::V11, "restricted"),
            (V::V12, "knock_restricted"),
        ] {
            let ward = Ward::of_version(version.clone()).await;
            let [nurse, doctor, visitor] = ward.members(["nurse", "doctor", "visitor"]).await;
            let hall = ward.room_of(&[&nurse, &doctor]).await;
            let allow = json!([{ "type": "m.room_membership", "room_id": hall }]);
            let body = json!({ "initial_state": [{
                "type": "m.room.join_rules",
                "content": { "join_rule": rule, "allow": allow },
            }] });
            let side = ward.room_as(&nurse, body).await;

            ward.set(&doctor, &side, &doctor.user_id, M::Join).await;
            let member = ward.current(&side, ("m.room.member", doctor.user_id.as_str())).await;
            let voucher = &member["join_authorised_via_users_server"];
            assert_eq!(*voucher, nurse.user_id.as_str(), "{version}");
            let refused = ward.try_set(&visitor, &side, &visitor.user_id, M::Join).await;
            assert_eq!(refused.unwrap_err().kind, Kind::Forbidden, "{version}");

            // Who was invited needs nobody to vouch.
            ward.set(&nurse, &side, &visitor.user_id, M::Invite).await;
            ward.set(&visitor, &side, &visitor.user_id, M::Join).await;
            let member = ward.current(&side, ("m.room.member", visitor.user_id.as_str())).await;
            assert_eq!(member["join_authorised_via_users_server"], json!(null), "{version}");
        }
    }

    #[tokio::test]
    async fn without_anyone_who_may_invite_nobody_vouches() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let hall = ward.room_of(&[&nurse, &doctor]).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": hall }]);
        let body = json!({
            "initial_state": [{
                "type": "m.room.join_rules",
                "content": { "join_rule": "restricted", "allow": allow },
            }],
            "power_level_content_override": { "invite": 101 },
        });
        let side = ward.room_as(&nurse, body).await;
        let refused = ward.try_set(&doctor, &side, &doctor.user_id, M::Join).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden);
    }

    /// The one who may invite has no level of their own: members are looked through.
    #[tokio::test]
    async fn an_ordinary_member_vouches_where_everyone_may_invite() {
        let (ward, [nurse, doctor, aide]) = Ward::with_members(["nurse", "doctor", "aide"]).await;
        let hall = ward.room_of(&[&nurse, &doctor, &aide]).await;
        let allow = json!([{ "type": "m.room_membership", "room_id": hall }]);
        let body = json!({ "initial_state": [{
            "type": "m.room.join_rules",
            "content": { "join_rule": "restricted", "allow": allow },
        }] });
        let side = ward.room_as(&nurse, body).await;
        ward.set(&doctor, &side, &doctor.user_id, M::Join).await;
        ward.set(&nurse, &side, &nurse.user_id, M::Leave).await;
        ward.set(&aide, &side, &aide.user_id, M::Join).await;
        let member = ward.current(&side, ("m.room.member", aide.user_id.as_str())).await;
        assert_eq!(member["join_authorised_via_users_server"], doctor.user_id.as_str());
    }
}
