//! Out of a room without having seen it coming: somebody was put out by a server that did not know that
//! they had come in.

use std::collections::BTreeMap;
use std::sync::Arc;

use appliance_ledger::Root;
use appliance_model::ruma::UserId;
use appliance_model::ruma::events::TimelineEventType;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::{Error, Pdu};
use appliance_rules::inbound::{Standing, judge_by_auth_events};

use super::receive::{How, Inflow};
use crate::rooms::arrive::Arrival;
use crate::rooms::room::membership_of;

impl Inflow<'_> {
    /// Whether somebody of the server that sends it puts one of our users out.
    pub(super) fn puts_ours_out(&self, pdu: &Pdu) -> bool {
        let target = pdu.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
        pdu.kind == TimelineEventType::RoomMember
            && pdu.sender.server_name() == self.source.server
            && target
                .is_some_and(|target| self.rooms.house.is_ours(target) && *target != pdu.sender)
            && matches!(membership_of(pdu), MembershipState::Leave | MembershipState::Ban)
    }

    /// Somebody puts one of ours out and lets this server see nothing of what came before, because it is
    /// not in the room as far as they know: ours came in where they could not see it. Whoever may put
    /// people out by all that is known here is believed. Else ours would go on talking to nobody.
    pub(super) async fn shown_out(&mut self, pdu: Pdu, refused: Error) -> Result<Standing, Error> {
        self.flush().await?;
        self.enter_with(&pdu, How::Live).await?;
        let Some(open) = self.open.as_mut() else { return Err(refused) };
        let Ok(allowing) = open.allowing(&pdu).await else { return Err(refused) };
        let now = Root(open.head.state_root);
        let rules = &open.rules.authorization;
        if open.foreign_among(&pdu.auth_events).await?.is_some()
            || judge_by_auth_events(&pdu, &allowing, rules).is_err()
            || open.judged_at(now, &pdu).await?.is_err()
        {
            return Err(refused);
        }
        let missing = self.rooms.unplaced(&pdu.prev_events, &BTreeMap::new()).await?;
        let mut commit = open.begin(Standing::Accepted.permit(&pdu));
        let arrival = Arrival { missing, ..Arrival::at(now) };
        open.append(&Arc::new(pdu), arrival, &mut commit).await?;
        open.resume(commit);
        self.flush().await?;
        Ok(Standing::Accepted)
    }
}
