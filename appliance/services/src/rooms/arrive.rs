//! An event comes into a room: a local user's own, one of another server's, or one of the past.
//!
//! A room's events form a graph; where its newest events (the extremities) have different states, the
//! current state is what [state resolution] makes of all of them. Most rooms have one extremity most of
//! the time, and then nothing is resolved.
//!
//! [state resolution]: https://spec.matrix.org/v1.19/server-server-api/#room-state-resolution

use std::sync::Arc;

use appliance_ledger::keyspaces::{AUTH_EDGES, WAITING_REDACTIONS};
use appliance_ledger::rows::AuthRow;
use appliance_ledger::state::Change;
use appliance_ledger::{Commit, NewEvent, Placing, Root};
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::{EventId, OwnedEventId, OwnedServerName, ServerName, UserId};
use appliance_model::{DeviceNid, Error, EventNid, Pdu};

use super::room::{OpenRoom, PREV_EVENTS_MAX, membership_of};
use crate::media::link::{Sent, link};

/// How an event comes.
pub(crate) struct Arrival {
    /// The device that sent it, and its transaction ID.
    pub txn: Option<(DeviceNid, String)>,
    /// The state before it, by the graph.
    pub before: Root,
    /// The room's current state does not allow it.
    pub soft_failed: bool,
    /// Its number, if it was known before without a place.
    pub number: Option<EventNid>,
    /// The events before it that this server has not.
    pub missing: Vec<OwnedEventId>,
    /// Where it goes. What does not go to the end changes nothing about the present.
    pub placing: Placing,
    /// To which servers of the room it goes out.
    pub sending: Sending,
}

/// To whom an event goes out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sending {
    /// To all, if it is one of ours; others' events are sent by their servers.
    #[default]
    Own,
    /// To all but the one it came from, which has just come in through us.
    AllBut(OwnedServerName),
    /// To nobody: who had to have it has it.
    Nobody,
}

impl Arrival {
    /// An event at the end of the room.
    pub fn at(before: Root) -> Self {
        Self {
            txn: None,
            before,
            soft_failed: false,
            number: None,
            missing: Vec::new(),
            placing: Placing::End,
            sending: Sending::Own,
        }
    }
}

/// What this server knows of an event's standing in the graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub number: EventNid,
    pub rejected: bool,
    pub outlier: bool,
    /// The state with it.
    pub after: Root,
}

