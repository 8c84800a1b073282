//! Name and picture ([spec]). A change goes into every room the user is in, one commit each.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#profiles

use std::time::Duration;

use appliance_ledger::keyspaces::{ACCOUNTS, USER_ROOMS};
use appliance_ledger::rows::AccountRow;
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::UserId;
use appliance_model::ruma::api::federation::query::get_profile_information;
use appliance_model::{Caller, Error, Kind};
use appliance_rules::Permit;

use serde_json::{Map, Value};

use super::Personal;
use crate::egress::Limits;
use crate::media::link::avatar_changed;

/// Longer names do not fit on a phone; 256 bytes is what other servers allow.
const DISPLAYNAME_BYTES_MAX: usize = 256;
const AVATAR_URL_BYTES_MAX: usize = 1_000;
/// Rooms that hear of a new name.
const ROOMS_MAX: usize = 20_000;

/// "Profile … 64 KiB"; somebody waits for it.
const PROFILE: Limits = Limits { total: Duration::from_secs(20), answer_bytes_max: 256 * 1024 };

/// What may be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileChange {
    /// The name; none removes it.
    Displayname(Option<String>),
    /// The picture; none removes it.
    AvatarUrl(Option<String>),
}

impl Personal {
    /// The profile of a local user.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if this server has no such user.
    pub async fn profile(&self, user_id: &UserId) -> Result<AccountRow, Error> {
        let unknown = || Error::not_found("This server knows no profile of this user.");
        if !self.house.is_ours(user_id) {
            return Err(unknown());
        }
        let user = self.house.ledger.user(user_id).await?.ok_or_else(unknown)?;
        self.house.ledger.get(&ACCOUNTS, &user).await?.ok_or_else(unknown)
    }

    /// All that is known of someone's profile, wherever their account is: other servers are asked.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: there is no such user.
    /// * [`appliance_model::Kind::Forbidden`], [`appliance_model::Kind::RemoteUnavailable`]: their
    ///   server may not be asked, or does not answer.
    pub async fn whole_profile(&self, user_id: &UserId) -> Result<Map<String, Value>, Error> {
        if !self.house.is_ours(user_id) {
            let request = get_profile_information::v1::Request::new(user_id.to_owned());
            let answer = self.house.call_raw(user_id.server_name(), request, PROFILE).await?;
            let unreadable = |_| {
                Error::new(Kind::RemoteUnavailable, "The other server's answer has the wrong form.")
            };
            return serde_json::from_slice(answer.body()).map_err(unreadable);
        }
        let account = self.profile(user_id).await?;
        let mut fields = Map::new();
        let own = [("displayname", account.displayname), ("avatar_url", account.avatar_url)];
        for (name, value) in own {
            fields.extend(value.map(|value| (name.to_owned(), value.into())));
        }
        for (name, json) in self.profile_fields(user_id).await? {
            fields.insert(name, serde_json::from_str(&json).map_err(Error::internal)?);
        }
        Ok(fields)
    }

    /// Changes the caller's profile, here and in the caller's rooms.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] for another user's,
    /// [`appliance_model::Kind::TooLarge`] for a longer value.
    pub async fn set_profile(
        &self,
        caller: &Caller,
        user_id: &UserId,
        change: ProfileChange,
    ) -> Result<(), Error> {
        if caller.user_id != user_id {
            return Err(Error::forbidden("You can only change your own profile."));
        }
        check(&change)?;
        // One change at a time reaches the rooms.
        let _turn = self.doors.enter(caller.user.0).await;
        let ledger = &self.house.ledger;
        // Name and picture share a row with the password: without the account's own door, a change
        // of both at once would bring the old password back, or a closed account.
        let inside = self.accounts.doors.enter(caller.user.0).await;
        let gone = || Error::not_found("This server knows no profile of this user.");
        let account = ledger.get(&ACCOUNTS, &caller.user).await?;
        let mut account = account.filter(|account| !account.deactivated).ok_or_else(gone)?;
        let before = account.clone();
        match change {
            ProfileChange::Displayname(name) => account.displayname = name,
            ProfileChange::AvatarUrl(url) => account.avatar_url = url,
        }
        if account == before {
            return Ok(());
        }
        let permit = Permit::own("profile.changed", &caller.user_id, &caller.user_id);
        let mut commit = ledger.begin(permit);
        commit.put(&ACCOUNTS, &caller.user, &account);
        let avatars = (before.avatar_url.as_deref(), account.avatar_url.as_deref());
        avatar_changed(&self.house, caller.user, avatars, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await?;
        self.tell_rooms(caller).await
    }

    async fn tell_rooms(&self, caller: &Caller) -> Result<(), Error> {
        let (rooms, _) = self
            .house
            .ledger
            .newest()
            .scan(&USER_ROOMS, &caller.user, Direction::Forward, ROOMS_MAX)
            .await?;
        for ((_, room), row) in rooms {
            if row.membership == membership::JOIN {
                let room_id = self.house.ledger.room_id(room).await?;
                // A room that refuses (a ban on the way, odd power levels) must not keep the new
                // name from the others; the refusal is in the audit trail.
                if let Err(error) = self.rooms.renew_member(caller, &room_id).await {
                    tracing::info!(kind = "profile.refused", %room_id, %error,
                        "a room did not take a member's new profile");
                }
            }
        }
        Ok(())
    }
}

fn check(change: &ProfileChange) -> Result<(), Error> {
    let (value, bytes_max) = match change {
        ProfileChange::Displayname(name) => (name, DISPLAYNAME_BYTES_MAX),
        ProfileChange::AvatarUrl(url) => (url, AVATAR_URL_BYTES_MAX),
    };
    if value.as_ref().is_some_and(|value| value.len() > bytes_max) {
        return Err(Error::too_large(format!("This is longer than {bytes_max} bytes.")));
    }
    Ok(())
}
