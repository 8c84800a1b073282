//! Suspending and locking accounts ([spec]): what an administrator does who must stop somebody now
//! and may want to undo it later.
//!
//! A suspended account reads and leaves but says nothing; a locked one opens nothing, but its
//! sessions and their keys stay for the day it is unlocked.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#server-administration

use appliance_ledger::Digest;
use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_ledger::rows::AccountRow;
use appliance_model::ruma::UserId;
use appliance_model::{Caller, DeviceNid, Error, UserNid};
use appliance_rules::Permit;
use appliance_rules::administration::may_judge_account;

use super::Accounts;

/// How an account stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Suspended.
    pub suspended: bool,
    /// Locked.
    pub locked: bool,
}

/// What is decided about an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Suspend it, or let it speak again.
    Suspend(bool),
    /// Lock it, or unlock it.
    Lock(bool),
}

impl Judgement {
    fn verb(self) -> &'static str {
        match self {
            Self::Suspend(true) => "account.suspended",
            Self::Suspend(false) => "account.unsuspended",
            Self::Lock(true) => "account.locked",
            Self::Lock(false) => "account.unlocked",
        }
    }

    fn apply(self, account: &mut AccountRow) {
        match self {
            Self::Suspend(suspended) => account.suspended = Some(suspended),
            Self::Lock(locked) => account.locked = Some(locked),
        }
    }
}

impl Accounts {
    /// How an account stands.
    ///
    /// # Errors
    ///
    /// As [`Accounts::judge`].
    pub async fn standing(&self, by: &Caller, user_id: &UserId) -> Result<Standing, Error> {
        let (_, account, permit) = self.judged(by, user_id, "account.standing_read").await?;
        self.house.ledger.commit(self.house.ledger.begin(permit)).await?;
        Ok(Standing {
            suspended: account.suspended == Some(true),
            locked: account.locked == Some(true),
        })
    }

    /// Suspends or locks an account, or takes that back. It holds from this moment on, for requests
    /// that wait, too.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`]: the caller is no administrator, or the account is one's.
    /// * [`appliance_model::Kind::InvalidParam`]: "the user ID does not belong to the local server".
    /// * [`appliance_model::Kind::NotFound`]: "the user ID is not found, or is deactivated".
    pub async fn judge(
        &self,
        by: &Caller,
        user_id: &UserId,
        judgement: Judgement,
    ) -> Result<(), Error> {
        let (user, _, permit) = self.judged(by, user_id, judgement.verb()).await?;
        self.change_account(user, permit, |account| judgement.apply(account)).await
    }

    async fn judged(
        &self,
        by: &Caller,
        user_id: &UserId,
        verb: &'static str,
    ) -> Result<(UserNid, AccountRow, Permit), Error> {
        let ledger = &self.house.ledger;
        let account = match self.house.is_ours(user_id) {
            true => self.account(user_id).await.ok(),
            false => None,
        };
        // "servers MUST ensure that authorisation is checked prior to trying to do account lookups".
        let is_administrator = account.as_ref().is_some_and(|(_, account)| account.administrator);
        let permit = match may_judge_account(by, verb, (user_id, is_administrator)) {
            Ok(permit) => permit,
            Err(denial) => return Err(ledger.refuse(denial).await),
        };
        if !self.house.is_ours(user_id) {
            return Err(Error::invalid_param("This user does not belong to this server."));
        }
        let account = account.filter(|(_, account)| !account.deactivated);
        let (user, account) = account.ok_or_else(|| Error::not_found("There is no such user."))?;
        Ok((user, account, permit))
    }

    /// Changes an account's row, and lets nobody go on with what it said before.
    pub(crate) async fn change_account(
        &self,
        user: UserNid,
        permit: Permit,
        change: impl FnOnce(&mut AccountRow),
    ) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(user.0).await;
        let Some(mut account) = ledger.get(&ACCOUNTS, &user).await? else { return Ok(()) };
        change(&mut account);
        let mut commit = ledger.begin(permit);
        commit.put(&ACCOUNTS, &user, &account);
        for (_, device) in self.devices_of(user).await? {
            for token in [Some(device.token), device.token_before].into_iter().flatten() {
                if let Ok(digest) = Digest::try_from(token.as_slice()) {
                    self.callers.forget_with(&mut commit, digest);
                }
            }
            // Who waits asks again who they are.
            commit.touched().ended_devices.push((user, DeviceNid(device.device)));
        }
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::{Kind, Role};

    use super::*;
    use crate::accounts::{NewAccount, NewSession};
    use crate::scenario::Ward;

    #[tokio::test]
    async fn it_holds_at_once_and_can_be_taken_back() {
        let ward = Ward::new().await;
        let accounts = &ward.services.accounts;
        let new = |name: &str, administrator| NewAccount {
            localpart: Some(name.to_owned()),
            administrator,
            ..NewAccount::default()
        };
        let session = || Some(NewSession::default());
        let (_, nurse) = accounts.create_account(new("nurse", false), session()).await.unwrap();
        let (_, chief) = accounts.create_account(new("chief", true), session()).await.unwrap();
        let (nurse, chief) = (nurse.unwrap(), chief.unwrap());
        let token = &nurse.access_token;
        let chief = accounts.authenticate(&chief.access_token).await.unwrap();
        assert_eq!(accounts.authenticate(token).await.unwrap().role, Role::User);

        accounts.judge(&chief, &nurse.user_id, Judgement::Suspend(true)).await.unwrap();
        assert_eq!(accounts.authenticate(token).await.unwrap().role, Role::Suspended);
        accounts.judge(&chief, &nurse.user_id, Judgement::Lock(true)).await.unwrap();
        assert_eq!(accounts.authenticate(token).await.unwrap_err().kind, Kind::UserLocked);
        let leaving = accounts.authenticate_to_sign_out(token).await.unwrap();
        assert_eq!(leaving.user_id, nurse.user_id);
        assert_eq!(accounts.authenticate(token).await.unwrap_err().kind, Kind::UserLocked);
        let both = Standing { suspended: true, locked: true };
        assert_eq!(accounts.standing(&chief, &nurse.user_id).await.unwrap(), both);

        let ward = ward.power_cut_and_restart().await;
        let accounts = &ward.services.accounts;
        assert_eq!(accounts.authenticate(token).await.unwrap_err().kind, Kind::UserLocked);
        accounts.judge(&chief, &nurse.user_id, Judgement::Lock(false)).await.unwrap();
        accounts.judge(&chief, &nurse.user_id, Judgement::Suspend(false)).await.unwrap();
        let back = accounts.authenticate(token).await.unwrap();
        assert_eq!(back.role, Role::User, "the session is still there");
        let refused = accounts.judge(&back, &chief.user_id, Judgement::Lock(true)).await;
        assert_eq!(refused.unwrap_err().kind, Kind::Forbidden);
        let entries = ward.audit().await;
        assert!(entries.contains(&"account.locked @chief:hospital.example".to_owned()));
        let last = entries.last().unwrap();
        assert_eq!(last, "administration.refused @nurse:hospital.example");
    }
}
