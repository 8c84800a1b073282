//! A town to play scenes in: several wards, each with a server of its own, that reach each other without
//! a wire between them.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{EVENTS, HEADS};
use appliance_model::ruma::api::Direction as ApiDirection;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::serde::Base64;
use appliance_model::ruma::signatures::PublicKeySet;
use appliance_model::ruma::{OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, ServerName};
use appliance_model::{Caller, Error, EventNid, Kind, RoomNid};
use async_trait::async_trait;
use serde_json::value::RawValue;

use super::line::{Ask, OtherServers};
use crate::scenario::{Ward, options};
use crate::{Options, Services};

/// Servers by name, and who reaches whom.
#[derive(Default)]
pub struct Town {
    pub wards: Vec<Ward>,
    exchange: Arc<Exchange>,
}

/// Where all calls go through.
#[derive(Default)]
pub struct Exchange {
    services: Mutex<BTreeMap<OwnedServerName, Arc<Services>>>,
    /// Pairs that do not reach each other now.
    cut: Mutex<BTreeSet<(OwnedServerName, OwnedServerName)>>,
    /// Servers that nobody has to do with.
    strangers: Mutex<BTreeSet<OwnedServerName>>,
    /// Servers whose keys cannot be had now.
    keyless: Mutex<BTreeSet<OwnedServerName>>,
    /// Every question asked, as `asker -> asked: what`.
    pub asked: Mutex<Vec<String>>,
    /// Servers that do not answer as they should.
    tricks: Mutex<BTreeMap<OwnedServerName, Trick>>,
}

/// What a server answers instead of the truth, told the question and the true answer; none if it lets
/// the other wait for ever.
pub type Trick =
    Arc<dyn Fn(&Ask, Result<String, Error>) -> Option<Result<String, Error>> + Send + Sync>;

/// One server's line to the others.
struct Phone {
    own: OwnedServerName,
    exchange: Weak<Exchange>,
}

impl Town {
    /// Servers `one.example`, `two.example`, ... whose rooms have that version.
    pub async fn of(count: usize, version: RoomVersionId) -> Self {
        Self::with_options(count, version, options()).await
    }

    /// The same, where the operators chose otherwise.
    pub async fn with_options(count: usize, version: RoomVersionId, chosen: Options) -> Self {
        const NAMES: [&str; 4] = ["one.example", "two.example", "three.example", "four.example"];
        let mut town = Self::default();
        for (seed, name) in (1..).zip(&NAMES[..count]) {
            let options = Options { default_room_version: version.clone(), ..chosen.clone() };
            let ward = Ward::of_server(name, options, seed).await;
            let own = ward.services.house.server_name.clone();
            town.exchange.services.lock().unwrap().insert(own.clone(), ward.services.clone());
            let phone = Phone { own, exchange: Arc::downgrade(&town.exchange) };
            ward.services.rooms.line.connect(Arc::new(phone));
            town.wards.push(ward);
        }
        town
    }

    /// Lets nobody have to do with a server.
    pub fn estrange(&self, server: &str) {
        self.exchange.strangers.lock().unwrap().insert(server.try_into().unwrap());
    }

    /// Lets nobody have a server's keys for a while.
    pub fn hide_keys(&self, server: &str, are_hidden: bool) {
        let server = server.try_into().unwrap();
        let mut keyless = self.exchange.keyless.lock().unwrap();
        match are_hidden {
            true => keyless.insert(server),
            false => keyless.remove(&server),
        };
    }

    /// Cuts or mends the line between two servers.
    pub fn cut(&self, one: usize, other: usize, is_cut: bool) {
        let name = |index: usize| self.wards[index].services.house.server_name.clone();
        let mut cut = self.exchange.cut.lock().unwrap();
        for pair in [(name(one), name(other)), (name(other), name(one))] {
            match is_cut {
                true => cut.insert(pair),
                false => cut.remove(&pair),
            };
        }
    }

