//! Whose device list changed since when: new or removed devices, new names, new keys, new
//! signatures.

use std::sync::PoisonError;

use appliance_ledger::keyspaces::{DEVICE_LIST_CHANGES, DEVICE_LISTS};
use appliance_ledger::{Commit, Direction};
use appliance_model::{Error, Position, UserNid};

use super::{KeyNews, Keys};

/// Users per page of the index.
const PAGE: usize = 1_000;
/// Above this many positions kept in memory, those that can be read from the store are dropped.
const CHANGES_KEPT_MAX: usize = 4_096;

impl Keys {
    /// Records in `commit` that a local user's device list changes with it, and owes the news to the
    /// servers that share a room with them.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn device_list_changed(
        &self,
        user: UserNid,
        news: KeyNews,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        self.tell_servers(user, news, commit).await?;
        self.list_moved(user, commit).await
    }

    /// Records in `commit` that a device list changes with it, for those who sync. The user's earlier
    /// change is forgotten, so that there are never more changes than users.
    pub(super) async fn list_moved(&self, user: UserNid, commit: &mut Commit) -> Result<(), Error> {
        commit.touched().device_lists.push(user);
        let stored = self.house.ledger.get(&DEVICE_LISTS, &user).await?.map(Position);
        let (changed, published) = (self.changed.clone(), self.house.ledger.position());
        commit.stamp(move |position, rows| {
            // Commits are stamped in their order, so this is the change right before ours, even if
            // it is still on its way to the store.
            let mut changed = changed.lock().unwrap_or_else(PoisonError::into_inner);
            if changed.len() > CHANGES_KEPT_MAX {
                changed.retain(|_, position| *position > published);
            }
            let before = changed.insert(user, position);
            for superseded in [stored, before].into_iter().flatten() {
                rows.delete(&DEVICE_LIST_CHANGES, &(superseded, user));
            }
            rows.put(&DEVICE_LIST_CHANGES, &(position, user), &());
            rows.put(&DEVICE_LISTS, &user, &position.0);
        });
        Ok(())
    }

    /// Users whose device lists changed after `after`, up to and including `upto`, in the order of
    /// their newest change.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn device_list_changes(
        &self,
        after: Position,
        upto: Position,
    ) -> Result<Vec<UserNid>, Error> {
        let mut users = Vec::new();
        let end = Position(upto.0.saturating_add(1));
        let mut from = (Position(after.0.saturating_add(1)), UserNid(0));
        loop {
            let view = self.house.ledger.newest();
            let range = (&from, &(end, UserNid(0)));
            let (rows, more) =
                view.scan_between(&DEVICE_LIST_CHANGES, range, Direction::Forward, PAGE).await?;
            users.extend(rows.iter().map(|((_, user), ())| *user));
            match rows.last() {
                Some(((position, user), ())) if more => from = (*position, UserNid(user.0 + 1)),
                _ => return Ok(users),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use appliance_rules::Permit;

    use super::*;
    use crate::scenario::Ward;

    async fn change(keys: &Keys, users: &[UserNid]) -> Position {
        let mut commit = keys.house.ledger.begin(Permit::housekeeping());
        for user in users {
            keys.list_moved(*user, &mut commit).await.unwrap();
        }
        keys.house.ledger.commit(commit).await.unwrap()
    }

    #[tokio::test]
    async fn each_user_is_listed_once_at_the_newest_change() {
        let ward = Ward::new().await;
        let keys = &ward.services.keys;
        let [a, b] = [UserNid(1_001), UserNid(1_002)];
        let start = keys.house.ledger.position();
        let first = change(keys, &[a, b, a]).await;
        assert_eq!(keys.device_list_changes(start, first).await.unwrap(), [b, a]);
        let second = change(keys, &[a]).await;
        assert_eq!(keys.device_list_changes(start, second).await.unwrap(), [b, a]);
        assert_eq!(keys.device_list_changes(first, second).await.unwrap(), [a]);
        assert_eq!(keys.device_list_changes(start, first).await.unwrap(), [b], "a moved on");
        assert_eq!(keys.device_list_changes(second, second).await.unwrap(), []);

        let ward = ward.power_cut_and_restart().await;
        let third = change(&ward.services.keys, &[b]).await;
        let all = ward.services.keys.device_list_changes(start, third).await.unwrap();
        assert_eq!(all, [a, b], "what superseded what survives a restart");
    }

    #[tokio::test]
    async fn changes_in_one_group_of_commits_supersede_each_other() {
        let ward = Ward::new().await;
        let keys = &ward.services.keys;
        let (a, start) = ([UserNid(1_001)], keys.house.ledger.position());
        let together = (0..20).map(|_| change(keys, &a));
        let positions = futures_util::future::join_all(together).await;
        let newest = positions.into_iter().max().unwrap();
        assert_eq!(keys.device_list_changes(start, newest).await.unwrap(), a);
    }
}
