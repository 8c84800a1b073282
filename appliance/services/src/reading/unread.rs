//! Unread counts ([spec]): events since the reader's receipt that their push rules let ring.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications
//!
//! Counted when asked, not when sent: a message into a ward of a thousand costs its sender nothing.
//! What rang is remembered per reader and room, with its place and thread, so that the next message
//! costs one look, and a receipt anywhere in the room none.

use std::collections::BTreeMap;
use std::sync::Arc;

use appliance_ledger::keyspaces::{RECEIPTS, USER_ROOMS};
use appliance_ledger::{Direction, Event, membership};
use appliance_model::ruma::UserId;
use appliance_model::ruma::push::{Action, Ruleset};
use appliance_model::{Caller, Error, EventNid, Position, RoomNid, UserNid};
use quick_cache::sync::Cache;
use serde::Deserialize;

use super::Reading;
use super::receipts::Receipt;
use crate::rooms::retention::{Horizon, said_ms};
use crate::sync::Unread;

/// Events looked at for a reader of whom nothing is remembered. Some who came back after months, or
/// after a restart, see fewer than there are; what comes after is counted exactly.
const LOOKED_AT_MAX: usize = 5_000;
/// Events read at once.
const PAGE: usize = 500;
/// What rang and is unread, of one reader in one room: the newest. Clients show "99+" long before.
const RANG_MAX: usize = 1_000;
/// Tallies kept in memory, about 200 bytes each and 48 for each event that rang.
const TALLIES_CACHED_MAX: usize = 20_000;
/// A reader's receipts in one room: one for each thread they opened.
const RECEIPTS_MAX: usize = 1_000;

/// The counts of one room for one reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnreadRoom {
    /// Of the room outside threads.
    pub main: Unread,
    /// By thread root.
    pub threads: BTreeMap<String, Unread>,
}

impl UnreadRoom {
    /// Everything that rang, threads included.
    pub fn all(&self) -> u64 {
        let threads = self.threads.values().map(|thread| thread.notifications);
        self.main.notifications + threads.sum::<u64>()
    }
}

/// Tallies by reader and room.
pub(super) struct Tallies(Cache<(UserNid, RoomNid), Arc<Tally>>);

/// What rang, up to a position, under these rules.
#[derive(Clone)]
struct Tally {
    upto: Position,
    /// The reader is in the room since.
    joined: i64,
    rules: Arc<Ruleset>,
    rang: Vec<Rang>,
}

#[derive(Clone)]
struct Rang {
    event: EventNid,
    place: i64,
    /// When it was said, if it can be over one day: milliseconds since the Unix epoch.
    said_ms: Option<u64>,
    thread: Option<Arc<str>>,
    highlights: bool,
}

/// How far the reader has read: in the whole room, in the main timeline, in threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks {
    room: i64,
    main: i64,
    threads: BTreeMap<String, i64>,
}

impl Tallies {
    pub fn new() -> Self {
        Self(Cache::new(TALLIES_CACHED_MAX))
    }
}

impl Marks {
    fn of(receipts: &[Receipt]) -> Self {
        let mut marks = Self { room: i64::MIN, main: i64::MIN, threads: BTreeMap::new() };
        for receipt in receipts {
            let place = receipt.row.place;
            match receipt.thread.as_str() {
                "" => marks.room = marks.room.max(place),
                "main" => marks.main = marks.main.max(place),
                root => {
                    let mark = marks.threads.entry(root.to_owned()).or_insert(place);
                    *mark = place.max(*mark);
                }
            }
        }
        marks
    }

    /// How far the reader has read where an event of `thread` is.
    fn read_upto(&self, thread: Option<&str>) -> i64 {
        let own = match thread {
            None => self.main,
            Some(root) => self.threads.get(root).copied().unwrap_or(i64::MIN),
        };
        self.room.max(own)
    }
}

