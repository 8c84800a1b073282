//! What a sync tells a device for encryption: messages to it, how many keys it has left, and whose
//! device lists changed ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#extensions-to-sync-1

use std::collections::BTreeSet;

use appliance_ledger::state::Change;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::{Error, Position, UserNid};

use super::v3::{Round, joined_rooms};
use super::wait::{Memberships, News};
use super::write::Answer;
use crate::rooms::membership_set_by;

/// Messages of one answer; the token remembers where the next begins.
const TO_DEVICE_MAX: usize = 100;

/// Users who began or ceased to share a room with the caller, as far as one look tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Company {
    /// They may be new.
    pub met: BTreeSet<UserNid>,
    /// They may be gone.
    pub parted: BTreeSet<UserNid>,
}

impl Round<'_> {
    /// Adds messages and counts; returns up to where messages were delivered.
    pub(super) async fn add_to_device(&self, answer: &mut Answer) -> Result<Position, Error> {
        let keys = &self.sync.keys;
        let device = self.caller.device;
        let (counts, unused_fallback_keys) = keys.counts(device).await?;
        answer.one_time_keys = counts.into_iter().collect();
        answer.unused_fallback_keys = unused_fallback_keys;
        let after = match self.request.since {
            Some(token) => {
                // "Once the client has acknowledged …, the server can safely delete".
                keys.acknowledge(device, token.to_device).await?;
                token.to_device
            }
            None => Position(0),
        };
        answer.counts_changed = self
            .since()
            .is_some_and(|since| self.sync.waiters.device_news(device, since) == News::Perhaps);
        let (messages, more) = keys.to_device(device, after, self.upto, TO_DEVICE_MAX).await?;
        for (_, message) in &messages {
            answer.to_device.push_json(message.get());
        }
        let last = messages.last().map(|(position, _)| *position);
        Ok(last.filter(|_| more).unwrap_or(self.upto))
    }

    /// Who began or ceased to be in a room, of those whom the caller shares it with.
    pub(super) async fn note_company(
        &self,
        changes: &[Change],
        company: &mut Company,
    ) -> Result<(), Error> {
        let ledger = &self.sync.house.ledger;
        for (_, before, after) in changes.iter().filter(|(key, ..)| key.is_member()) {
            let Some(after) = after else { continue };
            let event = ledger.event(*after).await?;
            let was_in = match before {
                Some(before) => membership_set_by(&*ledger.event(*before).await?),
                None => MembershipState::Leave,
            } == MembershipState::Join;
            let is_in = membership_set_by(&event) == MembershipState::Join;
            let user_id = event.part(event.spans.state_key).trim_matches('"');
            let Ok(user_id) = user_id.try_into() else { continue };
            let Some(user) = ledger.user(user_id).await? else { continue };
            match (was_in, is_in) {
                (false, true) => company.met.insert(user),
                (true, false) => company.parted.insert(user),
                _ => false,
            };
        }
        Ok(())
    }

    /// "changed: users who have updated their device identity … or who now share an encrypted room;
    /// left: users with whom we do not share any encrypted rooms anymore". All shared rooms count:
    /// a room may become encrypted later.
    pub(super) async fn add_device_lists(
        &self,
        memberships: &Memberships,
        answer: &mut Answer,
    ) -> Result<(), Error> {
        let Some(since) = self.since() else { return Ok(()) };
        let rooms = joined_rooms(memberships);
        let mut changed = BTreeSet::new();
        if self.sync.waiters.device_list_news(since) == News::Perhaps {
            let updated = self.sync.keys.device_list_changes(since, self.upto).await?;
            let own = updated.contains(&self.caller.user).then_some(self.caller.user);
            changed = self.sync.rooms.found_in(&rooms, updated).await?;
            changed.extend(own);
        }
        // Whom the caller has signed on another device is shown otherwise from now on.
        if self.sync.waiters.user_news(self.caller.user, since) == News::Perhaps {
            let signed = self.sync.keys.signed_since(self.caller.user, since, self.upto).await?;
            changed.extend(signed);
        }
        let mut company = std::mem::take(&mut answer.company);
        company.met.remove(&self.caller.user);
        company.parted.remove(&self.caller.user);
        let parted = company.parted;
        let still_here = self.sync.rooms.found_in(&rooms, parted.iter().copied().collect()).await?;
        let left: Vec<_> = parted.difference(&still_here).copied().collect();
        changed.extend(company.met);
        let mut changed_ids = Vec::with_capacity(changed.len());
        for user in changed {
            changed_ids.push(self.sync.house.ledger.user_id(user).await?.to_string());
        }
        let mut left_ids = Vec::with_capacity(left.len());
        for user in left {
            left_ids.push(self.sync.house.ledger.user_id(user).await?.to_string());
        }
        if !changed_ids.is_empty() || !left_ids.is_empty() {
            answer.device_lists = Some((changed_ids, left_ids));
        }
        Ok(())
    }
}
