//! `POST /keys/claim` ([spec]): someone takes one-time keys of devices, to begin encrypted sessions
//! with them.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim

use std::collections::{BTreeMap, BTreeSet};

use appliance_ledger::keyspaces::{CLAIMED_KEYS, DEVICES, ONE_TIME_KEY_IDS, ONE_TIME_KEYS, STOCKS};
use appliance_ledger::rows::keys::{ClaimedKeyRow, OneTimeKeyRow, StockRow};
use appliance_ledger::{Commit, Direction};
use appliance_model::ruma::{OwnedServerName, OwnedUserId, ServerName};
use appliance_model::{Caller, DeviceNid, Error, UserNid};
use appliance_rules::Permit;
use appliance_rules::keys::{may_claim, server_may_claim};

use super::upload::algorithm_index;
use super::{Keys, RawJson, raw};

/// Claimed keys remembered per device: more than clients keep in stock, so that no upload that is
/// repeated brings one back.
pub(super) const CLAIMED_KEPT_MAX: usize = 128;
/// Devices in one request: every device of a large house, and one commit that stays below 20 MB.
const DEVICES_CLAIMED_MAX: usize = 20_000;

/// Users, their devices, and the algorithm wanted of each.
pub type Claims = BTreeMap<OwnedUserId, BTreeMap<String, String>>;

/// What was claimed.
#[derive(Clone, Debug, Default)]
pub struct ClaimedKeys {
    /// Users, their devices, key IDs and keys. A device without a key is left out, and so is a user
    /// none of whose devices had one.
    pub one_time_keys: BTreeMap<OwnedUserId, BTreeMap<String, BTreeMap<String, RawJson>>>,
    /// Servers that could not be asked.
    pub failures: BTreeSet<OwnedServerName>,
}

/// One device of whom a key is wanted.
struct Wanted {
    user: UserNid,
    device: DeviceNid,
    user_id: OwnedUserId,
    device_id: String,
    algorithm: String,
}

impl Keys {
    /// Takes one key of each device asked for: the one-time key uploaded first or, if none is left,
    /// the fallback key. A one-time key is gone, durably, before anyone sees it: no two callers
    /// ever get the same.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::TooLarge`]: more than 20,000 devices at once.
    /// * [`appliance_model::Kind::Forbidden`]: the house keeps the caller's device out of encryption.
    pub async fn claim(&self, caller: &Caller, claims: Claims) -> Result<ClaimedKeys, Error> {
        // It could send nobody what it encrypts, and others' keys would be used up.
        self.check_takes_part(caller)?;
        let (own, others): (Claims, Claims) =
            claims.into_iter().partition(|(user_id, _)| self.house.is_ours(user_id));
        let mut elsewhere: BTreeMap<OwnedServerName, Claims> = BTreeMap::new();
        for (user_id, devices) in others {
            let of_server = elsewhere.entry(user_id.server_name().to_owned()).or_default();
            of_server.insert(user_id, devices);
        }
        let mut claimed = self.claim_own(may_claim(caller), own).await?;
        self.claim_remote(elsewhere, &mut claimed).await;
        Ok(claimed)
    }

    /// The same for another server, of local users only.
    ///
    /// # Errors
    ///
    /// As [`Keys::claim`].
    pub async fn claim_for_server(
        &self,
        server: &ServerName,
        mut claims: Claims,
    ) -> Result<ClaimedKeys, Error> {
        claims.retain(|user_id, _| self.house.is_ours(user_id));
        self.claim_own(server_may_claim(server), claims).await
    }

    async fn claim_own(&self, permit: Permit, claims: Claims) -> Result<ClaimedKeys, Error> {
        if claims.values().map(BTreeMap::len).sum::<usize>() > DEVICES_CLAIMED_MAX {
            return Err(Error::too_large("These are too many devices for one request."));
        }
        let mut claimed = ClaimedKeys::default();
        let staying = self.stay().await;
        let wanted = self.find_devices(claims).await?;
        let mut commit = self.house.ledger.begin(permit);
        commit.hold(staying);
        let mut is_changed = false;
        // In the order of their numbers: two who want the same devices do not wait for each other
        // in a circle.
        for one in &wanted {
            commit.hold(self.doors.enter(one.device.0).await);
        }
        let devices: Vec<_> = wanted.iter().map(|one| one.device).collect();
        let stocks = self.house.ledger.newest().get_many(&STOCKS, &devices).await?;
        for (one, stock) in wanted.into_iter().zip(stocks) {
            let Some(mut stock) = stock else { continue };
            let Some(key) = self.take(&one, &mut stock, &mut commit, &mut is_changed).await? else {
                continue;
            };
            let of_user = claimed.one_time_keys.entry(one.user_id).or_default();
            of_user.insert(one.device_id, BTreeMap::from([(key.key_id, raw(key.json)?)]));
        }
        if is_changed {
            self.house.ledger.commit(commit).await?;
        }
        Ok(claimed)
    }

