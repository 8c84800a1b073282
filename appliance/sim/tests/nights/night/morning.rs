//! What must be so in the morning.

use std::collections::{BTreeMap, BTreeSet};

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{EVENTS, HEADS, TO_DEVICE};
use appliance_model::Caller;
use appliance_model::ruma::RoomId;
use appliance_model::ruma::api::client::filter::RoomEventFilter;
use appliance_services::Services;
use appliance_services::rooms::HistoryQuery;
use serde_json::Value;

use super::{Mood, NAMES, Night, STRANGER};

/// More rows than any night writes into one keyspace.
const ROWS_MAX: usize = 100_000;

/// What a server has of a room.
#[derive(Debug, Default)]
struct Seen {
    state: BTreeSet<String>,
    shown: BTreeSet<String>,
    /// Allowed where they were said, but not by what was known here when they came.
    soft_failed: BTreeSet<String>,
    /// Those of them whose authors never left the room.
    kept_from_all: BTreeSet<String>,
    rejected: BTreeSet<String>,
}

impl Night {
    /// What must be so, and a digest of it.
    pub(super) async fn check(&self) -> String {
        let mut digest = String::new();
        for (room, _) in &self.rooms {
            let mut seen: Vec<(usize, Seen)> = Vec::new();
            for at in 0..self.hospitals.len() {
                seen.extend(self.look(at, room).await.map(|seen| (at, seen)));
            }
            self.agree(room, &seen).await;
            digest.push_str(&format!("{seen:?}\n"));
        }
        digest.push_str(&self.letters_arrived().await);
        for ((from, to), count) in self.wire.asked() {
            digest.push_str(&format!("{from} -> {to}: {count}\n"));
            if to == STRANGER {
                self.fail(&format!("{from} asked {to} {count} times"));
            }
        }
        let services = self.stranger.services.as_ref().unwrap();
        for json in all_events(services).await {
            if !json.contains(":stranger.example\"") {
                self.fail(&format!("the stranger holds {json}"));
            }
        }
        digest
    }

    /// What was sent from device to device is there, once. Returns all that came.
    async fn letters_arrived(&self) -> String {
        let mut came = BTreeMap::new();
        for hospital in &self.hospitals {
            let view = hospital.services.as_ref().unwrap().house.ledger.newest();
            for person in &hospital.people {
                let direction = Direction::Forward;
                let rows = view.scan(&TO_DEVICE, &person.device, direction, ROWS_MAX).await;
                for (_, row) in rows.unwrap().0 {
                    let event: Value = serde_json::from_str(&row.json).unwrap();
                    let Some(letter) = event["content"]["letter"].as_str() else { continue };
                    *came.entry((person.user_id.clone(), letter.to_owned())).or_insert(0) += 1;
                }
            }
        }
        if let Some((letter, count)) = came.iter().find(|(_, count)| **count > 1) {
            self.fail(&format!("{letter:?} came {count} times"));
        }
        for letter in &*self.letters.lock().unwrap() {
            if !came.contains_key(letter) {
                self.fail(&format!("{letter:?} was acknowledged and did not come"));
            }
        }
        format!("{came:?}\n")
    }

    /// Whom the hospital that made the room has in it: nobody there ever leaves. Who was put out by
    /// somebody who did not know that they had come in may never hear of it.
    async fn guests(&self, room: &RoomId) -> BTreeSet<String> {
        let made = self.rooms.iter().find(|(id, _)| id == room);
        let maker = self
            .hospitals
            .iter()
            .find(|hospital| made.is_some_and(|(_, name)| *name == hospital.name));
        let maker = maker.unwrap();
        let ledger = &maker.services.as_ref().unwrap().house.ledger;
        let number = ledger.room(room).await.unwrap().unwrap();
        let head = ledger.get(&HEADS, &number).await.unwrap().unwrap();
        let others = head.servers.unwrap_or_default().into_iter().map(|(name, _)| name);
        others.chain([maker.name.to_string()]).collect()
    }

