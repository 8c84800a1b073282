//! Rooms: entering one, building an event, judging it, adding it.

mod access_list;
mod aliases;
pub(crate) mod arrive;
pub(crate) mod build;
mod client_events;
mod company;
mod create_room;
mod delayed;
mod directory;
mod face;
mod hierarchy;
mod ignored;
mod invite;
mod invite_permission;
mod join;
mod joined_rooms;
mod kick;
mod knock;
mod leave;
mod members;
pub(crate) mod membership;
mod messages;
mod moved;
mod mutual_rooms;
mod policy_server;
mod power;
mod publish;
mod read_state;
mod redact_event;
mod relations;
mod report;
pub(crate) mod retention;
pub(crate) mod room;
mod send_event;
mod sharing;
mod state;
mod steward;
mod summary;
mod timestamp;
mod txns;
mod upgrade;
mod user_directory;
mod visible;

use std::sync::Arc;

use appliance_ledger::keyspaces::{HEADS, ROOMS};
use appliance_ledger::rows::AuthRow;
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::{RoomId, RoomVersionId};
use appliance_model::{Error, EventNid, Pdu, RoomNid};
use quick_cache::sync::Cache;

pub use access_list::ACCESS_LIST_PEERS_MAX;
pub use build::Draft;
pub use build::content_of;
pub use client_events::ClientEvents;
pub use create_room::ROOM_VERSIONS;
pub use delayed::{DELAY_MS_MAX, Delayed, DelayedAction, NewDelayed};
pub use directory::{DirectoryPage, DirectoryQuery, ROOMS_MAX};
pub use face::{Face, Summary};
pub use hierarchy::{Hierarchy, HierarchyQuery};
pub use ignored::Ignored;
pub use join::Joining;
pub use kick::Removal;
pub use members::MembersQuery;
pub use messages::{Context, History, HistoryQuery};
pub use mutual_rooms::MutualRooms;
pub use read_state::StateForm;
pub use redact_event::Redaction;
pub use relations::{Related, RelationsQuery, ThreadsPage, ThreadsQuery};
pub use report::Reported;
pub use retention::RetentionConfiguration;
pub use room::OpenRoom;
pub use summary::{FACE, RoomSummary};
pub(crate) use timestamp::closest;
pub use upgrade::Upgrade;
pub use user_directory::FoundUser;
pub(crate) use visible::{membership_set_by, visibility_set_by};

use crate::alarms::Alarms;
use crate::doors::Doors;
use crate::house::House;
use crate::limits::Limits;
use crate::rest::Rest;

/// Parsed state events kept in memory: the create, power and member events of the busy rooms; about
/// 3 KB each.
const PDUS_CACHED_MAX: usize = 2_000;

/// Edges of the authorization graph kept in memory: the state of a room of ten thousand, about 100
/// bytes each.
const EDGES_CACHED_MAX: usize = 20_000;

/// The rooms of the house.
pub struct Rooms {
    pub(crate) house: Arc<House>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) doors: Doors,
    delayed_doors: Doors,
    delayed_rest: Rest,
    access_round: access_list::Round,
    pub(crate) pdus: Arc<Cache<EventNid, Arc<Pdu>>>,
    /// The edges of the authorization graph.
    pub(crate) edges: Cache<EventNid, Arc<AuthRow>>,
    retention: retention::Retention,
    /// Other servers, once there is a way to reach them.
    pub line: crate::federation::Line,
    /// One walk through another server's part of a room at a time.
    pub(crate) receiving: Doors,
    /// What other servers did that somebody should look at.
    pub(crate) alarms: Alarms,
    /// The key with which this server vouches for events as a policy server.
    policy_key: policy_server::OwnKey,
    /// Policy servers that did not answer.
    policy_away: policy_server::Away,
}

