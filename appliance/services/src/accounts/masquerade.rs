//! Application services at the door ([spec]): who shows an `as_token` speaks as any user that their
//! registration names.
//!
//! [spec]: https://spec.matrix.org/v1.19/application-service-api/#identity-assertion

use std::net::IpAddr;
use std::sync::Arc;

use appliance_ledger::keyspaces::{ACCOUNTS, DEVICES};
use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Caller, DeviceNid, Error, Kind, SessionClass, UserNid};
use appliance_rules::Permit;

use super::authenticate::{locked, role_of};
use super::{Accounts, NewAccount, NewSession, Session};
use crate::appservices::{Registration, exclusive};

/// As whom an application service speaks: the parameters of its request.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    /// The user; its own sender if none is named.
    pub user_id: Option<String>,
    /// The user's device, if any matters.
    pub device_id: Option<String>,
}

impl Accounts {
    /// Whether this is the access token of an application service.
    #[must_use]
    pub fn may_wear_mask(&self, token: &str) -> bool {
        self.house.appservices.by_token(token).is_some()
    }

    /// Lets somebody in who shows this access token: a person, or an application service behind a
    /// mask.
    ///
    /// # Errors
    ///
    /// As [`Accounts::authenticate`]; for application services [`Kind::Forbidden`] if the user is
    /// not theirs or has no account, [`Kind::UnknownDevice`] if the user has no such device.
    pub async fn admit_masked(
        &self,
        token: &str,
        mask: Mask,
        address: Option<IpAddr>,
    ) -> Result<Caller, Error> {
        match self.house.appservices.by_token(token) {
            Some(service) => self.unmask(&service.registration, mask).await,
            None => self.admit(token, address).await,
        }
    }

    /// The same for somebody who wants to sign out, which those who are locked out may.
    ///
    /// # Errors
    ///
    /// As [`Accounts::admit_masked`].
    pub async fn admit_to_sign_out(
        &self,
        token: &str,
        mask: Mask,
        address: Option<IpAddr>,
    ) -> Result<Caller, Error> {
        match self.house.appservices.by_token(token) {
            Some(_) => self.admit_masked(token, mask, address).await,
            None => self.authenticate_to_sign_out(token).await,
        }
    }

    /// The user as whom an application service speaks.
    pub(crate) async fn unmask(&self, service: &Registration, mask: Mask) -> Result<Caller, Error> {
        let user_id = match mask.user_id {
            Some(user_id) => OwnedUserId::try_from(user_id)
                .map_err(|_| Error::invalid_param("`user_id` has the form @name:server."))?,
            None => service.sender.clone(),
        };
        if !service.speaks_as(&user_id) {
            return Err(Error::forbidden("This user is not in the namespaces of the service."));
        }
        let not_there =
            || Error::forbidden("The application service has not registered this user.");
        let ledger = &self.house.ledger;
        let user = ledger.user(&user_id).await?.ok_or_else(not_there)?;
        let account = ledger.get(&ACCOUNTS, &user).await?.ok_or_else(not_there)?;
        if account.deactivated {
            return Err(Error::forbidden("This user's account is closed."));
        }
        if account.locked == Some(true) {
            return Err(locked());
        }
        // "Whether requests from masqueraded users are rate-limited. The sender is excluded."
        if !service.rate_limited || user_id == service.sender {
            self.limits.exempt(user);
        }
        let (device_id, device) = match mask.device_id {
            Some(device_id) => {
                let row = ledger.get(&DEVICES, &(user, device_id.clone())).await?;
                let unknown = || Error::new(Kind::UnknownDevice, "This user has no such device.");
                (device_id, DeviceNid(row.ok_or_else(unknown)?.device))
            }
            None => (String::new(), no_device(user)),
        };
        Ok(Caller {
            user_id,
            user,
            device_id: device_id.into(),
            device,
            role: role_of(&account),
            appservice: Some(Arc::from(service.id.as_str())),
            class: if self.house.options.policy.is_off {
                SessionClass::Managed
            } else {
                SessionClass::Bot
            },
        })
    }

    /// "Bypassing the registration flows entirely": an application service makes one of its users.
    ///
    /// # Errors
    ///
    /// [`Kind::UnknownToken`]; [`Kind::Exclusive`] outside its namespaces; those of
    /// [`Accounts::create_account`].
    pub async fn register_masked(
        &self,
        token: &str,
        localpart: String,
        session: Option<NewSession>,
    ) -> Result<(OwnedUserId, Option<Session>), Error> {
        let service = self.house.appservices.by_token(token).ok_or_else(unknown_service)?;
        let user_id = self.new_user_id(Some(&localpart))?;
        self.check_own(&service.registration, &user_id)?;
        let permit = Permit::own("account.created", &service.registration.sender, &user_id);
        let new = NewAccount { localpart: Some(localpart), ..NewAccount::default() };
        self.make_account(user_id, new, session, permit).await
    }

    /// An application service opens a session of one of its users, without a password.
    ///
    /// # Errors
    ///
    /// [`Kind::UnknownToken`]; [`Kind::Exclusive`] outside its namespaces; [`Kind::Forbidden`] if
    /// there is no such account.
    pub async fn login_masked(
        &self,
        token: &str,
        user: &str,
        session: NewSession,
    ) -> Result<Session, Error> {
        let service = self.house.appservices.by_token(token).ok_or_else(unknown_service)?;
        let not_there = || Error::forbidden("There is no such account on this server.");
        let user_id = self.local_user_id(user).ok_or_else(not_there)?;
        self.check_own(&service.registration, &user_id)?;
        let mask = Mask { user_id: Some(user_id.to_string()), device_id: None };
        let caller = self.unmask(&service.registration, mask).await?;
        let inside = self.doors.enter(caller.user.0).await;
        let ledger = &self.house.ledger;
        let mut commit =
            ledger.begin(Permit::own("session.opened", &service.registration.sender, &user_id));
        let session = self.open_session((caller.user, user_id), session, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok(session)
    }

    /// Makes sure that an application service's own user exists.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn make_sender(&self, service: &Registration) -> Result<(), Error> {
        let sender = &service.sender;
        let ledger = &self.house.ledger;
        if let Some(user) = ledger.user(sender).await?
            && ledger.get(&ACCOUNTS, &user).await?.is_some()
        {
            return Ok(());
        }
        let permit = Permit::own("account.created", sender, sender);
        self.make_account(sender.clone(), NewAccount::default(), None, permit).await.map(drop)
    }

    /// "Application services which attempt to create users … *outside* of their defined namespaces,
    /// or log in as users outside … will receive an error code `M_EXCLUSIVE`."
    fn check_own(&self, service: &Registration, user_id: &UserId) -> Result<(), Error> {
        if !service.speaks_as(user_id) {
            return Err(exclusive("This user is not in the namespaces of the service."));
        }
        self.house.appservices.check_user(user_id, Some(&service.id))
    }
}

/// The number that stands for "no device" of a user: what is kept by device (transaction IDs) is
/// then kept by user. Numbers are given out from below and never come near.
fn no_device(user: UserNid) -> DeviceNid {
    DeviceNid(u64::MAX - user.0)
}

fn unknown_service() -> Error {
    let kind = Kind::UnknownToken { soft_logout: false };
    Error::new(kind, "This is not the token of an application service.")
}