    /// Has a server answer what it likes.
    pub fn trick(
        &self,
        at: usize,
        trick: impl Fn(&Ask, Result<String, Error>) -> Option<Result<String, Error>>
        + Send
        + Sync
        + 'static,
    ) {
        let name = self.wards[at].services.house.server_name.clone();
        self.exchange.tricks.lock().unwrap().insert(name, Arc::new(trick));
    }

    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.exchange.asked.lock().unwrap())
    }

    /// Sends what `from` has said in a room since event `after` to `to`, as a transaction.
    pub async fn deliver(&self, from: usize, to: usize, room: &RoomId, txn: &str) -> Vec<String> {
        let ward = &self.wards[from];
        if ward.services.house.ledger.room(room).await.unwrap().is_none() {
            return Vec::new();
        }
        let (_, events) = ward.timeline(room).await;
        let own = ward.services.house.server_name.clone();
        let mut pdus = Vec::new();
        for (event, _) in &events {
            let sender = event.part(event.spans.sender).trim_matches('"');
            let is_there = self.number(to, event.event_id.as_str()).await.is_some();
            if sender.ends_with(&format!(":{own}")) && !is_there {
                let json = String::from_utf8(event.json.to_vec()).unwrap();
                pdus.push(RawValue::from_string(json).unwrap());
            }
        }
        let mut answers = Vec::new();
        for (number, part) in pdus.chunks(50).enumerate() {
            let txn = format!("{txn}-{number}");
            let rooms = &self.wards[to].services.rooms;
            answers.push(rooms.receive_pdus(&own, &txn, part.to_vec()).await.unwrap());
        }
        answers
    }

    /// Sends one event of `from` to `to`, and nothing before it.
    pub async fn deliver_only(&self, from: usize, to: usize, event_id: &str) {
        let house = &self.wards[from].services.house;
        let event = house.ledger.event_by_id(event_id.try_into().unwrap()).await.unwrap().unwrap();
        let json = String::from_utf8(event.json.to_vec()).unwrap();
        let pdus = vec![RawValue::from_string(json).unwrap()];
        let rooms = &self.wards[to].services.rooms;
        rooms.receive_pdus(&house.server_name, event_id, pdus).await.unwrap();
    }

    /// Whether a line is whole.
    pub fn reaches(&self, one: usize, other: usize) -> bool {
        let name = |index: usize| self.wards[index].services.house.server_name.clone();
        !self.exchange.cut.lock().unwrap().contains(&(name(one), name(other)))
    }

    /// The events of a room that a server has in its graph, shown or not.
    pub async fn kept(&self, at: usize, room: &RoomId) -> BTreeSet<String> {
        let ledger = &self.wards[at].services.house.ledger;
        let number = ledger.room(room).await.unwrap().unwrap();
        let view = ledger.newest();
        let (ids, _) = view.scan(&EVENTS, &(), Direction::Forward, 10_000).await.unwrap();
        let of_room = ids.into_iter().filter(|(_, row)| row.room == number.0);
        let placed = of_room.filter(|(_, row)| row.outlier != Some(true));
        placed.map(|(_, row)| row.event_id).collect()
    }

    /// A room of `creator` with people of other wards in it, all joined over the line.
    pub async fn room_of(
        &self,
        (home, creator): (usize, &Caller),
        others: &[(usize, &Caller)],
    ) -> OwnedRoomId {
        let room = self.wards[home].room(creator).await;
        for (index, other) in others {
            self.wards[home].set(creator, &room, &other.user_id, M::Invite).await;
            self.wards[*index].set(other, &room, &other.user_id, M::Join).await;
        }
        room
    }

    /// The current state of a room at a server: `type|state_key -> event ID`.
    pub async fn state(&self, at: usize, room: &RoomId) -> BTreeMap<String, String> {
        let ledger = &self.wards[at].services.house.ledger;
        let number = ledger.room(room).await.unwrap().unwrap();
        let head = ledger.get(&HEADS, &number).await.unwrap().unwrap();
        let root = appliance_ledger::Root(head.state_root);
        let mut state = BTreeMap::new();
        for (_, event) in ledger.states(number).all(root).await.unwrap() {
            let event = ledger.event(event).await.unwrap();
            let key = event.part(event.spans.state_key).trim_matches('"');
            state.insert(format!("{}|{key}", event.kind()), event.event_id.to_string());
        }
        state
    }

    /// The events of a room that a server shows.
    pub async fn shown(&self, at: usize, room: &RoomId) -> BTreeSet<String> {
        let (_, events) = self.wards[at].timeline(room).await;
        events.iter().map(|(event, _)| event.event_id.to_string()).collect()
    }

    /// Number of an event at a server.
    pub async fn number(&self, at: usize, event_id: &str) -> Option<EventNid> {
        let ledger = &self.wards[at].services.house.ledger;
        ledger.event_number(event_id.try_into().unwrap()).await.unwrap()
    }
}

impl Phone {
    fn reach(&self, server: &ServerName) -> Result<Arc<Services>, Error> {
        let gone = || Error::new(Kind::RemoteUnavailable, "The line is dead.");
        let exchange = self.exchange.upgrade().ok_or_else(gone)?;
        let pair = (self.own.clone(), server.to_owned());
        if exchange.cut.lock().unwrap().contains(&pair) {
            return Err(gone());
        }
        let services = exchange.services.lock().unwrap().get(server).cloned();
        services.ok_or_else(gone)
    }
}

