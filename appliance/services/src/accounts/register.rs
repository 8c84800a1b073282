//! Making an account.

use std::net::IpAddr;

use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_ledger::rows::AccountRow;
use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Error, Kind};
use appliance_rules::Permit;

use super::{Accounts, Attempt, Flows, NewSession, Proof, Session, Stage};
use crate::house::Registration;
use crate::limits::{Limit, Whose};
use crate::personal::begin_without_previews;

/// What is known of a new account.
#[derive(Clone, Default)]
pub struct NewAccount {
    /// The local part of the user ID; a random one if none is given.
    pub localpart: Option<String>,
    /// The password, if it is to be opened by one.
    pub password: Option<String>,
    /// The global display name; the local part if none is given.
    pub displayname: Option<String>,
    /// May use the administration endpoints.
    pub administrator: bool,
}

impl std::fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { localpart, administrator, .. } = self;
        f.debug_struct("NewAccount")
            .field("localpart", localpart)
            .field("administrator", administrator)
            .finish_non_exhaustive()
    }
}

/// The flow of those who were given a registration token.
const TOKEN: Flows = &[&[Stage::RegistrationToken]];

/// Twelve letters: nobody guesses one, and nobody has one already.
const RANDOM_LOCALPART_LENGTH: usize = 12;

impl Accounts {
    /// Somebody makes an account for themselves and, if asked, signs in.
    ///
    /// # Errors
    ///
    /// [`Kind::Forbidden`] where only the administrator makes accounts, [`Kind::Uia`] until the
    /// proof is complete, and those of [`Accounts::create_account`].
    pub async fn register(
        &self,
        new: NewAccount,
        session: Option<NewSession>,
        proof: Proof,
    ) -> Result<(OwnedUserId, Option<Session>), Error> {
        let flows = self.registration_flows()?;
        let address = proof.address;
        self.limits.check(Limit::Registration, Whose::Address(address))?;
        // "Homeservers MUST perform the relevant checks and return these codes before performing
        // User-Interactive Authentication" ([spec]).
        //
        // [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register
        if let Some(localpart) = &new.localpart {
            let user_id = self.new_user_id(Some(localpart))?;
            self.house.appservices.check_user(&user_id, None)?;
            self.check_free(&user_id).await?;
        }
        // Clients ask for the flows with an empty body first. There is no account yet whose owner
        // could be made to agree to something else, so any request to register is the same one.
        let proof = Proof { operation: self.operation(&[b"register"]), ..proof };
        // This flow has one stage, so the request that passes is the one that brings the token.
        let token = proof.attempt.as_ref().and_then(Attempt::token).map(ToOwned::to_owned);
        let token = token.filter(|_| flows == TOKEN);
        self.require(None, flows, proof).await?;
        if new.password.is_none() {
            return Err(Error::new(Kind::MissingParam, "Choose a password for the account."));
        }
        self.limits.take(Limit::Registration, Whose::Address(address))?;
        let user_id = self.new_user_id(new.localpart.as_deref())?;
        let permit = Permit::own("account.created", &user_id, &user_id);
        self.make_account_with((user_id, token), new, session, permit).await
    }

    /// What somebody hears who asks for a guest account: this server has none.
    pub fn refuse_guest(&self) -> Error {
        Error::new(Kind::GuestsForbidden, "This server has no guest accounts.")
    }

    /// Whether somebody could register under this name now.
    ///
    /// # Errors
    ///
    /// [`Kind::UserInUse`], [`Kind::InvalidUsername`]; [`Kind::Forbidden`] where nobody can
    /// register, so that strangers do not learn who works here.
    pub async fn is_available(
        &self,
        localpart: &str,
        address: Option<IpAddr>,
    ) -> Result<(), Error> {
        self.registration_flows()?;
        self.limits.take(Limit::Login, Whose::Address(address))?;
        let user_id = self.new_user_id(Some(localpart))?;
        self.house.appservices.check_user(&user_id, None)?;
        self.check_free(&user_id).await
    }

    /// Whether a registration token opens registration now. "Servers should be sure to rate limit
    /// this endpoint to avoid brute force attacks": wrong ones count as registrations.
    ///
    /// # Errors
    ///
    /// "The homeserver does not permit registration": [`Kind::Forbidden`]; [`Kind::Limited`].
    pub async fn is_registration_token(
        &self,
        token: &str,
        address: Option<IpAddr>,
    ) -> Result<bool, Error> {
        self.registration_flows()?;
        self.limits.check(Limit::Registration, Whose::Address(address))?;
        let valid = self.opens_registration(token).await?;
        if !valid {
            self.limits.take(Limit::Registration, Whose::Address(address))?;
        }
        Ok(valid)
    }

