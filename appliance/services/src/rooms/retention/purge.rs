//! What an administrator takes out of a room's past.

use appliance_ledger::keyspaces::RETENTION;
use appliance_model::Error;
use appliance_model::ruma::{EventId, RoomId};
use appliance_rules::Permit;

use super::Rooms;

impl Rooms {
    /// Shows nobody any more what was said in a room up to a time (milliseconds since the Unix epoch,
    /// inclusive), and takes it out of the store. State events stay: the room stands on them. From the
    /// first commit on it is over for every reader; what a power cut leaves in the store, the job of
    /// this module takes out, and so does whoever calls again.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server does not know the room; or if the store fails.
    pub(crate) async fn purge_history(
        &self,
        by: &str,
        room_id: &RoomId,
        upto_ms: u64,
    ) -> Result<usize, Error> {
        let (room, _) = self.known(room_id).await?;
        let mut open = self.enter(room_id).await?;
        let known_ms = self.house.ledger.get(&RETENTION, &room).await?.unwrap_or_default();
        let mut commit = open.begin(Permit::administration("history.purged", by, room_id));
        commit.put(&RETENTION, &room, &known_ms.max(upto_ms));
        open.resume(commit);
        open.leave().await?;
        self.retention.lifetimes.remove(&room);
        self.done_to().insert(room, i64::MIN);
        let mut erased = 0;
        self.erase_in(room, &mut erased, usize::MAX).await?;
        // What is said from now on lives as long as the room: the job need not look again.
        if self.lifetime(room).await?.ms.is_none() {
            self.done_to().remove(&room);
        }
        Ok(erased)
    }

    /// When an event of a room was sent, as its sender's server says: milliseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server does not have it.
    pub(crate) async fn sent_ms(&self, room_id: &RoomId, event_id: &EventId) -> Result<u64, Error> {
        let unknown = || Error::not_found("This room has no such event.");
        let (room, _) = self.known(room_id).await?;
        let event = self.house.ledger.event_by_id(event_id).await?.ok_or_else(unknown)?;
        if event.room != room {
            return Err(unknown());
        }
        Ok(super::sent_ms(&event))
    }
}
