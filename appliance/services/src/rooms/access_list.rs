//! Which servers may take part in the rooms that are made here (`m.room.server_acl`): this one and the
//! active peers. What it may say is [`appliance_rules::access_list`]'s to judge; this writes it into new
//! rooms, looks at what people set, and keeps it in step with the list of peers.
//!
//! The wall does not depend on it: nothing goes to a server off the list, whatever a room says. It is for
//! the others in the room, who would let in whom they know.
//!
//! A list of names needs names, and not too many: with a signed list of digests, or more than 500 peers, none
//! is written. There is no other way to say it: a list of those to keep out would have to name the whole world,
//! and one of those who are in a room now would keep out the peer who is to come. So rooms go without, those
//! that have a list keep it as it is (it lets in nobody who was not a peer when it was written), and whoever
//! runs this server is told: in the journal, and by `wardstone peers list`.

use std::sync::{Mutex, PoisonError};

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{HEADS, ROOMS};
use appliance_ledger::membership;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId,
};
use appliance_model::{Error, Kind, RoomNid};
use appliance_rules::Permit;
use appliance_rules::access_list::{Hosts, check_names};

use super::Rooms;
use super::build::Draft;
use super::room::{OpenRoom, is_resident};
use crate::peers::Uncounted;

/// With more peers the list would be the largest event of every room.
pub const ACCESS_LIST_PEERS_MAX: usize = 500;

/// Rooms looked at in one step of the round, some rows each.
const LOOKED_AT_MAX: usize = 1_000;

/// Rooms written in one step: what people say meanwhile must not wait behind it.
const WRITTEN_MAX: usize = 100;

/// A policy server that could not be asked is asked again after this, in milliseconds.
const AGAIN_MS: u64 = 60_000;

/// Rooms named to the administrator in which nobody of ours has the power.
const BEYOND_MAX: usize = 1_000;

/// A round through all rooms, after the list of peers changed. In memory: the first one after a start looks
/// at all rooms, and finds those that a stop left over.
#[derive(Default)]
pub(super) struct Round(Mutex<State>);

#[derive(Default)]
struct State {
    /// Whom the rooms are to name.
    hosts: Option<Hosts>,
    /// Where to go on; none: the round is over.
    next: Option<RoomNid>,
    beyond: Vec<OwnedRoomId>,
    /// When to go round again, because a room's policy server could not be asked: milliseconds since the Unix
    /// epoch.
    again_ms: Option<u64>,
    /// Why no lists are written, as it was last said.
    halted: Option<Uncounted>,
}

/// What became of one room.
enum Looked {
    AsItShould,
    Written,
    NobodyMay,
    NotNow,
}

impl Rooms {
    /// Whom rooms may let in; none if this server writes no access lists.
    fn hosts(&self) -> Option<Hosts> {
        let house = &self.house;
        let others = house.options.access_lists.then(|| house.roll.active(ACCESS_LIST_PEERS_MAX));
        Some(Hosts::of(&house.server_name, others?.ok()?))
    }

    /// Why rooms are not told who may take part, though they should be.
    pub fn access_lists_halted(&self) -> Option<Uncounted> {
        let house = &self.house;
        let others =
            house.options.access_lists.then(|| house.roll.active(ACCESS_LIST_PEERS_MAX))?;
        others.err().filter(|why| *why != Uncounted::Anyone)
    }

    /// The list of a new room that others may come into; none for a server that talks with nobody.
    pub(super) fn first_access_list(&self) -> Option<CanonicalJsonObject> {
        let hosts = self.hosts().filter(|_| !self.house.roll.is_empty())?;
        Some(hosts.whole())
    }

