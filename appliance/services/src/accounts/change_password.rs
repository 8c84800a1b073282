//! Changing one's password.

use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_model::{Caller, DeviceNid, Error, Kind, UserNid};
use appliance_rules::Permit;

use super::{Accounts, OWN_PASSWORD, Proof};

/// Which sessions survive a new password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    Only(DeviceNid),
    None,
}

impl Accounts {
    /// Gives the caller's account a new password, once they have proved who they are.
    ///
    /// "The homeserver SHOULD NOT revoke the access token provided in the request. Whether other
    /// access tokens for the user are revoked depends on the request parameters" ([spec]).
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword
    ///
    /// # Errors
    ///
    /// [`Kind::Uia`] until the proof is complete, [`Kind::WeakPassword`], [`Kind::TooLarge`].
    pub async fn change_password(
        &self,
        caller: &Caller,
        proof: Proof,
        new_password: String,
        logout_devices: bool,
    ) -> Result<(), Error> {
        self.require(Some(caller), OWN_PASSWORD, proof).await?;
        let hash = self.hash_password(new_password).await?;
        let keep = if logout_devices { Keep::Only(caller.device) } else { Keep::All };
        let permit = Permit::own("password.changed", &caller.user_id, &caller.user_id);
        self.set_password(caller.user, hash, keep, permit).await
    }

    pub(super) async fn set_password(
        &self,
        user: UserNid,
        hash: String,
        keep: Keep,
        permit: Permit,
    ) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(user.0).await;
        let account = ledger.get(&ACCOUNTS, &user).await?;
        let closed = || Error::new(Kind::UserDeactivated, "This account is closed for good.");
        let mut account = account.filter(|account| !account.deactivated).ok_or_else(closed)?;
        account.password_hash = Some(hash);
        let mut commit = ledger.begin(permit);
        commit.put(&ACCOUNTS, &user, &account);
        if keep != Keep::All {
            for (key, device) in self.devices_of(user).await? {
                if keep != Keep::Only(DeviceNid(device.device)) {
                    self.end_device(key, device, &mut commit).await?;
                }
            }
        }
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }
}
