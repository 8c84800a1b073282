//! `POST /user_directory/search` ([spec]): finding people by name.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#user-directory

use std::collections::{BTreeMap, BTreeSet};

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{ACCOUNTS, MEMBERS, PUBLISHED};
use appliance_ledger::membership;
use appliance_ledger::rows::AccountRow;
use appliance_model::ruma::OwnedUserId;
use appliance_model::{Caller, Error, EventNid, RoomNid, UserNid};
use serde::{Deserialize, Serialize};

use super::Rooms;
use crate::house::WhoIsFound;

/// People in one answer.
const LIMIT_MAX: usize = 50;
/// A name is no essay.
const TERM_BYTES_MAX: usize = 200;
/// Accounts looked at: a large hospital's.
const ACCOUNTS_MAX: usize = 50_000;
const PAGE: usize = 1_000;
/// Members looked at, of all the rooms that make people findable.
const MEMBERS_MAX: usize = 10_000;

/// Somebody who was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundUser {
    /// Their ID.
    pub user_id: OwnedUserId,
    /// Their name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Their picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

/// Those found so far, the best first.
struct Search<'a> {
    caller: &'a Caller,
    words: Vec<String>,
    term: String,
    looked_at: BTreeSet<UserNid>,
    /// How well they fit, their ID, and what is shown of them.
    found: BTreeMap<(u8, OwnedUserId), FoundUser>,
}

#[derive(Default, Deserialize)]
struct Member {
    displayname: Option<String>,
    avatar_url: Option<String>,
}

impl Rooms {
    /// People whose ID or name holds all words of `term`, the best matches first, and whether there
    /// are more than `limit`.
    ///
    /// Everybody with an account here is found, or, if the operator chose so, only those whom the
    /// caller can meet; people of other servers are found by those who share a room with them, or
    /// in published rooms.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] for a term that is too long.
    pub async fn find_users(
        &self,
        caller: &Caller,
        term: &str,
        limit: usize,
    ) -> Result<(Vec<FoundUser>, bool), Error> {
        if term.len() > TERM_BYTES_MAX {
            return Err(Error::invalid_param("A search term has at most 200 bytes."));
        }
        let term = term.trim().trim_start_matches('@').to_lowercase();
        let words: Vec<_> = term.split_whitespace().map(ToOwned::to_owned).collect();
        if words.is_empty() {
            return Ok((Vec::new(), false));
        }
        // "The search term is the requester": nobody looks for themselves.
        let looked_at = BTreeSet::from([caller.user]);
        let mut search = Search { caller, words, term, looked_at, found: BTreeMap::new() };
        if self.house.options.directory.users == WhoIsFound::Everyone {
            self.search_accounts(&mut search).await?;
        }
        self.search_members(&mut search).await?;
        let limit = limit.min(LIMIT_MAX);
        let limited = search.found.len() > limit;
        Ok((search.found.into_values().take(limit).collect(), limited))
    }

    async fn search_accounts(&self, search: &mut Search<'_>) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let (mut from, mut more, mut count) = (UserNid(0), true, 0);
        while more && count < ACCOUNTS_MAX {
            let range = (&from, &UserNid(u64::MAX));
            let (rows, rest) =
                ledger.newest().scan_between(&ACCOUNTS, range, Direction::Forward, PAGE).await?;
            more = rest;
            count += rows.len();
            for (user, account) in rows {
                from = UserNid(user.0.saturating_add(1));
                if search.looked_at.insert(user) {
                    search.account(ledger.user_id(user).await?, account);
                }
            }
        }
        Ok(())
    }

    async fn search_members(&self, search: &mut Search<'_>) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let view = ledger.newest();
        let mut rooms = self.joined(search.caller.user).await?;
        let (published, _) = view.scan(&PUBLISHED, &(), Direction::Forward, PAGE).await?;
        rooms.extend(published.into_iter().map(|(room, _)| room));
        let mut seen = BTreeSet::new();
        let mut left = MEMBERS_MAX;
        for room in rooms {
            if left == 0 || !seen.insert(room) {
                continue;
            }
            let prefix: (RoomNid, u8) = (room, membership::JOIN);
            let (rows, _) = view.scan(&MEMBERS, &prefix, Direction::Forward, left).await?;
            left -= rows.len();
            for ((_, _, user), event) in rows {
                if search.looked_at.insert(user) {
                    self.search_member(search, user, EventNid(event)).await?;
                }
            }
        }
        Ok(())
    }

