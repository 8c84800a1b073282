//! `POST /keys/upload` ([spec]): a device publishes its identity keys, one-time keys and fallback
//! keys.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysupload

use std::collections::BTreeMap;

use appliance_ledger::keyspaces::{
    CLAIMED_KEYS, DEVICE_KEYS, ONE_TIME_KEY_IDS, ONE_TIME_KEYS, STOCKS,
};
use appliance_ledger::rows::keys::{
    AlgorithmStock, DeviceKeysRow, FallbackRow, OneTimeKeyRow, StockRow,
};
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::ruma::OwnedOneTimeKeyId;
use appliance_model::ruma::api::client::keys::upload_keys::v3::Request;
use appliance_model::ruma::encryption::{DeviceKeys, OneTimeKey};
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::{CanonicalJsonObject, CanonicalJsonValue};
use appliance_model::{Caller, DeviceNid, Error};
use appliance_rules::Permit;

use super::claim::CLAIMED_KEPT_MAX;
use super::signed::{Signed, canonical, merge_signatures};
use super::stock::counts_of;
use super::{KeyNews, Keys};

/// Identity keys of a device are about 800 bytes, with signatures 1,200.
const DEVICE_KEYS_BYTES_MAX: usize = 16 * 1024;
/// A signed one-time key is about 250 bytes.
const ONE_TIME_KEY_BYTES_MAX: usize = 2 * 1024;
/// Clients keep 50 to 100 in stock.
const ONE_TIME_KEYS_MAX: u64 = 1_000;
/// There has only ever been one that is used, and two before it.
const ALGORITHMS_MAX: usize = 8;
/// Algorithm and key ID: longer ones do not fit the engine's keys, and are eleven letters in life.
const KEY_ID_BYTES_MAX: usize = 200;

/// A one-time or fallback key, checked.
struct NewKey {
    algorithm: String,
    key_id: String,
    json: String,
}

impl Keys {
    /// Publishes keys of the caller's device and says how many one-time keys are in stock. What is
    /// there already and the same stays as it is; a one-time key that was claimed does not come
    /// back.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::InvalidParam`]: the identity keys name another user or device; a
    ///   one-time key of that ID exists and is another.
    /// * [`appliance_model::Kind::BadJson`]: a key does not have the form it needs.
    /// * [`appliance_model::Kind::TooLarge`]: a key or the stock would be larger than its limit.
    /// * [`appliance_model::Kind::Forbidden`]: the house keeps the device out of encryption.
    pub async fn upload(
        &self,
        caller: &Caller,
        request: &Request,
    ) -> Result<BTreeMap<String, u64>, Error> {
        self.check_takes_part(caller)?;
        let device_keys = request.device_keys.as_ref();
        let device_keys = device_keys.map(|keys| checked_device_keys(caller, keys)).transpose()?;
        let one_time_keys = checked_keys(&request.one_time_keys)?;
        let fallback_keys = checked_keys(&request.fallback_keys)?;

        let staying = self.stay().await;
        self.check_still_signed_in(caller).await?;
        let permit = Permit::own("keys.uploaded", &caller.user_id, &caller.device_id);
        let mut commit = self.house.ledger.begin(permit);
        let mut is_changed = false;
        if let Some(signed) = device_keys {
            commit.hold(self.doors.enter(caller.user.0).await);
            is_changed |= self.put_device_keys(caller, signed, &mut commit).await?;
        }
        commit.hold(self.doors.enter(caller.device.0).await);
        let stock = self.house.ledger.get(&STOCKS, &caller.device).await?.unwrap_or_default();
        let mut new_stock = stock.clone();
        let keys = self.new_one_time_keys(caller.device, one_time_keys, &stock).await?;
        store_keys(caller.device, keys, &mut new_stock, &mut commit)?;
        replace_fallbacks(fallback_keys, &mut new_stock)?;
        if new_stock != stock {
            commit.put(&STOCKS, &caller.device, &new_stock);
            is_changed = true;
        }
        if is_changed {
            commit.hold(staying);
            self.house.ledger.commit(commit).await?;
        }
        Ok(counts_of(&new_stock))
    }

