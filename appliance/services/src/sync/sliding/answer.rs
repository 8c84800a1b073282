//! What a sliding sync tells, before it is spelled in one of the two wire forms.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::devices::{DeviceLists, KeyCounts};
use super::super::write::{List, Unread};

/// The whole answer.
#[derive(Default)]
pub(super) struct Answer {
    pub txn_id: Option<String>,
    /// How many rooms each list has.
    pub counts: BTreeMap<String, usize>,
    /// By room ID.
    pub rooms: Vec<(String, RoomAnswer)>,
    pub extensions: Extensions,
    /// Lists came, went or changed their size.
    pub counts_changed: bool,
}

/// One room. What is not there has not changed; in an initial answer, it is not set.
#[derive(Default)]
pub(super) struct RoomAnswer {
    pub membership: &'static str,
    pub lists: Vec<String>,
    pub initial: bool,
    pub expanded: bool,
    /// The inner none: it was removed.
    pub name: Option<Option<String>>,
    pub avatar: Option<Option<String>>,
    pub heroes: Option<Vec<Hero>>,
    pub is_dm: Option<bool>,
    pub required_state: List,
    /// Type and state key of state that was deleted.
    pub gone: Vec<(String, String)>,
    /// What those not in the room are shown of it.
    pub stripped_state: Option<List>,
    pub timeline: List,
    pub limited: bool,
    pub num_live: u64,
    pub prev_batch: Option<String>,
    /// Joined and invited.
    pub members: Option<(u64, u64)>,
    pub unread: Option<Unread>,
    pub bump_stamp: Option<u64>,
}

/// A member after whom a nameless room is called.
pub(super) struct Hero {
    pub user_id: String,
    pub name: Option<String>,
    pub avatar: Option<String>,
}

/// What was asked for besides rooms; what is none was not asked for.
#[derive(Default)]
pub(super) struct Extensions {
    pub to_device: Option<ToDevice>,
    pub e2ee: Option<E2ee>,
    pub account_data: Option<AccountData>,
    /// `m.receipt` events by room ID.
    pub receipts: Option<BTreeMap<String, String>>,
    /// `m.typing` events by room ID.
    pub typing: Option<BTreeMap<String, String>>,
    /// Under the name that the client asked with.
    pub thread_subscriptions: Option<(&'static str, Map<String, Value>)>,
}

pub(super) struct ToDevice {
    pub next_batch: u64,
    pub events: List,
}

pub(super) struct E2ee {
    pub key_counts: KeyCounts,
    pub device_lists: Option<DeviceLists>,
    /// The counts may be others than before.
    pub news: bool,
}

#[derive(Default)]
pub(super) struct AccountData {
    pub global: List,
    pub rooms: BTreeMap<String, List>,
}

impl Answer {
    /// Whether it tells nothing new.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.extensions.is_empty() && !self.counts_changed
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        let nothing = |rooms: &BTreeMap<_, _>| rooms.is_empty();
        self.to_device.as_ref().is_none_or(|messages| messages.events.is_empty())
            && self.e2ee.as_ref().is_none_or(|e2ee| !e2ee.news && e2ee.device_lists.is_none())
            && self.account_data.as_ref().is_none_or(AccountData::is_empty)
            && self.receipts.as_ref().is_none_or(nothing)
            && self.typing.as_ref().is_none_or(nothing)
            && self.thread_subscriptions.as_ref().is_none_or(|(_, changes)| changes.is_empty())
    }
}

impl AccountData {
    pub fn is_empty(&self) -> bool {
        self.global.is_empty() && self.rooms.is_empty()
    }
}
