//! Which rooms a request is about: lists, counted off by activity, and subscriptions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::membership;
use appliance_ledger::rows::MembershipRow;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::{OwnedRoomId, RoomId};
use appliance_model::{Caller, Error, EventNid, Position, RoomNid, UserNid};
use quick_cache::sync::Cache;
use serde_json::Value;

use super::super::Sync;
use super::super::wait::{Memberships, News};
use super::connection::{Face, Known, Sent};
use super::facts::room_type_in;
use super::request::{RoomFilters, RoomWindow, SlidingRequest};

/// Users whose direct rooms are kept in memory, at about 1 KB each.
const DIRECT_CACHED_MAX: usize = 5_000;
/// Ends of memberships of which it is remembered whether others brought them about; 20 bytes each.
const ENDINGS_CACHED_MAX: usize = 50_000;

/// What lists need to know, from earlier looks.
pub(crate) struct ListMemory {
    /// The rooms in `m.direct`, and as of when.
    direct: Cache<UserNid, (Position, Arc<HashSet<RoomNid>>)>,
    /// Whether the event that ended a membership was sent by another.
    endings: Cache<EventNid, bool>,
}

impl Default for ListMemory {
    fn default() -> Self {
        Self { direct: Cache::new(DIRECT_CACHED_MAX), endings: Cache::new(ENDINGS_CACHED_MAX) }
    }
}

/// A room that is asked about.
#[derive(Clone, Debug, Default)]
pub(super) struct Interest {
    /// Which lists show it, by their place in the request; after those the subscriptions.
    pub sources: Vec<usize>,
    /// The largest limit of them.
    pub limit: usize,
}

/// What the request is about.
#[derive(Default)]
pub(super) struct Selection {
    /// How many rooms each list has.
    pub counts: BTreeMap<String, usize>,
    pub rooms: BTreeMap<RoomNid, (MembershipRow, Interest)>,
    /// The rooms in `m.direct`.
    pub direct: Arc<HashSet<RoomNid>>,
}

/// One user's rooms, ready to be picked from.
struct Picker<'a> {
    sync: &'a Sync,
    caller: &'a Caller,
    upto: Position,
    candidates: Vec<(RoomNid, MembershipRow)>,
    direct: Arc<HashSet<RoomNid>>,
    /// The candidates in the order of activity, once that was needed.
    order: Option<HashMap<RoomNid, i64>>,
}

impl Selection {
    fn add(&mut self, (room, row): (RoomNid, MembershipRow), source: usize, limit: usize) {
        let (_, interest) = self.rooms.entry(room).or_insert_with(|| (row, Interest::default()));
        interest.sources.push(source);
        interest.limit = interest.limit.max(limit);
    }
}

/// How a room of that membership is shown.
pub(super) fn face_of(row: &MembershipRow) -> Face {
    match row.membership {
        membership::JOIN => Face::Joined,
        membership::INVITE | membership::KNOCK => Face::Invited,
        _ => Face::Left,
    }
}

impl Sync {
    /// The rooms that the request is about.
    pub(super) async fn select(
        &self,
        caller: &Caller,
        request: &SlidingRequest,
        (memberships, known): (&Memberships, &Known),
        upto: Position,
    ) -> Result<Selection, Error> {
        let mut candidates = Vec::with_capacity(memberships.len());
        for (room, row) in memberships.iter() {
            // Beyond the position of this answer: the next one tells it.
            let begun = if face_of(row) == Face::Invited { row.position } else { row.since };
            let sent = known.rooms.get(room);
            if begun <= upto.0 && self.is_listed(caller.user, row, sent).await? {
                candidates.push((*room, row.clone()));
            }
        }
        let direct = self.direct_rooms(caller.user, upto).await?;
        let mut selection = Selection { direct: direct.clone(), ..Selection::default() };
        let mut picker = Picker { sync: self, caller, upto, candidates, direct, order: None };
        for (source, (name, list)) in request.lists.iter().enumerate() {
            let (count, picked) = picker.pick(list).await?;
            selection.counts.insert(name.clone(), count);
            for room in picked {
                selection.add(room, source, list.config.timeline_limit);
            }
        }
        for (index, (room_id, config)) in request.subscriptions.iter().enumerate() {
            if let Some(room) = picker.subscribed(room_id, known).await? {
                selection.add(room, request.lists.len() + index, config.timeline_limit);
            }
        }
        Ok(selection)
    }

