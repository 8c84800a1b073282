//! What a client asks a sliding sync for, in the words that both wire forms are translated into.

use std::collections::BTreeMap;
use std::time::Duration;

use appliance_model::Position;
use appliance_model::ruma::OwnedRoomId;
use appliance_model::ruma::presence::PresenceState;

/// Which of the two spellings the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/unstable/org.matrix.simplified_msc3575/sync`.
    Unstable,
    /// `/v4/sync`.
    Merged,
}

/// A request.
#[derive(Clone, Debug)]
pub struct SlidingRequest {
    /// The spelling of the answer.
    pub form: Form,
    /// Where the client stands; none begins a connection.
    pub pos: Option<String>,
    /// The connection's name, at the client's choice.
    pub conn_id: String,
    /// Comes back in the answer.
    pub txn_id: Option<String>,
    /// How long to wait for news.
    pub timeout: Duration,
    /// What the sync says of its user.
    pub presence: PresenceState,
    /// Lists of rooms, by name.
    pub lists: BTreeMap<String, RoomWindow>,
    /// Rooms asked for by ID.
    pub subscriptions: BTreeMap<OwnedRoomId, RoomConfig>,
    /// What is asked for besides rooms.
    pub extensions: ExtensionRequests,
}

/// A part of the user's rooms, newest activity first.
#[derive(Clone, Debug, Default)]
pub struct RoomWindow {
    /// First and last index, both included; none is all of them.
    pub ranges: Option<Vec<(usize, usize)>>,
    /// Which rooms, before the ranges are counted off.
    pub filters: RoomFilters,
    /// What to tell of each.
    pub config: RoomConfig,
}

/// What to tell of a room.
#[derive(Clone, Debug, Default)]
pub struct RoomConfig {
    /// The most events of a timeline.
    pub timeline_limit: usize,
    /// Which state.
    pub state: StateWish,
}

/// Which state events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateWish {
    /// Any of these …
    pub include: Vec<StatePattern>,
    /// … and none of those.
    pub exclude: Vec<StatePattern>,
    /// Members as they are needed to show the timeline.
    pub lazy_members: bool,
}

/// Matches state events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatePattern {
    /// Of this type; none is any.
    pub kind: Option<String>,
    /// With this state key; none is any.
    pub key: Option<String>,
}

/// All of them must hold; what is not there holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomFilters {
    /// "present (or not) in the m.direct entry in account data".
    pub is_dm: Option<bool>,
    /// "rooms which have an m.room.encryption state event".
    pub is_encrypted: Option<bool>,
    /// "rooms the user is currently invited to".
    pub is_invited: Option<bool>,
    /// The types of rooms; a room without a type is `None`.
    pub room_types: Option<Vec<Option<String>>>,
    /// Not these types.
    pub not_room_types: Vec<Option<String>>,
    /// Rooms that one of these spaces names.
    pub spaces: Option<Vec<OwnedRoomId>>,
    /// Rooms with one of these tags.
    pub tags: Option<Vec<String>>,
    /// Not with these.
    pub not_tags: Vec<String>,
}

/// What is asked for besides rooms.
#[derive(Clone, Debug, Default)]
pub struct ExtensionRequests {
    /// Messages to the device.
    pub to_device: Option<ToDeviceRequest>,
    /// Key counts and device lists.
    pub e2ee: bool,
    /// Account data, global and of these rooms.
    pub account_data: Option<RoomScope>,
    /// Receipts in these rooms.
    pub receipts: Option<RoomScope>,
    /// Who is typing in these rooms.
    pub typing: Option<RoomScope>,
    /// Which threads the user subscribed to or left.
    pub thread_subscriptions: Option<ThreadsRequest>,
}

/// Which changes of thread subscriptions ([MSC4308]).
///
/// [MSC4308]: https://github.com/matrix-org/matrix-spec-proposals/pull/4308
#[derive(Clone, Copy, Debug)]
pub struct ThreadsRequest {
    /// The name that the client has for the extension.
    pub name: &'static str,
    /// The most in one answer.
    pub limit: Option<usize>,
}