    /// The list that somebody of ours sets, with its patterns spelt out.
    ///
    /// # Errors
    ///
    /// [`Kind::Forbidden`]: it names a server off the list, or keeps out this one.
    pub(super) fn checked_access_list(
        &self,
        content: CanonicalJsonObject,
    ) -> Result<CanonicalJsonObject, Error> {
        match self.hosts() {
            Some(hosts) => hosts.narrowed(&content).map_err(Error::forbidden),
            // Names that are said can be looked up, also where they cannot be counted up.
            None if self.access_lists_halted().is_some() => {
                let house = &self.house;
                let is_peer = |host: &ServerName| house.roll.allows_host(host.as_str());
                let checked = check_names(&content, &house.server_name, is_peer);
                checked.map(|()| content).map_err(Error::forbidden)
            }
            None => Ok(content),
        }
    }

    /// The list of a room for the one that takes its place.
    pub(super) fn carried_access_list(&self, content: CanonicalJsonObject) -> CanonicalJsonObject {
        let kept = self.hosts().and_then(|hosts| hosts.kept(Some(&content)));
        kept.unwrap_or(content)
    }

    /// Brings the access lists of rooms that were made here in step with the list of peers; a reconciler,
    /// to be called every few seconds. Returns how many were written.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn keep_access_lists(&self) -> Result<usize, Error> {
        self.say_if_halted();
        let Some(hosts) = self.hosts() else { return Ok(0) };
        let now_ms = self.house.clock.now_ms();
        let Some(from) = self.access_round.begin(&hosts, now_ms) else { return Ok(0) };
        let range = (&from, &RoomNid(u64::MAX));
        let view = self.house.ledger.newest();
        let (rooms, more) =
            view.scan_between(&ROOMS, range, Direction::Forward, LOOKED_AT_MAX).await?;
        let (mut written, mut beyond, mut next) = (0, Vec::new(), None);
        let mut again_ms = None;
        for (room, row) in rooms {
            if written == WRITTEN_MAX {
                next = Some(room);
                break;
            }
            let room_id = RoomId::parse(row.room_id).map_err(Error::internal)?;
            match self.keep_access_list(room, &room_id, &hosts).await? {
                Looked::AsItShould => {}
                Looked::Written => written += 1,
                Looked::NobodyMay => beyond.push(room_id),
                Looked::NotNow => again_ms = Some(now_ms.saturating_add(AGAIN_MS)),
            }
            next = more.then_some(RoomNid(room.0 + 1));
        }
        self.access_round.go_on(&hosts, next, (beyond, again_ms));
        Ok(written)
    }

    /// Says once that no lists are written any more, and once that they are again.
    fn say_if_halted(&self) {
        let halted = self.access_lists_halted();
        let before = std::mem::replace(&mut self.access_round.lock().halted, halted);
        let why = match halted {
            _ if halted == before => return,
            None => {
                tracing::info!(kind = "room.access_list", "rooms follow the list of peers again");
                return;
            }
            Some(Uncounted::TooMany) => "there are more peers than a list in every room may name",
            Some(_) => "the signed list of peers has digests instead of names",
        };
        tracing::warn!(
            kind = "room.access_list",
            why,
            "rooms are not told which servers may take part: new ones go without a list, and who is a peer \
             since now cannot come into those that have one"
        );
    }

    /// The rooms that were made here whose access list is not as it should be, because nobody of ours has
    /// the power any more; at most a thousand.
    pub fn rooms_beyond_power(&self) -> Vec<OwnedRoomId> {
        self.access_round.lock().beyond.clone()
    }

    async fn keep_access_list(
        &self,
        room: RoomNid,
        room_id: &RoomId,
        hosts: &Hosts,
    ) -> Result<Looked, Error> {
        let head = self.house.ledger.get(&HEADS, &room).await?.unwrap_or_default();
        if !is_resident(&head) || !self.is_ours_to_keep(room).await? {
            return Ok(Looked::AsItShould);
        }
        let now = self.current(room, &StateEventType::RoomServerAcl, "").await?;
        let is_shared = head.servers.iter().flatten().any(|(_, count)| *count > 0);
        if now.is_none() && !is_shared {
            return Ok(Looked::AsItShould);
        }
        let now = now.and_then(|event| serde_json::from_str(event.content()).ok());
        if hosts.kept(now.as_ref()).is_none() {
            return Ok(Looked::AsItShould);
        }
        let Some(author) = self.access_list_author(room).await? else {
            return Ok(Looked::NobodyMay);
        };
        let mut open = self.enter(room_id).await?;
        match open.write_access_list(author, hosts).await {
            Ok(()) => open.leave().await.map(|_| Looked::Written),
            // Their power was taken since we looked; or the room's policy server does not want it.
            Err(error) if matches!(error.kind, Kind::Forbidden | Kind::NotRecommended) => {
                Ok(Looked::NobodyMay)
            }
            Err(error) if matches!(error.kind, Kind::RemoteUnavailable | Kind::Limited { .. }) => {
                Ok(Looked::NotNow)
            }
            Err(error) => Err(error),
        }
    }

    /// Made by somebody of ours, shared, and not replaced by another room.
    async fn is_ours_to_keep(&self, room: RoomNid) -> Result<bool, Error> {
        let Some(create) = self.current(room, &StateEventType::RoomCreate, "").await? else {
            return Ok(false);
        };
        let by = create.part(create.spans.sender).trim_matches('"');
        let is_ours = UserId::parse(by).is_ok_and(|by| self.house.is_ours(&by));
        let is_over = self.current(room, &StateEventType::RoomTombstone, "").await?.is_some();
        Ok(is_ours && !is_over && super::sharing::is_federated(create.content()))
    }

    /// Who writes it: the account `@policy`, the creator, or whoever of ours has the most power.
    async fn access_list_author(&self, room: RoomNid) -> Result<Option<OwnedUserId>, Error> {
        let levels = self.power_levels(room).await?;
        let steward = crate::media::expire::STEWARD;
        let ours = self.house.members_of(room, membership::JOIN).await?;
        let ours = ours.into_iter().filter(|user_id| self.house.is_ours(user_id));
        let may = |user_id: &OwnedUserId| {
            levels.user_can_send_state(user_id, StateEventType::RoomServerAcl)
        };
        let rank =
            |user_id: &OwnedUserId| (user_id.localpart() == steward, levels.for_user(user_id));
        Ok(ours.filter(may).max_by_key(rank))
    }
}