impl Reading {
    /// What is unread for the caller in a room, up to a position.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn unread(
        &self,
        caller: &Caller,
        room: RoomNid,
        upto: Position,
    ) -> Result<UnreadRoom, Error> {
        self.unread_of((caller.user, &caller.user_id), room, upto).await
    }

    /// The same for any local user.
    pub(crate) async fn unread_of(
        &self,
        reader: (UserNid, &UserId),
        room: RoomNid,
        upto: Position,
    ) -> Result<UnreadRoom, Error> {
        let row = self.house.ledger.get(&USER_ROOMS, &(reader.0, room)).await?;
        // Nothing is unread in a room that one is not in; what was before is not news.
        let Some(row) = row.filter(|row| row.membership == membership::JOIN) else {
            return Ok(UnreadRoom::default());
        };
        let marks = Marks::of(&self.own_receipts(reader.0, room).await?);
        let rules = self.personal.push_rules(reader.0, reader.1).await?;
        let joined = row.since.cast_signed();
        let known = self.tallies.0.get(&(reader.0, room));
        let known =
            known.filter(|known| known.joined == joined && Arc::ptr_eq(&known.rules, &rules));
        let tally = match known {
            Some(known) if known.upto >= upto => known,
            known => {
                let before = known.as_deref().cloned();
                let before =
                    before.unwrap_or(Tally { upto: Position(0), joined, rules, rang: Vec::new() });
                let tally = Arc::new(self.tally(reader, room, (before, upto), &marks).await?);
                self.tallies.0.insert((reader.0, room), tally.clone());
                tally
            }
        };
        // Nobody can read what is over, so nobody is told that it waits.
        let horizon = match tally.rang.is_empty() {
            true => Horizon::default(),
            false => self.rooms.horizon(room).await?,
        };
        Ok(count(&tally, &marks, (place(upto), &horizon)))
    }

    /// Adds to a tally what rang since.
    async fn tally(
        &self,
        reader: (UserNid, &UserId),
        room: RoomNid,
        (mut tally, upto): (Tally, Position),
        marks: &Marks,
    ) -> Result<Tally, Error> {
        let from = place(tally.upto).max(marks.room).max(tally.joined).saturating_add(1);
        let mut to = place(upto).saturating_add(1);
        let mut events = Vec::new();
        loop {
            let stretch = self.house.ledger.recent(room, (from, to), PAGE).await?;
            to = stretch.events.last().and_then(|(event, _)| event.position).unwrap_or(to);
            events.extend(stretch.events.into_iter().map(|(event, _)| event));
            if !stretch.more || events.len() >= LOOKED_AT_MAX {
                break;
            }
        }
        tally.upto = upto;
        if events.is_empty() {
            return Ok(tally);
        }
        let scene = self.scene(room).await?;
        let mut redactions = false;
        for event in events.iter().rev() {
            let Some(place) = event.position else { continue };
            redactions |= event.kind() == "m.room.redaction";
            let thread = thread_of(event);
            if event.part(event.spans.sender).trim_matches('"') == reader.1.as_str() {
                // Whoever writes has read what came before, there.
                tally.rang.retain(|rang| rang.thread.as_deref() != thread.as_deref());
                continue;
            }
            if place <= marks.read_upto(thread.as_deref()) {
                continue;
            }
            let actions = self.actions(&scene, reader, &tally.rules, event).await?;
            if actions.iter().any(Action::should_notify) {
                let highlights = actions.iter().any(Action::is_highlight);
                let thread = thread.map(Arc::from);
                let (event, said_ms) = (event.number, said_ms(event));
                tally.rang.push(Rang { event, place, said_ms, thread, highlights });
            }
        }
        if redactions {
            self.forget_redacted(&mut tally).await?;
        }
        // Receipts only move forward: what is read is never unread again.
        tally.rang.retain(|rang| rang.place > marks.read_upto(rang.thread.as_deref()));
        let beyond = tally.rang.len().saturating_sub(RANG_MAX);
        tally.rang.drain(..beyond);
        Ok(tally)
    }

    /// What was taken back does not count any more.
    async fn forget_redacted(&self, tally: &mut Tally) -> Result<(), Error> {
        let numbers: Vec<_> = tally.rang.iter().map(|rang| rang.event).collect();
        let events = self.house.ledger.events(&numbers).await?;
        let mut taken_back = events.iter().map(|event| event.redacted_by.is_some());
        tally.rang.retain(|_| !taken_back.next().unwrap_or_default());
        Ok(())
    }

    /// Whether the reader has read up to a place of a room, as far as an event there is concerned.
    pub(crate) async fn has_read(
        &self,
        user: UserNid,
        room: RoomNid,
        event: &Event,
    ) -> Result<bool, Error> {
        let marks = Marks::of(&self.own_receipts(user, room).await?);
        let thread = thread_of(event);
        Ok(event.position.is_some_and(|place| place <= marks.read_upto(thread.as_deref())))
    }

    /// A reader's receipts in one room, private ones too.
    pub(crate) async fn own_receipts(
        &self,
        user: UserNid,
        room: RoomNid,
    ) -> Result<Vec<Receipt>, Error> {
        let (rows, _) = self
            .house
            .ledger
            .newest()
            .scan(&RECEIPTS, &(room, user), Direction::Forward, RECEIPTS_MAX)
            .await?;
        let receipt = |((_, user, kind, thread), row)| Receipt { user, kind, thread, row };
        Ok(rows.into_iter().map(receipt).collect())
    }
}

