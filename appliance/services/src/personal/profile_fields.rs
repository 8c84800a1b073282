//! Profile fields beside name and picture ([spec]): a time zone, a pager number, whatever clients
//! agree upon.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#profiles

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::PROFILE_FIELDS;
use appliance_ledger::rows::extras::ProfileFieldRow;
use appliance_model::ruma::UserId;
use appliance_model::{Caller, Error, Kind, UserNid};
use appliance_rules::Permit;

use super::Personal;

/// "Key names MUST NOT exceed 255 bytes."
const NAME_BYTES_MAX: usize = 255;
/// "The total size of a profile … MUST NOT exceed 64 KiB."
const PROFILE_BYTES_MAX: usize = 65_536;
/// Fields read at once: a profile of 64 KiB cannot have more.
const FIELDS_MAX: usize = 20_000;

impl Personal {
    /// The fields of a local user, name and value as JSON, by name.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if this server has no such user.
    pub async fn profile_fields(&self, user_id: &UserId) -> Result<Vec<(String, String)>, Error> {
        self.profile(user_id).await?;
        let unknown = || Error::not_found("This server knows no profile of this user.");
        let user = self.house.ledger.user(user_id).await?.ok_or_else(unknown)?;
        self.fields_of(user).await
    }

    /// One field of a local user, as JSON.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if there is no such user, or the field was never set.
    pub async fn profile_field(&self, user_id: &UserId, name: &str) -> Result<String, Error> {
        self.profile(user_id).await?;
        let unset = || Error::not_found("This profile has no such field.");
        let user = self.house.ledger.user(user_id).await?.ok_or_else(unset)?;
        check_name(name)?;
        let row = self.house.ledger.get(&PROFILE_FIELDS, &(user, name.to_owned())).await?;
        Ok(row.ok_or_else(unset)?.json)
    }

    /// Sets one of the caller's fields to a JSON value; none removes it.
    ///
    /// # Errors
    ///
    /// * [`Kind::Forbidden`] for another user's.
    /// * [`Kind::KeyTooLarge`], [`Kind::ProfileTooLarge`]: name or profile would be too long.
    /// * [`Kind::InvalidParam`]: the name is not of the form that names have.
    pub async fn set_profile_field(
        &self,
        caller: &Caller,
        user_id: &UserId,
        name: &str,
        json: Option<String>,
    ) -> Result<(), Error> {
        if caller.user_id != user_id {
            return Err(Error::forbidden("You can only change your own profile."));
        }
        check_name(name)?;
        // Two fields at once must not both be the last that fits.
        let inside = self.doors.enter(caller.user.0).await;
        let ledger = &self.house.ledger;
        let key = (caller.user, name.to_owned());
        let now = ledger.get(&PROFILE_FIELDS, &key).await?.map(|row| row.json);
        if now == json {
            return Ok(());
        }
        let permit = Permit::own("profile.changed", &caller.user_id, name);
        let mut commit = ledger.begin(permit);
        match json {
            Some(json) => {
                self.check_room_for(caller, name, &json).await?;
                commit.put(&PROFILE_FIELDS, &key, &ProfileFieldRow { json });
            }
            None => commit.delete(&PROFILE_FIELDS, &key),
        }
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    async fn check_room_for(&self, caller: &Caller, name: &str, json: &str) -> Result<(), Error> {
        let account = self.profile(&caller.user_id).await?;
        let fields = self.fields_of(caller.user).await?;
        let others = fields.iter().filter(|(other, _)| other != name);
        // As JSON: two quotes, a colon and a comma for each.
        let others: usize = others.map(|(name, json)| name.len() + json.len() + 4).sum();
        let fixed = [account.displayname, account.avatar_url];
        let fixed: usize = fixed.iter().flatten().map(|value| value.len() + 20).sum();
        if others + fixed + name.len() + json.len() + 4 > PROFILE_BYTES_MAX {
            return Err(Error::new(Kind::ProfileTooLarge, "A profile has at most 64 KiB."));
        }
        Ok(())
    }

    async fn fields_of(&self, user: UserNid) -> Result<Vec<(String, String)>, Error> {
        let newest = self.house.ledger.newest();
        let (rows, _) = newest.scan(&PROFILE_FIELDS, &user, Direction::Forward, FIELDS_MAX).await?;
        type Field = ((UserNid, String), ProfileFieldRow);
        Ok(rows.into_iter().map(|((_, name), row): Field| (name, row.json)).collect())
    }
}

/// "keyName … Common Namespaced Identifier Grammar": `a-z`, then `a-z0-9-_.`.
fn check_name(name: &str) -> Result<(), Error> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::new(Kind::KeyTooLarge, "The name of a field has at most 255 bytes."));
    }
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid_param(
        "The name of a field starts with a letter and has the characters a to z, digits and - _ .",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn a_profile_has_an_end() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let personal = &ward.services.personal;
        let set = async |name: &str, json: &str| {
            let json = Some(json.to_owned());
            let set = personal.set_profile_field(&nurse, &nurse.user_id, name, json).await;
            set.map_err(|error| error.kind)
        };
        assert_eq!(set("m.tz", "\"Europe/Berlin\"").await, Ok(()));
        assert_eq!(set("org.example.pager", "4711").await, Ok(()));
        assert_eq!(set(&"a".repeat(256), "1").await, Err(Kind::KeyTooLarge));
        for name in ["", "7", "A", "a b", "\u{e4}", "a/b"] {
            assert_eq!(set(name, "1").await, Err(Kind::InvalidParam), "{name:?}");
        }
        let long = format!("\"{}\"", "x".repeat(40_000));
        assert_eq!(set("org.example.a", &long).await, Ok(()));
        assert_eq!(set("org.example.b", &long).await, Err(Kind::ProfileTooLarge));
        assert_eq!(set("org.example.a", &long.replace('x', "y")).await, Ok(()), "in its place");
        let read = async |name: &str| personal.profile_field(&nurse.user_id, name).await;
        assert_eq!(read("m.tz").await.unwrap(), "\"Europe/Berlin\"");
        let fields = personal.profile_fields(&nurse.user_id).await.unwrap();
        assert_eq!(fields.len(), 3);
        assert!(personal.profile_fields(&doctor.user_id).await.unwrap().is_empty());
        personal.set_profile_field(&nurse, &nurse.user_id, "m.tz", None).await.unwrap();
        assert_eq!(read("m.tz").await.unwrap_err().kind, Kind::NotFound);
        let other = personal.set_profile_field(&nurse, &doctor.user_id, "m.tz", None).await;
        assert_eq!(other.unwrap_err().kind, Kind::Forbidden);
    }
}
