//! HTTP in, HTTP out: one route adapter, one file per endpoint, the one table of errors.
//!
//! A file under `client/` names the use case and shapes the answer; it decides nothing.

mod client;
mod cors;
pub mod error;
#[cfg(test)]
mod every_route;
mod form;
mod json;
mod json_body;
mod route;
mod scenario;

use std::net::IpAddr;
use std::sync::Arc;

use appliance_services::Services;
use axum::Router;

pub use route::{Access, Route};

/// Where a request comes from; the listener puts it into the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

/// The whole of the API on one router, and the list of its routes.
pub fn router(services: Arc<Services>) -> (Router, Vec<Route>) {
    let mut routes = route::Routes::new(services);
    client::add(&mut routes);
    routes.finish()
}
