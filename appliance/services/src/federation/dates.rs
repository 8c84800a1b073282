//! When our users' member events were dated that other servers were asked to take.
//!
//! Where branches of a room meet, of two member events of one person the one with the later `origin_server_ts`
//! wins. What was sent and never confirmed may turn up at any time, and is nowhere here to be seen: a join after
//! it that a clock set back has dated before it would lose against the leave it came after, and its server
//! would go on believing that it is in the room.

use appliance_ledger::keyspaces::{Digest, MEMBER_DATES, USER_ROOMS};
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::{RoomId, UserId};
use appliance_model::{Error, EventNid};
use appliance_rules::Permit;

use crate::rooms::Rooms;

impl Rooms {
    fn date_key(&self, user_id: &UserId, room_id: &RoomId) -> Digest {
        self.house.ledger.digest(&[b"dated", room_id.as_bytes(), user_id.as_bytes()])
    }

    /// The date of the newest member event of one of our users that another server was asked to take, in
    /// milliseconds since the Unix epoch; 0 if there is none.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn asked_date_ms(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<u64, Error> {
        let key = self.date_key(user_id, room_id);
        Ok(self.house.ledger.get(&MEMBER_DATES, &key).await?.unwrap_or_default())
    }

    /// The same; or of the one that this server has, if that is newer.
    pub(super) async fn newest_date_ms(
        &self,
        (user_id, room_id): (&UserId, &RoomId),
        rules: &RoomVersionRules,
    ) -> Result<u64, Error> {
        let ledger = &self.house.ledger;
        let asked_ms = self.asked_date_ms(user_id, room_id).await?;
        let (Some(user), Some(room)) = (ledger.user(user_id).await?, ledger.room(room_id).await?)
        else {
            return Ok(asked_ms);
        };
        let Some(row) = ledger.get(&USER_ROOMS, &(user, room)).await? else { return Ok(asked_ms) };
        let known = self.pdu(EventNid(row.event), rules).await?;
        Ok(asked_ms.max(known.origin_server_ts.0.into()))
    }

    /// Another server is about to be asked to take a member event with this date. There is one row for each of
    /// our users and each room that a server on the list has made a template for.
    pub(super) async fn note_date(
        &self,
        (user_id, room_id): (&UserId, &RoomId),
        dated_ms: u64,
    ) -> Result<(), Error> {
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.put(&MEMBER_DATES, &self.date_key(user_id, room_id), &dated_ms);
        self.house.ledger.commit(commit).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::RoomVersionId as V;
    use appliance_model::ruma::events::StateEventType;
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use appliance_model::{Error, Kind};
    use serde_json::json;

    use crate::federation::Ask;
    use crate::federation::town::Town;

    const HOUR_MS: u64 = 3_600_000;

    /// A join and its taking back are both lost on the way back, then the clock is set right, and somebody comes
    /// in through a server that has heard of neither.
    #[tokio::test]
    async fn who_returns_after_a_leave_that_was_lost_is_in_whatever_the_clock_says() {
        for version in [V::V10, V::V12] {
            let town = Town::of(3, version.clone()).await;
            let [one, two, three] = [&town.wards[0], &town.wards[1], &town.wards[2]];
            let nurse = one.member("nurse").await;
            let (doctor, aide) = (two.member("doctor").await, three.member("aide").await);
            let room = one.room_as(&nurse, json!({ "preset": "public_chat" })).await;
            let join = async |ward: &crate::scenario::Ward, who, via: &str| {
                let via = [via.try_into().unwrap()];
                ward.services.rooms.join_via(who, &room, &via, None).await
            };
            join(three, &aide, "one.example").await.unwrap();
            town.cut(0, 2, true);
            town.trick(0, |ask, honest| match ask {
                Ask::SendJoin { .. } | Ask::SendLeave { .. } => {
                    Some(Err(Error::new(Kind::RemoteUnavailable, "The answer is lost.")))
                }
                _ => Some(honest),
            });
            assert!(join(two, &doctor, "one.example").await.is_err());
            two.clock.pass_ms(HOUR_MS);
            assert_eq!(two.services.rooms.take_back_lost_joins().await.unwrap(), 0);
            assert_eq!(one.membership(&room, &doctor.user_id).await, Some(M::Leave), "{version}");

            two.clock.go_back_ms(HOUR_MS);
            town.cut(0, 1, true);
            join(two, &doctor, "three.example").await.unwrap();
            town.cut(0, 1, false);
            town.cut(0, 2, false);
            town.deliver(1, 0, &room, "return").await;
            for ward in [one, two, three] {
                let now = ward.membership(&room, &doctor.user_id).await;
                assert_eq!(now, Some(M::Join), "{version}");
            }
            // And whoever leaves by this clock has left.
            two.set(&doctor, &room, &doctor.user_id, M::Leave).await;
            town.deliver(1, 0, &room, "leave").await;
            assert_eq!(one.membership(&room, &doctor.user_id).await, Some(M::Leave), "{version}");
            // Whoever calls them back does so after that, by whatever clock.
            let dated_ms = async || {
                let open = one.services.rooms.enter(&room).await.unwrap();
                let kind = StateEventType::RoomMember;
                let member = open.state(&kind, doctor.user_id.as_str()).await.unwrap().unwrap();
                u64::from(member.origin_server_ts.0)
            };
            let left_ms = dated_ms().await;
            one.clock.go_back_ms(HOUR_MS);
            one.set(&nurse, &room, &doctor.user_id, M::Invite).await;
            assert_eq!(dated_ms().await, left_ms + 1, "{version}");
        }
    }
}
