//! What the administrators' desk does in rooms.

use appliance_ledger::keyspaces::{ALIASES, BLOCKED_ROOMS, PUBLISHED, ROOM_ALIASES, USER_ROOMS};
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::events::room::power_levels::RoomPowerLevels;
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedUserId, RoomId, ServerName, UserId,
};
use appliance_model::{Caller, Error, RoomNid};
use appliance_rules::Permit;
use serde_json::Value;

use super::{Draft, Redaction, Rooms};
use crate::administration::RoomView;

const PAGE: usize = 1_000;
/// Aliases of one room.
const ALIASES_MAX: usize = 1_000;
/// What a mightier one gives who stands above all levels.
const FULL_POWER: i64 = 100;

impl Rooms {
    /// A room as administrators see it.
    pub(crate) async fn steward_view(&self, room_id: &RoomId) -> Result<RoomView, Error> {
        let unknown = || Error::not_found("Room not found");
        let ledger = &self.house.ledger;
        let room = ledger.room(room_id).await?.ok_or_else(unknown)?;
        let face = self.face(room).await?.ok_or_else(unknown)?;
        let create = self.current(room, &StateEventType::RoomCreate, "").await?;
        let creator = create
            .as_ref()
            .and_then(|event| serde_json::from_str(event.part(event.spans.sender)).ok());
        let create: Value =
            create.and_then(|event| serde_json::from_str(event.content()).ok()).unwrap_or_default();
        let visibility = self.current(room, &StateEventType::RoomHistoryVisibility, "").await?;
        let visibility: Value = visibility
            .and_then(|event| serde_json::from_str(event.content()).ok())
            .unwrap_or_default();
        let members = self.house.members_of(room, membership::JOIN).await?;
        let root = self.current_root(room).await?;
        Ok(RoomView {
            face,
            creator,
            local_members: members.iter().filter(|member| self.house.is_ours(member)).count(),
            members,
            federatable: create["m.federate"].as_bool().unwrap_or(true),
            published: ledger.get(&PUBLISHED, &room).await?.is_some(),
            history_visibility: visibility["history_visibility"]
                .as_str()
                .unwrap_or("shared")
                .to_owned(),
            state_events: ledger.states(room).all(root).await?.len(),
        })
    }

    /// All state of a room, as a JSON array.
    pub(crate) async fn steward_state(&self, room_id: &RoomId) -> Result<String, Error> {
        let (room, _) = self.known(room_id).await?;
        let ledger = &self.house.ledger;
        let entries = ledger.states(room).all(self.current_root(room).await?).await?;
        let numbers: Vec<_> = entries.into_iter().map(|(_, number)| number).collect();
        let events = ledger.events(&numbers).await?;
        Ok(self.plain_list(events.iter().map(|event| &**event), room_id))
    }

    /// The people of a server who are in a room or invited to it.
    pub(crate) async fn people_of(
        &self,
        server: &ServerName,
        room_id: &RoomId,
    ) -> Result<Vec<OwnedUserId>, Error> {
        let (room, _) = self.known(room_id).await?;
        let mut people = self.house.members_of(room, membership::JOIN).await?;
        people.extend(self.house.members_of(room, membership::INVITE).await?);
        people.retain(|user_id| user_id.server_name() == server);
        Ok(people)
    }

    /// Whether an administrator lets nobody join a room.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if so.
    pub(super) async fn check_not_blocked(&self, room_id: &RoomId) -> Result<(), Error> {
        let key = self.house.ledger.room_digest(room_id);
        match self.house.ledger.get(&BLOCKED_ROOMS, &key).await? {
            None => Ok(()),
            Some(_) => {
                Err(Error::forbidden("An administrator of this server has closed this room."))
            }
        }
    }

    /// The joined user of this server who may change the powers of others; of several, the mightiest.
    pub(crate) async fn who_may_share_power(
        &self,
        room_id: &RoomId,
    ) -> Result<Option<OwnedUserId>, Error> {
        let may = |levels: &RoomPowerLevels, user_id: &UserId| {
            levels.user_can_send_state(user_id, StateEventType::RoomPowerLevels)
        };
        self.mightiest_of_ours(room_id, may).await
    }

    /// The joined user of this server who may take somebody out of a room; of several, the mightiest.
    pub(crate) async fn who_may_take_out(
        &self,
        room_id: &RoomId,
        target: &UserId,
    ) -> Result<Option<OwnedUserId>, Error> {
        let may =
            |levels: &RoomPowerLevels, user_id: &UserId| levels.user_can_kick_user(user_id, target);
        self.mightiest_of_ours(room_id, may).await
    }

    /// Of the joined users of this server who may do something in a room, the mightiest.
    async fn mightiest_of_ours(
        &self,
        room_id: &RoomId,
        may: impl Fn(&RoomPowerLevels, &UserId) -> bool + Send,
    ) -> Result<Option<OwnedUserId>, Error> {
        let (room, _) = self.known(room_id).await?;
        let levels = self.power_levels(room).await?;
        let ours = self.house.members_of(room, membership::JOIN).await?;
        let ours = ours.into_iter().filter(|user_id| self.house.is_ours(user_id));
        let able = ours.filter(|user_id| may(&levels, user_id));
        Ok(able.max_by_key(|user_id| levels.for_user(user_id)))
    }

