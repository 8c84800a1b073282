//! Closing an account for good.

use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_model::{Caller, Error, UserNid};
use appliance_rules::Permit;

use super::{Accounts, OWN_PASSWORD, Proof};
use crate::media::link::avatar_changed;

impl Accounts {
    /// Closes the caller's account, "removing all ability for the user to login again" ([spec]),
    /// once they have proved who they are. `erase` is recorded: their content is to be erased as
    /// far as possible.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Uia`] until the proof is complete.
    pub async fn deactivate(
        &self,
        caller: &Caller,
        proof: Proof,
        erase: bool,
    ) -> Result<(), Error> {
        self.require(Some(caller), OWN_PASSWORD, proof).await?;
        let permit = Permit::own("account.deactivated", &caller.user_id, &caller.user_id);
        self.close(caller.user, erase, permit).await
    }

    pub(crate) async fn close(
        &self,
        user: UserNid,
        erase: bool,
        permit: Permit,
    ) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(user.0).await;
        let Some(mut account) = ledger.get(&ACCOUNTS, &user).await? else { return Ok(()) };
        account.password_hash = None;
        account.deactivated = true;
        account.deactivated_ms.get_or_insert(self.house.clock.now_ms());
        let mut commit = ledger.begin(permit);
        if erase {
            account.erased = Some(true);
            account.displayname = None;
            let avatar = account.avatar_url.take();
            avatar_changed(&self.house, user, (avatar.as_deref(), None), &mut commit).await?;
        }
        commit.put(&ACCOUNTS, &user, &account);
        for (key, device) in self.devices_of(user).await? {
            self.end_device(key, device, &mut commit).await?;
        }
        self.keys.forget_user(user, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await?;
        // Nobody gets in any more; what is left to do is done now, or later by a job.
        self.leave_rooms(user).await
    }
}