    /// "Rooms that the user has been in but left are only included if the room was previously sent …
    /// Rooms the user has been kicked or banned from will always be included". A leave is told once;
    /// who was never in the room hears of its end only if the client was shown the beginning.
    async fn is_listed(
        &self,
        user: UserNid,
        row: &MembershipRow,
        sent: Option<&Sent>,
    ) -> Result<bool, Error> {
        match row.membership {
            membership::JOIN | membership::KNOCK => return Ok(true),
            membership::INVITE => return Ok(!self.rooms.hides_invite(user, row).await?),
            _ if sent.is_some_and(|sent| sent.face != Face::Left) => return Ok(true),
            _ if row.forgotten || row.joined_until.is_none() => return Ok(false),
            membership::BAN => return Ok(true),
            _ => {}
        }
        if let Some(by_another) = self.list_memory.endings.get(&EventNid(row.event)) {
            return Ok(by_another);
        }
        let event = self.house.ledger.event(EventNid(row.event)).await?;
        let by_another = event.part(event.spans.sender) != event.part(event.spans.state_key);
        self.list_memory.endings.insert(EventNid(row.event), by_another);
        Ok(by_another)
    }

    /// The rooms that a user's `m.direct` names.
    async fn direct_rooms(
        &self,
        user: UserNid,
        upto: Position,
    ) -> Result<Arc<HashSet<RoomNid>>, Error> {
        if let Some((as_of, rooms)) = self.list_memory.direct.get(&user)
            && (as_of >= upto || self.waiters.user_news(user, as_of) == News::None)
        {
            return Ok(rooms);
        }
        let as_of = self.house.ledger.position();
        let content = self.personal.account_data(user, None, "m.direct").await?;
        let content: Value =
            content.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
        let lists = content.as_object().into_iter().flat_map(|people| people.values());
        let ids = lists.filter_map(Value::as_array).flatten().filter_map(Value::as_str);
        let ids: Vec<&RoomId> = ids.filter_map(|id| id.try_into().ok()).collect();
        let mut rooms = HashSet::new();
        for room_id in ids {
            rooms.extend(self.house.ledger.room(room_id).await?);
        }
        let rooms = Arc::new(rooms);
        self.list_memory.direct.insert(user, (as_of, rooms.clone()));
        Ok(rooms)
    }
}

