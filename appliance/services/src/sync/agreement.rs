//! One consistent picture: whatever happens in a ward's rooms, a first sync, a client that has
//! followed along by `/sync`, one that has by sliding sync, and one that pages back through the
//! history all see the same rooms, state, timelines, counts and receipts.

use std::collections::{BTreeMap, BTreeSet};

use appliance_ledger::Direction;
use appliance_model::ruma::api::client::filter::RoomEventFilter;
use appliance_model::ruma::events::room::member::MembershipState as M;
use appliance_model::ruma::{OwnedRoomId, RoomId};
use appliance_model::{Caller, Kind};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::SyncRequest;
use super::sliding::SlidingRequest;
use super::sliding::tests::{after, ask as ask_sliding, config, request as list};
use super::tests::{ask, request};
use crate::reading::{NewReceipt, PRIVATE, PUBLIC};
use crate::rooms::HistoryQuery;
use crate::scenario::Ward;

/// More than a case ever brings into a room.
const ALL: usize = 400;

/// Something that happens, in the first or the second room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    NurseSays,
    ObserverSays,
    Topic,
    Name,
    Unname,
    VisitorComesOrGoes,
    NurseInvites,
    ObserverJoins,
    ObserverLeaves,
    NurseKicks,
    NurseBansOrUnbans,
    NurseReads,
    ObserverReads,
    /// The observer's desktop syncs.
    Sync,
    /// Their phone does.
    Slide,
    /// The same, and the answer is lost.
    SlideInVain,
    /// The server goes dark and comes back.
    PowerCut,
}

use Deed as D;

const DEEDS: [Deed; 21] = [
    D::NurseSays,
    D::NurseSays,
    D::ObserverSays,
    D::Topic,
    D::Name,
    D::Unname,
    D::VisitorComesOrGoes,
    D::NurseInvites,
    D::NurseInvites,
    D::ObserverJoins,
    D::ObserverJoins,
    D::ObserverLeaves,
    D::NurseKicks,
    D::NurseBansOrUnbans,
    D::NurseReads,
    D::ObserverReads,
    D::Sync,
    D::Slide,
    D::Slide,
    D::SlideInVain,
    D::PowerCut,
];

/// A room as a client sees it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    /// Event IDs by type and state key.
    state: BTreeMap<(String, String), String>,
    timeline: Vec<String>,
    /// Joined, invited, unread.
    counts: [u64; 3],
    /// Event IDs by reader and kind.
    receipts: BTreeMap<(String, String), String>,
}

/// What a client knows: its rooms, and where it is invited.
#[derive(Clone, Debug, Default, PartialEq)]
struct Picture {
    joined: BTreeMap<String, Seen>,
    invited: BTreeSet<String>,
}

impl Seen {
    fn apply_state(&mut self, events: &Value) {
        for event in events.as_array().into_iter().flatten() {
            if let Some(key) = event["state_key"].as_str() {
                let key = (text(&event["type"]), key.to_owned());
                self.state.insert(key, text(&event["event_id"]));
            }
        }
    }

    fn apply_timeline(&mut self, events: &Value, replaces: bool) {
        if replaces {
            self.timeline.clear();
        }
        for event in events.as_array().into_iter().flatten() {
            let event_id = text(&event["event_id"]);
            // Who left and came back unnoticed is told the timeline anew.
            if !self.timeline.contains(&event_id) {
                self.timeline.push(event_id);
            }
        }
    }

    fn apply_receipts(&mut self, event: &Value) {
        for (event_id, kinds) in event["content"].as_object().into_iter().flatten() {
            for (kind, readers) in kinds.as_object().into_iter().flatten() {
                for reader in readers.as_object().into_iter().flat_map(|readers| readers.keys()) {
                    self.receipts.insert((reader.clone(), kind.clone()), event_id.clone());
                }
            }
        }
    }
}

impl Picture {
    fn apply_sync(&mut self, answer: &Value) {
        let rooms = |name: &str| answer["rooms"][name].as_object().cloned().unwrap_or_default();
        for room_id in rooms("leave").keys() {
            self.joined.remove(room_id);
            self.invited.remove(room_id);
        }
        for room_id in rooms("invite").into_iter().map(|(room_id, _)| room_id) {
            self.joined.remove(&room_id);
            self.invited.insert(room_id);
        }
        for (room_id, part) in rooms("join") {
            self.invited.remove(&room_id);
            let seen = self.joined.entry(room_id).or_default();
            seen.apply_state(&part["state"]["events"]);
            seen.apply_state(&part["timeline"]["events"]);
            let limited = part["timeline"]["limited"] == true;
            seen.apply_timeline(&part["timeline"]["events"], limited);
            for event in part["ephemeral"]["events"].as_array().into_iter().flatten() {
                seen.apply_receipts(event);
            }
            set(&mut seen.counts[0], &part["summary"]["m.joined_member_count"]);
            set(&mut seen.counts[1], &part["summary"]["m.invited_member_count"]);
            set(&mut seen.counts[2], &part["unread_notifications"]["notification_count"]);
        }
    }