/// Which messages to the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToDeviceRequest {
    /// The most in one answer.
    pub limit: Option<usize>,
    /// The client has those up to here.
    pub since: Option<Position>,
}

/// The rooms that an extension is about.
#[derive(Clone, Debug, Default)]
pub struct RoomScope {
    /// Those shown by these lists; none, or `*`, is all lists.
    pub lists: Option<Vec<String>>,
    /// These subscribed rooms; none, or `*`, is all.
    pub rooms: Option<Vec<String>>,
}

impl StateWish {
    /// Whether a state event is wanted.
    ///
    /// Where members are wanted as they are needed, a pattern for any type does not mean them:
    /// "you want to retrieve all state events except for m.room.member events which you want to
    /// lazily load".
    pub fn wants(&self, kind: &str, key: &str) -> bool {
        let lazy = self.lazy_members && kind == MEMBER;
        let meant = |pattern: &&StatePattern| !(lazy && pattern.kind.is_none());
        self.include.iter().filter(meant).any(|pattern| pattern.matches(kind, key))
            && !self.exclude.iter().any(|pattern| pattern.matches(kind, key))
    }

    /// Whether it can be answered by looking up single keys.
    pub(super) fn is_exact(&self) -> bool {
        self.include.iter().all(|pattern| pattern.kind.is_some() && pattern.key.is_some())
    }

    /// Whether all members may be wanted.
    pub(super) fn wants_all_members(&self) -> bool {
        let is_member = |pattern: &StatePattern| match &pattern.kind {
            Some(kind) => kind == MEMBER && pattern.key.is_none(),
            None => !self.lazy_members,
        };
        self.include.iter().any(is_member)
    }
}

/// The type of member events.
pub(super) const MEMBER: &str = "m.room.member";

impl StatePattern {
    fn matches(&self, kind: &str, key: &str) -> bool {
        self.kind.as_ref().is_none_or(|wanted| wanted == kind)
            && self.key.as_ref().is_none_or(|wanted| wanted == key)
    }
}

impl SlidingRequest {
    /// What a list or subscription asks of its rooms; the lists come first.
    pub(super) fn config(&self, source: usize) -> Option<&RoomConfig> {
        match source.checked_sub(self.lists.len()) {
            None => self.lists.values().nth(source).map(|list| &list.config),
            Some(index) => self.subscriptions.values().nth(index),
        }
    }
}

impl RoomScope {
    /// Whether a list is in it.
    pub(super) fn has_list(&self, name: &str) -> bool {
        let names = |lists: &Vec<String>| lists.iter().any(|list| list == "*" || list == name);
        self.lists.as_ref().is_none_or(names)
    }

    /// Whether all subscriptions are in it.
    pub(super) fn has_all_subscriptions(&self) -> bool {
        self.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|room| room == "*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(kind: &str, key: &str) -> StatePattern {
        let some = |text: &str| (text != "*").then(|| text.to_owned());
        StatePattern { kind: some(kind), key: some(key) }
    }

    #[test]
    fn patterns_include_and_exclude() {
        let wish = StateWish {
            include: vec![pattern("m.room.name", ""), pattern("m.space.child", "*")],
            exclude: vec![pattern("*", "!b:h")],
            lazy_members: false,
        };
        assert!(wish.wants("m.room.name", "") && !wish.wants("m.room.name", "x"));
        assert!(wish.wants("m.space.child", "!a:h") && !wish.wants("m.space.child", "!b:h"));
        assert!(!wish.wants("m.room.topic", ""));
        assert!(!wish.is_exact() && !wish.wants_all_members());
    }

    #[test]
    fn lazy_members_are_not_all_state() {
        let everything = vec![pattern("*", "*"), pattern(MEMBER, "@me:h")];
        let mut wish = StateWish { include: everything, lazy_members: true, ..Default::default() };
        assert!(wish.wants("m.room.topic", "") && !wish.wants(MEMBER, "@other:h"));
        assert!(wish.wants(MEMBER, "@me:h") && !wish.wants_all_members());
        wish.lazy_members = false;
        assert!(wish.wants(MEMBER, "@other:h") && wish.wants_all_members());
    }
}
