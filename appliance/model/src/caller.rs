//! Who is asking.

use std::sync::Arc;

use ruma::{OwnedDeviceId, OwnedUserId};

use crate::{DeviceNid, UserNid};

/// A signed-in user on one of their devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user_id: OwnedUserId,
    /// The user, by number.
    pub user: UserNid,
    /// The device whose access token was shown.
    pub device_id: OwnedDeviceId,
    /// The device, by number.
    pub device: DeviceNid,
    /// What kind of account this is.
    pub role: Role,
    /// The application service that speaks as them, by its ID. It may name no device: then
    /// `device_id` is empty, and `device` is a number that no device has.
    pub appservice: Option<Arc<str>>,
}

/// What an account may do beyond its rooms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// A member of staff.
    #[default]
    User,
    /// May use the administration endpoints.
    Administrator,
    /// Suspended by an administrator: reads and leaves, but says nothing.
    Suspended,
}
