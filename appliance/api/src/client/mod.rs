//! The client-server API: one file per endpoint or family of endpoints.

mod account;
mod aliases;
mod appservice;
mod backup;
mod calls;
mod capabilities;
mod dehydrated;
mod delayed;
mod devices;
mod discovery;
mod keys;
mod legacy;
pub(crate) mod media;
mod membership;
mod messages;
pub(crate) mod moderation;
mod personal;
mod profile;
mod push_rules;
mod pushers;
mod reading;
mod redact;
mod relations;
mod report;
mod rooms;
mod search;
mod session;
pub(crate) mod spaces;
mod state;
mod synapse;
mod sync;
mod third_party;
mod thread_subscriptions;
mod threepid;
mod to_device;

use crate::route::Routes;

/// Adds all of it.
pub(crate) fn add(routes: &mut Routes) {
    discovery::add(routes);
    capabilities::add(routes);
    account::add(routes);
    aliases::add(routes);
    appservice::add(routes);
    session::add(routes);
    devices::add(routes);
    third_party::add(routes);
    threepid::add(routes);
    personal::add(routes);
    push_rules::add(routes);
    pushers::add(routes);
    reading::add(routes);
    media::add(routes);
    messages::add(routes);
    redact::add(routes);
    relations::add(routes);
    report::add(routes);
    rooms::add(routes);
    search::add(routes);
    legacy::add(routes);
    spaces::add(routes);
    membership::add(routes);
    state::add(routes);
    sync::add(routes);
    synapse::add(routes);
    keys::add(routes);
    backup::add(routes);
    to_device::add(routes);
    profile::add(routes);
    calls::add(routes);
    delayed::add(routes);
    dehydrated::add(routes);
    thread_subscriptions::add(routes);
    moderation::add(routes);
}