impl OpenRoom<'_> {
    async fn write_access_list(&mut self, author: OwnedUserId, hosts: &Hosts) -> Result<(), Error> {
        let kind = StateEventType::RoomServerAcl;
        let now = self.state(&kind, "").await?;
        let now = now.and_then(|event| serde_json::from_str(event.content.get()).ok());
        let Some(content) = hosts.kept(now.as_ref()) else { return Ok(()) };
        let object = format!("{} m.room.server_acl", self.room_id);
        self.add(Draft::state(author, kind, "", content), None).await?;
        if let Some(commit) = self.commit_mut() {
            commit.also(Permit::administration("room.access_list_kept", "peers", object));
        }
        Ok(())
    }
}

impl Round {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to look next, if there is anything to look at.
    fn begin(&self, hosts: &Hosts, now_ms: u64) -> Option<RoomNid> {
        let mut state = self.lock();
        let is_again = state.next.is_none() && state.again_ms.is_some_and(|at| now_ms >= at);
        if state.hosts.as_ref() != Some(hosts) || is_again {
            let (hosts, next) = (Some(hosts.clone()), Some(RoomNid(0)));
            *state = State { hosts, next, halted: state.halted, ..State::default() };
        }
        state.next
    }

    fn go_on(
        &self,
        hosts: &Hosts,
        next: Option<RoomNid>,
        (mut beyond, again_ms): (Vec<OwnedRoomId>, Option<u64>),
    ) {
        let mut state = self.lock();
        if state.hosts.as_ref() != Some(hosts) {
            return;
        }
        state.beyond.append(&mut beyond);
        state.beyond.truncate(BEYOND_MAX);
        state.next = next;
        state.again_ms = again_ms.or(state.again_ms);
        if next.is_none() && !state.beyond.is_empty() {
            tracing::warn!(
                kind = "room.access_list",
                rooms = state.beyond.len(),
                "in some rooms nobody of this server has the power to write which servers may take part"
            );
        }
    }
}

#[cfg(test)]
mod tests;
