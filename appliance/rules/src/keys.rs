//! Encryption between devices: who may take another's one-time keys, who may send to devices.

use appliance_model::Caller;
use appliance_model::ruma::{ServerName, UserId};

use crate::permit::Permit;

/// Whoever is signed in may begin an encrypted session with anyone: the key that is taken lets the
/// other decrypt, it does not let the taker read anything. The trail says who and from which
/// device.
pub fn may_claim(caller: &Caller) -> Permit {
    Permit::audited("keys.claimed", &caller.user_id, &caller.device_id)
}

/// A server says how far its own users have read. None if the user is another server's.
pub fn may_be_told_of_receipts(server: &ServerName, user: &UserId) -> Option<Permit> {
    (user.server_name() == server).then(|| Permit::audited("event.read", user, server))
}

/// A server that this one talks with may take keys for its users, as its users could here.
pub fn server_may_claim(server: &ServerName) -> Permit {
    Permit::audited("keys.claimed", server, "")
}

/// What a server sends in the name of one of its own users reaches devices, as what is sent here.
/// None if the user is another server's.
pub fn server_may_send_to_devices(server: &ServerName, sender: &UserId) -> Option<Permit> {
    let speaks_for = sender.server_name() == server;
    speaks_for.then(|| Permit::audited("to_device.received", server, sender))
}

/// Whoever is signed in may send messages to devices; receivers judge them by who sent them.
pub fn may_send_to_devices(caller: &Caller) -> Permit {
    Permit::audited("to_device.sent", &caller.user_id, &caller.device_id)
}
