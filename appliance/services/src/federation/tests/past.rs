//! What was said before, and what was missed.

use appliance_ledger::Direction;
use appliance_model::ruma::RoomVersionId as V;
use appliance_model::ruma::api::client::filter::RoomEventFilter;
use appliance_model::ruma::events::room::member::MembershipState as M;
use serde_json::{Value, json};

use crate::federation::town::Town;
use crate::rooms::HistoryQuery;
use crate::scenario::visibility;

/// The bodies that somebody finds when they page back to the beginning.
async fn paged(
    town: &Town,
    (at, who): (usize, &appliance_model::Caller),
    room: &appliance_model::ruma::RoomId,
) -> Vec<String> {
    let filter = RoomEventFilter::default();
    let (mut from, mut found) = (None, Vec::new());
    loop {
        let direction = Direction::Backward;
        let query = HistoryQuery { from, to: None, direction, limit: 30, filter: &filter };
        let page = town.wards[at].services.rooms.history(who, room, &query).await.unwrap();
        let events: Value = serde_json::from_str(&page.chunk.to_json(None)).unwrap();
        let events = events.as_array().unwrap().clone();
        found
            .extend(events.iter().filter_map(|e| e["content"]["body"].as_str()).map(str::to_owned));
        from = page.end;
        if from.is_none() {
            found.reverse();
            return found;
        }
    }
}

#[tokio::test]
async fn history_from_before_the_join_is_fetched_in_order() {
    let town = Town::of(2, V::V11).await;
    let (nurse, doctor) =
        (town.wards[0].member("nurse").await, town.wards[1].member("doctor").await);
    let room = town.wards[0].room(&nurse).await;
    let mut said = Vec::new();
    for number in 0..250 {
        town.wards[0].say(&nurse, &room, &number.to_string()).await;
        said.push(number.to_string());
    }
    town.wards[0].set(&nurse, &room, &doctor.user_id, M::Invite).await;
    town.wards[1].set(&doctor, &room, &doctor.user_id, M::Join).await;
    assert_eq!(paged(&town, (1, &doctor), &room).await, said);
    let asked = town.asked().iter().filter(|asked| asked.ends_with("backfill")).count();
    assert!((2..=5).contains(&asked), "{asked} pages were asked for");
    town.asked();
    assert_eq!(paged(&town, (1, &doctor), &room).await, said);
    assert_eq!(town.asked(), Vec::<String>::new(), "the second time it is here");
}

#[tokio::test]
async fn what_was_missed_is_fetched_before_what_comes_next() {
    let town = Town::of(2, V::V11).await;
    let (nurse, doctor) =
        (town.wards[0].member("nurse").await, town.wards[1].member("doctor").await);
    let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
    let mut said = Vec::new();
    for number in 0..120 {
        said.push(town.wards[0].say(&nurse, &room, &number.to_string()).await);
    }
    town.wards[0].state(&nurse, &room, ("m.room.topic", ""), json!({ "topic": "x" })).await;
    let last = town.wards[0].say(&nurse, &room, "last").await;
    town.asked();
    town.deliver_only(0, 1, &last).await;
    let shown = town.shown(1, &room).await;
    assert!(said.iter().all(|id| shown.contains(id)) && shown.contains(&last));
    assert_eq!(town.state(0, &room).await, town.state(1, &room).await);
    let asked = town.asked();
    assert!(asked.iter().all(|asked| asked.ends_with("get_missing_events")), "{asked:?}");
}

/// More was missed than is fetched at once: the state is, and the rest is found by paging back.
#[tokio::test]
async fn a_long_absence_leaves_a_gap_that_fills() {
    let town = Town::of(2, V::V11).await;
    let (nurse, doctor) =
        (town.wards[0].member("nurse").await, town.wards[1].member("doctor").await);
    let room = town.room_of((0, &nurse), &[(1, &doctor)]).await;
    let mut said = Vec::new();
    for number in 0..700 {
        town.wards[0].say(&nurse, &room, &number.to_string()).await;
        said.push(number.to_string());
    }
    let last = town.wards[0].say(&nurse, &room, "last").await;
    said.push("last".to_owned());
    town.deliver_only(0, 1, &last).await;
    assert!(town.shown(1, &room).await.contains(&last));
    assert_eq!(town.state(0, &room).await, town.state(1, &room).await);
    assert_eq!(paged(&town, (1, &doctor), &room).await, said);
}

