//! Who may see an event: [history visibility], judged on the state at the event.
//!
//! [history visibility]: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility

use appliance_model::ruma::events::room::history_visibility::HistoryVisibility;
use appliance_model::ruma::events::room::member::MembershipState;

/// What decides about one event, on one side of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The visibility in force.
    pub visibility: HistoryVisibility,
    /// The reader's membership; `leave` if they never had one.
    pub membership: MembershipState,
}

/// Whether a reader may see an event.
///
/// `before` and `after` are the state before the event and with it. They differ only for events
/// that set the visibility or the reader's own membership. `joined_later` says whether the reader
/// joined (and was not out again) at any point after the event.
pub fn may_see(before: &Side, after: &Side, joined_later: bool) -> bool {
    // "For m.room.history_visibility events themselves, the user should be allowed to see the event
    // if the history_visibility before *or* after the event would allow them to see it. … Likewise,
    // for the user's own m.room.member events, … if their membership before *or* after".
    side_allows(before, joined_later)
        || side_allows(after, joined_later)
        || ends_a_call(before, after)
}

fn side_allows(side: &Side, joined_later: bool) -> bool {
    match (&side.visibility, &side.membership) {
        // 1. "If the history_visibility was set to world_readable, allow."
        (HistoryVisibility::WorldReadable, _) => true,
        // 2. "If the user's membership was join, allow."
        (_, MembershipState::Join) => true,
        // 4. "If the user's membership was invite, and the history_visibility was set to invited,
        // allow."
        (HistoryVisibility::Invited, membership) => *membership == MembershipState::Invite,
        (HistoryVisibility::Joined, _) => false,
        // 3. "If history_visibility was set to shared, and the user joined the room at any point
        // after the event was sent, allow." And: "if the value is not understood, the visibility is
        // assumed to be shared".
        (_, _) => joined_later,
    }
}

/// The event that takes an invite or a knock back was already shown to the reader's devices as the
/// end of that invite; hiding it would leave the invite standing there.
fn ends_a_call(before: &Side, after: &Side) -> bool {
    let called = matches!(before.membership, MembershipState::Invite | MembershipState::Knock);
    called && matches!(after.membership, MembershipState::Leave | MembershipState::Ban)
}

#[cfg(test)]
mod tests {
    use super::*;

    use HistoryVisibility as V;
    use MembershipState as M;

    fn side(visibility: &V, membership: &M) -> Side {
        Side { visibility: visibility.clone(), membership: membership.clone() }
    }

    /// An event that changes neither visibility nor the reader's membership.
    fn plain(visibility: &V, membership: &M, joined_later: bool) -> bool {
        let side = side(visibility, membership);
        may_see(&side, &side, joined_later)
    }

    const MEMBERSHIPS: [M; 5] = [M::Join, M::Invite, M::Knock, M::Leave, M::Ban];

    #[test]
    fn every_visibility_with_every_membership() {
        for membership in &MEMBERSHIPS {
            let (joined, invited) = (*membership == M::Join, *membership == M::Invite);
            for later in [false, true] {
                assert!(plain(&V::WorldReadable, membership, later));
                assert_eq!(plain(&V::Shared, membership, later), joined || later);
                assert_eq!(plain(&V::Invited, membership, later), joined || invited);
                assert_eq!(plain(&V::Joined, membership, later), joined);
            }
        }
    }

    #[test]
    fn a_value_nobody_knows_counts_as_shared() {
        let unknown = V::from("example.staff_only");
        for membership in &MEMBERSHIPS {
            for later in [false, true] {
                let as_shared = plain(&V::Shared, membership, later);
                assert_eq!(plain(&unknown, membership, later), as_shared);
            }
        }
    }

    /// "a user should be able to see m.room.history_visibility events which change the
    /// history_visibility from world_readable to joined *or* from joined to world_readable, even if
    /// that user was not a member".
    #[test]
    fn a_change_of_visibility_is_seen_from_either_side() {
        let (open, closed) = (side(&V::WorldReadable, &M::Leave), side(&V::Joined, &M::Leave));
        assert!(may_see(&open, &closed, false));
        assert!(may_see(&closed, &open, false));
        assert!(!may_see(&closed, &closed, false));
    }

    /// "a user can always see m.room.member events which set their membership to join, or which
    /// change their membership from join to any other value, even if history_visibility is joined".
    #[test]
    fn own_coming_and_going_is_seen() {
        for other in &MEMBERSHIPS[1..] {
            let (inside, outside) = (side(&V::Joined, &M::Join), side(&V::Joined, other));
            assert!(may_see(&inside, &outside, false));
            assert!(may_see(&outside, &inside, false));
        }
        let (invited, out) = (side(&V::Joined, &M::Invite), side(&V::Joined, &M::Leave));
        assert!(may_see(&invited, &out, false), "an invite that ends is seen to end");
        assert!(!may_see(&out, &invited, false), "the invite itself comes with stripped state");
        let banned = side(&V::Joined, &M::Ban);
        assert!(!may_see(&out, &banned, false), "a stranger's ban is not theirs to read");
    }
}
