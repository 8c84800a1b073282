//! The server-server API: one file per endpoint or family of endpoints. Handlers ask
//! `visit.origin()?` which server it is; the adapter has verified that.

mod devices;
mod directory;
mod hierarchy;
mod keys;
mod lease;
mod media;
mod openid;
mod policy_server;
mod query;
mod rooms;
mod third_party;
mod version;

use crate::route::Routes;

/// Adds all of it.
pub(crate) fn add(routes: &mut Routes) {
    version::add(routes);
    keys::add(routes);
    query::add(routes);
    devices::add(routes);
    media::add(routes);
    lease::add(routes);
    directory::add(routes);
    openid::add(routes);
    hierarchy::add(routes);
    rooms::add(routes);
    policy_server::add(routes);
    third_party::add(routes);
}

#[cfg(test)]
mod acl;
#[cfg(test)]
mod coverage;
#[cfg(test)]
mod every_route;
#[cfg(test)]
mod outage;
