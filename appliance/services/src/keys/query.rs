//! `POST /keys/query` ([spec]): which devices people have, and by which keys they are known.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery

use std::collections::{BTreeMap, BTreeSet};

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{ACCOUNTS, CROSS_SIGNING, DEVICE_KEYS, DEVICES, TRUST};
use appliance_ledger::rows::keys::{CrossSigningRow, DeviceKeysRow, TrustRow};
use appliance_model::ruma::{OwnedServerName, OwnedUserId, UserId};
use appliance_model::{Caller, Error, UserNid};

use super::signed::{assemble, push_text};
use super::{Keys, RawJson};

/// Users in one request: all of a large house.
const USERS_QUERIED_MAX: usize = 10_000;
/// Devices of one user that are shown: clients cannot encrypt for more in reasonable time.
pub(super) const DEVICES_SHOWN_MAX: usize = 1_000;

/// Codes of cross-signing keys in the store.
pub(super) const MASTER: u8 = 1;
pub(super) const SELF_SIGNING: u8 = 2;
pub(super) const USER_SIGNING: u8 = 3;

/// Users and the devices asked for; none means all.
pub type Queries = BTreeMap<OwnedUserId, Vec<String>>;

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct QueriedKeys {
    /// Users, their devices, identity keys. Unknown users and devices are left out.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<String, RawJson>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, RawJson>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, RawJson>,
    /// The user-signing key of whoever asks.
    pub user_signing_keys: BTreeMap<OwnedUserId, RawJson>,
    /// Servers that could not be asked.
    pub failures: BTreeSet<OwnedServerName>,
}

impl Keys {
    /// The keys of users and their devices, with the signatures that the caller may see: those by
    /// the users themselves and those by the caller.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::TooLarge`] for more than 10,000 users at once.
    pub async fn query(&self, caller: &Caller, queries: Queries) -> Result<QueriedKeys, Error> {
        if queries.len() > USERS_QUERIED_MAX {
            return Err(Error::too_large("These are too many users for one request."));
        }
        let mut found = QueriedKeys::default();
        let mut elsewhere: BTreeMap<OwnedServerName, Queries> = BTreeMap::new();
        for (user_id, devices) in queries {
            if !self.house.is_ours(&user_id) {
                let of_server = elsewhere.entry(user_id.server_name().to_owned()).or_default();
                of_server.insert(user_id, devices);
                continue;
            }
            let Some(user) = self.known_account(&user_id).await? else { continue };
            self.add_cross_signing(caller, (user, &user_id), &mut found).await?;
            let devices = self.device_keys_of(user, &devices).await?;
            found.device_keys.insert(user_id, devices);
        }
        self.add_remote(elsewhere, &mut found).await?;
        Ok(found)
    }

    /// A local user with an account. Those whose account is yet to be made are known by their invites.
    pub(super) async fn known_account(&self, user_id: &UserId) -> Result<Option<UserNid>, Error> {
        let Some(user) = self.house.ledger.user(user_id).await? else { return Ok(None) };
        let account = self.house.ledger.get(&ACCOUNTS, &user).await?;
        Ok(account.map(|_| user))
    }

    pub(super) async fn device_keys_of(
        &self,
        user: UserNid,
        asked_for: &[String],
    ) -> Result<BTreeMap<String, RawJson>, Error> {
        let view = self.house.ledger.newest();
        let (rows, _) =
            view.scan(&DEVICE_KEYS, &user, Direction::Forward, DEVICES_SHOWN_MAX).await?;
        let mut found = BTreeMap::new();
        if rows.is_empty() {
            return Ok(found);
        }
        let numbers: Vec<_> = rows.iter().map(|((_, device), _)| *device).collect();
        let kept_out = self.house.kept_out(&numbers).await?;
        let (devices, _) =
            view.scan(&DEVICES, &user, Direction::Forward, DEVICES_SHOWN_MAX).await?;
        let names: BTreeMap<_, _> =
            devices.into_iter().map(|((_, id), row)| (id, row.display_name)).collect();
        for ((_, row), is_kept_out) in rows.into_iter().zip(kept_out) {
            let is_asked_for = asked_for.is_empty() || asked_for.contains(&row.device_id);
            if is_asked_for && !is_kept_out {
                let name = names.get(&row.device_id).and_then(Option::as_deref);
                let json = show_device(&row, name)?;
                found.insert(row.device_id, json);
            }
        }
        Ok(found)
    }

