//! Whom a user ignores ([spec]): their events are left out, for that user alone.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#ignoring-users

use std::collections::{BTreeMap, BTreeSet};

use appliance_ledger::Event;
use appliance_ledger::keyspaces::ACCOUNT_DATA;
use appliance_model::ruma::UserId;
use appliance_model::{Error, RoomNid, UserNid};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Rooms;

const IGNORED_USERS: &str = "m.ignored_user_list";
/// More ignored people than this are not looked at.
const IGNORED_MAX: usize = 10_000;

/// Those whom one user ignores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored(BTreeSet<String>);

impl Ignored {
    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a user is ignored.
    pub fn holds(&self, user_id: &str) -> bool {
        self.0.contains(user_id)
    }

    /// Whether an event is to be left out: "servers MUST still send state events".
    pub fn hides(&self, event: &Event) -> bool {
        !self.is_empty()
            && !event.is_state()
            && self.holds(event.part(event.spans.sender).trim_matches('"'))
    }
}

impl Rooms {
    /// Whom a user ignores.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn ignored(&self, user: UserNid) -> Result<Ignored, Error> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            ignored_users: BTreeMap<String, IgnoredAny>,
        }
        let key = (user, RoomNid::default(), IGNORED_USERS.to_owned());
        let Some(row) = self.house.ledger.get(&ACCOUNT_DATA, &key).await? else {
            return Ok(Ignored::default());
        };
        let content = serde_json::from_str::<Content>(&row.content);
        let ids = content.map(|content| content.ignored_users).unwrap_or_default().into_keys();
        Ok(Ignored(ids.take(IGNORED_MAX).collect()))
    }

    /// The same by number, as far as this server knows them.
    pub(super) async fn ignored_numbers(&self, user: UserNid) -> Result<BTreeSet<u64>, Error> {
        let mut numbers = BTreeSet::new();
        for user_id in self.ignored(user).await?.0 {
            let Ok(user_id) = UserId::parse(user_id) else { continue };
            numbers.extend(self.house.ledger.user(&user_id).await?.map(|user| user.0));
        }
        Ok(numbers)
    }
}