    async fn put_device_keys(
        &self,
        caller: &Caller,
        signed: Signed,
        commit: &mut Commit,
    ) -> Result<bool, Error> {
        let key = (caller.user, caller.device);
        let old = self.house.ledger.get(&DEVICE_KEYS, &key).await?;
        let row = match old {
            // The same keys again: signatures that were added since stay.
            Some(mut row) if row.json == signed.json => {
                if !merge_signatures(&mut row.signatures, &signed.signatures) {
                    return Ok(false);
                }
                row
            }
            _ => DeviceKeysRow {
                device_id: caller.device_id.to_string(),
                json: signed.json,
                signatures: signed.signatures,
            },
        };
        commit.put(&DEVICE_KEYS, &key, &row);
        let news = KeyNews::device(&caller.device_id);
        self.device_list_changed(caller.user, news, commit).await?;
        Ok(true)
    }

    /// Those that are neither in stock nor claimed already.
    async fn new_one_time_keys(
        &self,
        device: DeviceNid,
        keys: Vec<NewKey>,
        stock: &StockRow,
    ) -> Result<Vec<NewKey>, Error> {
        if keys.is_empty() {
            return Ok(keys);
        }
        let view = self.house.ledger.newest();
        let ids: Vec<_> = keys.iter().map(|key| (device, key.key_id.clone())).collect();
        let known = view.get_many(&ONE_TIME_KEY_IDS, &ids).await?;
        let (claimed, _) =
            view.scan(&CLAIMED_KEYS, &device, Direction::Forward, CLAIMED_KEPT_MAX).await?;
        let mut new = Vec::with_capacity(keys.len());
        for (key, known) in keys.into_iter().zip(known) {
            if let Some(number) = known {
                let place = algorithm_index(stock, &key.algorithm).map(|at| (device, at, number));
                let old = match place {
                    Some(place) => view.get(&ONE_TIME_KEYS, &place).await?,
                    None => None,
                };
                if old.is_none_or(|old| old.json != key.json) {
                    let message = format!("A different one-time key {} exists.", key.key_id);
                    return Err(Error::invalid_param(message));
                }
                continue;
            }
            // "Servers must ensure that each one-time key is returned at most once" (keys/claim):
            // an upload that is repeated because its answer got lost must not bring a key back
            // that was claimed in between.
            let digest = self.key_digest(&key.json);
            let is_same = |row: &appliance_ledger::rows::keys::ClaimedKeyRow| {
                row.key_id == key.key_id && row.digest == digest
            };
            if !claimed.iter().any(|(_, row)| is_same(row)) {
                new.push(key);
            }
        }
        Ok(new)
    }

    pub(super) fn key_digest(&self, json: &str) -> Digest {
        self.house.ledger.digest(&[b"one-time key", json.as_bytes()])
    }
}

fn checked_device_keys(caller: &Caller, raw: &Raw<DeviceKeys>) -> Result<Signed, Error> {
    let signed = Signed::parse(raw.json().get(), DEVICE_KEYS_BYTES_MAX)?;
    let mut object: CanonicalJsonObject = canonical(raw.json().get())?;
    // A device without a signature is its own loss: others will not trust it.
    let unsigned = CanonicalJsonValue::Object(CanonicalJsonObject::new());
    object.entry("signatures".to_owned()).or_insert(unsigned);
    let keys: DeviceKeys = canonical(&CanonicalJsonValue::Object(object).to_string())?;
    // "Must match the user ID used when logging in", "Must match the device ID used when logging
    // in" (device keys).
    if keys.user_id != caller.user_id || keys.device_id != caller.device_id {
        return Err(Error::invalid_param("Device keys must name the device that uploads them."));
    }
    Ok(signed)
}

fn checked_keys(keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>) -> Result<Vec<NewKey>, Error> {
    let mut checked = Vec::with_capacity(keys.len());
    for (key_id, raw) in keys {
        if key_id.as_str().len() > KEY_ID_BYTES_MAX
            || raw.json().get().len() > ONE_TIME_KEY_BYTES_MAX
        {
            return Err(Error::too_large("A one-time key or its ID is too long."));
        }
        let json: CanonicalJsonValue = canonical(raw.json().get())?;
        let has_form = match &json {
            CanonicalJsonValue::String(_) => true,
            CanonicalJsonValue::Object(object) => is_signed_key(object),
            _ => false,
        };
        if !has_form {
            return Err(Error::bad_json("A one-time key must be a key or a signed key object."));
        }
        checked.push(NewKey {
            algorithm: key_id.algorithm().to_string(),
            key_id: key_id.to_string(),
            json: json.to_string(),
        });
    }
    Ok(checked)
}

