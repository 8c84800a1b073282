//! `POST /keys/signatures/upload` ([spec]): a person signs their own devices, or others whom they
//! have met.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload

use std::collections::BTreeMap;

use appliance_ledger::keyspaces::{CROSS_SIGNING, DEVICE_KEYS, DEVICES, TRUST, TRUST_CHANGES};
use appliance_ledger::rows::keys::{CrossSigningRow, DeviceKeysRow, SignatureRow, TrustRow};
use appliance_ledger::{Commit, Direction};
use appliance_model::ruma::OwnedUserId;
use appliance_model::{Caller, DeviceNid, Error, Position, UserNid};
use appliance_rules::Permit;

use super::query::{MASTER, SELF_SIGNING, USER_SIGNING};
use super::signed::{Signed, canonical, is_signed, merge_signatures, not_signed};
use super::signing_keys::find;
use super::{KeyNews, Keys, RawJson};

/// Keys signed in one request: everyone in a large ward.
const KEYS_SIGNED_MAX: usize = 1_000;
/// A signed key as it comes in.
const SIGNED_KEY_BYTES_MAX: usize = 16 * 1024;
/// Devices that have vouched for one master key.
const MASTER_SIGNATURES_MAX: usize = 200;
/// Changes of trust per page.
const PAGE: usize = 1_000;

/// Users, key IDs and signed keys.
pub type SignedKeys = BTreeMap<OwnedUserId, BTreeMap<String, RawJson>>;
/// What could not be taken, and why.
pub type Failures = BTreeMap<OwnedUserId, BTreeMap<String, Error>>;

/// What one request changes.
struct Changes {
    commit: Commit,
    own_keys: KeyNews,
    trust: bool,
}

impl Keys {
    /// Takes signatures of the caller's own devices and master key, and of others' master keys.
    /// Each stands for itself: what cannot be taken is returned with its reason. Everyone sees the
    /// first kind, only the caller the second.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::TooLarge`] for more than 1,000 keys at once.
    pub async fn add_signatures(
        &self,
        caller: &Caller,
        signed_keys: SignedKeys,
    ) -> Result<Failures, Error> {
        if signed_keys.values().map(BTreeMap::len).sum::<usize>() > KEYS_SIGNED_MAX {
            return Err(Error::too_large("These are too many keys for one request."));
        }
        let staying = self.stay().await;
        self.check_still_signed_in(caller).await?;
        let door = self.doors.enter(caller.user.0).await;
        let permit = Permit::own("signatures.published", &caller.user_id, &caller.device_id);
        let mut commit = self.house.ledger.begin(permit);
        commit.hold((door, staying));
        let mut changes = Changes { commit, own_keys: KeyNews::default(), trust: false };
        let mut own_master = None;
        let known = self.signing_keys(caller.user).await?;
        let mut failures = Failures::new();
        for (user_id, keys) in signed_keys {
            for (key_id, json) in keys {
                let signed = Signed::parse(json.get(), SIGNED_KEY_BYTES_MAX);
                let taken = match signed {
                    Err(error) => Err(error),
                    Ok(signed) if user_id == caller.user_id => {
                        let master = find(&known, MASTER).filter(|row| row.public_key == key_id);
                        match master {
                            Some(row) => {
                                let row = own_master.get_or_insert_with(|| row.clone());
                                self.sign_own_master(caller, row, &signed, &mut changes).await
                            }
                            None => {
                                self.sign_device(caller, &known, &key_id, &signed, &mut changes)
                                    .await
                            }
                        }
                    }
                    Ok(signed) => {
                        let target = (&user_id, key_id.as_str());
                        self.sign_other(caller, &known, target, &signed, &mut changes).await
                    }
                };
                if let Err(error) = taken {
                    failures.entry(user_id.clone()).or_default().insert(key_id, error);
                }
            }
        }
        let Changes { mut commit, own_keys, trust } = changes;
        let is_own = own_keys != KeyNews::default();
        if is_own {
            self.device_list_changed(caller.user, own_keys, &mut commit).await?;
        }
        if trust {
            commit.touched().users.push(caller.user);
        }
        if is_own || trust {
            self.house.ledger.commit(commit).await?;
        }
        Ok(failures)
    }

    /// A device of the caller's, signed by the self-signing key.
    async fn sign_device(
        &self,
        caller: &Caller,
        known: &[(u8, CrossSigningRow)],
        device_id: &str,
        signed: &Signed,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let (place, mut row) = self
            .keys_of_device(caller.user, device_id)
            .await?
            .ok_or_else(|| Error::not_found("There is no such key."))?;
        let signature = vouched_for(caller, find(known, SELF_SIGNING), &row.json, signed)?;
        if merge_signatures(&mut row.signatures, &[signature]) {
            changes.commit.put(&DEVICE_KEYS, &place, &row);
            changes.own_keys.devices.insert(device_id.to_owned());
        }
        Ok(())
    }

