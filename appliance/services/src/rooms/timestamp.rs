//! `GET /rooms/{roomId}/timestamp_to_event` ([spec]): the event closest to a time.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event

use std::sync::Arc;

use appliance_ledger::rows::TimelineRow;
use appliance_ledger::{Direction, Event, Stretch};
use appliance_model::ruma::{OwnedEventId, RoomId};
use appliance_model::{Caller, Error, RoomNid};

use super::Rooms;

/// Events looked at around the place that the time points to: clocks of senders are not all right.
const AROUND: usize = 200;

impl Rooms {
    /// The event closest to `ts`, at it or on the side that `direction` says, and its own time; both
    /// in milliseconds since the Unix epoch.
    ///
    /// Events are kept in the order of their coming, in which their times rise but for a few: the
    /// place is found by halving, then what is around it is compared.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`]: the caller was never in the room.
    /// * [`appliance_model::Kind::NotFound`]: there is no event on that side for the caller to see.
    pub async fn event_at(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        (ts, direction): (u64, Direction),
    ) -> Result<(OwnedEventId, u64), Error> {
        let room = self.readable(caller, room_id).await?;
        let range = self.places_beside(room, ts).await?;
        let backward = direction == Direction::Backward;
        self.fill_gap_at((room, room_id), range, (ts, backward)).await?;
        let events = self.events_around(room, ts).await?;
        let readers = self.visible(caller.user, room, &events).await?;
        let seen = events.iter().zip(readers).filter(|(_, reader)| reader.is_some());
        let nothing = || Error::not_found("The room has no event on that side of the time.");
        closest(seen.map(|((event, _), _)| &**event), ts, direction).ok_or_else(nothing)
    }

    /// The places after the last event before a time, up to that of the first event that is not before it.
    async fn places_beside(&self, room: RoomNid, ts: u64) -> Result<(i64, i64), Error> {
        let place = self.first_place_from(room, ts).await?;
        let view = self.house.ledger.newest();
        let (back, on) = ((i64::MIN, place), (place, i64::MAX));
        let before = view.timeline(room, back, Direction::Backward, 1).await?;
        let after = view.timeline(room, on, Direction::Forward, 1).await?;
        let low = first_of(&before).map_or(i64::MIN, |place| place.saturating_add(1));
        Ok((low, first_of(&after).unwrap_or(i64::MAX)))
    }

    /// The events around the place that a time points to, oldest first.
    pub(crate) async fn events_around(
        &self,
        room: RoomNid,
        ts: u64,
    ) -> Result<Vec<(Arc<Event>, TimelineRow)>, Error> {
        let place = self.first_place_from(room, ts).await?;
        let view = self.house.ledger.view().await?;
        let (back, on) = ((i64::MIN, place), (place, i64::MAX));
        let before = view.timeline(room, back, Direction::Backward, AROUND).await?;
        let after = view.timeline(room, on, Direction::Forward, AROUND).await?;
        Ok(before.events.into_iter().rev().chain(after.events).collect())
    }

    /// The place of the first event that was sent at `ts` or later, as far as times rise.
    async fn first_place_from(&self, room: RoomNid, ts: u64) -> Result<i64, Error> {
        let view = self.house.ledger.newest();
        let all = (i64::MIN, i64::MAX);
        let oldest = view.timeline(room, all, Direction::Forward, 1).await?;
        let newest = view.timeline(room, all, Direction::Backward, 1).await?;
        let (Some(mut low), Some(mut high)) = (first_of(&oldest), first_of(&newest)) else {
            return Ok(i64::MAX);
        };
        high = high.saturating_add(1);
        // Between the first place that may be it and the first that is sure to be beyond.
        while low < high {
            let middle = low + (high - low) / 2;
            let next = view.timeline(room, (middle, high), Direction::Forward, 1).await?;
            match next.events.first() {
                Some((event, _)) if sent_ms(event) < ts => {
                    low = event.position.unwrap_or(middle).saturating_add(1);
                }
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

/// The place of the first event of a stretch.
fn first_of(stretch: &Stretch) -> Option<i64> {
    stretch.events.first().and_then(|(event, _)| event.position)
}

/// Of these events the closest to a time on one side of it, and its own time.
pub(crate) fn closest<'a>(
    events: impl Iterator<Item = &'a Event>,
    ts: u64,
    direction: Direction,
) -> Option<(OwnedEventId, u64)> {
    let timed = events.map(|event| (sent_ms(event), event));
    let closest = match direction {
        // Of several at the same time the first on the way there.
        Direction::Forward => timed.filter(|(at, _)| *at >= ts).min_by_key(|(at, _)| *at),
        Direction::Backward => timed.filter(|(at, _)| *at <= ts).max_by_key(|(at, _)| *at),
    };
    closest.map(|(at, event)| (event.event_id.clone(), at))
}

fn sent_ms(event: &Event) -> u64 {
    event.part(event.spans.origin_server_ts).parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::events::room::member::MembershipState as M;

    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn the_closest_event_on_either_side() {
        let (ward, [nurse, doctor, visitor]) =
            Ward::with_members(["nurse", "doctor", "visitor"]).await;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let begin = ward.services.house.clock.now_ms();
        let mut said = Vec::new();
        for number in 0..300_u64 {
            ward.clock.pass_ms(10);
            said.push(ward.say(&nurse, &room, &number.to_string()).await);
        }
        let (f, b) = (Direction::Forward, Direction::Backward);
        let at = async |who: &Caller, ts: u64, direction| {
            let found = ward.services.rooms.event_at(who, &room, (ts, direction)).await;
            found.map(|(event_id, at)| (event_id.to_string(), at)).map_err(|error| error.kind)
        };
        for number in [0_usize, 1, 77, 150, 298] {
            let sent = begin + 10 * (number as u64 + 1);
            assert_eq!(at(&nurse, sent, f).await, Ok((said[number].clone(), sent)));
            assert_eq!(at(&nurse, sent, b).await, Ok((said[number].clone(), sent)));
            assert_eq!(at(&nurse, sent + 5, f).await, Ok((said[number + 1].clone(), sent + 10)));
            assert_eq!(at(&nurse, sent + 5, b).await, Ok((said[number].clone(), sent)));
        }
        let create = ward.timeline(&room).await.1[0].0.event_id.to_string();
        assert_eq!(at(&nurse, 0, f).await, Ok((create, begin)));
        assert_eq!(at(&nurse, 0, b).await, Err(Kind::NotFound));
        assert_eq!(at(&nurse, begin + 10_000, f).await, Err(Kind::NotFound));
        ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
        let left = ward.services.house.clock.now_ms();
        ward.clock.pass_ms(10);
        ward.say(&nurse, &room, "later").await;
        let found = at(&doctor, left + 1_000, b).await.unwrap();
        assert_eq!(found.1, left, "nothing from after the leave");
        assert_eq!(at(&visitor, 0, f).await, Err(Kind::Forbidden));
    }
}