impl Picker<'_> {
    /// How many rooms a list has, and those in its ranges.
    async fn pick(
        &mut self,
        list: &RoomWindow,
    ) -> Result<(usize, Vec<(RoomNid, MembershipRow)>), Error> {
        let spaces = self.named_by_spaces(&list.filters).await?;
        let mut passed = Vec::with_capacity(self.candidates.len());
        for (room, row) in &self.candidates {
            let in_space = spaces.as_ref().is_none_or(|rooms| rooms.contains(room));
            if in_space && self.passes(*room, row, &list.filters).await? {
                passed.push((*room, row.clone()));
            }
        }
        let count = passed.len();
        let Some(ranges) = &list.ranges else { return Ok((count, passed)) };
        if ranges.iter().any(|(first, last)| *first == 0 && *last + 1 >= count) {
            // All of them: then their order does not matter.
            return Ok((count, passed));
        }
        self.learn_order().await?;
        let order = self.order.as_ref();
        let activity = |room: &RoomNid| order.and_then(|o| o.get(room).copied()).unwrap_or(0);
        passed.sort_by_cached_key(|(room, _)| (std::cmp::Reverse(activity(room)), *room));
        let mut picked = Vec::new();
        for (index, room) in passed.into_iter().enumerate() {
            if ranges.iter().any(|(first, last)| (*first..=*last).contains(&index)) {
                picked.push(room);
            }
        }
        Ok((count, picked))
    }

    /// "Activity ordering: based on when the last event in the room was received".
    async fn learn_order(&mut self) -> Result<(), Error> {
        if self.order.is_some() {
            return Ok(());
        }
        let mut order = HashMap::with_capacity(self.candidates.len());
        for (room, row) in &self.candidates {
            let activity = match face_of(row) {
                Face::Joined => self.sync.facts(*room, self.upto).await?.last,
                Face::Invited | Face::Left => row.position.cast_signed(),
            };
            order.insert(*room, activity);
        }
        self.order = Some(order);
        Ok(())
    }

    async fn passes(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        filters: &RoomFilters,
    ) -> Result<bool, Error> {
        let is_invited = row.membership == membership::INVITE;
        if filters.is_invited.is_some_and(|wanted| wanted != is_invited)
            || filters.is_dm.is_some_and(|wanted| wanted != self.direct.contains(&room))
        {
            return Ok(false);
        }
        let by_type = filters.room_types.is_some() || !filters.not_room_types.is_empty();
        if by_type || filters.is_encrypted.is_some() {
            let (encrypted, room_type) = self.kind_of(room, row).await?;
            let typed = filters.room_types.as_ref().is_none_or(|types| types.contains(&room_type));
            if !typed
                || filters.not_room_types.contains(&room_type)
                || filters.is_encrypted.is_some_and(|wanted| wanted != encrypted)
            {
                return Ok(false);
            }
        }
        if filters.tags.is_some() || !filters.not_tags.is_empty() {
            return self.passes_tags(room, filters).await;
        }
        Ok(true)
    }

    /// Whether a room is encrypted, and its type, as far as the user may know.
    async fn kind_of(
        &self,
        room: RoomNid,
        row: &MembershipRow,
    ) -> Result<(bool, Option<String>), Error> {
        if face_of(row) == Face::Joined || row.joined_until.is_some() {
            let facts = self.sync.facts(room, self.upto).await?;
            return Ok((facts.encrypted, facts.room_type));
        }
        let state = self.sync.rooms.stripped_state(room, row, self.caller).await?;
        let (mut encrypted, mut room_type) = (false, None);
        for event in state.iter().filter_map(|json| serde_json::from_str::<Value>(json).ok()) {
            match event["type"].as_str() {
                Some("m.room.encryption") => encrypted = true,
                Some("m.room.create") => room_type = room_type_in(&event["content"].to_string()),
                _ => {}
            }
        }
        Ok((encrypted, room_type))
    }

    async fn passes_tags(&self, room: RoomNid, filters: &RoomFilters) -> Result<bool, Error> {
        let personal = &self.sync.personal;
        let content = personal.account_data(self.caller.user, Some(room), "m.tag").await?;
        let content: Value =
            content.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
        let has = |tag: &String| content["tags"].get(tag).is_some();
        let wanted = filters.tags.as_ref().is_none_or(|tags| tags.iter().any(has));
        // "not_tags takes priority over tags".
        Ok(wanted && !filters.not_tags.iter().any(has))
    }

    /// "The server will inspect the m.space.child state events for the JOINED space room IDs given."
    async fn named_by_spaces(
        &self,
        filters: &RoomFilters,
    ) -> Result<Option<HashSet<RoomNid>>, Error> {
        let Some(spaces) = &filters.spaces else { return Ok(None) };
        let ledger = &self.sync.house.ledger;
        let mut named = HashSet::new();
        for space_id in spaces {
            let Some(space) = ledger.room(space_id).await? else { continue };
            let joined = |(room, row): &(RoomNid, MembershipRow)| {
                *room == space && face_of(row) == Face::Joined
            };
            if !self.candidates.iter().any(joined) {
                continue;
            }
            let root = self.sync.rooms.current_root(space).await?;
            for event in &self.sync.plain_state(space, root).await? {
                // A child without `via` was taken out again.
                let child: Value = serde_json::from_str(event.content()).unwrap_or_default();
                let key = event.part(event.spans.state_key).trim_matches('"');
                if event.kind() == StateEventType::SpaceChild.to_string()
                    && child["via"].is_array()
                    && let Ok(child_id) = <&RoomId>::try_from(key)
                {
                    named.extend(ledger.room(child_id).await?);
                }
            }
        }
        Ok(Some(named))
    }

    /// "The server MUST ensure that user has permission to see any information": rooms that the
    /// user has nothing to do with are as if they did not exist.
    async fn subscribed(
        &self,
        room_id: &OwnedRoomId,
        known: &Known,
    ) -> Result<Option<(RoomNid, MembershipRow)>, Error> {
        let ledger = &self.sync.house.ledger;
        let Some(room) = ledger.room(room_id).await? else { return Ok(None) };
        if let Some((_, row)) = self.candidates.iter().find(|(number, _)| *number == room) {
            return Ok(Some((room, row.clone())));
        }
        // Who left by themselves may still ask what they saw of the room.
        let row = ledger.get(&USER_ROOMS, &(self.caller.user, room)).await?;
        let row = row.filter(|row| {
            face_of(row) == Face::Left
                && !row.forgotten
                && row.since <= self.upto.0
                && (row.joined_until.is_some() || known.rooms.contains_key(&room))
        });
        Ok(row.map(|row| (room, row)))
    }
}
