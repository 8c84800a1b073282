//! What a reader may see of a stretch of a room's timeline, and what they were at each event.

use std::sync::Arc;

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::rows::{MembershipRow, TimelineRow};
use appliance_ledger::{Event, Root, membership};
use appliance_model::ruma::OwnedUserId;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::history_visibility::HistoryVisibility;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::{Error, EventNid, RoomNid, StateKeyNid, UserNid};
use appliance_rules::visibility::{Side, may_see};
use serde::Deserialize;

use super::Rooms;
use super::retention::Horizon;

impl Rooms {
    /// For each event: the reader's membership at the event (the event included), or none if the
    /// reader may not see it.
    ///
    /// Events next to each other share the state before them, so this reads one state per change of
    /// state, and only the reader's own membership of it while the reader is in the room. Events
    /// without a place in the timeline are not shown.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn visible(
        &self,
        reader: UserNid,
        room: RoomNid,
        events: &[(Arc<Event>, TimelineRow)],
    ) -> Result<Vec<Option<MembershipState>>, Error> {
        let mut eyes = Eyes::open(self, reader, room).await?;
        let mut seen = Vec::with_capacity(events.len());
        for (event, _) in events {
            seen.push(eyes.see(event).await?);
        }
        Ok(seen)
    }
}

/// One reader's look at one room.
struct Eyes<'a> {
    rooms: &'a Rooms,
    room: RoomNid,
    reader: UserNid,
    reader_id: OwnedUserId,
    own_key: Option<StateKeyNid>,
    visibility_key: Option<StateKeyNid>,
    /// The membership in the state last looked at.
    last: Option<(Root, MembershipState)>,
    /// The member event last read.
    last_member: Option<(EventNid, MembershipState)>,
    /// The reader's place in the room now, once it was needed.
    place: Option<Option<MembershipRow>>,
    /// What was said before is over.
    horizon: Horizon,
}

impl<'a> Eyes<'a> {
    async fn open(rooms: &'a Rooms, reader: UserNid, room: RoomNid) -> Result<Self, Error> {
        let ledger = &rooms.house.ledger;
        let reader_id = ledger.user_id(reader).await?;
        let own_key = ledger.state_key(&StateEventType::RoomMember, reader_id.as_str()).await?;
        let visibility = StateEventType::RoomHistoryVisibility;
        let visibility_key = ledger.state_key(&visibility, "").await?;
        Ok(Self {
            rooms,
            room,
            reader,
            reader_id,
            own_key,
            visibility_key,
            last: None,
            last_member: None,
            place: None,
            horizon: rooms.horizon(room).await?,
        })
    }

    async fn see(&mut self, event: &Event) -> Result<Option<MembershipState>, Error> {
        let Some(position) = event.position else { return Ok(None) };
        if self.horizon.hides(event) {
            return Ok(None);
        }
        let before = self.membership_in(event.state_before).await?;
        let is_own = event.kind() == "m.room.member"
            && event.is_state()
            && unquoted(event.part(event.spans.state_key)) == self.reader_id.as_str();
        let after = if is_own { membership_set_by(event) } else { before.clone() };
        // Most readers are in the room: nothing else needs to be asked.
        if before == MembershipState::Join || after == MembershipState::Join {
            return Ok(Some(after));
        }
        let in_force = self.visibility_in(event.state_before).await?;
        let sets_visibility = event.kind() == "m.room.history_visibility"
            && event.is_state()
            && event.part(event.spans.state_key) == "\"\"";
        let set = if sets_visibility { visibility_set_by(event) } else { in_force.clone() };
        let joined_later = self.joined_after(position).await?;
        let before = Side { visibility: in_force, membership: before };
        let after = Side { visibility: set, membership: after };
        Ok(may_see(&before, &after, joined_later).then_some(after.membership))
    }

    async fn membership_in(&mut self, root: Root) -> Result<MembershipState, Error> {
        if let Some((last, membership)) = &self.last
            && *last == root
        {
            return Ok(membership.clone());
        }
        let ledger = &self.rooms.house.ledger;
        let member = match self.own_key {
            Some(key) => ledger.states(self.room).get(root, key).await?,
            None => None,
        };
        let membership = match (member, &self.last_member) {
            (None, _) => MembershipState::Leave,
            (Some(number), Some((last, membership))) if *last == number => membership.clone(),
            (Some(number), _) => {
                let membership = membership_set_by(&*ledger.event(number).await?);
                self.last_member = Some((number, membership.clone()));
                membership
            }
        };
        self.last = Some((root, membership.clone()));
        Ok(membership)
    }

