//! Whom a commit concerns, so that only they wake.

use appliance_model::{DeviceNid, Position, RoomNid, UserNid};

/// The commit's own list of those affected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Rooms with new events.
    pub timelines: Vec<RoomNid>,
    /// Rooms with new receipts.
    pub receipts: Vec<RoomNid>,
    /// Readers whose own receipts moved, and where: their unread counts change.
    pub own_receipts: Vec<(UserNid, RoomNid)>,
    /// Users with something of their own: account data, invites, memberships, device counts.
    pub users: Vec<UserNid>,
    /// Devices with new to-device messages or changed key counts, with their owners.
    pub devices: Vec<(UserNid, DeviceNid)>,
    /// Local users who joined (`true`) or left a room.
    pub memberships: Vec<(UserNid, RoomNid, bool)>,
    /// Users whose device lists or cross-signing keys changed.
    pub device_lists: Vec<UserNid>,
    /// Sessions that ended, with their owners: their waiting requests end too.
    pub ended_devices: Vec<(UserNid, DeviceNid)>,
}

/// Hears of each commit once it is durable and published, in order, before its caller is answered.
/// Must only touch memory.
pub trait Observer: Send + Sync + 'static {
    /// `touched` is about to be published as changed at `position`: who reads up to there later must
    /// know of it. Called for all commits of a group before the group's position is published. The
    /// rows are in the store already.
    fn changing(&self, touched: &Touched, position: Position) {
        let _ = (touched, position);
    }

    /// `touched` changed, up to and including `position`.
    fn committed(&self, touched: &Touched, position: Position);
}

/// Hears nothing. For tools that only read or repair.
#[derive(Clone, Copy, Debug, Default)]
pub struct NobodyListens;

impl Observer for NobodyListens {
    fn committed(&self, _: &Touched, _: Position) {}
}
