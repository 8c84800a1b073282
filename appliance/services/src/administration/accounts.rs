//! Accounts, as administrators see and change them.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_ledger::rows::AccountRow;
use appliance_model::ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, UserId};
use appliance_model::{Caller, Error, Kind, UserNid};
use appliance_rules::Permit;

use super::Administration;
use crate::accounts::{NewAccount, NewSession, Session};
use crate::personal::ProfileChange;

/// How many rows are read at once.
const PAGE: usize = 500;
/// Nobody keeps a session in another's name for longer than a day.
const SESSION_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
const USER_TYPE_CHARS_MAX: usize = 64;

/// An account.
#[derive(Clone, Debug)]
pub struct AccountView {
    /// By number.
    pub user: UserNid,
    /// Whose.
    pub user_id: OwnedUserId,
    /// What is kept of it.
    pub row: AccountRow,
}

/// What is to change.
#[derive(Default)]
pub struct AccountChange {
    /// A new password.
    pub password: Option<String>,
    /// Sessions go on in spite of a new password.
    pub keep_sessions: bool,
    /// Another name; an empty one removes it.
    pub displayname: Option<String>,
    /// Another picture; an empty one removes it.
    pub avatar_url: Option<String>,
    /// May use these endpoints, or no longer.
    pub administrator: Option<bool>,
    /// Locked, or no longer.
    pub locked: Option<bool>,
    /// Closed for good.
    pub deactivated: Option<bool>,
    /// What tools call the user type.
    pub user_type: Option<Option<String>>,
}

