//! Encryption between devices: who may take another's one-time keys, who may send to devices.

use appliance_model::Caller;

use crate::permit::Permit;

/// Whoever is signed in may begin an encrypted session with anyone: the key that is taken lets the
/// other decrypt, it does not let the taker read anything. The trail says who and from which
/// device.
pub fn may_claim(caller: &Caller) -> Permit {
    Permit::audited("keys.claimed", &caller.user_id, &caller.device_id)
}

/// Whoever is signed in may send messages to devices; receivers judge them by who sent them.
pub fn may_send_to_devices(caller: &Caller) -> Permit {
    Permit::audited("to_device.sent", &caller.user_id, &caller.device_id)
}
