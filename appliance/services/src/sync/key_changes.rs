//! `GET /keys/changes` ([spec]): whose device lists changed between two syncs, for a client that
//! has missed what was said in between.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges

use std::sync::Arc;
use std::time::Duration;

use appliance_ledger::membership;
use appliance_ledger::rows::MembershipRow;
use appliance_model::ruma::presence::PresenceState;
use appliance_model::{Caller, Error, RoomNid};

use super::devices::Company;
use super::v3::Round;
use super::write::{Answer, StateForm};
use super::{Sync, SyncRequest, Token};

impl Sync {
    /// Users whose device lists changed after `from` up to `to` or who came to share a room with the
    /// caller, and users who share none any more: what a sync over the same stretch would say.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn key_changes(
        &self,
        caller: &Caller,
        from: Token,
        to: Token,
    ) -> Result<(Vec<String>, Vec<String>), Error> {
        let upto = to.position.min(self.house.ledger.position());
        let request = SyncRequest {
            since: Some(from),
            filter: Arc::default(),
            full_state: false,
            timeout: Duration::ZERO,
            state_form: StateForm::Before,
            presence: PresenceState::Offline,
        };
        let round = Round { sync: self, caller, request: &request, upto };
        let subscription = self.waiters.subscribe(caller.user);
        let memberships = self.memberships(caller, &subscription).await?;
        let mut answer = Answer::default();
        if from.position < upto {
            for (room, row) in memberships.iter().filter(|(_, row)| row.since <= upto.0) {
                round.note_company_of(*room, row, &mut answer.company).await?;
            }
            round.add_device_lists(&memberships, &mut answer).await?;
        }
        Ok(answer.device_lists.unwrap_or_default())
    }
}

impl Round<'_> {
    async fn note_company_of(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        company: &mut Company,
    ) -> Result<(), Error> {
        let Some(since) = self.since() else { return Ok(()) };
        let moved = row.since > since.0;
        match row.membership {
            membership::JOIN if moved => {
                company.met.extend(self.sync.rooms.members_now(room).await?);
            }
            membership::JOIN => {
                let before = self.state_at(room, since).await?;
                let after = self.state_at(room, self.upto).await?;
                let changes = self.sync.house.ledger.states(room).changes(before, after).await?;
                self.note_company(&changes, company).await?;
            }
            membership::LEAVE | membership::BAN if moved => {
                company.parted.extend(self.sync.rooms.members_now(room).await?);
            }
            _ => {}
        }
        Ok(())
    }
}