impl Administration {
    /// All accounts, oldest first.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn accounts(&self) -> Result<Vec<AccountView>, Error> {
        let ledger = &self.house.ledger;
        let (mut found, mut from) = (Vec::new(), UserNid(0));
        loop {
            let range = (&from, &UserNid(u64::MAX));
            let (rows, more) =
                ledger.newest().scan_between(&ACCOUNTS, range, Direction::Forward, PAGE).await?;
            for (user, row) in rows {
                let user: UserNid = user;
                from = UserNid(user.0 + 1);
                found.push(AccountView { user, user_id: ledger.user_id(user).await?, row });
            }
            if !more {
                return Ok(found);
            }
        }
    }

    /// One account.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is none.
    pub async fn account(&self, user_id: &UserId) -> Result<AccountView, Error> {
        let missing = || Error::not_found("User not found");
        let ledger = &self.house.ledger;
        let user = ledger.user(user_id).await?.ok_or_else(missing)?;
        let row = ledger.get(&ACCOUNTS, &user).await?.ok_or_else(missing)?;
        Ok(AccountView { user, user_id: user_id.to_owned(), row })
    }

    /// Makes or changes an account; whether it was made.
    ///
    /// # Errors
    ///
    /// * [`Kind::InvalidParam`]: the user is not of this server, or a closed account is to be opened
    ///   again.
    /// * [`Kind::Forbidden`]: administrators cannot take their own rights away.
    pub async fn put_account(
        &self,
        by: &Caller,
        user_id: &UserId,
        change: AccountChange,
    ) -> Result<bool, Error> {
        if !self.house.is_ours(user_id) {
            return Err(Error::invalid_param("This user does not belong to this server."));
        }
        let is_new = match self.account(user_id).await {
            Ok(_) => false,
            Err(Error { kind: Kind::NotFound, .. }) => true,
            Err(error) => return Err(error),
        };
        let who = by.user_id.as_str();
        if is_new {
            let new = NewAccount {
                localpart: Some(user_id.localpart().to_owned()),
                password: change.password.clone(),
                displayname: change.displayname.clone(),
                administrator: change.administrator == Some(true),
            };
            self.accounts.open_account(new, who).await?;
        } else if let Some(password) = change.password.clone() {
            self.accounts.reset_password(user_id, password, change.keep_sessions, who).await?;
        }
        self.change_rights(by, user_id, &change).await?;
        self.change_profile(user_id, &change).await?;
        if change.deactivated == Some(true) {
            self.accounts.close_account(user_id, who).await?;
        }
        Ok(is_new)
    }

    async fn change_rights(
        &self,
        by: &Caller,
        user_id: &UserId,
        change: &AccountChange,
    ) -> Result<(), Error> {
        let view = self.account(user_id).await?;
        if change.deactivated == Some(false) && view.row.deactivated {
            return Err(Error::invalid_param("A closed account stays closed: make another one."));
        }
        let loses_rights = change.administrator == Some(false) || change.locked == Some(true);
        if by.user_id == user_id && loses_rights {
            return Err(Error::forbidden("You may not demote or lock yourself."));
        }
        let user_type = match &change.user_type {
            Some(Some(kind)) if kind.chars().count() > USER_TYPE_CHARS_MAX => {
                return Err(Error::too_large("A user type has at most 64 characters."));
            }
            user_type => user_type.clone(),
        };
        let mut wanted = view.row.clone();
        if let Some(administrator) = change.administrator {
            wanted.administrator = administrator;
        }
        if let Some(locked) = change.locked {
            wanted.locked = Some(locked);
        }
        if let Some(user_type) = user_type {
            wanted.user_type = user_type;
        }
        if wanted == view.row {
            return Ok(());
        }
        let permit = Permit::administration("account.changed", &by.user_id, user_id);
        self.accounts
            .change_account(view.user, permit, |row| {
                row.administrator = wanted.administrator;
                row.locked = wanted.locked;
                row.user_type = wanted.user_type;
            })
            .await
    }

    async fn change_profile(&self, user_id: &UserId, change: &AccountChange) -> Result<(), Error> {
        let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let changes = [
            change.displayname.as_ref().map(|name| ProfileChange::Displayname(text(name))),
            change.avatar_url.as_ref().map(|url| ProfileChange::AvatarUrl(text(url))),
        ];
        for change in changes.into_iter().flatten() {
            let owner = self.stand_in(user_id).await?;
            self.personal.set_profile(&owner, user_id, change).await?;
        }
        Ok(())
    }

    /// The rooms an account is joined to.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such account.
    pub async fn joined_rooms(&self, user_id: &UserId) -> Result<Vec<OwnedRoomId>, Error> {
        self.rooms.joined_rooms(&self.stand_in(user_id).await?).await
    }

    /// Opens a session in the name of somebody, for a day at most. Its owner sees it on the list of
    /// their devices.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such account; [`Kind::Forbidden`] if it is closed.
    pub async fn enter_account(
        &self,
        by: &Caller,
        user_id: &UserId,
        valid_until_ms: Option<u64>,
    ) -> Result<Session, Error> {
        let view = self.account(user_id).await?;
        let latest_ms = self.house.clock.now_ms().saturating_add(SESSION_MS_MAX);
        let until_ms = valid_until_ms.unwrap_or(latest_ms).min(latest_ms);
        let session = NewSession {
            display_name: Some(format!("Administration ({})", by.user_id)),
            ..NewSession::default()
        };
        let permit = Permit::administration("account.entered", &by.user_id, user_id);
        self.accounts.enter((view.user, view.user_id), session, (until_ms, permit)).await
    }

    /// Closes an account for good; `erase` asks for its content to be erased as far as possible.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such account.
    pub async fn deactivate(
        &self,
        by: &Caller,
        user_id: &UserId,
        erase: bool,
    ) -> Result<(), Error> {
        let view = self.account(user_id).await?;
        let permit = Permit::administration("account.deactivated", &by.user_id, user_id);
        self.accounts.close(view.user, erase, permit).await
    }

    /// Ends devices of somebody.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such account.
    pub async fn end_devices(
        &self,
        by: &Caller,
        user_id: &UserId,
        device_ids: Vec<OwnedDeviceId>,
    ) -> Result<(), Error> {
        let view = self.account(user_id).await?;
        let permit = Permit::administration("devices.ended", &by.user_id, user_id);
        self.accounts.end_devices(view.user, device_ids, permit).await
    }

    /// The account's owner, to change what is theirs.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such account.
    pub async fn owner(&self, user_id: &UserId) -> Result<Caller, Error> {
        self.stand_in(user_id).await
    }

    /// The account's owner as a caller without a device: to do what an administrator asks for in
    /// their name.
    pub(super) async fn stand_in(&self, user_id: &UserId) -> Result<Caller, Error> {
        let view = self.account(user_id).await?;
        Ok(self.accounts.stand_in(view.user, view.user_id))
    }
}