/// "key: required … signatures: required" (key algorithms, signed_curve25519).
fn is_signed_key(object: &CanonicalJsonObject) -> bool {
    matches!(object.get("key"), Some(CanonicalJsonValue::String(_)))
        && matches!(object.get("signatures"), Some(CanonicalJsonValue::Object(_)))
}

/// Adds keys to the stock, after those that are there: "One-time keys are given out in the order
/// that they were uploaded" (keys/claim).
fn store_keys(
    device: DeviceNid,
    keys: Vec<NewKey>,
    stock: &mut StockRow,
    commit: &mut Commit,
) -> Result<(), Error> {
    for NewKey { algorithm, key_id, json } in keys {
        let index = match algorithm_index(stock, &algorithm) {
            Some(index) => index,
            None => add_algorithm(stock, algorithm)?,
        };
        let one = &mut stock.algorithms[usize::from(index)];
        if one.count >= ONE_TIME_KEYS_MAX {
            return Err(Error::too_large("There are too many unclaimed one-time keys."));
        }
        commit.put(&ONE_TIME_KEY_IDS, &(device, key_id.clone()), &one.next);
        let row = OneTimeKeyRow { key_id, json };
        commit.put(&ONE_TIME_KEYS, &(device, index, one.next), &row);
        one.count += 1;
        one.next += 1;
    }
    Ok(())
}

pub(super) fn algorithm_index(stock: &StockRow, algorithm: &str) -> Option<u8> {
    let index = stock.algorithms.iter().position(|one| one.algorithm == algorithm)?;
    u8::try_from(index).ok()
}

fn add_algorithm(stock: &mut StockRow, algorithm: String) -> Result<u8, Error> {
    let index = stock.algorithms.len();
    if index >= ALGORITHMS_MAX {
        return Err(Error::too_large("There are one-time keys of too many algorithms."));
    }
    stock.algorithms.push(AlgorithmStock { algorithm, count: 0, next: 0 });
    u8::try_from(index).map_err(Error::internal)
}