    fn apply_sliding(&mut self, answer: &Value, me: &Caller) {
        for (room_id, part) in answer["rooms"].as_object().into_iter().flatten() {
            if part["invite_state"].is_array() {
                self.joined.remove(room_id);
                self.invited.insert(room_id.clone());
                continue;
            }
            self.invited.remove(room_id);
            let own = part["required_state"].as_array().into_iter().flatten().rfind(|event| {
                event["type"] == "m.room.member" && event["state_key"] == me.user_id.as_str()
            });
            if own.is_some_and(|own| own["content"]["membership"] != "join") {
                self.joined.remove(room_id);
                continue;
            }
            let initial = part["initial"] == true;
            if initial {
                self.joined.remove(room_id);
            }
            let seen = self.joined.entry(room_id.clone()).or_default();
            seen.apply_state(&part["required_state"]);
            let anew = part["limited"] == true || part["unstable_expanded_timeline"] == true;
            seen.apply_timeline(&part["timeline"], anew);
            set(&mut seen.counts[0], &part["joined_count"]);
            set(&mut seen.counts[1], &part["invited_count"]);
            set(&mut seen.counts[2], &part["notification_count"]);
        }
        let receipts = answer["extensions"]["receipts"]["rooms"].as_object();
        for (room_id, event) in receipts.into_iter().flatten() {
            if let Some(seen) = self.joined.get_mut(room_id) {
                seen.apply_receipts(event);
            }
        }
    }
}