    /// The caller's master key, signed by devices of the caller's.
    async fn sign_own_master(
        &self,
        caller: &Caller,
        master: &mut CrossSigningRow,
        signed: &Signed,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        check_same(&master.json, signed)?;
        let own = signed.signatures.iter().filter(|row| row.signer == caller.user_id.as_str());
        let mut checked = Vec::new();
        for signature in own {
            let device_id = signature.key_id.strip_prefix("ed25519:").unwrap_or_default();
            let device = self.keys_of_device(caller.user, device_id).await?;
            let public_key = device.and_then(|(_, row)| ed25519_key(&row));
            let holds = |key: String| is_signed(&master.json, &key, &signature.signature);
            if !public_key.is_some_and(holds) {
                return Err(not_signed("The signature is not by one of your devices."));
            }
            checked.push(signature.clone());
        }
        if checked.is_empty() {
            return Err(not_signed("There is no signature by one of your devices."));
        }
        if merge_signatures(&mut master.signatures, &checked) {
            if master.signatures.len() > MASTER_SIGNATURES_MAX {
                return Err(Error::too_large("This key has too many signatures."));
            }
            changes.commit.put(&CROSS_SIGNING, &(caller.user, MASTER), master);
            changes.own_keys.signing_keys = true;
        }
        Ok(())
    }

    /// Another user's master key, signed by the caller's user-signing key.
    async fn sign_other(
        &self,
        caller: &Caller,
        known: &[(u8, CrossSigningRow)],
        (user_id, key_id): (&OwnedUserId, &str),
        signed: &Signed,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let unknown = || Error::not_found("There is no such key.");
        let ledger = &self.house.ledger;
        let user = ledger.user(user_id).await?.ok_or_else(unknown)?;
        let master = ledger.get(&CROSS_SIGNING, &(user, MASTER)).await?.ok_or_else(unknown)?;
        if master.public_key != key_id {
            return Err(unknown());
        }
        let signature = vouched_for(caller, find(known, USER_SIGNING), &master.json, signed)?;
        let place = (caller.user, user);
        let old = ledger.get(&TRUST, &place).await?;
        let is_same =
            |old: &TrustRow| old.public_key == master.public_key && old.signature == signature;
        if old.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        if let Some(old) = old {
            changes.commit.delete(&TRUST_CHANGES, &(caller.user, Position(old.position)));
        }
        let (signer, public_key) = (caller.user, master.public_key);
        changes.commit.stamp(move |position, rows| {
            rows.put(&TRUST, &place, &TrustRow { public_key, signature, position: position.0 });
            rows.put(&TRUST_CHANGES, &(signer, position), &user.0);
        });
        changes.trust = true;
        Ok(())
    }

    async fn keys_of_device(
        &self,
        user: UserNid,
        device_id: &str,
    ) -> Result<Option<((UserNid, DeviceNid), DeviceKeysRow)>, Error> {
        let ledger = &self.house.ledger;
        let Some(device) = ledger.get(&DEVICES, &(user, device_id.to_owned())).await? else {
            return Ok(None);
        };
        let place = (user, DeviceNid(device.device));
        Ok(ledger.get(&DEVICE_KEYS, &place).await?.map(|row| (place, row)))
    }

    /// Users whose master keys `signer` has signed after `after`, up to and including `upto`: the
    /// signer's other devices should ask for their keys again.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn signed_since(
        &self,
        signer: UserNid,
        after: Position,
        upto: Position,
    ) -> Result<Vec<UserNid>, Error> {
        let end = (signer, Position(upto.0.saturating_add(1)));
        let mut from = (signer, Position(after.0.saturating_add(1)));
        let mut users = Vec::new();
        loop {
            let view = self.house.ledger.newest();
            let range = (&from, &end);
            let (rows, more) =
                view.scan_between(&TRUST_CHANGES, range, Direction::Forward, PAGE).await?;
            users.extend(rows.iter().map(|(_, user)| UserNid(*user)));
            match rows.last() {
                Some(((_, position), _)) if more => from.1 = Position(position.0 + 1),
                _ => return Ok(users),
            }
        }
    }
}

