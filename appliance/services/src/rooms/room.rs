//! Being inside a room: read its state, add events, leave with a commit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use appliance_ledger::keyspaces::{HEADS, MEMBERS, USER_ROOMS};
use appliance_ledger::rows::{HeadRow, MembershipRow};
use appliance_ledger::{Commit, NewEvent, Root, membership};
use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::{CanonicalJsonObject, OwnedRoomId, UserId};
use appliance_model::{DeviceNid, Error, EventNid, Pdu, Position, RoomNid};
use appliance_rules::Denial;
use appliance_rules::event_auth::{NamedState, deciding_state, may_send};
use serde::Deserialize;
use tokio::sync::OwnedMutexGuard;

use super::Rooms;
use super::build::{Draft, Place, content_from};
use super::relations::RelatedNow;
use crate::media::link::{Sent, link};

/// "A PDU … at most 20 entries in prev_events" (server-server, PDU fields).
const PREV_EVENTS_MAX: usize = 20;

/// A room with one writer inside.
pub struct OpenRoom<'a> {
    pub(super) rooms: &'a Rooms,
    /// Its number.
    pub room: RoomNid,
    /// Its ID.
    pub room_id: OwnedRoomId,
    /// The rules of its version.
    pub rules: RoomVersionRules,
    head: HeadRow,
    states: appliance_ledger::state::States<'a>,
    fresh: HashMap<EventNid, Arc<Pdu>>,
    pub(super) related: RelatedNow,
    commit: Option<Commit>,
    guard: OwnedMutexGuard<()>,
}

impl<'a> OpenRoom<'a> {
    pub(super) fn new(
        rooms: &'a Rooms,
        room: RoomNid,
        room_id: OwnedRoomId,
        rules: RoomVersionRules,
        head: HeadRow,
        guard: OwnedMutexGuard<()>,
    ) -> Self {
        let states = rooms.house.ledger.states(room);
        Self {
            rooms,
            room,
            room_id,
            rules,
            head,
            states,
            fresh: HashMap::new(),
            related: RelatedNow::default(),
            commit: None,
            guard,
        }
    }

    /// The ID of the newest event.
    pub(super) fn newest(&self) -> Option<&str> {
        self.head.extremities.last().map(String::as_str)
    }