fn count(tally: &Tally, marks: &Marks, (upto, horizon): (i64, &Horizon)) -> UnreadRoom {
    let mut unread = UnreadRoom::default();
    for rang in tally.rang.iter().filter(|rang| rang.place <= upto) {
        let is_over = rang.said_ms.is_some_and(|said_ms| horizon.is_past(rang.event, said_ms));
        if is_over || rang.place <= marks.read_upto(rang.thread.as_deref()) {
            continue;
        }
        let counts = match &rang.thread {
            None => &mut unread.main,
            Some(root) => unread.threads.entry(root.to_string()).or_default(),
        };
        counts.notifications += 1;
        counts.highlights += u64::from(rang.highlights);
    }
    unread
}

/// The root of the thread an event is in.
fn thread_of(event: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Option<Relation>,
    }
    #[derive(Deserialize)]
    struct Relation {
        rel_type: Option<String>,
        event_id: Option<String>,
    }
    if !event.content().contains("m.thread") {
        return None;
    }
    let relation = serde_json::from_str::<Content>(event.content()).ok()?.relates_to?;
    relation.event_id.filter(|_| relation.rel_type.as_deref() == Some("m.thread"))
}

fn place(position: Position) -> i64 {
    position.0.cast_signed()
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::events::room::member::MembershipState as M;
    use appliance_model::ruma::{EventId, OwnedRoomId};
    use serde_json::json;

    use super::super::{NewReceipt, PUBLIC};
    use super::*;
    use crate::scenario::{Ward, event};

    /// Main timeline and threads: notifications, highlights.
    async fn counts(ward: &Ward, who: &Caller, room: &OwnedRoomId) -> (u64, u64, Vec<u64>) {
        let ledger = &ward.services.house.ledger;
        let number = ledger.room(room).await.unwrap().unwrap();
        let unread = ward.services.reading.unread(who, number, ledger.position()).await.unwrap();
        let threads = unread.threads.values().map(|thread| thread.notifications).collect();
        (unread.main.notifications, unread.main.highlights, threads)
    }

    async fn read(ward: &Ward, who: &Caller, room: &OwnedRoomId, (id, thread): (&str, &str)) {
        let event_id: &EventId = id.try_into().unwrap();
        let new = NewReceipt { kind: PUBLIC, event_id, thread };
        ward.services.reading.receive(who, room, new).await.unwrap();
    }

    async fn send(
        ward: &Ward,
        who: &Caller,
        room: &OwnedRoomId,
        content: serde_json::Value,
    ) -> String {
        let txn = content.to_string().len().to_string() + &ward.services.house.dice.letters(8);
        let request = event(room, ("m.room.message", &txn), content);
        ward.services.rooms.send_event(who, &request).await.unwrap().to_string()
    }

    #[tokio::test]
    async fn only_what_came_after_the_join_is_unread() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room(&nurse).await;
        ward.say(&nurse, &room, "long ago").await;
        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![]), "not in the room");
        ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![]));
        let one = ward.say(&nurse, &room, "one").await;
        ward.say(&nurse, &room, "two").await;
        assert_eq!(counts(&ward, &doctor, &room).await, (2, 0, vec![]));
        assert_eq!(counts(&ward, &nurse, &room).await, (0, 0, vec![]), "one's own words");
        read(&ward, &doctor, &room, (&one, "")).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (1, 0, vec![]));
        ward.say(&doctor, &room, "done").await;
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![]), "who writes has read");
        let ward = ward.power_cut_and_restart().await;
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![]));
    }

    #[tokio::test]
    async fn what_is_over_does_not_wait_to_be_read() {
        const MINUTE_MS: u64 = 60_000;
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let policy = json!({ "timeline": { "ttl_ms": MINUTE_MS } });
        ward.state(&nurse, &room, ("io.wardstone.policy", ""), policy).await;
        ward.say(&nurse, &room, "one").await;
        let root = ward.say(&nurse, &room, "two").await;
        let thread = json!({ "rel_type": "m.thread", "event_id": root });
        let reply = json!({ "msgtype": "m.text", "body": "in it", "m.relates_to": thread });
        send(&ward, &nurse, &room, reply).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (2, 0, vec![1]));
        ward.clock.pass_ms(MINUTE_MS - 1);
        assert_eq!(counts(&ward, &doctor, &room).await, (2, 0, vec![1]));
        ward.clock.pass_ms(1);
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![]), "by the clock");
        ward.clock.go_back_ms(MINUTE_MS);
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![]), "which does not go back");
        ward.clock.pass_ms(MINUTE_MS);
        ward.services.forget_what_is_over().await.unwrap();
        ward.say(&nurse, &room, "news").await;
        assert_eq!(counts(&ward, &doctor, &room).await, (1, 0, vec![]));
        let ward = ward.power_cut_and_restart().await;
        assert_eq!(counts(&ward, &doctor, &room).await, (1, 0, vec![]), "nor after a restart");
    }

    /// "Main-timeline receipts do not clear thread counts and the reverse", also for threads older
    /// than the receipt in the main timeline.
    #[tokio::test]
    async fn threads_and_the_main_timeline_are_read_apart() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let root = ward.say(&nurse, &room, "root").await;
        let reply = json!({
            "msgtype": "m.text", "body": "reply",
            "m.relates_to": { "rel_type": "m.thread", "event_id": root },
        });
        let threaded = send(&ward, &nurse, &room, reply.clone()).await;
        let last = ward.say(&nurse, &room, "last").await;
        assert_eq!(counts(&ward, &doctor, &room).await, (2, 0, vec![1]));
        read(&ward, &doctor, &room, (&last, "main")).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![1]));
        // Nothing is remembered after a restart: the thread's event lies before the receipt.
        let ward = ward.power_cut_and_restart().await;
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![1]));
        read(&ward, &doctor, &room, (&threaded, &root)).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![]));
        send(&ward, &nurse, &room, reply.clone()).await;
        send(&ward, &doctor, &room, reply).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (0, 0, vec![]), "who writes has read");
    }

    #[tokio::test]
    async fn mentions_highlight_and_edits_reactions_and_what_is_taken_back_do_not_count() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let aide = ward.member("aide").await;
        let room = ward.room_of(&[&nurse, &doctor, &aide]).await;
        let mention = json!({
            "msgtype": "m.text", "body": "doctor!",
            "m.mentions": { "user_ids": [doctor.user_id] },
        });
        let mentioned = send(&ward, &nurse, &room, mention).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (1, 1, vec![]));
        assert_eq!(counts(&ward, &aide, &room).await, (1, 0, vec![]));
        for (content, highlights) in [
            (
                json!({ "msgtype": "m.text", "body": "* x", "m.new_content": {},
                "m.relates_to": { "rel_type": "m.replace", "event_id": mentioned } }),
                1,
            ),
            (json!({ "msgtype": "m.notice", "body": "a bot" }), 1),
        ] {
            send(&ward, &nurse, &room, content).await;
            assert_eq!(counts(&ward, &doctor, &room).await, (1, highlights, vec![]));
        }
        // Only those who may ring for all do.
        let all = json!({ "msgtype": "m.text", "body": "all!", "m.mentions": { "room": true } });
        send(&ward, &aide, &room, all.clone()).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (2, 1, vec![]));
        send(&ward, &nurse, &room, all).await;
        assert_eq!(counts(&ward, &doctor, &room).await, (3, 2, vec![]));

        let redaction = crate::rooms::Redaction {
            event_id: mentioned.as_str().try_into().unwrap(),
            txn_id: "redact".into(),
            reason: None,
        };
        ward.services.rooms.redact(&nurse, &room, redaction).await.unwrap();
        assert_eq!(counts(&ward, &doctor, &room).await, (2, 1, vec![]));

        let ignore = json!({ "ignored_users": { nurse.user_id.as_str(): {} } }).to_string();
        let owner = (doctor.user, doctor.user_id.as_str());
        let personal = &ward.services.personal;
        personal.set_account_data(owner, None, "m.ignored_user_list", &ignore).await.unwrap();
        ward.say(&nurse, &room, "not for the doctor").await;
        assert_eq!(counts(&ward, &doctor, &room).await, (2, 1, vec![]));
    }

    #[tokio::test]
    async fn many_unread_are_counted_up_to_what_anybody_shows() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        for number in 0..(RANG_MAX + 20) {
            ward.say(&nurse, &room, &number.to_string()).await;
        }
        assert_eq!(counts(&ward, &doctor, &room).await.0, RANG_MAX as u64);
        ward.say(&nurse, &room, "one more").await;
        assert_eq!(counts(&ward, &doctor, &room).await.0, RANG_MAX as u64);
    }
}
