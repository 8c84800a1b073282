//! Closing a room for everybody of this server.

use appliance_model::ruma::{EventId, OwnedUserId, RoomId};
use appliance_model::{Caller, Error};
use serde::{Deserialize, Serialize};

use super::Administration;

/// How a room is closed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Closing {
    /// Nobody may join again.
    pub block: bool,
    /// Nobody who was in it sees it any more, and what was said in it is taken out of the store.
    pub purge: bool,
}

/// What closing a room did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Closed {
    /// Who was taken out.
    pub kicked_users: Vec<OwnedUserId>,
    /// Who could not be.
    pub failed_to_kick_users: Vec<OwnedUserId>,
    /// The aliases it had.
    pub local_aliases: Vec<String>,
    /// Always none: nobody is moved to another room.
    pub new_room_id: Option<String>,
}

impl Administration {
    /// Takes everybody of this server out of a room, takes its aliases away and hides it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server does not know the room.
    pub async fn close_room(
        &self,
        by: &Caller,
        room_id: &RoomId,
        how: &Closing,
    ) -> Result<Closed, Error> {
        self.rooms.known(room_id).await?;
        if how.block {
            self.block(by, room_id, true).await?;
        }
        let mut closed = Closed {
            local_aliases: self.rooms.hide_room(by.user_id.as_str(), room_id).await?,
            ..Closed::default()
        };
        for user_id in self.rooms.ours_in(room_id).await? {
            let member = self.stand_in(&user_id).await?;
            match self.rooms.leave(&member, room_id, None).await {
                Ok(()) => closed.kicked_users.push(user_id),
                Err(error) => {
                    tracing::warn!(kind = "room.stays", room.id = %room_id, user.id = %user_id, %error,
                        "somebody could not be taken out of a room that is being closed");
                    closed.failed_to_kick_users.push(user_id);
                }
            }
        }
        if how.purge {
            let by = by.user_id.as_str();
            self.rooms.forget_for_all(by, room_id).await?;
            self.purge_history(by, room_id, self.house.clock.now_ms()).await?;
        }
        Ok(closed)
    }

    /// Takes what was said in a room up to a time (milliseconds since the Unix epoch) out of the store,
    /// with the backed-up keys that opened nothing else. Returns how many events that were.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server does not know the room.
    pub(super) async fn purge_history(
        &self,
        by: &str,
        room_id: &RoomId,
        upto_ms: u64,
    ) -> Result<usize, Error> {
        let erased = self.rooms.purge_history(by, room_id, upto_ms).await?;
        self.rooms.forget_unneeded_sessions(&self.keys).await?;
        Ok(erased)
    }

    /// Up to when a room's history goes that ends before an event: milliseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if the room has no such event.
    pub async fn before(&self, room_id: &RoomId, event_id: &EventId) -> Result<u64, Error> {
        Ok(self.rooms.sent_ms(room_id, event_id).await?.saturating_sub(1))
    }
}
