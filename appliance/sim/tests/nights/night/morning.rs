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

/// The first of `one` that `two` has not.
fn lacking<'a>(one: &'a BTreeSet<String>, two: &BTreeSet<String>) -> Option<&'a String> {
    one.iter().find(|id| !two.contains(*id))
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
            self.same_company(room, &guests, all);
        }
        let Some((_, first)) = seen.first() else { return };
        let union = |part: fn(&Seen) -> &BTreeSet<String>| -> BTreeSet<String> {
            seen.iter().flat_map(|(_, seen)| part(seen).iter().cloned()).collect()
        };
        let (shown, rejected) = (union(|seen| &seen.shown), union(|seen| &seen.rejected));
        for (at, other) in &seen {
            let name = NAMES[*at];
            let fail = |what: &str, id: &String| -> ! {
                self.fail(&format!("{room}, {name}: {what} {id}\n{}", self.opinions(&seen, id)))
            };
            if first.state != other.state {
                let one: Vec<_> = first.state.difference(&other.state).collect();
                let two: Vec<_> = other.state.difference(&first.state).collect();
                let entry = one.iter().chain(&two).next().map_or("", |entry| entry.as_str());
                let id = entry.rsplit(' ').next().unwrap_or_default().to_owned();
                fail(&format!("the state differs, {one:?} elsewhere, {two:?} here; of"), &id);
            }
            // Whether what was before an event allows it is the same wherever it is asked.
            let accepted: BTreeSet<_> = other.shown.union(&other.soft_failed).cloned().collect();
            if let Some(id) = rejected.intersection(&accepted).next() {
                fail("others reject", id);
            }
            // Whether what is known now allows it too is not. But it is part of the room's past all the
            // same.
            if let Some(id) = lacking(&shown, &accepted) {
                fail("others show, and here is not,", id);
            }
            if self.mood == Mood::Calm
                && let Some(id) = shown.intersection(&other.kept_from_all).next()
            {
                fail("others show, and here is kept from all,", id);
            }
            for (id, by) in self.acked.lock().unwrap().get(room).into_iter().flatten() {
                let is_here = if by == at { &other.shown } else { &accepted };
                if guests.contains(NAMES[*by]) && !is_here.contains(id) {
                    fail("it was acknowledged, and is gone:", id);
                }
            }
        }
        self.kept_by_those_outside(room, all);
    }

    /// Who is in the room believes so, and nobody else does.
    fn same_company(&self, room: &RoomId, guests: &BTreeSet<String>, all: &[(usize, Seen)]) {
        for (at, name) in NAMES[..self.hospitals.len()].iter().enumerate() {
            let believes = all.iter().any(|(one, _)| *one == at);
            if guests.contains(*name) != believes {
                self.fail(&format!(
                    "{room}: {name} believes that it is in: {believes}, it is not so"
                ));
            }
        }
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