    /// A current state event.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn state(&self, kind: &StateEventType, key: &str) -> Result<Option<Arc<Pdu>>, Error> {
        Ok(self.state_entry(kind, key).await?.map(|(_, pdu)| pdu))
    }

    async fn state_entry(
        &self,
        kind: &StateEventType,
        key: &str,
    ) -> Result<Option<(EventNid, Arc<Pdu>)>, Error> {
        let ledger = &self.rooms.house.ledger;
        let Some(key) = ledger.state_key(kind, key).await? else { return Ok(None) };
        let Some(number) = self.states.get(Root(self.head.state_root), key).await? else {
            return Ok(None);
        };
        let pdu = match self.fresh.get(&number) {
            Some(pdu) => pdu.clone(),
            None => self.rooms.pdu(number, &self.rules).await?,
        };
        Ok(Some((number, pdu)))
    }

    /// A user's current membership.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn membership(&self, user_id: &UserId) -> Result<Option<MembershipState>, Error> {
        let member = self.state(&StateEventType::RoomMember, user_id.as_str()).await?;
        Ok(member.as_deref().map(membership_of))
    }

    /// Builds, judges and adds an event. Nothing is true before [`OpenRoom::leave`].
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if the room's rules refuse it: then the refusal is
    /// recorded and nothing that was added before in this visit becomes true either.
    ///
    /// State that says what it says already, by the same person, is judged but not added again: the
    /// event that set it is returned.
    pub async fn add(
        &mut self,
        draft: Draft,
        txn: Option<(DeviceNid, String)>,
    ) -> Result<Arc<Pdu>, Error> {
        self.check_relation(&draft).await?;
        let named = self.named_state(&draft).await?;
        let is_auth = |kind: &StateEventType| {
            // Since v12 the room ID names the create event; listing it would be wrong.
            !(self.rules.authorization.room_create_event_id_as_room_id
                && *kind == StateEventType::RoomCreate)
        };
        let auth_events: Vec<_> = named
            .iter()
            .filter(|((kind, _), _)| is_auth(kind))
            .map(|(_, event)| event.event_id.clone())
            .collect();
        let prev_events: Vec<_> = (self.head.extremities.iter().rev().take(PREV_EVENTS_MAX))
            .filter_map(|id| id.as_str().try_into().ok())
            .collect();
        let place = Place {
            room_id: Some(&self.room_id),
            prev_events: &prev_events,
            auth_events: &auth_events,
            depth: self.head.depth + 1,
        };
        let standing = self.standing(&draft).await?;
        let pdu = draft.sign(&self.rooms.house, &self.rules, &place)?;
        if let Some(standing) = standing
            && may_send(&pdu, &named, &self.rules.authorization).is_ok()
        {
            return Ok(standing);
        }
        self.judge_and_append(pdu, &named, txn).await
    }

    /// The current state event that says what `draft` says.
    async fn standing(&self, draft: &Draft) -> Result<Option<Arc<Pdu>>, Error> {
        let Some(key) = &draft.state_key else { return Ok(None) };
        let kind = StateEventType::from(draft.kind.to_string());
        let Some(current) = self.state(&kind, key).await? else { return Ok(None) };
        let content: Option<CanonicalJsonObject> = serde_json::from_str(current.content.get()).ok();
        let same = current.sender == draft.sender && content.as_ref() == Some(&draft.content);
        Ok(same.then_some(current))
    }

    /// Adds a member event: `sender` makes `target` what `content` says.
    ///
    /// # Errors
    ///
    /// As [`OpenRoom::add`].
    pub async fn add_member(
        &mut self,
        sender: &UserId,
        target: &UserId,
        content: &RoomMemberEventContent,
    ) -> Result<Arc<Pdu>, Error> {
        let content = content_from(content)?;
        let kind = TimelineEventType::RoomMember;
        self.add(Draft::state(sender.to_owned(), kind, target.as_str(), content), None).await
    }

    /// Refuses a change of membership that the authorization rules do not judge. The refusal is
    /// recorded.
    pub async fn refuse(&self, sender: &UserId, why: impl Into<Cow<'static, str>>) -> Error {
        let denial = Denial {
            verb: "event.refused",
            who: sender.to_string(),
            object: format!("{} m.room.member", self.room_id),
            why: why.into(),
        };
        self.rooms.house.ledger.refuse(denial).await
    }

    /// Judges a signed event on the named state and adds it.
    pub(super) async fn judge_and_append(
        &mut self,
        pdu: Pdu,
        named: &NamedState,
        txn: Option<(DeviceNid, String)>,
    ) -> Result<Arc<Pdu>, Error> {
        let ledger = &self.rooms.house.ledger;
        let permit = match may_send(&pdu, named, &self.rules.authorization) {
            Ok(permit) => permit,
            Err(denial) => return Err(ledger.refuse(denial).await),
        };
        let mut commit = match self.commit.take() {
            Some(mut commit) => {
                commit.also(permit);
                commit
            }
            None => ledger.begin(permit),
        };
        let pdu = Arc::new(pdu);
        if pdu.kind == TimelineEventType::RoomRedaction {
            self.may_redact(&pdu).await?;
        }
        self.append(&pdu, txn, &mut commit).await?;
        self.commit = Some(commit);
        Ok(pdu)
    }

    async fn append(
        &mut self,
        pdu: &Arc<Pdu>,
        txn: Option<(DeviceNid, String)>,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let ledger = &self.rooms.house.ledger;
        let number = EventNid(ledger.next_number());
        let device = txn.as_ref().map(|(device, _)| *device);
        let before = Root(self.head.state_root);
        let (mut after, mut replaces, mut moved) = (before, None, None);
        if let Some((kind, key)) = pdu.state_pair() {
            let old = self.state_entry(&kind, &key).await?;
            let key_number = ledger.state_key_in(&kind, &key, commit).await?;
            after = self.states.set(before, key_number, number, commit).await?;
            replaces = old.as_ref().map(|(number, _)| *number);
            if kind == StateEventType::RoomMember {
                moved = Some((key, old.map(|(_, pdu)| membership_of(&pdu))));
            }
        }
        let new = NewEvent {
            number,
            pdu,
            room: self.room,
            state_before: before,
            state_after: after,
            txn,
            replaces,
        };
        let index = self.index_relation(pdu, number, None, commit).await?;
        commit.append_with(ledger, new, index);
        // After the event: what a leaver may see ends at the membership's position, and holds the
        // event.
        if let Some((user_id, old)) = moved {
            self.move_member(pdu, number, &user_id, old, commit).await?;
        }
        if pdu.kind == TimelineEventType::RoomRedaction {
            self.apply_redaction(pdu, number, commit).await?;
        }
        // What it shows of people's files lives no longer than this room allows.
        let sent = Sent { number, pdu, device, replaces };
        link(&self.rooms.house, self, sent, commit).await?;
        self.fresh.insert(number, pdu.clone());
        self.head.extremities = vec![pdu.event_id.to_string()];
        self.head.depth = self.head.depth.max(pdu.depth);
        self.head.state_root = after.0;
        Ok(())
    }

    /// Keeps the current-membership indexes in step with a member event.
    async fn move_member(
        &mut self,
        pdu: &Pdu,
        number: EventNid,
        user_id: &str,
        old: Option<MembershipState>,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let ledger = &self.rooms.house.ledger;
        let user_id = UserId::parse(user_id)
            .map_err(|_| Error::invalid_param("The state key of a member event is a user ID."))?;
        let user = ledger.user_in(&user_id, commit).await?;
        let new = membership_of(pdu);
        let old_code = old.as_ref().map(membership::code);
        let new_code = membership::code(&new);
        if let Some(old_code) = old_code {
            commit.delete(&MEMBERS, &(self.room, old_code, user));
        }
        commit.put(&MEMBERS, &(self.room, new_code, user), &number.0);
        for (code, count) in [
            (membership::JOIN, &mut self.head.joined),
            (membership::INVITE, &mut self.head.invited),
        ] {
            *count = (*count + u64::from(new_code == code))
                .saturating_sub(u64::from(old_code == Some(code)));
        }
        if self.rooms.house.is_ours(&user_id) {
            let room = self.room;
            let known = ledger.get(&USER_ROOMS, &(user, room)).await?;
            let since = known.as_ref().filter(|row| row.membership == new_code);
            let since = since.map(|row| row.since);
            let (is_in, was_in) =
                (new_code == membership::JOIN, old_code == Some(membership::JOIN));
            let was_in_until = known.and_then(|row| row.joined_until);
            commit.stamp(move |position, rows| {
                let joined_until = if was_in { Some(position.0) } else { was_in_until };
                let row = MembershipRow {
                    membership: new_code,
                    position: position.0,
                    event: number.0,
                    forgotten: false,
                    since: since.unwrap_or(position.0),
                    joined_until: joined_until.filter(|_| !is_in),
                };
                rows.put(&USER_ROOMS, &(user, room), &row);
            });
            commit.touched().users.push(user);
            commit.touched().memberships.push((user, room, new_code == membership::JOIN));
        }
        Ok(())
    }

    async fn named_state(&self, draft: &Draft) -> Result<NamedState, Error> {
        let content = content_json(draft)?;
        let wanted = deciding_state(
            &draft.kind,
            &draft.sender,
            draft.state_key.as_deref(),
            &content,
            &self.rules.authorization,
        )
        .map_err(Error::bad_json)?;
        let mut named = NamedState::new();
        for (kind, key) in wanted {
            if let Some(event) = self.state(&kind, &key).await? {
                named.insert((kind, key), event);
            }
        }
        Ok(named)
    }

    /// Adds rows of the caller's to what will become true with the events.
    pub fn commit_mut(&mut self) -> Option<&mut Commit> {
        self.commit.as_mut()
    }

    /// Makes true what was added. The lock travels inside the commit and opens when it is durable.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Unavailable`] if the disk did not confirm; then nothing is true.
    pub async fn leave(self) -> Result<Position, Error> {
        let ledger = &self.rooms.house.ledger;
        let Some(mut commit) = self.commit else { return Ok(ledger.position()) };
        commit.put(&HEADS, &self.room, &self.head);
        commit.hold(self.guard);
        ledger.commit(commit).await
    }
}

/// The membership a member event sets; `leave` if it is unreadable (a redacted one still has it).
pub fn membership_of(pdu: &Pdu) -> MembershipState {
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    debug_assert_eq!(pdu.kind, TimelineEventType::RoomMember);
    serde_json::from_str::<Content>(pdu.content.get())
        .map_or(MembershipState::Leave, |content| content.membership)
}

fn content_json(draft: &Draft) -> Result<Box<serde_json::value::RawValue>, Error> {
    serde_json::value::to_raw_value(&draft.content).map_err(Error::internal)
}
