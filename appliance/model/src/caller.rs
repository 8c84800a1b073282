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
    /// What kind of session this is.
    pub class: SessionClass,
}

/// What kind of session it is: decided when it begins, changed by an administrator's enrolment code
/// only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SessionClass {
    /// A device that the hospital looks after.
    Managed,
    /// Any other: somebody's own phone.
    #[default]
    Unmanaged,
    /// A browser on a shared machine.
    BrowserKiosk,
    /// A program.
    Bot,
    /// A user of another server.
    PeerUser,
}

impl SessionClass {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Managed, Self::Unmanaged, Self::BrowserKiosk, Self::Bot, Self::PeerUser];

    /// The word in settings, policies and what people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Managed => "managed",
            Self::Unmanaged => "unmanaged",
            Self::BrowserKiosk => "browser-kiosk",
            Self::Bot => "bot",
            Self::PeerUser => "peer-user",
        }
    }

    /// The class of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == word)
    }
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
