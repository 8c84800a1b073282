//! Registering application services: those of files at the start, those of the administrator at any
//! time.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{APPSERVICE_STREAMS, APPSERVICES};
use appliance_ledger::rows::appservices::{AppserviceRow, AppserviceStreamRow};
use appliance_model::ruma::OwnedUserId;
use appliance_model::{Error, Kind};
use appliance_rules::Permit;
use serde_json::Value;

use super::registry::{Registered, Source};
use super::{Appservices, Registration};

/// As many as can be registered.
const STORED_MAX: usize = 1_000;

/// An application service, as the administrator sees it. Tokens are not shown again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppserviceSummary {
    /// Its ID.
    pub id: String,
    /// Where it is.
    pub url: Option<String>,
    /// Its own user.
    pub sender: OwnedUserId,
    /// Where the registration comes from.
    pub source: Source,
    /// Events that it has not taken yet lie after this position.
    pub upto: u64,
}

impl Appservices {
    /// Begins with those that the administrator registered before and with `files`: each a name for
    /// messages and the registration in it.
    ///
    /// # Errors
    ///
    /// A sentence that names the file, if a registration cannot be used.
    pub async fn begin_with(&self, files: Vec<(String, Value)>) -> Result<(), Error> {
        let newest = self.house.ledger.newest();
        let (rows, _) = newest.scan(&APPSERVICES, &(), Direction::Forward, STORED_MAX).await?;
        for (id, row) in rows {
            let json = serde_json::from_str(&row.registration).map_err(Error::internal)?;
            let registration = Registration::read(json, &self.house.server_name)?;
            tracing::info!(kind = "appservice.registered", appservice = %id, "from the store");
            self.admit_service(registration, Source::Administrator).await?;
        }
        for (name, json) in files {
            let named =
                |error: Error| Error { message: format!("{name}: {error}").into(), ..error };
            let registration = Registration::read(json, &self.house.server_name).map_err(named)?;
            if self.house.appservices.by_id(&registration.id).is_some() {
                let twice = "another registration has the same `id`";
                return Err(named(Error::invalid_param(twice)));
            }
            tracing::info!(kind = "appservice.registered", appservice = %registration.id, "from a file");
            self.admit_service(registration, Source::File).await.map_err(named)?;
        }
        Ok(())
    }

    /// Registers an application service, or changes the registration of one that the administrator
    /// registered before. It is told of what happens from now on.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidParam`] with a sentence that says what is wrong.
    pub async fn register(&self, json: Value, administrator: &str) -> Result<String, Error> {
        let registration = Registration::read(json, &self.house.server_name)?;
        let id = registration.id.clone();
        let known = self.house.appservices.by_id(&id);
        if known.is_some_and(|known| known.source == Source::File) {
            return Err(from_a_file());
        }
        let row = AppserviceRow { registration: registration.to_json().to_owned() };
        self.admit_service(registration, Source::Administrator).await?;
        let permit = Permit::administration("appservice.registered", administrator, &id);
        let mut commit = self.house.ledger.begin(permit);
        commit.put(&APPSERVICES, &id, &row);
        self.house.ledger.commit(commit).await?;
        Ok(id)
    }

    /// Takes an application service away that the administrator registered. Its users stay.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is none; [`Kind::InvalidParam`] if it comes from a file.
    pub async fn unregister(&self, id: &str, administrator: &str) -> Result<(), Error> {
        let nobody = || Error::not_found("There is no application service with this ID.");
        let known = self.house.appservices.by_id(id).ok_or_else(nobody)?;
        if known.source == Source::File {
            return Err(from_a_file());
        }
        let permit = Permit::administration("appservice.unregistered", administrator, id);
        let mut commit = self.house.ledger.begin(permit);
        commit.delete(&APPSERVICES, &id.to_owned());
        commit.delete(&APPSERVICE_STREAMS, &id.to_owned());
        self.house.ledger.commit(commit).await?;
        self.house.appservices.remove(id);
        self.limits.no_longer_exempt();
        Ok(())
    }

    /// Those that are registered, in the order of their registration.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn list(&self) -> Result<Vec<AppserviceSummary>, Error> {
        let mut list = Vec::new();
        for one in self.house.appservices.all().iter() {
            let Registration { id, url, sender, .. } = &one.registration;
            let stream = self.house.ledger.get(&APPSERVICE_STREAMS, id).await?;
            list.push(AppserviceSummary {
                id: id.clone(),
                url: url.clone(),
                sender: sender.clone(),
                source: one.source,
                upto: stream.map_or(0, |stream| stream.upto),
            });
        }
        Ok(list)
    }

    /// Makes a registration count: its own user exists, and what happens from now on is its news.
    async fn admit_service(&self, registration: Registration, source: Source) -> Result<(), Error> {
        let id = registration.id.clone();
        if let Some(url) = registration.url.as_deref().and_then(|url| url.parse().ok()) {
            self.house.egress.allow_app_service(&url);
        }
        self.house.appservices.put(Registered { registration, source })?;
        let Some(registered) = self.house.appservices.by_id(&id) else { return Ok(()) };
        self.accounts.make_sender(&registered.registration).await?;
        let ledger = &self.house.ledger;
        if ledger.get(&APPSERVICE_STREAMS, &id).await?.is_none() {
            let upto = ledger.position().0;
            let mut commit = ledger.begin(Permit::housekeeping());
            let row = AppserviceStreamRow { upto, ..AppserviceStreamRow::default() };
            commit.put(&APPSERVICE_STREAMS, &id, &row);
            ledger.commit(commit).await?;
        }
        self.stir.notice();
        Ok(())
    }
}

fn from_a_file() -> Error {
    Error::new(Kind::InvalidParam, "This application service is registered by a file: change that.")
}