impl OpenRoom<'_> {
    /// An event of this room, if this server has it.
    pub(crate) async fn known(&self, event_id: &EventId) -> Result<Option<Known>, Error> {
        if let Some(known) = self.fresh_known.get(event_id) {
            return Ok(Some(*known));
        }
        let event = self.rooms.house.ledger.event_by_id(event_id).await?;
        Ok(event.filter(|event| event.room == self.room).map(|event| Known {
            number: event.number,
            rejected: event.rejected,
            outlier: event.outlier,
            after: event.state_after,
        }))
    }

    /// Adds an event that was judged. `pdu.rejected` says how.
    pub(crate) async fn append(
        &mut self,
        pdu: &Arc<Pdu>,
        arrival: Arrival,
        commit: &mut Commit,
    ) -> Result<EventNid, Error> {
        let house = self.rooms.house.clone();
        let ledger = &house.ledger;
        let number = arrival.number.unwrap_or_else(|| EventNid(ledger.next_number()));
        if arrival.number.is_some() {
            commit.hold(ledger.rewriting(number));
        }
        let late = self.taken_back_already(pdu, commit).await?;
        let pdu = late.as_ref().map_or(pdu, |(pruned, _)| pruned);
        let is_shown = !pdu.rejected && !arrival.soft_failed;
        let placing = if is_shown { arrival.placing } else { Placing::Nowhere };
        let is_new = placing == Placing::End;
        let (before, mut after, mut replaces, mut set) =
            (arrival.before, arrival.before, None, None);
        if let Some((kind, key)) = pdu.state_pair().filter(|_| !pdu.rejected) {
            let key = ledger.state_key_in(&kind, &key, commit).await?;
            replaces = self.states.get(before, key).await?;
            after = self.states.set(before, key, number, commit).await?;
            set = Some(key);
        }
        self.remember(pdu, number, (after, false), commit).await?;

        let now = Root(self.head.state_root);
        let servers: Vec<_> = if is_new { self.servers().collect() } else { Vec::new() };
        let mut changes: Vec<Change> =
            set.map(|key| (key, replaces, Some(number))).into_iter().collect();
        let mut resolved = false;
        if is_new {
            self.advance(pdu);
            let present = self.present_state(after, commit).await?;
            self.head.state_root = present.0;
            if before != now || present != after {
                let all = self.states.changes(now, present).await?;
                resolved = all != changes;
                changes = all;
            }
        }
        let room_state = if is_new { Root(self.head.state_root) } else { after };
        let at = match placing {
            Placing::At(at) => Some(at),
            Placing::End | Placing::Nowhere => None,
        };
        let index = match placing {
            Placing::Nowhere => None,
            _ => Some(self.index_relation(pdu, number, at, commit).await?),
        };
        commit.keep(
            ledger,
            NewEvent {
                number,
                pdu,
                room: self.room,
                state_before: before,
                state_after: after,
                room_state,
                resolved,
                txn: arrival.txn.clone(),
                replaces,
                soft_failed: arrival.soft_failed,
                outlier: false,
                placing,
                redacted_by: late.as_ref().map(|(_, redaction)| *redaction),
                missing: arrival.missing.iter().map(ToString::to_string).collect(),
            },
            |place, rows| {
                if let Some(index) = index {
                    index(place, rows);
                }
            },
        );
        // After the event: what a leaver may see ends at the membership's position, and holds the
        // event.
        if is_new {
            self.follow(changes, commit).await?;
            self.send_out(pdu, (number, replaces), servers, &arrival.sending, commit).await?;
        }
        if arrival.placing == Placing::End && !pdu.rejected {
            self.tell_who_is_out(pdu, commit).await?;
        }
        if is_shown {
            self.take_effect(pdu, number, (&arrival.txn, replaces), commit).await?;
        }
        Ok(number)
    }

    /// Keeps an event of which only the events that allow it are known.
    pub(crate) async fn add_outlier(
        &mut self,
        pdu: &Arc<Pdu>,
        commit: &mut Commit,
    ) -> Result<EventNid, Error> {
        let ledger = &self.rooms.house.ledger;
        let number = EventNid(ledger.next_number());
        commit.keep(
            ledger,
            NewEvent {
                number,
                pdu,
                room: self.room,
                state_before: Root(0),
                state_after: Root(0),
                room_state: Root(0),
                resolved: false,
                txn: None,
                replaces: None,
                soft_failed: false,
                outlier: true,
                placing: Placing::Nowhere,
                redacted_by: None,
                missing: Vec::new(),
            },
            |_, _| {},
        );
        self.remember(pdu, number, (Root(0), true), commit).await?;
        Ok(number)
    }

    /// Lets later steps of this visit find the event.
    async fn remember(
        &mut self,
        pdu: &Arc<Pdu>,
        number: EventNid,
        (after, outlier): (Root, bool),
        commit: &mut Commit,
    ) -> Result<(), Error> {
        if pdu.state_key.is_some() {
            let mut row = AuthRow { events: Vec::new(), generation: 1 };
            for id in &pdu.auth_events {
                let Some(known) = self.known(id).await? else { continue };
                let edges = self.edges(known.number).await?;
                row.generation = row.generation.max(edges.generation + 1);
                row.events.push(known.number.0);
            }
            commit.put(&AUTH_EDGES, &number, &row);
            self.fresh_edges.insert(number, Arc::new(row));
        }
        self.fresh.insert(number, pdu.clone());
        let known = Known { number, rejected: pdu.rejected, outlier, after };
        self.fresh_known.insert(pdu.event_id.clone(), known);
        Ok(())
    }

    /// The event takes the place of those before it at the end of the graph.
    fn advance(&mut self, pdu: &Pdu) {
        let follows = |id: &String| pdu.prev_events.iter().any(|prev| prev.as_str() == id);
        self.head.extremities.retain(|id| !follows(id));
        self.head.extremities.push(pdu.event_id.to_string());
        // More ends than one event can tie together would be resolved again and again: the oldest are
        // let go. What they set stays in the graph, and comes back with whatever is built on it.
        let surplus = self.head.extremities.len().saturating_sub(PREV_EVENTS_MAX);
        if surplus > 0
            && let Some(times) = self.rooms.alarm("room.forked", self.room_id.as_str())
        {
            tracing::warn!(kind = "room.forked", room.id = %self.room_id, times,
                "a room has more loose ends than one event can tie together; the oldest are let go");
        }
        self.head.extremities.drain(..surplus);
        self.head.depth = self.head.depth.max(pdu.depth);
    }

    /// The state that the extremities make together; `newest` is that of the last.
    async fn present_state(&mut self, newest: Root, commit: &mut Commit) -> Result<Root, Error> {
        if self.head.extremities.len() == 1 {
            return Ok(newest);
        }
        let mut roots = Vec::with_capacity(self.head.extremities.len());
        for id in &self.head.extremities {
            let Ok(id) = <&EventId>::try_from(id.as_str()) else { continue };
            roots.extend(self.known(id).await?.map(|known| known.after));
        }
        self.resolve(roots, commit).await
    }

    /// Writes down which servers are owed the event.
    async fn send_out(
        &self,
        pdu: &Pdu,
        (number, replaces): (EventNid, Option<EventNid>),
        mut servers: Vec<OwnedServerName>,
        sending: &Sending,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let house = &self.rooms.house;
        match sending {
            Sending::Nobody => return Ok(()),
            Sending::Own if !house.is_ours(&pdu.sender) => return Ok(()),
            Sending::Own => {}
            Sending::AllBut(origin) => servers.retain(|server| server != origin),
        }
        // Who is put out, or whose invite or knock is answered, hears of it though not in the room.
        if let (TimelineEventType::RoomMember, Some(key)) = (&pdu.kind, &pdu.state_key)
            && let Some(replaced) = replaces
            && let Ok(user_id) = <&UserId>::try_from(key.as_str())
            && !house.is_ours(user_id)
            && !servers.iter().any(|server| server == user_id.server_name())
        {
            use appliance_model::ruma::events::room::member::MembershipState as M;
            let was = membership_of(&*self.pdu(replaced).await?);
            let is = membership_of(pdu);
            if matches!(was, M::Invite | M::Knock | M::Join) && is != M::Invite {
                servers.push(user_id.server_name().to_owned());
            }
        }
        if !servers.is_empty() {
            house.owe_event(number, servers, commit);
        }
        Ok(())
    }

    /// Whom one of ours has put out without knowing that they had come in, their server was not told: it
    /// was not in the room as far as was known here. When their join comes after all, it is.
    async fn tell_who_is_out(&self, pdu: &Pdu, commit: &mut Commit) -> Result<(), Error> {
        use appliance_model::ruma::events::room::member::MembershipState as M;
        let house = &self.rooms.house;
        let Some(key) = pdu.state_key.as_deref() else { return Ok(()) };
        let is_join = pdu.kind == TimelineEventType::RoomMember && membership_of(pdu) == M::Join;
        let Some(user_id) = <&UserId>::try_from(key).ok().filter(|user_id| {
            is_join && !house.is_ours(user_id) && !self.has_server(user_id.server_name())
        }) else {
            return Ok(());
        };
        let Some(present) = self.state(&StateEventType::RoomMember, key).await? else {
            return Ok(());
        };
        let is_out = matches!(membership_of(&present), M::Leave | M::Ban);
        if is_out
            && house.is_ours(&present.sender)
            && let Some(known) = self.known(&present.event_id).await?
        {
            house.owe_event(known.number, vec![user_id.server_name().to_owned()], commit);
        }
        Ok(())
    }

    /// What an event does beyond the state: it takes others back, it shows files.
    async fn take_effect(
        &mut self,
        pdu: &Arc<Pdu>,
        number: EventNid,
        (txn, replaces): (&Option<(DeviceNid, String)>, Option<EventNid>),
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let house = self.rooms.house.clone();
        let is_ours = house.is_ours(&pdu.sender);
        if pdu.kind == TimelineEventType::RoomRedaction {
            self.apply_redaction(pdu, number, commit).await?;
            if let Some(target) = pdu.redacts.as_ref().filter(|_| !is_ours)
                && self.known(target).await?.is_none()
            {
                let digest = house.ledger.event_digest(target);
                commit.put(&WAITING_REDACTIONS, &digest, &number.0);
            }
        }
        // What it shows of people's files lives no longer than this room allows.
        let device = txn.as_ref().map(|(device, _)| *device);
        let sent = Sent { number, pdu, device, replaces };
        match link(&house, self, sent, commit).await {
            // A policy that cannot be kept is refused to our own users; another server's is on record
            // already, and binds nobody.
            Err(error) if !is_ours && error.kind == appliance_model::Kind::BadJson => Ok(()),
            linked => linked,
        }
    }

    /// Whether a server may take part in this room, by its access list.
    pub(crate) async fn admits(&self, server: &ServerName) -> Result<bool, Error> {
        let acl = self.state(&StateEventType::RoomServerAcl, "").await?;
        Ok(appliance_rules::inbound::acl_allows(acl.as_deref(), server))
    }
}
