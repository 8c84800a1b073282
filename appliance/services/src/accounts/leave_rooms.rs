//! Whoever closes their account leaves their rooms: colleagues must not go on writing to, and
//! encrypting for, somebody who is not there.

use appliance_ledger::keyspaces::{ACCOUNTS, USER_ROOMS};
use appliance_ledger::{Direction, membership};
use appliance_model::{Caller, DeviceNid, Error, Role, RoomNid, SessionClass, UserNid};
use appliance_rules::Permit;

use super::Accounts;

/// Accounts looked at in one trip.
const ACCOUNTS_PAGE: usize = 500;
/// Rooms of one user that are left in one go; the next round goes on.
const ROOMS_MAX: usize = 20_000;

impl Accounts {
    /// Takes closed accounts out of the rooms they are still in: after a crash, or when a room could
    /// not be left at once. A job calls this now and then. Returns how many accounts were done.
    ///
    /// # Errors
    ///
    /// If the store fails. A room that cannot be left is written to the journal and tried again.
    pub async fn leave_rooms_of_closed(&self) -> Result<usize, Error> {
        let newest = self.house.ledger.newest();
        let (mut from, mut done) = (UserNid(0), 0);
        loop {
            let range = (&from, &UserNid(u64::MAX));
            let (rows, more) =
                newest.scan_between(&ACCOUNTS, range, Direction::Forward, ACCOUNTS_PAGE).await?;
            for (user, account) in rows {
                from = UserNid(user.0 + 1);
                if account.deactivated && account.left_rooms != Some(true) {
                    self.leave_rooms(user).await?;
                    done += 1;
                }
            }
            if !more {
                return Ok(done);
            }
        }
    }

    /// Takes a closed account out of its rooms.
    pub(super) async fn leave_rooms(&self, user: UserNid) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let user_id = ledger.user_id(user).await?;
        let (device_id, device) = (String::new().into(), DeviceNid(0));
        let class = SessionClass::default();
        let role = Role::User;
        let gone = Caller { user_id, user, device_id, device, role, appservice: None, class };
        let (rooms, _) =
            ledger.newest().scan(&USER_ROOMS, &user, Direction::Forward, ROOMS_MAX).await?;
        let mut all_left = rooms.len() < ROOMS_MAX;
        for ((_, room), row) in rooms {
            let is_in =
                matches!(row.membership, membership::JOIN | membership::INVITE | membership::KNOCK);
            if is_in && let Err(error) = self.leave_room(&gone, room).await {
                all_left = false;
                let room_id = ledger.room_id(room).await?;
                tracing::warn!(kind = "account.stays", room.id = %room_id, user.id = %gone.user_id,
                    %error, "a closed account could not leave a room; it will be tried again");
            }
        }
        if all_left {
            let inside = self.doors.enter(user.0).await;
            let Some(mut account) = ledger.get(&ACCOUNTS, &user).await? else { return Ok(()) };
            account.left_rooms = Some(true);
            let mut commit = ledger.begin(Permit::housekeeping());
            commit.put(&ACCOUNTS, &user, &account);
            commit.hold(inside);
            ledger.commit(commit).await?;
        }
        Ok(())
    }

    async fn leave_room(&self, gone: &Caller, room: RoomNid) -> Result<(), Error> {
        let room_id = self.house.ledger.room_id(room).await?;
        self.rooms.leave(gone, &room_id, None).await
    }
}
