//! Scenes in rooms that forget.

mod crash;

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{ERASED_EVENTS, EVENTS, RETENTION};
use appliance_model::ruma::api::client::filter::RoomEventFilter;
use appliance_model::ruma::{EventId, RoomId, RoomVersionId};
use appliance_model::{Caller, Error, EventNid, Kind, Position};
use appliance_rules::Permit;
use appliance_rules::policy::POLICY_TYPE;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::administration::Closing;
use crate::federation::town::Town;
use crate::media::upload::NewFile;
use crate::rooms::HistoryQuery;
use crate::scenario::{SERVER, Ward, event};
use crate::search::{SearchOrder, SearchRequest};
use crate::sync::sliding::tests::{ask, request};

pub(super) const MINUTE_MS: u64 = 60_000;
const MARKER: &str = "swollen-knee-of-bed-7";

/// A ward whose room forgets after a minute.
pub(super) async fn forgetful() -> (Ward, [Caller; 2], appliance_model::ruma::OwnedRoomId) {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let policy = json!({ "timeline": { "ttl_ms": MINUTE_MS } });
    ward.state(&nurse, &room, (POLICY_TYPE, ""), policy).await;
    (ward, [nurse, doctor], room)
}

/// Everything that a person can ask for, one after the other, with what holds the marker.
async fn reads(ward: &Ward, who: &Caller, room: &RoomId, event_id: &str) -> Vec<&'static str> {
    let (rooms, event_id) = (&ward.services.rooms, <&EventId>::try_from(event_id).unwrap());
    let filter = RoomEventFilter::default();
    let mut told = Vec::new();
    let mut note = |path: &'static str, answer: &str| {
        if answer.contains(MARKER) {
            told.push(path);
        }
    };
    let query = HistoryQuery {
        from: None,
        to: None,
        direction: Direction::Backward,
        limit: 100,
        filter: &filter,
    };
    let history = rooms.history(who, room, &query).await.unwrap();
    note("messages", &history.chunk.to_json(None));
    match rooms.one_event(who, room, event_id).await {
        Ok(event) => note("event", &event.to_json(None)),
        Err(error) => assert_eq!(error.kind, Kind::NotFound),
    }
    match rooms.context(who, room, event_id, (10, &filter)).await {
        Ok(context) => note("context", &context.event.to_json(None)),
        Err(error) => assert_eq!(error.kind, Kind::NotFound),
    }
    let whole = crate::sync::tests::request(None, json!({}));
    note("sync", &crate::sync::tests::ask(ward, who, &whole).await.to_string());
    note("sliding sync", &ask(ward, who, &request()).await.to_string());
    let wanted = SearchRequest {
        term: "swollen knee".to_owned(),
        order: SearchOrder::Recent,
        ..Default::default()
    };
    let found = ward.services.search.find(who, &wanted).await.unwrap();
    if !found.results.is_empty() {
        note("search", MARKER);
    }
    told
}

impl Ward {
    async fn sent_photo(&self, who: &Caller, room: &RoomId) -> String {
        let body = futures_util::stream::iter([Ok::<_, Error>(Bytes::from_static(b"leg"))]);
        let uri = self.services.media.upload(who, NewFile::default(), body).await.unwrap();
        let content = json!({ "msgtype": "m.image", "body": "leg", "url": uri });
        let request = event(room, ("m.room.message", "photo"), content);
        self.services.rooms.send_event(who, &request).await.unwrap();
        uri
    }

    async fn photo_is_there(&self, uri: &str) -> bool {
        let media_id = uri.rsplit('/').next().unwrap();
        self.services.media.find(SERVER, media_id, 0).await.is_ok()
    }

    /// The rows of events that still hold the marker.
    async fn rows_with_marker(&self) -> usize {
        let view = self.services.house.ledger.newest();
        let (rows, _) = view.scan(&EVENTS, &(), Direction::Forward, 1_000).await.unwrap();
        let rows: Vec<(EventNid, appliance_ledger::rows::EventRow)> = rows;
        let has = |json: &[u8]| json.windows(MARKER.len()).any(|part| part == MARKER.as_bytes());
        rows.iter().filter(|(_, row)| has(&row.json)).count()
    }
}