    async fn agree(&self, room: &RoomId, all: &[(usize, Seen)]) {
        let guests = self.guests(room).await;
        let seen: Vec<_> = all.iter().filter(|(at, _)| guests.contains(NAMES[*at])).collect();
        if self.mood == Mood::Calm {
            self.same_company(room, &guests, all).await;
        }
        let Some((_, first)) = seen.first() else { return };
        let union = |part: fn(&Seen) -> &BTreeSet<String>| -> BTreeSet<String> {
            seen.iter().flat_map(|(_, seen)| part(seen).iter().cloned()).collect()
        };
        let (shown, rejected) = (union(|seen| &seen.shown), union(|seen| &seen.rejected));
        let acked = self.acked.lock().unwrap().get(room).cloned().unwrap_or_default();
        for (at, other) in &seen {
            let name = NAMES[*at];
            let fail = async |what: &str, id: &String| {
                let is_near = |one: &str, event: &Value| {
                    one == id || event["prev_events"].to_string().contains(id.as_str())
                };
                let (told, opinions) = (self.told(room, is_near).await, self.opinions(&seen, id));
                self.fail(&format!("{room}, {name}: {what} {id}\n{opinions}{told}"));
            };
            if first.state != other.state {
                let one: Vec<_> = first.state.difference(&other.state).collect();
                let two: Vec<_> = other.state.difference(&first.state).collect();
                let entry = one.iter().chain(&two).next().map_or("", |entry| entry.as_str());
                let id = entry.rsplit(' ').next().unwrap_or_default().to_owned();
                fail(&format!("the state differs, {one:?} elsewhere, {two:?} here; of"), &id).await;
            }
            // Whether what was before an event allows it is the same wherever it is asked.
            let accepted: BTreeSet<_> = other.shown.union(&other.soft_failed).cloned().collect();
            if let Some(id) = rejected.intersection(&accepted).next() {
                fail("others reject", id).await;
            }
            // Whether what is known now allows it too is not. But it is part of the room's past all the
            // same.
            for id in shown.difference(&accepted) {
                if !self.is_unheard_of(id, &seen, *at).await {
                    fail("others show, and here is not,", id).await;
                }
            }
            if self.mood == Mood::Calm
                && let Some(id) = shown.intersection(&other.kept_from_all).next()
            {
                fail("others show, and here is kept from all,", id).await;
            }
            for (id, by) in &acked {
                let is_here = if by == at { &other.shown } else { &accepted };
                let is_gone = guests.contains(NAMES[*by]) && !is_here.contains(id);
                if is_gone && !self.is_unheard_of(id, &seen, *at).await {
                    fail("it was acknowledged, and is gone:", id).await;
                }
            }
        }
        self.kept_by_those_outside(room, all);
    }

    /// Who is in the room believes so, and nobody else does.
    async fn same_company(&self, room: &RoomId, guests: &BTreeSet<String>, all: &[(usize, Seen)]) {
        for (at, name) in NAMES[..self.hospitals.len()].iter().enumerate() {
            let believes = all.iter().any(|(one, _)| *one == at);
            if guests.contains(*name) != believes {
                let of_theirs = |_: &str, event: &Value| {
                    let key = event["state_key"].as_str().unwrap_or_default();
                    event["type"] == "m.room.member" && key.ends_with(&format!(":{name}"))
                };
                let moves = self.told(room, of_theirs).await;
                self.fail(&format!(
                    "{room}: {name} believes that it is in: {believes}, it is not so\n{moves}"
                ));
            }
        }
    }

    /// What each server has of some events, told their IDs and their JSON: the oldest first.
    async fn told(&self, room: &RoomId, wanted: impl Fn(&str, &Value) -> bool) -> String {
        let mut lines = Vec::new();
        for hospital in &self.hospitals {
            let ledger = &hospital.services.as_ref().unwrap().house.ledger;
            let Some(number) = ledger.room(room).await.unwrap() else { continue };
            let view = ledger.view().await.unwrap();
            let (rows, _) = view.scan(&EVENTS, &(), Direction::Forward, ROWS_MAX).await.unwrap();
            for (_, row) in rows.into_iter().filter(|(_, row)| row.room == number.0) {
                let event: Value = serde_json::from_slice(&row.json).unwrap();
                if wanted(&row.event_id, &event) {
                    let standing = match row {
                        _ if row.outlier == Some(true) => "an outlier",
                        _ if row.rejected => "rejected",
                        _ if row.soft_failed == Some(true) => "soft-failed",
                        _ => "shown",
                    };
                    let part = |name: &str| event[name].to_string();
                    lines.push(format!(
                        "{} {} {} {} {}, after {}, allowed by {}, is {standing} at {}",
                        part("origin_server_ts"),
                        row.event_id,
                        part("sender"),
                        part("type"),
                        part("content"),
                        part("prev_events"),
                        part("auth_events"),
                        hospital.name
                    ));
                }
            }
        }
        lines.sort();
        lines.join("\n")
    }

    /// Whoever is no longer in the room has at least what was answered in the house.
    fn kept_by_those_outside(&self, room: &RoomId, all: &[(usize, Seen)]) {
        for (at, seen) in all {
            for (id, by) in self.acked.lock().unwrap().get(room).into_iter().flatten() {
                if by == at && !seen.shown.contains(id) {
                    let name = NAMES[*at];
                    self.fail(&format!("{room}, {name}: {id} was acknowledged there and is gone"));
                }
            }
        }
    }

