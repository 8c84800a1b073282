//! Signing in with a password.

use std::net::IpAddr;

use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Error, UserNid};
use appliance_rules::Permit;

use super::authenticate::locked;
use super::{Accounts, NewSession, Session};
use crate::limits::{Limit, Whose};

/// What somebody shows who wants to sign in.
pub struct Login {
    /// The local part or the whole user ID, as typed.
    pub user: String,
    /// The password.
    pub password: String,
    /// The session they want.
    pub session: NewSession,
    /// Where from.
    pub address: Option<IpAddr>,
}

impl Accounts {
    /// Signs in with a password.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if user or password are wrong or the account is
    /// deactivated: which of these is not said, and all of them take the same time.
    /// [`appliance_model::Kind::Limited`] after too many attempts.
    pub async fn login(&self, login: Login) -> Result<Session, Error> {
        self.limits.take(Limit::Login, Whose::Address(login.address))?;
        let user_id = self.local_user_id(&login.user).ok_or_else(wrong_password)?;
        let user = self.check_password(&user_id, login.password, login.address).await?;

        let permit = Permit::own("session.opened", &user_id, &user_id);
        self.sign_in((user, user_id), login.session, permit).await
    }

    /// Opens a session for somebody who has shown who they are.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if the account is closed,
    /// [`appliance_model::Kind::UserLocked`] if it is locked.
    pub(super) async fn sign_in(
        &self,
        (user, user_id): (UserNid, OwnedUserId),
        session: NewSession,
        permit: Permit,
    ) -> Result<Session, Error> {
        let inside = self.doors.enter(user.0).await;
        let ledger = &self.house.ledger;
        // It may have been deactivated while the password was hashed.
        let account = ledger.get(&ACCOUNTS, &user).await?;
        let account = account.filter(|account| !account.deactivated).ok_or_else(wrong_password)?;
        if account.locked == Some(true) {
            return Err(locked());
        }
        let mut commit = ledger.begin(permit);
        let session = self.open_session((user, user_id), session, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await?;
        metrics::counter!("wardstone_logins_total").increment(1);
        Ok(session)
    }

    /// Whose password this is.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if it is nobody's, or not that user's;
    /// [`appliance_model::Kind::Limited`] after too many wrong ones.
    pub(super) async fn check_password(
        &self,
        user_id: &UserId,
        password: String,
        address: Option<IpAddr>,
    ) -> Result<UserNid, Error> {
        let ledger = &self.house.ledger;
        let here = self.guesser(user_id, Some(address));
        let anywhere = self.guesser(user_id, None);
        self.limits.check(Limit::FailedLogin, here)?;
        self.limits.check(Limit::FailedLoginAnywhere, anywhere)?;
        let user = ledger.user(user_id).await?;
        let account = match user {
            Some(user) => ledger.get(&ACCOUNTS, &user).await?,
            None => None,
        };
        let usable = account.filter(|account| !account.deactivated);
        let hash = usable.and_then(|account| account.password_hash);
        let right = self.verify_password(password, hash).await?;
        if let (Some(user), true) = (user, right) {
            return Ok(user);
        }
        metrics::counter!("wardstone_wrong_passwords_total").increment(1);
        // Many attempts at once may all have passed the check above: here each is counted.
        self.limits.take(Limit::FailedLogin, here)?;
        self.limits.take(Limit::FailedLoginAnywhere, anywhere)?;
        Err(wrong_password())
    }

    /// The bucket of wrong passwords for a name, account or not.
    fn guesser(&self, user_id: &UserId, address: Option<Option<IpAddr>>) -> Whose {
        let from = address.map(|address| Whose::Address(address).to_string()).unwrap_or_default();
        let parts: [&[u8]; 3] = [b"guess", user_id.as_bytes(), from.as_bytes()];
        Whose::Name(self.house.ledger.digest(&parts))
    }

    /// The user of this server whom somebody means who types `typed`.
    pub(super) fn local_user_id(&self, typed: &str) -> Option<OwnedUserId> {
        // Local parts are lower case here; people type as they like.
        let server = self.house.server_name.as_str();
        let localpart = match typed.strip_prefix('@') {
            Some(rest) => rest.split_once(':').filter(|(_, name)| *name == server)?.0,
            None => typed,
        };
        let localpart = localpart.to_ascii_lowercase();
        UserId::parse_with_server_name(localpart, &self.house.server_name)
            .ok()
            .filter(|user_id| self.house.is_ours(user_id))
    }
}

/// Whether there is such an account is not said.
pub(super) fn wrong_password() -> Error {
    Error::forbidden("The user name or the password is wrong.")
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;

    use super::*;
    use crate::accounts::NewAccount;
    use crate::scenario::Ward;

    fn login(user: &str) -> Login {
        let (user, password) = (user.to_owned(), "guess".to_owned());
        Login { user, password, session: NewSession::default(), address: None }
    }

    /// A stranger with a stopwatch must not learn who works here: whether the name is nobody's, has
    /// no password, or is closed, one password is hashed. So all of them meet at the pool's door.
    #[tokio::test]
    async fn every_attempt_hashes_one_password() {
        let ward = Ward::new().await;
        let accounts = &ward.services.accounts;
        ward.member("robot").await;
        let password = Some("right".to_owned());
        let new = |name: &str| NewAccount {
            localpart: Some(name.to_owned()),
            password: password.clone(),
            ..NewAccount::default()
        };
        accounts.create_account(new("nurse"), None).await.unwrap();
        let (closed, _) = accounts.create_account(new("closed"), None).await.unwrap();
        accounts.close_account(&closed, "root").await.unwrap();

        let names = ["nurse", "robot", "closed", "nobody", "@nobody:hospital.example"];
        for name in names {
            let refused = accounts.login(login(name)).await.unwrap_err();
            assert_eq!(refused, wrong_password(), "{name}: the same words for all");
        }
        let full = accounts.hash_queue.acquire_many(256).await.unwrap();
        for name in names {
            let refused = accounts.login(login(name)).await.unwrap_err();
            assert!(matches!(refused.kind, Kind::Limited { .. }), "{name}: {refused:?}");
        }
        drop(full);
    }
}
