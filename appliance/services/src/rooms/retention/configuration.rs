//! `GET /retention/configuration` ([MSC1763]): what this server holds rooms to, so that clients forget
//! by themselves.
//!
//! [MSC1763]: https://github.com/matrix-org/matrix-spec-proposals/pull/1763

use std::collections::BTreeMap;

use appliance_model::ruma::OwnedRoomId;
use appliance_model::{Caller, Error};
use appliance_rules::policy::{Field, LIFETIME_MS_MIN};

use super::Rooms;

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionConfiguration {
    /// How long events live in rooms that say nothing, in milliseconds; none: as long as the room.
    pub everywhere_ms: Option<u64>,
    /// How long they live in those of the caller's rooms where something holds, in milliseconds.
    pub rooms_ms: BTreeMap<OwnedRoomId, u64>,
    /// What a room may say at least, in milliseconds.
    pub least_ms: u64,
    /// What a room may say at most, in milliseconds.
    pub most_ms: Option<u64>,
}

impl Rooms {
    /// How long events live in the caller's rooms.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn retention_configuration(
        &self,
        caller: &Caller,
    ) -> Result<RetentionConfiguration, Error> {
        let mut rooms_ms = BTreeMap::new();
        for room_id in self.joined_rooms(caller).await? {
            let (room, _) = self.known(&room_id).await?;
            if let Some(ms) = self.lifetime(room).await?.ms {
                rooms_ms.insert(room_id, ms);
            }
        }
        Ok(RetentionConfiguration {
            everywhere_ms: self.house.policy_in(None, None).get(Field::TimelineTtlMs),
            rooms_ms,
            least_ms: LIFETIME_MS_MIN,
            most_ms: self.house.policy_for(caller.role).get(Field::TimelineTtlMs),
        })
    }
}