/// "The server will only persist one key per algorithm" (keys/upload).
fn replace_fallbacks(keys: Vec<NewKey>, stock: &mut StockRow) -> Result<(), Error> {
    for NewKey { algorithm, key_id, json } in keys {
        let is_same = |old: &FallbackRow| {
            old.algorithm == algorithm && old.key_id == key_id && old.json == json
        };
        // The same key again is as used as it was.
        if stock.fallbacks.iter().any(is_same) {
            continue;
        }
        stock.fallbacks.retain(|old| old.algorithm != algorithm);
        if stock.fallbacks.len() >= ALGORITHMS_MAX {
            return Err(Error::too_large("There are fallback keys of too many algorithms."));
        }
        stock.fallbacks.push(FallbackRow { algorithm, key_id, json, used: false });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use serde_json::{Value, json};

    use crate::keys::scene::{
        all_of, device_keys, one_time_key, one_time_keys, sign_out, upload, value,
    };
    use crate::scenario::Ward;

    #[tokio::test]
    async fn keys_are_counted_and_the_same_again_changes_nothing() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let keys = &ward.services.keys;
        let nothing = keys.upload(&nurse, &upload(json!({}))).await.unwrap();
        assert_eq!(json!(nothing), json!({ "signed_curve25519": 0 }), "zero is said");

        let body = json!({
            "device_keys": device_keys(&nurse, "1"),
            "one_time_keys": one_time_keys(&["a", "b"]),
            "fallback_keys": { "signed_curve25519:f": one_time_key("f") },
        });
        let counts = keys.upload(&nurse, &upload(body.clone())).await.unwrap();
        assert_eq!(json!(counts), json!({ "signed_curve25519": 2 }));
        let position = ward.services.house.ledger.position();

        let again = keys.upload(&nurse, &upload(body)).await.unwrap();
        assert_eq!(again, counts);
        assert_eq!(ward.services.house.ledger.position(), position, "nothing was written");
        let (counts, unused) = keys.counts(nurse.device).await.unwrap();
        assert_eq!(json!(counts), json!({ "signed_curve25519": 2 }));
        assert_eq!(unused, ["signed_curve25519"]);

        let ward = ward.power_cut_and_restart().await;
        let found = ward.services.keys.query(&nurse, all_of(&nurse)).await.unwrap();
        let mut expected = device_keys(&nurse, "1");
        expected["unsigned"] = json!({});
        let found = value(&found.device_keys[&nurse.user_id][nurse.device_id.as_str()]);
        assert_eq!(found, expected, "what was acknowledged is still there");
        assert_eq!(ward.services.keys.counts(nurse.device).await.unwrap().0, counts);
    }

    #[tokio::test]
    async fn another_key_under_a_known_id_is_refused_and_nothing_of_the_upload_stays() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let keys = &ward.services.keys;
        let first = json!({ "one_time_keys": one_time_keys(&["a"]) });
        keys.upload(&nurse, &upload(first)).await.unwrap();

        let changed = json!({ "one_time_keys": {
            "signed_curve25519:a": one_time_key("changed"),
            "signed_curve25519:b": one_time_key("b"),
        } });
        let refused = keys.upload(&nurse, &upload(changed)).await.unwrap_err();
        assert_eq!(refused.kind, Kind::InvalidParam);
        assert_eq!(keys.counts(nurse.device).await.unwrap().0["signed_curve25519"], 1);
    }

    #[tokio::test]
    async fn keys_of_another_device_and_keys_without_form_are_refused() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let bad_device = |change: fn(&mut Value)| {
            let mut keys = device_keys(&nurse, "1");
            change(&mut keys);
            json!({ "device_keys": keys })
        };
        let large = "x".repeat(3_000);
        let cases = [
            (json!({ "device_keys": device_keys(&doctor, "1") }), Kind::InvalidParam),
            (bad_device(|keys| keys["device_id"] = "OTHER".into()), Kind::InvalidParam),
            (bad_device(|keys| keys["keys"] = "none".into()), Kind::BadJson),
            (bad_device(|keys| keys["algorithms"] = json!({})), Kind::BadJson),
            (bad_device(|keys| keys["extra"] = json!(1.5)), Kind::BadJson),
            (bad_device(|keys| keys["extra"] = "x".repeat(20_000).into()), Kind::TooLarge),
            (json!({ "one_time_keys": { "signed_curve25519:a": 7 } }), Kind::BadJson),
            (json!({ "one_time_keys": { "signed_curve25519:a": { "key": "k" } } }), Kind::BadJson),
            (json!({ "one_time_keys": { "signed_curve25519:a": large } }), Kind::TooLarge),
            (json!({ "fallback_keys": { "signed_curve25519:a": [] } }), Kind::BadJson),
        ];
        for (body, kind) in cases {
            let refused = ward.services.keys.upload(&nurse, &upload(body.clone())).await;
            assert_eq!(refused.unwrap_err().kind, kind, "{body}");
        }
        let found = ward.services.keys.query(&nurse, all_of(&nurse)).await.unwrap();
        assert!(found.device_keys[&nurse.user_id].is_empty());
    }

    #[tokio::test]
    async fn the_stock_has_a_limit() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let keys = &ward.services.keys;
        let ids: Vec<_> = (0..=super::ONE_TIME_KEYS_MAX).map(|id| id.to_string()).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        let too_many = upload(json!({ "one_time_keys": one_time_keys(&ids) }));
        assert_eq!(keys.upload(&nurse, &too_many).await.unwrap_err().kind, Kind::TooLarge);
        let algorithms: serde_json::Map<_, _> =
            (0..9).map(|one| (format!("algorithm{one}:a"), "key".into())).collect();
        let too_many = upload(json!({ "one_time_keys": algorithms }));
        assert_eq!(keys.upload(&nurse, &too_many).await.unwrap_err().kind, Kind::TooLarge);
        assert_eq!(keys.counts(nurse.device).await.unwrap().0["signed_curve25519"], 0);
    }

    #[tokio::test]
    async fn a_device_that_was_signed_out_meanwhile_publishes_nothing() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        sign_out(&ward, &nurse).await;
        let body = json!({ "device_keys": device_keys(&nurse, "1") });
        let refused = ward.services.keys.upload(&nurse, &upload(body)).await.unwrap_err();
        assert_eq!(refused.kind, Kind::UnknownToken { soft_logout: false });
    }

    #[tokio::test]
    async fn changed_identity_keys_are_news_and_the_same_are_none() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let (keys, ledger) = (&ward.services.keys, &ward.services.house.ledger);
        for (salt, is_news) in [("1", true), ("1", false), ("2", true)] {
            let before = ledger.position();
            let body = json!({ "device_keys": device_keys(&nurse, salt) });
            keys.upload(&nurse, &upload(body)).await.unwrap();
            let changes = keys.device_list_changes(before, ledger.position()).await.unwrap();
            assert_eq!(!changes.is_empty(), is_news);
        }
    }
}
