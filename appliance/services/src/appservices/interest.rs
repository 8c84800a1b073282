//! What concerns an application service ([spec]): "Events will be sent to the AS if a local user
//! matching one of the namespaces is the target of the event, or is a joined member of the room where
//! the event occurred", and everything in its rooms.
//!
//! [spec]: https://spec.matrix.org/v1.19/application-service-api/#registration

use appliance_ledger::keyspaces::{MEMBERS, ROOM_ALIASES};
use appliance_ledger::{Direction, Event, membership};
use appliance_model::ruma::UserId;
use appliance_model::{Error, RoomNid, UserNid};

use super::{Appservices, Registration};

/// Members of a room that are held against the namespaces at once.
const MEMBERS_PAGE: usize = 1_000;
/// Aliases of a room that are held against the namespaces.
const ALIASES_MAX: usize = 1_000;

impl Appservices {
    /// Whether an event concerns a service. To be asked in the order of the log: what is known of a
    /// room is forgotten when one of the service's users comes or goes.
    pub(super) async fn concerns(
        &self,
        service: &Registration,
        room: RoomNid,
        event: &Event,
    ) -> Result<bool, Error> {
        if event.is_state() {
            let key = event.part(event.spans.state_key).trim_matches('"');
            let is_target = event.kind() == "m.room.member"
                && <&UserId>::try_from(key).is_ok_and(|target| service.speaks_as(target));
            if is_target {
                self.interests.remove(&(service.id.clone(), room));
                return Ok(true);
            }
        }
        self.concerns_room(service, room).await
    }

    /// Whether what happens in a room concerns a service.
    pub(super) async fn concerns_room(
        &self,
        service: &Registration,
        room: RoomNid,
    ) -> Result<bool, Error> {
        let key = (service.id.clone(), room);
        if let Some(known) = self.interests.get(&key) {
            return Ok(known || self.has_alias_of(service, room).await?);
        }
        let room_id = self.house.ledger.room_id(room).await?;
        let concerns =
            service.rooms.holds(room_id.as_str()) || self.has_member_of(service, room).await?;
        self.interests.insert(key, concerns);
        Ok(concerns || self.has_alias_of(service, room).await?)
    }

    async fn has_member_of(&self, service: &Registration, room: RoomNid) -> Result<bool, Error> {
        let ledger = &self.house.ledger;
        let mut from = UserNid(0);
        loop {
            let range =
                ((room, membership::JOIN, from), (room, membership::JOIN, UserNid(u64::MAX)));
            let (rows, more) = ledger
                .newest()
                .scan_between(&MEMBERS, (&range.0, &range.1), Direction::Forward, MEMBERS_PAGE)
                .await?;
            for ((_, _, user), _) in rows {
                from = UserNid(user.0 + 1);
                if service.speaks_as(&ledger.user_id(user).await?) {
                    return Ok(true);
                }
            }
            if !more {
                return Ok(false);
            }
        }
    }

    /// Aliases come and go without an event: they are looked at each time, where anybody cares.
    async fn has_alias_of(&self, service: &Registration, room: RoomNid) -> Result<bool, Error> {
        if service.aliases.is_empty() {
            return Ok(false);
        }
        let newest = self.house.ledger.newest();
        let (rows, _) = newest.scan(&ROOM_ALIASES, &room, Direction::Forward, ALIASES_MAX).await?;
        Ok(rows.iter().any(|((_, alias), _)| service.aliases.holds(alias)))
    }
}
