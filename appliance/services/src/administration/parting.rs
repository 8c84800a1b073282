//! Parting with a peer: one order, which says what it affects. From its first commit on nothing is exchanged
//! in either direction, files on their way included; then the people of that server are taken out of the
//! rooms here, if that is ordered; and a peer that is removed is owed nothing any more.
//!
//! An order that a stop of the server interrupted is given again: what is done already stays done.

use appliance_model::ruma::{OwnedRoomId, ServerName};
use appliance_model::{Error, Kind};
use appliance_rules::Permit;

use super::{Administration, Expelled};
use crate::peers::PeerChange;

/// What of a queue is counted.
const COUNTED_MAX: usize = 10_000;

/// What parting with a peer affects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parted {
    /// This server talks with it all the same: the settings or the signed list name it.
    pub is_allowed: bool,
    /// The rooms in which its people are, or to which they are invited.
    pub rooms: Vec<OwnedRoomId>,
    /// What became of them there; none: they stay, in name only.
    pub expelled: Option<Vec<Expelled>>,
    /// Events and messages that waited for it, up to 10,000 each: they wait on, or are forgotten.
    pub waiting: (usize, usize),
}

impl Administration {
    /// Exchanges nothing with a peer for now. What waits for it waits on.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidParam`]: it is this server.
    pub async fn suspend_peer(
        &self,
        server: &ServerName,
        expel: bool,
        by: &str,
    ) -> Result<Parted, Error> {
        let change = PeerChange { suspended: Some(true), ..PeerChange::default() };
        self.peers.describe(server, change, by).await?;
        self.part_with(server, expel, ("peer.parted_for_now", by)).await
    }

    /// Takes a peer off the list. What waits for it is forgotten.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`]: it has no record.
    pub async fn remove_peer(
        &self,
        server: &ServerName,
        expel: bool,
        by: &str,
    ) -> Result<Parted, Error> {
        if self.house.roll.described(server).is_none() {
            return Err(Error::new(Kind::NotFound, "There is no such peer on the list."));
        }
        // Who is named elsewhere is talked with once the record is gone: nobody is taken out.
        let stays = self.house.roll.is_named_elsewhere(server);
        let waiting = self.peers.backlog(server, COUNTED_MAX).await?;
        if !stays {
            // Suspended first: while its people are taken out, nothing of theirs comes in.
            let change = PeerChange { suspended: Some(true), ..PeerChange::default() };
            self.peers.describe(server, change, by).await?;
        }
        let parted = self.part_with(server, expel && !stays, ("peer.parted", by)).await?;
        self.peers.remove(server, by).await?;
        let waiting = if stays { (0, 0) } else { waiting };
        Ok(Parted { is_allowed: self.house.roll.allows(server), waiting, ..parted })
    }

    async fn part_with(
        &self,
        server: &ServerName,
        expel: bool,
        (verb, by): (&'static str, &str),
    ) -> Result<Parted, Error> {
        let mut parted = Parted {
            rooms: self.house.rooms_with(server).await?,
            waiting: self.peers.backlog(server, COUNTED_MAX).await?,
            ..Parted::default()
        };
        if expel {
            parted.expelled = Some(self.expel(server, by).await?);
        }
        let count = |of: fn(&Expelled) -> usize| parted.expelled.iter().flatten().map(of).sum();
        let (left, stay): (usize, usize) =
            (count(|one| one.left.len()), count(|one| one.quarantined.len()));
        let what = format!(
            "{server}: {} rooms, {left} taken out, {stay} in name only, {} events and {} messages waiting",
            parted.rooms.len(),
            parted.waiting.0,
            parted.waiting.1
        );
        let permit = Permit::administration(verb, by, what);
        self.house.ledger.commit(self.house.ledger.begin(permit)).await?;
        Ok(parted)
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use appliance_model::ruma::{RoomVersionId as V, server_name};

    use super::*;
    use crate::federation::town::Town;
    use crate::peers::MediaMode;

    #[tokio::test]
    async fn removing_a_peer_is_one_order_that_says_what_it_affects() {
        let town = Town::of(2, V::V11).await;
        let [one, two] = [&town.wards[0], &town.wards[1]];
        let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
        let name = server_name!("two.example");
        let peers = &one.services.peers;
        let change = PeerChange { media: Some(MediaMode::Allow), ..PeerChange::default() };
        peers.describe(name, change, "uid 0").await.unwrap();
        let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
        let called = one.room(&nurse).await;
        one.set(&nurse, &called, &doctor.user_id, M::Invite).await;
        let said = peers.backlog(name, 100).await.unwrap().0;
        one.say(&nurse, &room, "waits for them").await;
        let desk = &one.services.administration;

        let parted = desk.suspend_peer(name, false, "uid 7").await.unwrap();
        assert!(!parted.is_allowed && parted.expelled.is_none());
        let mut rooms = [room.clone(), called.clone()];
        rooms.sort_unstable();
        let mut listed = parted.rooms.clone();
        listed.sort_unstable();
        assert_eq!(listed, rooms, "those who are only invited, too");
        assert_eq!(parted.waiting.0, said + 1, "it waits on");
        assert!(!one.services.house.roll.allows_media(name));
        assert_eq!(one.membership(&room, &doctor.user_id).await, Some(M::Join));

        let parted = desk.remove_peer(name, true, "uid 7").await.unwrap();
        assert!(!parted.is_allowed);
        let expelled = parted.expelled.unwrap();
        assert_eq!(expelled.iter().map(|one| one.left.len()).sum::<usize>(), 2, "{expelled:?}");
        for room in [&room, &called] {
            assert_eq!(one.membership(room, &doctor.user_id).await, Some(M::Leave));
        }
        assert_eq!(peers.backlog(name, 100).await.unwrap(), (0, 0), "nothing is owed any more");
        let facts = one.audit().await;
        for fact in ["peer.parted_for_now uid 7", "peer.expelled uid 7", "peer.parted uid 7"] {
            assert!(facts.iter().any(|known| known == fact), "{fact}: {facts:?}");
        }
        let again = desk.remove_peer(name, true, "uid 7").await.unwrap_err();
        assert_eq!(again.kind, Kind::NotFound);
    }

    /// A moderator may take people out, and need not be able to do more.
    #[tokio::test]
    async fn whoever_may_take_somebody_out_does() {
        let town = Town::of(2, V::V11).await;
        let [one, two] = [&town.wards[0], &town.wards[1]];
        let (nurse, doctor) = (one.member("nurse").await, two.member("doctor").await);
        let theirs = town.room_of((1, &doctor), &[(0, &nurse)]).await;
        let aide = two.member("aide").await;
        two.set(&doctor, &theirs, &aide.user_id, M::Invite).await;
        two.set(&aide, &theirs, &aide.user_id, M::Join).await;
        let levels = serde_json::json!({ "users": {
            doctor.user_id.as_str(): 100, nurse.user_id.as_str(): 50,
        } });
        two.state(&doctor, &theirs, ("m.room.power_levels", ""), levels).await;
        town.deliver(1, 0, &theirs, "t").await;
        let parted = one
            .services
            .administration
            .suspend_peer(server_name!("two.example"), true, "uid 0")
            .await
            .unwrap();
        let expelled = &parted.expelled.unwrap()[0];
        assert_eq!(expelled.left, [aide.user_id]);
        assert_eq!(expelled.quarantined, [doctor.user_id]);
    }
}
