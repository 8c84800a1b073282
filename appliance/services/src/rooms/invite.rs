//! `POST /rooms/{roomId}/invite` ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidinvite

use appliance_model::ruma::{RoomId, UserId};
use appliance_model::{Caller, Error};

use super::Rooms;
use super::membership::checked_reason;

impl Rooms {
    /// Invites someone. Inviting the same person again for the same reason does nothing.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: this server does not know the room, or has no such
    ///   user.
    /// * [`appliance_model::Kind::Forbidden`]: the caller is not in the room or may not invite; the
    ///   person is in the room or banned from it.
    pub async fn invite(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), Error> {
        self.limits.room(caller.user)?;
        let reason = checked_reason(reason)?;
        // Before the room's door: nobody waits there for the network.
        self.summon(target).await?;
        let mut room = self.enter(room_id).await?;
        // The room's rules speak first: strangers learn nothing of who has an account.
        super::membership::check_inside(&room, &caller.user_id).await?;
        let mut content = self.invite_content(target).await?;
        content.reason = reason;
        if !self.house.is_ours(target) {
            drop(room);
            return self.invite_elsewhere(caller, room_id, target, &content).await;
        }
        room.add_member(&caller.user_id, target, &content).await?;
        room.leave().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use serde_json::json;

    use super::*;
    use crate::scenario::{Ward, user_id};

    #[tokio::test]
    async fn good_repeated_and_refused_invites() {
        let (ward, [nurse, doctor, visitor]) =
            Ward::with_members(["nurse", "doctor", "visitor"]).await;
        let body = json!({ "power_level_content_override": { "invite": 50 } });
        let room = ward.room_as(&nurse, body).await;
        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        let length = ward.timeline(&room).await.1.len();
        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        assert_eq!(ward.timeline(&room).await.1.len(), length, "invited already");

        let why = async |by, target: &UserId| {
            ward.try_set(by, &room, target, M::Invite).await.unwrap_err()
        };
        let stranger = why(&visitor, &user_id("nobody")).await;
        assert_eq!(
            (stranger.kind, &*stranger.message),
            (Kind::Forbidden, "You are not in this room.")
        );
        assert_eq!(why(&nurse, &user_id("nobody")).await.kind, Kind::NotFound);
        ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
        assert_eq!(why(&nurse, &doctor.user_id).await.kind, Kind::Forbidden, "in the room");
        assert_eq!(why(&doctor, &visitor.user_id).await.kind, Kind::Forbidden, "no power");
        ward.set(&nurse, &room, &visitor.user_id, M::Ban).await;
        assert_eq!(why(&nurse, &visitor.user_id).await.kind, Kind::Forbidden, "banned");
        let long = Some("x".repeat(4_001));
        let refused = ward.services.rooms.invite(&nurse, &room, &doctor.user_id, long).await;
        assert_eq!(refused.unwrap_err().kind, Kind::TooLarge);
    }
}