#[tokio::test]
async fn from_its_millisecond_on_nobody_reads_what_was_said_on_any_path() {
    let (ward, [nurse, doctor], room) = forgetful().await;
    let said = ward.say(&nurse, &room, MARKER).await;
    ward.clock.pass_ms(MINUTE_MS - 1);
    let all = ["messages", "event", "context", "sync", "sliding sync", "search"];
    assert_eq!(reads(&ward, &doctor, &room, &said).await, all, "a millisecond before");
    ward.clock.pass_ms(1);
    assert!(reads(&ward, &doctor, &room, &said).await.is_empty(), "before any job");
    assert!(reads(&ward, &nurse, &room, &said).await.is_empty(), "not even its author");
    ward.clock.go_back_ms(MINUTE_MS);
    assert!(reads(&ward, &doctor, &room, &said).await.is_empty(), "the clock was set back");

    ward.clock.pass_ms(MINUTE_MS);
    assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 1);
    assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 0, "once is enough");
    assert_eq!(ward.rows_with_marker().await, 0, "nor does the store hold it");
    assert!(ward.audit().await.iter().any(|line| line.starts_with("events.expired")));
    let name = ward.current(&room, (POLICY_TYPE, "")).await;
    assert_eq!(name["timeline"]["ttl_ms"], MINUTE_MS, "the room stands on its state");
    // Whoever makes the room remember longer gets nothing back.
    ward.state(&nurse, &room, (POLICY_TYPE, ""), json!({})).await;
    let ward = ward.power_cut_and_restart().await;
    assert!(reads(&ward, &doctor, &room, &said).await.is_empty());
    let later = ward.say(&nurse, &room, MARKER).await;
    ward.clock.pass_ms(10 * MINUTE_MS);
    assert_eq!(reads(&ward, &doctor, &room, &later).await, all, "now it does");
}

/// The power goes, and the disk refuses, at every step between the deadline and the end.
#[tokio::test]
async fn no_crash_and_no_clock_brings_back_what_was_over() {
    let (mut ward, [nurse, doctor], room) = forgetful().await;
    let mut said = Vec::new();
    for _ in 0..250 {
        said.push(ward.say(&nurse, &room, MARKER).await);
    }
    let (first, last) = (said[0].clone(), said[249].clone());
    ward.clock.pass_ms(MINUTE_MS);
    ward.engine().full();
    assert_eq!(ward.services.forget_what_is_over().await.unwrap_err().kind, Kind::Unavailable);
    for event_id in [&first, &last] {
        assert!(
            reads(&ward, &doctor, &room, event_id).await.is_empty(),
            "a full disk shows nothing"
        );
    }
    ward.engine().make_room();
    let mut rounds = 0;
    loop {
        ward = ward.power_cut_and_restart().await;
        for event_id in [&first, &last] {
            assert!(reads(&ward, &doctor, &room, event_id).await.is_empty(), "round {rounds}");
        }
        let before = ward.rows_with_marker().await;
        if before == 0 {
            break;
        }
        // The job gets as far as one commit, and the power goes.
        let rooms = &ward.services.rooms;
        let (number, _) = rooms.known(&room).await.unwrap();
        rooms.erase_once(number).await.unwrap();
        assert!(ward.rows_with_marker().await < before);
        ward = ward.power_cut_and_restart().await;
        ward.clock.go_back_ms(MINUTE_MS);
        for event_id in [&first, &last] {
            let read = reads(&ward, &doctor, &room, event_id).await;
            assert!(read.is_empty(), "a clock set back after a restart: {read:?}");
        }
        ward.clock.pass_ms(MINUTE_MS);
        rounds += 1;
    }
    assert!(rounds >= 3, "{rounds}");
}

