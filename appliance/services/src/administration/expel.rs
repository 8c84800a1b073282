//! The people of a server that this one no longer talks with leave the rooms here, as far as somebody of
//! ours has the power to take them out. Where nobody has, they stay in name: nothing of theirs is taken,
//! and nothing goes to them.

use appliance_model::Error;
use appliance_model::ruma::{OwnedRoomId, OwnedUserId, RoomId, ServerName};
use appliance_rules::Permit;
use serde::Serialize;

use super::Administration;
use crate::rooms::Removal;

/// What became of the people of one server in one room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expelled {
    /// Where.
    pub room_id: OwnedRoomId,
    /// Who was taken out.
    pub left: Vec<OwnedUserId>,
    /// Who could not be, and is there in name only.
    pub quarantined: Vec<OwnedUserId>,
}

impl Administration {
    /// Takes the people of a server out of all rooms here, those who are invited too. `by` is who
    /// ordered it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`]: this server still talks with that one; it is this one.
    pub async fn expel(&self, server: &ServerName, by: &str) -> Result<Vec<Expelled>, Error> {
        if *server == *self.house.server_name || self.house.roll.allows(server) {
            return Err(Error::invalid_param(format!(
                "People are taken out of the rooms when their server is suspended or off the list, and \
                 {server} is on it."
            )));
        }
        let permit = Permit::administration("peer.expelled", by, server);
        self.house.ledger.commit(self.house.ledger.begin(permit)).await?;
        let mut all = Vec::new();
        for room_id in self.house.rooms_with(server).await? {
            all.push(self.expel_from(server, room_id).await?);
        }
        Ok(all)
    }

    async fn expel_from(
        &self,
        server: &ServerName,
        room_id: OwnedRoomId,
    ) -> Result<Expelled, Error> {
        self.rooms.dismiss_policy_server(&room_id, server).await?;
        let theirs = self.rooms.people_of(server, &room_id).await?;
        let mut expelled = Expelled { room_id, left: Vec::new(), quarantined: Vec::new() };
        for target in theirs {
            let may = self.rooms.who_may_take_out(&expelled.room_id, &target).await?;
            let taken_out = match &may {
                Some(may) => self.take_out(may, &expelled.room_id, &target).await,
                None => Err(Error::forbidden("nobody of this server has the power")),
            };
            match taken_out {
                Ok(()) => expelled.left.push(target),
                Err(error) => {
                    tracing::warn!(kind = "peers.stays", room.id = %expelled.room_id,
                        user.id = %target, %error,
                        "somebody of a server off the list stays in a room, in name only");
                    expelled.quarantined.push(target);
                }
            }
        }
        Ok(expelled)
    }

    async fn take_out(
        &self,
        by: &OwnedUserId,
        room_id: &RoomId,
        target: &OwnedUserId,
    ) -> Result<(), Error> {
        let by = self.stand_in(by).await?;
        let reason = "This server no longer exchanges rooms with theirs.".to_owned();
        self.rooms.remove(&by, room_id, (Removal::Kick, target), Some(reason)).await
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use appliance_model::ruma::{RoomVersionId, server_name};

    use crate::federation::town::Town;
    use crate::peers::PeerChange;

    /// A room of ours, a room of theirs, and a server that is suspended.
    #[tokio::test]
    async fn people_of_a_suspended_server_leave_where_somebody_of_ours_can_take_them_out() {
        for version in [RoomVersionId::V11, RoomVersionId::V12] {
            let town = Town::of(2, version).await;
            let [one, two] = [&town.wards[0], &town.wards[1]];
            let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
            let second = two.member("second").await;
            let ours = town.room_of((0, &nurse), &[(1, &doctor)]).await;
            one.set(&nurse, &ours, &second.user_id, M::Invite).await;
            let theirs = town.room_of((1, &doctor), &[(0, &nurse)]).await;
            // Nobody of ours has any power there, and who made it has the most.
            let alone = one.room(&nurse).await;

            let desk = &one.services.administration;
            let name = server_name!("two.example");
            let peers = &one.services.peers;
            peers.describe(name, PeerChange::default(), "uid 0").await.unwrap();
            let refused = desk.expel(name, "uid 0").await.unwrap_err();
            assert_eq!(refused.kind, Kind::InvalidParam, "it is on the list");
            let suspended = PeerChange { suspended: Some(true), ..PeerChange::default() };
            peers.describe(name, suspended, "uid 0").await.unwrap();

            let expelled = desk.expel(name, "uid 0").await.unwrap();
            assert_eq!(expelled.len(), 2, "{expelled:?}");
            let of = |room| expelled.iter().find(|one| one.room_id == room).unwrap();
            assert_eq!(of(ours.clone()).left.len(), 2, "who was invited, too: {expelled:?}");
            let stays = &of(theirs.clone()).quarantined;
            assert_eq!(stays, std::slice::from_ref(&doctor.user_id));
            for (room, expected) in [(&ours, M::Leave), (&theirs, M::Join)] {
                assert_eq!(one.membership(room, &doctor.user_id).await, Some(expected));
            }
            assert_eq!(one.membership(&alone, &nurse.user_id).await, Some(M::Join));
            let facts = one.audit().await;
            assert!(facts.iter().any(|fact| fact.contains("peer.expelled")), "{facts:?}");
        }
    }
}
