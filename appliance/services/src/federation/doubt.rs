//! Joins of which it is not known what became of them: the line broke before the answer came, the power went, or
//! the room was left again at once and the other server could not be told. As far as the others in the room
//! know, our user is in it; here nobody is. Whoever does not come in after all is taken out again, as soon as the
//! other server can be reached.
//!
//! The note is in the store before the join is sent, and goes when its end is known.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{Digest, JOINS_IN_DOUBT, USER_ROOMS};
use appliance_ledger::membership;
use appliance_ledger::rows::peers::JoinInDoubtRow;
use appliance_model::ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
};
use appliance_model::{Error, Kind, Pdu};
use appliance_rules::Permit;

use super::resident::arrival_of;
use crate::rooms::Rooms;

/// Looked at in one round: each may wait for a server that does not answer.
const LOOKED_AT_MAX: usize = 20;
/// Who tries to come in again has so long, in milliseconds: what they were called by would be used up.
const AGAIN_MS: u64 = 10 * 60 * 1_000;
/// A server that could not be asked for so long, in milliseconds, is not asked any more.
const KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

impl Rooms {
    /// Notes that a server is about to be asked to take a join.
    pub(super) async fn doubt(
        &self,
        server: &ServerName,
        (user_id, room_id): (&UserId, &RoomId),
        join: &Pdu,
    ) -> Result<Digest, Error> {
        let ledger = &self.house.ledger;
        let parts: [&[u8]; 4] =
            [b"join", room_id.as_bytes(), user_id.as_bytes(), server.as_bytes()];
        let digest = ledger.digest(&parts);
        let row = JoinInDoubtRow {
            room_id: room_id.to_string(),
            user_id: user_id.to_string(),
            server_name: server.to_string(),
            dated_ms: join.origin_server_ts.0.into(),
            at_ms: self.house.clock.now_ms(),
        };
        let mut commit = ledger.begin(Permit::housekeeping());
        commit.put(&JOINS_IN_DOUBT, &digest, &row);
        ledger.commit(commit).await?;
        Ok(digest)
    }

    /// What became of a join is known.
    pub(super) async fn no_doubt(&self, digest: &Digest) -> Result<(), Error> {
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.delete(&JOINS_IN_DOUBT, digest);
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// Takes back joins that came to nothing here and may have come to something elsewhere; a reconciler, to
    /// be called every minute or so. Returns how many are in doubt no more.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn take_back_lost_joins(&self) -> Result<usize, Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&JOINS_IN_DOUBT, &(), Direction::Forward, LOOKED_AT_MAX).await?;
        let rows: Vec<(Digest, JoinInDoubtRow)> = rows;
        let mut known = 0;
        for (digest, row) in rows {
            let room_id = OwnedRoomId::try_from(row.room_id.as_str()).map_err(Error::internal)?;
            // Whoever is about to come in is not taken out meanwhile; then it is known.
            let _turn = self.receiving.enter(arrival_of(self, &room_id)).await;
            let Some(row) = self.house.ledger.get(&JOINS_IN_DOUBT, &digest).await? else {
                continue;
            };
            if self.is_over(&room_id, row).await? {
                self.no_doubt(&digest).await?;
                known += 1;
            }
        }
        Ok(known)
    }

    async fn is_over(&self, room_id: &RoomId, row: JoinInDoubtRow) -> Result<bool, Error> {
        let user_id = OwnedUserId::try_from(row.user_id).map_err(Error::internal)?;
        let server = OwnedServerName::try_from(row.server_name).map_err(Error::internal)?;
        let is_old = self.house.clock.now_ms().saturating_sub(row.at_ms) > KEPT_MS;
        if is_old || !self.line.allows(&server) || self.is_in(&user_id, room_id).await? {
            return Ok(true);
        }
        // A clock that was set back since keeps nobody in.
        let again_until_ms = row.at_ms.saturating_add(AGAIN_MS);
        if (row.at_ms..again_until_ms).contains(&self.house.clock.now_ms()) {
            return Ok(false);
        }
        match self.leave_through(&server, &user_id, room_id, (None, row.dated_ms)).await {
            Ok(_) => {
                tracing::info!(kind = "federation.join_taken_back", room.id = %room_id, %server,
                    "a join whose answer was lost is taken back");
                Ok(true)
            }
            Err(error) => match error.kind {
                Kind::RemoteUnavailable => Ok(false),
                Kind::Internal | Kind::Unavailable => Err(error),
                // They are not in the room there.
                _ => Ok(true),
            },
        }
    }

    /// Whether one of our users is in a room that this server is in.
    async fn is_in(&self, user_id: &UserId, room_id: &RoomId) -> Result<bool, Error> {
        let ledger = &self.house.ledger;
        let (Some(room), Some(user)) = (ledger.room(room_id).await?, ledger.user(user_id).await?)
        else {
            return Ok(false);
        };
        let row = ledger.get(&USER_ROOMS, &(user, room)).await?;
        let is_joined = row.is_some_and(|row| row.membership == membership::JOIN);
        Ok(is_joined && self.is_resident(room).await?)
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::RoomVersionId as V;
    use appliance_model::ruma::events::room::member::MembershipState as M;

    use super::*;
    use crate::federation::Ask;
    use crate::federation::town::Town;

    /// Whoever was let in and did not hear of it is in the room elsewhere, and nowhere here.
    #[tokio::test]
    async fn a_join_whose_answer_is_lost_is_taken_back_unless_it_is_tried_again() {
        for (version, again) in [(V::V10, false), (V::V12, false), (V::V11, true)] {
            let town = Town::of(2, version.clone()).await;
            let [one, two] = [&town.wards[0], &town.wards[1]];
            let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
            let room = one.room(&nurse).await;
            one.set(&nurse, &room, &doctor.user_id, M::Invite).await;
            town.trick(0, |ask, honest| match ask {
                Ask::SendJoin { .. } => {
                    Some(Err(Error::new(Kind::RemoteUnavailable, "The answer is lost.")))
                }
                _ => Some(honest),
            });
            let rooms = &two.services.rooms;
            let error = rooms.join(&doctor, &room, None).await.unwrap_err();
            assert_eq!(error.kind, Kind::RemoteUnavailable, "{version}");
            assert_eq!(one.membership(&room, &doctor.user_id).await, Some(M::Join), "{version}");
            town.trick(0, |_, honest| Some(honest));
            assert_eq!(rooms.take_back_lost_joins().await.unwrap(), 0, "there is time for another");
            if again {
                rooms.join(&doctor, &room, None).await.unwrap();
            }
            two.clock.pass_ms(AGAIN_MS);
            town.cut(0, 1, true);
            assert_eq!(rooms.take_back_lost_joins().await.unwrap(), 0, "{version}: nobody answers");
            town.cut(0, 1, false);
            let taken_back = rooms.take_back_lost_joins().await.unwrap();
            assert_eq!(taken_back, usize::from(!again), "{version}");
            let now = if again { M::Join } else { M::Leave };
            assert_eq!(one.membership(&room, &doctor.user_id).await, Some(now), "{version}");
            assert_eq!(rooms.take_back_lost_joins().await.unwrap(), 0, "{version}: once");
        }
    }
}