/// A clock that was ahead for a moment takes what was said with it, but does not silence the room.
#[tokio::test]
async fn a_clock_that_was_ahead_and_is_put_right_brings_nothing_back_and_silences_nobody() {
    let (ward, [nurse, doctor], room) = forgetful().await;
    let early = ward.say(&nurse, &room, MARKER).await;
    ward.clock.pass_ms(1_000 * MINUTE_MS);
    assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 1);
    let ahead = ward.say(&nurse, &room, MARKER).await;
    ward.clock.pass_ms(MINUTE_MS);
    assert!(reads(&ward, &doctor, &room, &ahead).await.is_empty());
    // Some commit comes, as one does each second of the day.
    ward.say(&doctor, &ward.room(&doctor).await, "elsewhere").await;
    ward.clock.go_back_ms(1_000 * MINUTE_MS);
    let ward = ward.power_cut_and_restart().await;
    for event_id in [&early, &ahead] {
        assert!(reads(&ward, &doctor, &room, event_id).await.is_empty());
    }
    let right = ward.say(&nurse, &room, MARKER).await;
    assert!(!reads(&ward, &doctor, &room, &right).await.is_empty(), "as if nothing had been");
    ward.services.forget_what_is_over().await.unwrap();
    assert_eq!(ward.rows_with_marker().await, 1, "that of the one who speaks now");
    ward.clock.pass_ms(MINUTE_MS);
    assert!(reads(&ward, &doctor, &room, &right).await.is_empty(), "for a minute");
}

#[tokio::test]
async fn a_room_says_it_for_itself_and_the_house_is_stricter() {
    let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
    let room = ward.room_of(&[&nurse]).await;
    let configuration = async || ward.services.rooms.retention_configuration(&nurse).await.unwrap();
    assert_eq!(
        (configuration().await.rooms_ms.len(), configuration().await.everywhere_ms),
        (0, None)
    );
    for (kind, lifetime) in [("m.room.retention", 90_000), ("org.matrix.msc1763.retention", 80_000)]
    {
        ward.state(&nurse, &room, (kind, ""), json!({ "max_lifetime": lifetime })).await;
        assert_eq!(configuration().await.rooms_ms[&room], lifetime);
    }
    let said = ward.say(&nurse, &room, MARKER).await;
    let uri = ward.sent_photo(&nurse, &room).await;
    ward.clock.pass_ms(79_999);
    assert_eq!(reads(&ward, &nurse, &room, &said).await.len(), 6);
    assert!(ward.photo_is_there(&uri).await);
    ward.clock.pass_ms(1);
    assert!(reads(&ward, &nurse, &room, &said).await.is_empty());
    assert!(!ward.photo_is_there(&uri).await, "a photo lives no longer than its message");

    let pack = json!({ "server": { "timeline": { "ttl_ms": 70_000 } } });
    ward.services.policy.set(&pack, "root").await.unwrap();
    let held = configuration().await;
    assert_eq!((held.everywhere_ms, held.most_ms), (Some(70_000), Some(70_000)));
    assert_eq!(held.rooms_ms[&room], 70_000, "at once, in rooms that are there already");
}

#[tokio::test]
async fn what_hangs_on_a_message_goes_with_it() {
    let (ward, [nurse, doctor], room) = forgetful().await;
    let said = ward.say(&nurse, &room, MARKER).await;
    ward.clock.pass_ms(MINUTE_MS / 2);
    let relates = json!({ "rel_type": "m.thread", "event_id": said });
    let answer = json!({ "msgtype": "m.text", "body": "on my way", "m.relates_to": relates });
    let request = event(&room, ("m.room.message", "t1"), answer);
    let answer = ward.services.rooms.send_event(&doctor, &request).await.unwrap();
    ward.clock.pass_ms(MINUTE_MS / 2);
    assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 1, "the older one");
    let rooms = &ward.services.rooms;
    assert!(rooms.one_event(&doctor, &room, &answer).await.is_ok());
    ward.clock.pass_ms(MINUTE_MS / 2);
    assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 1);
    assert_eq!(rooms.one_event(&doctor, &room, &answer).await.err().unwrap().kind, Kind::NotFound);
    // The index of words is told, and then need not be any more.
    let view = ward.services.house.ledger.newest();
    let (erased, _) = view.scan(&ERASED_EVENTS, &(), Direction::Forward, 10).await.unwrap();
    let erased: Vec<(Position, u64)> = erased;
    assert_eq!(erased.len(), 2);
}

