//! The application services that are registered now, in memory.

use std::sync::{Arc, PoisonError, RwLock};

use appliance_model::ruma::{RoomAliasId, UserId};
use appliance_model::{Error, Kind};

use super::registration::Registration;

/// More would make every new event wait for hundreds of lists of expressions.
const APPSERVICES_MAX: usize = 200;

/// Where a registration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file: it goes when the file goes.
    File,
    /// The administrator: it is in the store.
    Administrator,
}

/// A registered application service.
#[derive(Debug)]
pub struct Registered {
    /// Its registration.
    pub registration: Registration,
    /// Where it comes from.
    pub source: Source,
}

/// Who is registered. A change is seen by the next request.
#[derive(Default)]
pub struct Registry(RwLock<Arc<Vec<Arc<Registered>>>>);

impl Registry {
    /// All of them, in the order of their registration.
    pub fn all(&self) -> Arc<Vec<Arc<Registered>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// The one with this ID.
    pub fn by_id(&self, id: &str) -> Option<Arc<Registered>> {
        self.all().iter().find(|one| one.registration.id == id).cloned()
    }

    /// The one that shows this token.
    pub fn by_token(&self, token: &str) -> Option<Arc<Registered>> {
        self.all().iter().find(|one| one.registration.as_token.matches(token)).cloned()
    }

    /// Adds one, or replaces that with the same ID.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidParam`] if another has the same token or the same sender, or if there are too
    /// many.
    pub(super) fn put(&self, new: Registered) -> Result<(), Error> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let id = &new.registration.id;
        let others: Vec<_> = all.iter().filter(|one| one.registration.id != *id).cloned().collect();
        for one in &others {
            let other = &one.registration;
            if other.as_token == new.registration.as_token {
                let message = format!("\"{}\" has the same `as_token`.", other.id);
                return Err(Error::invalid_param(message));
            }
            if other.sender == new.registration.sender {
                let message = format!("\"{}\" has the same `sender_localpart`.", other.id);
                return Err(Error::invalid_param(message));
            }
        }
        if others.len() >= APPSERVICES_MAX {
            return Err(Error::invalid_param("There are 200 application services already."));
        }
        let mut next = others;
        next.push(Arc::new(new));
        *all = Arc::new(next);
        Ok(())
    }

    /// Takes one away.
    pub(super) fn remove(&self, id: &str) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let rest = all.iter().filter(|one| one.registration.id != id).cloned().collect();
        *all = Arc::new(rest);
    }

    /// Refuses a user ID that belongs to an application service other than `own`.
    ///
    /// # Errors
    ///
    /// [`Kind::Exclusive`].
    pub fn check_user(&self, user_id: &UserId, own: Option<&str>) -> Result<(), Error> {
        self.check(own, |one| one.owns_user(user_id))
    }

    /// Refuses an alias that belongs to an application service other than `own`.
    ///
    /// # Errors
    ///
    /// [`Kind::Exclusive`].
    pub fn check_alias(&self, alias: &RoomAliasId, own: Option<&str>) -> Result<(), Error> {
        self.check(own, |one| one.aliases.holds_exclusively(alias.as_str()))
    }

    fn check(&self, own: Option<&str>, owns: impl Fn(&Registration) -> bool) -> Result<(), Error> {
        let others = self.all();
        let mut others = others.iter().filter(|one| own != Some(one.registration.id.as_str()));
        if others.any(|one| owns(&one.registration)) {
            return Err(exclusive("This name belongs to an application service."));
        }
        Ok(())
    }
}

pub(crate) fn exclusive(why: &'static str) -> Error {
    Error::new(Kind::Exclusive, why)
}