    /// The devices that exist, each once, in the order of their numbers.
    async fn find_devices(&self, claims: Claims) -> Result<Vec<Wanted>, Error> {
        let ledger = &self.house.ledger;
        let mut wanted = Vec::new();
        for (user_id, devices) in claims {
            let Some(user) = ledger.user(&user_id).await? else { continue };
            let keys: Vec<_> = devices.keys().map(|id| (user, id.clone())).collect();
            let rows = ledger.newest().get_many(&DEVICES, &keys).await?;
            for ((device_id, algorithm), row) in devices.into_iter().zip(rows) {
                if let Some(row) = row {
                    let (device, user_id) = (DeviceNid(row.device), user_id.clone());
                    wanted.push(Wanted { user, device, user_id, device_id, algorithm });
                }
            }
        }
        let numbers: Vec<_> = wanted.iter().map(|one: &Wanted| one.device).collect();
        let mut kept_out = self.house.kept_out(&numbers).await?.into_iter();
        wanted.retain(|_| kept_out.next() == Some(false));
        wanted.sort_unstable_by_key(|one| one.device);
        Ok(wanted)
    }

    async fn take(
        &self,
        wanted: &Wanted,
        stock: &mut StockRow,
        commit: &mut Commit,
        is_changed: &mut bool,
    ) -> Result<Option<OneTimeKeyRow>, Error> {
        let device = wanted.device;
        if let Some(index) = algorithm_index(stock, &wanted.algorithm)
            && stock.algorithms[usize::from(index)].count > 0
        {
            let view = self.house.ledger.newest();
            let prefix = (device, index);
            let (mut first, _) = view.scan(&ONE_TIME_KEYS, &prefix, Direction::Forward, 1).await?;
            let (key, row) = first
                .pop()
                .ok_or_else(|| Error::internal("a device's stock counts keys it does not have"))?;
            commit.delete(&ONE_TIME_KEYS, &key);
            commit.delete(&ONE_TIME_KEY_IDS, &(device, row.key_id.clone()));
            let digest = self.key_digest(&row.json).to_vec();
            let claimed = ClaimedKeyRow { key_id: row.key_id.clone(), digest };
            commit.put(&CLAIMED_KEYS, &(device, key.2 % CLAIMED_KEPT_MAX as u64), &claimed);
            stock.algorithms[usize::from(index)].count -= 1;
            stock_changed(wanted, stock, commit);
            *is_changed = true;
            return Ok(Some(row));
        }
        let fallback = stock.fallbacks.iter_mut().find(|one| one.algorithm == wanted.algorithm);
        let Some(fallback) = fallback else { return Ok(None) };
        let row = OneTimeKeyRow { key_id: fallback.key_id.clone(), json: fallback.json.clone() };
        if !fallback.used {
            fallback.used = true;
            stock_changed(wanted, stock, commit);
            *is_changed = true;
        }
        Ok(Some(row))
    }
}

