//! Parting with a peer: one order, which says what it affects. From its first commit on nothing is exchanged
//! in either direction, files on their way included; then the people of that server are taken out of the
//! rooms here, if that is ordered; and a peer that is removed is owed nothing any more.
//!
//! The order is in the store before anything is done: one that a stop of the server interrupted is brought
//! to its end after the next start (`tasks`). What is done already stays done.

use appliance_model::ruma::{OwnedRoomId, OwnedServerName, ServerName};
use appliance_model::{Error, Kind};
use appliance_rules::Permit;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tasks::Task;
use super::{Administration, Expelled};
use crate::peers::PeerChange;

/// What of a queue is counted.
const COUNTED_MAX: usize = 10_000;

/// What is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Parting {
    /// With whom.
    pub server_name: OwnedServerName,
    /// It is taken off the list; otherwise nothing is exchanged for now.
    pub remove: bool,
    /// Its people are taken out of the rooms here.
    pub expel: bool,
}

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

impl Parted {
    /// As an order remembers it.
    pub(super) fn in_json(&self) -> Value {
        json!({
            "is_allowed": self.is_allowed,
            "rooms": self.rooms,
            "expelled": self.expelled,
            "waiting_events": self.waiting.0,
            "waiting_messages": self.waiting.1,
        })
    }
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
        let parting = Parting { server_name: server.to_owned(), remove: false, expel };
        self.part_by_order(parting, by).await
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
        let parting = Parting { server_name: server.to_owned(), remove: true, expel };
        self.part_by_order(parting, by).await
    }

    async fn part_by_order(&self, parting: Parting, by: &str) -> Result<Parted, Error> {
        let order = self.take_on(by, &Task::Part(parting.clone())).await?;
        let parted = self.part(&parting, by).await;
        self.ended(order, parted.as_ref().map(Parted::in_json)).await?;
        parted
    }

    /// Does what is ordered, whatever of it is done already.
    pub(super) async fn part(&self, parting: &Parting, by: &str) -> Result<Parted, Error> {
        match parting.remove {
            true => self.part_for_good(&parting.server_name, parting.expel, by).await,
            false => {
                let server = &parting.server_name;
                self.suspend(server, by).await?;
                self.part_with(server, parting.expel, ("peer.parted_for_now", by)).await
            }
        }
    }

    async fn part_for_good(
        &self,
        server: &ServerName,
        expel: bool,
        by: &str,
    ) -> Result<Parted, Error> {
        if self.house.roll.described(server).is_none() {
            // Interrupted after its record went.
            self.peers.forget_stranger(server).await?;
            let is_allowed = self.house.roll.allows(server);
            return Ok(Parted { is_allowed, ..Parted::default() });
        }
        // Who is named elsewhere is talked with once the record is gone: nobody is taken out.
        let stays = self.house.roll.is_named_elsewhere(server);
        let waiting = self.peers.backlog(server, COUNTED_MAX).await?;
        if !stays {
            // Suspended first: while its people are taken out, nothing of theirs comes in.
            self.suspend(server, by).await?;
        }
        let parted = self.part_with(server, expel && !stays, ("peer.parted", by)).await?;
        self.peers.remove(server, by).await?;
        let waiting = if stays { (0, 0) } else { waiting };
        Ok(Parted { is_allowed: self.house.roll.allows(server), waiting, ..parted })
    }

    async fn suspend(&self, server: &ServerName, by: &str) -> Result<(), Error> {
        let change = PeerChange { suspended: Some(true), ..PeerChange::default() };
        self.peers.describe(server, change, by).await.map(drop)
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
    use appliance_model::ruma::{OwnedUserId, RoomVersionId as V, server_name};

    use super::super::TaskState;
    use super::*;
    use crate::federation::town::Town;
    use crate::peers::MediaMode;
    use crate::scenario::{Ward, the_power_goes};

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

    /// Whichever commit is the last before the power goes: after the next start the order is brought to its
    /// end, and nothing of it is left over.
    #[tokio::test]
    async fn an_order_that_a_power_cut_interrupts_is_brought_to_its_end() {
        let name = server_name!("two.example");
        for remove in [false, true] {
            let mut interrupted = 0;
            for commits in 0.. {
                let why = format!("removed: {remove}, after {commits} commits");
                let (one, room, doctor) = with_a_guest().await;
                one.engine().fail_commit_after(commits, the_power_goes());
                let desk = &one.services.administration;
                let parted = match remove {
                    true => desk.remove_peer(name, true, "uid 7").await,
                    false => desk.suspend_peer(name, true, "uid 7").await,
                };
                // A disk that works again: the order was written, or it was never given.
                let was_ordered = commits > 0;
                let ended = parted.is_ok();
                let one = one.power_cut_and_restart().await;
                let roll = &one.services.house.roll;
                roll.describe(name.to_owned(), None);
                one.services.peers.load().await.unwrap();
                let done = one.services.administration.carry_out().await.unwrap();
                if !was_ordered {
                    assert_eq!(done, 0, "{why}");
                    assert_eq!(one.membership(&room, &doctor).await, Some(M::Join), "{why}");
                    continue;
                }
                assert!(!roll.allows(name), "{why}");
                assert_eq!(roll.described(name).is_some(), !remove, "{why}");
                assert_eq!(one.membership(&room, &doctor).await, Some(M::Leave), "{why}");
                let waiting = one.services.peers.backlog(name, 9).await.unwrap();
                assert_eq!(remove, waiting == (0, 0), "{why}: {waiting:?}");
                let orders = one.services.administration.tasks().await.unwrap();
                let states: Vec<_> = orders.iter().map(|order| order.state).collect();
                assert_eq!(states, [TaskState::Complete], "{why}: {orders:?}");
                if ended {
                    break;
                }
                assert_eq!(done, 1, "{why}");
                interrupted += 1;
            }
            assert!(interrupted >= 4, "suspended, expelled, taken out and put on record");
        }
    }

    /// A server with one guest of `two.example` in a room, whom something waits for.
    async fn with_a_guest() -> (Ward, OwnedRoomId, OwnedUserId) {
        let mut town = Town::of(2, V::V11).await;
        let (nurse, doctor) =
            (town.wards[0].member("nurse").await, town.wards[1].member("doctor").await);
        let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
        let one = town.wards.swap_remove(0);
        let peers = &one.services.peers;
        let name = server_name!("two.example");
        peers.describe(name, PeerChange::default(), "uid 0").await.unwrap();
        one.say(&nurse, &room, "waits for them").await;
        (one, room, doctor.user_id)
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
