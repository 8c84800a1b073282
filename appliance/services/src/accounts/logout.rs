//! Signing out.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::DEVICES;
use appliance_ledger::rows::DeviceRow;
use appliance_model::{Caller, Error, UserNid};
use appliance_rules::Permit;

use super::Accounts;
use super::session::DEVICES_MAX;

impl Accounts {
    /// Ends the caller's session and device.
    ///
    /// # Errors
    ///
    /// If the store fails; the session lives on then.
    pub async fn logout(&self, caller: &Caller) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(caller.user.0).await;
        let key = (caller.user, caller.device_id.to_string());
        let Some(device) = ledger.get(&DEVICES, &key).await? else { return Ok(()) };
        let permit = Permit::own("session.ended", &caller.user_id, &caller.device_id);
        let mut commit = ledger.begin(permit);
        self.end_device(key, device, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    /// Ends all sessions and devices of the caller.
    ///
    /// # Errors
    ///
    /// If the store fails; all sessions live on then.
    pub async fn logout_all(&self, caller: &Caller) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(caller.user.0).await;
        let permit = Permit::own("sessions.ended", &caller.user_id, &caller.user_id);
        let mut commit = ledger.begin(permit);
        for (key, device) in self.devices_of(caller.user).await? {
            self.end_device(key, device, &mut commit).await?;
        }
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    /// All devices of a user.
    pub(super) async fn devices_of(
        &self,
        user: UserNid,
    ) -> Result<Vec<((UserNid, String), DeviceRow)>, Error> {
        let newest = self.house.ledger.newest();
        let (devices, _) = newest.scan(&DEVICES, &user, Direction::Forward, DEVICES_MAX).await?;
        Ok(devices)
    }
}
