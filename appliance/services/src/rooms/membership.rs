//! Joining, leaving, inviting: member events that people cause.

use appliance_ledger::keyspaces::ACCOUNTS;
use appliance_model::ruma::events::TimelineEventType;
use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::ruma::{RoomId, UserId};
use appliance_model::{Caller, Error};

use super::Rooms;
use super::build::Draft;
use super::room::member_content;

/// What a caller wants someone's membership to be.
pub struct Move<'a> {
    /// Whose.
    pub target: &'a UserId,
    /// What it should be.
    pub to: MembershipState,
    /// Why.
    pub reason: Option<String>,
}

impl Rooms {
    /// What a local user's own member event says: membership and, if set, name and picture.
    pub(super) async fn joining_content(
        &self,
        caller: &Caller,
    ) -> Result<RoomMemberEventContent, Error> {
        let mut content = RoomMemberEventContent::new(MembershipState::Join);
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
    /// As [`Rooms::move_member`].
    pub async fn renew_member(&self, caller: &Caller, room_id: &RoomId) -> Result<(), Error> {
        let mut room = self.enter(room_id).await?;
        if room.membership(&caller.user_id).await? != Some(MembershipState::Join) {
            return Ok(());
        }
        let content = self.joining_content(caller).await?;
        let draft = Draft::state(
            caller.user_id.clone(),
            TimelineEventType::RoomMember,
            caller.user_id.as_str(),
            member_content(&content)?,
        );
        room.add(draft, None).await?;
        room.leave().await?;
        Ok(())
    }

    /// Changes a membership.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: this server does not know the room.
    /// * [`appliance_model::Kind::Forbidden`]: the room's rules refuse it.
    pub async fn move_member(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        change: Move<'_>,
    ) -> Result<(), Error> {
        let mut room = self.enter(room_id).await?;
        let mut content = match change.to {
            MembershipState::Join => self.joining_content(caller).await?,
            other => RoomMemberEventContent::new(other),
        };
        content.reason = change.reason;
        let draft = Draft::state(
            caller.user_id.clone(),
            TimelineEventType::RoomMember,
            change.target.as_str(),
            member_content(&content)?,
        );
        room.add(draft, None).await?;
        room.leave().await?;
        Ok(())
    }
}
