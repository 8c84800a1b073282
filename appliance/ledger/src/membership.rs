//! Codes for memberships, as keys and rows keep them.

use appliance_model::ruma::events::room::member::MembershipState;

/// `join`.
pub const JOIN: u8 = 1;
/// `invite`.
pub const INVITE: u8 = 2;
/// `knock`.
pub const KNOCK: u8 = 3;
/// `leave`.
pub const LEAVE: u8 = 4;
/// `ban`.
pub const BAN: u8 = 5;

/// The code of a membership. Unknown memberships count as `leave`: they give no rights.
pub fn code(membership: &MembershipState) -> u8 {
    match membership {
        MembershipState::Join => JOIN,
        MembershipState::Invite => INVITE,
        MembershipState::Knock => KNOCK,
        MembershipState::Ban => BAN,
        _ => LEAVE,
    }
}

/// The membership of a code.
pub fn state(code: u8) -> MembershipState {
    match code {
        JOIN => MembershipState::Join,
        INVITE => MembershipState::Invite,
        KNOCK => MembershipState::Knock,
        BAN => MembershipState::Ban,
        _ => MembershipState::Leave,
    }
}