impl Rooms {
    pub(crate) fn new(house: Arc<House>, limits: Arc<Limits>) -> Self {
        let pdus = Arc::new(Cache::new(PDUS_CACHED_MAX));
        Self {
            house,
            limits,
            doors: Doors::default(),
            delayed_doors: Doors::default(),
            delayed_rest: Rest::default(),
            access_round: access_list::Round::default(),
            pdus,
            edges: Cache::new(EDGES_CACHED_MAX),
            retention: retention::Retention::default(),
            line: crate::federation::Line::default(),
            receiving: Doors::default(),
            alarms: Alarms::default(),
            policy_key: policy_server::OwnKey::default(),
            policy_away: policy_server::Away::default(),
        }
    }

    /// Enters a room to write in it. One writer is inside at a time, so what it reads there stays
    /// true until it commits.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server does not know the room.
    pub async fn enter(&self, room_id: &RoomId) -> Result<OpenRoom<'_>, Error> {
        let (room, version) = self.known(room_id).await?;
        let guard = self.doors.enter(room.0).await;
        let head = self.house.ledger.get(&HEADS, &room).await?.unwrap_or_default();
        let rules = rules_of(&version)?;
        Ok(OpenRoom::new(self, room, room_id.to_owned(), rules, head, guard))
    }

    /// Enters a room that is about to become known.
    pub(crate) async fn enter_unknown(
        &self,
        room: RoomNid,
        room_id: &RoomId,
        version: &RoomVersionId,
    ) -> Result<OpenRoom<'_>, Error> {
        let guard = self.doors.enter(room.0).await;
        let head = appliance_ledger::rows::HeadRow::default();
        Ok(OpenRoom::new(self, room, room_id.to_owned(), rules_of(version)?, head, guard))
    }

    /// Whether one of our users is in a room: only then is what we know of it current.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn is_resident(&self, room: RoomNid) -> Result<bool, Error> {
        let head = self.house.ledger.get(&HEADS, &room).await?.unwrap_or_default();
        Ok(room::is_resident(&head))
    }

    /// The number and version of a room this server knows.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if it does not.
    pub async fn known(&self, room_id: &RoomId) -> Result<(RoomNid, RoomVersionId), Error> {
        let unknown = || Error::not_found("This server does not know that room.");
        let room = self.house.ledger.room(room_id).await?.ok_or_else(unknown)?;
        let row = self.house.ledger.get(&ROOMS, &room).await?.ok_or_else(unknown)?;
        let version = RoomVersionId::try_from(row.version)
            .map_err(|_| Error::internal("a room has a version that is no version"))?;
        Ok((room, version))
    }

    /// An event, parsed for judging.
    ///
    /// # Errors
    ///
    /// If the store fails or lacks it.
    pub async fn pdu(
        &self,
        number: EventNid,
        version: &RoomVersionRules,
    ) -> Result<Arc<Pdu>, Error> {
        if let Some(pdu) = self.pdus.get(&number) {
            return Ok(pdu);
        }
        let rewrites = self.house.ledger.rewrite_count();
        let event = self.house.ledger.event(number).await?;
        let room_id = self.house.ledger.room_id(event.room).await?;
        let mut pdu = Pdu::parse(
            event.event_id.clone(),
            room_id,
            event.json.clone(),
            version.redaction.content_field_redacts,
        )
        .map_err(Error::internal)?;
        pdu.rejected = event.rejected;
        let pdu = Arc::new(pdu);
        self.pdus.insert(number, pdu.clone());
        if self.house.ledger.rewrite_count() != rewrites {
            self.pdus.remove(&number);
        }
        Ok(pdu)
    }
}

/// The rules of a room version.
///
/// # Errors
///
/// If this server does not speak it.
pub fn rules_of(version: &RoomVersionId) -> Result<RoomVersionRules, Error> {
    version.rules().ok_or_else(|| {
        Error::new(
            appliance_model::Kind::UnsupportedRoomVersion,
            "This server does not support that room version.",
        )
    })
}