    /// Whether it is right that a server never heard of an event: nobody of its people was in the room where it
    /// was said, and all who got it had put its author out meanwhile. "When an event is 'soft failed' it should
    /// not be relayed to the client nor be referenced by new events": whoever came later is not led to it.
    async fn is_unheard_of(&self, id: &str, seen: &[&(usize, Seen)], at: usize) -> bool {
        let showing: Vec<_> = seen.iter().filter(|(_, seen)| seen.shown.contains(id)).collect();
        let [(own, _)] = showing[..] else { return false };
        let ledger = &self.hospitals[*own].services.as_ref().unwrap().house.ledger;
        let event = ledger.event_by_id(id.try_into().unwrap()).await.unwrap().unwrap();
        let is_of = |person: &str, at: usize| {
            person.trim_matches('"').ends_with(&format!(":{}", NAMES[at]))
        };
        if *own == at || !is_of(event.part(event.spans.sender), *own) {
            return false;
        }
        for (_, number) in ledger.states(event.room).all(event.state_before).await.unwrap() {
            let state = ledger.event(number).await.unwrap();
            let content: Value = serde_json::from_str(state.content()).unwrap();
            if state.kind() == "m.room.member"
                && content["membership"] == "join"
                && is_of(state.part(state.spans.state_key), at)
            {
                return false;
            }
        }
        seen.iter().any(|(_, seen)| seen.soft_failed.contains(id))
    }

    /// What each thinks of an event.
    fn opinions(&self, seen: &[&(usize, Seen)], id: &String) -> String {
        let opinions = seen.iter().map(|(at, seen)| {
            let said = match seen {
                seen if seen.shown.contains(id) => "shows it",
                seen if seen.soft_failed.contains(id) => "soft-failed it",
                seen if seen.rejected.contains(id) => "rejected it",
                _ => "has it not",
            };
            let is_state = seen.state.iter().any(|entry| entry.ends_with(id.as_str()));
            format!("{}: {said}{}\n", NAMES[*at], if is_state { ", has it as state" } else { "" })
        });
        opinions.collect()
    }

    /// What a hospital that is in a room has of it, once somebody there has paged back to its beginning.
    async fn look(&self, at: usize, room: &RoomId) -> Option<Seen> {
        let services = self.hospitals[at].services.as_ref().unwrap();
        let ledger = &services.house.ledger;
        let number = ledger.room(room).await.unwrap()?;
        if !services.rooms.is_resident(number).await.unwrap() {
            return None;
        }
        for person in &self.hospitals[at].people {
            if services.rooms.joined_rooms(person).await.unwrap().contains(&room.to_owned()) {
                page_back(services, person, room).await;
            }
        }
        let root = services.rooms.current_root(number).await.unwrap();
        let mut seen = Seen::default();
        for (_, event) in ledger.states(number).all(root).await.unwrap() {
            let event = ledger.event(event).await.unwrap();
            let key = event.part(event.spans.state_key).trim_matches('"').to_owned();
            seen.state.insert(format!("{}|{key} {}", event.kind(), event.event_id));
        }
        let view = ledger.view().await.unwrap();
        let everything = (i64::MIN, i64::MAX);
        let stretch = view.timeline(number, everything, Direction::Forward, 10_000).await.unwrap();
        seen.shown = stretch.events.iter().map(|(event, _)| event.event_id.to_string()).collect();
        let (rows, _) = view.scan(&EVENTS, &(), Direction::Forward, ROWS_MAX).await.unwrap();
        for (_, row) in rows.into_iter().filter(|(_, row)| row.room == number.0) {
            match row {
                row if row.outlier == Some(true) => {}
                row if row.rejected => drop(seen.rejected.insert(row.event_id)),
                row if row.soft_failed == Some(true) => {
                    let event: Value = serde_json::from_slice(&row.json).unwrap();
                    let sender = event["sender"].as_str().unwrap().to_owned();
                    if !self.left.contains(&(sender, room.to_owned())) {
                        seen.kept_from_all.insert(row.event_id.clone());
                    }
                    seen.soft_failed.insert(row.event_id);
                }
                _ => {}
            }
        }
        Some(seen)
    }
}

async fn all_events(services: &Services) -> Vec<String> {
    let view = services.house.ledger.newest();
    let (rows, _) = view.scan(&EVENTS, &(), Direction::Forward, ROWS_MAX).await.unwrap();
    rows.into_iter().map(|(_, row)| String::from_utf8_lossy(&row.json).into_owned()).collect()
}

async fn page_back(services: &Services, person: &Caller, room: &RoomId) {
    let filter = RoomEventFilter::default();
    let mut from = None;
    for _ in 0..1_000 {
        let direction = Direction::Backward;
        let query = HistoryQuery { from, to: None, direction, limit: 100, filter: &filter };
        let page = services.rooms.history(person, room, &query).await.unwrap();
        if page.end.is_none() {
            return;
        }
        from = page.end;
    }
    panic!("{room} has no beginning");
}
