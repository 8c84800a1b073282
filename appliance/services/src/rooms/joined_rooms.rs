//! `GET /joined_rooms` ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3joined_rooms

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::OwnedRoomId;
use appliance_model::{Caller, Error};

use super::Rooms;

/// More rooms than anyone reads; one answer is then about 1 MB.
const ROOMS_MAX: usize = 20_000;

impl Rooms {
    /// The rooms the caller is joined to.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn joined_rooms(&self, caller: &Caller) -> Result<Vec<OwnedRoomId>, Error> {
        let ledger = &self.house.ledger;
        let (rows, _) =
            ledger.newest().scan(&USER_ROOMS, &caller.user, Direction::Forward, ROOMS_MAX).await?;
        let mut joined = Vec::new();
        for ((_, room), row) in rows {
            if row.membership == membership::JOIN {
                joined.push(ledger.room_id(room).await?);
            }
        }
        Ok(joined)
    }
}