#[tokio::test]
async fn other_servers_get_no_more_of_it_than_of_what_was_taken_back() {
    let town = Town::of(2, RoomVersionId::V11).await;
    let nurse = town.wards[0].member("nurse").await;
    let doctor = town.wards[1].member("doctor").await;
    let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
    let policy = json!({ "timeline": { "ttl_ms": MINUTE_MS } });
    town.wards[0].state(&nurse, &room, (POLICY_TYPE, ""), policy).await;
    let said = town.wards[0].say(&nurse, &room, MARKER).await;
    let origin = town.wards[1].services.house.server_name.clone();
    let event_id = <&EventId>::try_from(said.as_str()).unwrap();
    let served = async || {
        let rooms = &town.wards[0].services.rooms;
        let one = rooms.event_for(&origin, event_id).await.unwrap();
        let past = rooms.backfill_for(&origin, &room, &[event_id.to_owned()], 5).await.unwrap();
        [one, past].map(|answer: String| {
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert!(answer["pdus"][0]["depth"].is_u64(), "the graph holds together");
            answer.to_string().contains(MARKER)
        })
    };
    assert_eq!(served().await, [true, true]);
    town.wards[0].clock.pass_ms(MINUTE_MS);
    assert_eq!(served().await, [false, false], "by the clock");
    town.wards[0].services.forget_what_is_over().await.unwrap();
    assert_eq!(served().await, [false, false], "and after the job");
}

#[tokio::test]
async fn a_closed_room_leaves_neither_words_nor_photos_behind() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let said = ward.say(&nurse, &room, MARKER).await;
    let photo = ward.sent_photo(&nurse, &room).await;
    assert!(ward.rows_with_marker().await > 0 && ward.photo_is_there(&photo).await);
    let other = ward.room_of(&[&nurse, &doctor]).await;
    ward.say(&nurse, &other, "another room").await;

    let how = Closing { block: false, purge: true };
    ward.services.administration.close_room(&nurse, &room, &how).await.unwrap();
    assert_eq!(ward.rows_with_marker().await, 0, "the store does not hold it");
    assert!(ward.audit().await.iter().any(|line| line.starts_with("history.purged")));
    let history = ward.services.rooms.joined_rooms(&doctor).await.unwrap();
    assert_eq!(history, [other], "other rooms stay");

    let ward = ward.power_cut_and_restart().await;
    ward.clock.pass_ms(10 * MINUTE_MS);
    ward.services.media.activate().await.unwrap();
    assert!(!ward.photo_is_there(&photo).await, "nobody shows it any more");
    let event_id = <&EventId>::try_from(said.as_str()).unwrap();
    let error = ward.services.rooms.one_event(&nurse, &room, event_id).await.err().unwrap();
    assert!(matches!(error.kind, Kind::Forbidden | Kind::NotFound));
}

/// The first commit hides it from everybody; the job takes out what a power cut left.
#[tokio::test]
async fn a_purge_that_was_interrupted_is_finished_by_the_job() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let said = ward.say(&nurse, &room, MARKER).await;
    let (number, _) = ward.services.rooms.known(&room).await.unwrap();
    let ledger = &ward.services.house.ledger;
    let mut commit = ledger.begin(Permit::housekeeping());
    commit.put(&RETENTION, &number, &ward.services.house.clock.now_ms());
    ledger.commit(commit).await.unwrap();

    let ward = ward.power_cut_and_restart().await;
    assert!(ward.rows_with_marker().await > 0);
    assert!(reads(&ward, &doctor, &room, &said).await.is_empty(), "over for every reader");
    assert_eq!(ward.services.forget_what_is_over().await.unwrap(), 1);
    assert_eq!(ward.rows_with_marker().await, 0);
    ward.clock.pass_ms(1);
    let next = ward.say(&nurse, &room, MARKER).await;
    assert!(reads(&ward, &doctor, &room, &next).await.contains(&"messages"), "talk goes on");
}
