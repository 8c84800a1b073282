//! What a sync tells a device for encryption: messages to it, how many keys it has left, and whose
//! device lists changed ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#extensions-to-sync-1

use std::collections::BTreeSet;

use appliance_ledger::membership;
use appliance_ledger::rows::MembershipRow;
use appliance_ledger::state::Change;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::{Error, Position, RoomNid, UserNid};

use super::look::Look;
use super::wait::{Memberships, News, RoomNews, joined_rooms};
use super::write::List;
use crate::rooms::membership_set_by;

/// Users who began or ceased to share a room with the caller, as far as one look tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Company {
    /// They may be new.
    pub met: BTreeSet<UserNid>,
    /// They may be gone.
    pub parted: BTreeSet<UserNid>,
}

/// What a device has left of keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyCounts {
    /// Unclaimed one-time keys by algorithm. Always explicit, zero included.
    pub one_time: Vec<(String, u64)>,
    /// Algorithms with a fallback key that was not given out yet.
    pub unused_fallbacks: Vec<String>,
}

/// Whose keys are to be fetched anew, and whose not be kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceLists {
    /// Their devices may be others now.
    pub changed: Vec<String>,
    /// They share no room with the caller any more.
    pub left: Vec<String>,
}

impl Look<'_> {
    /// What the caller's device has left of keys.
    pub async fn key_counts(&self) -> Result<KeyCounts, Error> {
        let (counts, unused_fallbacks) = self.sync.keys.counts(self.caller.device).await?;
        Ok(KeyCounts { one_time: counts.into_iter().collect(), unused_fallbacks })
    }

    /// Whether the device may have news of its own, among which are other counts.
    pub fn device_news(&self) -> bool {
        let news = |since| self.sync.waiters.device_news(self.caller.device, since);
        self.since.is_some_and(|since| news(since) == News::Perhaps)
    }

    /// Messages to the device, and up to where they were delivered. What is `acknowledged` is
    /// deleted: "Once the client has acknowledged …, the server can safely delete".
    pub async fn to_device(
        &self,
        acknowledged: Option<Position>,
        limit: usize,
    ) -> Result<(List, Position), Error> {
        let (keys, device) = (&self.sync.keys, self.caller.device);
        if let Some(upto) = acknowledged {
            if !self.sync.waiters.is_emptied(device) {
                keys.acknowledge(device, upto).await?;
                self.sync.waiters.note_emptied(device, upto.min(self.upto));
            }
            if self.sync.waiters.device_news(device, upto) == News::None {
                return Ok((List::default(), self.upto.max(upto)));
            }
        }
        let after = acknowledged.unwrap_or_default();
        let (messages, more) = keys.to_device(device, after, self.upto, limit).await?;
        let mut list = List::default();
        for (_, message) in &messages {
            list.push_json(message.get());
        }
        let last = messages.last().map(|(position, _)| *position);
        Ok((list, last.filter(|_| more).unwrap_or(self.upto.max(after))))
    }

    /// Who began or ceased to be in a room, of those whom the caller shares it with.
    pub async fn note_company(
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

    /// Who came and went in one of the caller's rooms.
    pub async fn note_company_of(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        company: &mut Company,
    ) -> Result<(), Error> {
        let Some(since) = self.since else { return Ok(()) };
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
            membership::LEAVE | membership::BAN if self.was_in(row) => {
                company.parted.extend(self.sync.rooms.members_now(room).await?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether someone who is out of a room was in it when the client last heard.
    pub fn was_in(&self, row: &MembershipRow) -> bool {
        self.since.zip(row.joined_until).is_some_and(|(since, until)| since.0 < until)
    }

    /// Who came and went in all of the caller's rooms.
    pub async fn company(&self, memberships: &Memberships) -> Result<Company, Error> {
        let mut company = Company::default();
        let Some(since) = self.since else { return Ok(company) };
        let rooms = joined_rooms(memberships).into_iter();
        let news = self.sync.waiters.rooms_with_news(self.caller.user, rooms, since);
        let stirred = |room| news.get(room).is_some_and(|n: &RoomNews| n.timeline != News::None);
        for (room, row) in memberships.iter().filter(|(_, row)| row.since <= self.upto.0) {
            if row.since > since.0 || stirred(room) {
                self.note_company_of(*room, row, &mut company).await?;
            }
        }
        Ok(company)
    }

    /// "changed: users who have updated their device identity … or who now share an encrypted room;
    /// left: users with whom we do not share any encrypted rooms anymore". All shared rooms count:
    /// a room may become encrypted later.
    pub async fn device_lists(
        &self,
        memberships: &Memberships,
        mut company: Company,
    ) -> Result<Option<DeviceLists>, Error> {
        let Some(since) = self.since else { return Ok(None) };
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
        company.met.remove(&self.caller.user);
        company.parted.remove(&self.caller.user);
        let parted = company.parted;
        let still_here = self.sync.rooms.found_in(&rooms, parted.iter().copied().collect()).await?;
        let left = parted.difference(&still_here).copied().collect();
        changed.extend(company.met);
        let lists = DeviceLists {
            changed: self.user_ids(changed).await?,
            left: self.user_ids(left).await?,
        };
        Ok(Some(lists).filter(|lists| !lists.changed.is_empty() || !lists.left.is_empty()))
    }

    async fn user_ids(&self, users: BTreeSet<UserNid>) -> Result<Vec<String>, Error> {
        let mut ids = Vec::with_capacity(users.len());
        for user in users {
            ids.push(self.sync.house.ledger.user_id(user).await?.to_string());
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use appliance_ledger::Direction;
    use appliance_ledger::keyspaces::TO_DEVICE;
    use appliance_ledger::rows::keys::ToDeviceRow;
    use appliance_model::DeviceNid;
    use serde_json::json;

    use super::*;
    use crate::keys::scene::to_device;
    use crate::scenario::Ward;
    use crate::sync::tests::{ask, request};

    /// Also after it was known for a while that none was there.
    #[tokio::test]
    async fn each_message_is_given_until_it_is_acknowledged_and_then_deleted() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let left = async || {
            let view = ward.services.house.ledger.newest();
            type Queued = ((DeviceNid, Position), ToDeviceRow);
            let (rows, _): (Vec<Queued>, _) =
                view.scan(&TO_DEVICE, &(), Direction::Forward, 10).await.unwrap();
            rows.len()
        };
        let mut since = ask(&ward, &doctor, &request(None, json!({}))).await["next_batch"].clone();
        for round in ["1", "2", "3"] {
            for _ in 0..2 {
                let idle = ask(&ward, &doctor, &request(Some(&since), json!({}))).await;
                since = idle["next_batch"].clone();
            }
            let messages = json!({ doctor.user_id.as_str(): { "*": { "round": round } } });
            ward.services
                .keys
                .send_to_device(&nurse, &to_device("m.test", round, messages))
                .await
                .unwrap();
            for _ in 0..2 {
                let news = ask(&ward, &doctor, &request(Some(&since), json!({}))).await;
                assert_eq!(news["to_device"]["events"][0]["content"]["round"], round);
                assert_eq!(left().await, 1);
            }
            let news = ask(&ward, &doctor, &request(Some(&since), json!({}))).await;
            since = news["next_batch"].clone();
            let acknowledged = ask(&ward, &doctor, &request(Some(&since), json!({}))).await;
            assert_eq!(acknowledged["to_device"]["events"].as_array().map_or(0, Vec::len), 0);
            assert_eq!(left().await, 0, "round {round}");
        }
    }
}
