//! What member events of local users say, and renewing one's own.

use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::ruma::{RoomId, UserId};
use appliance_model::{Caller, Error, Kind};

use super::Rooms;
use super::room::OpenRoom;
use crate::appservices::ask::user_is_made;

/// A reason is a sentence, not a document; the event would be refused at 64 KB anyway.
const REASON_BYTES_MAX: usize = 4_000;

impl Rooms {
    /// What a local user's own member event says: membership and, if set, name and picture.
    pub(crate) async fn joining_content(
        &self,
        caller: &Caller,
    ) -> Result<RoomMemberEventContent, Error> {
        self.own_content(caller, MembershipState::Join).await
    }

    /// The same with another membership.
    pub(crate) async fn own_content(
        &self,
        caller: &Caller,
        membership: MembershipState,
    ) -> Result<RoomMemberEventContent, Error> {
        let mut content = RoomMemberEventContent::new(membership);
        if let Some(account) = self.house.ledger.get(&ACCOUNTS, &caller.user).await? {
            content.displayname = account.displayname;
            content.avatar_url = account.avatar_url.map(Into::into);
        }
        Ok(content)
    }

    /// Renews the caller's own member event with their present name and picture.
    ///
    /// # Errors
    ///
    /// As [`Rooms::join`].
    pub async fn renew_member(&self, caller: &Caller, room_id: &RoomId) -> Result<(), Error> {
        let mut room = self.enter(room_id).await?;
        if room.membership(&caller.user_id).await? != Some(MembershipState::Join) {
            return Ok(());
        }
        let content = self.joining_content(caller).await?;
        room.add_member(&caller.user_id, &caller.user_id, &content).await?;
        room.leave().await?;
        Ok(())
    }

    /// A user of an application service may be made when first asked for.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(super) async fn summon(&self, user_id: &UserId) -> Result<(), Error> {
        let house = &self.house;
        if !house.is_ours(user_id) || house.appservices.is_empty() {
            return Ok(());
        }
        let known = match house.ledger.user(user_id).await? {
            Some(user) => house.ledger.get(&ACCOUNTS, &user).await?.is_some(),
            None => false,
        };
        if !known {
            user_is_made(house, user_id).await;
        }
        Ok(())
    }

    /// The content of an invite: users of other servers can always be invited, ours if they exist.
    /// Name and picture come along, so that the room sees who is meant.
    ///
    /// An invite to a name nobody has would be waiting for whoever registers it later, so it is
    /// refused, while the specification leaves both open ([matrix-spec#2139]).
    ///
    /// [matrix-spec#2139]: https://github.com/matrix-org/matrix-spec/issues/2139
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such user, [`Kind::InviteBlocked`] if they take no invites.
    pub(super) async fn invite_content(
        &self,
        user_id: &UserId,
    ) -> Result<RoomMemberEventContent, Error> {
        let mut content = RoomMemberEventContent::new(MembershipState::Invite);
        if !self.house.is_ours(user_id) {
            return Ok(content);
        }
        let ledger = &self.house.ledger;
        let user = ledger.user(user_id).await?;
        let account = match user {
            Some(user) => ledger.get(&ACCOUNTS, &user).await?,
            None => None,
        };
        let nobody = || Error::not_found(format!("There is no user {user_id} on this server."));
        let account = account.filter(|account| !account.deactivated).ok_or_else(nobody)?;
        if let Some(user) = user
            && self.blocks_invites(user).await?
        {
            return Err(Error::new(Kind::InviteBlocked, format!("{user_id} takes no invites.")));
        }
        content.displayname = account.displayname;
        content.avatar_url = account.avatar_url.map(Into::into);
        Ok(content)
    }
}

/// Checks a reason that goes into a member event.
pub(super) fn checked_reason(reason: Option<String>) -> Result<Option<String>, Error> {
    match reason {
        Some(reason) if reason.len() > REASON_BYTES_MAX => {
            Err(Error::too_large("A reason has at most 4000 bytes."))
        }
        reason => Ok(reason.filter(|reason| !reason.is_empty())),
    }
}

/// Checks that the caller is in the room: those who are not learn nothing of who is.
pub(crate) async fn check_inside(room: &OpenRoom<'_>, who: &UserId) -> Result<(), Error> {
    match room.membership(who).await? {
        Some(MembershipState::Join) => Ok(()),
        _ => Err(room.refuse(who, "You are not in this room.").await),
    }
}
