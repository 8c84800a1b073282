//! `POST /rooms/{roomId}/leave` and `/forget` ([spec]): going, turning an invite down, taking a knock
//! back; and no longer hearing of a room.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#leaving-rooms

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::membership;
use appliance_model::ruma::RoomId;
use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::{Caller, Error, Kind};
use appliance_rules::Permit;

use super::Rooms;
use super::membership::checked_reason;

impl Rooms {
    /// Takes the caller out of a room. Leaving again does nothing.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: this server does not know the room.
    /// * [`Kind::Forbidden`]: the caller never was in the room, or is banned from it.
    pub async fn leave(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        reason: Option<String>,
    ) -> Result<(), Error> {
        let reason = checked_reason(reason)?;
        let mut room = self.enter(room_id).await?;
        if !room.is_resident() {
            drop(room);
            return self.leave_elsewhere(caller, room_id, reason).await;
        }
        if room.membership(&caller.user_id).await? == Some(MembershipState::Leave) {
            return Ok(());
        }
        let mut content = RoomMemberEventContent::new(MembershipState::Leave);
        content.reason = reason;
        room.add_member(&caller.user_id, &caller.user_id, &content).await?;
        room.leave().await?;
        Ok(())
    }

    /// Forgets a room: "a user will no longer be able to retrieve history for this room". A new
    /// invite brings the room back.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: the caller never had to do with such a room.
    /// * [`Kind::StillInRoom`]: the caller is still in it or invited to it: "they must leave the
    ///   room before calling this API".
    pub async fn forget(&self, caller: &Caller, room_id: &RoomId) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let unknown = || Error::not_found("You have never been in that room.");
        let room = ledger.room(room_id).await?.ok_or_else(unknown)?;
        // No member event may come in between reading the row and writing it.
        let inside = self.doors.enter(room.0).await;
        let key = (caller.user, room);
        let mut row = ledger.get(&USER_ROOMS, &key).await?.ok_or_else(unknown)?;
        if !matches!(row.membership, membership::LEAVE | membership::BAN) {
            return Err(Error::new(Kind::StillInRoom, "Leave the room before forgetting it."));
        }
        if row.forgotten {
            return Ok(());
        }
        row.forgotten = true;
        row.joined_until = None;
        let mut commit = ledger.begin(Permit::own("room.forgotten", &caller.user_id, room_id));
        commit.put(&USER_ROOMS, &key, &row);
        commit.touched().memberships.push((caller.user, room, false));
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Ward;

    use MembershipState as M;

    #[tokio::test]
    async fn leaving_twice_writes_once_and_strangers_cannot_leave() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room(&nurse).await;
        let stranger = ward.try_set(&doctor, &room, &doctor.user_id, M::Leave).await.unwrap_err();
        assert_eq!(stranger.kind, Kind::Forbidden);
        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        let length = ward.timeline(&room).await.1.len();
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        assert_eq!(ward.timeline(&room).await.1.len(), length);
        let nowhere = RoomId::parse("!nowhere:hospital.example").unwrap();
        let unknown = ward.services.rooms.leave(&doctor, &nowhere, None).await.unwrap_err();
        assert_eq!(unknown.kind, Kind::NotFound);
    }

    /// Where branches of a room meet, dates decide which of two member events counts.
    #[tokio::test]
    async fn after_a_clock_was_set_back_who_leaves_has_left_and_who_returns_is_in() {
        const HOUR_MS: u64 = 3_600_000;
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let sent_ms = async || {
            let open = ward.services.rooms.enter(&room).await.unwrap();
            let kind = appliance_model::ruma::events::StateEventType::RoomMember;
            let member = open.state(&kind, doctor.user_id.as_str()).await.unwrap().unwrap();
            u64::from(member.origin_server_ts.0)
        };
        let mut last_ms = sent_ms().await;
        ward.clock.go_back_ms(HOUR_MS);
        for (by, to) in [(&doctor, M::Leave), (&nurse, M::Invite), (&doctor, M::Join)] {
            ward.set(by, &room, &doctor.user_id, to.clone()).await;
            let now_ms = sent_ms().await;
            assert_eq!(now_ms, last_ms + 1, "{to}");
            last_ms = now_ms;
        }
        // Whoever dates an event a week ahead does not set this server's clock.
        ward.clock.go_back_ms(7 * 24 * HOUR_MS);
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        assert_eq!(sent_ms().await, ward.services.house.clock.now_ms());
    }

    #[tokio::test]
    async fn the_banned_cannot_leave_their_ban_behind() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        ward.set(&nurse, &room, &doctor.user_id, M::Ban).await;
        let refused = ward.try_set(&doctor, &room, &doctor.user_id, M::Leave).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden);
        assert_eq!(ward.membership(&room, &doctor.user_id).await, Some(M::Ban));
    }

    #[tokio::test]
    async fn a_room_is_forgotten_only_after_leaving() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let rooms = &ward.services.rooms;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        ward.say(&nurse, &room, "hello").await;
        assert_eq!(rooms.forget(&doctor, &room).await.unwrap_err().kind, Kind::StillInRoom);
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        let (number, events) = ward.timeline(&room).await;
        let seen = rooms.visible(doctor.user, number, &events).await.unwrap();
        assert!(seen.iter().all(Option::is_some), "who left reads on");
        rooms.forget(&doctor, &room).await.unwrap();
        rooms.forget(&doctor, &room).await.unwrap();
        let seen = rooms.visible(doctor.user, number, &events).await.unwrap();
        // What they were in the room for remains theirs in the rules; the room itself is closed to
        // them by `reading`.
        assert!(seen[0].is_none(), "what came before the join is gone");
        let stranger = ward.member("visitor").await;
        assert_eq!(rooms.forget(&stranger, &room).await.unwrap_err().kind, Kind::NotFound);

        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
        assert_eq!(rooms.joined_rooms(&doctor).await.unwrap(), [room]);
    }
}
