//! Making an account.

use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_ledger::rows::AccountRow;
use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Error, Kind};
use appliance_rules::Permit;

use super::{Accounts, NewSession, Session};

/// What is known of a new account.
#[derive(Clone, Debug, Default)]
pub struct NewAccount {
    /// The local part of the user ID; a random one if none is given.
    pub localpart: Option<String>,
    /// The password, if it is to be opened by one.
    pub password: Option<String>,
    /// May use the administration endpoints.
    pub administrator: bool,
}

impl Accounts {
    /// Makes an account and, if asked, a first session.
    ///
    /// # Errors
    ///
    /// [`Kind::UserInUse`], [`Kind::InvalidUsername`], [`Kind::WeakPassword`].
    pub async fn create_account(
        &self,
        new: NewAccount,
        session: Option<NewSession>,
    ) -> Result<(OwnedUserId, Option<Session>), Error> {
        let ledger = &self.house.ledger;
        let user_id = self.new_user_id(new.localpart)?;
        let password_hash = match new.password {
            Some(password) => Some(self.hash_password(password).await?),
            None => None,
        };
        // All registrations share one door: two people asking for one name meet here.
        let _inside = self.doors.enter(0).await;
        if let Some(user) = ledger.user(&user_id).await?
            && ledger.get(&ACCOUNTS, &user).await?.is_some()
        {
            return Err(Error::new(Kind::UserInUse, "This user name is taken."));
        }
        let mut commit = ledger.begin(Permit::own("account.created", &user_id, &user_id));
        let user = ledger.user_in(&user_id, &mut commit).await?;
        let account = AccountRow {
            password_hash,
            administrator: new.administrator,
            created_ms: self.house.clock.now_ms(),
            displayname: Some(user_id.localpart().to_owned()),
            ..AccountRow::default()
        };
        commit.put(&ACCOUNTS, &user, &account);
        let session = match session {
            Some(new) => Some(self.open_session((user, user_id.clone()), new, &mut commit).await?),
            None => None,
        };
        ledger.commit(commit).await?;
        Ok((user_id, session))
    }

    /// "Localparts … `a-z0-9._=-/+`" ([user identifiers]); upper case is folded, as people type it.
    ///
    /// [user identifiers]: https://spec.matrix.org/v1.19/appendices/#user-identifiers
    fn new_user_id(&self, localpart: Option<String>) -> Result<OwnedUserId, Error> {
        let localpart = localpart.unwrap_or_else(|| self.house.dice.letters(12)).to_lowercase();
        let invalid = || {
            Error::new(
                Kind::InvalidUsername,
                "A user name consists of the letters a to z, digits and . _ = - / +",
            )
        };
        if localpart.is_empty() {
            return Err(invalid());
        }
        let user_id = UserId::parse_with_server_name(localpart, &self.house.server_name)
            .map_err(|_| invalid())?;
        user_id.validate_strict().map_err(|_| invalid())?;
        Ok(user_id)
    }
}
