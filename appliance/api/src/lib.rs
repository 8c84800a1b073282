//! HTTP in, HTTP out: one route adapter, one file per endpoint, the one table of errors.
//!
//! A file under `client/` names the use case and shapes the answer; it decides nothing.

mod administration;
mod client;
mod cors;
#[cfg(test)]
mod coverage;
pub mod error;
#[cfg(test)]
mod every_route;
mod form;
#[cfg(test)]
mod fuzz;
mod json;
mod json_body;
mod own_page;
mod peer;
mod photo_page;
mod query;
mod route;
mod scenario;
mod server;
mod sign_in;
#[cfg(test)]
mod suites;
mod suspended;
#[cfg(test)]
mod town;
#[cfg(test)]
mod traps;

use std::net::IpAddr;
use std::sync::Arc;

use appliance_model::SessionClass;
use appliance_services::Services;
use axum::Router;

pub use administration::governance;
pub use route::{Access, Route};

/// Where a request comes from; the listener puts it into the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

/// What the door vouches for that a request came through, if the listener puts it into the request's
/// extensions: who signs in there gets a session of this class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorClass(pub SessionClass);

/// What other servers see, on a router of its own, and the list of its routes.
pub fn peer_router(services: Arc<Services>) -> (Router, Vec<Route>) {
    let mut routes = route::Routes::new(services);
    server::add(&mut routes);
    routes.finish()
}

/// Where people look at photos, and take them, on devices that may not keep any. Not a Matrix API:
/// pages, and what these pages ask.
pub fn photo_page(services: Arc<Services>) -> Router {
    photo_page::router(services)
}

/// Where apps send people to sign in. Not a Matrix API: a page, and what it asks.
pub fn sign_in(services: Arc<Services>) -> Router {
    sign_in::router(services)
}

/// What people's devices see, on one router, and the list of its routes.
pub fn router(services: Arc<Services>) -> (Router, Vec<Route>) {
    let mut routes = route::Routes::new(services);
    client::add(&mut routes);
    administration::add(&mut routes);
    routes.finish()
}
