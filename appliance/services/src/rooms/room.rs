//! Being inside a room: read its state, add events, leave with a commit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use appliance_ledger::keyspaces::HEADS;
use appliance_ledger::rows::{AuthRow, HeadRow};
use appliance_ledger::{Commit, Root};
use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, UserId};
use appliance_model::{DeviceNid, Error, EventNid, Pdu, Position, RoomNid};
use appliance_rules::event_auth::{NamedState, deciding_state, may_send};
use appliance_rules::{Denial, Permit};
use serde::Deserialize;
use tokio::sync::OwnedMutexGuard;

use super::Rooms;
use super::arrive::{Arrival, Known};
use super::build::{Draft, Place, content_from};
use super::relations::RelatedNow;

/// "A PDU … at most 20 entries in prev_events" (server-server, PDU fields).
pub(crate) const PREV_EVENTS_MAX: usize = 20;

/// A room with one writer inside.
pub struct OpenRoom<'a> {
    pub(crate) rooms: &'a Rooms,
    /// Its number.
    pub room: RoomNid,
    /// Its ID.
    pub room_id: OwnedRoomId,
    /// The rules of its version.
    pub rules: RoomVersionRules,
    pub(crate) head: HeadRow,
    pub(crate) states: appliance_ledger::state::States<'a>,
    pub(crate) fresh: HashMap<EventNid, Arc<Pdu>>,
    pub(crate) fresh_known: HashMap<OwnedEventId, Known>,
    pub(crate) fresh_edges: HashMap<EventNid, Arc<AuthRow>>,
    pub(super) related: RelatedNow,
    pub(super) commit: Option<Commit>,
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
            fresh_known: HashMap::new(),
            fresh_edges: HashMap::new(),
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
        self.entry_at(Root(self.head.state_root), kind, key).await
    }

    /// A state event of the state `root`, and its number.
    pub(crate) async fn entry_at(
        &self,
        root: Root,
        kind: &StateEventType,
        key: &str,
    ) -> Result<Option<(EventNid, Arc<Pdu>)>, Error> {
        let ledger = &self.rooms.house.ledger;
        let Some(key) = ledger.state_key(kind, key).await? else { return Ok(None) };
        let Some(number) = self.states.get(root, key).await? else { return Ok(None) };
        Ok(Some((number, self.pdu(number).await?)))
    }

    /// An event of this visit or of the store, parsed.
    pub(crate) async fn pdu(&self, number: EventNid) -> Result<Arc<Pdu>, Error> {
        match self.fresh.get(&number) {
            Some(pdu) => Ok(pdu.clone()),
            None => self.rooms.pdu(number, &self.rules).await,
        }
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
    /// Also what the room's policy server says of it ([`OpenRoom::recommended`]).
    ///
    /// State that says what it says already, by the same person, is judged but not added again: the
    /// event that set it is returned.
    pub async fn add(
        &mut self,
        draft: Draft,
        txn: Option<(DeviceNid, String)>,
    ) -> Result<Arc<Pdu>, Error> {
        self.check_relation(&draft).await?;
        let draft = self.dated(draft).await?;
        let (named, prev_events, auth_events) = self.references(&draft).await?;
        let place = self.place(&prev_events, &auth_events);
        let standing = self.standing(&draft).await?;
        let pdu = draft.sign(&self.rooms.house, &self.rules, &place)?;
        if let Some(standing) = standing
            && may_send(&pdu, &named, &self.rules.authorization).is_ok()
        {
            return Ok(standing);
        }
        let pdu = self.recommended(pdu, &named).await?;
        self.judge_and_append(pdu, &named, txn).await
    }

    /// What a new event is judged by, what it follows, and what it names as allowing it.
    pub(crate) async fn references(
        &self,
        draft: &Draft,
    ) -> Result<(NamedState, Vec<OwnedEventId>, Vec<OwnedEventId>), Error> {
        let named = self.named_state(draft).await?;
        let is_auth = |kind: &StateEventType| {
            // Since v12 the room ID names the create event; listing it would be wrong.
            !(self.rules.authorization.room_create_event_id_as_room_id
                && *kind == StateEventType::RoomCreate)
        };
        let auth_events = named
            .iter()
            .filter(|((kind, _), _)| is_auth(kind))
            .map(|(_, event)| event.event_id.clone())
            .collect();
        let prev_events = (self.head.extremities.iter().rev().take(PREV_EVENTS_MAX))
            .filter_map(|id| id.as_str().try_into().ok())
            .collect();
        Ok((named, prev_events, auth_events))
    }

    /// The end of the room.
    pub(crate) fn place<'p>(
        &'p self,
        prev_events: &'p [OwnedEventId],
        auth_events: &'p [OwnedEventId],
    ) -> Place<'p> {
        let depth = self.head.depth + 1;
        Place { room_id: Some(&self.room_id), prev_events, auth_events, depth }
    }

    /// A member event comes after the one that it replaces, and after those of which it is not known what became
    /// of them.
    pub(crate) async fn dated(&self, draft: Draft) -> Result<Draft, Error> {
        let Some(key) = draft.state_key.as_deref() else { return Ok(draft) };
        if draft.kind != TimelineEventType::RoomMember {
            return Ok(draft);
        }
        let (rooms, house) = (self.rooms, &self.rooms.house);
        let replaced = self.state(&StateEventType::RoomMember, key).await?;
        // One that another server was asked to take may turn up yet.
        let asked_ms = match <&UserId>::try_from(key).ok().filter(|user_id| house.is_ours(user_id))
        {
            Some(user_id) => rooms.asked_date_ms(user_id, &self.room_id).await?,
            None => 0,
        };
        let draft = draft.after_ms(asked_ms, house);
        Ok(match replaced {
            Some(replaced) => draft.after(&replaced, house),
            None => draft,
        })
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
        let mut commit = self.begin(permit);
        let pdu = Arc::new(pdu);
        if pdu.kind == TimelineEventType::RoomRedaction {
            self.may_redact(&pdu).await?;
        }
        let before = Root(self.head.state_root);
        self.append(&pdu, Arrival { txn, ..Arrival::at(before) }, &mut commit).await?;
        self.commit = Some(commit);
        Ok(pdu)
    }

    /// What this visit has gathered so far, with what another permit allows.
    pub(crate) fn begin(&mut self, permit: Permit) -> Commit {
        match self.commit.take() {
            Some(mut commit) => {
                commit.also(permit);
                commit
            }
            None => self.rooms.house.ledger.begin(permit),
        }
    }

    /// Puts back what [`OpenRoom::begin`] gave out.
    pub(crate) fn resume(&mut self, commit: Commit) {
        self.commit = Some(commit);
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

/// Whether some who are joined are ours.
pub(crate) fn is_resident(head: &HeadRow) -> bool {
    let others: u64 = head.servers.iter().flatten().map(|(_, count)| count).sum();
    head.joined > others
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