#[async_trait]
impl OtherServers for Phone {
    fn allows(&self, server: &ServerName) -> bool {
        let exchange = self.exchange.upgrade().unwrap();
        !exchange.strangers.lock().unwrap().contains(server)
    }

    async fn ask(&self, server: &ServerName, ask: Ask) -> Result<Box<RawValue>, Error> {
        let exchange = self.exchange.upgrade().unwrap();
        let what = ask.path();
        let what = what.split('/').nth(4).unwrap().split('?').next().unwrap().to_owned();
        exchange.asked.lock().unwrap().push(format!("{} -> {server}: {what}", self.own));
        let services = self.reach(server)?;
        let (rooms, origin) = (&services.rooms, &*self.own);
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let answer = match &ask {
            Ask::MakeJoin { room_id, user_id, versions } => {
                rooms.make_member(origin, (room_id, user_id), M::Join, versions).await
            }
            Ask::MakeLeave { room_id, user_id } => {
                rooms.make_member(origin, (room_id, user_id), M::Leave, &[]).await
            }
            Ask::MakeKnock { room_id, user_id, versions } => {
                rooms.make_member(origin, (room_id, user_id), M::Knock, versions).await
            }
            Ask::SendJoin { room_id, event_id, event } => {
                rooms.take_join(origin, (room_id, event_id), &raw(event)).await
            }
            Ask::SendLeave { room_id, event_id, event } => {
                rooms.take_leave(origin, (room_id, event_id), &raw(event)).await
            }
            Ask::SendKnock { room_id, event_id, event } => {
                rooms.take_knock(origin, (room_id, event_id), &raw(event)).await
            }
            Ask::Invite { room_id, event_id, body } => {
                let body = serde_json::from_str(body).unwrap();
                let event = rooms.take_invite(origin, (room_id, event_id), &body).await;
                event.map(|event| format!(r#"{{"event":{event}}}"#))
            }
            Ask::MissingEvents { room_id, body } => {
                let query = serde_json::from_str(body).unwrap();
                rooms.missing_events(origin, room_id, &query).await
            }
            Ask::Event { event_id } => rooms.event_for(origin, event_id).await,
            Ask::State { room_id, event_id } => rooms.state_for(origin, room_id, event_id).await,
            Ask::StateIds { room_id, event_id } => {
                rooms.state_ids_for(origin, room_id, event_id).await
            }
            Ask::EventAuth { room_id, event_id } => {
                rooms.event_auth_for(origin, room_id, event_id).await
            }
            Ask::Backfill { room_id, from, limit } => {
                rooms.backfill_for(origin, room_id, from, *limit).await
            }
            Ask::Timestamp { room_id, at_ms, backward } => {
                let direction =
                    if *backward { ApiDirection::Backward } else { ApiDirection::Forward };
                rooms.timestamp_for(origin, room_id, *at_ms, direction).await
            }
            Ask::Hierarchy { room_id } => rooms.hierarchy_for_server(origin, room_id, false).await,
            Ask::Sign { event } => rooms.sign_as_policy_server(origin, &raw(event)).await,
            Ask::Alias { alias } => {
                let room_id = rooms.resolve_alias(alias).await?;
                Ok(format!(r#"{{"room_id":"{room_id}","servers":["{server}"]}}"#))
            }
        };
        let trick = exchange.tricks.lock().unwrap().get(server).cloned();
        let answer = match trick.map(|trick| trick(&ask, answer.clone())) {
            None => answer,
            Some(Some(answer)) => answer,
            Some(None) => std::future::pending().await,
        };
        // The line may break while the answer is on its way.
        self.reach(server)?;
        answer.map(|answer| raw(&answer))
    }

    async fn settle(&self, _: &ServerName, _: RoomNid) -> Result<bool, Error> {
        Ok(true)
    }

    async fn keys(
        &self,
        server: &ServerName,
        key_ids: &[String],
        _at_ms: u64,
    ) -> Result<PublicKeySet, Error> {
        // Keys are known from before, also while the line is dead.
        let exchange = self.exchange.upgrade().unwrap();
        if exchange.keyless.lock().unwrap().contains(server) {
            return Err(Error::new(Kind::RemoteUnavailable, "The keys cannot be had now."));
        }
        let services = exchange.services.lock().unwrap().get(server).cloned();
        let Some(services) = services else { return Ok(PublicKeySet::new()) };
        let key = &services.house.signing_key;
        let key_id = format!("ed25519:{}", key.version());
        let public = Base64::new(key.public_key().to_vec());
        Ok([(key_id, public)].into_iter().filter(|(id, _)| key_ids.contains(id)).collect())
    }

    async fn lends(&self, server: &ServerName) -> Result<bool, Error> {
        // The fourth of a town is of another kind.
        Ok(server.as_str() != "four.example")
    }
}
