//! What others of the house need to act for the owner of an account: an administrator's session, a
//! caller without a device.

use appliance_ledger::keyspaces::{DEVICES, TOKENS};
use appliance_ledger::rows::TokenRow;
use appliance_model::ruma::{OwnedDeviceId, OwnedUserId};
use appliance_model::{Caller, DeviceNid, Error, Role, SessionClass, UserNid};
use appliance_rules::Permit;

use super::{Accounts, NewSession, Session};

impl Accounts {
    /// The owner of an account as a caller without a device.
    pub(crate) fn stand_in(&self, user: UserNid, user_id: OwnedUserId) -> Caller {
        let (device_id, device) = (String::new().into(), DeviceNid(0));
        let (role, class) = (Role::User, SessionClass::default());
        Caller { user_id, user, device_id, device, role, appservice: None, class }
    }

    /// Ends devices of a user; those that are not there are no matter.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn end_devices(
        &self,
        user: UserNid,
        device_ids: Vec<OwnedDeviceId>,
        permit: Permit,
    ) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(user.0).await;
        let mut commit = ledger.begin(permit);
        let mut keys: Vec<_> = device_ids.iter().map(|id| (user, id.to_string())).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            if let Some(device) = ledger.get(&DEVICES, &key).await? {
                self.end_device(key, device, &mut commit).await?;
            }
        }
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    /// Opens a session that ends at `until_ms`, whatever its client does.
    ///
    /// # Errors
    ///
    /// As [`Accounts::login`].
    pub(crate) async fn enter(
        &self,
        owner: (UserNid, OwnedUserId),
        session: NewSession,
        (until_ms, permit): (u64, Permit),
    ) -> Result<Session, Error> {
        let session = self.sign_in(owner, session, permit).await?;
        // Nobody knows the token before this is written.
        let ledger = &self.house.ledger;
        let digest = self.token_digest(&session.access_token);
        if let Some(row) = ledger.get(&TOKENS, &digest).await? {
            let mut commit = ledger.begin(Permit::housekeeping());
            commit.put(&TOKENS, &digest, &TokenRow { expires_ms: Some(until_ms), ..row });
            ledger.commit(commit).await?;
        }
        Ok(session)
    }
}
