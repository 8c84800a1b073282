//! What the administrator does with accounts: look, close, give a new password.

use appliance_ledger::keyspaces::{ACCOUNTS, DEVICES, TOKENS};
use appliance_ledger::rows::AccountRow;
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Error, UserNid};
use appliance_rules::Permit;

use super::Accounts;

/// How many rows are read at once.
const PAGE: usize = 500;
/// More devices than this no account has: sign-in limits are far below.
const DEVICES_MAX: usize = 10_000;

/// One account, as the administrator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSummary {
    /// Whose.
    pub user_id: OwnedUserId,
    /// May use the administration endpoints.
    pub administrator: bool,
    /// No longer in use.
    pub deactivated: bool,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The name others see.
    pub displayname: Option<String>,
}

impl Accounts {
    /// All accounts, oldest first.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn list_accounts(&self) -> Result<Vec<AccountSummary>, Error> {
        let ledger = &self.house.ledger;
        let mut found = Vec::new();
        let mut from = UserNid(0);
        loop {
            let range = (&from, &UserNid(u64::MAX));
            let (rows, more) =
                ledger.newest().scan_between(&ACCOUNTS, range, Direction::Forward, PAGE).await?;
            for (user, account) in rows {
                from = UserNid(user.0 + 1);
                found.push(AccountSummary {
                    user_id: ledger.user_id(user).await?,
                    administrator: account.administrator,
                    deactivated: account.deactivated,
                    created_ms: account.created_ms,
                    displayname: account.displayname,
                });
            }
            if !more {
                return Ok(found);
            }
        }
    }

    /// Gives an account a new password and ends its sessions, unless `keep_sessions`. `by` is who
    /// did it, for the audit trail.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such account, `WeakPassword` if the
    /// password is empty.
    pub async fn reset_password(
        &self,
        user_id: &UserId,
        password: String,
        keep_sessions: bool,
        by: &str,
    ) -> Result<(), Error> {
        let hash = self.hash_password(password).await?;
        let (user, _) = self.account(user_id).await?;
        let _inside = self.doors.enter(user.0).await;
        // Read again: only inside the door does it stay as read.
        let (_, mut account) = self.account(user_id).await?;
        let permit = Permit::administration("account.password_reset", by, user_id);
        let mut commit = self.house.ledger.begin(permit);
        account.password_hash = Some(hash);
        commit.put(&ACCOUNTS, &user, &account);
        let ended =
            if keep_sessions { Vec::new() } else { self.end_sessions(user, &mut commit).await? };
        self.house.ledger.commit(commit).await?;
        self.forget_callers(&ended);
        Ok(())
    }

    /// Closes an account for good: no password opens it, its sessions end. `by` is who did it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such account.
    pub async fn close_account(&self, user_id: &UserId, by: &str) -> Result<(), Error> {
        let (user, _) = self.account(user_id).await?;
        let _inside = self.doors.enter(user.0).await;
        let (_, mut account) = self.account(user_id).await?;
        let permit = Permit::administration("account.deactivated", by, user_id);
        let mut commit = self.house.ledger.begin(permit);
        account.password_hash = None;
        account.deactivated = true;
        commit.put(&ACCOUNTS, &user, &account);
        let ended = self.end_sessions(user, &mut commit).await?;
        self.house.ledger.commit(commit).await?;
        self.forget_callers(&ended);
        Ok(())
    }

    async fn account(&self, user_id: &UserId) -> Result<(UserNid, AccountRow), Error> {
        let missing = || Error::not_found("There is no account of that name on this server.");
        let ledger = &self.house.ledger;
        let user = ledger.user(user_id).await?.ok_or_else(missing)?;
        let account = ledger.get(&ACCOUNTS, &user).await?.ok_or_else(missing)?;
        Ok((user, account))
    }

    /// Removes every device and token of `user` within `commit`; returns the tokens.
    async fn end_sessions(&self, user: UserNid, commit: &mut Commit) -> Result<Vec<Digest>, Error> {
        let newest = self.house.ledger.newest();
        let (devices, _) = newest.scan(&DEVICES, &user, Direction::Forward, DEVICES_MAX).await?;
        let mut ended = Vec::new();
        for (key, device) in devices {
            commit.delete(&DEVICES, &key);
            if let Ok(token) = Digest::try_from(device.token.as_slice()) {
                commit.delete(&TOKENS, &token);
                ended.push(token);
            }
        }
        Ok(ended)
    }

    /// A token that is gone from the store must be gone from memory too.
    fn forget_callers(&self, tokens: &[Digest]) {
        for token in tokens {
            self.callers.remove(token);
        }
    }
}
