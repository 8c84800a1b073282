//! The server-server API: one file per endpoint or family of endpoints. Handlers ask
//! `visit.origin()?` which server it is; the adapter has verified that.

mod keys;
mod query;
mod version;

use crate::route::Routes;

/// Adds all of it.
pub(crate) fn add(routes: &mut Routes) {
    version::add(routes);
    keys::add(routes);
    query::add(routes);
}

#[cfg(test)]
mod every_route;