/// What was said at a time before somebody's server came to the room is found, and no more is fetched
/// than leads there.
#[tokio::test]
async fn a_time_before_the_join_is_asked_for_where_it_is_known() {
    let town = Town::of(2, V::V11).await;
    let (nurse, doctor) =
        (town.wards[0].member("nurse").await, town.wards[1].member("doctor").await);
    let room = town.wards[0].room(&nurse).await;
    let begin = town.wards[0].services.house.clock.now_ms();
    let mut said = Vec::new();
    for number in 0..250 {
        town.wards[0].clock.pass_ms(10);
        said.push(town.wards[0].say(&nurse, &room, &number.to_string()).await);
    }
    town.wards[1].clock.pass_ms(10_000);
    town.wards[0].set(&nurse, &room, &doctor.user_id, M::Invite).await;
    town.wards[1].set(&doctor, &room, &doctor.user_id, M::Join).await;
    let rooms = &town.wards[1].services.rooms;
    let at = async |number: usize, past_ms: u64, direction| {
        let ts = begin + 10 * (number as u64 + 1) + past_ms;
        let (id, _) = rooms.event_at(&doctor, &room, (ts, direction)).await.unwrap();
        said.iter().position(|said| *said == *id).unwrap()
    };
    let fetched = || {
        let asked = town.asked();
        let pages = asked.iter().filter(|asked| asked.ends_with("backfill")).count();
        (pages, asked.iter().filter(|asked| asked.ends_with("timestamp_to_event")).count())
    };
    fetched();
    let (f, b) = (Direction::Forward, Direction::Backward);
    assert_eq!(at(200, 0, f).await, 200);
    assert_eq!(fetched(), (1, 1), "one page leads there");
    assert_eq!(at(200, 5, b).await, 200);
    assert_eq!(fetched(), (0, 0), "it is here now");
    assert_eq!(at(10, 5, f).await, 11);
    assert_eq!(at(10, 5, b).await, 10);
    assert_eq!(fetched(), (2, 1));
}

#[tokio::test]
async fn history_is_served_as_far_as_the_other_server_may_see_it() {
    let town = Town::of(2, V::V11).await;
    let (nurse, doctor) =
        (town.wards[0].member("nurse").await, town.wards[1].member("doctor").await);
    let room = town.wards[0].room(&nurse).await;
    visibility(&town.wards[0], &nurse, &room, "joined").await;
    let secret = town.wards[0].say(&nurse, &room, "Mrs Marker").await;
    town.wards[0].set(&nurse, &room, &doctor.user_id, M::Invite).await;
    town.wards[1].set(&doctor, &room, &doctor.user_id, M::Join).await;
    let origin = "two.example".try_into().unwrap();
    let rooms = &town.wards[0].services.rooms;
    let served = rooms.event_for(origin, secret.as_str().try_into().unwrap()).await.unwrap();
    assert!(served.contains("m.room.message") && !served.contains("Marker"), "{served}");
    let from = [secret.as_str().try_into().unwrap()];
    let served = rooms.backfill_for(origin, &room, &from, 100).await.unwrap();
    assert!(!served.contains("Marker"), "{served}");
    let stranger = "three.example".try_into().unwrap();
    let refused = rooms.backfill_for(stranger, &room, &from, 100).await;
    assert_eq!(refused.unwrap_err().kind, appliance_model::Kind::Forbidden);
    assert_eq!(paged(&town, (1, &doctor), &room).await, Vec::<String>::new());
}
