//! What the administrator does with accounts: look, close, give a new password.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_ledger::rows::AccountRow;
use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Error, UserNid};
use appliance_rules::Permit;

use super::change_password::Keep;
use super::{Accounts, NewAccount};

/// How many rows are read at once.
const PAGE: usize = 500;

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

    /// Makes an account. `by` is who did it, for the audit trail.
    ///
    /// # Errors
    ///
    /// As [`Accounts::create_account`].
    pub async fn open_account(&self, new: NewAccount, by: &str) -> Result<OwnedUserId, Error> {
        let user_id = self.new_user_id(new.localpart.as_deref())?;
        let permit = Permit::administration("account.created", by, &user_id);
        Ok(self.make_account(user_id, new, None, permit).await?.0)
    }

    /// Gives an account a new password and ends its sessions, unless `keep_sessions`. `by` is who
    /// did it, for the audit trail.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such account,
    /// [`appliance_model::Kind::UserDeactivated`] if it is closed for good, `WeakPassword` if the
    /// password is empty.
    pub async fn reset_password(
        &self,
        user_id: &UserId,
        password: String,
        keep_sessions: bool,
        by: &str,
    ) -> Result<(), Error> {
        let user = self.account(user_id).await?.0;
        let hash = self.hash_password(password).await?;
        let keep = if keep_sessions { Keep::All } else { Keep::None };
        let permit = Permit::administration("account.password_reset", by, user_id);
        self.set_password(user, hash, keep, permit).await
    }

    /// Closes an account for good: no password opens it, its sessions end. `by` is who did it.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such account.
    pub async fn close_account(&self, user_id: &UserId, by: &str) -> Result<(), Error> {
        let user = self.account(user_id).await?.0;
        let permit = Permit::administration("account.deactivated", by, user_id);
        self.close(user, false, permit).await
    }

    /// An account by its user ID.
    pub(super) async fn account(&self, user_id: &UserId) -> Result<(UserNid, AccountRow), Error> {
        let missing = || Error::not_found("There is no account of that name on this server.");
        let ledger = &self.house.ledger;
        let user = ledger.user(user_id).await?.ok_or_else(missing)?;
        let account = ledger.get(&ACCOUNTS, &user).await?.ok_or_else(missing)?;
        Ok((user, account))
    }
}
