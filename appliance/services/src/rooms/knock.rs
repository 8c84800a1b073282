//! `POST /knock/{roomIdOrAlias}` ([spec]): asking to be let in.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#knocking-on-rooms

use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::{OwnedServerName, RoomId};
use appliance_model::{Caller, Error};

use super::Rooms;
use super::membership::checked_reason;

impl Rooms {
    /// Knocks. Knocking again for the same reason does nothing.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: this server does not know the room.
    /// * [`appliance_model::Kind::Forbidden`]: the room takes no knocks; the caller is in it,
    ///   invited to it, or banned from it.
    pub async fn knock(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        reason: Option<String>,
    ) -> Result<(), Error> {
        self.knock_via(caller, room_id, &[], reason).await
    }

    /// The same, where the caller says which other servers may know the room.
    ///
    /// # Errors
    ///
    /// As [`Rooms::knock`]; also what the other servers say, and
    /// [`appliance_model::Kind::RemoteUnavailable`] if none of them can be reached.
    pub async fn knock_via(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        via: &[OwnedServerName],
        reason: Option<String>,
    ) -> Result<(), Error> {
        self.limits.room(caller.user)?;
        let reason = checked_reason(reason)?;
        self.check_not_blocked(room_id).await?;
        let mut content = self.own_content(caller, MembershipState::Knock).await?;
        content.reason = reason;
        let here = match self.house.ledger.room(room_id).await? {
            Some(room) => self.is_resident(room).await?,
            None => false,
        };
        if !here {
            return self.knock_elsewhere(caller, room_id, via, content).await;
        }
        let mut room = self.enter(room_id).await?;
        room.add_member(&caller.user_id, &caller.user_id, &content).await?;
        room.leave().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::RoomVersionId as V;
    use serde_json::json;

    use super::*;
    use crate::scenario::Ward;

    use MembershipState as M;

    #[tokio::test]
    async fn knocking_works_where_the_room_takes_knocks() {
        for (version, rule, takes) in [
            (V::V6, "knock", false),
            (V::V7, "knock", true),
            (V::V9, "knock_restricted", false),
            (V::V10, "knock_restricted", true),
            (V::V11, "knock", true),
            (V::V11, "invite", false),
            (V::V12, "knock", true),
        ] {
            let ward = Ward::of_version(version.clone()).await;
            let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
            let body = json!({ "initial_state": [{
                "type": "m.room.join_rules",
                "content": { "join_rule": rule, "allow": [] },
            }] });
            let room = ward.room_as(&nurse, body).await;
            let knocked = ward.try_set(&doctor, &room, &doctor.user_id, M::Knock).await;
            if !takes {
                assert_eq!(knocked.unwrap_err().kind, Kind::Forbidden, "{version} {rule}");
                continue;
            }
            knocked.unwrap();
            let length = ward.timeline(&room).await.1.len();
            ward.set(&doctor, &room, &doctor.user_id, M::Knock).await;
            assert_eq!(ward.timeline(&room).await.1.len(), length, "once is enough");
            ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
            ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
            let inside = ward.try_set(&doctor, &room, &doctor.user_id, M::Knock).await;
            assert_eq!(inside.unwrap_err().kind, Kind::Forbidden);
        }
    }
}
