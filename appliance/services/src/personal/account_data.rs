//! Account data ([spec]): settings that a user's clients share, global or for one room.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#client-config
//!
//! One row per user, room (zero: global) and type, and one index row per change, so that a sync
//! reads only what changed. A newer value removes the index row of the older.

use appliance_ledger::keyspaces::{ACCOUNT_DATA, ACCOUNT_DATA_CHANGES};
use appliance_ledger::rows::{AccountDataRow, ChangedDataRow};
use appliance_ledger::{Commit, Direction};
use appliance_model::{Error, Position, RoomNid, UserNid};
use appliance_rules::Permit;

use super::Personal;

/// One value, as large as an event may be.
const CONTENT_BYTES_MAX: usize = 65_536;
/// "Event types … 255 bytes".
const TYPE_BYTES_MAX: usize = 255;
/// Values that one user may keep, global and of all rooms.
const CHANGES_PAGE: usize = 10_000;

/// A value that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountDatum {
    /// The room, if it is one room's.
    pub room: Option<RoomNid>,
    /// The event type.
    pub kind: String,
    /// The content, as JSON.
    pub content: String,
}

impl AccountDatum {
    /// The event that clients see.
    pub fn event(&self) -> String {
        let kind = serde_json::Value::from(self.kind.as_str());
        format!(r#"{{"content":{},"type":{kind}}}"#, self.content)
    }
}

impl Personal {
    /// Sets a value. The same content again changes nothing and wakes nobody.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::TooLarge`] beyond 64 KB.
    pub async fn set_account_data(
        &self,
        (user, who): (UserNid, &str),
        room: Option<RoomNid>,
        kind: &str,
        content: &str,
    ) -> Result<(), Error> {
        if content.len() > CONTENT_BYTES_MAX || kind.len() > TYPE_BYTES_MAX {
            return Err(Error::too_large("Account data is at most 65536 bytes, its type 255."));
        }
        // Two clients of one user may write at once: the index must follow the value.
        let inside = self.doors.enter(user.0).await;
        let key = (user, room.unwrap_or_default(), kind.to_owned());
        let old = self.house.ledger.get(&ACCOUNT_DATA, &key).await?;
        let is_now = |old: &AccountDataRow| old.content == content && old.deleted != Some(true);
        if old.as_ref().is_some_and(is_now) {
            return Ok(());
        }
        let mut commit = self.house.ledger.begin(Permit::own("account_data.set", who, kind));
        write(&mut commit, key, old, Some(content.to_owned()));
        commit.hold(inside);
        self.house.ledger.commit(commit).await?;
        Ok(())
    }

    /// Deletes a value ([MSC3391]). Clients that knew it hear of it once, as an empty object.
    ///
    /// [MSC3391]: https://github.com/matrix-org/matrix-spec-proposals/pull/3391
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn delete_account_data(
        &self,
        (user, who): (UserNid, &str),
        room: Option<RoomNid>,
        kind: &str,
    ) -> Result<(), Error> {
        let inside = self.doors.enter(user.0).await;
        let key = (user, room.unwrap_or_default(), kind.to_owned());
        let old = self.house.ledger.get(&ACCOUNT_DATA, &key).await?;
        if old.as_ref().is_none_or(|old| old.deleted == Some(true)) {
            return Ok(());
        }
        let mut commit = self.house.ledger.begin(Permit::own("account_data.deleted", who, kind));
        write(&mut commit, key, old, None);
        commit.hold(inside);
        self.house.ledger.commit(commit).await?;
        Ok(())
    }

    /// A value, if it was ever set and not deleted.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn account_data(
        &self,
        user: UserNid,
        room: Option<RoomNid>,
        kind: &str,
    ) -> Result<Option<String>, Error> {
        let key = (user, room.unwrap_or_default(), kind.to_owned());
        let row = self.house.ledger.get(&ACCOUNT_DATA, &key).await?;
        Ok(row.filter(|row| row.deleted != Some(true)).map(|row| row.content))
    }

    /// Whether a user ignores another ([spec]).
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#ignoring-users
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn ignores(&self, user: UserNid, other: &str) -> Result<bool, Error> {
        let list = self.account_data(user, None, "m.ignored_user_list").await?;
        let Some(list) = list.filter(|list| list.contains(other)) else { return Ok(false) };
        let list: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
        Ok(list["ignored_users"].get(other).is_some())
    }

    /// All values of one room, deleted ones as the empty objects that tell of their end.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn room_account_data(
        &self,
        user: UserNid,
        room: RoomNid,
    ) -> Result<Vec<AccountDatum>, Error> {
        let ledger = self.house.ledger.newest();
        let (rows, _) =
            ledger.scan(&ACCOUNT_DATA, &(user, room), Direction::Forward, CHANGES_PAGE).await?;
        let datum = |((_, room, kind), row): ((UserNid, RoomNid, String), AccountDataRow)| {
            AccountDatum { room: Some(room), kind, content: row.content }
        };
        Ok(rows.into_iter().map(datum).collect())
    }

    /// What changed after `after`, up to `upto`, oldest first.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn account_data_changes(
        &self,
        user: UserNid,
        after: Position,
        upto: Position,
    ) -> Result<Vec<AccountDatum>, Error> {
        let ledger = self.house.ledger.newest();
        let bounds = ((user, Position(after.0 + 1)), (user, Position(upto.0 + 1)));
        let (changes, _) = ledger
            .scan_between(
                &ACCOUNT_DATA_CHANGES,
                (&bounds.0, &bounds.1),
                Direction::Forward,
                CHANGES_PAGE,
            )
            .await?;
        let keys: Vec<_> =
            changes.into_iter().map(|(_, row)| (user, RoomNid(row.room), row.kind)).collect();
        let rows = ledger.get_many(&ACCOUNT_DATA, &keys).await?;
        let datum = |((_, room, kind), row): (_, Option<AccountDataRow>)| {
            let room: RoomNid = room;
            let row = row?;
            // Who starts anew never knew it.
            if row.deleted == Some(true) && after == Position(0) {
                return None;
            }
            let content = row.content;
            Some(AccountDatum { room: (room != RoomNid::default()).then_some(room), kind, content })
        };
        Ok(keys.into_iter().zip(rows).filter_map(datum).collect())
    }
}

/// Writes a value, or that there is none any more, in place of the old one.
pub(super) fn write(
    commit: &mut Commit,
    key: (UserNid, RoomNid, String),
    old: Option<AccountDataRow>,
    content: Option<String>,
) {
    let user = key.0;
    commit.touched().users.push(user);
    if let Some(old) = old {
        commit.delete(&ACCOUNT_DATA_CHANGES, &(user, Position(old.position)));
    }
    commit.stamp(move |position, rows| {
        let change = ChangedDataRow { room: key.1.0, kind: key.2.clone() };
        rows.put(&ACCOUNT_DATA_CHANGES, &(user, position), &change);
        let deleted = content.is_none().then_some(true);
        let content = content.unwrap_or_else(|| "{}".to_owned());
        let row = AccountDataRow { content, position: position.0, deleted };
        rows.put(&ACCOUNT_DATA, &key, &row);
    });
}