/// "The signed JSON object must match the key previously uploaded …, with the exception of the
/// `signatures` property".
fn check_same(json: &str, signed: &Signed) -> Result<(), Error> {
    if signed.json == json {
        return Ok(());
    }
    Err(not_signed("This is not the key that was published."))
}

/// The caller's signature by `by` on a key that is published as `json`.
fn vouched_for(
    caller: &Caller,
    by: Option<&CrossSigningRow>,
    json: &str,
    signed: &Signed,
) -> Result<SignatureRow, Error> {
    check_same(json, signed)?;
    let missing = || not_signed("There is no signature by your cross-signing key.");
    let by = by.ok_or_else(missing)?;
    let key_id = format!("ed25519:{}", by.public_key);
    let signature = signed.signature(caller.user_id.as_str(), &key_id).ok_or_else(missing)?;
    if !is_signed(json, &by.public_key, &signature.signature) {
        return Err(not_signed("The signature is wrong."));
    }
    Ok(signature.clone())
}

fn ed25519_key(row: &DeviceKeysRow) -> Option<String> {
    /// The stored form has no signatures.
    #[derive(serde::Deserialize)]
    struct Bare {
        keys: BTreeMap<String, String>,
    }
    let bare: Bare = canonical(&row.json).ok()?;
    bare.keys.get(&format!("ed25519:{}", row.device_id)).cloned()
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::user_id;
    use serde_json::{Value, json};

    use super::*;
    use crate::keys::scene::{Identity, Signer, all_of, device_keys, raw_json, upload, value};
    use crate::scenario::Ward;

    fn one(user_id: &OwnedUserId, key_id: &str, key: &Value) -> SignedKeys {
        [(user_id.clone(), [(key_id.to_owned(), raw_json(key))].into())].into()
    }

    /// A nurse and a doctor with identities; the nurse's device has a real key.
    async fn staff() -> (Ward, [Caller; 2], [Identity; 2], Signer, Value) {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let keys = &ward.services.keys;
        let (of_device, identities) = (Signer::new(100), [Identity::new(1), Identity::new(30)]);
        let mut device = device_keys(&nurse, "1");
        device["keys"][format!("ed25519:{}", nurse.device_id)] =
            of_device.public_key.clone().into();
        device["signatures"] = json!({});
        of_device.sign(&mut device, &nurse.user_id, nurse.device_id.as_str());
        let body = json!({ "device_keys": device });
        keys.upload(&nurse, &upload(body)).await.unwrap();
        for (caller, identity) in [&nurse, &doctor].into_iter().zip(&identities) {
            let request = identity.request(&caller.user_id);
            keys.publish_signing_keys(caller, &request, false).await.unwrap();
        }
        (ward, [nurse, doctor], identities, of_device, device)
    }

    #[tokio::test]
    async fn everyone_sees_that_a_device_is_signed_and_it_survives_an_upload() {
        let (ward, [nurse, doctor], [mine, _], of_device, device) = staff().await;
        let keys = &ward.services.keys;
        let before = ward.services.house.ledger.position();
        let mut signed = device.clone();
        let by = &mine.self_signing;
        by.sign(&mut signed, &nurse.user_id, &by.public_key);
        let [mut master, ..] = mine.published(&nurse.user_id);
        of_device.sign(&mut master, &nurse.user_id, nurse.device_id.as_str());
        let mut both = one(&nurse.user_id, nurse.device_id.as_str(), &signed);
        let of_nurse = both.get_mut(&nurse.user_id).unwrap();
        of_nurse.insert(mine.master.public_key.clone(), raw_json(&master));
        assert!(keys.add_signatures(&nurse, both.clone()).await.unwrap().is_empty());
        let after = ward.services.house.ledger.position();
        assert_eq!(keys.device_list_changes(before, after).await.unwrap(), [nurse.user]);
        assert!(keys.add_signatures(&nurse, both).await.unwrap().is_empty());
        assert_eq!(ward.services.house.ledger.position(), after, "the same again is no news");

        let body = json!({ "device_keys": device });
        keys.upload(&nurse, &upload(body)).await.unwrap();
        let ward = ward.power_cut_and_restart().await;
        let found = ward.services.keys.query(&doctor, all_of(&nurse)).await.unwrap();
        signed["unsigned"] = json!({});
        let shown = value(&found.device_keys[&nurse.user_id][nurse.device_id.as_str()]);
        assert_eq!(shown, signed);
        assert_eq!(value(&found.master_keys[&nurse.user_id]), master);
    }

    #[tokio::test]
    async fn whom_i_trust_only_i_see_and_my_other_devices_hear_of_it() {
        let (ward, [nurse, doctor], [mine, theirs], ..) = staff().await;
        let (keys, ledger) = (&ward.services.keys, &ward.services.house.ledger);
        let before = ledger.position();
        let [mut master, ..] = theirs.published(&doctor.user_id);
        let by = &mine.user_signing;
        by.sign(&mut master, &nurse.user_id, &by.public_key);
        let request = one(&doctor.user_id, &theirs.master.public_key, &master);
        assert!(keys.add_signatures(&nurse, request.clone()).await.unwrap().is_empty());

        let shown = keys.query(&nurse, all_of(&doctor)).await.unwrap();
        assert_eq!(value(&shown.master_keys[&doctor.user_id]), master);
        let others = keys.query(&doctor, all_of(&doctor)).await.unwrap();
        assert_eq!(value(&others.master_keys[&doctor.user_id])["signatures"], json!({}));
        let after = ledger.position();
        assert_eq!(keys.signed_since(nurse.user, before, after).await.unwrap(), [doctor.user]);
        assert!(keys.signed_since(nurse.user, after, after).await.unwrap().is_empty());
        assert!(keys.signed_since(doctor.user, before, after).await.unwrap().is_empty());
        assert!(keys.device_list_changes(before, after).await.unwrap().is_empty());
        keys.add_signatures(&nurse, request).await.unwrap();
        assert_eq!(ledger.position(), after, "the same again is no news");
    }

    #[tokio::test]
    async fn each_signature_stands_for_itself_and_wrong_ones_come_back_with_a_reason() {
        let (ward, [nurse, doctor], [mine, theirs], of_device, device) = staff().await;
        let keys = &ward.services.keys;
        let by = &mine.self_signing;
        let signed_device = |change: &dyn Fn(&mut Value)| {
            let mut key = device.clone();
            by.sign(&mut key, &nurse.user_id, &by.public_key);
            change(&mut key);
            one(&nurse.user_id, nurse.device_id.as_str(), &key)
        };
        let mut by_master = device.clone();
        mine.master.sign(&mut by_master, &nurse.user_id, &mine.master.public_key);
        let mut own_master = mine.published(&nurse.user_id)[0].clone();
        Signer::new(101).sign(&mut own_master, &nurse.user_id, nurse.device_id.as_str());
        let mut by_self_signing = theirs.published(&doctor.user_id)[0].clone();
        by.sign(&mut by_self_signing, &nurse.user_id, &by.public_key);
        let [_, their_self_signing, _] = theirs.published(&doctor.user_id);
        let own_id = mine.master.public_key.as_str();
        let cases = [
            (signed_device(&|key| key["algorithms"] = json!([])), Kind::InvalidSignature),
            (signed_device(&|key| key["signatures"] = json!({})), Kind::InvalidSignature),
            (signed_device(&|key| *key = json!([1])), Kind::BadJson),
            (one(&nurse.user_id, nurse.device_id.as_str(), &by_master), Kind::InvalidSignature),
            (one(&nurse.user_id, "NONE", &device), Kind::NotFound),
            (one(&nurse.user_id, own_id, &own_master), Kind::InvalidSignature),
            (one(&doctor.user_id, "NONE", &their_self_signing), Kind::NotFound),
            (
                one(&doctor.user_id, &theirs.master.public_key, &by_self_signing),
                Kind::InvalidSignature,
            ),
            (one(&user_id!("@lab:elsewhere.example").into(), "K", &device), Kind::NotFound),
        ];
        let before = ward.services.house.ledger.position();
        for (request, kind) in cases {
            let (user_id, of_user) = request.iter().next().unwrap();
            let key_id = of_user.keys().next().unwrap().clone();
            let failures = keys.add_signatures(&nurse, request.clone()).await.unwrap();
            assert_eq!(failures[user_id][&key_id].kind, kind, "{request:?}");
        }
        assert_eq!(ward.services.house.ledger.position(), before, "nothing was written");

        let mut mixed = signed_device(&|_| ());
        let of_nurse = mixed.get_mut(&nurse.user_id).unwrap();
        of_nurse.insert("NONE".to_owned(), raw_json(&device));
        let failures = keys.add_signatures(&nurse, mixed).await.unwrap();
        assert_eq!(failures[&nurse.user_id].keys().collect::<Vec<_>>(), ["NONE"]);
        let shown = keys.query(&doctor, all_of(&nurse)).await.unwrap();
        let shown = value(&shown.device_keys[&nurse.user_id][nurse.device_id.as_str()]);
        assert_eq!(shown["signatures"][nurse.user_id.as_str()].as_object().unwrap().len(), 2);
        drop(of_device);
    }
}