    /// Whether a name is free, for an administrator who wants to give it to somebody.
    ///
    /// # Errors
    ///
    /// [`Kind::UserInUse`], [`Kind::InvalidUsername`].
    pub async fn check_available(&self, localpart: &str) -> Result<(), Error> {
        self.check_free(&self.new_user_id(Some(localpart))?).await
    }

    fn registration_flows(&self) -> Result<Flows, Error> {
        match &self.house.options.registration {
            Registration::Closed => {
                Err(Error::forbidden("Accounts on this server are made by its administrator."))
            }
            Registration::Token(_) => Ok(TOKEN),
            Registration::Open => Ok(&[&[Stage::Dummy]]),
        }
    }

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
        let user_id = self.new_user_id(new.localpart.as_deref())?;
        let permit = Permit::own("account.created", &user_id, &user_id);
        self.make_account(user_id, new, session, permit).await
    }

    pub(super) async fn make_account(
        &self,
        user_id: OwnedUserId,
        new: NewAccount,
        session: Option<NewSession>,
        permit: Permit,
    ) -> Result<(OwnedUserId, Option<Session>), Error> {
        self.make_account_with((user_id, None), new, session, permit).await
    }

    /// The same, counting a use of a registration token.
    async fn make_account_with(
        &self,
        (user_id, token): (OwnedUserId, Option<String>),
        new: NewAccount,
        session: Option<NewSession>,
        permit: Permit,
    ) -> Result<(OwnedUserId, Option<Session>), Error> {
        let ledger = &self.house.ledger;
        // Those whom an application service makes have none.
        let has_apps = new.password.is_some() || session.is_some();
        let password_hash = match new.password {
            Some(password) => Some(self.hash_password(password).await?),
            None => None,
        };
        // All registrations share one door: two people asking for one name meet here.
        let inside = self.doors.enter(0).await;
        self.check_free(&user_id).await?;
        let mut commit = ledger.begin(permit);
        let user = ledger.user_in(&user_id, &mut commit).await?;
        let displayname = new.displayname.unwrap_or_else(|| user_id.localpart().to_owned());
        let account = AccountRow {
            password_hash,
            administrator: new.administrator,
            created_ms: self.house.clock.now_ms(),
            displayname: Some(displayname),
            ..AccountRow::default()
        };
        commit.put(&ACCOUNTS, &user, &account);
        // A conformance suite counts what a new user is told.
        if has_apps && !self.house.options.policy.is_off {
            begin_without_previews(user, &mut commit);
        }
        if let Some(token) = token {
            self.use_registration_token(&token, &mut commit).await?;
        }
        let session = match session {
            Some(new) => Some(self.open_session((user, user_id.clone()), new, &mut commit).await?),
            None => None,
        };
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok((user_id, session))
    }

    /// A name is free that nobody has and nobody had: "all ability for the user to login again" is
    /// gone with a deactivation, and nobody else takes the name over.
    async fn check_free(&self, user_id: &UserId) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        if let Some(user) = ledger.user(user_id).await?
            && ledger.get(&ACCOUNTS, &user).await?.is_some()
        {
            return Err(Error::new(Kind::UserInUse, "This user name is taken."));
        }
        Ok(())
    }

    /// "Localparts … `a-z0-9._=-/+`" ([user identifiers]); upper case is folded, as people type it.
    ///
    /// [user identifiers]: https://spec.matrix.org/v1.19/appendices/#user-identifiers
    pub(super) fn new_user_id(&self, localpart: Option<&str>) -> Result<OwnedUserId, Error> {
        let invalid = || {
            Error::new(
                Kind::InvalidUsername,
                "A user name consists of the letters a to z, digits and . _ = - / +",
            )
        };
        let localpart = match localpart {
            Some(localpart) => localpart.to_ascii_lowercase(),
            None => self.house.dice.letters(RANDOM_LOCALPART_LENGTH).to_ascii_lowercase(),
        };
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+');
        if localpart.is_empty() || !localpart.bytes().all(allowed) {
            return Err(invalid());
        }
        let user_id = UserId::parse_with_server_name(localpart, &self.house.server_name)
            .map_err(|_| invalid())?;
        user_id.validate_strict().map_err(|_| invalid())?;
        Ok(user_id)
    }
}