fn set(count: &mut u64, value: &Value) {
    *count = value.as_u64().unwrap_or(*count);
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A desktop that follows `/sync`, a phone that follows sliding sync, and the ward.
struct Scene {
    ward: Ward,
    nurse: Caller,
    observer: Caller,
    visitor: Caller,
    rooms: Vec<OwnedRoomId>,
    desktop: (Picture, SyncRequest),
    phone: (Picture, SlidingRequest),
    /// The server has forgotten the phone's connection.
    forgotten: bool,
    deeds: usize,
}

fn sync_request() -> SyncRequest {
    request(None, json!({ "room": { "timeline": { "limit": ALL } } }))
}

fn sliding_request(limit: usize, last: usize) -> SlidingRequest {
    let mut asked = list();
    asked.extensions.receipts = Some(Default::default());
    let window = asked.lists.get_mut("all").unwrap();
    window.ranges = Some(vec![(0, last)]);
    window.config = config(limit, &[("*", "*")]);
    asked
}

impl Scene {
    async fn open(limit: usize, last: usize) -> Self {
        let (ward, [nurse, observer, visitor]) =
            Ward::with_members(["nurse", "observer", "visitor"]).await;
        let rooms = vec![
            ward.room_of(&[&nurse, &observer]).await,
            ward.room_as(&nurse, json!({ "name": "Ward 4", "preset": "public_chat" })).await,
        ];
        let desktop = (Picture::default(), sync_request());
        let phone = (Picture::default(), sliding_request(limit, last));
        Self { ward, nurse, observer, visitor, rooms, desktop, phone, forgotten: false, deeds: 0 }
    }

    async fn sync(&mut self) {
        let answer = ask(&self.ward, &self.observer, &self.desktop.1).await;
        self.desktop.0.apply_sync(&answer);
        self.desktop.1.since = super::Token::parse(&text(&answer["next_batch"])).ok();
    }

    /// A connection that is not known any more is begun anew, as clients do.
    async fn begin_anew(&mut self) {
        if !std::mem::take(&mut self.forgotten) || self.phone.1.pos.is_none() {
            return;
        }
        let refused = self.ward.services.sync.sliding(&self.observer, "", &self.phone.1).await;
        assert_eq!(refused.unwrap_err().kind, Kind::UnknownPos);
        self.phone.0 = Picture::default();
        self.phone.1.pos = None;
    }

    async fn slide(&mut self) {
        self.begin_anew().await;
        let answer = ask_sliding(&self.ward, &self.observer, &self.phone.1).await;
        self.phone.0.apply_sliding(&answer, &self.observer);
        self.phone.1 = after(&self.phone.1, &answer);
    }

    async fn after(mut self, deed: Deed, room: usize) -> Self {
        if deed == D::PowerCut {
            self.ward = self.ward.power_cut_and_restart().await;
            self.forgotten = true;
        } else {
            self.play(deed, room).await;
        }
        self
    }

    /// What the rules forbid does not happen.
    async fn play(&mut self, deed: Deed, room: usize) {
        if deed == D::SlideInVain {
            self.begin_anew().await;
        }
        let Self { ward, nurse, observer, visitor, .. } = self;
        let room: &RoomId = &self.rooms[room];
        self.deeds += 1;
        let content = format!("deed {}", self.deeds);
        let member = ward.membership(room, &observer.user_id).await;
        match deed {
            D::NurseSays => drop(ward.say(nurse, room, &content).await),
            D::ObserverSays if member == Some(M::Join) => {
                ward.say(observer, room, &content).await;
            }
            D::Topic => {
                ward.state(nurse, room, ("m.room.topic", ""), json!({ "topic": content })).await;
            }
            D::Name => {
                ward.state(nurse, room, ("m.room.name", ""), json!({ "name": content })).await;
            }
            D::Unname => ward.state(nurse, room, ("m.room.name", ""), json!({})).await,
            D::VisitorComesOrGoes => {
                let _ = match ward.membership(room, &visitor.user_id).await {
                    Some(M::Join) => ward.try_set(visitor, room, &visitor.user_id, M::Leave).await,
                    Some(M::Invite) => ward.try_set(visitor, room, &visitor.user_id, M::Join).await,
                    _ => ward.try_set(nurse, room, &visitor.user_id, M::Invite).await,
                };
            }
            D::NurseInvites => drop(ward.try_set(nurse, room, &observer.user_id, M::Invite).await),
            D::ObserverJoins => {
                drop(ward.try_set(observer, room, &observer.user_id, M::Join).await);
            }
            D::ObserverLeaves => {
                let _ = ward.try_set(observer, room, &observer.user_id, M::Leave).await;
            }
            D::NurseKicks => {
                if matches!(member, Some(M::Join | M::Invite)) {
                    let _ = ward.try_set(nurse, room, &observer.user_id, M::Leave).await;
                }
            }
            D::NurseBansOrUnbans => {
                let to = if member == Some(M::Ban) { M::Leave } else { M::Ban };
                let _ = ward.try_set(nurse, room, &observer.user_id, to).await;
            }
            D::NurseReads => self.read(true, room).await,
            D::ObserverReads if member == Some(M::Join) => self.read(false, room).await,
            D::Sync => self.sync().await,
            D::Slide => self.slide().await,
            D::SlideInVain => drop(ask_sliding(ward, observer, &self.phone.1).await),
            D::ObserverSays | D::ObserverReads | D::PowerCut => {}
        }
    }

    async fn read(&self, by_nurse: bool, room: &RoomId) {
        let (who, kind) = if by_nurse { (&self.nurse, PUBLIC) } else { (&self.observer, PRIVATE) };
        let (_, events) = self.ward.timeline(room).await;
        let event_id = &events.last().unwrap().0.event_id;
        let new = NewReceipt { kind, event_id, thread: "" };
        self.ward.services.reading.receive(who, room, new).await.unwrap();
    }

    /// Everyone catches up, and looks.
    async fn compare(mut self, limit: usize) {
        self.sync().await;
        self.slide().await;
        self.phone.1.lists.get_mut("all").unwrap().ranges = Some(vec![(0, 19)]);
        self.slide().await;
        let mut first = Picture::default();
        first.apply_sync(&ask(&self.ward, &self.observer, &sync_request()).await);
        let mut slid = Picture::default();
        let mut asked = sliding_request(ALL, 19);
        asked.conn_id = "another".to_owned();
        slid.apply_sliding(&ask_sliding(&self.ward, &self.observer, &asked).await, &self.observer);
        assert_eq!(slid, first, "both begin alike");
        assert_eq!(self.desktop.0, first, "/sync followed along");

        // The phone has the end of the timeline only, and the receipts that go with it.
        let mut phone = self.phone.0;
        for (room_id, seen) in &mut phone.joined {
            let whole = &first.joined[room_id];
            assert!(whole.timeline.ends_with(&seen.timeline), "{seen:?}\n{whole:?}");
            assert!(seen.timeline.len() >= limit.min(whole.timeline.len()), "{seen:?}\n{whole:?}");
            assert!(seen.receipts.iter().all(|(who, event)| whole.receipts[who] == *event));
            if limit == ALL {
                assert_eq!(seen.receipts, whole.receipts);
            }
            seen.timeline = whole.timeline.clone();
            seen.receipts = whole.receipts.clone();
        }
        assert_eq!(phone, first, "sliding sync followed along");
        for (room_id, seen) in &first.joined {
            let filter = RoomEventFilter::default();
            let direction = Direction::Backward;
            let query =
                HistoryQuery { from: None, to: None, direction, limit: ALL, filter: &filter };
            let rooms = &self.ward.services.rooms;
            let room_id: &RoomId = room_id.as_str().try_into().unwrap();
            let page = rooms.history(&self.observer, room_id, &query).await.unwrap();
            let page: Value = serde_json::from_str(&page.chunk.to_json(None)).unwrap();
            let mut ids: Vec<_> =
                page.as_array().unwrap().iter().map(|event| text(&event["event_id"])).collect();
            ids.reverse();
            assert_eq!(ids, seen.timeline, "/messages");
        }
    }
}

#[test]
fn all_ways_of_looking_show_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let deeds = prop::collection::vec((prop::sample::select(&DEEDS[..]), 0..2_usize), 1..50);
    let limit = prop::sample::select(&[1, 3, ALL][..]);
    proptest!(ProptestConfig::with_cases(24), |(deeds in deeds, limit in limit, last in 0..2_usize)| {
        runtime.block_on(async {
            let mut scene = Scene::open(limit, last).await;
            for (deed, room) in deeds {
                scene = scene.after(deed, room).await;
            }
            scene.compare(limit).await;
        });
    });
}