    async fn visibility_in(&self, root: Root) -> Result<HistoryVisibility, Error> {
        let ledger = &self.rooms.house.ledger;
        let Some(key) = self.visibility_key else { return Ok(HistoryVisibility::Shared) };
        match ledger.states(self.room).get(root, key).await? {
            Some(number) => Ok(visibility_set_by(&*ledger.event(number).await?)),
            None => Ok(HistoryVisibility::Shared),
        }
    }

    async fn joined_after(&mut self, position: i64) -> Result<bool, Error> {
        let place = match &self.place {
            Some(place) => place,
            None => {
                let key = (self.reader, self.room);
                let row = self.rooms.house.ledger.get(&USER_ROOMS, &key).await?;
                self.place.insert(row)
            }
        };
        Ok(place.as_ref().filter(|row| !row.forgotten).is_some_and(|row| {
            row.membership == membership::JOIN
                || row.joined_until.is_some_and(|until| position < until.cast_signed())
        }))
    }
}

/// A JSON string without its quotes. User IDs hold nothing that JSON escapes.
fn unquoted(json: &str) -> &str {
    json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or(json)
}

/// The membership a member event sets; `leave` if it is unreadable.
pub(crate) fn membership_set_by(event: &Event) -> MembershipState {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    serde_json::from_str::<Content>(event.content())
        .map_or(MembershipState::Leave, |content| content.membership)
}