    async fn search_member(
        &self,
        search: &mut Search<'_>,
        user: UserNid,
        event: EventNid,
    ) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let user_id = ledger.user_id(user).await?;
        if self.house.is_ours(&user_id) {
            if let Some(account) = ledger.get(&ACCOUNTS, &user).await? {
                search.account(user_id, account);
            }
            return Ok(());
        }
        let event = ledger.event(event).await?;
        let member: Member = serde_json::from_str(event.content()).unwrap_or_default();
        search.person(user_id, member.displayname, member.avatar_url);
        Ok(())
    }
}

impl Search<'_> {
    fn account(&mut self, user_id: OwnedUserId, account: AccountRow) {
        if !account.deactivated {
            self.person(user_id, account.displayname, account.avatar_url);
        }
    }

    fn person(
        &mut self,
        user_id: OwnedUserId,
        display_name: Option<String>,
        avatar_url: Option<String>,
    ) {
        let id = user_id.as_str().trim_start_matches('@').to_lowercase();
        let name = display_name.as_deref().unwrap_or_default().to_lowercase();
        if !self.words.iter().all(|word| id.contains(word) || name.contains(word)) {
            return;
        }
        let begins = |text: &str| text.starts_with(&*self.term);
        let rank = match () {
            () if id == self.term || user_id.localpart() == self.term || name == self.term => 0,
            () if begins(&id) || begins(&name) || name.split_whitespace().any(begins) => 1,
            () => 2,
        };
        let shown = FoundUser { user_id: user_id.clone(), display_name, avatar_url };
        self.found.insert((rank, user_id), shown);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scenario::Ward;

    async fn found(ward: &Ward, who: &Caller, term: &str, limit: usize) -> (Vec<String>, bool) {
        let (users, limited) = ward.services.rooms.find_users(who, term, limit).await.unwrap();
        (users.iter().map(|user| user.user_id.localpart().to_owned()).collect(), limited)
    }

    #[tokio::test]
    async fn colleagues_are_found_by_id_and_name_the_best_first() {
        let (ward, [nurse, ..]) =
            Ward::with_members(["nurse", "anna", "hanna", "annabel", "bert"]).await;
        assert_eq!(found(&ward, &nurse, "anna", 9).await.0, ["anna", "annabel", "hanna"]);
        assert_eq!(
            found(&ward, &nurse, "@ANNA", 2).await,
            (vec!["anna".into(), "annabel".into()], true)
        );
        assert_eq!(found(&ward, &nurse, "hospital bert", 9).await.0, ["bert"]);
        for nothing in ["", "  ", "nurse", "zoe"] {
            assert_eq!(found(&ward, &nurse, nothing, 9).await, (vec![], false), "{nothing}");
        }
    }

    #[tokio::test]
    async fn where_the_operator_chose_so_only_those_one_can_meet_are_found() {
        let options = crate::Options {
            directory: crate::house::DirectoryOptions {
                users: WhoIsFound::SharedRooms,
                rooms_open: false,
            },
            ..crate::scenario::options()
        };
        let ward = Ward::with_options(options).await;
        let [nurse, anna, hanna, annabel] =
            ward.members(["nurse", "anna", "hanna", "annabel"]).await;
        ward.room_of(&[&nurse, &anna]).await;
        ward.room_as(&annabel, json!({ "visibility": "public" })).await;
        ward.room(&hanna).await;
        assert_eq!(found(&ward, &nurse, "anna", 9).await.0, ["anna", "annabel"]);
        assert_eq!(found(&ward, &hanna, "anna", 9).await.0, ["annabel"]);
    }
}