/// The device must hear of it soon, to fill its stock again.
fn stock_changed(wanted: &Wanted, stock: &StockRow, commit: &mut Commit) {
    commit.put(&STOCKS, &wanted.device, stock);
    commit.touched().devices.push((wanted.user, wanted.device));
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::user_id;
    use serde_json::json;

    use super::*;
    use crate::keys::scene::{another_device, one_time_key, one_time_keys, sign_out, upload};
    use crate::scenario::Ward;

    fn of(device: &Caller) -> Claims {
        let wanted = (device.device_id.to_string(), "signed_curve25519".to_owned());
        [(device.user_id.clone(), [wanted].into())].into()
    }

    /// The key ID that `by` gets of `device`, if any.
    async fn claim(ward: &Ward, by: &Caller, device: &Caller) -> Option<String> {
        let mut claimed = ward.services.keys.claim(by, of(device)).await.unwrap();
        let mut devices = claimed.one_time_keys.remove(&device.user_id)?;
        devices.remove(device.device_id.as_str()).unwrap().into_keys().next()
    }

    async fn stock(ward: &Ward, device: &Caller, ids: &[&str]) {
        let body = json!({ "one_time_keys": one_time_keys(ids) });
        ward.services.keys.upload(device, &upload(body)).await.unwrap();
    }

    #[tokio::test]
    async fn keys_go_in_the_order_they_came_then_the_fallback_again_and_again() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let keys = &ward.services.keys;
        stock(&ward, &nurse, &["z"]).await;
        stock(&ward, &nurse, &["a"]).await;
        let fallback = json!({ "fallback_keys": { "signed_curve25519:f": one_time_key("f") } });
        keys.upload(&nurse, &upload(fallback.clone())).await.unwrap();

        for (id, left, unused) in [("z", 1, 1), ("a", 0, 1), ("f", 0, 0), ("f", 0, 0)] {
            let key = claim(&ward, &doctor, &nurse).await.unwrap();
            assert_eq!(key, format!("signed_curve25519:{id}"));
            let (counts, fallbacks) = keys.counts(nurse.device).await.unwrap();
            assert_eq!((counts["signed_curve25519"], fallbacks.len()), (left, unused));
        }
        keys.upload(&nurse, &upload(fallback)).await.unwrap();
        let (_, unused) = keys.counts(nurse.device).await.unwrap();
        assert!(unused.is_empty(), "the same fallback key is as used as before");
        let new = json!({ "fallback_keys": { "signed_curve25519:g": one_time_key("g") } });
        keys.upload(&nurse, &upload(new)).await.unwrap();
        assert_eq!(keys.counts(nurse.device).await.unwrap().1, ["signed_curve25519"]);
    }

    #[tokio::test]
    async fn whoever_has_no_key_is_left_out_and_other_servers_are_named() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        stock(&ward, &nurse, &["a"]).await;
        let tablet = another_device(&ward, &nurse, "TABLET").await;
        let mut claims = of(&nurse);
        let of_nurse = claims.get_mut(&nurse.user_id).unwrap();
        of_nurse.insert(tablet.device_id.to_string(), "signed_curve25519".to_owned());
        of_nurse.insert("GONE".to_owned(), "signed_curve25519".to_owned());
        claims.extend(of(&doctor));
        let wanted = BTreeMap::from([("D".to_owned(), "signed_curve25519".to_owned())]);
        claims.insert(user_id!("@nobody:hospital.example").to_owned(), wanted.clone());
        claims.insert(user_id!("@lab:elsewhere.example").to_owned(), wanted);

        let claimed = ward.services.keys.claim(&doctor, claims).await.unwrap();
        assert_eq!(claimed.one_time_keys.len(), 1, "only the nurse had one");
        assert_eq!(claimed.one_time_keys[&nurse.user_id].len(), 1, "on one device");
        assert_eq!(claimed.failures.len(), 1);
        assert!(claim(&ward, &doctor, &nurse).await.is_none(), "it was the only one");
    }

    /// A hundred colleagues begin to write to one device at the same moment.
    #[tokio::test]
    async fn a_hundred_at_once_never_get_the_same_key() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let ids: Vec<_> = (0..50).map(|id| format!("{id:02}")).collect();
        stock(&ward, &nurse, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        ward.engine.delay_commits(std::time::Duration::from_millis(1));

        let claims = (0..100).map(|_| claim(&ward, &doctor, &nurse));
        let claimed = futures_util::future::join_all(claims).await;
        let claimed: Vec<_> = claimed.into_iter().flatten().collect();
        assert_eq!(claimed.len(), 50, "each key went to someone");
        let different: BTreeSet<_> = claimed.iter().collect();
        assert_eq!(different.len(), 50, "and to one person only");
    }

    #[tokio::test]
    async fn a_claimed_key_does_not_come_back_after_a_power_cut_or_with_a_late_retry() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        stock(&ward, &nurse, &["a", "b"]).await;
        let first = claim(&ward, &doctor, &nurse).await.unwrap();

        let ward = ward.power_cut_and_restart().await;
        stock(&ward, &nurse, &["a", "b"]).await;
        assert_eq!(
            ward.services.keys.counts(nurse.device).await.unwrap().0["signed_curve25519"],
            1
        );
        let second = claim(&ward, &doctor, &nurse).await.unwrap();
        assert_ne!(first, second);
        assert!(claim(&ward, &doctor, &nurse).await.is_none());

        let other = json!({ "one_time_keys": { "signed_curve25519:a": one_time_key("other") } });
        ward.services.keys.upload(&nurse, &upload(other)).await.unwrap();
        assert!(claim(&ward, &doctor, &nurse).await.is_some(), "a new key may have an old ID");
    }

    /// The disk fills while keys are claimed: nobody gets one, and none is lost.
    #[tokio::test]
    async fn a_claim_that_is_not_written_takes_nothing() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        stock(&ward, &nurse, &["a"]).await;
        ward.engine.full();
        assert!(ward.services.keys.claim(&doctor, of(&nurse)).await.is_err());
        ward.engine.make_room();
        assert_eq!(claim(&ward, &doctor, &nurse).await.unwrap(), "signed_curve25519:a");
    }

    #[tokio::test]
    async fn a_device_that_went_has_no_keys_and_its_successor_starts_empty() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let tablet = another_device(&ward, &nurse, "TABLET").await;
        stock(&ward, &tablet, &["a", "b"]).await;
        claim(&ward, &doctor, &tablet).await.unwrap();
        sign_out(&ward, &tablet).await;
        assert!(claim(&ward, &doctor, &tablet).await.is_none());
        let successor = another_device(&ward, &nurse, "TABLET").await;
        assert!(claim(&ward, &doctor, &successor).await.is_none());
    }
}
