//! Short numbers for long names. They never leave the appliance.

macro_rules! nid {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    )*};
}

nid! {
    /// The number of a committed change. Positions only grow; the sync token is a position.
    Position
    /// A room, by number.
    RoomNid
    /// A user, local or remote, by number.
    UserNid
    /// A device of a local user, by number.
    DeviceNid
    /// An event, by number.
    EventNid
    /// A pair of state event type and state key, by number.
    StateKeyNid
    /// An uploaded file, by number.
    MediaNid
}

impl StateKeyNid {
    /// Whether it is the key of a member event.
    pub fn is_member(self) -> bool {
        self.0 & 1 == 1
    }
}
