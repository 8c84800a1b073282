//! Who is in a room with whom.

use std::collections::BTreeSet;

use appliance_ledger::keyspaces::{MEMBERS, USER_ROOMS};
use appliance_ledger::{Direction, membership};
use appliance_model::{Error, RoomNid, UserNid};

use super::Rooms;

/// Rooms of one user, and members of one room, that are looked at.
const LOOKED_AT_MAX: usize = 20_000;

impl Rooms {
    /// The rooms a local user is in.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn joined(&self, user: UserNid) -> Result<Vec<RoomNid>, Error> {
        let ledger = self.house.ledger.newest();
        let (rows, _) = ledger.scan(&USER_ROOMS, &user, Direction::Forward, LOOKED_AT_MAX).await?;
        let joined = rows.into_iter().filter(|(_, row)| row.membership == membership::JOIN);
        Ok(joined.map(|((_, room), _)| room).collect())
    }

    /// Those who are in a room now.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn members_now(&self, room: RoomNid) -> Result<BTreeSet<UserNid>, Error> {
        let prefix = (room, membership::JOIN);
        let ledger = self.house.ledger.newest();
        let (rows, _) = ledger.scan(&MEMBERS, &prefix, Direction::Forward, LOOKED_AT_MAX).await?;
        Ok(rows.into_iter().map(|((_, _, user), _)| user).collect())
    }

    /// Those of `users` who are in one of `rooms`.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn found_in(
        &self,
        rooms: &[RoomNid],
        users: Vec<UserNid>,
    ) -> Result<BTreeSet<UserNid>, Error> {
        let ledger = self.house.ledger.newest();
        let mut found = BTreeSet::new();
        for user in users {
            let keys: Vec<_> = rooms.iter().map(|room| (*room, membership::JOIN, user)).collect();
            if ledger.get_many(&MEMBERS, &keys).await?.iter().any(Option::is_some) {
                found.insert(user);
            }
        }
        Ok(found)
    }

    /// Whether two users, the first a local one, are in a room together.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn share_a_room(&self, one: UserNid, other: UserNid) -> Result<bool, Error> {
        let rooms = self.joined(one).await?;
        Ok(!self.found_in(&rooms, vec![other]).await?.is_empty())
    }
}
