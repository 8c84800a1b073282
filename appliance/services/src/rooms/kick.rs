//! `POST /rooms/{roomId}/kick`, `/ban` and `/unban` ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidkick

use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::ruma::{RoomId, UserId};
use appliance_model::{Caller, Error};

use super::Rooms;
use super::membership::{check_inside, checked_reason};

/// What happens to someone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Out, or no longer invited.
    Kick,
    /// Out, and not in again.
    Ban,
    /// No longer banned.
    Unban,
}

impl Rooms {
    /// Removes someone from a room, bans them, or lifts their ban.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: this server does not know the room.
    /// * [`appliance_model::Kind::Forbidden`]: the caller is not in the room or lacks the power
    ///   level; a person to be kicked is not in the room, one to be unbanned is not banned.
    pub async fn remove(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        (removal, target): (Removal, &UserId),
        reason: Option<String>,
    ) -> Result<(), Error> {
        let reason = checked_reason(reason)?;
        let mut room = self.enter(room_id).await?;
        check_inside(&room, &caller.user_id).await?;
        let now = room.membership(target).await?;
        // The rules take all three for the same event `leave`; what may become of it differs.
        let why_not = match (removal, now) {
            (Removal::Ban, _) | (Removal::Unban, Some(MembershipState::Ban)) => None,
            (Removal::Unban, _) => Some("This person is not banned."),
            (Removal::Kick, None | Some(MembershipState::Leave | MembershipState::Ban)) => {
                Some("This person is not in the room.")
            }
            (Removal::Kick, Some(_)) => None,
        };
        if let Some(why_not) = why_not {
            return Err(room.refuse(&caller.user_id, why_not).await);
        }
        let to = match removal {
            Removal::Ban => MembershipState::Ban,
            Removal::Kick | Removal::Unban => MembershipState::Leave,
        };
        let mut content = RoomMemberEventContent::new(to);
        content.reason = reason;
        room.add_member(&caller.user_id, target, &content).await?;
        room.leave().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;

    use super::*;
    use crate::scenario::Ward;

    use MembershipState as M;

    async fn try_to(
        ward: &Ward,
        by: &Caller,
        room: &RoomId,
        what: (Removal, &UserId),
    ) -> Result<(), (Kind, String)> {
        let done = ward.services.rooms.remove(by, room, what, Some("visiting is over".into()));
        done.await.map_err(|error| (error.kind, error.message.into_owned()))
    }

    fn refused(message: &str) -> Result<(), (Kind, String)> {
        Err((Kind::Forbidden, message.to_owned()))
    }

    #[tokio::test]
    async fn each_removal_needs_its_own_beginning() {
        let (ward, [nurse, doctor, visitor]) =
            Ward::with_members(["nurse", "doctor", "visitor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let (id, stranger) = (&doctor.user_id, &visitor.user_id);
        let kick = async |by, target| try_to(&ward, by, &room, (Removal::Kick, target)).await;
        let ban = async |by, target| try_to(&ward, by, &room, (Removal::Ban, target)).await;
        let unban = async |by, target| try_to(&ward, by, &room, (Removal::Unban, target)).await;

        assert_eq!(kick(&nurse, stranger).await, refused("This person is not in the room."));
        assert_eq!(kick(&visitor, id).await, refused("You are not in this room."));
        assert_eq!(unban(&nurse, id).await, refused("This person is not banned."));
        let powerless = "You do not have the power level to remove this person.";
        assert_eq!(kick(&doctor, &nurse.user_id).await, refused(powerless));

        assert_eq!(kick(&nurse, id).await, Ok(()));
        assert_eq!(ward.membership(&room, id).await, Some(M::Leave));
        assert_eq!(ban(&nurse, id).await, Ok(()));
        assert_eq!(kick(&nurse, id).await, refused("This person is not in the room."));
        assert_eq!(ward.membership(&room, id).await, Some(M::Ban), "a kick lifts no ban");
        assert_eq!(unban(&nurse, id).await, Ok(()));
        assert_eq!(ward.membership(&room, id).await, Some(M::Leave));
        let content = ward.current(&room, ("m.room.member", id.as_str())).await;
        assert_eq!(content["reason"], "visiting is over");
        // An invite that is taken back is a kick too.
        ward.set(&nurse, &room, stranger, M::Invite).await;
        assert_eq!(kick(&nurse, stranger).await, Ok(()));
    }
}