    async fn add_cross_signing(
        &self,
        caller: &Caller,
        (user, user_id): (UserNid, &OwnedUserId),
        found: &mut QueriedKeys,
    ) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&CROSS_SIGNING, &user, Direction::Forward, 3).await?;
        for ((_, code), row) in rows {
            let (into, trust) = match code {
                MASTER if user == caller.user => (&mut found.master_keys, None),
                MASTER => {
                    let trust = view.get(&TRUST, &(caller.user, user)).await?;
                    (&mut found.master_keys, trust)
                }
                SELF_SIGNING => (&mut found.self_signing_keys, None),
                // "Information on the user-signing key of the user making the request".
                USER_SIGNING if user == caller.user => (&mut found.user_signing_keys, None),
                _ => continue,
            };
            into.insert(user_id.clone(), show_cross_signing(&row, trust.as_ref())?);
        }
        Ok(())
    }
}

/// "The same as uploaded via `/keys/upload`, with the addition of an `unsigned` property".
pub(super) fn show_device(row: &DeviceKeysRow, name: Option<&str>) -> Result<RawJson, Error> {
    let mut unsigned = "{".to_owned();
    if let Some(name) = name {
        unsigned.push_str("\"device_display_name\":");
        push_text(&mut unsigned, name)?;
    }
    unsigned.push('}');
    assemble(&row.json, row.signatures.iter(), Some(&unsigned))
}

/// "Along with the signatures … that the requesting user is allowed to see".
pub(super) fn show_cross_signing(
    row: &CrossSigningRow,
    trust: Option<&TrustRow>,
) -> Result<RawJson, Error> {
    let trust = trust.filter(|trust| trust.public_key == row.public_key);
    let mut signatures: Vec<_> = row.signatures.iter().collect();
    signatures.extend(trust.map(|trust| &trust.signature));
    signatures.sort_unstable();
    assemble(&row.json, signatures.into_iter(), None)
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::user_id;
    use serde_json::json;

    use crate::keys::scene::{all_of, another_device, device_keys, upload, value};
    use crate::scenario::Ward;

    #[tokio::test]
    async fn colleagues_see_all_devices_with_names_or_those_they_ask_for() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let keys = &ward.services.keys;
        let tablet = another_device(&ward, &nurse, "TABLET").await;
        for device in [&nurse, &tablet] {
            let body = json!({ "device_keys": device_keys(device, "1") });
            keys.upload(device, &upload(body)).await.unwrap();
        }
        let found = keys.query(&doctor, all_of(&nurse)).await.unwrap();
        let devices = &found.device_keys[&nurse.user_id];
        assert_eq!(devices.len(), 2);
        let unsigned = &value(&devices["TABLET"])["unsigned"];
        assert_eq!(*unsigned, json!({ "device_display_name": "TABLET's phone" }));

        let one = [(nurse.user_id.clone(), vec!["TABLET".to_owned(), "NONE".to_owned()])].into();
        let found = keys.query(&doctor, one).await.unwrap();
        let ids: Vec<_> = found.device_keys[&nurse.user_id].keys().collect();
        assert_eq!(ids, ["TABLET"]);
    }

    #[tokio::test]
    async fn strangers_are_absent_and_other_servers_are_named() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let mut queries = all_of(&nurse);
        queries.insert(user_id!("@nobody:hospital.example").to_owned(), Vec::new());
        queries.insert(user_id!("@lab:elsewhere.example").to_owned(), Vec::new());
        let found = ward.services.keys.query(&nurse, queries).await.unwrap();
        assert_eq!(found.device_keys.len(), 1);
        assert!(found.device_keys[&nurse.user_id].is_empty(), "known, without keys");
        assert_eq!(found.failures.iter().collect::<Vec<_>>(), ["elsewhere.example"]);
    }
}