/// "By default if no history_visibility is set, or if the value is not understood, the visibility
/// is assumed to be shared." A redacted one keeps its value.
pub(crate) fn visibility_set_by(event: &Event) -> HistoryVisibility {
    #[derive(Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    serde_json::from_str::<Content>(event.content())
        .map_or(HistoryVisibility::Shared, |content| content.history_visibility)
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::RoomId;
    use serde_json::json;

    use super::*;
    use crate::scenario::{Ward, visibility};

    use HistoryVisibility as V;
    use MembershipState as M;

    /// What a reader sees of a room: the bodies of messages, in order.
    async fn bodies(ward: &Ward, reader: UserNid, room_id: &RoomId) -> Vec<String> {
        let (room, events) = ward.timeline(room_id).await;
        let seen = ward.services.rooms.visible(reader, room, &events).await.unwrap();
        let body = |event: &Event| {
            let content: serde_json::Value = serde_json::from_str(event.content()).unwrap();
            content["body"].as_str().map(ToOwned::to_owned)
        };
        let shown = events.iter().zip(seen).filter(|(_, seen)| seen.is_some());
        shown.filter_map(|((event, _), _)| body(event)).collect()
    }

    /// One conversation; a doctor is invited, joins, and leaves in the course of it.
    async fn a_visit(visibility: &str) -> Vec<String> {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let body = json!({ "initial_state": [{
            "type": "m.room.history_visibility",
            "content": { "history_visibility": visibility },
        }] });
        let room = ward.room_as(&nurse, body).await;
        let id = &doctor.user_id;
        ward.say(&nurse, &room, "before").await;
        ward.set(&nurse, &room, id, M::Invite).await;
        ward.say(&nurse, &room, "invited").await;
        ward.set(&doctor, &room, id, M::Join).await;
        ward.say(&nurse, &room, "joined").await;
        ward.set(&doctor, &room, id, M::Leave).await;
        ward.say(&nurse, &room, "left").await;
        // An invite that is turned down gives nothing back.
        ward.set(&nurse, &room, id, M::Invite).await;
        ward.set(&doctor, &room, id, M::Leave).await;
        ward.say(&nurse, &room, "gone").await;
        assert_eq!(
            bodies(&ward, nurse.user, &room).await.len(),
            5,
            "the nurse was there all along"
        );
        bodies(&ward, doctor.user, &room).await
    }

    #[tokio::test]
    async fn who_left_reads_up_to_the_leaving() {
        assert_eq!(a_visit("shared").await, ["before", "invited", "joined"]);
        assert_eq!(a_visit("invited").await, ["invited", "joined"]);
        assert_eq!(a_visit("joined").await, ["joined"]);
        assert_eq!(
            a_visit("world_readable").await,
            ["before", "invited", "joined", "left", "gone"],
            "readable by the world is readable by those who left"
        );
    }

    #[tokio::test]
    async fn a_stranger_sees_only_what_the_world_may_read() {
        let (ward, [nurse, visitor]) = Ward::with_members(["nurse", "visitor"]).await;
        let room = ward.room(&nurse).await;
        ward.say(&nurse, &room, "shared").await;
        visibility(&ward, &nurse, &room, "world_readable").await;
        ward.say(&nurse, &room, "open").await;
        visibility(&ward, &nurse, &room, "joined").await;
        ward.say(&nurse, &room, "closed").await;
        assert_eq!(bodies(&ward, visitor.user, &room).await, ["open"]);

        let (number, events) = ward.timeline(&room).await;
        let seen = ward.services.rooms.visible(visitor.user, number, &events).await.unwrap();
        let kinds: Vec<_> = (events.iter().zip(&seen))
            .filter(|(_, seen)| seen.is_some())
            .map(|((event, _), _)| event.kind())
            .collect();
        let change = "m.room.history_visibility";
        assert_eq!(kinds, [change, "m.room.message", change], "both changes are seen");
        assert!(seen.iter().flatten().all(|membership| *membership == M::Leave));
    }

    /// "Changes caused by the event itself … are included": what clients read in `unsigned`.
    #[tokio::test]
    async fn the_membership_is_that_at_the_event() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let room = ward.room(&nurse).await;
        ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
        ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
        ward.say(&nurse, &room, "hello").await;
        let (number, events) = ward.timeline(&room).await;
        let seen = ward.services.rooms.visible(doctor.user, number, &events).await.unwrap();
        assert_eq!(seen[0], Some(M::Leave), "before the invite");
        assert_eq!(seen[seen.len() - 3..], [Some(M::Invite), Some(M::Join), Some(M::Join)]);
    }

    /// Many random histories, judged a second time straight from the text of the specification.
    #[tokio::test]
    async fn random_histories_agree_with_the_text_of_the_specification() {
        const VISIBILITIES: [V; 4] = [V::Shared, V::Invited, V::Joined, V::WorldReadable];
        for seed in 0..40_u64 {
            let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
            let room = ward.room(&nurse).await;
            let mut dice = seed;
            let mut throw = |sides: u64| {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (dice >> 33) % sides
            };
            let (first, _) = (ward.timeline(&room).await.1.len(), ());
            let (mut now, mut log) = ((V::Shared, M::Leave), Vec::new());
            while log.len() < 30 {
                let before = now.clone();
                let id = &doctor.user_id;
                let other = &VISIBILITIES[usize::try_from(throw(4)).unwrap()];
                match throw(7) {
                    0 if now.0 != *other => {
                        now.0 = other.clone();
                        visibility(&ward, &nurse, &room, now.0.as_str()).await;
                    }
                    1 if now.1 == M::Leave => {
                        ward.set(&nurse, &room, id, M::Invite).await;
                        now.1 = M::Invite;
                    }
                    2 if now.1 == M::Invite => {
                        ward.set(&doctor, &room, id, M::Join).await;
                        now.1 = M::Join;
                    }
                    3 if now.1 == M::Invite || now.1 == M::Join => {
                        ward.set(&doctor, &room, id, M::Leave).await;
                        now.1 = M::Leave;
                    }
                    4 if now.1 != M::Ban => {
                        ward.set(&nurse, &room, id, M::Ban).await;
                        now.1 = M::Ban;
                    }
                    5 if now.1 == M::Ban => {
                        ward.set(&nurse, &room, id, M::Leave).await;
                        now.1 = M::Leave;
                    }
                    _ => drop(ward.say(&nurse, &room, "x").await),
                }
                log.push((before, now.clone()));
            }
            let allows = |(visibility, membership): &(V, M), index: usize| {
                *visibility == V::WorldReadable
                    || *membership == M::Join
                    || (*visibility == V::Shared
                        && log[index + 1..].iter().any(|(_, after)| after.1 == M::Join))
                    || (*visibility == V::Invited && *membership == M::Invite)
            };
            let (number, events) = ward.timeline(&room).await;
            let events = &events[first..];
            let seen = ward.services.rooms.visible(doctor.user, number, events).await.unwrap();
            for (index, (seen, (before, after))) in seen.iter().zip(&log).enumerate() {
                let invite_ended = before.1 == M::Invite && matches!(after.1, M::Leave | M::Ban);
                let expected = allows(before, index) || allows(after, index) || invite_ended;
                let expected = expected.then(|| after.1.clone());
                assert_eq!(*seen, expected, "seed {seed}, event {index}: {before:?} {after:?}");
            }
        }
    }
}