    /// Gives `target` the power that `owner` has.
    pub(crate) async fn share_power(
        &self,
        owner: &Caller,
        room_id: &RoomId,
        target: &UserId,
    ) -> Result<(), Error> {
        let mut room = self.enter(room_id).await?;
        let kind = StateEventType::RoomPowerLevels;
        let now = room.state(&kind, "").await?;
        let mut content: CanonicalJsonObject = now
            .and_then(|event| serde_json::from_str(event.content.get()).ok())
            .unwrap_or_default();
        let users = content
            .entry("users".to_owned())
            .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
        let CanonicalJsonValue::Object(users) = users else {
            return Err(Error::forbidden("The room's power levels are not as they should be."));
        };
        let level = match users.get(owner.user_id.as_str()) {
            Some(CanonicalJsonValue::Integer(level)) => i64::from(*level),
            // The creators of version 12 stand above all levels and are not listed.
            _ => FULL_POWER,
        };
        let level = appliance_model::ruma::Int::new_saturating(level);
        users.insert(target.to_string(), CanonicalJsonValue::Integer(level));
        let kind = TimelineEventType::RoomPowerLevels;
        room.add(Draft::state(owner.user_id.clone(), kind, "", content), None).await?;
        room.leave().await?;
        Ok(())
    }

    /// Takes the aliases of a room away and takes it out of the directory; returns the aliases.
    pub(crate) async fn hide_room(&self, by: &str, room_id: &RoomId) -> Result<Vec<String>, Error> {
        let (room, _) = self.known(room_id).await?;
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(0).await;
        type Named = ((RoomNid, String), u64);
        let (aliases, _): (Vec<Named>, _) =
            ledger.newest().scan(&ROOM_ALIASES, &room, Direction::Forward, ALIASES_MAX).await?;
        let mut commit = ledger.begin(Permit::administration("room.hidden", by, room_id));
        commit.delete(&PUBLISHED, &room);
        for ((_, alias), _) in &aliases {
            commit.delete(&ALIASES, &ledger.digest(&[b"alias", alias.as_bytes()]));
            commit.delete(&ROOM_ALIASES, &(room, alias.clone()));
        }
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok(aliases.into_iter().map(|((_, alias), _)| alias).collect())
    }

    /// Those of this server who are joined to a room, invited to it, or knock at it.
    pub(crate) async fn ours_in(&self, room_id: &RoomId) -> Result<Vec<OwnedUserId>, Error> {
        let (room, _) = self.known(room_id).await?;
        let mut found = Vec::new();
        for code in [membership::JOIN, membership::INVITE, membership::KNOCK] {
            found.extend(self.house.members_of(room, code).await?);
        }
        found.retain(|user_id| self.house.is_ours(user_id));
        Ok(found)
    }

    /// Takes back what a user has said in a room, the newest first, at most `limit`, as the user
    /// themselves. Returns the events that could not be taken back.
    pub(crate) async fn redact_all_of(
        &self,
        author: &Caller,
        room_id: &RoomId,
        (reason, limit): (Option<&str>, usize),
    ) -> Result<Vec<(String, String)>, Error> {
        let (room, _) = self.known(room_id).await?;
        let ledger = &self.house.ledger;
        let sender = format!("\"{}\"", author.user_id);
        let (mut upto, mut left, mut failed) = (i64::MAX, limit, Vec::new());
        while left > 0 {
            let stretch = ledger.recent(room, (i64::MIN, upto), PAGE).await?;
            let Some(oldest) = stretch.events.iter().filter_map(|(event, _)| event.position).min()
            else {
                break;
            };
            for (event, _) in stretch.events {
                let is_theirs = event.part(event.spans.sender) == sender
                    && event.redacted_by.is_none()
                    && !event.is_state()
                    && event.kind() != "m.room.redaction";
                if !is_theirs || left == 0 {
                    continue;
                }
                left -= 1;
                let event_id: &EventId = &event.event_id;
                let redaction = Redaction {
                    event_id,
                    txn_id: event_id.as_str().into(),
                    reason: reason.map(str::to_owned),
                };
                if let Err(error) = self.redact(author, room_id, redaction).await {
                    failed.push((event_id.to_string(), error.message.into_owned()));
                }
            }
            upto = oldest;
        }
        Ok(failed)
    }

    /// Lets nobody of this server see a room any more who has left it.
    pub(crate) async fn forget_for_all(&self, by: &str, room_id: &RoomId) -> Result<(), Error> {
        let (room, _) = self.known(room_id).await?;
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(room.0).await;
        let mut commit = ledger.begin(Permit::administration("room.forgotten", by, room_id));
        for code in [membership::LEAVE, membership::BAN] {
            for user_id in self.house.members_of(room, code).await? {
                let Some(user) = ledger.user(&user_id).await? else { continue };
                let Some(mut row) = ledger.get(&USER_ROOMS, &(user, room)).await? else { continue };
                row.forgotten = true;
                row.joined_until = None;
                commit.put(&USER_ROOMS, &(user, room), &row);
                commit.touched().memberships.push((user, room, false));
            }
        }
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }
}
